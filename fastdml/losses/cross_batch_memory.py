"""Cross-batch memory (Wang et al., CVPR 2020, arXiv 1912.06798)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.losses.base import PairLoss
from fastdml.losses.listed import ListedPairs, ListedTriplets, all_pairs, listed_tuple
from fastdml.losses.n_pairs import NPairsLoss


class CrossBatchMemory(nn.Module):
    """Compares every batch with the embeddings of the last ones, kept in a ring on the device.

    The batch enters the ring first and is then compared with all of it; an anchor is not compared with its
    own copy. Positions are counted on the host, so that nothing waits for the device. Wang et al., arXiv
    1912.06798; called like pytorch-metric-learning's, and saved whole in ``state_dict``, position included.

    Args:
        loss: a pair loss of :mod:`fastdml.losses`, but N-pairs.
        embedding_size: width D of the embeddings.
        memory_size: rows of the ring; a batch may have at most as many.
        miner: mines the batch against the ring.
    """

    embedding_memory: Tensor
    label_memory: Tensor

    def __init__(
        self, loss: nn.Module, embedding_size: int, memory_size: int = 1024, miner: nn.Module | None = None
    ) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss) or isinstance(loss, NPairsLoss):
            raise InputError(f"loss must be a pair loss that takes candidates, got {type(loss).__name__}")
        for name, value in (("embedding_size", embedding_size), ("memory_size", memory_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.loss, self.miner = loss, miner
        self.embedding_size, self.memory_size = embedding_size, memory_size
        self.register_buffer("embedding_memory", torch.zeros(memory_size, embedding_size))
        self.register_buffer("label_memory", torch.zeros(memory_size, dtype=torch.int64))
        self.queue_idx, self.has_been_filled = 0, False

    def reset_queue(self) -> None:
        """Empties the ring."""
        self.embedding_memory.zero_()
        self.label_memory.zero_()
        self.queue_idx, self.has_been_filled = 0, False

    def get_extra_state(self) -> dict[str, Any]:
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queue_idx, self.has_been_filled = int(state["queue_idx"]), bool(state["has_been_filled"])

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        """The loss of a batch against the ring.

        Args:
            embeddings: [N, D].
            labels: [N].
            indices_tuple: pairs or triplets of the batch with the ring, added to the mined ones, or to all.
            enqueue_mask: [N] bool: these rows enter the ring, the others are the anchors. None: all are both.

        Raises:
            InputError: an argument that does not fit.
        """
        if indices_tuple is not None and enqueue_mask is not None:
            raise InputError("indices_tuple must be None together with enqueue_mask")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_size:
            raise InputError(
                f"embeddings must have shape [N, {self.embedding_size}], got {list(embeddings.shape)}"
            )
        entering, entering_labels = embeddings, labels
        if enqueue_mask is not None:
            if enqueue_mask.dtype != torch.bool or enqueue_mask.shape != embeddings.shape[:1]:
                raise InputError(
                    f"enqueue_mask must be bool [{len(embeddings)}], "
                    f"got {enqueue_mask.dtype} {list(enqueue_mask.shape)}"
                )
            entering, entering_labels = embeddings[enqueue_mask], labels[enqueue_mask]
            embeddings, labels = embeddings[~enqueue_mask], labels[~enqueue_mask]
        places = self._enqueue(entering, entering_labels)
        filled = self.memory_size if self.has_been_filled else self.queue_idx
        memory, memory_labels = self.embedding_memory[:filled], self.label_memory[:filled]
        own = places if enqueue_mask is None else None
        pairs = None if self.miner is None else self.miner(embeddings, labels, memory, memory_labels)
        if indices_tuple is not None:
            pairs = self._joined(pairs, indices_tuple, labels, memory_labels, own)
        return self.loss(embeddings, labels, pairs, memory, memory_labels, own=own)

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Writes rows where the oldest ones stand, round the end if need be; where they went, int64."""
        count = len(embeddings)
        if count > self.memory_size:
            raise InputError(f"embeddings must be at most memory_size = {self.memory_size} rows, got {count}")
        self.embedding_memory = self.embedding_memory.to(embeddings.device, embeddings.dtype)
        self.label_memory = self.label_memory.to(labels.device)
        start = self.queue_idx
        until_end = min(count, self.memory_size - start)
        for ring, rows in ((self.embedding_memory, embeddings.detach()), (self.label_memory, labels)):
            ring[start : start + until_end] = rows[:until_end]
            ring[: count - until_end] = rows[until_end:]
        self.has_been_filled = self.has_been_filled or start + count >= self.memory_size
        self.queue_idx = (start + count) % self.memory_size
        return torch.arange(start, start + count, device=embeddings.device) % self.memory_size

    def _joined(
        self, pairs: Any, given: Any, labels: Tensor, memory_labels: Tensor, own: Tensor | None
    ) -> tuple[Tensor, ...]:
        sizes = len(labels), len(memory_labels), labels.device
        added = listed_tuple(given, *sizes)
        mined: ListedPairs | ListedTriplets
        mined = all_pairs(labels, memory_labels, own) if pairs is None else listed_tuple(pairs, *sizes)
        if isinstance(mined, ListedPairs):
            return tuple(torch.cat(both) for both in zip(mined, added.pairs(), strict=True))
        return tuple(torch.cat(both) for both in zip(mined, added.triplets(), strict=True))

    def extra_repr(self) -> str:
        return f"embedding_size={self.embedding_size}, memory_size={self.memory_size}"
