"""A weighted sum of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fastdml.errors import InputError


class MultipleLosses(nn.Module):
    """The sum of several losses of one batch, each with its miner and weight.

    Args:
        losses: a list of losses, or a mapping by name.
        miners: likewise, one of each loss; None, or a missing name, where a loss has none.
        weights: likewise, what each loss is multiplied with; None is 1.
    """

    def __init__(
        self,
        losses: Sequence[nn.Module] | Mapping[str, nn.Module],
        miners: Sequence[nn.Module | None] | Mapping[str, nn.Module] | None = None,
        weights: Sequence[float] | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        named = _by_name("losses", losses)
        self.losses = nn.ModuleDict(named)
        self.miners = nn.ModuleDict()
        for name, miner in ({} if miners is None else _by_name("miners", miners)).items():
            if name not in named:
                raise InputError(f"miners must name losses ({', '.join(named)}), got {name!r}")
            if miner is not None:
                self.miners[name] = miner
        self.weights: dict[str, float] = (
            dict.fromkeys(named, 1.0) if weights is None else _by_name("weights", weights)
        )
        for name, given in (("miners", miners), ("weights", weights)):
            if given is not None and isinstance(given, Mapping) != isinstance(losses, Mapping):
                raise InputError(
                    f"{name} must be a {'mapping' if isinstance(losses, Mapping) else 'list'} like losses"
                )
            if isinstance(given, Sequence) and len(given) != len(named):
                raise InputError(f"{name} must have {len(named)} entries like losses, got {len(given)}")
        if set(self.weights) != set(named):
            raise InputError(
                f"weights must name every loss ({', '.join(named)}), got {', '.join(self.weights)}"
            )

    def forward(self, embeddings: Tensor, labels: Tensor, indices_tuple: Any = None) -> Any:
        """The weighted sum; ``indices_tuple`` goes to every loss, where there are no miners."""
        if len(self.miners) and indices_tuple is not None:
            raise InputError("indices_tuple must be None where miners are given")
        total: Any = 0
        for name, loss in self.losses.items():
            pairs = self.miners[name](embeddings, labels) if name in self.miners else indices_tuple
            total = total + loss(embeddings, labels, pairs) * self.weights[name]
        return total


def _by_name(argument: str, values: Any) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    if isinstance(values, Sequence) and not isinstance(values, str):
        return {str(i): value for i, value in enumerate(values)}
    raise InputError(f"{argument} must be a list or a mapping, got {type(values).__name__}")
