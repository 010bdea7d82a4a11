"""Fonts for names in any script on pictures: one that has the letters, else the names in Latin letters."""

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from anyascii import anyascii
from PIL import ImageFont

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/System/Library/Fonts",
           "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts")
ENDINGS = (".ttf", ".otf", ".ttc")
MOST_FONTS = 500  # that are looked at
_PROBE = 24  # pixels
_NOBODYS = "\U0010fffe"  # no character, which every font draws as it draws one that it lacks
_UNUSUAL = ("bold", "black", "heavy", "light", "thin", "medium", "italic", "oblique", "condensed", "mono", "serif",
            "display", "math")


@cache
def _system_fonts() -> tuple[str, ...]:
    """The font files of this machine, upright sans-serif ones of usual weight first."""
    files = []
    for folder in map(os.path.expanduser, FOLDERS):
        for here, folders, names in os.walk(folder):
            folders.sort()
            files += [str(Path(here, name)) for name in sorted(names) if name.lower().endswith(ENDINGS)]
    return tuple(sorted(files, key=lambda file: sum(word in os.path.basename(file).lower() for word in _UNUSUAL)))


@lru_cache(maxsize=256)
def _font(file: str | None, size: float) -> ImageFont.FreeTypeFont:
    """A font of some height in pixels; of no file Pillow's own.

    Raises:
        OSError: for a file that is no font, or one of pictures of a fixed size.
    """
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)


@lru_cache(maxsize=64)
def _probe(file: str | None) -> tuple[ImageFont.FreeTypeFont, tuple]:
    """A font that draws character by character, so that none changes another, and what it draws for one it lacks."""
    font = _font(file, _PROBE).font_variant(layout_engine=ImageFont.Layout.BASIC)
    return font, _drawn(font, _NOBODYS)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


@lru_cache(maxsize=4096)
def _has(file: str | None, character: str) -> bool:
    """Whether a font has a character: it draws it otherwise than one that it lacks."""
    if character.isspace() or unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return True  # blanks, joiners, marks of direction and selectors of a look have no picture of their own
    font, lacking = _probe(file)
    drawn = _drawn(font, character)
    return any(drawn[1]) and drawn != lacking


def _candidates() -> Iterator[str | None]:
    yield None
    yield from _system_fonts()[:MOST_FONTS]


@lru_cache(maxsize=4096)
def _choice(text: str) -> tuple[str, str | None]:
    """The text as it can be shown, and the file of the font that shows most of it."""
    words = text.split(" ")
    best, fewest, lacking = None, sys.maxsize, words
    for file in _candidates():
        try:
            of_file = [word for word in words if not all(_has(file, character) for character in word)]
        except (OSError, ValueError):  # no font, or one that Pillow does not scale
            continue
        if len(of_file) < fewest:
            best, fewest, lacking = file, len(of_file), of_file
        if not of_file:
            return text, file
    latin = {word: "".join(letter for letter in anyascii(word) if _has(best, letter))
             or "".join(f"U+{ord(character):04X}" for character in word) for word in lacking}
    return " ".join(latin.get(word, word) for word in words), best


def lettered(text: str, size: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text as a picture can show it, and a font for it: Pillow's own, else one of this machine that has its letters.

    Letters that no font has are written in Latin ones, so that no picture has empty boxes in place of a name.

    Args:
        size: height of the font in pixels.
    """
    shown, file = _choice(unicodedata.normalize("NFC", text))
    return shown, _font(file, size)
