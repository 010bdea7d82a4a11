"""What the videos of one group share: the place, and how the actor looks and moves."""

import colorsys
import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from datasets.synthetic.classes import (
    DESIGN_SIZE,
)


@dataclass(frozen=True, slots=True)
class Group:
    """What the videos of one group share, whatever their class: the place, and how the actor looks and moves."""

    place: np.ndarray = field(repr=False)  # (2 size, 2 size, 3) RGB in [0, 1]
    hue: float  # degrees added to every object's
    saturation: float
    value: float
    radius: float  # pixels
    speed: float  # 1 is usual


def hsv_colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB (3,) in [0, 1] of a hue in degrees."""
    return np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value), dtype=np.float32)


def _smooth_noise(rng: Generator, size: int, cells: int) -> np.ndarray:
    """Bilinear noise of about unit deviation on (size, size) pixels, with `cells` knots a side."""
    at = np.linspace(0, cells - 1, size)
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells)))  # (size, cells) hat functions
    return (weights @ rng.standard_normal((cells, cells)) @ weights.T * 1.3).astype(np.float32)


def _wall(rng: Generator, y: np.ndarray, x: np.ndarray, scale: float) -> np.ndarray:
    """A regular wall pattern around 0, of deviation about 1."""
    pitch = scale * rng.uniform(7, 14)
    kind = rng.choice(("plain", "stripes", "bricks", "tiles"))
    if kind == "stripes":
        return np.sin(2 * np.pi * x / pitch)
    if kind == "bricks":
        row = np.floor(y / pitch)
        return np.where((y % pitch < scale) | ((x + row % 2 * pitch) % (2 * pitch) < scale), -2.0, 0.3)
    if kind == "tiles":
        return np.where((np.floor(y / pitch) + np.floor(x / pitch)) % 2 > 0, 0.8, -0.8)
    return np.zeros(np.broadcast_shapes(y.shape, x.shape))


def _place(rng: Generator, size: int) -> np.ndarray:
    """A muted room: a wall with a pattern, a floor, furniture, stains and light; (2 size, 2 size, 3)."""
    n, scale = 2 * size, size / DESIGN_SIZE
    y, x = np.arange(n)[:, None] - size, np.arange(n)[None, :] - size
    horizon = size * rng.uniform(0.05, 0.35)
    wall = hsv_colour(rng.uniform(0, 360), rng.uniform(0.05, 0.25), rng.uniform(0.4, 0.7))
    floor = hsv_colour(rng.uniform(0, 360), rng.uniform(0.05, 0.3), rng.uniform(0.25, 0.5))
    pattern = (0.05 * _wall(rng, y, x, scale))[..., None]
    boards = (0.04 * np.sin((y - horizon) / (scale * rng.uniform(1.2, 2.5))) + 0 * x)[..., None]
    place = np.where((y < horizon)[..., None], wall + pattern, floor + boards)
    for _ in range(6):  # cupboards on the floor, pictures on the wall
        height, width = size * rng.uniform(0.15, 0.5, 2)
        left = rng.uniform(-size, size)
        foot = horizon + size * rng.choice((0.08, rng.uniform(-0.9, -0.2)))
        inside = (y > foot - height) & (y < foot) & (x > left) & (x < left + width)
        colour = hsv_colour(rng.uniform(0, 360), rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.7))
        place = np.where(inside[..., None], colour, place)
    stains = 0.05 * _smooth_noise(rng, n, 13) + 0.03 * _smooth_noise(rng, n, 49) + 0.015 * rng.standard_normal((n, n))
    light = 1.0 + 0.12 * _smooth_noise(rng, n, 4)
    return np.clip((place + stains[..., None]) * light[..., None], 0.0, 1.0).astype(np.float32)


@functools.lru_cache(maxsize=4)
def make_group(seed: int, group: int, size: int) -> Group:
    """The place and the actor of a group, a pure function of (seed, group, size in pixels)."""
    rng = np.random.default_rng((seed, 0, group))
    return Group(
        hue=rng.uniform(-10, 10),
        saturation=rng.uniform(0.8, 0.95),
        value=rng.uniform(0.8, 0.98),
        radius=rng.uniform(9.8, 11.4) * size / DESIGN_SIZE,
        speed=rng.uniform(0.88, 1.14),
        place=_place(rng, size),
    )
