"""Each change of Augment does what its name says, image by image, and the same from the same state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdml.data import Augment, glyphs

STILL: dict[str, Any] = {
    "rotation": 0.0,
    "shear": 0.0,
    "scale": (1.0, 1.0),
    "stretch": 0.0,
    "shift": 0.0,
    "blur": 0.0,
    "gain": (1.0, 1.0),
    "noise": 0.0,
    "erase": 0.0,
}


def only(**changes: Any) -> Augment:
    return Augment(**{**STILL, **changes})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bar(count: int = 200) -> Tensor:
    """A horizontal bar, 16 x 4 pixels, in the middle of 32 x 32."""
    images = torch.zeros(count, 1, 32, 32)
    images[:, :, 14:18, 8:24] = 1.0
    return images


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Centre [B, 2] and covariance [B, 2, 2] of the light in each image, (x, y), pixels."""
    axis = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    weight = (images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)).double()
    y, x = torch.meshgrid(axis.double(), axis.double(), indexing="ij")
    place = torch.stack([x, y], dim=-1)
    centre = torch.einsum("bhw,hwk->bk", weight, place)
    away = place - centre[:, None, None]
    return centre, torch.einsum("bhw,bhwi,bhwj->bij", weight, away, away)


def test_nothing_asked_nothing_done() -> None:
    images = glyphs.load("test").batch(torch.arange(64))
    assert torch.allclose(only()(images, rng()), images, atol=1e-5)


def test_same_state_same_output_and_each_image_apart() -> None:
    images = bar(32)
    first = Augment()(images, rng(3))
    assert torch.equal(first, Augment()(images, rng(3)))
    assert not torch.equal(first, Augment()(images, rng(4)))
    assert len(torch.unique(first.flatten(1), dim=0)) == 32
    assert torch.equal(images, bar(32))  # the input is left as it was


def test_state_of_the_generator_moves_on() -> None:
    generator = rng(3)
    assert not torch.equal(Augment()(bar(4), generator), Augment()(bar(4), generator))


def test_output_stays_in_range() -> None:
    out = Augment(noise=2.0, gain=(0.5, 3.0))(torch.rand(64, 3, 20, 28, generator=rng()), rng())
    assert out.shape == (64, 3, 20, 28)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert float(out.min()) == 0.0
    assert float(out.max()) == 1.0


def test_shift_moves_up_to_its_limit_in_pixels() -> None:
    centre, _ = moments(only(shift=0.125)(bar(), rng()))
    assert 3.5 < float(centre.abs().max()) <= 4.0 + 1e-3
    assert float(centre.mean(0).abs().max()) < 0.5
    assert float(centre.std(0).min()) == pytest.approx(8 / math.sqrt(12), rel=0.15)


def test_rotation_turns_up_to_its_limit_in_degrees() -> None:
    centre, spread = moments(only(rotation=30.0)(bar(), rng()))
    angle = 0.5 * torch.atan2(2 * spread[:, 0, 1], spread[:, 0, 0] - spread[:, 1, 1]) * (180 / math.pi)
    assert 28 < float(angle.abs().max()) < 31.5
    assert float(angle.std()) == pytest.approx(60 / math.sqrt(12), rel=0.15)
    assert float(centre.abs().max()) < 0.1


def test_turning_and_shearing_keep_the_area() -> None:
    images = bar()
    _, before = moments(images)
    _, after = moments(only(rotation=45.0, shear=0.4)(images, rng()))
    assert torch.allclose(after.det().sqrt(), before.det().sqrt(), rtol=0.1)


def test_shift_is_in_pixels_of_the_result_whatever_else_happens() -> None:
    change = only(rotation=90.0, shear=0.4, stretch=0.3, scale=(0.6, 0.9), shift=0.125)
    centre, _ = moments(change(bar(), rng()))
    assert float(centre.abs().max()) <= 4.0 + 0.25  # a thin bar, sampled at whole pixels
    assert float(centre.std(0).min()) == pytest.approx(8 / math.sqrt(12), rel=0.15)


