"""Unpacking zip and tar archives that are not trusted: every member is checked before a byte is written."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from fastdml.errors import InputError

Progress = Callable[[int, int], None]
"""Called with the members written so far and all of them."""


class ArchiveError(InputError):
    """An archive that is damaged or holds what it must not; nothing of it was left behind."""


def unpack(archive: Path | str, out: Path | str, on_progress: Progress | None = None) -> Path:
    """Unpack a zip or tar archive, compressed or not, into a new folder.

    The files are written beside `out` and renamed when all are there, so that a folder named `out` is whole.

    Args:
        archive: file.
        out: folder that is made; an empty one may be there.
        on_progress: called after every member.

    Returns:
        `out`, absolute.

    Raises:
        ArchiveError: a member climbs out of the folder, has an absolute path, is a link or a device, or the
            archive is damaged, encrypted, or no zip or tar archive at all.
        InputError: there is no such archive, `out` is taken, or what is unpacked does not fit on the disk.
    """
    source, target = Path(archive).absolute(), Path(out).absolute()
    if not source.is_file():
        raise InputError(f"archive must be a zip or tar file, {source} is none")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"out must be a new or an empty folder, {target} is neither")
    target.parent.mkdir(parents=True, exist_ok=True)
    report = on_progress or (lambda done, of: None)
    with _damage_named(source), _partial(target) as folder:
        if zipfile.is_zipfile(source):
            _unpack_zip(source, folder, report)
        elif tarfile.is_tarfile(source):
            _unpack_tar(source, folder, report)
        elif _begins_as_zip(source):
            raise ArchiveError(f"{source} is damaged: its end is missing, as of a half-finished download")
        else:
            raise ArchiveError(f"{source} must be a zip or tar archive, it is neither")
        folder.replace(target)
    return target


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that is removed unless it was renamed."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _damage_named(source: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise  # of the disk, not of the archive
        raise ArchiveError(f"{source} is damaged: {error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"{source} is damaged: {error}") from error
    except Exception as error:  # zlib.error and lzma.LZMAError are subclasses of nothing else
        if type(error).__module__ not in ("zlib", "_lzma"):
            raise
        raise ArchiveError(f"{source} is damaged: {error}") from error


def _unpack_zip(source: Path, folder: Path, report: Progress) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        for member in members:
            _check_name(source, member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(source, member.filename, "is a link or a device")
            if member.flag_bits & 1:
                raise _refused(source, member.filename, "is encrypted")
        _check_room(source, folder, sum(member.file_size for member in members))
        for done, member in enumerate(members, start=1):
            archive.extract(member, folder)  # compares the checksum
            report(done, len(members))


def _unpack_tar(source: Path, folder: Path, report: Progress) -> None:
    with tarfile.open(source) as archive:
        members = archive.getmembers()
        for member in members:
            _check_name(source, member.name)
            if not (member.isfile() or member.isdir()):
                raise _refused(source, member.name, "is a link or a device")
        if not _has_end(archive):
            raise ArchiveError(f"{source} is damaged: it stops before its end")
        _check_room(source, folder, sum(member.size for member in members))
        for done, member in enumerate(members, start=1):
            archive.extract(member, folder, filter="data")
            report(done, len(members))


def _has_end(archive: tarfile.TarFile) -> bool:
    """Whether a block of zeros follows the last member; tarfile takes a cut archive for a whole one."""
    if not isinstance(archive.fileobj, io.BufferedReader):
        return True  # compressed: its end is marked by the compression
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _begins_as_zip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check_name(source: Path, name: str) -> None:
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root:
        raise _refused(source, name, "has an absolute path")
    if ".." in path.parts or ".." in windows.parts:
        raise _refused(source, name, "climbs out of the folder")


def _refused(source: Path, name: str, why: str) -> ArchiveError:
    return ArchiveError(f"{source} must hold plain files inside one folder: {name!r} {why}; nothing unpacked")


def _check_room(source: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{source} needs {needed / 2**30:.1f} GiB unpacked, {os.fspath(folder.parent)} has "
            f"{free / 2**30:.1f} GiB free"
        )
