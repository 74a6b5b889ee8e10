"""The hardest or easiest positive and negative of every anchor (arXiv 1703.07737, 1904.04370)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.miners.base import Compared, Mined, Miner, joined

HARD, SEMIHARD, EASY, ALL = "hard", "semihard", "easy", "all"
STRATEGIES = (HARD, SEMIHARD, EASY, ALL)
Range = tuple[float, float] | None


class MinedExtremes(Mined):
    """One positive and one negative of every anchor, or all of one kind; four index tensors."""

    length = 4

    def __init__(self, compared: Compared, strategies: tuple[str, str], ranges: tuple[Range, Range]) -> None:
        super().__init__(compared)
        self.strategies, self.ranges = strategies, ranges

    def listing(self) -> tuple[Tensor, ...]:
        pieces: list[list[Tensor]] = [[], [], [], []]
        for first, c, positive, negative in self.compared.blocks():
            for side, (anchors, others) in enumerate(self._of_block(c, positive, negative)):
                pieces[2 * side].append(anchors + first)
                pieces[2 * side + 1].append(others)
        return joined(pieces, self.compared.embeddings.device)

    def _of_block(self, c: Tensor, positive: Tensor, negative: Tensor) -> list[tuple[Tensor, Tensor]]:
        masks = [positive, negative]
        allowed = [self._in_range(mask, c, side) for side, mask in enumerate(masks)]
        # hard positives and easy negatives are the least close, easy positives and hard negatives the closest
        largest = [self.strategies[0] == EASY, self.strategies[1] != EASY]
        found: list[tuple[Tensor, Tensor] | None] = [None, None]
        order = (1, 0) if self.strategies[0] == SEMIHARD else (0, 1)
        for side in order:
            if self.strategies[side] == ALL:
                continue
            if self.strategies[side] == SEMIHARD:
                other = found[1 - side]
                assert other is not None
                limit = c.gather(1, other[1][:, None])
                farther = c < limit if side == 1 else c > limit
                allowed[side] = allowed[side] & farther
            found[side] = _outermost(c, allowed[side], largest[side])
        every = torch.arange(len(c), device=c.device)
        result: list[tuple[Tensor, Tensor]] = []
        exist = [pair[0] for pair in found if pair is not None]
        both = exist[0] & exist[1] if len(exist) == 2 else None
        for side, pair in enumerate(found):
            if pair is None:
                anchor, other_index = torch.where(masks[side])
                result.append((anchor, other_index))
            else:
                kept = pair[0] if both is None else both
                result.append((every[kept], pair[1][kept]))
        return result

    def _in_range(self, mask: Tensor, c: Tensor, side: int) -> Tensor:
        limits = self.ranges[side]
        if limits is None:
            return mask
        value = c * self.compared.closeness.sign  # in the distance's own units
        return mask & (value <= limits[1]) & (value >= limits[0])


def _outermost(c: Tensor, mask: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    """Whether each row has a pair that is allowed, and the column of its closest or least close one."""
    if largest:
        outermost, at = torch.where(mask, c, -torch.inf).max(dim=1)
    else:
        outermost, at = torch.where(mask, c, torch.inf).min(dim=1)
    return ~outermost.isinf(), at  # NaN counts: a loss must not leave it out


class MinedHardest(MinedExtremes):
    """The hardest positive and negative of every anchor that has both: ``anchors, positives, negatives``."""

    length = 3

    def listing(self) -> tuple[Tensor, ...]:
        anchors, positives, _, negatives = super().listing()
        return anchors, positives, negatives


class BatchEasyHardMiner(Miner):
    """One positive and one negative of every anchor, chosen by how close they are.

    Args:
        pos_strategy: "hard" takes the farthest positive, "easy" the closest, "semihard" the farthest that is
            closer than the negative, "all" keeps all.
        neg_strategy: "hard" takes the closest negative, "easy" the farthest, "semihard" the closest that is
            farther than the positive, "all" keeps all.
        allowed_pos_range: distances (lowest, highest) that positives may have; None for any.
        allowed_neg_range: distances that negatives may have.
        distance: as :class:`~fastdml.miners.base.Miner`; by default the Euclidean distance of unit vectors.
    """

    HARD, SEMIHARD, EASY, ALL = HARD, SEMIHARD, EASY, ALL

    def __init__(
        self,
        pos_strategy: str = EASY,
        neg_strategy: str = SEMIHARD,
        allowed_pos_range: Range = None,
        allowed_neg_range: Range = None,
        *,
        distance: Any = None,
    ) -> None:
        super().__init__(distance=distance)
        chosen = {"pos_strategy": pos_strategy, "neg_strategy": neg_strategy}
        for name, strategy in chosen.items():
            if strategy not in STRATEGIES:
                raise InputError(f"{name} must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        if (
            SEMIHARD in chosen.values() and set(chosen.values()) & {ALL}
        ) or pos_strategy == neg_strategy == SEMIHARD:
            raise InputError(
                f"neg_strategy must be 'hard' or 'easy' where pos_strategy is 'semihard', and the other "
                f"way round, got {pos_strategy!r} and {neg_strategy!r}"
            )
        self.pos_strategy, self.neg_strategy = pos_strategy, neg_strategy
        self.allowed_pos_range, self.allowed_neg_range = allowed_pos_range, allowed_neg_range

    def choose(self, compared: Compared) -> Mined:
        return MinedExtremes(
            compared,
            (self.pos_strategy, self.neg_strategy),
            (self.allowed_pos_range, self.allowed_neg_range),
        )

    def extra_repr(self) -> str:
        return f"pos_strategy={self.pos_strategy!r}, neg_strategy={self.neg_strategy!r}"


class BatchHardMiner(Miner):
    """The farthest positive and the closest negative of every anchor: one triplet each (arXiv 1703.07737).

    Args:
        distance: as :class:`~fastdml.miners.base.Miner`; by default the Euclidean distance of unit vectors.
    """

    def choose(self, compared: Compared) -> Mined:
        return MinedHardest(compared, (HARD, HARD), (None, None))
