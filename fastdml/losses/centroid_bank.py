"""Centroids of a whole data set, for losses that compare with more classes than a batch holds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fastdml.backends.dtypes import accumulator
from fastdml.engines.centroid import class_sums
from fastdml.errors import InputError
from fastdml.functional import check_labels, check_rows
from fastdml.losses.centroids import CentroidKind, Centroids, count_members


class _Batch(NamedTuple):
    """What a batch adds, in slots of one class each; there are B, and those not used add 0 to class 0."""

    classes: Tensor
    """[B], int64."""
    sums: Tensor
    """[B, D], float64."""
    counts: Tensor
    """[B], int64."""


class CentroidBank(nn.Module):
    """The centroids of all classes of a data set, refreshed once an epoch or step by step.

    Embeddings stream through :meth:`update`, which keeps float64 sums, never the embeddings. Without a
    momentum the centroids change at :meth:`refresh` only, to the means of all that came since the last one;
    a loss in training mode feeds the bank what it sees, so that one ``refresh`` after every epoch is all
    there is to do. With a momentum every update moves the centroids of its classes at once.
    Centroids are constants: no gradient flows into them. All is in the state_dict.

    With torch.distributed running, sums are added up over the ranks, so that all hold the same centroids;
    every rank must then call :meth:`refresh`, and with a momentum :meth:`update`, as often. Sums that await
    their refresh are each rank's own: save a state_dict after a refresh.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        centroids: how embeddings are averaged, a key of ``fastdml.losses.centroids.CENTROID_KINDS``.
        momentum: share of the old centroid that an update keeps, in [0, 1); None: refreshed by hand.
        max_age: epochs that a refreshed centroid may serve; an epoch is as many samples as this rank took in
            before the last refresh. ``math.inf`` for ever. Without meaning where there is a momentum.
        group: of torch.distributed; None is the default one.

    Raises:
        InputError: an argument that is not accepted.
    """

    centroids: Tensor
    known: Tensor

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
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if momentum is not None and not 0 <= momentum < 1:
            raise InputError(f"momentum must be in [0, 1) or None, got {momentum!r}")
        if not max_age > 0:
            raise InputError(f"max_age must be above 0, got {max_age!r}")
        self.num_classes, self.embedding_size = num_classes, embedding_size
        self.kind, self.kind_name = CentroidKind.named(centroids), centroids
        self.momentum, self.max_age, self.group = momentum, max_age, group
        self.register_buffer("centroids", torch.zeros(num_classes, embedding_size))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))
        # No buffers: DistributedDataParallel would overwrite them with those of the first rank.
        self._sums = torch.zeros(num_classes, embedding_size, dtype=torch.float64)
        self._counts = torch.zeros(num_classes, dtype=torch.int64)
        self._seen = self._epoch = self._used = 0
        self._served: Centroids | None = None

    @property
    def samples_served(self) -> int:
        """Samples of this rank that were compared with the centroids since their refresh."""
        return self._used

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
        batch = self._gathered(embeddings, labels, trusted)
        if self.momentum is None:
            self._take_in(batch, len(embeddings))
        else:
            self._move(batch, self.momentum)

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes the centroids the means of what came since the last refresh, and starts anew.

        A class of which nothing came keeps the centroid that it had.

        Raises:
            InputError: nothing came at all, on any rank; or there is a momentum.
        """
        if self.momentum is not None:
            raise InputError("momentum must be None where a bank is to be refreshed by hand")
        self._renew()

    @torch.no_grad()
    def fill(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Forgets everything, and takes the means of a pass over the data, such as before the first epoch."""
        self._reset_sums()
        self._set(torch.zeros_like(self.centroids), torch.zeros_like(self.known))
        for embeddings, labels in batches:
            self._take_in(self._gathered(embeddings, labels, None), len(embeddings))
        self._renew()

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
        """Tells that so many samples were compared with the centroids."""
        self._used += samples

    def check_fits(self, embeddings: Tensor, labels: Tensor) -> None:
        """Raises InputError unless a batch fits the bank."""
        self._checked(embeddings, labels)

    def _gathered(self, embeddings: Tensor, labels: Tensor, trusted: Tensor | None) -> _Batch:
        """The sums of a batch by class, without waiting for the device."""
        labels = self._checked(embeddings, labels)
        rows = embeddings.detach().to(accumulator(embeddings.dtype))
        counted = rows.isfinite().all(dim=1) & (labels >= 0) & (labels < self.num_classes)
        counted = counted if trusted is None else counted & trusted
        ordered, order = labels.sort(stable=True)
        slot_of_ordered = F.pad(ordered[1:] != ordered[:-1], (1, 0)).cumsum(0)[: len(labels)]
        slot = torch.empty_like(order).scatter(0, order, slot_of_ordered)
        member = torch.where(counted, slot, -1)
        classes = torch.zeros_like(labels).scatter(0, slot, labels.clamp(0, self.num_classes - 1))
        sums = class_sums(self.kind.averaged(rows), member, len(labels), torch.float64)
        return _Batch(classes, sums, count_members(member, len(labels)))

    def _take_in(self, batch: _Batch, samples: int) -> None:
        self._sums.index_add_(0, batch.classes, batch.sums)
        self._counts.index_add_(0, batch.classes, batch.counts)
        self._seen += samples

    def _renew(self) -> None:
        sums, counts = self._over_ranks(self._sums, self._counts)
        if not int(counts.sum()):
            raise InputError("the bank must be given embeddings by update() before refresh(), got none")
        fresh = self.kind.mean(sums, counts).to(self.centroids.dtype)
        self._set(torch.where((counts > 0)[:, None], fresh, self.centroids), self.known | (counts > 0))
        self._epoch, self._used = self._seen or int(counts.sum()), 0
        self._reset_sums()

    def _move(self, batch: _Batch, momentum: float) -> None:
        classes, sums, counts = batch
        if _is_distributed():  # the classes of all ranks
            classes = torch.arange(self.num_classes, device=sums.device)
            everything = torch.zeros_like(self._sums), torch.zeros_like(self._counts)
            sums, counts = self._over_ranks(
                everything[0].index_add_(0, batch.classes, batch.sums),
                everything[1].index_add_(0, batch.classes, batch.counts),
            )
        old = self.centroids[classes].double()
        kept = torch.where(self.known[classes], momentum, 0.0)[:, None].double()
        moved = kept * old + (1 - kept) * self.kind.mean(sums, counts)
        moved = F.normalize(moved, dim=1) if self.kind.unit else moved
        step = torch.where((counts > 0)[:, None], moved - old, 0)
        known = torch.zeros_like(self._counts).index_add_(0, classes, counts) > 0
        self._set(
            self.centroids.double().index_add_(0, classes, step).to(self.centroids.dtype), self.known | known
        )

    def _reset_sums(self) -> None:
        self._sums.zero_()
        self._counts.zero_()
        self._seen = 0

    def _checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_rows("embeddings", embeddings)
        labels = check_labels("labels", labels, "embeddings", embeddings)
        if embeddings.shape[1] != self.embedding_size:
            raise InputError(
                f"embeddings must have shape [B, {self.embedding_size}] as the bank, got "
                f"{list(embeddings.shape)}"
            )
        if embeddings.device != self.centroids.device:
            raise InputError(
                f"embeddings must be on {self.centroids.device} like the bank, got {embeddings.device}"
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

    @torch.inference_mode(False)
    @torch.no_grad()
    def _laid_out(self) -> Centroids:
        """A copy, for centroids may move between a forward and its backward."""
        classes = torch.arange(self.num_classes, device=self.known.device)
        place = torch.where(self.known, self.known.cumsum(0) - 1, -1)
        return Centroids(self.centroids[self.known], classes, place)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        # sums follow to another device, never to another dtype
        device = fn(torch.zeros(0, device=self._sums.device)).device
        self._sums, self._counts = self._sums.to(device), self._counts.to(device)
        self._served = None
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}sums"], destination[f"{prefix}counts"] = self._sums, self._counts
        destination[f"{prefix}clock"] = torch.tensor([self._seen, self._epoch, self._used])

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        wanted, given = self.centroids.shape, state_dict.get(f"{prefix}centroids")
        if given is not None and given.shape != wanted:
            raise InputError(
                f"state_dict must hold a bank of {list(wanted)} centroids, got {list(given.shape)}"
            )
        own = {name: state_dict.pop(f"{prefix}{name}", None) for name in ("sums", "counts", "clock")}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *args)
        missing_keys.extend(f"{prefix}{name}" for name, value in own.items() if value is None)
        self._served = None
        if not missing_keys:
            self._sums.copy_(own["sums"])
            self._counts.copy_(own["counts"])
            self._seen, self._epoch, self._used = own["clock"].tolist()

    def extra_repr(self) -> str:
        moving = "" if self.momentum is None else f", momentum={self.momentum}"
        age = "" if self.max_age == math.inf else f", max_age={self.max_age:g}"
        return f"{self.num_classes}, {self.embedding_size}, centroids={self.kind_name!r}{moving}{age}"


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
