"""Centroids of a whole data set, for losses that compare with more classes than a batch holds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastdml.backends.dtypes import accumulator
from fastdml.engines.centroid import class_sums
from fastdml.errors import InputError
from fastdml.functional import check_labels, check_rows
from fastdml.losses.centroids import CentroidKind, Centroids, count_members


class CentroidBank(nn.Module):
    """The centroids of all classes of a data set, refreshed once an epoch or step by step.

    Embeddings stream through :meth:`update`, which keeps float64 sums, never the embeddings. Without a
    momentum the centroids change at :meth:`refresh` only, to the means of all that came since the last one;
    a loss in training mode feeds the bank what it sees, so that one ``refresh`` after every epoch is all
    there is to do. With a momentum every update moves the centroids of its classes at once.
    Centroids are constants: no gradient flows into them. All is in the state_dict. With torch.distributed
    running, sums are added up over the ranks, so that all of them hold the same centroids; every rank must
    then make the same calls.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        centroids: how embeddings are averaged, a key of ``fastdml.losses.centroids.CENTROID_KINDS``.
        momentum: share of the old centroid that an update keeps, in [0, 1); None: refreshed by hand.
        max_age: epochs that a refreshed centroid may serve; an epoch is as many samples as the last refresh
            was made of. ``math.inf`` for ever. Without meaning where there is a momentum.
        group: of torch.distributed; None is the default one.

    Raises:
        InputError: an argument that is not accepted.
    """

    sums: Tensor
    counts: Tensor
    centroids: Tensor
    known: Tensor
    clock: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        centroids: str = "unit_of_mean_of_units",
        momentum: float | None = None,
        max_age: float = 1.0,
        group: Any = None,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("embedding_size", embedding_size)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if momentum is not None and not 0 <= momentum < 1:
            raise InputError(f"momentum must be in [0, 1) or None, got {momentum!r}")
        if not max_age > 0:
            raise InputError(f"max_age must be above 0, got {max_age!r}")
        self.num_classes, self.embedding_size = num_classes, embedding_size
        self.kind, self.kind_name = CentroidKind.named(centroids), centroids
        self.momentum, self.max_age, self.group = momentum, max_age, group
        self.register_buffer("sums", torch.zeros(num_classes, embedding_size, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(num_classes, embedding_size))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("clock", torch.zeros(2, dtype=torch.int64))
        self._epoch, self._used = 0, 0  # the clock: samples of the last refresh, samples compared since
        self._served: Centroids | None = None

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor, trusted: Tensor | None = None) -> None:
        """Takes in a batch; rows that are not finite are left out.

        Args:
            embeddings: [B, D], of any floating dtype.
            labels: [B], of any integer dtype, in [0, C).
            trusted: [B], bool: the samples that count; None: all.

        Raises:
            InputError: an argument of the wrong shape, dtype, device or range. The range is looked at on CPUs
                only; elsewhere samples of other labels are left out.
        """
        labels = self._checked(embeddings, labels)
        rows = embeddings.detach().to(accumulator(embeddings.dtype))
        counted = rows.isfinite().all(dim=1)
        counted = counted if trusted is None else counted & trusted
        members = torch.where(counted, labels, -1)
        sums = class_sums(self.kind.averaged(rows), members, self.num_classes, torch.float64)
        counts = count_members(members, self.num_classes)
        if self.momentum is None:
            self.sums += sums
            self.counts += counts
            return
        sums, counts = self._over_ranks(sums, counts)
        fresh = self.kind.mean(sums, counts).to(self.centroids.dtype)
        kept = torch.where(self.known, self.momentum, 0.0)[:, None]
        moved = kept * self.centroids + (1 - kept) * fresh
        if self.kind.unit:
            moved = torch.nn.functional.normalize(moved, dim=1)
        self._set(torch.where((counts > 0)[:, None], moved, self.centroids), self.known | (counts > 0))

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes the centroids the means of what came since the last refresh, and starts anew.

        A class of which nothing came keeps the centroid that it had.

        Raises:
            InputError: nothing came at all, on any rank; or there is a momentum.
        """
        if self.momentum is not None:
            raise InputError("momentum must be None where a bank is to be refreshed by hand")
        sums, counts = self._over_ranks(self.sums, self.counts)
        samples = int(counts.sum())
        if not samples:
            raise InputError("the bank must be given embeddings by update() before refresh(), got none")
        fresh = self.kind.mean(sums, counts).to(self.centroids.dtype)
        self._set(torch.where((counts > 0)[:, None], fresh, self.centroids), self.known | (counts > 0))
        self.sums.zero_()
        self.counts.zero_()
        self._set_clock(samples, 0)

    @torch.no_grad()
    def fill(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Starts anew from embeddings and labels of a pass over the data, such as before the first epoch."""
        self.sums.zero_()
        self.counts.zero_()
        for embeddings, labels in batches:
            self.update(embeddings, labels)
        if self.momentum is None:
            self.refresh()

    def served(self) -> Centroids:
        """The centroids there are.

        Raises:
            InputError: there are none, or they are older than ``max_age`` epochs.
        """
        if self._served is None:
            self._served = self._laid_out()
        if not len(self._served.points):
            raise InputError(
                "bank must hold centroids before it serves: call its fill(), or update() and refresh()"
            )
        if self.momentum is None and self._used > self.max_age * self._epoch:
            raise InputError(
                f"bank must be refreshed every max_age={self.max_age:g} epochs, got one that has served "
                f"{self._used} samples since it was refreshed from {self._epoch}: call its refresh()"
            )
        return self._served

    def count_use(self, samples: int) -> None:
        """Tells that so many samples were compared with the centroids, on every rank."""
        if self.momentum is None:
            ranks = dist.get_world_size(self.group) if _is_distributed() else 1
            self._set_clock(self._epoch, self._used + samples * ranks)

    def check_fits(self, embeddings: Tensor, labels: Tensor) -> None:
        """Raises InputError unless a batch fits the bank."""
        self._checked(embeddings, labels)

    def _checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_rows("embeddings", embeddings)
        labels = check_labels("labels", labels, "embeddings", embeddings)
        if embeddings.shape[1] != self.embedding_size:
            raise InputError(
                f"embeddings must have shape [B, {self.embedding_size}] as the bank, got "
                f"{list(embeddings.shape)}"
            )
        if embeddings.device != self.sums.device:
            raise InputError(
                f"embeddings must be on {self.sums.device} like the bank, got {embeddings.device}"
            )
        if labels.is_cpu and labels.numel():
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= self.num_classes:
                raise InputError(
                    f"labels must be in [0, {self.num_classes}), the classes of the bank, got "
                    f"{least if least < 0 else most}"
                )
        return labels

    def _over_ranks(self, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        sums, counts = sums.clone(), counts.clone()
        if _is_distributed():
            dist.all_reduce(sums, group=self.group)
            dist.all_reduce(counts, group=self.group)
        return sums, counts

    def _set(self, centroids: Tensor, known: Tensor) -> None:
        self.centroids.copy_(centroids)
        self.known.copy_(known)
        self._served = None

    def _set_clock(self, epoch: int, used: int) -> None:
        self._epoch, self._used = epoch, used
        self.clock.copy_(torch.tensor([epoch, used]))

    def _laid_out(self) -> Centroids:
        classes = torch.arange(self.num_classes, device=self.known.device)
        place = torch.where(self.known, self.known.cumsum(0) - 1, -1)
        return Centroids(self.centroids[self.known], classes, place)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._served = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        wanted, given = self.centroids.shape, state_dict.get(f"{prefix}centroids")
        if given is not None and given.shape != wanted:
            raise InputError(
                f"state_dict must hold a bank of {list(wanted)} centroids, got {list(given.shape)}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._epoch, self._used = self.clock.tolist()
        self._served = None

    def extra_repr(self) -> str:
        moving = "" if self.momentum is None else f", momentum={self.momentum}"
        age = "" if self.max_age == math.inf else f", max_age={self.max_age:g}"
        return f"{self.num_classes}, {self.embedding_size}, centroids={self.kind_name!r}{moving}{age}"


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
