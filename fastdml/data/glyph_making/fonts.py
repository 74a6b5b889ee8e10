"""The font files behind a set: where they come from and what their licences say.

Fonts are never stored with fastdml. They are taken out of Debian packages, unpacked into a scratch folder,
and each package's copyright file is read again on every run: a font whose licence is no longer one of those
accepted here stops the run.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdml.data.glyph_making.sets import Face
from fastdml.errors import InputError

# Short names in Debian copyright files -> SPDX-like names. Only what stands here is accepted; where a file
# gives a choice, it is ours.
PERMISSIVE = {
    "OFL-1.1": "OFL-1.1",
    "SIL-1.1": "OFL-1.1",
    "Hanazono-Font-License or Open-Font-License": "OFL-1.1",
    "CC-BY-SA-3.0 or OFL-1.1": "OFL-1.1",
    "Apache-2": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "Apache-2.0 or GPL-3+ with Font exception": "Apache-2.0",
    "MIT": "MIT",
    "BSD-3-Clause": "BSD-3-Clause",
    "public-domain": "public-domain",
}


class FontError(RuntimeError):
    """Fonts that cannot be had or cannot be used; the message names the package and what would help."""


@dataclass(frozen=True)
class Source:
    """A face that was found, with everything the font table records about it."""

    face: Face
    path: Path
    version: str
    licence: str
    copyright: str
    licence_text: str
    sha256: str


def locate(
    faces: Sequence[Face],
    packages: Path,
    scratch: Path,
    on_package: Callable[[int, int], None] = lambda done, total: None,
) -> list[Source]:
    """Find every face, fetching packages that `packages` lacks and unpacking them below `scratch`.

    `packages` is a folder of .deb files as `apt-get download` leaves them; it is made where it is missing.
    `on_package` is told how many packages of how many are unpacked.

    Raises:
        InputError: `packages` is not a folder.
        FontError: a tool is missing, a package cannot be had or read, a font is not in it, or its licence is
            not permissive.
    """
    if packages.exists() and not packages.is_dir():
        raise InputError(f"fonts must be a folder of .deb files, got {packages}, which is a file")
    packages.mkdir(parents=True, exist_ok=True)
    names = sorted({face.package for face in faces})
    versions = {}
    on_package(0, len(names))
    for done, name in enumerate(names, start=1):
        archive = _archive(name, packages)
        versions[name] = _run(
            ["dpkg-deb", "-f", str(archive), "Version"], f"{archive} cannot be read"
        ).strip()
        (scratch / name).mkdir(parents=True)
        _run(["dpkg-deb", "-x", str(archive), str(scratch / name)], f"{archive} cannot be unpacked")
        on_package(done, len(names))
    return [_source(face, scratch / face.package, versions[face.package]) for face in faces]


def _archive(package: str, folder: Path) -> Path:
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        way_out = f"put {package}_*.deb into a folder and name it as fonts"
        command = ["apt-get", "download", "-q", package]
        _run(command, f"{package} cannot be fetched (`apt-get update` first, or {way_out})", cwd=folder)
        found = sorted(folder.glob(f"{package}_*.deb"))
    if len(found) != 1:
        raise FontError(f"{folder} must hold exactly one archive of {package}, found {len(found)}")
    return found[0]


def _run(command: list[str], complaint: str, cwd: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise FontError(f"{complaint}: there is no {command[0]} on this machine (Debian and Ubuntu have it)")
    # A font package's names are UTF-8, whatever the locale.
    run = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode != 0:
        raise FontError(f"{complaint}: {' '.join(run.stderr.split()) or f'exit code {run.returncode}'}")
    return run.stdout


def _source(face: Face, tree: Path, version: str) -> Source:
    paths = sorted(tree.rglob(face.file))
    if len(paths) != 1:
        raise FontError(f"{face.package} {version} must hold one {face.file}, found {len(paths)}")
    notice = tree / "usr/share/doc" / face.package / "copyright"
    if not notice.is_file():
        raise FontError(f"{face.package} {version} holds no copyright file, so its licence is not known")
    holder, short_name, text = read_licence(notice.read_text(encoding="utf-8"), face.file)
    if short_name not in PERMISSIVE:
        raise FontError(
            f"{face.package} {version}: licence of {face.file} is {short_name!r}, which is not accepted"
        )
    digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    return Source(face, paths[0], version, PERMISSIVE[short_name], holder, text, digest)


def read_licence(notice: str, file: str) -> tuple[str, str, str]:
    """(copyright holders, licence short name, licence text) of `file` in a machine-readable copyright file.

    As in the format's rules, the last `Files:` paragraph that matches wins, and a licence without text of its
    own there takes the text of the stand-alone `License:` paragraph of the same name.
    """
    paragraphs = [_fields(part) for part in notice.replace("\r", "").split("\n\n")]
    matching = [p for p in paragraphs if any(fnmatch.fnmatch(file, g) for g in p.get("files", "").split())]
    if not matching:
        raise FontError(f"no paragraph of the copyright file speaks of {file}")
    name, _, text = matching[-1].get("license", "").partition("\n")
    if not text:
        alone = [p["license"] for p in paragraphs if "files" not in p and "license" in p]
        text = next((body for short, _, body in (a.partition("\n") for a in alone) if short == name), "")
    return matching[-1].get("copyright", ""), name.strip(), text


def _fields(paragraph: str) -> dict[str, str]:
    """`Name: value` fields of one paragraph; lines that go on lose their indent, ` .` is an empty line."""
    fields: dict[str, str] = {}
    current = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            body = line.strip()
            fields[current] = f"{fields.get(current, '')}\n{'' if body == '.' else body}".removeprefix("\n")
        elif ":" in line:
            current, _, value = line.partition(":")
            current = current.lower()
            fields[current] = value.strip()
    return fields
