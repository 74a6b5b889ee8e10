"""The teacher: it finds planted noise, goes on to the same bits, and says when it trusts nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdml.errors import InputError
from fastdml.noise import (
    DistillationInterruptedError,
    DistilledLabels,
    LabelDistiller,
    NoConfidentSamplesError,
    corrupt,
)
from fastdml.soft_labels import SoftLabels

CLASSES, EACH = 6, 100
_generator = torch.Generator().manual_seed(0)
CENTRES = 1.5 * torch.randn(CLASSES, 16, generator=_generator)
TRUE = torch.arange(CLASSES).repeat_interleave(EACH)
INPUTS = CENTRES[TRUE] + torch.randn(len(TRUE), 16, generator=_generator)
PLANTED = corrupt(TRUE, "wrong-id", 0.25, seed=3)


def inputs_of(rows):
    return INPUTS[rows]


def jitter(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def teacher(seed=0, classes=CLASSES):
    """Of everything that could break a resumed run: batch statistics, drawn numbers, decay."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, classes)
    )


def distiller(net=None, **changes):
    settings = {"epochs": 3, "rounds": 2, "batch": 50, "learning_rate": 0.02, "most": 3}
    return LabelDistiller(net or teacher(), CLASSES, **{**settings, **changes})


def assert_same(one: DistilledLabels, other: DistilledLabels):
    for name in ("labels", "own_probability", "predicted", "trusted"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(one.soft.classes, other.soft.classes)
    assert torch.equal(one.soft.shares, other.soft.shares)
    assert one.trusted_by_round == other.trusted_by_round


def test_planted_noise_is_found():
    net = teacher()
    seen = []
    found = distiller(net).distill(inputs_of, PLANTED.labels, augment=jitter, watcher=seen.append)
    precision, recall = found.precision_and_recall(PLANTED.is_noisy)
    assert precision > 0.9
    assert recall > 0.9
    assert (found.predicted == TRUE).float().mean() > 0.95
    assert (found.soft.labels == TRUE).float().mean() > 0.95
    assert [(one.round, one.epoch) for one in seen] == [(r, e) for r in range(3) for e in (1, 2, 3)]
    assert [one.samples for one in seen] == [
        count for count in (600, *found.trusted_by_round[:2]) for _ in range(3)
    ]
    assert seen[-1].cross_entropy < seen[0].cross_entropy
    assert not net.training


def test_labels_are_those_of_the_teacher_that_is_left():
    net = teacher()
    found = distiller(net, temperature=4.0, threshold=0.7).distill(inputs_of, PLANTED.labels)
    with torch.no_grad():
        logits = net(INPUTS)
    own = logits.softmax(1).gather(1, PLANTED.labels[:, None]).squeeze(1)
    torch.testing.assert_close(found.own_probability, own)
    assert torch.equal(found.trusted, found.own_probability >= 0.7)
    assert found.trusted_by_round[-1] == int(found.trusted.sum())
    assert torch.equal(found.predicted, logits.argmax(1))
    assert torch.equal(found.changed, found.predicted != PLANTED.labels)
    kept = (logits / 4).softmax(1).topk(3)
    torch.testing.assert_close(found.soft.shares, kept.values / kept.values.sum(1, keepdim=True))
    assert torch.equal(found.soft.classes, kept.indices)
    assert not found.soft.shares.requires_grad


def test_later_rounds_see_the_trusted_samples_alone():
    read = []

    def spy(rows):
        read.append(rows)
        return INPUTS[rows]

    found = distiller(epochs=1, rounds=1).distill(spy, PLANTED.labels)
    training, predicting = read[:12], read[12:24]
    assert torch.equal(torch.cat(training).sort().values, torch.arange(600))
    assert torch.equal(torch.cat(predicting), torch.arange(600))
    second = torch.cat(read[24:-12])
    assert len(second) == len(torch.unique(second)) == found.trusted_by_round[0] < 600
    assert PLANTED.is_noisy[second].float().mean() < 0.05


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5, 8, 9])
def test_an_interrupted_teacher_goes_on_to_the_same_bits(tmp_path, stop_after):
    whole = distiller(seed=4).distill(inputs_of, PLANTED.labels, augment=jitter)
    path = tmp_path / "teacher.pt"
    done = []
    asked = []

    def stop():  # four batches into the epoch after, or into the predictions
        asked.append(len(done))
        return asked.count(stop_after) > 4

    first = distiller(seed=4, checkpoint=path)
    with pytest.raises(DistillationInterruptedError):
        first.distill(
            inputs_of, PLANTED.labels, augment=jitter, watcher=done.append,
            stop=stop,
        )  # fmt: skip
    assert len(done) == stop_after
    assert path.exists() == (stop_after > 0)
    # other weights to begin with play no part where the file has its own
    net = teacher(seed=7 if stop_after else 0)
    torch.rand(5)
    later = []
    again = distiller(net, seed=4, checkpoint=path).distill(
        inputs_of, PLANTED.labels, augment=jitter, watcher=later.append
    )
    assert len(done) + len(later) == 9
    assert_same(again, whole)
    finished = distiller(seed=4, checkpoint=path).distill(
        inputs_of, PLANTED.labels, augment=jitter, watcher=later.append
    )
    assert len(done) + len(later) == 9
    assert_same(finished, whole)
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.pt"]


