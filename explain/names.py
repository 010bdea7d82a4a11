"""File names of explanations."""

import hashlib
import re

PARTS = "webp"  # the folder of the pictures that pages embed, apart from the GIFs
LONGEST = 180  # bytes of a name; file systems allow 255

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')  # on common file systems
_RESERVED = {"", "index.html"}  # the overview is beside the folders of the videos


def file_name(name: str) -> str:
    """A safe name for one file or folder: it stays in its folder, and different names stay different.

    Ordinary names, with spaces, `!`, `&` or letters of any script, stay as they are.
    """
    safe = _FORBIDDEN.sub("_", name).lstrip(".").rstrip(" .")
    short = safe.encode("utf-8", "ignore")[:LONGEST].decode("utf-8", "ignore")  # drops surrogates of undecodable bytes
    if short == name and name not in _RESERVED:
        return name
    return f"{short}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def picture_name(level: int, rank: int, kind: str) -> str:
    """The name of a prototype's picture (box, heat, source, patch, card) without its suffix; ranks count from 1."""
    return f"level{level}_{rank}_{kind}"


def voice_name(prototype: int, kind: str) -> str:
    """The name of a picture of a contrast (here, source, moving) without its suffix."""
    return f"contrast_{prototype}_{kind}"
