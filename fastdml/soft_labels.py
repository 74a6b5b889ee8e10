"""Labels that are distributions over classes, kept as the few classes that hold the mass of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.errors import InputError

SUM_TOLERANCE, SUM_TOLERANCE_OF_HALVES = 1e-3, 1e-2
"""How far the shares of a sample may be from a sum of 1; float16 and bfloat16 round theirs."""


@dataclass(frozen=True)
class SoftLabels:
    """A distribution over classes for every sample, of which S classes are named.

    Attributes:
        classes: [N, S], int64; -1 where a sample has fewer than S classes. Those of a sample differ.
        shares: [N, S], floating; not negative, 0 where the class is -1, and 1 in sum for every sample.
        checked: whether values were found to be as said; made here, do not pass it.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, a negative share, or a sum that is not 1. The
            values are looked at once, when the object is made.
    """

    classes: Tensor
    shares: Tensor
    checked: bool = False

    def __post_init__(self) -> None:
        if self.checked:
            return
        if self.classes.ndim != 2 or self.classes.dtype != torch.int64:
            raise InputError(
                f"classes must be int64 [N, S], got {self.classes.dtype} {list(self.classes.shape)}"
            )
        if self.shares.shape != self.classes.shape or not self.shares.is_floating_point():
            raise InputError(
                f"shares must be floating {list(self.classes.shape)}, got {self.shares.dtype} "
                f"{list(self.shares.shape)}"
            )
        if self.shares.device != self.classes.device:
            raise InputError(
                f"shares must be on {self.classes.device} like classes, got {self.shares.device}"
            )
        check_distributions("shares", self.shares)
        object.__setattr__(self, "checked", True)

    @classmethod
    def of(cls, probabilities: Tensor, most: int | None = None) -> SoftLabels:
        """The ``most`` largest classes of each sample, scaled to a sum of 1, the largest first.

        Args:
            probabilities: [N, C], each row a distribution.
            most: S; None keeps all C.

        Raises:
            InputError: rows that are no distributions, or ``most`` below 1.
        """
        if probabilities.ndim != 2 or not probabilities.is_floating_point():
            raise InputError(
                f"probabilities must be floating [N, C], got {probabilities.dtype} "
                f"{list(probabilities.shape)}"
            )
        if most is not None and most < 1:
            raise InputError(f"most must be at least 1, got {most}")
        check_distributions("probabilities", probabilities)
        count = probabilities.shape[1]
        shares, classes = probabilities.detach().topk(count if most is None else min(most, count), dim=1)
        return cls(classes, shares / shares.sum(dim=1, keepdim=True), checked=True)

    @property
    def labels(self) -> Tensor:
        """[N], the class of the largest share of each sample."""
        return self.classes.gather(1, self.shares.argmax(dim=1, keepdim=True)).squeeze(1)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, rows: Tensor) -> SoftLabels:
        """Those of some samples, by index or mask."""
        return SoftLabels(self.classes[rows], self.shares[rows], checked=True)

    def to(self, device: torch.device | str) -> SoftLabels:
        """The same on a device."""
        return SoftLabels(self.classes.to(device), self.shares.to(device), checked=True)

    def dense(self, num_classes: int) -> Tensor:
        """[N, C] of the dtype of the shares."""
        known = self.classes >= 0
        columns = torch.where(known, self.classes, 0)
        shares = torch.where(known, self.shares, 0)
        return shares.new_zeros(len(self), num_classes).scatter_add(1, columns, shares)


def check_distributions(name: str, shares: Tensor) -> None:
    """Raises InputError unless rows [N, S] are not negative and 1 in sum.

    Reads one number back from the device.
    """
    if not shares.numel():
        return
    sums = shares.detach().sum(dim=1, dtype=torch.float64)
    tolerance = SUM_TOLERANCE_OF_HALVES if shares.dtype.itemsize == 2 else SUM_TOLERANCE
    bad = ~(((sums - 1).abs() <= tolerance) & (shares.detach() >= 0).all(dim=1))
    if bool(bad.any()):
        row = int(bad.to(torch.int8).argmax())
        raise InputError(
            f"{name} must be distributions, not negative and 1 in sum for every sample, got a sum of "
            f"{float(sums[row]):.6g} and a least share of {float(shares[row].min()):.6g} for sample {row}"
        )
