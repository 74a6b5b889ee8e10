"""How the kernels are run by Triton's interpreter, and what they are compared with."""

from __future__ import annotations

import pytest
import torch
from pair_cases import Case, losses_and_gradients
from torch import Tensor

from fastdml.triton_kernels import configs
from pair_batches import Batch, assert_as_accurate, make_batch

FORMS = ("rows", "blocks")


def use_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    if form == "blocks":
        monkeypatch.setattr(configs, "row_owner_tile", lambda *_: None)


def random_batch(n: int, width: int, refs: int = 0, classes: int = 6, seed: int = 0) -> Batch:
    """Random rows of lengths far from 1, around class centres, in float64."""
    random = torch.Generator().manual_seed(seed)

    def rows(labels: Tensor) -> Tensor:
        points = centres[labels] + torch.randn(len(labels), width, generator=random, dtype=torch.float64)
        return points * torch.rand(len(labels), 1, generator=random, dtype=torch.float64).add(0.1)

    centres = 0.5 * torch.randn(classes + 1, width, generator=random, dtype=torch.float64)
    labels = torch.randint(0, classes, (n,), generator=random)
    # a class that only the candidates have
    ref_labels = torch.randint(0, classes + 1, (refs,), generator=random)
    return Batch(rows(labels), labels, *((rows(ref_labels), ref_labels) if refs else ()))


def part_of(name: str) -> Batch:
    """40 rows, and candidates, of a batch: tiles and part of one; the interpreter is slow."""
    embeddings, labels, refs, ref_labels = make_batch(name)
    rows = slice(5, 45)  # "some without positives" has them from row 30 on
    if refs is None or ref_labels is None:
        return Batch(embeddings[rows], labels[rows])
    return Batch(embeddings[rows], labels[rows], refs[rows], ref_labels[rows])


def upstream_of(batch: Batch) -> Tensor:
    return torch.randn(len(batch.labels), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(case: Case, batch: Batch, own: Tensor | None = None) -> list[Tensor]:
    return losses_and_gradients(case, batch, upstream_of(batch), "triton", own)


def check(case: Case, batch: Batch, own: Tensor | None = None) -> None:
    batch, upstream = batch.to(torch.float32), upstream_of(batch)
    found = run(case, batch, own)
    same = losses_and_gradients(case, batch, upstream, "reference", own)
    truth = losses_and_gradients(case, batch.to(torch.float64), upstream, "reference", own)
    assert len(found) == len(same)
    for at, parts in enumerate(zip(found, same, truth, strict=True)):
        assert parts[0].dtype == torch.float32
        assert_as_accurate(*parts, f"result {at}")
