"""The loss of the batches of all ranks is that of one process on the whole batch."""

from __future__ import annotations

import re
from pathlib import Path

import global_cases as cases
import global_faults as faults
import global_runs as runs
import pytest
import torch
from global_cases import CATALOGUE, DIVISIONS, MORE, Found, of_one_process, of_this_rank
from ranks import Ranks

from fastdml import available_backends, losses
from fastdml.distributed import GlobalBatchLoss
from fastdml.errors import InputError

DOCUMENT = Path(__file__).parents[2] / "docs" / "many-ranks.md"
NAMES = (*CATALOGUE, *MORE, *(f"{kind}, {how}" for kind in cases.REDUCED for how in cases.REDUCERS))
SHARES = (48, 24, 40, 80)
"""Samples of every rank where its work is looked at."""


def joined(parts: list[Found]) -> Found:
    """What the ranks found, as one."""
    first = parts[0]
    for part in parts[1:]:  # bitwise on all ranks
        for value, other in zip(part.values, first.values, strict=True):
            assert torch.equal(value, other) or value.isnan().any()
        assert part.parameters.keys() == first.parameters.keys()
        for name, gradient in part.parameters.items():
            assert torch.equal(gradient, first.parameters[name])
    return first._replace(embeddings=torch.cat([part.embeddings for part in parts]))


def assert_same(found: Found, wanted: Found, tolerance: float) -> None:
    """Up to a share of every number and of the largest."""
    pairs = list(zip(found.values, wanted.values, strict=True))
    pairs.append((found.embeddings, wanted.embeddings))
    assert found.parameters.keys() == wanted.parameters.keys()
    pairs += [(found.parameters[name], truth) for name, truth in wanted.parameters.items()]
    for value, truth in pairs:
        scale = float(truth.abs().max()) if truth.numel() else 0.0
        torch.testing.assert_close(value, truth, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", NAMES)
def test_equals_one_process(ranks: Ranks, name: str) -> None:
    wanted = of_one_process(name)
    assert wanted.embeddings.abs().max() > 0
    for sizes in DIVISIONS:
        assert_same(joined(ranks(len(sizes), of_this_rank, name, sizes)), wanted, 1e-12)


@pytest.mark.parametrize("name", CATALOGUE)
def test_equals_one_process_in_float32(ranks: Ranks, name: str) -> None:
    found = joined(ranks(4, of_this_rank, name, DIVISIONS[1], torch.float32))
    wanted, truth = of_one_process(name, torch.float32), of_one_process(name)
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-6, atol=0)
    # as far from the truth as one process, and the rounding of sums in another order
    scale = float(truth.embeddings.abs().max())
    error = float((wanted.embeddings - truth.embeddings).abs().max())
    assert float((found.embeddings - truth.embeddings).abs().max()) <= 2 * error + 1e-6 * scale


@pytest.mark.parametrize("name", ["multi-similarity", "lifted", "margin", "triplet-hard", "fat"])
def test_bfloat16_embeddings(ranks: Ranks, name: str) -> None:
    found = joined(ranks(4, of_this_rank, name, DIVISIONS[1], torch.bfloat16))
    wanted = of_one_process(name, torch.bfloat16)
    torch.testing.assert_close(found.values, wanted.values, rtol=1e-5, atol=0)
    scale = float(wanted.embeddings.abs().max())
    torch.testing.assert_close(found.embeddings, wanted.embeddings, rtol=2**-7, atol=2**-8 * scale)


def test_gradients_are_summed_before_they_are_rounded(ranks: Ranks) -> None:
    for parts in ((256, 1, -256), (1, -256, 256), (-256, 256, 1)):  # in bfloat16, 256 + 1 is 256
        assert [found.item() for found in ranks(3, cases.cancelling_parts, parts)] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["supcon", "lifted"])
