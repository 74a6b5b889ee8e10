"""Crops of PhotoAugment are the boxes asked for, its other changes do as they say; centre cuts the middle."""

from __future__ import annotations

import colorsys
import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdml.data.photos import PhotoAugment, centre
from fastdml.errors import InputError

_STILL: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (0.01, 100.0), "flip": 0.0}


def only(size: tuple[int, int] = (24, 24), **changes: Any) -> PhotoAugment:
    return PhotoAugment(size, **{**_STILL, **changes})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(count: int, height: int, width: int) -> Tensor:
    """Images whose first channel is x and whose second is y, of pixel middles, as parts of the side."""
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    image = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)]
    )
    return image.expand(count, 3, height, width).contiguous()


def spans(crops: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """Where each crop of `places` begins and ends in its image, as parts of the side: [B] and [B].

    From pixels off the edges, where interpolation cannot leave the image.
    """
    line = crops[:, 0, crops.shape[2] // 2] if channel == 0 else crops[:, 1, :, crops.shape[3] // 2]
    count = line.shape[1]
    near, far = count // 4, count - 1 - count // 4
    step = (line[:, far] - line[:, near]) / (far - near)
    return line[:, near] - (near + 0.5) * step, line[:, far] + (count - far - 0.5) * step


def noise(count: int = 4, height: int = 24, width: int = 24) -> Tensor:
    return torch.rand(count, 3, height, width, generator=rng(7))


@pytest.mark.parametrize("shape", [(24, 24), (24, 40)])
def test_nothing_asked_nothing_done(shape: tuple[int, int]) -> None:
    images = noise(8, *shape)
    assert torch.allclose(only(shape)(images, rng()), images, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_crops_lie_inside_and_their_areas_and_ratios_fill_the_ranges(height: int, width: int) -> None:
    crops = PhotoAugment((32, 24), scale=(0.2, 0.6), ratio=(0.5, 2.0), flip=0.0)(
        places(500, height, width), rng()
    )
    (left, right), (top, bottom) = spans(crops, 0), spans(crops, 1)
    for low, high in ((left, right), (top, bottom)):
        assert float(low.min()) > -1e-4
        assert float(high.max()) < 1 + 1e-4
        middle = (low + high) / 2
        assert float(middle.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(low.min()) < 0.02
        assert float(high.max()) > 0.98
    area = (right - left) * (bottom - top)
    ratio = ((right - left) * width / ((bottom - top) * height)).log()
    assert 0.2 - 1e-3 < float(area.min()) < 0.21
    assert 0.59 < float(area.max()) < 0.6 + 1e-3
    assert float(area.mean()) == pytest.approx(0.4, abs=0.02)
    assert -math.log(2) - 1e-3 < float(ratio.min()) < -0.6
    assert 0.6 < float(ratio.max()) < math.log(2) + 1e-3


@pytest.mark.parametrize("size", [(24, 24), (50, 40)])
def test_edges_are_not_darkened(size: tuple[int, int]) -> None:
    white = torch.ones(50, 3, 24, 24)
    assert torch.allclose(PhotoAugment(size)(white, rng()), torch.ones(50, 3, *size), atol=1e-6)


def test_ratio_is_kept_where_the_image_cannot_have_it_at_that_area() -> None:
    crops = PhotoAugment((32, 32), scale=(1.0, 1.0), ratio=(0.75, 4 / 3), flip=0.0)(places(50, 64, 32), rng())
    (left, right), (top, bottom) = spans(crops, 0), spans(crops, 1)
    assert torch.allclose(right - left, torch.ones(50), atol=1e-3)
    assert torch.allclose(bottom - top, torch.full((50,), 32 / 0.75 / 64), atol=1e-3)
    assert float(top.max() - top.min()) > 0.25  # of the third that is left over


def test_each_image_has_a_crop_of_its_own_and_one_state_gives_one_result() -> None:
    augment = PhotoAugment((16, 16), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, erase=0.5)
    images = places(32, 24, 24)
    first = augment(images, rng(3))
    torch.manual_seed(1)  # the global generator plays no part
    assert torch.equal(first, augment(images, rng(3)))
    assert not torch.equal(first, augment(images, rng(4)))
    assert len(torch.unique(first.flatten(1), dim=0)) == 32
    assert torch.equal(images, places(32, 24, 24))  # the input is left as it was
    generator = rng(3)
    assert not torch.equal(augment(images, generator), augment(images, generator))


def test_flips_mirror_the_crop_as_often_as_asked() -> None:
    images = noise(1).expand(400, 3, 24, 24)
    out = only(flip=0.3)(images, rng())
    same = (out - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (out - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((same ^ mirrored).all())
    assert 0.23 < float(mirrored.float().mean()) < 0.37
    plain = PhotoAugment((16, 16), flip=0.0)(noise(), rng())
    assert torch.allclose(PhotoAugment((16, 16), flip=1.0)(noise(), rng()), plain.flip(3), atol=1e-6)


def test_brightness_scales_each_image_by_one_factor() -> None:
    images = 0.1 + 0.5 * noise(200)
    factor = (only(brightness=0.5)(images, rng()) / images).flatten(1)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-3)
    assert 0.5 - 1e-3 < float(factor.min()) < 0.52
    assert 1.48 < float(factor.max()) < 1.5 + 1e-3


def test_contrast_scales_the_distance_from_the_mean_grey() -> None:
    images = 0.4 + 0.2 * noise(200)
    out = only(contrast=0.5)(images, rng())
    factor = out.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.5 - 1e-3 < float(factor.min()) < 0.52
    assert 1.48 < float(factor.max()) < 1.5 + 1e-3
    grey = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]
    assert torch.allclose((out * grey).sum(1).mean((1, 2)), (images * grey).sum(1).mean((1, 2)), atol=1e-4)


def test_saturation_scales_the_distance_from_grey_pixel_by_pixel() -> None:
    colour = torch.tensor([0.6, 0.5, 0.4])[None, :, None, None].expand(200, 3, 8, 8)
    out = only((8, 8), saturation=0.5)(colour, rng())
    factor = (out[:, 0] - out[:, 2]).flatten(1)[:, 0] / 0.2
    assert 0.5 - 1e-3 < float(factor.min()) < 0.52
    assert 1.48 < float(factor.max()) < 1.5 + 1e-3


def test_hue_turns_the_colour_circle() -> None:
    colour = torch.tensor([0.5, 0.7, 0.3])[None, :, None, None].expand(200, 3, 8, 8)
    out = only((8, 8), hue=0.2)(colour, rng())[:, :, 0, 0]
    before = colorsys.rgb_to_hsv(0.5, 0.7, 0.3)
    after = torch.tensor([colorsys.rgb_to_hsv(*pixel) for pixel in out.tolist()])
    turn = after[:, 0] - before[0]
    assert -0.2 - 1e-3 < float(turn.min()) < -0.19
    assert 0.19 < float(turn.max()) < 0.2 + 1e-3
    assert torch.allclose(after[:, 1:], torch.tensor(before[1:]).expand(200, 2), atol=1e-3)


def test_erase_fills_one_rectangle_with_the_mean_colour_as_often_as_asked() -> None:
    images = noise(300, 32, 32)
    out = only((32, 32), erase=0.4, erase_area=(0.1, 0.3), erase_ratio=(0.5, 2.0))(images, rng())
    gone = (out - images).abs().amax(1) > 1e-4  # [B, H, W]
    hit = gone.flatten(1).any(1)
    assert 0.32 < float(hit.float().mean()) < 0.48
    box = gone.any(2)[:, :, None] & gone.any(1)[:, None, :]
    assert float((box & ~gone).float().mean()) < 1e-4  # a pixel may have the mean colour
    share = box[hit].float().mean((1, 2))
    assert 0.08 < float(share.min()) < 0.13
    assert 0.27 < float(share.max()) < 0.33
    mean = images.mean((2, 3))[:, :, None, None].expand_as(images)
    inside = box[:, None].expand_as(images)
    assert torch.allclose(out[inside], mean[inside], atol=1e-5)


def test_output_stays_in_range_and_carries_no_gradient() -> None:
    images = noise().requires_grad_()
    out = PhotoAugment((20, 28), brightness=1.0, contrast=1.0)(images, rng())
    assert out.shape == (4, 3, 20, 28)
    assert not out.requires_grad
    assert out.is_contiguous()
    assert 0.0 <= float(out.min()) <= float(out.max()) <= 1.0


def test_grey_images_and_none_at_all() -> None:
    grey = noise()[:, :1]
    assert PhotoAugment((8, 8), brightness=0.2, erase=1.0)(grey, rng()).shape == (4, 1, 8, 8)
    assert PhotoAugment((8, 8))(noise(0), rng()).shape == (0, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"images must have 3 channels for saturation and hue, got \[4, 1, 24"
    ):
        PhotoAugment((8, 8), hue=0.1)(grey, rng())


def test_centre_cuts_the_middle_out() -> None:
    images = noise(2, 10, 13)
    assert torch.equal(centre(images, (4, 7)), images[:, :, 3:7, 3:10])
    assert torch.equal(centre(images, (10, 13)), images)


@pytest.mark.parametrize(("height", "width"), [(16, 32), (8, 16), (10, 40)])
def test_centre_scales_small_images_up_until_they_fill_the_size(height: int, width: int) -> None:
    out = centre(places(1, height, width), (32, 48))
    assert out.shape == (1, 3, 32, 48)
    factor = max(32 / height, 48 / width)
    for channel, (side, wanted) in enumerate(((width, 48), (height, 32))):
        begin, end = spans(out, channel)
        assert float(end - begin) == pytest.approx(wanted / (side * factor), abs=0.01)
        assert float(begin + end) == pytest.approx(1.0, abs=1 / wanted)
    assert centre(noise(0), (32, 32)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 8)}, r"size must be \(height, width\) of at least 1 pixel each, got \(0, 8\)"),
        ({"scale": (0.5, 1.5)}, r"scale must be \(low, high\) with 0 < low <= high <= 1, got \(0.5, 1.5\)"),
        ({"erase_area": (0.5, 0.2)}, "erase_area must be"),
        ({"ratio": (2.0, 1.0)}, r"ratio must be \(low, high\) with 0 < low <= high, got \(2.0, 1.0\)"),
        ({"flip": 1.5}, r"flip must be a probability in \[0, 1\], got 1.5"),
        ({"hue": 0.6}, r"hue must lie in \[0, 0.5\], got 0.6"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PhotoAugment(**{"size": (8, 8), **settings})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(32, 32), r"images must have shape \[B, C, H, W\], got \[32, 32\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "images must have dtype torch.float32"),
        (torch.zeros(2, 3, 8, 8, device="meta"), "generator must be on the images' device meta, got cpu"),
    ],
)
def test_wrong_images_are_named(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhotoAugment((8, 8))(images, rng())
    if images.dim() != 4:
        with pytest.raises(InputError, match=message):
            centre(images, (8, 8))


def test_missing_kornia_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(
        ImportError, match=r"needs kornia, which is not installed: pip install 'fastdml\[images\]'"
    ):
        PhotoAugment((8, 8))