def test_the_seed_decides_and_the_callers_numbers_are_left_alone():
    first = distiller(seed=1).distill(inputs_of, PLANTED.labels)
    net = teacher()
    torch.manual_seed(12)
    state = torch.get_rng_state()
    again = distiller(net, seed=1).distill(inputs_of, PLANTED.labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, again)
    other = distiller(seed=2).distill(inputs_of, PLANTED.labels)
    assert not torch.equal(first.own_probability, other.own_probability)


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({"epochs": 4}, PLANTED.labels, "epochs must be 3 as in .*teacher.pt, got 4"),
        ({"threshold": 0.4}, PLANTED.labels, "threshold must be 0.5 as in"),
        ({"seed": 1, "batch": 20}, PLANTED.labels, "batch must be 50 as in .*; seed must be 0 as in"),
        ({}, TRUE, "labels must be 600 of SHA-256 .* as in"),
        ({"net": teacher()[:0].append(nn.Linear(16, CLASSES))}, PLANTED.labels, "teacher does not fit"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, changes, labels, message):
    path = tmp_path / "teacher.pt"
    distiller(checkpoint=path).distill(inputs_of, PLANTED.labels)
    with pytest.raises(InputError, match=message):
        distiller(**changes, checkpoint=path).distill(inputs_of, labels)
    with pytest.raises(InputError, match=r"augment must be False as in .*, got True"):
        distiller(checkpoint=path).distill(inputs_of, PLANTED.labels, augment=jitter)


def test_softening_may_differ_from_the_checkpoint(tmp_path):
    path = tmp_path / "teacher.pt"
    first = distiller(checkpoint=path).distill(inputs_of, PLANTED.labels)
    softer = distiller(checkpoint=path, temperature=10.0, most=2).distill(inputs_of, PLANTED.labels)
    assert torch.equal(first.own_probability, softer.own_probability)
    assert softer.soft.shares.shape == (600, 2)
    assert float(softer.soft.shares[:, 0].mean()) < float(first.soft.shares[:, 0].mean())


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "teacher.pt"
    distiller(checkpoint=path, epochs=1, rounds=0).distill(inputs_of, PLANTED.labels)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"checkpoint must be a readable teacher, got .*teacher\.pt"):
        distiller(checkpoint=path, epochs=1, rounds=0).distill(inputs_of, PLANTED.labels)


def test_a_class_that_nobody_trusts_is_distrusted_and_reported():
    labels = TRUE.clone()
    labels[TRUE == 5] = torch.arange(EACH) % 5  # true ones of class 5 are spread over the others
    strangers = torch.arange(0, 500, 100)
    labels[strangers] = 5  # what is given class 5 are single images of the others
    found = distiller().distill(inputs_of, labels)
    assert found.classes_without_trust.tolist() == [5]
    assert not found.trusted[strangers].any()
    assert found.trusted[TRUE != 5].float().mean() > 0.9


