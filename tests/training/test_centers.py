"""The centres of classes in a run: they have a rate of their own, are counted, saved and shown."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from fastdml.data import Split
from fastdml.losses import MultipleLosses, NormalizedSoftmaxLoss, SoftTripleLoss
from fastdml.training import EmbeddingNetwork, TrainConfig, catalogue
from fastdml.training.batches import class_indices
from fastdml.training.catalogue import LOSSES, LossEntry
from fastdml.training.centers import AT_RANDOM, BUSIEST, DELTAS, CenterHistory, center_history, drawn_images
from fastdml.training.checkpoint import load_weights
from fastdml.training.optimisers import make_optimiser
from fastdml.training.run import read_lines

SEVERAL = ["soft-triple", "soft-triple-many-centres", "hard-triple", "sub-centre-arcface"]


def loss_with(*cosines: float, classes: int = 3) -> SoftTripleLoss:
    """In every class a centre along the first axis, and one at each of these cosines to it."""
    rows = torch.tensor([[1.0, 0.0]] + [[c, (1 - c * c) ** 0.5] for c in cosines])
    loss = SoftTripleLoss(classes, 2, centers_per_class=len(rows))
    loss.fc.data = rows.repeat(classes, 1).T.contiguous()
    return loss


@pytest.mark.parametrize("name", ["soft-triple", "arcface"])
def test_centres_have_a_rate_of_their_own_and_no_decay(name):
    config = TrainConfig(loss=name, learning_rate=0.02, weight_decay=0.3)
    model, loss = EmbeddingNetwork(8, 4), LOSSES[name].make(5, 8)
    groups = {group["name"]: group for group in make_optimiser(model, loss, config).param_groups}
    assert groups["weights"]["lr"] == groups["biases and norms"]["lr"] == 0.02
    assert groups["centers"]["lr"] == pytest.approx(0.02 * LOSSES[name].center_rate)
    assert groups["centers"]["lr"] > 0.02
    assert groups["centers"]["params"] == [loss.centers]
    assert [groups[part]["weight_decay"] for part in ("weights", "centers")] == [0.3, 0.0]


def test_the_rates_of_all_groups_follow_the_schedule(run, monkeypatch):
    """AdamW moves a parameter of constant gradient by its rate: a centre, by the sum of its own."""

    class Pull(NormalizedSoftmaxLoss):
        def forward(self, embeddings, labels):
            return (embeddings * 0).sum() + (self.W - self.W.detach()).sum()

    made = []

    def make(classes, width):
        made.append(Pull(classes, width, weight_init_func=torch.zero_))
        return made[-1]

    monkeypatch.setitem(catalogue.LOSSES, "pull", LossEntry(make, "for tests", 3.0))
    _, path = run(loss="pull", steps=5, evaluations=1)
    rates = [line["learning_rate"] for line in read_lines(path / "log.jsonl")]
    torch.testing.assert_close(made[-1].W.data, torch.full((8, 8), -3 * sum(rates)), rtol=1e-4, atol=0)


def test_classes_are_counted_from_0_without_gaps():
    labels = torch.tensor([7, 3, 7, 90])
    images = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    everyone = torch.ones(4, dtype=torch.bool)
    split = Split("gaps", images, labels, tuple(map(str, range(91))), everyone, everyone)
    assert class_indices(split).tolist() == [1, 0, 1, 2]


def test_centres_are_counted_at_every_evaluation(run):
    result, path = run(loss="soft-triple", steps=6, evaluations=3)
    assert result.centers.per_class == 10
    found = json.loads((path / "metrics.json").read_text())["centers"]
    assert found["per_class"] == 10
    assert [one["delta"] for one in found["counts"]] == list(DELTAS)
    for one in found["counts"]:
        assert [point["step"] for point in one["curve"]] == [0, 2, 4, 6]
        assert sum(one["classes_by_centers"].values()) == 8
        mean = sum(int(n) * classes for n, classes in one["classes_by_centers"].items()) / 8
        assert one["curve"][-1]["mean"] == pytest.approx(mean)


def test_the_counts_are_those_of_the_saved_loss(run):
    result, path = run(loss="soft-triple", steps=6)
    loss = LOSSES["soft-triple"].make(8, 8)
    assert load_weights(path / "loss.safetensors", loss) == {
        "loss": "soft-triple",
        "stopped_by": "steps",
        "step": "6",
    }
    for one in result.centers.counts:
        assert loss.count_centers(one.delta).tolist() == one.final
    start = CenterHistory(LOSSES["soft-triple"].make(8, 8))
    assert not torch.equal(start.loss.fc, loss.fc)


def test_counting_knows_merged_centres():
    history = CenterHistory(loss_with(0.995, 0.95, 0.0), deltas=(0.01, 0.1))
    history.record(0)
    history.loss.fc.data[:, :4] = torch.tensor([[1.0], [0.0]])
    history.record(7)
    assert [one.curve[0] for one in history.counts] == [(0, 3.0), (0, 2.0)]
    assert [one.final for one in history.counts] == [[1, 3, 3], [1, 2, 2]]
    assert history.counts[0].to_dict()["classes_by_centers"] == {1: 1, 3: 2}


def test_images_go_to_the_centre_that_they_are_the_most_similar_to():
    loss = loss_with(0.995, 0.0)
    embeddings = torch.tensor([[5.0, 1.0], [0.1, 2.0], [3.0, 0.1], [0.2, 0.1]])
    merged = loss.merge_centers(0.1).centers_of(1)
    drawn = drawn_images(loss.centers_of(1), merged, embeddings, torch.tensor([10, 11, 12, 13]))
    assert [one.images for one in drawn] == [[12, 10, 13], [11]]
    assert [one.centers for one in drawn] == [2, 1]
    middle = F.normalize(loss.fc.data[:, 0] + loss.fc.data[:, 1], dim=0)
    cosines = F.normalize(embeddings[[2, 0, 3]], dim=1) @ middle
    torch.testing.assert_close(torch.tensor(drawn[0].cosines), cosines)


def test_every_class_draws_all_its_images_and_the_busiest_are_shown(run):
    result, path = run(loss="soft-triple", steps=4)
    centers = result.centers
    assert list(centers.drawn) == list(range(8))
    for label, drawn in centers.drawn.items():
        images = sorted(row for one in drawn for row in one.images)
        assert images == torch.nonzero(result.train.labels == label).squeeze(1).tolist()
        assert sum(one.centers for one in drawn) == 10
        assert [len(one.images) for one in drawn] == sorted((len(one.images) for one in drawn), reverse=True)
        assert centers.used(label) == len([one for one in drawn if one.images])
    assert len(set(centers.shown)) == len(centers.shown) == AT_RANDOM + BUSIEST
    left = max(centers.used(label) for label in centers.drawn if label not in centers.shown)
    assert all(centers.used(label) >= left for label in centers.shown[AT_RANDOM:])
    found = json.loads((path / "metrics.json").read_text())["centers"]
    assert found["mean_used"] == pytest.approx(sum(map(centers.used, centers.drawn)) / 8)


@pytest.mark.parametrize("name", LOSSES)
def test_only_losses_of_several_centres_have_a_history(name):
    assert (center_history(LOSSES[name].make(5, 8)) is not None) == (name in SEVERAL)


def test_a_loss_inside_another_has_a_history():
    loss = SoftTripleLoss(3, 4)
    assert center_history(MultipleLosses([NormalizedSoftmaxLoss(3, 4), loss])).loss is loss


def test_the_centres_of_a_run_depend_on_its_seed_alone(run):
    _, first = run(out="first", loss="soft-triple", seed=3)
    torch.rand(17)  # the caller's random numbers play no part
    _, second = run(out="second", loss="soft-triple", seed=3)
    _, third = run(out="third", loss="soft-triple", seed=4)
    found = [(path / "loss.safetensors").read_bytes() for path in (first, second, third)]
    assert found[0] == found[1] != found[2]
