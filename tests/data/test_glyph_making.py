"""Making a set of glyphs, with tiny fonts that are made here: no package is fetched."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image
from typer.testing import CliRunner

from fastdml.cli import data_make
from fastdml.data import glyphs
from fastdml.data.glyph_making import drawing, making
from fastdml.data.glyph_making.drawing import draw, jis_level_1
from fastdml.data.glyph_making.fonts import FontError, Source
from fastdml.data.glyph_making.making import make
from fastdml.data.glyph_making.pen import Grey, Pen, Perturbation, plain
from fastdml.data.glyph_making.sets import GLYPHS, GLYPHS_LARGE, QUERY_ONLY, Face, GlyphSet
from fastdml.errors import InputError

KANJI = list(jis_level_1())[40:60]
BLANK, BOXED, ALIKE, LACKING = KANJI[:4]  # each in one face only
USABLE = 16  # kanji that every face draws; of two that a face draws alike, one
BOX = [(100, 0, 900, 800)]


def outlines(rectangles: list[tuple[int, int, int, int]]) -> object:
    """Filled rectangles (left, bottom, right, top) in a square of 1000."""
    pen = TTGlyphPen(None)
    for left, bottom, right, top in rectangles:
        pen.moveTo((left, bottom))
        pen.lineTo((left, top))
        pen.lineTo((right, top))
        pen.lineTo((right, bottom))
        pen.closePath()
    return pen.glyph()


def shapes(seed: int) -> dict[str, list[tuple[int, int, int, int]]]:
    """Rectangles by kanji, at random."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for kanji in KANJI:
        corners = rng.integers(0, 700, size=(4, 2))
        sizes = rng.integers(80, 300, size=(4, 2))
        drawn[kanji] = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    return drawn


