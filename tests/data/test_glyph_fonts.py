"""The licence reader of tools/fonts.py, on copyright files of the shapes that packages have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fastdml.data.glyph_making import fonts
from fastdml.data.glyph_making.fonts import FontError
from fastdml.data.glyph_making.sets import Face
from fastdml.errors import InputError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")

NOTICE = """\
Format: a machine-readable copyright file

Files: *
Copyright: 2001, Somebody
           2002, Somebody Else
License: MIT

Files: extra-*.ttf
Copyright: 2003, A Third
License: GPL-3+
 Copyleft in one line.

License: MIT
 First line.
 .
 Second part.
"""


def test_text_is_found_in_its_own_paragraph() -> None:
    holder, name, text = fonts.read_licence(NOTICE, "plain.ttf")
    assert (name, text) == ("MIT", "First line.\n\nSecond part.")
    assert holder.split("\n") == ["2001, Somebody", "2002, Somebody Else"]


def test_last_matching_paragraph_wins() -> None:
    assert fonts.read_licence(NOTICE, "extra-bold.ttf")[1:] == ("GPL-3+", "Copyleft in one line.")


def test_file_that_nobody_licensed_stops_the_run() -> None:
    with pytest.raises(FontError, match=r"no paragraph of the copyright file speaks of a\.ttf"):
        fonts.read_licence(NOTICE.replace("Files: *", "Files: b.ttf"), "a.ttf")


def test_licence_that_is_not_permissive_stops_the_run(tmp_path: Path) -> None:
    tree = tmp_path / "fonts-x"
    notice = tree / "usr/share/doc/fonts-x/copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text(NOTICE, encoding="utf-8")
    for name in ("extra-a.ttf", "plain.ttf"):
        (tree / name).write_bytes(b"font")
    good = fonts._source(Face("X", "fonts-x", "plain.ttf"), tree, "1")
    assert good.licence == "MIT"
    assert good.copyright.startswith("2001")
    with pytest.raises(
        FontError, match=r"fonts-x 1: licence of extra-a\.ttf is 'GPL-3\+', which is not accepted"
    ):
        fonts._source(Face("X", "fonts-x", "extra-a.ttf"), tree, "1")


def build_archive(folder: Path, package: str, files: dict[str, bytes], version: str = "1.0-2") -> Path:
    """A Debian package with `files`."""
    tree = folder / f"tree-{package}-{version}"
    control = f"Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: a\nDescription: a\n"
    for name, content in {"DEBIAN/control": control.encode(), **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    archive = folder / f"{package}_{version}_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", str(tree), str(archive)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return archive


def font_files(package: str, name: str, content: bytes) -> dict[str, bytes]:
    return {
        f"usr/share/doc/{package}/copyright": NOTICE.encode(),
        f"usr/share/fonts/deep/{name}": content,
    }


@needs_dpkg
def test_faces_come_in_order_out_of_their_packages(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    build_archive(packages, "fonts-b", font_files("fonts-b", "b.ttf", b"two"), "2:7-1")
    build_archive(packages, "fonts-a", font_files("fonts-a", "a.ttf", b"one"))
    build_archive(packages, "fonts-ab", {"usr/share/fonts/a.ttf": b"a longer name that begins alike"})
    told: list[tuple[int, int]] = []
    faces = (Face("B", "fonts-b", "b.ttf"), Face("A", "fonts-a", "a.ttf"))
    sources = fonts.locate(
        faces, packages, tmp_path / "scratch", lambda done, total: told.append((done, total))
    )
    assert [source.face.family for source in sources] == ["B", "A"]
    assert [source.path.read_bytes() for source in sources] == [b"two", b"one"]
    assert [source.version for source in sources] == ["2:7-1", "1.0-2"]
    assert told == [(0, 2), (1, 2), (2, 2)]


@needs_dpkg
@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"usr/share/doc/fonts-a/copyright": NOTICE.encode()},
            r"fonts-a 1\.0-2 must hold one a\.ttf, found 0",
        ),
        ({"usr/share/fonts/a.ttf": b"font"}, "holds no copyright file, so its licence is not known"),
    ],
)
def test_package_without_the_font_or_its_licence_stops_the_run(
    tmp_path: Path, files: dict[str, bytes], complaint: str
) -> None:
    build_archive(tmp_path, "fonts-a", files)
    with pytest.raises(FontError, match=complaint):
        fonts.locate((Face("A", "fonts-a", "a.ttf"),), tmp_path, tmp_path / "scratch")


@needs_dpkg
def test_half_fetched_package_is_named(tmp_path: Path) -> None:
    archive = build_archive(tmp_path, "fonts-a", font_files("fonts-a", "a.ttf", bytes(range(256)) * 40))
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(FontError, match=r"fonts-a_1\.0-2_all\.deb cannot be "):
        fonts.locate((Face("A", "fonts-a", "a.ttf"),), tmp_path, tmp_path / "scratch")


def test_two_versions_of_a_package_are_refused(tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"fonts-a_{version}_all.deb").write_bytes(b"")
    with pytest.raises(FontError, match="must hold exactly one archive of fonts-a, found 2"):
        fonts.locate((Face("A", "fonts-a", "a.ttf"),), tmp_path, tmp_path / "scratch")


def test_machine_without_apt_is_told_what_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FontError, match=r"put fonts-a_\*\.deb into a folder .* there is no apt-get"):
        fonts.locate((Face("A", "fonts-a", "a.ttf"),), tmp_path, tmp_path / "scratch")


def test_fonts_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"")
    with pytest.raises(InputError, match=r"fonts must be a folder of \.deb files, got .*a\.deb"):
        fonts.locate((Face("A", "fonts-a", "a.ttf"),), tmp_path / "a.deb", tmp_path / "scratch")
