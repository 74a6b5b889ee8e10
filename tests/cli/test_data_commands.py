"""`fastdml data check` and `fastdml data unpack`: what they print, refuse and leave behind."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data import trees
from typer.testing import CliRunner, Result

from fastdml.cli.data import data_app
from fastdml.data.archives import ArchiveError, unpack
from fastdml.errors import InputError


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(data_app, [str(word) for word in words])


def test_check_says_what_it_found(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    trees.write_folders(root, ("ant", "bee", "cat"), count=3)
    (root / "cat" / "shot 2.jpg").unlink()
    result = call("check", root)
    assert result.exit_code == 0
    train = "split train  images 6  classes 2  queries 6  gallery 6  cameras none"
    test = "split test  images 2  classes 1  queries 2  gallery 2  cameras none"
    assert result.stdout.splitlines() == [
        "pets: any folder of class folders, or of train/ and test/ with class folders (layout folders)",
        f"{train}  images a class 3 to 3, median 3",
        f"{test}  images a class 2 to 2, median 2",
        "read 8 images, 0 of them unreadable",
        "nothing is amiss",
    ]


def test_check_lists_what_differs_and_what_cannot_be_read(tmp_path: Path) -> None:
    trees.write_market(tmp_path)
    result = call("check", tmp_path, "--no-read")
    assert result.exit_code == 1
    assert "split test  images 5  classes 2  queries 1  gallery 4  cameras 4" in result.stdout
    assert "note: gallery has 4 images of 2 classes, published are 15,913 images of 751" in result.stdout
    assert "unreadable" not in result.stdout
    bad = [
        tmp_path / "query/0003_c1s1_000901_00.jpg",
        tmp_path / "bounding_box_train/0007_c3s3_077419_03.jpg",
    ]
    for path in bad:
        path.write_bytes(b"")
    result = call("check", tmp_path, "--layout", "market")
    assert result.exit_code == 1
    assert "read 8 images, 2 of them unreadable" in result.stdout
    for path in bad:
        assert f"unreadable: {path}: " in result.stdout


def test_one_unreadable_image_alone_gives_exit_code_1(tmp_path: Path) -> None:
    trees.write_folders(tmp_path)
    (tmp_path / "ant" / "shot 0.jpg").write_bytes(b"GIF89a")
    assert call("check", tmp_path).exit_code == 1
    assert call("check", tmp_path, "--no-read").exit_code == 0


def test_check_leaves_missing_images_to_a_note(tmp_path: Path) -> None:
    trees.write_cub(tmp_path)
    gone = "images/001.Some_Bird_1/Some_Bird_0000_1.jpg"
    (tmp_path / gone).unlink()
    result = call("check", tmp_path)
    assert result.exit_code == 1
    assert f"note: 1 of 8 listed images are not there: {gone}" in result.stdout


@pytest.mark.parametrize("words", [(), ("--layout", "sop"), ("--layout", "spo")])
def test_check_of_what_is_no_data_set(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = call("check", tmp_path, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert call("check", tmp_path / "nowhere").exit_code == 2


def test_check_takes_features(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, features=np.ones((4, 2), np.float32), labels=np.array([0, 0, 1, 1]))
    result = call("check", path)
    assert result.exit_code == 0
    assert "layout features" in result.stdout
    assert "read " not in result.stdout


def packed(folder: Path, ending: str) -> Path:
    """The birds in an archive."""
    trees.write_cub(folder / "CUB_200_2011")
    archive = folder / f"birds.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            for path in sorted((folder / "CUB_200_2011").rglob("*")):
                made.write(path, path.relative_to(folder))
    else:
        compression = "" if ending == "tar" else {"tgz": "gz", "tar.bz2": "bz2", "tar.xz": "xz"}[ending]
        with tarfile.open(archive, f"w:{compression}") as made:
            made.add(folder / "CUB_200_2011", "CUB_200_2011")
    return archive


@pytest.mark.parametrize("ending", ["zip", "tar", "tgz", "tar.bz2", "tar.xz"])
def test_what_is_unpacked_is_a_data_set(tmp_path: Path, ending: str) -> None:
    archive = packed(tmp_path / "made", ending)
    out = tmp_path / "data" / "birds"
    result = call("unpack", archive, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"unpacked: {out}\n"
    written = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    source = archive.parent
    expected = (path for path in (source / "CUB_200_2011").rglob("*") if path.is_file())
    assert written == {path.relative_to(source): path.read_bytes() for path in expected}
    assert os.listdir(out.parent) == ["birds"]
    assert "layout cub" in call("check", out).stdout


EVIL = {
    "climbs": "../evil.txt",
    "climbs from below": "a/../../evil.txt",
    "climbs by backslash": "..\\evil.txt",
    "absolute": "/tmp/evil.txt",
    "drive": "C:\\evil.txt",
}


@pytest.mark.parametrize("name", EVIL.values(), ids=list(EVIL))
@pytest.mark.parametrize("ending", ["zip", "tgz"])
def test_members_that_climb_out_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, ending: str
) -> None:
    archive = tmp_path / f"evil.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as made:
            for member in ("fine.txt", name):
                made.writestr(member, "x")
    else:
        with tarfile.open(archive, "w:gz") as made:
            for member in ("fine.txt", name):
                made.addfile(tarfile.TarInfo(member), io.BytesIO())
    out = tmp_path / "below" / "out"
    result = call("unpack", archive, "--out", out)
    assert result.exit_code == 2
    assert "nothing unpacked" in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "links.tar"
    with tarfile.open(archive, "w") as made:
        made.addfile(tarfile.TarInfo("fine.txt"), io.BytesIO())
        link = tarfile.TarInfo("link")
        link.type, link.linkname = kind, "fine.txt"
        made.addfile(link)
    with pytest.raises(ArchiveError, match="'link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["links.tar"]


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "links.zip"
    with zipfile.ZipFile(archive, "w") as made:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["links.zip"]


@pytest.mark.parametrize("ending", ["zip", "tar", "tgz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_half_finished_download_is_not_taken_for_whole(tmp_path: Path, ending: str, part: float) -> None:
    archive = packed(tmp_path / "made", ending)
    content = archive.read_bytes()
    cut = int(len(content) * part) // 512 * 512  # a tar cut between two blocks is the hard case
    archive.write_bytes(content[:cut])
    out = tmp_path / "data" / "birds"
    with pytest.raises(ArchiveError, match=f"{archive.name} (is damaged|must be a zip or tar archive)"):
        unpack(archive, out)
    assert os.listdir(out.parent) == []


def test_a_tar_cut_between_two_members_is_not_taken_for_whole(tmp_path: Path) -> None:
    archive = packed(tmp_path / "made", "tar")
    with tarfile.open(archive) as made:
        third = made.getmembers()[3].offset
    archive.write_bytes(archive.read_bytes()[:third])
    with pytest.raises(ArchiveError, match="it stops before its end"):
        unpack(archive, tmp_path / "out")


def test_a_damaged_member_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("first.txt", "a" * 100)
        made.writestr("second.txt", "b" * 100)
    archive.write_bytes(archive.read_bytes().replace(b"b" * 100, b"b" * 99 + b"c"))
    with pytest.raises(ArchiveError, match=r"Bad CRC-32 for file 'second\.txt'"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path) -> None:
    archive = packed(tmp_path / "made", "zip")

    def interrupt(done: int, of: int) -> None:
        if done == of - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "data" / "birds", interrupt)
    assert os.listdir(tmp_path / "data") == []


def test_what_does_not_fit_on_the_disk_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path / "made", "tgz")
    full = type("Usage", (), {"free": 100})
    monkeypatch.setattr("fastdml.data.archives.shutil.disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"needs 0\.0 GiB unpacked, .* has 0\.0 GiB free"):
        unpack(archive, tmp_path / "data" / "birds")
    assert os.listdir(tmp_path / "data") == []


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    archive = packed(tmp_path / "made", "zip")
    out = tmp_path / "out"
    out.mkdir()
    assert unpack(archive, out) == out
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        unpack(archive, out)
    with pytest.raises(InputError, match="archive must be a zip or tar file"):
        unpack(tmp_path / "absent.zip", tmp_path / "other")
    (tmp_path / "text.zip").write_text("<html>")
    with pytest.raises(ArchiveError, match="must be a zip or tar archive, it is neither"):
        unpack(tmp_path / "text.zip", tmp_path / "other")
    (tmp_path / "half.zip").write_bytes(archive.read_bytes()[:60])
    with pytest.raises(ArchiveError, match=r"half\.zip is damaged: its end is missing"):
        unpack(tmp_path / "half.zip", tmp_path / "other")
