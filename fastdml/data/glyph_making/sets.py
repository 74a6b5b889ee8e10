"""What can be made: which typefaces, how many kanji, how large a picture. Needs nothing that draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastdml.errors import InputError

GALLERY = "train+gallery"
QUERY_ONLY = "query-only"

LEVEL_1 = 2965  # kanji of JIS level 1
SIDES = (16, 128)


@dataclass(frozen=True)
class Face:
    """One font file: the family, its Debian package, the file's name and its part in the data set."""

    family: str
    package: str
    file: str
    role: str = GALLERY
    index: int = 0  # face number inside a .ttc collection


@dataclass(frozen=True)
class GlyphSet:
    """What is to be made. Same set, same fonts, same Pillow: same bytes.

    Attributes:
        name: for messages.
        faces: typefaces, of which none is drawn in training or put in the gallery that is `QUERY_ONLY`.
        classes: kanji, the first half (rounded down) for training and the others for testing; 2 to 2,965.
        side: of a picture, in pixels; 16 to 128.
        seed: of the kanji's order and of the test pictures' perturbation.

    Raises:
        InputError: classes or side lies outside.
    """

    name: str
    faces: tuple[Face, ...]
    classes: int
    side: int = 32
    seed: int = 20240229

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= LEVEL_1:
            raise InputError(
                f"classes must be 2 to {LEVEL_1}, the kanji of JIS level 1, half of them for testing; "
                f"got {self.classes}"
            )
        if not SIDES[0] <= self.side <= SIDES[1]:
            raise InputError(f"side must be {SIDES[0]} to {SIDES[1]} pixels, got {self.side}")


_FACES = (
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

_MORE_FACES = (
    Face("Noto Sans CJK JP Bold", "fonts-noto-cjk", "NotoSansCJK-Bold.ttc"),
    Face("Noto Serif CJK JP Bold", "fonts-noto-cjk", "NotoSerifCJK-Bold.ttc"),
    Face("WenQuanYi Micro Hei", "fonts-wqy-microhei", "wqy-microhei.ttc"),
    Face("Sawarabi Mincho", "fonts-sawarabi-mincho", "sawarabi-mincho-medium.ttf"),
    Face("Aoyagi Soseki", "fonts-aoyagi-soseki", "aoyagi-soseki.ttf"),
)

GLYPHS = GlyphSet("glyphs", _FACES, classes=400)
# Every face trains and is found, as Stanford Online Products has no queries apart.
GLYPHS_LARGE = GlyphSet(
    "glyphs-large", tuple(replace(face, role=GALLERY) for face in _FACES + _MORE_FACES), classes=2800
)
