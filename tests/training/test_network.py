"""The built-in network and the evaluation that uses it."""

from __future__ import annotations

import pytest
import torch

from fastdml.training import EmbeddingNetwork
from fastdml.training.evaluation import embed, raw_pixels, retrieve
from fastdml.training.network import global_gradient_norm


def test_every_parameter_gets_a_gradient():
    model = EmbeddingNetwork(16, 8)
    model(torch.rand(6, 1, 32, 32)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert global_gradient_norm(model) == pytest.approx(float(flat.norm()), rel=1e-5)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_image_sizes(size):
    assert EmbeddingNetwork(5, 4, image_size=size)(torch.rand(2, 1, size, size)).shape == (2, 5)


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match=r"images must have shape \[N, 1, 32, 32\], got \[2, 3, 32, 32\]"):
        EmbeddingNetwork()(torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match="image_size must be a multiple of 16, got 28"):
        EmbeddingNetwork(image_size=28)


def test_pixel_statistics_are_those_of_the_images():
    images = torch.randint(0, 256, (7, 1, 32, 32), dtype=torch.uint8)
    model = EmbeddingNetwork(4, 4)
    model.set_pixel_statistics(images)
    scaled = images.double() / 255
    assert float(model.pixel_mean) == pytest.approx(float(scaled.mean()), rel=1e-6)
    assert float(model.pixel_std) == pytest.approx(float(scaled.std(correction=0)), rel=1e-6)
    model.set_pixel_statistics(torch.zeros_like(images))
    assert torch.isfinite(model(torch.zeros(2, 1, 32, 32))).all()


def test_embedding_a_split_is_evaluation_mode_and_restores_training(tiny_data):
    from fastdml.training import catalogue

    split = catalogue.find_dataset("tiny").load("test")
    model = EmbeddingNetwork(8, 4)
    statistics = model.blocks[0][2].running_mean.clone()
    whole = embed(model, split, torch.device("cpu"))
    assert model.training
    assert torch.equal(model.blocks[0][2].running_mean, statistics)
    assert whole.shape == (36, 8)
    with torch.no_grad():
        one = model.eval()(split.batch(torch.tensor([20])))
    torch.testing.assert_close(whole[20:21], one)


def test_queries_outside_the_gallery_and_inside(tiny_data):
    """Copies of the class patterns are found; an image that is in the gallery never finds itself."""
    from fastdml.training import catalogue

    split = catalogue.find_dataset("tiny").load("test")
    found = retrieve(raw_pixels(split), split)
    assert found.query_rows.numel() == 36
    assert found.gallery_rows.numel() == 30
    assert found.result.recall[1] == 1.0
    indices, _ = found.result.neighbours(range(36), k=3)
    assert not (found.gallery_rows[indices] == found.query_rows[:, None]).any()

    same = retrieve(torch.ones(36, 4), split)
    assert same.result.recall == {1: 0.0, 2: 0.0, 4: 0.0, 8: 0.0}