def test_a_rank_without_negatives_knows_of_those_of_others(ranks: Ranks, kind: str) -> None:
    wanted = cases.differentiated(cases.lopsided_loss(kind), *cases.lopsided())
    found = joined(ranks(2, cases.lopsided_on_ranks, kind))
    assert found.embeddings[4:].abs().max() > 0
    assert_same(found, wanted, 1e-12)


@pytest.mark.parametrize("kind", ["sparse", "dense", "trusted", "weighted"])
def test_soft_labels_confidence_and_weights(ranks: Ranks, kind: str) -> None:
    loss, labels, options = cases.soft_problem(kind)
    wanted = cases.differentiated(loss, cases.samples()[0], labels, **options)
    for sizes in DIVISIONS:
        assert_same(joined(ranks(len(sizes), cases.soft_on_ranks, kind, sizes)), wanted, 1e-12)


@pytest.mark.parametrize("name", runs.MEMORIES)
def test_a_memory_of_the_batches_of_all_ranks(ranks: Ranks, name: str) -> None:
    memory = runs.MEMORIES[name]()
    wanted = runs.remembered(memory, lambda values: values)
    found = ranks(4, runs.remembered_on_ranks, name, DIVISIONS[1])
    for step, truth in enumerate(wanted):
        assert_same(joined([steps[step] for steps, _ in found]), truth, 1e-12)
    for _, ring in found:
        assert torch.equal(ring, memory.embedding_memory)


@pytest.mark.parametrize("name", ["multi-similarity", "supcon", "margin", "fat-hybrid", "memory"])
def test_twenty_steps_of_a_data_parallel_network(ranks: Ranks, name: str) -> None:
    wanted = runs.trained_in_one_process(name)
    assert wanted.values.std() > 0
    for found in ranks(4, runs.trained_on_ranks, name, (5, 2, 3, 7)):
        torch.testing.assert_close(found.values, wanted.values, rtol=1e-6, atol=0)
        for value, truth in zip(found.parameters, wanted.parameters, strict=True):
            torch.testing.assert_close(value, truth, rtol=1e-6, atol=1e-6 * float(truth.abs().max()))


@pytest.mark.parametrize("name", ["margin, a boundary a class", "fat-hybrid", "boundary and regulariser"])
def test_data_parallel_multiplies_the_gradient_of_embeddings_alone(ranks: Ranks, name: str) -> None:
    wanted = of_one_process(name)
    found = joined(ranks(2, of_this_rank, name, DIVISIONS[0], torch.float64, 0, True))
    assert_same(found, wanted._replace(embeddings=2 * wanted.embeddings), 1e-12)


@pytest.mark.parametrize("name", ["multi-similarity", "supcon", "margin", "lifted", "triplet"])
def test_a_rank_compares_its_own_anchors_alone(ranks: Ranks, name: str) -> None:
    whole = runs.work(cases.loss_named(name), *runs.crowd(), "reference")
    assert whole.elements % (192 * 192) == 0
    for size, work in zip(SHARES, ranks(4, runs.work_on_ranks, name, SHARES, "reference"), strict=True):
        assert work.elements * 192 == whole.elements * size


@pytest.mark.parametrize("backend", ["blocked", "cpu"])
def test_the_pair_operator_sees_own_anchors_and_all_candidates(ranks: Ranks, backend: str) -> None:
    if backend not in available_backends():
        pytest.skip(f"{backend} cannot run here")
    found = ranks(4, runs.work_on_ranks, "multi-similarity", SHARES, backend)
    assert [work.calls for work in found] == [[(size, 192)] for size in SHARES]


def test_what_is_no_sum_over_anchors_is_computed_whole(ranks: Ranks) -> None:
    for work in ranks(2, runs.work_on_ranks, "triplets, swapped", (96, 96), "reference"):
        assert work.elements >= 192 * 192


def test_one_rank_is_the_plain_loss(ranks: Ranks) -> None:
    for name in ("multi-similarity", "margin", "fat-hybrid"):
        wanted = of_one_process(name, torch.float32)
        (found,) = ranks(1, of_this_rank, name, (cases.SAMPLES,), torch.float32)
        assert_same(found, wanted, 0)


