"""Data sets, batch samplers and augmentation. Needs torch and, for the stored set, NumPy."""

from fastdml.data import glyphs
from fastdml.data.augment import Augment
from fastdml.data.samplers import ClassBalancedBatchSampler
from fastdml.data.split import ImageStore, Split

__all__ = ["Augment", "ClassBalancedBatchSampler", "ImageStore", "Split", "glyphs"]
