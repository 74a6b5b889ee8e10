"""The examples of other packages' trainers learn, and what they compute is what they claim."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from fastdml import CachedGradients
from fastdml.losses import MultiSimilarityLoss, NTXentLoss

EXAMPLES = Path(__file__).parents[2] / "examples"
Example = Callable[[str], ModuleType]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    """Imports an example by name; where its packages are missing, the test is skipped."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name: str, *packages: str) -> ModuleType:
        for package in packages:
            pytest.importorskip(package)
        return importlib.import_module(name)

    return load


def test_lightning_module_learns(example: Example) -> None:
    before, after = example("lightning_module", "lightning").main(steps=40)
    assert before < 0.05
    assert after > 0.1


def test_pml_trainer_learns_by_the_losses_of_pml(example: Example) -> None:
    program = example("pml_trainer", "pytorch_metric_learning")
    before, after, values = program.main(steps=40)
    assert before < 0.05
    assert after > 0.1
    assert values[-1] < 0.9 * values[0]
    _, _, wanted = program.main(steps=4, package="pytorch_metric_learning")
    assert len(set(wanted)) == 4
    assert values[:4] == pytest.approx(wanted, rel=1e-5)


def test_trainer_of_sentence_transformers_learns(example: Example) -> None:
    program = example("sentence_transformers_training", "sentence_transformers", "datasets", "accelerate")
    before, after = program.main(steps=40)
    assert before < 0.4
    assert after > 0.7


def test_large_batches_of_sentence_transformers_learn(example: Example) -> None:
    before, after = example("sentence_transformers_large_batches", "sentence_transformers").main(steps=10)
    assert before < 0.4
    assert after > 0.7


def test_large_batches_have_the_gradients_of_the_loss_module(example: Example) -> None:
    whole = example("sentence_transformers_training", "sentence_transformers")
    chunked, requests = example("sentence_transformers_large_batches"), example("request_sentences")
    torch.manual_seed(0)
    texts, labels = requests.make_sentences(test=False, each=2)
    model = requests.make_model(texts).eval()
    features = {name: part for name, part in model.preprocess(texts).items() if torch.is_tensor(part)}
    loss = MultiSimilarityLoss()
    cached = CachedGradients(model, 7, forward=chunked.embed)
    value = cached.backward(features, lambda embeddings: loss(embeddings, labels))
    found = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    assert len(found) > 30
    model.zero_grad()
    wanted = whole.FusedSentenceLoss(model, loss)([features], labels)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-5, atol=0)
    for name, part in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], part.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_chunk_keeps_nothing_of_the_layers(example: Example) -> None:
    chunked = example("sentence_transformers_large_batches", "sentence_transformers")
    requests = example("request_sentences")
    texts, _ = requests.make_sentences(test=True, each=2)
    model = requests.make_model(texts)
    features = dict(model.preprocess(texts))
    names = set(features)
    chunked.embed(model, features)
    assert set(features) == names


def test_rows_without_labels_are_classes_of_their_own(example: Example) -> None:
    program = example("sentence_transformers_training", "sentence_transformers")
    torch.manual_seed(0)
    anchors, positives = torch.randn(5, 8), torch.randn(5, 8)
    columns = [{"sentence_embedding": column} for column in (anchors, positives)]
    found = program.FusedSentenceLoss(torch.nn.Identity(), NTXentLoss(temperature=0.1))(columns, None)
    embeddings = F.normalize(torch.cat([anchors, positives]))
    similarities = (embeddings @ embeddings.T / 0.1).fill_diagonal_(-torch.inf)
    partners = torch.arange(10).roll(5)
    torch.testing.assert_close(found, F.cross_entropy(similarities, partners))
