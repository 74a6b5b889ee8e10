"""The optimisers of the papers: which parameter gets which rate, when it falls, and what stays frozen."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fastdml
from fastdml import losses, recipes
from fastdml.errors import InputError
from fastdml.training.network import EmbeddingNetwork


@pytest.fixture
def model() -> EmbeddingNetwork:
    torch.manual_seed(0)
    return EmbeddingNetwork(6, 4)


def soft_triple() -> losses.SoftTripleLoss:
    return losses.SoftTripleLoss.preset("paper", num_classes=5, embedding_size=6)


def parameters(groups: list) -> list[int]:
    return [id(parameter) for group in groups for parameter in group["params"]]


def test_it_comes_with_the_package() -> None:
    assert fastdml.recipes is recipes


def test_every_parameter_is_in_one_group_with_its_rate(model: EmbeddingNetwork) -> None:
    loss = soft_triple()
    groups = recipes.parameter_groups(model, loss, lr=0.1, center_lr=0.5, weight_decay=0.2)
    expected = [id(parameter) for module in (model, loss) for parameter in module.parameters()]
    assert sorted(parameters(groups)) == sorted(expected)
    weights, vectors, centers = groups
    assert all(parameter.ndim > 1 for parameter in weights["params"])
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    assert centers["params"] == [loss.fc]
    assert [group["lr"] for group in groups] == [0.1, 0.1, 0.5]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0, 0.0]
    assert centers["name"] == recipes.CENTERS
    torch.optim.AdamW(groups)


def test_centres_take_the_rate_of_the_network_unless_told(model: EmbeddingNetwork) -> None:
    groups = recipes.parameter_groups(model, soft_triple(), lr=0.1)
    assert {group["lr"] for group in groups} == {0.1}


def test_centres_inside_another_loss_are_found(model: EmbeddingNetwork) -> None:
    margin, proxy = losses.MarginLoss.preset("paper"), losses.ProxyAnchorLoss(5, 6)
    wrapped = losses.MultipleLosses([margin, proxy])
    groups = recipes.parameter_groups(model, wrapped, lr=0.1, center_lr=0.5, weight_decay=0.2)
    assert [group["name"] for group in groups] == ["weights", "biases and norms", "loss", "centers"]
    learnt, centers = groups[2:]
    assert parameters([learnt]) == [id(margin.beta)]
    assert (learnt["lr"], learnt["weight_decay"]) == (0.1, 0.0)
    assert parameters([centers]) == [id(proxy.proxies)]


def test_one_step_moves_network_and_centres_by_their_own_rates(model: EmbeddingNetwork) -> None:
    loss = soft_triple()
    optimizer = torch.optim.Adam(recipes.parameter_groups(model, loss, lr=1e-3, center_lr=1e-1))
    before = copy.deepcopy((model, loss))
    loss(model(torch.rand(8, 1, 32, 32)), torch.arange(8) % 5).backward()
    optimizer.step()
    moved = [
        max(
            float((new - old).detach().abs().max())
            for new, old in zip(a.parameters(), b.parameters(), strict=True)
        )
        for a, b in zip((model, loss), before, strict=True)
    ]
    assert moved == [pytest.approx(1e-3, rel=1e-2), pytest.approx(1e-1, rel=1e-2)]  # Adam's first step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be a number from 0 on, got -1.0"),
        ({"lr": 0.1, "center_lr": float("nan")}, "center_lr must be a number from 0 on, got nan"),
        ({"lr": 0.1, "weight_decay": -0.5}, "weight_decay must be a number from 0 on, got -0.5"),
    ],
)
def test_rates_that_cannot_work_are_named(model: EmbeddingNetwork, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipes.parameter_groups(model, soft_triple(), **settings)


def rates_over(recipe: recipes.Recipe, units: int) -> list[dict[str, float]]:
    found = []
    for _ in range(units):
        found.append({group["name"]: group["lr"] for group in recipe.optimizer.param_groups})
        recipe.optimizer.step()
        recipe.scheduler.step()
    return found


def test_soft_triple_is_trained_as_in_the_paper(model: EmbeddingNetwork) -> None:
    recipe = recipes.soft_triple(model, soft_triple())
    assert type(recipe.optimizer) is torch.optim.Adam
    assert {group["eps"] for group in recipe.optimizer.param_groups} == {0.01}
    assert {group["weight_decay"] for group in recipe.optimizer.param_groups} == {1e-4}
    assert (recipe.unit, recipe.length, recipe.batch, recipe.samples_per_class) == ("epoch", 50, 32, None)
    rates = rates_over(recipe, recipe.length)
    for first, last, factor in ((0, 20, 1.0), (20, 40, 0.1), (40, 50, 0.01)):
        for rate in rates[first:last]:
            assert rate["weights"] == pytest.approx(1e-4 * factor)
            assert rate["biases and norms"] == pytest.approx(1e-4 * factor)
            assert rate["centers"] == pytest.approx(1e-2 * factor)


def test_soft_triple_needs_centres(model: EmbeddingNetwork) -> None:
    with pytest.raises(InputError, match="loss must have centres of classes, got MultiSimilarityLoss"):
        recipes.soft_triple(model, losses.MultiSimilarityLoss())


def test_multi_similarity_is_trained_as_in_the_paper(model: EmbeddingNetwork) -> None:
    recipe = recipes.multi_similarity(model)
    assert type(recipe.optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in recipe.optimizer.param_groups} == {5e-4}
    assert (recipe.unit, recipe.batch, recipe.samples_per_class) == ("step", 80, 5)
    rates = [rate["weights"] for rate in rates_over(recipe, recipe.length)]
    assert rates == pytest.approx([3e-5] * 1200 + [3e-6] * 1200 + [3e-7] * 600)
    assert recipes.multi_similarity(model, batch=1000).batch == 1000
    with pytest.raises(InputError, match="batch must be a multiple of 5 that holds at least two classes"):
        recipes.multi_similarity(model, batch=81)


@pytest.mark.parametrize("made", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_frozen_batch_norm_keeps_its_statistics_in_training(model: EmbeddingNetwork, made) -> None:
    assert recipes.freeze_batch_norm(model) is model
    model = made(model).eval().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4
    before = [norm.running_mean.clone() for norm in norms]
    images = torch.rand(8, 1, 32, 32)
    output = model(images)
    assert all(torch.equal(norm.running_mean, kept) for norm, kept in zip(norms, before, strict=True))
    assert model.training
    torch.testing.assert_close(output[:3], model(images[:3]))  # no image depends on the others
    output.sum().backward()
    assert all(norm.weight.grad.abs().sum() > 0 for norm in norms)
