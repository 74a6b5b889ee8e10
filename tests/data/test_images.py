"""Image files of every mode become upright RGB of one size, and what is unreadable is named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.trees import write_image
from PIL import Image
from torch import Tensor

from fastdml.data import ImageStore
from fastdml.data.images import ImageFiles, UnreadableImageError
from fastdml.data.unreadable import read_all
from fastdml.errors import InputError

RED = (200, 30, 30)
JPEG_ERROR = 6  # grey levels that JPEG may move a plain colour by


def read(path: Path, size: tuple[int, int] = (6, 8), **options: Any) -> Tensor:
    image = ImageFiles([path], size, **options).read(0)
    assert image is not None
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    return image


def assert_plain(image: Tensor, rgb: tuple[int, ...], within: int = 0) -> None:
    expected = torch.tensor(rgb).view(-1, 1, 1).expand(image.shape)
    assert int((image.int() - expected).abs().max()) <= within


@pytest.mark.parametrize(
    ("name", "mode", "expected", "within"),
    [
        ("rgb.jpg", "RGB", RED, JPEG_ERROR),
        ("upper.JPG", "RGB", RED, JPEG_ERROR),
        ("grey.jpg", "L", (81, 81, 81), JPEG_ERROR),
        ("palette.png", "P", RED, 0),
        ("rgba.png", "RGBA", RED, 0),
        ("bits.png", "1", None, 0),
        ("cmyk.jpg", "CMYK", RED, JPEG_ERROR),
        ("cmyk.tif", "CMYK", RED, 0),
        ("grey_alpha.png", "LA", (81, 81, 81), 0),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str, mode: str, expected: Any, within: int) -> None:
    image = read(write_image(tmp_path / name, RED, mode))
    assert image.shape == (3, 6, 8)
    if expected is None:
        assert torch.equal(image[0], image[1])
    else:
        assert_plain(image, expected, within)


def test_one_channel_is_the_luma(tmp_path: Path) -> None:
    image = read(write_image(tmp_path / "a.png", RED), channels=1)
    assert image.shape == (1, 6, 8)
    assert_plain(image, (round(0.299 * 200 + 0.587 * 30 + 0.114 * 30),), 1)


@pytest.mark.parametrize("mode", ["RGBA", "palette", "grey"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, 4:, 3] = 255  # left half transparent, right half black
    picture = Image.fromarray(pixels)
    path = tmp_path / "a.png"
    if mode == "RGBA":
        picture.save(path)
    else:
        half = Image.fromarray(np.repeat(np.array([[7] * 4 + [0] * 4], dtype=np.uint8), 8, 0))
        if mode == "palette":
            half = Image.fromarray(np.asarray(half), "P")
            half.putpalette([0] * 768)
        half.save(path, transparency=7)
    image = read(path, (8, 8))
    assert_plain(image[:, :, :4], (255, 255, 255))
    assert_plain(image[:, :, 4:], (0, 0, 0))


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    ramp = (np.arange(16, dtype=np.uint16) * 4369).reshape(1, 16).repeat(16, 0)  # 0 to 65535
    path = tmp_path / "deep.png"
    Image.fromarray(ramp).save(path)
    assert torch.equal(read(path, (16, 16))[0], torch.from_numpy((ramp // 257).astype(np.uint8)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(tmp_path: Path, orientation: int) -> None:
    """A picture stored turned, with the tag that says so, is what was turned."""
    upright = np.zeros((4, 6, 3), dtype=np.uint8)
    upright[0, :, 0], upright[:, 0, 1] = 255, 255  # red above, green on the left
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif)
    assert torch.equal(read(path, (4, 6)), torch.from_numpy(upright).permute(2, 0, 1))


def test_crop_keeps_the_middle_and_proportions(tmp_path: Path) -> None:
    columns = np.arange(24, dtype=np.uint8).repeat(8).reshape(24, 8).T  # [8, 24], a column has its number
    path = tmp_path / "wide.png"
    Image.fromarray(columns).save(path)
    assert torch.equal(read(path, (8, 8))[0, 0], torch.arange(8, 16, dtype=torch.uint8))
    stretched = read(path, (8, 8), fit="stretch")[0, 0]
    assert int(stretched[0]) < 3
    assert int(stretched[-1]) > 20
    Image.fromarray(np.ascontiguousarray(columns.T)).save(path)
    assert torch.equal(read(path, (8, 8))[0, :, 0], torch.arange(8, 16, dtype=torch.uint8))


def test_small_images_are_scaled_up_until_both_sides_fit(tmp_path: Path) -> None:
    pixels = np.array([[0, 0, 100, 200, 255, 255]], dtype=np.uint8).repeat(2, 0)  # [2, 6]
    path = tmp_path / "small.png"
    Image.fromarray(pixels).save(path)
    image = read(path, (20, 20))[0, 0]  # the middle 2 columns, ten times as large
    assert abs(int(image[5]) - 100) < 15
    assert abs(int(image[14]) - 200) < 15


@pytest.mark.parametrize(
    ("wide", "tall", "size"), [(58, 61, (224, 224)), (40, 44, (293, 146)), (75, 78, (73, 73))]
)
def test_rounding_does_not_put_the_crop_outside_of_an_image(
    tmp_path: Path, wide: int, tall: int, size: tuple[int, int]
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (wide, tall), RED).save(path)
    assert_plain(ImageFiles([path], size).read(0), RED)


def test_large_jpegs_keep_what_is_in_them(tmp_path: Path) -> None:
    """Decoding at a fraction of the size gives nearly what decoding in full gives."""
    y, x = np.mgrid[0:640, 0:960]
    pixels = np.stack([128 + 100 * np.sin(x / 90), 128 + 100 * np.cos(y / 70), (x + y) % 256 / 2], 2)
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    with Image.open(path) as file:
        full = file.convert("RGB").resize((40, 40), Image.Resampling.BILINEAR, (160, 0, 800, 640))
    gap = (read(path, (40, 40)).int() - torch.from_numpy(np.array(full)).permute(2, 0, 1).int()).abs()
    assert float(gap[:2].float().max()) < 4


def broken_files(folder: Path) -> dict[str, Path]:
    whole = write_image(folder / "whole.jpg").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.png")
    picture = (folder / "whole.png").read_bytes()
    contents = {
        "cut.jpg": whole[: len(whole) - 40],
        "cut.png": picture[: len(picture) // 2],
        "empty.jpg": b"",
        "page.jpg": b"<html>not found</html>",
        "damaged.png": picture[:12] + b"\0" * 24 + picture[36:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return {name: folder / name for name in (*contents, "folder.jpg", "absent.jpg")}


@pytest.mark.parametrize(
    "name", ["cut.jpg", "cut.png", "empty.jpg", "page.jpg", "damaged.png", "folder.jpg", "absent.jpg"]
)
def test_unreadable_files_are_named_or_skipped(tmp_path: Path, name: str) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(UnreadableImageError) as raised:
        ImageFiles([path], (6, 8)).read(0)
    assert str(raised.value).startswith(f"{path} cannot be read as an image: ")
    assert raised.value.why
    assert str(path) not in raised.value.why
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.path, copy.why) == (str(raised.value), str(path), raised.value.why)

    images = ImageFiles([tmp_path / "whole.jpg", path, tmp_path / "whole.png"], (6, 8), on_error="skip")
    assert images.read(1) is None
    batch = images[torch.tensor([2, 1, 0])]
    assert batch.shape == (3, 3, 6, 8)
    assert not batch[1].any()
    assert_plain(batch[2], RED, JPEG_ERROR)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_lose_the_picture(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage")
    assert_plain(read(path), RED, JPEG_ERROR)


def test_what_is_read_all_is_in_order(tmp_path: Path) -> None:
    bad = broken_files(tmp_path)
    paths = [tmp_path / "whole.jpg", bad["cut.jpg"], tmp_path / "whole.png", bad["empty.jpg"]] * 40
    found = list(read_all(paths, workers=3))
    assert [error.path if error else None for error in found] == [
        None,
        str(bad["cut.jpg"]),
        None,
        str(bad["empty.jpg"]),
    ] * 40


def test_it_is_a_store_that_can_be_sent_to_a_process(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{i}.png", (i, 2 * i, 3 * i)) for i in range(5)]
    images = pickle.loads(pickle.dumps(ImageFiles(paths, (6, 8), on_error="skip")))
    assert isinstance(images, ImageStore)
    assert len(images) == 5
    assert images.paths == [str(path) for path in paths]
    assert images[torch.tensor([4, 0, 4])][:, :, 0, 0].tolist() == [[4, 8, 12], [0, 0, 0], [4, 8, 12]]
    assert images[torch.tensor([], dtype=torch.int64)].shape == (0, 3, 6, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, r"size must be \(height, width\) of at least 1 pixel each, got \(0, 4\)"),
        ({"fit": "pad"}, "fit must be one of crop, stretch, got 'pad'"),
        ({"on_error": "ignore"}, "on_error must be one of stop, skip, got 'ignore'"),
        ({"channels": 4}, "channels must be 3 or 1, got 4"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageFiles([], **{"size": (4, 4), **options})
