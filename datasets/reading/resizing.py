"""Pictures at another size, alike in every way of reading a video."""

import math

import numpy as np
from PIL import Image


def stored_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a video's frames of which the shorter side is `size`; smaller videos keep theirs."""
    short = min(height, width)
    scale = min(size / short, 1)
    return tuple(min(size, short) if side == short else round(side * scale) for side in (height, width))


def resized(picture: np.ndarray, shown: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8 at another height and width, smoothed where it shrinks.

    Where these are its `stored_size`, both axes shrink alike, and the square in the middle that evaluation cuts out
    shows the same of either picture to a part of a pixel: an odd rest beside it would shift one by half a pixel against
    the other, which is most of the difference between their clips. The outermost row or column may be a repeated one.
    """
    sides = picture.shape[:2]
    if stored_size(*sides, min(shown)) != shown:
        return np.asarray(Image.fromarray(picture).resize(shown[::-1], Image.Resampling.BICUBIC))
    square, shown_square = min(sides), min(shown)
    step, pads, box = square / shown_square, [], []
    for side, shown_side in zip(sides, shown, strict=True):
        first = _middle(side, square) - _middle(shown_side, shown_square) * step
        last = first + shown_side * step
        pads.append((max(math.ceil(-first), 0), max(math.ceil(last - side), 0)))
        box.append((first + pads[-1][0], last + pads[-1][0]))
    if any(map(any, pads)):
        picture = np.pad(picture, (*pads, (0, 0)), mode="edge")
    (top, bottom), (left, right) = box
    return np.asarray(Image.fromarray(picture).resize(shown[::-1], Image.Resampling.BICUBIC,
                                                      (left, top, right, bottom)))


def _middle(side: int, square: int) -> float:
    """Where the middle of the square is that evaluation cuts out, along a side."""
    return (side - square) // 2 + square / 2
