"""docs/your-own-loss.md, run as it stands: its loss is the paper's, with its gradient, on every backend."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from documents import blocks, run_as_module
from torch import Tensor

import fastdml
from fastdml import distances, losses, miners
from fastdml.backends.triton import interpreted
from fastdml.errors import RuleError
from fastdml.rules import Closeness, check
from pair_batches import Batch, make_batch

pytest.importorskip("triton")

DOCUMENT = "your-own-loss.md"
TERMS, RULE, TWIN = 0, 1, 4
EUCLIDEAN = Closeness("euclidean")
BATCHES = ["random", "some without positives", "candidates", "one class", "one positive", "one negative"]


@pytest.fixture(scope="module")
def code() -> list[str]:
    return blocks(DOCUMENT, "python")


@pytest.fixture(scope="module")
def document(code: list[str], tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Everything that the document does; its loss alone under the interpreter, which is slow."""
    parts = [code[TERMS], code[RULE], code[TWIN]] if interpreted() else code
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # one graph for any compiler: that of C++ would take half a minute
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        return run_as_module("your_own_loss", parts, tmp_path_factory.mktemp("document"))


def batch_of(name: str) -> Batch:
    """A batch of all tests, or one whose anchors have at most one pair that costs."""
    rows = torch.randn(201, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if name == "one positive":
        return Batch(rows[:200], torch.arange(200) // 2)
    if name == "one negative":
        return Batch(rows[:200], torch.zeros(200).long(), rows[200:], torch.ones(1).long())
    return make_batch(name)


def ranked_list(
    batch: Batch, alpha: float = 1.2, margin: float = 0.4, temperature: float = 10, balance: float = 0.5
) -> Tensor:
    """The loss of every anchor [N], pair by pair as the paper has it."""
    rows = F.normalize(batch.embeddings)
    itself = batch.ref_embeddings is None
    refs = rows if itself else F.normalize(batch.ref_embeddings)
    ref_labels = batch.labels if itself else batch.ref_labels
    found = []
    for i, row in enumerate(rows):
        # the sum of none keeps an anchor of no pairs differentiable
        pull = push = 0 * row.sum()
        d = (row - refs).norm(dim=1)
        other = torch.arange(len(refs)) != i if itself else torch.ones(len(refs), dtype=torch.bool)
        positives = d[other & (ref_labels == batch.labels[i]) & (d > alpha - margin)]
        negatives = d[other & (ref_labels != batch.labels[i]) & (d < alpha)]
        if len(positives):
            pull = (positives - (alpha - margin)).mean()
        if len(negatives):
            weights = torch.exp(temperature * (alpha - negatives)).detach()
            push = (weights / weights.sum() * (alpha - negatives)).sum()
        found.append((1 - balance) * pull + balance * push)
    return torch.stack(found)


def leaves(batch: Batch) -> Batch:
    """The batch with gradients of its own."""
    ref = None if batch.ref_embeddings is None else batch.ref_embeddings.clone().requires_grad_()
    return batch._replace(embeddings=batch.embeddings.clone().requires_grad_(), ref_embeddings=ref)


def gradients(rows: Tensor, batch: Batch) -> list[Tensor]:
    """Of the anchors, each weighted by a number of its own, in the embeddings of both sides."""
    inputs = [side for side in (batch.embeddings, batch.ref_embeddings) if side is not None]
    weights = torch.linspace(0.5, 1.5, len(rows), dtype=rows.dtype)
    return list(torch.autograd.grad((rows * weights).sum(), inputs))


def assert_is_the_papers(document: ModuleType, name: str, backend: str, dtype: torch.dtype) -> None:
    given = batch_of(name).to(dtype)
    truth, batch = leaves(given.to(torch.float64)), leaves(given)
    expected = ranked_list(truth)
    assert name == "one class" or (expected > 0).float().mean() > 0.2
    with fastdml.use_backend(backend):
        rows = losses.RuleLoss(document.RankedList(), reducer="none")(
            batch.embeddings, batch.labels, None, batch.ref_embeddings, batch.ref_labels
        )
        found = [rows, *gradients(rows, batch)]
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    for one, other in zip(found, [expected, *gradients(expected, truth)], strict=True):
        assert one.dtype == dtype or backend == "triton"
        torch.testing.assert_close(
            one.double(), other, rtol=0, atol=tolerance * float(other.detach().abs().max().clamp_min(1e-6))
        )


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_is_the_loss_of_the_paper(document: ModuleType, name: str, backend: str) -> None:
    assert_is_the_papers(document, name, backend, torch.float64)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.skipif(not interpreted(), reason="run by test_the_triton_twin, under the interpreter")
def test_interpreted_is_the_loss_of_the_paper(document: ModuleType, name: str) -> None:
    assert_is_the_papers(document, name, "triton", torch.float32)


@pytest.mark.skipif(not interpreted(), reason="run by test_the_triton_twin, under the interpreter")
def test_interpreted_passes_its_check(document: ModuleType) -> None:
    steps = {step.name: step.verdict for step in check(document.RankedList(), EUCLIDEAN).steps}
    assert steps["triton"] == steps["blocked"] == "ok"


@pytest.mark.skipif(interpreted(), reason="starts the interpreter")
def test_the_triton_twin() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider",
               "-k", "interpreted", __file__]  # fmt: skip
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert f"{len(BATCHES) + 1} passed" in result.stdout, result.stdout[-2000:]


if not interpreted():

    def test_miners_reducers_and_candidates(document: ModuleType) -> None:
        def assert_mean(found: Tensor, batch: Batch) -> None:
            rows = ranked_list(batch.to(torch.float64))
            torch.testing.assert_close(found.double(), rows[rows > 0].mean(), rtol=1e-5, atol=0)

        batch = Batch(document.embeddings, document.labels)
        assert_mean(document.everything, batch)
        some = Batch(batch.embeddings[:40], batch.labels[:40], batch.embeddings[40:], batch.labels[40:])
        assert_mean(document.against, some)
        miner = miners.MultiSimilarityMiner(0.1, distance=distances.LpDistance())
        pairs = tuple(miner(batch.embeddings, batch.labels))
        assert len(pairs[3]) < 240 * 234  # of all negatives
        listed = document.loss(batch.embeddings, batch.labels, pairs)
        torch.testing.assert_close(document.mined, listed, rtol=1e-5, atol=0)
        assert (document.mined - document.everything).abs() > 5e-5

    def test_the_table_of_the_check_is_the_printed_one(document: ModuleType) -> None:
        def without_percentage(table: str) -> str:
            return re.sub(r"\d+%", "..%", table.strip())

        assert without_percentage(blocks(DOCUMENT, "text")[1]) == without_percentage(str(document.report))

    def test_the_message_is_that_of_a_forgotten_sign(
        document: ModuleType, code: list[str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        del document  # the modules share their name: this one comes second
        sign, name = "return -(c < -self.reach)", '"ranked_list"'
        assert sign in code[TERMS]
        assert name in code[TERMS]
        wrong = code[TERMS].replace(sign, sign.replace("-(", "(", 1)).replace(name, '"of_wrong_sign"')
        module = run_as_module("your_own_loss", [wrong, code[RULE]], tmp_path_factory.mktemp("wrong"))
        with pytest.raises(RuleError) as raised:
            check(module.RankedList(), EUCLIDEAN)
        shown = f"fastdml.errors.RuleError: {raised.value}"
        assert blocks(DOCUMENT, "text")[2].split() == shown.split()

    def test_trains_and_compiles(document: ModuleType) -> None:
        assert document.before < 0.45
        assert document.after > document.before + 0.2
        seen = document.seen
        eager = document.loss(document.model(document.points[seen]), document.classes[seen])
        torch.testing.assert_close(document.compiled, eager)

    def test_values_are_those_of_pytorch_metric_learning(document: ModuleType) -> None:
        pml = pytest.importorskip("pytorch_metric_learning.losses")
        batch = make_batch("random")
        theirs = pml.RankedListLoss(margin=0.4, Tn=5, imbalance=0.3, alpha=1.2)
        ours = losses.RuleLoss(document.RankedList(temperature=5.0, balance=0.3))
        # they add 1e-5 to every weight of their divisors, also where it is 0
        torch.testing.assert_close(
            ours(batch.embeddings, batch.labels), theirs(batch.embeddings, batch.labels), rtol=1e-3, atol=0
        )
