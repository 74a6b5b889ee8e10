"""The built-in data set: what it promises about classes, typefaces, licences and difficulty."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdml.data import Split, glyphs
from fastdml.errors import InputError

PERMISSIVE = {"OFL-1.1", "Apache-2.0", "MIT", "BSD-3-Clause", "public-domain"}
STORED = ("train.npz", "test.npz", "glyphs.json", "NOTICE")


@pytest.fixture(scope="module")
def train() -> Split:
    return glyphs.load("train")


@pytest.fixture(scope="module")
def test() -> Split:
    return glyphs.load("test")


def images_of(split: Split) -> Tensor:
    assert isinstance(split.images, Tensor)
    return split.images


def raw_recall(split: Split, depth: int) -> float:
    """Recall@depth of cosine similarity on raw pixels; an image never finds itself."""
    pixels = torch.nn.functional.normalize(images_of(split).flatten(1).double(), dim=1)
    similarity = pixels @ pixels.T
    similarity.fill_diagonal_(-2.0)
    similarity[:, ~split.is_gallery] = -2.0
    nearest = similarity[split.is_query].topk(depth, dim=1).indices
    hits = split.labels[nearest] == split.labels[split.is_query][:, None]
    return float(hits.any(1).double().mean())


def domains(split: Split) -> Tensor:
    assert split.domains is not None
    return split.domains


def test_every_class_is_drawn_once_in_every_typeface(train: Split, test: Split) -> None:
    for split, typefaces in ((train, 16), (test, 20)):
        pairs = torch.stack([split.labels, domains(split)], dim=1)
        assert len(torch.unique(pairs, dim=0)) == len(pairs) == 200 * typefaces
        assert split.num_classes == 200
        assert torch.equal(torch.bincount(split.labels)[split.labels], torch.full((len(split),), typefaces))


def test_halves_share_no_class(train: Split, test: Split) -> None:
    assert sorted(set(train.labels.tolist())) == list(range(200))
    assert sorted(set(test.labels.tolist())) == list(range(200, 400))
    assert train.class_names == test.class_names
    assert len(set(train.class_names)) == 400


def test_classes_are_kanji_of_jis_level_1(train: Split) -> None:
    for name in train.class_names:
        row, cell = name.encode("euc_jp")
        assert 16 <= row - 0xA0 <= 47, name
        assert 1 <= cell - 0xA0 <= 94, name


def test_brush_typefaces_are_queries_only(train: Split, test: Split) -> None:
    table = glyphs.fonts()
    brush = {i for i, font in enumerate(table) if font.role == "query-only"}
    assert {table[i].family for i in brush} == {
        "Kouzan Mouhitsu",
        "Kouzan Mouhitsu Gyosho",
        "Kouzan Mouhitsu Sousho",
        "Aoyagi Kouzan T",
    }
    assert not brush & set(domains(train).tolist())
    assert not brush & set(domains(test)[test.is_gallery].tolist())
    assert brush <= set(domains(test)[test.is_query].tolist())
    assert int(test.is_query.sum()) == 4000
    assert int(test.is_gallery.sum()) == 3200


def test_font_table_is_complete_and_permissive(test: Split) -> None:
    table = glyphs.fonts()
    assert test.domain_names == tuple(font.family for font in table)
    assert len({font.family for font in table}) == len({font.sha256 for font in table}) == 20
    notice = glyphs.notice()
    for font in table:
        assert font.licence in PERMISSIVE, font
        assert font.role in ("train+gallery", "query-only"), font
        assert len(font.sha256) == 64
        assert int(font.sha256, 16) > 0
        assert font.version, font
        assert font.copyright, font
        entry = notice.split(f"\n{font.family}\n", 1)[1].split("\n\n", 1)[0]
        for told in (font.licence, font.file, f"{font.package} {font.version}", font.role):
            assert told in entry, (font.family, told)
        assert font.copyright in " ".join(entry.split()), font


def test_notices_that_ask_to_travel_are_given_in_full() -> None:
    notice = " ".join(glyphs.notice().split())
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in notice
    assert "Redistributions of source code must retain the above copyright notice" in notice
    assert "5 fonts in AoyagiFont family" in notice


def test_stored_files_are_small() -> None:
    folder = files(glyphs)
    assert sum(len((folder / name).read_bytes()) for name in STORED) <= 4_000_000


def test_images_are_those_that_the_table_names(train: Split, test: Split) -> None:
    table = json.loads((files(glyphs) / "glyphs.json").read_text(encoding="utf-8"))
    for name, split in (("train", train), ("test", test)):
        assert hashlib.sha256(images_of(split).numpy().tobytes()).hexdigest() == table["images_sha256"][name]


def test_every_image_shows_something_of_its_own(train: Split, test: Split) -> None:
    for split in (train, test):
        images = images_of(split)
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (1, 32, 32)
        assert len(torch.unique(images.flatten(1), dim=0)) == len(split)  # a placeholder box would repeat
    ink = train.batch(torch.arange(len(train))).flatten(1).sum(1)
    assert float(ink.min()) > 40  # fully inked pixels, of 1024
    assert float(ink.max()) < 700
    dark = test.batch(torch.arange(len(test))).flatten(1).topk(16).values.mean(1)
    assert float(dark.min()) > 0.25  # strokes stand out of noise of at most 0.1


def test_no_stroke_is_cut_off(train: Split) -> None:
    border = torch.ones(32, 32, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert int(images_of(train)[:, 0, border].max()) == 0


def test_strokes_of_perturbed_images_stay_inside(test: Split) -> None:
    border = torch.ones(32, 32, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    images = test.batch(torch.arange(len(test)))[:, 0]
    assert float(images[:, border].mean()) < 0.25 * float(images.mean())


def test_test_images_are_in_no_typeface_aligned(test: Split) -> None:
    position = torch.arange(32, dtype=torch.float32) - 15.5
    images = test.batch(torch.arange(len(test)))[:, 0]
    images = images * (images > 0.3)
    middle = (images.sum(1) * position).sum(1) / images.sum((1, 2))
    for typeface in range(len(test.domain_names)):
        assert float(middle[domains(test) == typeface].std()) > 1.0


def test_raw_pixels_do_not_solve_the_test_half(test: Split) -> None:
    assert 0.05 <= raw_recall(test, 1) <= 0.15
    assert raw_recall(test, 8) <= 0.35


def test_it_is_the_perturbation_that_makes_it_hard(train: Split) -> None:
    assert raw_recall(train, 1) >= 0.75


def test_loading_twice_gives_equal_and_separate_images(train: Split) -> None:
    again = glyphs.load("train")
    assert torch.equal(images_of(again), images_of(train))
    assert torch.equal(again.labels, train.labels)
    images_of(again)[0] = 255
    assert not torch.equal(images_of(again), images_of(train))


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'valid'"):
        glyphs.load("valid")  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The built-in files, as a folder of somebody's own."""
    copy = tmp_path / "mine"
    copy.mkdir()
    for name in STORED:
        shutil.copy(str(files(glyphs) / name), copy / name)
    return copy


