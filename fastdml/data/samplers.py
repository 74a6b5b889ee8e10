"""Batches of P classes with K images each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

_MASK = (1 << 64) - 1


class ClassBalancedBatchSampler(Sampler[Tensor]):
    """Yields batches of `classes_per_batch` classes with `samples_per_class` images each.

    Classes go round: each is drawn once before any is drawn again, except for those left over when the number
    of classes is no multiple of `classes_per_batch` (other ones each round). Within a class, images are drawn
    without replacement in a batch.

    Every batch is a function of (seed, epoch, number of the batch) alone, so a run can be taken up anywhere
    without drawing what came before. An iterator goes on from the stored position; when an epoch is through,
    the position moves to the start of the next. The position counts batches handed out; with worker processes
    that fetch ahead, store your own count and take up with `set_epoch(epoch, start_batch)`.

    Args:
        labels: integer [N], the class of every image, in any order and with any values.
        classes_per_batch: P, at most the number of classes.
        samples_per_class: K, at most the size of the smallest class unless `replacement`.
        seed: a whole number, negative ones included.
        num_batches: batches an epoch; default N // (P * K), at least 1.
        replacement: let classes with fewer than K images repeat them, each as often as the others up to one.

    Raises:
        ValueError: `labels` is empty or not one-dimensional, a count is below 1, or P or K is more than there
            is.
        TypeError: `labels` is not an integer tensor.
    """

    def __init__(
        self,
        labels: Tensor,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int = 0,
        num_batches: int | None = None,
        replacement: bool = False,
    ) -> None:
        check_integers("labels", labels)
        counts = {"classes_per_batch": classes_per_batch, "samples_per_class": samples_per_class}
        for name, count in {**counts, "num_batches": 1 if num_batches is None else num_batches}.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        values, inverse, sizes = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
        if classes_per_batch > len(values):
            held = f"the {len(values)} classes of labels"
            raise ValueError(f"classes_per_batch must be at most {held}, got {classes_per_batch}")
        if samples_per_class > int(sizes.min()) and not replacement:
            held = f"{int(sizes.min())}, the size of the smallest class (label {int(values[sizes.argmin()])})"
            hint = "replacement=True repeats images instead"
            raise ValueError(f"samples_per_class must be at most {held}, got {samples_per_class}; {hint}")
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.seed = seed
        self.num_batches = max(1, len(labels) // self.batch_size) if num_batches is None else num_batches
        self.epoch = 0
        self.start_batch = 0
        self._members = torch.split(torch.argsort(inverse, stable=True), sizes.tolist())

    @property
    def batch_size(self) -> int:
        """P * K."""
        return self.classes_per_batch * self.samples_per_class

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        """Batches as `batch` gives them, from the stored position to the end of the epoch."""
        epoch = self.epoch
        while self.epoch == epoch and self.start_batch < self.num_batches:
            batch = self.batch(self.start_batch, epoch)
            self.start_batch += 1
            yield batch
        if self.epoch == epoch:
            self.set_epoch(epoch + 1)

    def batch(self, number: int, epoch: int = 0) -> Tensor:
        """Batch `number` (from 0) of `epoch`: image indices int64 [P * K], the K of a class side by side.

        Raises:
            ValueError: `number` is not in [0, num_batches).
        """
        if not 0 <= number < self.num_batches:
            raise ValueError(f"number must lie in [0, {self.num_batches}), got {number}")
        generator = generator_of(self.seed, epoch, 1, number)
        return torch.cat([self._draw(self._members[c], generator) for c in self._classes(number, epoch)])

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Move to batch `start_batch` of `epoch`; num_batches itself is allowed and means its end.

        Raises:
            ValueError: `epoch` is negative, or `start_batch` is not in [0, num_batches].
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= start_batch <= self.num_batches:
            raise ValueError(f"start_batch must lie in [0, {self.num_batches}], got {start_batch}")
        self.epoch = epoch
        self.start_batch = start_batch

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in; plain numbers."""
        return {**self._identity(), "epoch": self.epoch, "start_batch": self.start_batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was made.

        Raises:
            ValueError: the state was made by a sampler with other settings or another number of images.
            KeyError: an entry is missing.
        """
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise ValueError(f"{name} must be {mine} as in this sampler, got a state with {state[name]}")
        self.set_epoch(state["epoch"], state["start_batch"])

    def _classes(self, number: int, epoch: int) -> list[int]:
        """The P classes of batch `number`, as positions among the sorted labels."""
        per_round = len(self._members) // self.classes_per_batch
        generator = generator_of(self.seed, epoch, 0, number // per_round)
        order = torch.randperm(len(self._members), generator=generator)
        first = number % per_round * self.classes_per_batch
        return order[first : first + self.classes_per_batch].tolist()

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "classes_per_batch": self.classes_per_batch,
            "samples_per_class": self.samples_per_class,
            "num_batches": self.num_batches,
            "num_classes": len(self._members),
            "num_images": sum(len(members) for members in self._members),
        }

    def _draw(self, members: Tensor, generator: torch.Generator) -> Tensor:
        rounds = -(-self.samples_per_class // len(members))
        order = torch.cat([torch.randperm(len(members), generator=generator) for _ in range(rounds)])
        return members[order[: self.samples_per_class]]


def check_integers(name: str, column: Tensor) -> None:
    """Refuse what is not an integer tensor [N] with N at least 1."""
    if column.is_floating_point() or column.is_complex() or column.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got {column.dtype}")
    if column.dim() != 1 or column.numel() == 0:
        raise ValueError(f"{name} must have shape [N] with N at least 1, got {list(column.shape)}")


def generator_of(*parts: int) -> torch.Generator:
    """A generator whose seed depends on every part and on their order."""
    state = 0
    for part in parts:
        state = _scramble((state ^ part) & _MASK)
    return torch.Generator().manual_seed(state >> 1)


def _scramble(value: int) -> int:
    """Spread every bit of a 64-bit number over all others: two rounds of multiplying and folding."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    for _ in range(2):
        value = ((value ^ (value >> 32)) * 0xD6E8FEB86659FD93) & _MASK
    return value ^ (value >> 32)