def test_scale_is_the_size_of_the_content() -> None:
    _, before = moments(bar(1))
    _, after = moments(only(scale=(0.5, 0.5))(bar(1), rng()))
    assert math.sqrt(float(after[0, 0, 0] / before[0, 0, 0])) == pytest.approx(0.5, rel=0.05)
    _, larger = moments(only(scale=(1.5, 1.5))(bar(1), rng()))
    assert math.sqrt(float(larger[0, 0, 0] / before[0, 0, 0])) == pytest.approx(1.5, rel=0.05)


def test_stretch_trades_width_for_height() -> None:
    _, before = moments(bar())
    _, after = moments(only(stretch=0.4)(bar(), rng()))
    ratio = (after[:, 0, 0] / before[:, 0, 0]).sqrt().log()
    assert 0.18 < float(ratio.max()) < 0.22
    assert -0.22 < float(ratio.min()) < -0.18


def test_shear_slants_uprights() -> None:
    upright = bar().transpose(2, 3)
    _, spread = moments(only(shear=0.4)(upright, rng()))
    slant = spread[:, 0, 1] / spread[:, 1, 1]
    assert 0.36 < float(slant.abs().max()) < 0.42
    assert abs(float(slant.mean())) < 0.05


def test_blur_spreads_by_its_deviation_and_keeps_the_light() -> None:
    out = only(blur=1.0)(bar(), rng())
    _, before = moments(bar(1))
    _, after = moments(out)
    added = (after[:, 1, 1] - before[0, 1, 1]).clamp_min(0).sqrt()
    assert 0.85 < float(added.max()) < 1.0  # five taps cut the tails of a deviation of 1
    assert torch.allclose(out.sum((1, 2, 3)), bar(1).sum().expand(200), rtol=1e-4)


def test_gain_scales_each_image_by_one_factor() -> None:
    out = only(gain=(0.5, 0.9))(bar(), rng())
    factor = out.amax((1, 2, 3))
    assert torch.allclose(out, bar() * factor[:, None, None, None], atol=1e-5)
    assert 0.5 <= float(factor.min()) < 0.52
    assert 0.88 < float(factor.max()) <= 0.9


def test_noise_has_a_deviation_drawn_for_each_image() -> None:
    grey = torch.full((200, 1, 32, 32), 0.5)
    deviation = (only(noise=0.1)(grey, rng()) - grey).flatten(1).std(1)
    assert 0.09 < float(deviation.max()) < 0.11
    assert float(deviation.min()) < 0.01
    assert float(deviation.mean()) == pytest.approx(0.05, rel=0.15)


def test_erase_sets_one_rectangle_to_zero_as_often_as_asked() -> None:
    white = torch.ones(400, 1, 32, 32)
    out = only(erase=0.3, erase_side=(0.25, 0.5))(white, rng())
    gone = out[:, 0] < 0.5
    hit = gone.flatten(1).any(1)
    assert 0.22 < float(hit.float().mean()) < 0.38
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    assert int(rows.sum(1)[hit].min()) >= 7
    assert int(rows.sum(1).max()) <= 17
    for mask in (rows[hit], columns[hit]):  # one run of pixels
        steps = torch.diff(mask.int(), prepend=torch.zeros(len(mask), 1), append=torch.zeros(len(mask), 1))
        assert torch.equal((steps == 1).sum(1), torch.ones(len(mask), dtype=torch.int64))


def test_empty_batch_passes() -> None:
    assert Augment()(torch.zeros(0, 1, 32, 32), rng()).shape == (0, 1, 32, 32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(32, 32), r"images must have shape \[B, C, H, W\], got \[32, 32\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "images must have dtype torch.float32"),
        (torch.zeros(2, 1, 8, 8, device="meta"), "generator must be on the images' device meta, got cpu"),
    ],
)
def test_wrong_images_are_named(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment()(images, rng())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
        ({"scale": (1.2, 0.8)}, r"scale must be \(low, high\) with 0 < low <= high, got \(1.2, 0.8\)"),
        ({"gain": (0.0, 1.0)}, "gain must be"),
        ({"erase": 1.5}, r"erase must be a probability in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_ranges_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**settings)
