"""What a teacher makes of labels: soft ones, and which of the given ones it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.noise.files import write_whole
from fastdml.soft_labels import SoftLabels


@dataclass(frozen=True, eq=False)
class DistilledLabels:
    """Labels of N samples as a teacher sees them; all tensors on the CPU.

    Attributes:
        soft: [N, S], its softened predictions.
        labels: [N], int64, the given labels.
        own_probability: [N], float32, the probability of the given label, not softened.
        predicted: [N], int64, the most probable class.
        trusted: [N], bool, whether ``own_probability`` reaches the threshold.
        trusted_by_round: how many were trusted after each round, that on all samples first.
    """

    soft: SoftLabels
    labels: Tensor
    own_probability: Tensor
    predicted: Tensor
    trusted: Tensor
    trusted_by_round: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def changed(self) -> Tensor:
        """[N], bool, whether another class than the given one is the most probable."""
        return self.predicted != self.labels

    @property
    def classes_without_trust(self) -> Tensor:
        """int64, the classes that are given to samples, none of which is trusted, in rising order."""
        classes, index = torch.unique(self.labels, return_inverse=True)
        trusted = torch.zeros(len(classes), dtype=torch.int64).index_add(0, index, self.trusted.long())
        return classes[trusted == 0]

    def precision_and_recall(self, is_noisy: Tensor) -> tuple[float, float]:
        """How well the samples that are not trusted are those with a wrong label.

        Args:
            is_noisy: [N], bool, which labels are wrong.

        Returns:
            The share of the distrusted that are wrong, and the share of the wrong that are distrusted. NaN
            is the first where none is distrusted, the second where none is wrong.

        Raises:
            InputError: ``is_noisy`` is of another shape or dtype.
        """
        if is_noisy.shape != self.labels.shape or is_noisy.dtype != torch.bool:
            raise InputError(
                f"is_noisy must be bool [{len(self)}], got {is_noisy.dtype} {list(is_noisy.shape)}"
            )
        distrusted = ~self.trusted
        found = int((distrusted & is_noisy.cpu()).sum())
        return _share(found, int(distrusted.sum())), _share(found, int(is_noisy.sum()))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, at any moment whole or not there. Needs the package safetensors."""
        from safetensors.torch import save

        tensors = {
            "classes": self.soft.classes,
            "shares": self.soft.shares,
            "labels": self.labels,
            "own_probability": self.own_probability,
            "predicted": self.predicted,
            "trusted": self.trusted,
            "trusted_by_round": torch.tensor(self.trusted_by_round),
        }
        write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, path: str | Path) -> DistilledLabels:
        """The labels of a file that `save` wrote.

        Raises:
            InputError: it cannot be read or holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            return cls(
                SoftLabels(tensors["classes"], tensors["shares"]),
                tensors["labels"],
                tensors["own_probability"],
                tensors["predicted"],
                tensors["trusted"],
                tuple(tensors["trusted_by_round"].tolist()),
            )
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} must be a file of distilled labels: {error}") from error


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