def test_folder_reads_as_the_built_in_set_does(folder: Path, train: Split, test: Split) -> None:
    for name, built_in in (("train", train), ("test", test)):
        read = glyphs.load_folder(str(folder), name)  # type: ignore[arg-type]
        assert read.name == f"mine/{name}"
        assert torch.equal(images_of(read), images_of(built_in))
        for field in ("labels", "domains", "is_query", "is_gallery"):
            assert torch.equal(getattr(read, field), getattr(built_in, field)), field
        assert (read.class_names, read.domain_names) == (built_in.class_names, built_in.domain_names)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Store the arrays anew after `change`: a file that is whole, but another."""
    with np.load(path) as stored:
        arrays: dict[str, Any] = dict(stored)
    change(arrays)
    np.savez_compressed(path, **arrays)


def retell(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / "glyphs.json").unlink(), "made by `fastdml data make`, but it holds no glyphs.json"),
        (lambda f: (f / "glyphs.json").write_text("{"), "not the table of a set of glyphs: Expecting"),
        (lambda f: (f / "glyphs.json").write_text("[]"), "not the table of a set of glyphs"),
        (lambda f: retell(f / "glyphs.json", lambda t: t.pop("kanji")), "it lacks 'kanji'"),
        (lambda f: retell(f / "glyphs.json", lambda t: t.update(format=2)), "format must be 1, got 2"),
        (lambda f: retell(f / "glyphs.json", lambda t: t.update(side="32")), "side must be a int, got '32'"),
        (lambda f: retell(f / "glyphs.json", lambda t: t["fonts"][0].pop("role")), "'role'"),
        (lambda f: (f / "test.npz").unlink(), "is not whole: test.npz is missing"),
        (lambda f: (f / "test.npz").write_bytes(b"not an archive"), "test.npz is damaged and cannot be read"),
        (lambda f: (f / "test.npz").write_bytes((f / "test.npz").read_bytes()[:-999]), "test.npz is damaged"),
        (lambda f: flip_a_byte(f / "test.npz"), "test.npz is damaged"),
        (
            lambda f: shutil.copy(f / "train.npz", f / "test.npz"),
            "images are not those that glyphs.json names",
        ),
        (
            lambda f: rewrite(f / "test.npz", lambda a: a["images"].__setitem__((7, 3, 3), 9)),
            "images are not",
        ),
        (
            lambda f: rewrite(f / "test.npz", lambda a: a.pop("font")),
            "must hold the arrays images, label and",
        ),
        (
            lambda f: rewrite(f / "test.npz", lambda a: a.update(images=a["images"][:-1])),
            r"images must be uint8 \[4000, 32, 32\], got uint8 \[3999, 32, 32\]",
        ),
        (
            lambda f: rewrite(f / "test.npz", lambda a: a.update(label=a["label"] - 200)),
            "label must be each of 200 to 399, the classes of test",
        ),
        (lambda f: rewrite(f / "test.npz", lambda a: a["font"].__setitem__(0, 20)), "into 20 typefaces"),
    ],
)
def test_damaged_or_foreign_folder_is_refused(
    folder: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(folder)
    with pytest.raises(InputError, match=complaint):
        glyphs.load_folder(folder, "test")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path must be a folder made by `fastdml data make`, got .*nowhere"):
        glyphs.load_folder(tmp_path / "nowhere", "test")