@pytest.mark.parametrize("name", ["multi-similarity", "triplet", "supcon", "margin", "fat"])
def test_nan_on_one_rank_is_nan_on_all(ranks: Ranks, name: str) -> None:
    for value, gradient in ranks(2, faults.not_finite, name):
        assert value.isnan()
        assert gradient.isnan().any()


@pytest.mark.parametrize("name", ["multi-similarity", "margin", "fat"])
def test_only_some_ranks_want_a_gradient(ranks: Ranks, name: str) -> None:
    first, second = ranks(2, faults.with_mixed_wants, name)
    assert first is None
    torch.testing.assert_close(second, of_one_process(name).embeddings[9:], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["multi-similarity", "margin", "lifted", "triplet-hard", "proxy-anchor"])
def test_no_samples_at_all(ranks: Ranks, name: str) -> None:
    wanted = cases.differentiated(
        cases.loss_named(name).double(),
        torch.empty(0, cases.WIDTH, dtype=torch.float64),
        torch.empty(0, dtype=torch.int64),
    )
    for found in ranks(2, faults.of_nothing, name):
        assert_same(found, wanted, 1e-12)


def test_two_runs_are_bitwise_equal(ranks: Ranks) -> None:
    both = [joined(ranks(4, of_this_rank, "several", DIVISIONS[1], torch.float32)) for _ in range(2)]
    assert_same(*both, 0)


def test_every_rank_draws_the_triplets_of_its_own_anchors(ranks: Ranks) -> None:
    found = joined(ranks(2, cases.sampled_triplets))
    assert found.embeddings[:9].abs().max() > 0
    assert found.embeddings[9:].abs().max() > 0


@pytest.mark.parametrize(
    ("fault", "messages"),
    {
        "shape": (r"an error on rank 1", r"labels must have shape \[8\], got \[7\]"),
        "width": (r"must have shape \[B, 4\] like those of rank 1, got \[B, 5\]", r"\[B, 5\] .* rank 0"),
        "dtype": ("the dtype of rank 1, float64, got float32", "the dtype of rank 0, float32, got float64"),
        "no tensor": ("an error on rank 1", "embeddings must be a tensor"),
        "soft labels": ("labels must be integers for MultiSimilarityLoss",) * 2,
        "indices_tuple": ("indices_tuple, ref_emb and ref_labels must be None",) * 2,
        "confidence": ("confidence must be None for MultiSimilarityLoss",) * 2,
        "confidence on one": ("in the form of those of rank 1", "in the form of those of rank 0"),
        "unknown label": ("IndexError",) * 2,
        "label of no centre": (r"labels must be in \[0, 6\), got",) * 2,
        "memory": ("at most memory_size = 10 rows, got 17",) * 2,
    }.items(),
)
def test_what_does_not_fit_is_an_error_on_all_ranks(
    ranks: Ranks, fault: str, messages: tuple[str, str]
) -> None:
    for got, wanted in zip(ranks(2, faults.refused_by, fault), messages, strict=True):
        assert re.search(wanted, got), got


def test_losses_without_a_global_batch_are_refused(ranks: Ranks) -> None:
    with pytest.raises(InputError, match="group must be a process group, got none"):
        GlobalBatchLoss(losses.ContrastiveLoss())
    for found in ranks(2, faults.refused_losses):
        for name, message in {
            "sharded": "got ShardedCenters, which is one of all ranks",
            "global": "got GlobalBatchLoss, which is one of all ranks",
            "self-supervised": "loss must be one of labels, got SelfSupervisedLoss",
            "bank": "loss must be without a CentroidBank",
            "sampled": "triplets_per_anchor must be 'all' for TripletMarginLoss",
        }.items():
            assert message in found[name], found[name]


def test_document(ranks: Ranks) -> None:
    code = re.findall(
        r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    found = ranks(4, runs.run_document, code)
    assert all(torch.equal(found[0], other) for other in found)
    assert not torch.equal(found[0], runs.network()[0].weight)
