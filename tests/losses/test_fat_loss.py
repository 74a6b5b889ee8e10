"""FAT against its formula written out, its bound, its soft labels and its edges."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from fastdml import InputError, SoftLabels
from fastdml.distances import LpDistance
from fastdml.losses import FastApproximatedTripletLoss, FATLoss, HybridFATLoss
from fastdml.losses.centroids import CENTROID_KINDS

PLAIN = LpDistance(normalize_embeddings=False)


@pytest.fixture(params=["cpu", "blocked", "reference"], autouse=True)
def backend(request: pytest.FixtureRequest) -> object:
    if request.param not in fastdml.available_backends():
        pytest.skip(f"no {request.param} backend here")
    with fastdml.use_backend(request.param):
        yield request.param


def make_batch(samples: int = 24, classes: int = 6, width: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    means = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    return means[labels] + 0.8 * noise, 10 * labels + 3


def by_the_formula(
    embeddings: Tensor,
    shares: Tensor,
    trusted: Tensor,
    units: bool,
    kind: str,
    radius: str,
    negatives: str,
    margin: float,
    weight: float,
) -> Tensor:
    """FAT one sample and one class at a time; shares [B, C] of classes."""
    choice = CENTROID_KINDS[kind]
    rows = F.normalize(embeddings, dim=1) if units else embeddings
    owner = shares.argmax(dim=1)
    centroids: dict[int, Tensor] = {}
    for c in range(shares.shape[1]):
        members = embeddings[(owner == c) & trusted]
        if len(members):
            mean = (F.normalize(members, dim=1) if choice.of_units else members).mean(dim=0)
            centroids[c] = mean / mean.norm() if choice.unit else mean
    hinges = []
    for a, row in enumerate(rows):
        mass = sum(float(shares[a, c]) for c in centroids)
        if not mass:
            continue
        q = {c: float(shares[a, c]) / mass for c in centroids}
        apart = {c: (row - centroid).norm() for c, centroid in centroids.items()}
        positive = sum(q[c] * apart[c] for c in centroids)
        others = [c for c in centroids if c != owner[a]]
        name, _, k = negatives.partition(":")
        if name == "all":
            terms = [((1 - q[c]), F.relu(positive - apart[c] + margin)) for c in centroids]
        elif name == "hardest":
            nearest = sorted(others, key=lambda c: float(apart[c].detach()))[: int(k)]
            terms = [((1 - q[c]), F.relu(positive - apart[c] + margin)) for c in nearest]
        elif name == "mean":
            total = sum(1 - q[c] for c in centroids)
            if total < 1e-9:
                continue
            mean = sum((1 - q[c]) * apart[c] for c in centroids) / total
            terms = [(1.0, F.relu(positive - mean + margin))]
        else:
            away = [n for n in range(len(rows)) if owner[n] != owner[a]]
            nearest = sorted(away, key=lambda n: float((row - rows[n]).norm().detach()))[: int(k)]
            terms = [
                (1 - float(shares[a, owner[n]]), F.relu(positive - (row - rows[n]).norm() + margin))
                for n in nearest
            ]
        total = sum(share for share, _ in terms)
        if total > 1e-9:
            hinges.append(sum(share * hinge for share, hinge in terms) / total)
    radii = []
    for c, centroid in centroids.items():
        members = rows[(owner == c) & trusted]
        away = (members - centroid).norm(dim=1)
        radii.append(away.max() if radius == "max" else away.mean())
    loss = embeddings.new_zeros(()) if not hinges else torch.stack(hinges).mean()
    return loss + weight * torch.stack(radii).mean()


FORMS = [
    *itertools.product(
        [True], CENTROID_KINDS, ["max", "mean"], ["all", "hardest:2", "mean", "batch:3"]
    ),
    *itertools.product([False], ["mean", "unit_of_mean"], ["max"], ["all", "hardest:99", "mean", "batch:1"]),
]  # fmt: skip


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(("units", "kind", "radius", "negatives"), FORMS)
def test_is_what_the_formula_says(units: bool, kind: str, radius: str, negatives: str, soft: bool) -> None:
    embeddings, labels = make_batch()
    classes, places = labels.unique(return_inverse=True)
    shares = F.one_hot(places, len(classes)).double()
    given: Tensor = labels
    if soft:
        generator = torch.Generator().manual_seed(1)
        spread = torch.rand(len(labels), len(classes), generator=generator, dtype=torch.float64) ** 3
        shares = 0.6 * shares + 0.4 * spread / spread.sum(dim=1, keepdim=True)
        given = torch.zeros(len(labels), int(classes.max()) + 1, dtype=torch.float64)
        given[:, classes] = shares
    loss = FATLoss(
        0.7, centroids=kind, radius=radius, radius_weight=0.4, negatives=negatives,
        distance=LpDistance(normalize_embeddings=units),
    )  # fmt: skip
    ours, theirs = (embeddings.clone().requires_grad_() for _ in range(2))
    value = loss(ours, given)
    everybody = torch.ones(len(labels), dtype=torch.bool)
    wanted = by_the_formula(theirs, shares, everybody, units, kind, radius, negatives, 0.7, 0.4)
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)
    (gradient,), (wanted_gradient,) = (
        torch.autograd.grad(v, x) for v, x in ((value, ours), (wanted, theirs))
    )
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-7, atol=1e-10)


def every_triplet(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The mean over all triplets of the batch, of unit vectors."""
    rows = F.normalize(embeddings, dim=1)
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    positives = same & ~torch.eye(len(labels), dtype=torch.bool)
    hinges = F.relu(apart[:, :, None] - apart[:, None, :] + margin)
    kept = positives[:, :, None] & ~same[:, None, :]
    return hinges[kept].mean()


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("negatives", ["all", "hardest:3"])
@pytest.mark.parametrize("kind", CENTROID_KINDS)
def test_bounds_the_loss_over_all_triplets(kind: str, negatives: str, noise: float) -> None:
    # both the positive and the negative are within a radius of their centroids, hence the weight of 2
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(64) % 8
    means = torch.randn(8, 10, generator=generator, dtype=torch.float64)
    embeddings = means[labels] + noise * torch.randn(64, 10, generator=generator, dtype=torch.float64)
    bound = FATLoss(0.1, centroids=kind, radius_weight=2.0, negatives=negatives)(embeddings, labels)
    exact = every_triplet(embeddings, labels, 0.1)
    assert bound >= exact
    assert exact > 0 or noise < 0.1


