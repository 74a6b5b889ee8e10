"""What the losses with centres do beyond pytorch-metric-learning, and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastdml
import fastdml.distances
from fastdml import InputError, reducers
from fastdml.losses import (
    ArcFaceLoss,
    CosFaceLoss,
    HardTripleLoss,
    NormalizedSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SphereFaceLoss,
    SubCenterArcFaceLoss,
)

CLASSES, WIDTH, COUNT = 11, 8, 20
SIZES = (CLASSES, WIDTH)
ALL = (
    SoftTripleLoss,
    HardTripleLoss,
    NormalizedSoftmaxLoss,
    ProxyNCALoss,
    ArcFaceLoss,
    CosFaceLoss,
    SphereFaceLoss,
    SubCenterArcFaceLoss,
    ProxyAnchorLoss,
)
SOFTMAX = ALL[:-1]
of_all = pytest.mark.parametrize("kind", ALL)
of_softmax = pytest.mark.parametrize("kind", SOFTMAX)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(COUNT, WIDTH, generator=generator, dtype=torch.float64)
    return embeddings.to(dtype), torch.randint(CLASSES, (COUNT,), generator=generator)


def made(kind: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    return kind(*SIZES, **options).double()


def logits_with_margin(loss: Any, embeddings: Tensor, labels: Tensor) -> Tensor:
    """[B, C], by the rule's own target, for cross-entropy in plain PyTorch."""
    logits = loss.rule().scale * loss.class_similarities(embeddings)
    rows = torch.arange(len(labels))
    target = loss.rule().target(loss.class_similarities(embeddings)[rows, labels], embeddings.norm(dim=1))
    logits[rows, labels] = loss.rule().scale * target
    return logits


# papers' formulas


def test_hard_triple_takes_the_closest_centre() -> None:
    loss = made(HardTripleLoss, centers_per_class=4)
    embeddings, labels = batch()
    cosines = F.normalize(embeddings) @ F.normalize(loss.fc, dim=0)
    closest = cosines.view(COUNT, CLASSES, 4).amax(dim=2)
    closest[torch.arange(COUNT), labels] -= 0.01
    torch.testing.assert_close(loss(embeddings, labels), F.cross_entropy(20 * closest, labels))


def test_proxy_nca_of_the_paper() -> None:
    loss = ProxyNCALoss.preset("paper", num_classes=CLASSES, embedding_size=WIDTH).double()
    embeddings, labels = batch()
    apart = torch.cdist(3 * F.normalize(embeddings), 3 * F.normalize(loss.proxies)).square()
    own = F.one_hot(labels, CLASSES).bool()
    target = apart[own]
    others = (-apart).masked_fill(own, -math.inf).logsumexp(dim=1)
    torch.testing.assert_close(loss(embeddings, labels), (target + others).mean())


def test_regulariser_is_that_of_the_paper() -> None:
    loss = made(SoftTripleLoss, centers_per_class=3, tau=0.2)
    embeddings, labels = batch()
    centers = F.normalize(loss.fc, dim=0).T.view(CLASSES, 3, WIDTH)
    total = sum(
        (2 + 1e-5 - 2 * centers[c, s] @ centers[c, t]).sqrt()
        for c in range(CLASSES)
        for s in range(3)
        for t in range(s)
    )
    plain = made(SoftTripleLoss, centers_per_class=3)
    wanted = plain(embeddings, labels) + 0.2 * total / (CLASSES * 3 * 2)
    torch.testing.assert_close(loss(embeddings, labels), wanted)


@pytest.mark.parametrize("backend", ["cpu", "blocked", "reference"])
def test_merged_centres_have_finite_gradients(backend: str) -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        loss = SoftTripleLoss(*SIZES, centers_per_class=4, tau=0.2)
        with torch.no_grad():
            loss.fc.copy_(loss.fc[:, ::4].repeat_interleave(4, dim=1))
        with fastdml.use_backend(backend):
            loss(*batch(torch.float32)).backward()
        assert loss.fc.grad is not None
        assert loss.fc.grad.isfinite().all()


def test_arcface_has_finite_gradients_at_both_ends() -> None:
    loss = made(ArcFaceLoss)
    embeddings = torch.stack([loss.W[:, 0], -loss.W[:, 0]]).detach().requires_grad_()
    loss(embeddings, torch.tensor([0, 0])).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert loss.W.grad is not None
    assert loss.W.grad.isfinite().all()