def test_no_confident_sample_at_all_is_an_error_with_the_best_there_was():
    with pytest.raises(NoConfidentSamplesError, match=r"got 1.0: after round 0 .* label has 0\.\d+"):
        distiller(threshold=1.0, epochs=1, learning_rate=1e-4).distill(inputs_of, PLANTED.labels)


class _Uncertain(nn.Module):
    """Sees its labels only until it is told not to."""

    def __init__(self):
        super().__init__()
        self.net, self.blind = teacher(), False

    def forward(self, inputs):
        logits = self.net(inputs)
        return logits * 0 if self.blind else logits


def test_a_later_round_without_confidence_puts_the_teacher_back():
    net = _Uncertain()
    kept = {}

    def watch(epoch):
        if epoch.round == 0 and epoch.epoch == 3:
            kept.update({name: value.clone() for name, value in net.state_dict().items()})
        net.blind = epoch.round == 1 and epoch.epoch == 3

    with pytest.raises(
        NoConfidentSamplesError, match=r"after round 1 the most probable given label has 0\.167"
    ):
        distiller(net).distill(inputs_of, PLANTED.labels, watcher=watch)
    state = net.state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"rounds": -1}, "rounds must be at least 0, got -1"),
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"threshold": 1.5}, "threshold must be a probability from 0 to 1, got 1.5"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be a number from 0 on, got -1.0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        LabelDistiller(teacher(), **{"num_classes": CLASSES, **settings}).distill(inputs_of, TRUE)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (TRUE.float(), r"labels must be int64 \[N\] with N at least 1, got torch.float32 \[600\]"),
        (TRUE[:0], r"with N at least 1, got torch.int64 \[0\]"),
        (TRUE + 1, r"labels must lie in \[0, 5\], got \[1, 6\]"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(InputError, match=message):
        distiller().distill(inputs_of, labels)


def test_logits_of_another_number_of_classes_are_named():
    with pytest.raises(InputError, match=r"teacher must give logits \[50, 6\], got \[50, 7\]"):
        distiller(teacher(classes=7)).distill(inputs_of, TRUE)


def test_a_cross_entropy_that_is_not_finite_is_an_error():
    with pytest.raises(InputError, match="a cross-entropy of nan in epoch 1 of round 0"):
        distiller().distill(lambda rows: INPUTS[rows] * float("nan"), TRUE)


def test_no_batch_is_of_one_sample_where_there_are_more():
    """Batch statistics of one sample do not exist; 101 in batches of 50 would leave one."""
    found = distiller(epochs=1, rounds=0).distill(inputs_of, TRUE[:101])
    assert len(found) == 101


def labels_by_hand():
    probability = torch.tensor([0.9, 0.1, 0.6, 0.2, 0.3, 0.8])
    return DistilledLabels(
        soft=SoftLabels.of(F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3).float(), 2),
        labels=torch.tensor([0, 0, 2, 4, 1, 2]),
        own_probability=probability,
        predicted=torch.tensor([0, 1, 2, 0, 1, 2]),
        trusted=probability >= 0.5,
        trusted_by_round=(2, 3),
    )


def test_precision_and_recall_count_the_distrusted():
    found = labels_by_hand()  # distrusted: 1, 3, 4
    noisy = torch.tensor([True, True, False, True, False, False])
    assert found.precision_and_recall(noisy) == (2 / 3, 2 / 3)
    precision, recall = found.precision_and_recall(torch.zeros(6, dtype=torch.bool))
    assert precision == 0
    assert recall != recall
    with pytest.raises(InputError, match=r"is_noisy must be bool \[6\], got torch.int64 \[6\]"):
        found.precision_and_recall(noisy.long())
    assert found.classes_without_trust.tolist() == [1, 4]
    assert found.changed.tolist() == [False, True, False, True, False, False]


def test_labels_are_read_back_as_saved(tmp_path):
    found = labels_by_hand()
    found.save(tmp_path / "labels.safetensors")
    assert_same(DistilledLabels.load(tmp_path / "labels.safetensors"), found)
    (tmp_path / "other").write_bytes(b"no")
    with pytest.raises(InputError, match="other must be a file of distilled labels"):
        DistilledLabels.load(tmp_path / "other")
