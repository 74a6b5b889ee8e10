"""Labels that are distributions over classes, kept as the few classes that hold the mass of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.errors import InputError

SUM_TOLERANCE, SUM_TOLERANCE_OF_HALVES = 1e-3, 1e-2
"""How far the shares of a sample may be from a sum of 1; float16 and bfloat16 round theirs."""


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """A distribution over classes for every sample, of which S classes are named.

    Constants: no gradient flows into them.

    Attributes:
        classes: [N, S], int64, at least 0; -1 where a sample has fewer than S classes. Those of a sample
            differ.
        shares: [N, S], floating; not negative, 0 where the class is -1, and 1 in sum for every sample.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, classes below -1, a negative share, one of
            class -1, or a sum that is not 1. The values are looked at once, when the object is made.
    """

    classes: Tensor
    shares: Tensor

    def __post_init__(self) -> None:
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
        object.__setattr__(self, "shares", self.shares.detach())
        check_distributions("shares", self.shares)
        if bool((self.classes < -1).any()):
            raise InputError(f"classes must be at least 0, or -1 for none, got {int(self.classes.min())}")
        if bool(((self.classes < 0) & (self.shares != 0)).any()):
            raise InputError("shares must be 0 where the class is -1")

    @classmethod
    def of(cls, probabilities: Tensor, most: int | None = None) -> SoftLabels:
        """The ``most`` largest classes of each sample, scaled to a sum of 1, the largest first.

        What a loss does with soft labels grows with S: a few classes hold nearly all of the mass of most
        predictions.

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
        return largest_shares(probabilities, most)

    @property
    def labels(self) -> Tensor:
        """[N], the class of the largest share of each sample."""
        return self.classes.gather(1, self.shares.argmax(dim=1, keepdim=True)).squeeze(1)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, rows: Tensor | slice) -> SoftLabels:
        """Those of some samples, by a tensor of indices, a mask or a slice."""
        classes = self.classes[rows]
        if classes.ndim != 2:
            raise InputError(f"rows must be indices [M], a mask or a slice, got {rows!r}")
        return _made(classes, self.shares[rows])

    def to(self, device: torch.device | str) -> SoftLabels:
        """The same on a device."""
        return _made(self.classes.to(device), self.shares.to(device))

    def dense(self, num_classes: int) -> Tensor:
        """[N, C] of the dtype of the shares."""
        known = self.classes >= 0
        columns = torch.where(known, self.classes, 0)
        shares = torch.where(known, self.shares, 0)
        return shares.new_zeros(len(self), num_classes).scatter_add(1, columns, shares)


def largest_shares(probabilities: Tensor, most: int | None = None) -> SoftLabels:
    """:meth:`SoftLabels.of` for probabilities that were found to be distributions."""
    count = probabilities.shape[1]
    shares, classes = probabilities.detach().topk(count if most is None else min(most, count), dim=1)
    return _made(classes, shares / shares.sum(dim=1, keepdim=True))


def _made(classes: Tensor, shares: Tensor) -> SoftLabels:
    """Soft labels of values that are known to fit: to look at them again would wait for the device."""
    made = object.__new__(SoftLabels)
    object.__setattr__(made, "classes", classes)
    object.__setattr__(made, "shares", shares)
    return made


def check_distributions(name: str, shares: Tensor) -> None:
    """Raises InputError unless rows [N, S] are not negative and 1 in sum.

    Reads one number back from the device.
    """
    if not len(shares):
        return
    if not shares.shape[1]:
        raise InputError(f"{name} must name at least one class of each sample, got {list(shares.shape)}")
    sums = shares.detach().sum(dim=1, dtype=torch.float64)
    tolerance = SUM_TOLERANCE_OF_HALVES if shares.dtype.itemsize == 2 else SUM_TOLERANCE
    bad = ~(((sums - 1).abs() <= tolerance) & (shares.detach() >= 0).all(dim=1))
    if bool(bad.any()):
        row = int(bad.to(torch.int8).argmax())
        raise InputError(
            f"{name} must be distributions, not negative and 1 in sum for every sample, got a sum of "
            f"{float(sums[row]):.6g} and a least share of {float(shares[row].min()):.6g} for sample {row}"
        )