# labels


@of_softmax
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
def test_label_smoothing_is_that_of_torch(kind: Any, smoothing: float) -> None:
    loss = made(kind, label_smoothing=smoothing)
    embeddings, labels = batch()
    wanted = F.cross_entropy(logits_with_margin(loss, embeddings, labels), labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss(embeddings, labels), wanted)


@pytest.mark.parametrize(
    "loss",
    [
        made(NormalizedSoftmaxLoss),
        made(SoftTripleLoss, margin=0),
        made(HardTripleLoss, margin=0),
        made(ProxyNCALoss),
        made(CosFaceLoss, margin=0),
        made(ArcFaceLoss, margin=0),
        made(SphereFaceLoss, margin=1),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_soft_labels_are_distributions_over_the_classes(loss: Any) -> None:
    embeddings, _ = batch()
    shares = torch.rand(COUNT, CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shares = shares / shares.sum(dim=1, keepdim=True)
    logits = loss.rule().scale * loss.class_similarities(embeddings)
    torch.testing.assert_close(loss(embeddings, shares), F.cross_entropy(logits, shares))
    labels = torch.randint(CLASSES, (COUNT,))
    hard = F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(loss(embeddings, hard), loss(embeddings, labels))


@of_softmax
def test_soft_labels_are_refused_where_there_is_a_margin(kind: Any) -> None:
    loss = made(kind)
    wanted = "whose target has a margin"
    if loss.rule().linear:
        loss.label_smoothing, wanted = 0.1, "where label_smoothing spreads them"
    with pytest.raises(InputError, match=f"labels must be integers .*{wanted}"):
        loss(batch()[0], torch.full((COUNT, CLASSES), 1 / CLASSES))


@of_all
def test_ignored_samples_do_not_count(kind: Any) -> None:
    loss = made(kind, ignore_index=-100)
    embeddings, labels = batch()
    some = labels.clone()
    some[::3] = -100
    kept = some != -100
    leaf = embeddings.clone().requires_grad_()
    loss(leaf, some).backward()
    torch.testing.assert_close(loss(leaf, some), made(kind)(embeddings[kept], labels[kept]))
    assert leaf.grad is not None
    assert not leaf.grad[~kept].any()
    assert float(loss(embeddings, torch.full_like(labels, -100)).detach()) == 0.0


@of_softmax
def test_ignored_samples_keep_their_places(kind: Any) -> None:
    embeddings, labels = batch()
    some = labels.clone()
    some[::3] = -100
    kept = some != -100
    each = made(kind, reducer="none", ignore_index=-100)(embeddings, some)
    assert each.shape == (COUNT,)
    assert not each[~kept].any()
    torch.testing.assert_close(each[kept], made(kind, reducer="none")(embeddings[kept], labels[kept]))
    listed = made(kind, reducer=reducers.DoNothingReducer(), ignore_index=-100)(embeddings, some)["loss"]
    assert listed["indices"].tolist() == kept.nonzero().flatten().tolist()
    torch.testing.assert_close(listed["losses"], each[kept])
    for reducer in (
        reducers.ThresholdReducer(low=1.0, high=30.0),
        reducers.AvgNonZeroReducer(),
        reducers.PerAnchorReducer(),
        reducers.ClassWeightedReducer(torch.arange(CLASSES, dtype=torch.float64)),
        reducers.SumReducer(),
    ):
        torch.testing.assert_close(
            made(kind, reducer=reducer, ignore_index=-100)(embeddings, some),
            made(kind, reducer=reducer)(embeddings[kept], labels[kept]),
        )


def test_ignored_samples_do_not_break_the_graph() -> None:
    torch._dynamo.reset()
    loss = SoftTripleLoss(*SIZES, ignore_index=-100)
    embeddings, labels = batch(torch.float32)
    labels[::3] = -100
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(embeddings, labels), loss(embeddings, labels))


def test_ignored_samples_are_no_outliers() -> None:
    loss = made(SubCenterArcFaceLoss, ignore_index=-100)
    embeddings, labels = batch()
    labels[::3] = -100
    assert all(labels[i] != -100 for i in loss.get_outliers(embeddings, labels, 10)[0].tolist())


@of_all
def test_a_label_out_of_range_shows_where_nothing_waits_for_it(kind: Any) -> None:
    torch._dynamo.reset()
    loss = kind(*SIZES)
    embeddings, labels = batch(torch.float32)
    labels[3] = CLASSES + 5
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert compiled(embeddings, labels).isnan()


@of_softmax
def test_weights_multiply_the_losses_of_samples(kind: Any) -> None:
    loss, each = made(kind), made(kind, reducer="none")
    embeddings, labels = batch()
    weights = torch.rand(COUNT, dtype=torch.float64)
    wanted = (each(embeddings, labels) * weights).mean()
    torch.testing.assert_close(loss(embeddings, labels, weights=weights), wanted)


@of_all
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_dtype(kind: Any, dtype: torch.dtype) -> None:
    embeddings, labels = batch()
    loss = made(kind)
    assert torch.equal(loss(embeddings, labels.to(dtype)), loss(embeddings, labels))


# dtypes


@of_all
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_batch_of_16_bits_leaves_the_centres_alone(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    loss = kind(*SIZES)
    embeddings, labels = batch(dtype)
    leaf = embeddings.requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    (parameter,) = loss.parameters()
    assert parameter.dtype == torch.float32
    assert parameter.grad is not None
    assert parameter.grad.dtype == torch.float32
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    torch.testing.assert_close(value, loss(embeddings.float(), labels), rtol=1e-2, atol=1e-2)


@of_all
def test_under_autocast_nothing_is_cast(kind: Any) -> None:
    torch.manual_seed(1)
    loss = kind(*SIZES)
    embeddings, labels = batch(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(embeddings, labels)
    assert torch.equal(inside, loss(embeddings, labels))


@of_all
def test_compiles_in_one_graph(kind: Any) -> None:
    torch.manual_seed(1)
    loss = kind(*SIZES)
    embeddings, labels = batch(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaf = embeddings.clone().requires_grad_()
    value = compiled(leaf, labels)
    value.backward()
    again = embeddings.clone().requires_grad_()
    loss(again, labels).backward()
    torch.testing.assert_close(leaf.grad, again.grad)


# number of centres


def with_copies() -> SoftTripleLoss:
    """A loss of which class c has 1 + c % 3 different centres, the others near copies of the first."""
    loss = made(SoftTripleLoss, centers_per_class=4, tau=0.2)
    with torch.no_grad():
        for c in range(CLASSES):
            for k in range(1 + c % 3, 4):
                loss.fc[:, 4 * c + k] = loss.fc[:, 4 * c] * (k + 1) + 1e-4 * torch.randn(WIDTH)
    return loss


def test_counts_centres_that_differ() -> None:
    loss = with_copies()
    assert loss.count_centers(0.01).tolist() == [1 + c % 3 for c in range(CLASSES)]
    assert loss.count_centers(0.0).tolist() == [4] * CLASSES
    assert loss.count_centers(2.0).tolist() == [1] * CLASSES


def test_a_chain_of_close_centres_is_one() -> None:
    loss = made(SoftTripleLoss, centers_per_class=7)
    angles = torch.tensor([0.0, 0.3, 0.1, 0.2, 0.4, 2.0, 2.1])  # in steps of 0.1, not in order
    with torch.no_grad():
        loss.fc[:] = 0
        loss.fc[0] = angles.cos().repeat(CLASSES)
        loss.fc[1] = angles.sin().repeat(CLASSES)
    assert loss.count_centers(1 - math.cos(0.11)).tolist() == [2] * CLASSES
    assert loss.count_centers(1 - math.cos(0.09)).tolist() == [7] * CLASSES


def test_merged_centres_evaluate_and_train() -> None:
    loss = with_copies()
    embeddings, labels = batch()
    ragged = loss.merge_centers(0.01)
    counts = [1 + c % 3 for c in range(CLASSES)]
    assert ragged.count_centers(0.01).tolist() == counts
    assert ragged.fc.shape == (WIDTH, sum(counts))
    assert loss.fc.shape == (WIDTH, 4 * CLASSES), "the loss itself stays as it is"
    wanted = []
    for c in range(CLASSES):
        centers = ragged.centers_of(c)
        assert len(centers) == counts[c]
        cosines = F.normalize(embeddings) @ F.normalize(centers).T
        wanted.append((torch.softmax(cosines / 0.1, dim=1) * cosines).sum(dim=1))
    logits = torch.stack(wanted, dim=1)
    torch.testing.assert_close(ragged.get_logits(embeddings), logits)
    logits[torch.arange(COUNT), labels] -= 0.01
    spread = sum(
        torch.cdist(one, one).square().add(1e-5).sqrt().tril(-1).sum() / (len(one) * (len(one) - 1))
        for one in map(ragged.centers_of, range(CLASSES))
        if len(one) > 1
    )
    expected = F.cross_entropy(20 * logits, labels) + 0.2 * spread / CLASSES
    torch.testing.assert_close(ragged(embeddings, labels), expected)
    before = float(ragged(embeddings, labels).detach())
    optimizer = torch.optim.Adam(ragged.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        ragged(embeddings, labels).backward()
        optimizer.step()
    assert float(ragged(embeddings, labels).detach()) < before - 0.5


@pytest.mark.parametrize("backend", ["cpu", "blocked", "reference"])
def test_merged_centres_on_every_backend(backend: str) -> None:
    ragged = with_copies().merge_centers(0.01)
    embeddings, labels = batch()
    with fastdml.use_backend("reference"):
        wanted = torch.autograd.grad(ragged(embeddings, labels), ragged.fc)
    with fastdml.use_backend(backend):
        found = torch.autograd.grad(ragged(embeddings, labels), ragged.fc)
    torch.testing.assert_close(found, wanted)


def test_merged_centres_are_saved_and_loaded() -> None:
    ragged = with_copies().merge_centers(0.01)
    fresh = made(SoftTripleLoss, centers_per_class=4, tau=0.2)
    fresh.load_state_dict(ragged.state_dict())
    assert torch.equal(fresh(*batch()), ragged(*batch()))
    torch.testing.assert_close(ragged.merge_centers(0.01)(*batch()), ragged(*batch()))


def test_an_optimiser_goes_on_after_merged_centres_are_loaded() -> None:
    ragged = with_copies().merge_centers(0.01)
    fresh = made(SoftTripleLoss, centers_per_class=4, tau=0.2)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=1.0)
    fresh.load_state_dict(ragged.state_dict())
    fresh(*batch()).backward()
    optimizer.step()
    assert not torch.equal(fresh.fc, ragged.fc)


def test_a_state_that_contradicts_itself_leaves_the_loss_alone() -> None:
    state = with_copies().merge_centers(0.01).state_dict()
    state["fc"] = state["fc"][:, :-1]
    fresh = made(SoftTripleLoss, centers_per_class=4)
    before = fresh.fc.detach().clone()
    with pytest.raises(InputError, match=r"fc of the state_dict must have shape \[8, 21\]"):
        fresh.load_state_dict(state)
    assert torch.equal(fresh.fc, before)


def test_centres_of_their_own_lengths_are_not_merged() -> None:
    far = fastdml.distances.DotProductSimilarity(normalize_embeddings=False)
    with pytest.raises(InputError, match="distance must scale centres"):
        made(SoftTripleLoss, distance=far).merge_centers(0.0)


def test_a_merged_loss_is_apart_from_the_first() -> None:
    loss = with_copies()
    ragged = loss.merge_centers(0.01)
    for again in (copy.deepcopy(ragged), pickle.loads(pickle.dumps(ragged))):
        assert torch.equal(again(*batch()), ragged(*batch()))
    called: list[int] = []
    ragged.register_forward_hook(lambda *_: called.append(1))
    loss(*batch())
    assert not called
    ragged(*batch())
    assert called


def test_the_first_centres_of_other_sizes_show() -> None:
    loss = made(SubCenterArcFaceLoss)
    with torch.no_grad():
        loss.W.copy_(loss.W[:, ::3].repeat_interleave(3, dim=1))
    assert loss.merge_centers(1e-9).sub_centers == 1


@pytest.mark.parametrize("kind", [HardTripleLoss, SubCenterArcFaceLoss])
def test_other_losses_of_several_centres_merge_too(kind: Any) -> None:
    loss = made(kind)
    (parameter,) = loss.parameters()
    with torch.no_grad():
        parameter[:, 1] = parameter[:, 0]
    merged = loss.merge_centers(1e-9)
    assert merged.count_centers(1e-9).sum() == loss.num_classes * loss.centers_per_class - 1
    torch.testing.assert_close(merged(*batch()), loss(*batch()))


# bad input


@of_all
@pytest.mark.parametrize("wrong", [-1, CLASSES, 1 << 40])
def test_labels_out_of_range_are_refused(kind: Any, wrong: int) -> None:
    embeddings, labels = batch()
    labels[3] = wrong
    with pytest.raises(InputError, match=rf"labels must be in \[0, {CLASSES}\), got {wrong}"):
        made(kind)(embeddings, labels)


@of_all
@pytest.mark.parametrize(
    ("sizes", "named"),
    [((0, 8), "num_classes"), ((3, 0), "embedding_size"), ((2.5, 8), "num_classes"), ((3, -1), "embedding")],
)
def test_sizes_must_be_positive_integers(kind: Any, sizes: tuple[Any, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        kind(*sizes)


@pytest.mark.parametrize("count", [0, -2, 1.5])
def test_at_least_one_centre_a_class(count: Any) -> None:
    for kind, name in ((SoftTripleLoss, "centers_per_class"), (SubCenterArcFaceLoss, "sub_centers")):
        with pytest.raises(InputError, match=f"{name} must be a positive integer"):
            kind(*SIZES, **{name: count})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SoftTripleLoss, {"la": 0}),
        (SoftTripleLoss, {"la": math.inf}),
        (SoftTripleLoss, {"gamma": 0}),
        (SoftTripleLoss, {"gamma": math.nan}),
        (SoftTripleLoss, {"margin": math.inf}),
        (SoftTripleLoss, {"tau": -1}),
        (NormalizedSoftmaxLoss, {"temperature": 0}),
        (ProxyNCALoss, {"softmax_scale": -1}),
        (ProxyNCALoss, {"form": "thesis"}),
        (ArcFaceLoss, {"margin": 181}),
        (ArcFaceLoss, {"scale": 0}),
        (CosFaceLoss, {"scale": math.inf}),
        (SphereFaceLoss, {"margin": 1.5}),
        (SphereFaceLoss, {"margin": math.nan}),
        (SphereFaceLoss, {"margin": math.inf}),
        (SoftTripleLoss, {"gamma": math.inf}),
        (ProxyAnchorLoss, {"centers_per_class": 2}),
        (ProxyAnchorLoss, {"alpha": 0}),
        (SoftTripleLoss, {"label_smoothing": 1.5}),
    ],
)
def test_settings_out_of_range_are_named(kind: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"^{name} must be"):
        kind(*SIZES, **options)


def test_a_regulariser_is_added_once_and_so_not_to_single_losses() -> None:
    with pytest.raises(InputError, match="reducer must be another than 'none' where tau"):
        SoftTripleLoss(*SIZES, tau=0.2, reducer="none")
    with pytest.raises(InputError, match="reducer must be another than 'none' where there is a weight"):
        ArcFaceLoss(*SIZES, reducer="none", weight_regularizer=torch.sum)


def test_the_form_of_the_paper_needs_another_class() -> None:
    with pytest.raises(InputError, match="num_classes must be at least 2"):
        ProxyNCALoss(1, WIDTH, form="paper")
    with pytest.raises(InputError, match="label_smoothing must be 0"):
        ProxyNCALoss(*SIZES, form="paper", label_smoothing=0.1)


def test_sizes_may_be_integers_of_numpy() -> None:
    assert ArcFaceLoss(np.int64(5), np.int32(4)).W.shape == (4, 5)


def test_squared_distances_of_any_length_keep_their_digits_in_16_bits() -> None:
    far = fastdml.distances.LpDistance(normalize_embeddings=False, power=2)
    torch.manual_seed(1)
    loss = ProxyNCALoss(*SIZES, distance=far)
    with torch.no_grad():
        loss.proxies.mul_(100)
    embeddings, labels = batch(torch.float16)
    exact = ProxyNCALoss(*SIZES, distance=far).double()
    exact.load_state_dict(loss.state_dict())
    torch.testing.assert_close(
        loss(embeddings, labels).double(), exact(embeddings.double(), labels), rtol=1e-5, atol=0
    )
    assert loss.get_logits(embeddings * 300).isfinite().all()


@of_softmax
def test_logits_are_kept_from_autocast(kind: Any) -> None:
    loss = kind(*SIZES)
    embeddings, _ = batch(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss.get_logits(embeddings)
    assert torch.equal(inside, loss.get_logits(embeddings))


@pytest.mark.parametrize("backend", ["cpu", "blocked", "reference"])
@pytest.mark.parametrize("options", [{"la": 1e30}, {"gamma": 1e-35}, {"la": 1e4, "gamma": 1e-4}])
def test_exponents_beyond_float32_have_a_defined_value(backend: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    loss = SoftTripleLoss(*SIZES, centers_per_class=3, margin=0.0, **options)
    exact = SoftTripleLoss(*SIZES, centers_per_class=3, margin=0.0, **options).double()
    exact.load_state_dict(loss.state_dict())
    embeddings, labels = batch(torch.float32)
    with fastdml.use_backend(backend):
        value = loss(embeddings, labels)
        value.backward()
    with fastdml.use_backend("reference"):
        wanted = exact(embeddings.double(), labels)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-4, atol=0)
    assert loss.fc.grad is not None
    assert loss.fc.grad.isfinite().all()


@of_all
def test_a_state_of_other_sizes_is_refused_by_name(kind: Any) -> None:
    (name,) = dict(kind(*SIZES).named_parameters())
    with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
        kind(*SIZES).load_state_dict(kind(CLASSES + 1, WIDTH).state_dict())


@of_all
def test_what_does_not_fit_is_named(kind: Any) -> None:
    loss = made(kind)
    embeddings, labels = batch()
    with pytest.raises(InputError, match=r"embeddings must have shape \[B, 8\], got \[20, 7\]"):
        loss(embeddings[:, :7], labels)
    with pytest.raises(InputError, match=r"labels must have shape \[20\], got \[19\]"):
        loss(embeddings, labels[:19])
    with pytest.raises(InputError, match="ref_emb and ref_labels must be None"):
        loss(embeddings, labels, None, embeddings, labels)


@of_softmax
def test_distances_that_do_not_fit_are_named(kind: Any) -> None:
    with pytest.raises(InputError, match=f"distance of {kind.__name__} must be"):
        kind(*SIZES, distance=fastdml.distances.LpDistance(power=1))


@pytest.mark.parametrize("kind", [ArcFaceLoss, CosFaceLoss, SphereFaceLoss, SubCenterArcFaceLoss])
def test_angles_need_a_cosine(kind: Any) -> None:
    with pytest.raises(InputError, match="CosineSimilarity"):
        kind(*SIZES, distance=fastdml.distances.DotProductSimilarity(normalize_embeddings=False))


def test_weights_that_do_not_fit_are_named() -> None:
    loss = made(SoftTripleLoss)
    for weights in (torch.ones(3), torch.ones(COUNT, dtype=torch.int64), [1.0] * COUNT):
        with pytest.raises(InputError, match=r"weights must be a floating tensor of shape \[20\]"):
            loss(*batch(), weights=weights)


@of_all
def test_zero_vectors_have_finite_gradients(kind: Any) -> None:
    loss = made(kind)
    embeddings, labels = batch()
    embeddings[2] = 0
    (parameter,) = loss.parameters()
    with torch.no_grad():
        (parameter.T if parameter.shape[0] == WIDTH else parameter)[4] = 0
    leaf = embeddings.requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    assert value.isfinite()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert parameter.grad.isfinite().all()


@of_all
def test_an_empty_batch_is_a_differentiable_zero(kind: Any) -> None:
    loss = made(kind)
    value = loss(torch.empty(0, WIDTH, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    value.backward()
    assert float(value.detach()) == 0.0


@of_softmax
def test_one_class_costs_nothing(kind: Any) -> None:
    loss = kind(1, WIDTH)
    leaf = batch(torch.float32)[0].requires_grad_()
    value = loss(leaf, torch.zeros(COUNT, dtype=torch.int64))
    value.backward()
    assert float(value.detach()) == 0.0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_presets() -> None:
    assert SoftTripleLoss.preset("paper", num_classes=3, embedding_size=4).tau == 0.2
    assert SoftTripleLoss.preset("many centres", num_classes=3, embedding_size=4).centers_per_class == 20
    assert isinstance(SoftTripleLoss.preset("pml", num_classes=3, embedding_size=4).fc, nn.Parameter)
    with pytest.raises(InputError, match="preset must be one of pml, paper"):
        ProxyNCALoss.preset("thesis")


def test_the_loss_shows_what_it_is() -> None:
    assert "centers_per_class=10, la=20, gamma=0.1" in repr(SoftTripleLoss(*SIZES))
