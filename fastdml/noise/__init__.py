"""Noisy labels: planting them, finding them, and soft labels that make up for them."""

from fastdml.noise.corrupted_split import corrupt_split
from fastdml.noise.corruption import KINDS, CorruptedLabels, NoiseKind, corrupt
from fastdml.noise.distilled import DistilledLabels
from fastdml.noise.distiller import (
    DistillationInterruptedError,
    LabelDistiller,
    NoConfidentSamplesError,
    TeacherEpoch,
)

__all__ = [
    "KINDS",
    "CorruptedLabels",
    "DistillationInterruptedError",
    "DistilledLabels",
    "LabelDistiller",
    "NoConfidentSamplesError",
    "NoiseKind",
    "TeacherEpoch",
    "corrupt",
    "corrupt_split",
]
