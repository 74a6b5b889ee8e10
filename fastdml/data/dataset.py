"""A data set for retrieval: classes to learn from, other classes to find, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastdml.data.split import Split


@dataclass(frozen=True, eq=False)
class Dataset:
    """Both halves of a data set.

    Attributes:
        name: for messages and files, such as "CUB-200-2011".
        layout: how its files are laid out, a name of `fastdml.data.layouts.LAYOUTS`, or "built-in".
        train: the classes to learn from.
        test: as a rule classes that training never sees; their labels go on after those of ``train``.
        ks: the K of Recall@K that its literature reports.
        notes: what a person should know: images that are missing, counts that are not the published ones.
    """

    name: str
    layout: str
    train: Split
    test: Split
    ks: tuple[int, ...] = (1, 2, 4, 8)
    notes: tuple[str, ...] = ()

    @property
    def test_classes(self) -> str:
        """How many classes are tested on, and whether training sees them, in words."""
        classes = torch.unique(self.test.labels)
        known = int(torch.isin(classes, self.train.labels).sum())
        if not known:
            return f"{len(classes)} unseen classes"
        return f"{len(classes)} classes, {known} of them trained on"
