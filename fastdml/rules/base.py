"""What the pair engine asks of a loss: what a pair adds to its anchor's sums, and what the sums are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from fastdml.rules.closeness import Closeness

if TYPE_CHECKING:
    from fastdml.triton_kernels.rules import PairTermsKernels

Reduced = Literal["element", "pos_pair", "neg_pair", "triplet", "already_reduced"]


class PairStatistics(NamedTuple):
    """What the engine gathers of every anchor, each [N], in the order of the input.

    Sums run over the kept pairs, in float32 (float64 for float64 embeddings). Gradients flow through
    ``negative_sum``, ``positive_sum`` and ``positive_second``; the others are constants.
    """

    negative_sum: Tensor
    negative_second: Tensor
    positive_sum: Tensor
    positive_second: Tensor
    most_negative: Tensor
    """Closeness of the closest negative, kept or not; -inf where there is none."""
    least_positive: Tensor
    """Closeness of the least close positive, kept or not; inf where there is none."""
    positives: Tensor
    """Number of kept positives."""
    negatives: Tensor
    """Number of kept negatives."""
    negative_row: Tensor
    """The number of each anchor that the terms of its negatives were given."""
    positive_row: Tensor
    """The number of each anchor that the terms of its positives were given."""


class Extremes(NamedTuple):
    """Closeness of an anchor's outermost pairs, each [N] or broadcastable; infinite without a pair."""

    least_positive: Tensor
    most_positive: Tensor | None
    """None on the native backends, which do not gather it."""
    most_negative: Tensor | None
    """None before the sweep over the negatives."""


@dataclass(frozen=True)
class RowLosses:
    """The losses of one kind, gathered by anchor, as a reducer takes them.

    For kind "element" an anchor has one loss, ``total``, and ``count`` is None where all count, else [N], 1
    or 0. For pairs and triplets
    ``total`` [N] sums the losses of an anchor that the reducer counts, ``count`` [N] tells how many those
    are. Kind "already_reduced" is one number, which no reducer changes.
    """

    total: Tensor
    count: Tensor | None = None
    kind: Reduced = "element"
    divisor: Tensor | None = None
    """What a divisor reducer divides by, a scalar; None where the loss has none."""


class PairTerms(ABC):
    """What one pair adds to the sums of its anchor, and its derivative: the fused part of a loss.

    Stated in PyTorch here; the twins in Triton (``triton_kernels/rules/<name>.py``) and C++
    (``csrc/rules/<name>.h``) bear the same name and read the same constants. ``c`` is the closeness of pairs,
    of any shape; ``row`` one number of each anchor, broadcast against it. Terms must be finite over the
    bounds of the closeness, or be declared ``unsupported`` there. A subclass is a frozen dataclass of floats.
    """

    name: ClassVar[str]
    native: ClassVar[tuple[str, ...]] = ()
    """The native backends that have a twin of these terms; :func:`register` adds "triton"."""
    reads_least: ClassVar[bool] = False
    """Whether ``positive_row`` reads the least close positive, which takes a sweep over the positives."""

    def constants(self) -> list[float]:
        """The numbers that the kernels read: the fields in their order."""
        return [float(getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]

    @classmethod
    def from_constants(cls, constants: Sequence[float]) -> Self:
        """The inverse of ``constants``."""
        return cls(*constants)

    @abstractmethod
    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """What a negative adds to ``negative_sum`` and to ``negative_second``, of which no gradient flows."""

    @abstractmethod
    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        """Derivative of the first term by ``c``."""

    @abstractmethod
    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """What a positive adds to ``positive_sum`` and to ``positive_second``."""

    @abstractmethod
    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of both terms by ``c``."""

    def negative_row(self, row: Tensor, extremes: Extremes) -> Tensor:
        """The ``row`` of the negatives. Native backends use ``row``: else be ``unsupported`` there."""
        del extremes
        return row

    def positive_row(
        self, row: Tensor, extremes: Extremes, negative_sum: Tensor, negative_row: Tensor
    ) -> Tensor:
        """The ``row`` of the positives. A constant: no gradient flows through it."""
        del extremes, negative_sum, negative_row
        return row

    def unsupported(self, backend: str, dtype: torch.dtype) -> str | None:
        """Why the native ``backend`` cannot compute these terms for ``dtype``, or None where it can."""
        del backend, dtype
        return None


class PairRule(ABC):
    """A pair loss: its terms, and the loss of every anchor from its sums, in plain PyTorch.

    The row handed to the terms of negatives, and by default of positives, is ``row`` of
    :func:`fastdml.engines.pair.pair_statistics`, such as a learnable margin of the anchor's class, or 0.
    """

    counts_duplicates: ClassVar[bool] = False
    """Whether a pair that an index tuple lists twice counts twice, as in losses that are sums over pairs."""

    @abstractmethod
    def terms(self, closeness: Closeness) -> PairTerms:
        """The terms on this closeness: margins are turned to its scale, exponents shifted into range."""

    @abstractmethod
    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        """The losses, by the name that a reducer of several knows them by ("loss" where there is one)."""

    def unsupported(self, closeness: Closeness, backend: str, dtype: torch.dtype) -> str | None:
        """Why ``backend`` cannot compute this rule, or None where it can."""
        if backend in ("reference", "blocked"):
            return None
        if not closeness.normalised and (closeness.kind != "inner" or backend == "triton"):
            return f"{closeness.kind} closeness of rows that are not normalised has no {backend} kernels"
        terms = self.terms(closeness)
        if backend not in terms.native:
            return f"the terms {terms.name!r} have no {backend} kernels"
        return terms.unsupported(backend, dtype)


PAIR_TERMS: dict[str, type[PairTerms]] = {}
"""The terms by name, from which the operators make them again."""


def register(terms: type[PairTerms], *, triton: PairTermsKernels | None = None) -> type[PairTerms]:
    """Makes terms known to the operators by their name; a decorator.

    Args:
        terms: the class. To register it again does no harm.
        triton: its twin in Triton, a :class:`fastdml.triton_kernels.rules.PairTermsKernels`; may be given
            later. Terms without one run in blocks of plain PyTorch.

    Raises:
        ValueError: other terms, or other kernels, bear the name.
    """
    known = PAIR_TERMS.get(terms.name)
    if known is not None and (known.__module__, known.__qualname__) != (terms.__module__, terms.__qualname__):
        raise ValueError(f"name must be new, got {terms.name!r}, which {known.__qualname__} bears")
    PAIR_TERMS[terms.name] = terms
    if "native" not in vars(terms):
        terms.native = ()  # kernels of a parent know nothing of what a subclass changes
    if triton is not None:
        from fastdml.triton_kernels import rules  # needs triton, which is optional

        rules.register(terms.name, triton)
        terms.native = tuple(dict.fromkeys((*terms.native, "triton")))
    return terms


def terms_named(name: str, constants: Sequence[float]) -> PairTerms:
    """The registered terms of that name with these constants."""
    if name not in PAIR_TERMS:
        raise ValueError(f"terms must be registered, got {name!r}; known: {', '.join(sorted(PAIR_TERMS))}")
    return PAIR_TERMS[name].from_constants(constants)


def element(total: Tensor) -> dict[str, RowLosses]:
    """One loss an anchor."""
    return {"loss": RowLosses(total)}


def zero_unless(condition: Tensor, losses: Tensor) -> Tensor:
    """The losses, or zeros of no gradient where the condition (a scalar or [N]) is false."""
    return torch.where(condition, losses, torch.zeros_like(losses))
