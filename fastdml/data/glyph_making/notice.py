"""The NOTICE that travels with a set of glyphs."""

from __future__ import annotations

from collections.abc import Sequence

from fastdml.data.glyph_making.fonts import Source

PREAMBLE = """\
The glyphs data set
===================

train.npz and test.npz hold small grey pictures (32 x 32 pixels) of kanji, drawn with the typefaces listed
below. No font file, outline, hint or table of any font is in this folder, and no font can be got back from
the pictures.

What applies to what:

* The arrangement of the pictures, the labels and the loader are under the licence of fastdml (Apache-2.0).
* OFL-1.1 (SIL Open Font License) governs font software. Its fifth condition says that the duty to stay under
  that licence does not reach documents made with the fonts, and these pictures are such documents. The
  fonts are named here to say where the pictures come from, not to name a derived font.
* Apache-2.0 fonts: the pictures carry none of the licensed files. The text of that licence is in the
  LICENSE file of fastdml.
* MIT and BSD-3-Clause fonts: those licences cover copies of the font software. Whether a drawn picture
  could count as a part of one or not, their notices are given in full below, so that the condition is met.
* public-domain: the authors have given up their rights; their statement is given below.

Each licence was read in the copyright file of the Debian package named beside it.

Typefaces
---------
"""


def notice(sources: Sequence[Source], side: int) -> str:
    """The text of NOTICE: what applies, one entry a typeface, then the notices to be kept in full."""
    entries = [_entry(source) for source in sources]
    return (
        PREAMBLE.replace("32 x 32", f"{side} x {side}")
        + "\n"
        + "\n".join(entries)
        + "\n"
        + "\n".join(_full_texts(sources))
    )


def _entry(source: Source) -> str:
    face = source.face
    holders = "\n".join(f"      {line.strip()}" for line in source.copyright.splitlines() if line.strip())
    origin = f"{face.file}, Debian package {face.package} {source.version}"
    return f"{face.family}\n    {source.licence}; {origin}; {face.role}\n    Copyright:\n{holders}\n"


def _full_texts(sources: Sequence[Source]) -> list[str]:
    """Each MIT, BSD and public-domain text once (line breaks aside), with the packages that it came from."""
    texts: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for source in sources:
        if source.licence in ("MIT", "BSD-3-Clause", "public-domain"):
            key = (source.licence, " ".join(source.licence_text.split()))
            _, packages = texts.setdefault(key, (source.licence_text.strip(), []))
            if source.face.package not in packages:
                packages.append(source.face.package)
    blocks = []
    for (licence, _), (text, packages) in texts.items():
        title = f"{licence}, as given in {', '.join(packages)}"
        body = "\n".join(line.rstrip() for line in text.splitlines())
        blocks.append(f"{title}\n{'-' * len(title)}\n\n{body}\n")
    return blocks
