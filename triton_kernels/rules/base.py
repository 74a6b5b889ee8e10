"""What the pair kernels ask of a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class PairRuleKernels(NamedTuple):
    """A pair rule as device functions; the kernels take each as a compile-time argument.

    ``s`` are similarities, ``p`` the rule's constants (a tuple of float32), and everything else one number
    for every anchor. Where ``mines`` is false the kernels skip the sweep for the least positive, the maximum
    over the negatives and every comparison with a threshold of the negatives.
    """

    negative_threshold: Any
    """(least_positive, p): negatives above it are kept."""
    negative_term: Any
    """(s, p): what the kept negatives add to ``negative_sum``."""
    positive_threshold: Any
    """(most_negative, negative_sum, p): what ``positive_kept`` and ``positive_terms`` read."""
    is_positive: Any
    """(s, p): false for pairs that count as copies of the anchor."""
    positive_kept: Any
    """(s, positive_threshold, p)."""
    positive_terms: Any
    """(s, positive_threshold, p): what the kept positives add to the two positive sums."""
    finish: Any
    """(negative_threshold, positive_threshold, negative_sum, positive_sum, second_sum, negatives, positives,
    p): the loss, then the four rows that the weights read: negative threshold, positive threshold, negative
    scale, positive scale. ``negatives`` and ``positives`` count the candidates, kept or not."""
    negative_weight: Any
    """(s, p): weight of a kept negative, over its anchor's negative scale."""
    positive_weight: Any
    """(s, positive_threshold, p): weight of a kept positive, over its anchor's positive scale."""
    mines: Callable[[Sequence[float]], bool]
    """Whether these constants ask for mining."""
