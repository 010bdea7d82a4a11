"""How the files of an explanation are called."""

import hashlib
import re

PARTS = "webp"  # the folder of pictures that pages are made of; it keeps them out of the way of the GIFs
LONGEST = 180  # bytes of a name; file systems allow 255

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')  # on any common file system
_RESERVED = {"", "index.html"}  # an overview lies among the folders of the videos


def file_name(name: str) -> str:
    """A name that is safe for one file or folder: it never leaves its folder, and different names stay different.

    Ordinary names, with spaces, `!`, `&` or letters of any script, stay as they are.
    """
    safe = _FORBIDDEN.sub("_", name).lstrip(".").rstrip(" .")
    short = safe.encode("utf-8", "ignore")[:LONGEST].decode("utf-8", "ignore")  # Python's names of undecodable bytes go
    if short == name and name not in _RESERVED:
        return name
    return f"{short}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def picture_name(level: int, rank: int, kind: str) -> str:
    """Without its ending: of one of a prototype's pictures (box, heat, source, patch, card), ranks counting from 1."""
    return f"level{level}_{rank}_{kind}"
