"""Wrong labels on purpose: the three kinds of label noise that person re-identification meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastdml.errors import InputError

NoiseKind = Literal["wrong-id", "no-id", "several-ids"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
"""A sample under another class; a sample of no class; a sample under its own and another class."""


@dataclass(frozen=True, eq=False)
class CorruptedLabels:
    """Labels of which some are wrong, and which they are.

    Attributes:
        labels: [M], int64, the labels as given to training.
        source: [M], int64, which of the original samples each is.
        is_noisy: [M], bool, whether the label is wrong.
        kind: one of `KINDS`.
        rate: share of the original samples that were chosen.
        seed: of the choice.
    """

    labels: Tensor
    source: Tensor
    is_noisy: Tensor
    kind: NoiseKind
    rate: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what was planted, and how often."""
        return {
            "kind": self.kind,
            "rate": self.rate,
            "seed": self.seed,
            "samples": len(self.labels),
            "noisy": int(self.is_noisy.sum()),
        }


def corrupt(
    labels: Tensor,
    kind: NoiseKind = "wrong-id",
    rate: float = 0.2,
    *,
    seed: int = 0,
    num_classes: int | None = None,
) -> CorruptedLabels:
    """Labels with planted noise of one of the kinds of Yuan et al., arXiv 1912.07863.

    round(rate N) samples are chosen, all different ones.

    - "wrong-id": they get another class, each of the others equally often.
    - "no-id": they show none of the classes and get any class, each equally often. Labels cannot take the
      class out of an image: `corrupt_split` replaces the images too.
    - "several-ids": each is there a second time under another class. The N samples come first, as they were,
      then the copies, of which alone the labels are wrong.

    Args:
        labels: [N], of an integer dtype.
        kind: one of `KINDS`.
        rate: share of the samples, from 0 to below 1.
        seed: the same seed gives the same result on every device. The global generators play no part.
        num_classes: C, where classes 0 to C - 1 can be given; None: those that occur in ``labels``.

    Returns:
        M = N samples, or N + round(rate N) of "several-ids", on the device of ``labels``.

    Raises:
        InputError: an unknown kind, a rate outside [0, 1), labels of another shape or dtype or outside
            [0, C), or fewer than two classes.
    """
    classes = _checked_classes(labels, kind, rate, num_classes)
    generator = torch.Generator().manual_seed(seed)
    given = labels.detach().cpu().to(torch.int64)
    count = round(rate * len(given))
    chosen = torch.randperm(len(given), generator=generator)[:count]
    source = torch.arange(len(given))
    if kind == "no-id":
        wrong = classes[torch.randint(len(classes), (count,), generator=generator)]
    else:
        own = torch.searchsorted(classes, given[chosen])
        # One of the C - 1 others: those from the own class on move up by one.
        other = torch.randint(len(classes) - 1, (count,), generator=generator)
        wrong = classes[other + (other >= own)]
    if kind == "several-ids":
        is_noisy = torch.arange(len(given) + count) >= len(given)
        result, source = torch.cat([given, wrong]), torch.cat([source, chosen])
    else:
        is_noisy = torch.zeros(len(given), dtype=torch.bool)
        is_noisy[chosen] = True
        result = given.index_copy(0, chosen, wrong)
    device = labels.device
    return CorruptedLabels(result.to(device), source.to(device), is_noisy.to(device), kind, rate, seed)


def _checked_classes(labels: Tensor, kind: str, rate: float, num_classes: int | None) -> Tensor:
    """The classes that can be given, int64 [C] in rising order."""
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not 0 <= rate < 1:
        raise InputError(f"rate must be from 0 to below 1, got {rate!r}")
    kinds_of_integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if labels.ndim != 1 or labels.dtype not in kinds_of_integers:
        raise InputError(f"labels must be integers [N], got {labels.dtype} {list(labels.shape)}")
    found = torch.unique(labels.detach().cpu().to(torch.int64))
    if num_classes is None:
        if len(found) < 2:
            raise InputError(f"labels must hold at least two classes, got {len(found)}")
        return found
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}")
    if len(found) and (int(found[0]) < 0 or int(found[-1]) >= num_classes):
        raise InputError(
            f"labels must lie in [0, {num_classes - 1}] for {num_classes} classes, got "
            f"[{int(found[0])}, {int(found[-1])}]"
        )
    return torch.arange(num_classes)