def test_a_bound_without_the_radius_would_not_hold() -> None:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(64) % 8
    embeddings = torch.randn(64, 10, generator=generator, dtype=torch.float64)
    loss = FATLoss(0.1, radius_weight=0.0)(embeddings, labels)
    assert loss < every_triplet(embeddings, labels, 0.1)


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_confident_samples_alone_form_centroids(form: str) -> None:
    embeddings, labels = make_batch()
    classes, places = labels.unique(return_inverse=True)
    confidence = torch.rand(len(labels), generator=torch.Generator().manual_seed(2))
    shares = F.one_hot(places, len(classes)).double()
    given = SoftLabels(labels[:, None], torch.ones(len(labels), 1)) if form == "soft" else labels
    value = FATLoss(threshold=0.6)(embeddings, given, confidence=confidence)
    wanted = by_the_formula(
        embeddings, shares, confidence >= 0.6, True, "unit_of_mean_of_units", "max", "all", 0.1, 1.0
    )
    torch.testing.assert_close(value, wanted)


def test_a_class_without_confident_samples_has_no_centroid() -> None:
    embeddings, labels = make_batch()
    confidence = torch.where(labels == 13, 0.0, 1.0)
    embeddings.requires_grad_()
    value = FATLoss()(embeddings, labels, confidence=confidence)
    # its samples are left out: they neither pull nor push
    wanted = FATLoss()(embeddings[labels != 13], labels[labels != 13])
    torch.testing.assert_close(value, wanted)
    (gradient,) = torch.autograd.grad(value, embeddings)
    assert (gradient[labels == 13] == 0).all()
    assert (gradient[labels != 13] != 0).any()


