"""Bytes of a picture file to pixels, which all readers of stored frames share."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

from datasets.reading.showing import UPRIGHT, exif_orientation, rgb_of_image, turned

EXIF_MARK = b"Exif\0\0"  # what the segment of EXIF in a JPEG file begins with


def rgb_of(content: bytes, name: str, remedy: str, into: np.ndarray | None = None) -> np.ndarray:
    """The bytes of a picture file as (H, W, 3) uint8 RGB, upright, in the array `into` where that has this shape.

    Raises:
        ValueError: with the file's name and the remedy, where it is no picture.
    """
    if not content:
        raise ValueError(f"{name}: is empty; {remedy}")
    try:  # the same pixels as Pillow's, in half of its time
        height, width, colours, _ = decode_jpeg_header(content)
        if colours in ("YCbCr", "Gray", "RGB") and height * width < Image.MAX_IMAGE_PIXELS:
            fits = into is not None and into.shape == (height, width, 3)
            picture = decode_jpeg(content, "RGB", buffer=into if fits else np.empty((height, width, 3), np.uint8))
            return turned(picture, _orientation(content)) if _has_exif(content) else picture
    except ValueError:
        pass  # Pillow says better what is wrong, and reads other forms, too
    try:
        with Image.open(io.BytesIO(content)) as image:
            return rgb_of_image(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: holds no picture; {remedy}") from error
    except Exception as error:  # on bytes that are no picture, Pillow's parsers raise whatever they stumble over
        raise ValueError(f"{name}: not a readable picture ({error}); {remedy}") from error


def _has_exif(content: bytes) -> bool:
    """Whether there is EXIF among the segments in front of a JPEG file's picture."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xE1 and content.startswith(EXIF_MARK, at + 4):
            return True
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # neither an application's nor a comment
            return False
        at += 2 + int.from_bytes(content[at + 2:at + 4], "big")
    return False


def _orientation(content: bytes) -> tuple[bool, bool, bool]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return exif_orientation(image)
    except Exception:  # as above; the picture itself is sound
        return UPRIGHT


def stacked(read: Callable[[int, np.ndarray | None], np.ndarray], wanted: Sequence[int], name: Path,
            remedy: str, *, called: Callable[[int], str] = "frame {}".format) -> Tensor:
    """Frames of one video, each read once: (T, H, W, 3) uint8.

    Args:
        read: index of a frame, array that it may fill -> the frame (H, W, 3).
        wanted: indices, with repeats or without. name, remedy, called: for the error message, the last what a frame is
            called by its index.
    Raises:
        ValueError: where frames differ in size, or are more than fit into memory.
    """
    place: dict[int, int] = {}  # in the stack, of each index; a looped clip has some twice
    frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
    for t, i in enumerate(wanted):
        into = frames[t] if t else None
        picture = read(i, into) if i not in place else frames[place[i]]
        if into is None:
            try:  # a damaged index asks for billions of frames
                frames = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
            except (MemoryError, ValueError) as error:
                raise ValueError(f"{name}: {len(wanted)} frames do not fit into memory; {remedy}") from error
            into = frames[t]
        elif picture.shape != into.shape:
            (height, width), (other_height, other_width) = into.shape[:2], picture.shape[:2]
            raise ValueError(f"{name}: frames differ in size, {called(wanted[0])} is {width} x {height} and "
                             f"{called(i)} is {other_width} x {other_height}; {remedy}")
        if not np.may_share_memory(picture, into):
            into[:] = picture
        place.setdefault(i, t)
    return torch.from_numpy(frames)
