"""Lifted structure loss (Song et al., CVPR 2016, arXiv 1511.06452): its sums over the negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastdml.rules.generalized_lifted_structure import GeneralizedLiftedStructure


@dataclass(frozen=True)
class LiftedStructure(GeneralizedLiftedStructure):
    """The terms of the generalised form, where a pair that is listed twice counts twice.

    The loss itself joins the sums of both anchors of a positive pair: see
    :class:`fastdml.losses.LiftedStructureLoss`.
    """

    counts_duplicates: ClassVar[bool] = True