def test_nobody_confident_costs_nothing() -> None:
    embeddings, labels = make_batch()
    embeddings.requires_grad_()
    for negatives in ("all", "mean", "hardest:2", "batch:2"):
        value = FATLoss(negatives=negatives)(embeddings, labels, confidence=torch.zeros(len(labels)))
        value.backward()
        assert value == 0
        assert embeddings.grad is not None
        assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("negatives", ["all", "mean", "hardest:2", "batch:2"])
@pytest.mark.parametrize("samples", [0, 1, 5])
def test_one_class_leaves_the_radius_alone(negatives: str, samples: int) -> None:
    rows = torch.randn(samples, 6, dtype=torch.float64, requires_grad=True)
    value = FATLoss(negatives=negatives)(rows, torch.zeros(samples, dtype=torch.int64))
    value.backward()
    units = F.normalize(rows.detach(), dim=1)
    centroid = F.normalize(units.sum(dim=0), dim=0)
    wanted = (units - centroid).norm(dim=1).max() if samples else torch.tensor(0.0).double()
    torch.testing.assert_close(value.detach(), wanted, atol=1e-7, rtol=1e-7)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("negatives", ["all", "mean", "hardest:5", "batch:5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_stay_finite_at_distances_of_zero(negatives: str, dtype: torch.dtype) -> None:
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 1]], dtype=dtype, requires_grad=True)
    value = FATLoss(negatives=negatives)(rows, torch.tensor([0, 0, 1, 1, 2, 2]))
    value.backward()
    assert value.isfinite()
    assert rows.grad is not None
    assert rows.grad.dtype == dtype
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("negatives", ["all", "mean", "hardest:2", "batch:2"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(negatives: str, value: float) -> None:
    embeddings, labels = make_batch()
    embeddings[4, 1] = value
    assert FATLoss(negatives=negatives)(embeddings, labels).isnan()


def test_presets_are_the_published_ones() -> None:
    paper, plain, authors = (FATLoss.preset(name) for name in ("paper", "paper plain", "authors"))
    assert (paper.margin, paper.radius_weight, paper.centroids, paper.radius, paper.negatives) == (
        0.1, 1.0, "unit_of_mean_of_units", "max", "all",
    )  # fmt: skip
    assert (plain.margin, plain.radius_weight, plain.centroids, plain.radius) == (1.0, 0.1, "mean", "max")
    assert (authors.margin, authors.radius, authors.negatives) == (1.0, "mean", "batch:1")
    assert not authors.closeness.normalised


def test_reducers() -> None:
    embeddings, labels = make_batch()
    rows = FATLoss(reducer="none")(embeddings, labels)
    assert rows.shape == labels.shape
    whole = FATLoss()(embeddings, labels)
    radius = FATLoss(margin=-100)(embeddings, labels)  # no hinge is left
    torch.testing.assert_close(rows.mean() + radius, whole)
    pml = pytest.importorskip("pytorch_metric_learning.reducers")
    torch.testing.assert_close(FATLoss(reducer=pml.PerAnchorReducer())(embeddings, labels), whole)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_hybrid_adds_the_cross_entropy_of_its_classifier(soft: bool) -> None:
    embeddings, labels = make_batch()
    hybrid = HybridFATLoss(80, 12, classifier_weight=0.3).double()
    given: Tensor | SoftLabels = labels
    target: Tensor = labels
    if soft:
        target = F.one_hot(labels, 80).double() * 0.8
        target[:, 5] += 0.2
        given = SoftLabels.of(target, most=2)
    found = hybrid(embeddings, given)
    entropy = F.cross_entropy(embeddings @ hybrid.classifier.weight.T, target)
    wanted = FATLoss()(embeddings, given) + 0.3 * entropy
    torch.testing.assert_close(found, wanted)
    gradients, wanted_gradients = (
        torch.autograd.grad(value, hybrid.classifier.weight)[0] for value in (found, wanted)
    )
    torch.testing.assert_close(gradients, wanted_gradients)
    assert set(hybrid.state_dict()) == {"classifier.weight"}


@pytest.mark.parametrize("negatives", ["hardest:100000", "batch:100000"])
def test_more_negatives_than_there_are_is_all_of_them(negatives: str) -> None:
    embeddings, labels = make_batch()
    found = FATLoss(negatives=negatives)(embeddings, labels)
    torch.testing.assert_close(found, FATLoss(negatives=negatives.replace("00000", "0"))(embeddings, labels))


@pytest.mark.parametrize("negatives", ["all", "mean", "hardest:2", "batch:2"])
def test_far_from_the_origin_distances_keep_their_digits(negatives: str) -> None:
    embeddings, labels = make_batch()
    loss = FATLoss(20.0, distance=PLAIN, negatives=negatives)
    far = (embeddings + 1000).float().requires_grad_()
    truth = far.detach().double().requires_grad_()
    value, wanted = loss(far, labels), loss(truth, labels)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
    for given in (value, wanted):
        given.backward()
    assert far.grad is not None
    torch.testing.assert_close(far.grad.double(), truth.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("negatives", ["all", "mean", "hardest:2", "batch:2"])
def test_soft_labels_of_another_dtype_change_nothing_about_the_loss(negatives: str) -> None:
    embeddings, labels = make_batch()
    target = 0.9 * F.one_hot(labels, 60).double() + 0.1 / 60
    for dtype in (torch.float64, torch.float32):
        value = FATLoss(negatives=negatives)(embeddings.float(), SoftLabels.of(target.to(dtype), most=4))
        assert value.dtype == torch.float32


def test_confidence_may_be_a_mask() -> None:
    embeddings, labels = make_batch()
    mask = labels != 13
    found = FATLoss()(embeddings, labels, confidence=mask)
    assert torch.equal(found, FATLoss()(embeddings, labels, confidence=mask.double()))


def test_reducers_of_another_making_survive_a_batch_of_one_class() -> None:
    pml = pytest.importorskip("pytorch_metric_learning.reducers")

    class Foreign(pml.MeanReducer):  # type: ignore[misc]
        """One without a twin here."""

    embeddings, labels = make_batch()
    one_class = torch.zeros_like(labels)
    found = FATLoss(reducer=Foreign())(embeddings, one_class)
    torch.testing.assert_close(found, FATLoss()(embeddings, one_class))


ERRORS = [
    (lambda: FATLoss(threshold=math.nan), "threshold must be a finite number, got nan"),
    (lambda: FATLoss(negatives="hardest:²"), "negatives must be"),
    (lambda: HybridFATLoss(5, 4, classifier_weight=math.nan), "classifier_weight must be a finite number"),
    (lambda: FATLoss(negatives="hardest"), "negatives must be"),
    (lambda: FATLoss(negatives="hardest:0"), "negatives must be"),
    (lambda: FATLoss(negatives="all:3"), "negatives must be"),
    (lambda: FATLoss(centroids="median"), "centroids must be one of"),
    (lambda: FATLoss(radius="min"), "radius must be one of max, mean, got 'min'"),
    (lambda: FATLoss(math.inf), "margin must be a finite number"),
    (lambda: FATLoss(distance=LpDistance(power=2)), "distance of FastApproximatedTripletLoss must be"),
    (lambda: HybridFATLoss(0, 4), "num_classes must be a positive integer"),
    (lambda: HybridFATLoss(80, 4)(*make_batch()), r"embeddings must have shape \[B, 4\]"),
    (lambda: HybridFATLoss(8, 12).double()(*make_batch()), r"labels must be in \[0, 8\)"),
    (lambda: FATLoss()(make_batch()[0], make_batch()[1][:-1]), r"labels must have shape \[24\]"),
    (lambda: FATLoss()(make_batch()[0], torch.full((24, 5), 0.3)), "labels must be distributions"),
    (lambda: FATLoss()(make_batch()[0], SoftLabels.of(torch.eye(5))), "labels must be those of 24 samples"),
    (
        lambda: FATLoss()(*make_batch(), confidence=torch.ones(3)),
        r"confidence must be floating or bool \[24\]",
    ),
    (lambda: FATLoss()(*make_batch(), (1, 2, 3)), "indices_tuple, ref_emb and ref_labels must be None"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_bad_input_is_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=message):
        call()


def test_fat_is_the_short_name() -> None:
    assert FATLoss is FastApproximatedTripletLoss
