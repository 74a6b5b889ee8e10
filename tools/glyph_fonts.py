"""The fonts behind the glyphs data set: which they are, where they come from, what their licences say.

The fonts themselves are never stored in the repository. They are taken out of Debian packages, unpacked into
a scratch folder, and each package's copyright file is read again on every run: a font whose licence is no
longer one of those accepted here stops the run.
"""

from __future__ import annotations

import fnmatch
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

GALLERY = "train+gallery"
QUERY_ONLY = "query-only"

# Short names in Debian copyright files -> SPDX-like names. Only what stands here is accepted.
PERMISSIVE = {
    "OFL-1.1": "OFL-1.1",
    "SIL-1.1": "OFL-1.1",
    "Hanazono-Font-License or Open-Font-License": "OFL-1.1",  # the choice is ours
    "Apache-2": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "MIT": "MIT",
    "BSD-3-Clause": "BSD-3-Clause",
    "public-domain": "public-domain",
}


@dataclass(frozen=True)
class Face:
    """One font file: the family, its Debian package, the file's name and its part in the data set."""

    family: str
    package: str
    file: str
    role: str = GALLERY
    index: int = 0  # face number inside a .ttc collection


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


FACES = (
    Face("Noto Sans CJK JP", "fonts-noto-cjk", "NotoSansCJK-Regular.ttc"),
    Face("Noto Serif CJK JP", "fonts-noto-cjk", "NotoSerifCJK-Regular.ttc"),
    Face("Hanazono Mincho", "fonts-hanazono", "HanaMinA.ttf"),
    Face("Klee One", "fonts-klee", "KleeOne-SemiBold.ttf"),
    Face("Reggae One", "fonts-reggae", "ReggaeOne-Regular.ttf"),
    Face("Train One", "fonts-train", "TrainOne-Regular.ttf"),
    Face("DotGothic16", "fonts-dotgothic16", "DotGothic16-Regular.ttf"),
    Face("Yusei Magic", "fonts-yusei-magic", "YuseiMagic-Regular.ttf"),
    Face("BIZ UDGothic", "fonts-morisawa-bizud-gothic", "BIZUDGothic-Bold.ttf"),
    Face("BIZ UDMincho", "fonts-morisawa-bizud-mincho", "BIZUDMincho-Regular.ttf"),
    Face("SetoFont", "fonts-seto", "setofont.ttf"),
    Face("YOzFont", "fonts-yozvox-yozfont-edu", "YOzREF.ttf"),
    Face("Motoya L Cedar", "fonts-motoya-l-cedar", "MTLc3m.ttf"),
    Face("Konatu", "fonts-konatu", "Konatu.ttf"),
    Face("Kiloji", "fonts-kiloji", "kiloji.ttf"),
    Face("Dejima Mincho", "fonts-dejima-mincho", "dejima-mincho-r227.ttf"),
    Face("Kouzan Mouhitsu", "fonts-kouzan-mouhitsu", "kouzan-mouhitsu.ttf", QUERY_ONLY),
    Face("Kouzan Mouhitsu Gyosho", "fonts-kouzan-mouhitsu", "kouzan-mouhitsu-gyosho.ttf", QUERY_ONLY),
    Face("Kouzan Mouhitsu Sousho", "fonts-kouzan-mouhitsu", "KouzanBrushFontSousyo.ttf", QUERY_ONLY),
    Face("Aoyagi Kouzan T", "fonts-aoyagi-kouzan-t", "AoyagiKouzanT.ttf", QUERY_ONLY),
)


def locate(faces: tuple[Face, ...], packages: Path, scratch: Path) -> list[Source]:
    """Find every face, fetching packages that `packages` lacks and unpacking them below `scratch`.

    `packages` is a folder of .deb files as `apt-get download` leaves them. Raises SystemExit when a package
    cannot be had, when a file is not in it, or when a licence is not permissive.
    """
    packages.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    archives = {name: _archive(name, packages) for name in sorted({face.package for face in faces})}
    versions = {name: _package_version(archive) for name, archive in archives.items()}
    for name, archive in archives.items():
        subprocess.run(["dpkg-deb", "-x", str(archive), str(scratch / name)], check=True)
    return [_source(face, scratch / face.package, versions[face.package]) for face in faces]


def _archive(package: str, folder: Path) -> Path:
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        print(f"fetching {package}", flush=True)
        subprocess.run(
            ["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        found = sorted(folder.glob(f"{package}_*.deb"))
    if len(found) != 1:
        raise SystemExit(f"{folder} must hold exactly one archive of {package}, found {len(found)}")
    return found[0]


def _package_version(archive: Path) -> str:
    command = ["dpkg-deb", "-f", str(archive), "Version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _source(face: Face, tree: Path, version: str) -> Source:
    paths = sorted(tree.rglob(face.file))
    if len(paths) != 1:
        raise SystemExit(f"{face.package} {version} must hold one {face.file}, found {len(paths)}")
    notice = tree / "usr/share/doc" / face.package / "copyright"
    holder, short_name, text = read_licence(notice.read_text(encoding="utf-8"), face.file)
    if short_name not in PERMISSIVE:
        raise SystemExit(
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
        raise SystemExit(f"no paragraph of the copyright file speaks of {file}")
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