def write_font(path: Path, drawn: dict[str, list[tuple[int, int, int, int]]]) -> Path:
    names = {kanji: f"u{ord(kanji):X}" for kanji in drawn}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(kanji): name for kanji, name in names.items()})
    builder.setupGlyf({".notdef": outlines(BOX), **{names[k]: outlines(r) for k, r in drawn.items()}})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names.values()), (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Three faces; the third is for queries only, and each has a kanji that it does not draw."""
    folder = tmp_path_factory.mktemp("fonts")
    first, second, third = shapes(1), shapes(2), shapes(3)
    first[BLANK] = []
    first[BOXED] = BOX
    second[ALIKE] = second[KANJI[4]]
    del third[LACKING]
    faces = [
        Face("First", "fonts-a", "a.ttf"),
        Face("Second", "fonts-a", "b.ttf"),
        Face("Third", "fonts-b", "c.ttf", QUERY_ONLY),
    ]
    return [
        Source(
            face, write_font(folder / face.file, drawn), "1-1", "MIT", f"© {face.family}", "As is.", "00" * 32
        )
        for face, drawn in zip(faces, (first, second, third), strict=True)
    ]


@pytest.fixture
def small(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> GlyphSet:
    """A set of ten kanji whose packages are there."""
    monkeypatch.setattr(making, "locate", lambda faces, packages, scratch, on_package: sources)
    return of(sources, 10)


def of(sources: list[Source], classes: int) -> GlyphSet:
    return GlyphSet("small", tuple(source.face for source in sources), classes)


def test_number_of_processes_changes_nothing(sources: list[Source]) -> None:
    what = of(sources, USABLE)
    kanji, alone = draw(what, sources, processes=1)
    again, shared = draw(what, sources, processes=2)
    assert kanji == again
    for name in ("train", "test"):
        for field in ("images", "label", "font"):
            one, two = getattr(alone[name], field), getattr(shared[name], field)
            assert one.dtype == two.dtype
            assert np.array_equal(one, two), (name, field)


def test_halves_share_no_class_and_queries_do_not_train(sources: list[Source]) -> None:
    kanji, splits = draw(of(sources, 11), sources)
    assert len(set(kanji)) == 11
    train, test = splits["train"], splits["test"]
    assert train.label.tolist() == [label for label in range(5) for _ in range(2)]
    assert train.font.tolist() == [0, 1] * 5
    assert test.label.tolist() == [label for label in range(5, 11) for _ in range(3)]
    assert test.font.tolist() == [0, 1, 2] * 6


def test_train_is_plain_and_test_is_not(sources: list[Source]) -> None:
    kanji, splits = draw(of(sources, 10), sources)
    pens = [Pen(source.path) for source in sources]
    for name, same in (("train", True), ("test", False)):
        half = splits[name]
        for image, label, font in zip(half.images, half.label, half.font, strict=True):
            ink = pens[font].ink(kanji[label])
            assert ink is not None
            assert np.array_equal(image, plain(ink)) is same


def test_kanji_that_a_face_does_not_draw_are_left_out(sources: list[Source]) -> None:
    kanji, _ = draw(of(sources, USABLE), sources)
    assert not {BLANK, BOXED, LACKING} & set(kanji)
    assert len({ALIKE, KANJI[4]} & set(kanji)) <= 1
    with pytest.raises(
        InputError, match=f"classes must be at most {USABLE}, the kanji of every face, got 20"
    ):
        draw(of(sources, 20), sources)


def test_perturbation_depends_on_kanji_and_face_alone(sources: list[Source]) -> None:
    kanji, splits = draw(of(sources, 10), sources)
    more_kanji, more = draw(of(sources, 12), sources)
    assert more_kanji.startswith(kanji)
    assert np.array_equal(splits["test"].images[3:], more["test"].images[: 4 * 3])  # labels 6 to 9 in both


def test_every_test_picture_is_perturbed_in_its_own_way(
    sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[float] = []

    def perturbed(ink: Image.Image, rng: np.random.Generator, how: Perturbation, side: int) -> Grey:
        draws.append(rng.random())
        return plain(ink, side)

    monkeypatch.setattr(drawing, "perturbed", perturbed)
    draw(of(sources, 10), sources)
    assert len(set(draws)) == len(draws) == 5 * 3


def test_one_design_under_two_names_is_refused(sources: list[Source]) -> None:
    twin = replace(sources[0], face=replace(sources[0].face, family="Another"))
    faces = [*sources, twin]
    with pytest.raises(FontError, match=r"Another draws as First does \(0\.00\)"):
        draw(of(faces, 8), faces)


def test_larger_pictures_show_the_same(sources: list[Source]) -> None:
    pens = [Pen(sources[0].path, side=side) for side in (32, 64)]
    for kanji in KANJI[5:]:
        small, large = (
            plain(pen.ink(kanji), side).astype(float) for pen, side in zip(pens, (32, 64), strict=True)
        )
        shrunk = large.reshape(32, 2, 32, 2).mean(axis=(1, 3))
        assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.97


def test_what_is_made_reads_back(small: GlyphSet, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    made = make(
        replace(small, side=40), tmp_path / "made", processes=1, report=lambda *told: stages.append(told)
    )
    assert sorted(os.listdir(tmp_path)) == ["made"]
    assert sorted(os.listdir(tmp_path / "made")) == ["NOTICE", "glyphs.json", "test.npz", "train.npz"]
    for name, count in (("train", 5 * 2), ("test", 5 * 3)):
        split = glyphs.load_folder(tmp_path / "made", name)  # type: ignore[arg-type]
        assert isinstance(split.images, torch.Tensor)
        assert split.images.shape == (count, 1, 40, 40)
        assert np.array_equal(split.images[:, 0].numpy(), made.splits[name].images)
        assert split.labels.tolist() == made.splits[name].label.tolist()
        assert split.class_names == tuple(made.kanji)
        assert split.domain_names == ("First", "Second", "Third")
    notice = (tmp_path / "made" / "NOTICE").read_text(encoding="utf-8")
    assert "(40 x 40 pixels)" in notice
    assert "Third\n    MIT; c.ttf, Debian package fonts-b 1-1; query-only" in notice
    assert "MIT, as given in fonts-a, fonts-b" in notice
    assert ("drawing kanji", 10, 10) in stages
    assert ("perturbing test kanji", 5, 5) in stages


def test_same_set_gives_the_same_bytes(small: GlyphSet, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(small, tmp_path / name, processes=1)
    for file in ("NOTICE", "glyphs.json", "test.npz", "train.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("written", [0, 1, 3])
def test_interrupted_make_leaves_nothing(
    small: GlyphSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, written: int
) -> None:
    left = written

    def sync(path: Path) -> None:
        nonlocal left
        if left == 0:
            raise error
        left -= 1

    monkeypatch.setattr(making, "_sync", sync)
    with pytest.raises(type(error)):
        make(small, tmp_path / "made", processes=1)
    assert os.listdir(tmp_path) == []


def test_killed_make_leaves_nothing_that_passes_for_whole(
    small: GlyphSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is cleared away after SIGKILL: this is what lies there just before the last file.
    left = tmp_path / "left"

    def table(made: object) -> None:
        (beside,) = tmp_path.glob(".made.making-*")
        beside.rename(left)
        raise SystemExit

    monkeypatch.setattr(making, "_table", table)
    with pytest.raises(SystemExit):
        make(small, tmp_path / "made", processes=1)
    assert os.listdir(tmp_path) == ["left"]
    assert sorted(os.listdir(left)) == ["test.npz", "train.npz"]
    with pytest.raises(InputError, match=r"holds no glyphs\.json"):
        glyphs.load_folder(left, "train")


def test_folder_with_something_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "locate", lambda *_: pytest.fail("fonts were fetched first"))
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(
        InputError, match=r"out must be a new or empty folder, got .* holds something already"
    ):
        make(GLYPHS_LARGE, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"classes": 1}, "classes must be 2 to 2965, .* got 1"),
        ({"classes": 2966}, "classes must be 2 to 2965, .* got 2966"),
        ({"side": 15}, "side must be 16 to 128 pixels, got 15"),
    ],
)
def test_sets_that_cannot_be_are_refused(change: dict[str, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        replace(GLYPHS_LARGE, **change)  # type: ignore[arg-type]


def test_large_set_has_the_built_in_typefaces_and_more_all_in_the_gallery() -> None:
    names = [face.family for face in GLYPHS_LARGE.faces]
    assert names[: len(GLYPHS.faces)] == [face.family for face in GLYPHS.faces]
    assert len(names) == len(set(names)) == 25
    assert QUERY_ONLY not in {face.role for face in GLYPHS_LARGE.faces}
    assert GLYPHS_LARGE.classes * len(names) == 70_000


class TestCommand:
    """`fastdml data make`."""

    @pytest.fixture
    def app(self) -> typer.Typer:
        app = typer.Typer()
        app.command()(data_make.make)
        return app

    @pytest.fixture
    def here(self, small: GlyphSet, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(data_make.SETS, "glyphs-large", small)
        monkeypatch.setattr(making.os, "cpu_count", lambda: 1)

    @pytest.mark.usefixtures("here")
    def test_says_what_it_made(self, app: typer.Typer, tmp_path: Path) -> None:
        out = tmp_path / "made"
        words = ["glyphs-large", "--out", str(out), "--classes", "8", "--side", "24"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert "8 kanji in 3 typefaces, 24 x 24 pixels" in result.output
        size = (out / "train.npz").stat().st_size
        assert f"train  8 images, {size:,} bytes" in result.output
        assert len(glyphs.load_folder(out, "test")) == 4 * 3

    @pytest.mark.usefixtures("here")
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signal_ends_it_without_a_trace(
        self,
        app: typer.Typer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: signal.Signals,
        code: int,
    ) -> None:
        monkeypatch.setattr(drawing, "_refuse_twins", lambda *_: os.kill(os.getpid(), number))
        before = signal.getsignal(number)
        result = CliRunner().invoke(app, ["glyphs-large", "--out", str(tmp_path / "made"), "--classes", "8"])
        assert result.exit_code == code
        assert "stopped; no data set was written" in result.output
        assert os.listdir(tmp_path) == []
        assert signal.getsignal(number) is before

    @pytest.mark.parametrize(
        ("words", "code", "complaint"),
        [
            (["glyphs-huge"], 2, "SET must be glyphs-large, got 'glyphs-huge'"),
            (["glyphs-large", "--side", "4"], 2, "side must be 16 to 128 pixels, got 4"),
            (["glyphs-large"], 1, "there is no apt-get on this machine"),
        ],
    )
    def test_what_cannot_be_done_is_said(
        self,
        app: typer.Typer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        code: int,
        complaint: str,
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "made")])
        assert result.exit_code == code
        assert complaint in result.output
        assert os.listdir(tmp_path) == []
