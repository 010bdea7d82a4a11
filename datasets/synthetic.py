"""Small synthetic actions whose truth is known, written in UCF-101's own layout: the embedded default data set.

A video is a tiny filmed scene: a muted background under a shaky camera, an object that performs the event for a while,
decoys from the same vocabulary of objects that stand still, and grey movers from outside it. The class is which object
moves how: `BallFalling` and `StarFalling` share their parent, `Falling` and `Rising` their grandparent. Neither the
object (each occurs under four parents) nor the background (a group's background occurs in every class) gives the class
away, and no motion tells left from right, so that mirrored clips keep their label.

With two ways, every object comes in two kinds of different outline and hue, and the kind that performs a class's event
is the way that the video shows it. Decoys come in both kinds, so that the kind does not give the class away either.

Every video is a pure function of (seed, class, group, clip) and of its way. Lengths scale with the frame size, times
with the number of frames.
"""

import colorsys
import csv
import functools
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

# grandparent -> parent (the motion) -> the objects that perform it. Each object occurs under four parents.
TREE = {
    "One-way Travel": {
        "Falling": ("Ball", "Book", "Star"),
        "Rising": ("Book", "Hoop", "Kite"),
        "Sliding": ("Book", "Hoop", "Star"),
    },
    "Repeated Travel": {
        "Bouncing": ("Ball", "Cross", "Kite"),
        "Swinging": ("Ball", "Hoop", "Kite"),
        "Circling": ("Ball", "Book", "Cross"),
    },
    "Change on the Spot": {
        "Spinning": ("Cross", "Kite", "Star"),
        "Pulsing": ("Cross", "Hoop", "Star"),
    },
}
# (class, object, motion, grandparent) in the class order, which is alphabetical as in UCF-101.
CLASSES = tuple(
    sorted(
        (thing + motion, thing, motion, family)
        for family, motions in TREE.items()
        for motion, things in motions.items()
        for thing in things
    )
)
HUES = {"Ball": 0, "Star": 50, "Cross": 120, "Hoop": 182, "Book": 228, "Kite": 305}  # degrees
# The kind of each object that shows way 1 of two, with its hue: at least 23 degrees from all others, which is more than
# the actors of two groups can differ by, and at least 140 from the object's first kind.
SECOND_KINDS = {
    "Ball": ("Rugby Ball", 151),
    "Star": ("Four-pointed Star", 205),
    "Cross": ("Latin Cross", 267),
    "Hoop": ("Square Hoop", 332),
    "Book": ("Open Book", 25),
    "Kite": ("Delta Kite", 85),
}
SHAPE_HUES = HUES | dict(SECOND_KINDS.values())
WAY_SHARE = 0.5  # of two ways, unless another is asked for

FPS = 25
MIN_FRAMES = 16  # below, an event is too short for its motion
MIN_SIZE = 32  # pixels; below, objects are blots
DESIGN_SIZE = 72  # the frame size, in pixels, that the lengths below are given for
DESIGN_EVENT = 18  # the length of an event, in frames, that the speeds below are given for


@dataclass(frozen=True, slots=True)
class Thing:
    """Something drawn over the background: one shape with its course through the video.

    Centres are (y, x) in scene pixels and radii in pixels, one for each of the T frames; angles in radians; opacities
    in [0, 1], 0 where the thing is not there. `colours` are (body, mark) in RGB of [0, 1].
    """

    shape: str
    colours: tuple[np.ndarray, np.ndarray]
    centre: np.ndarray  # (T, 2)
    radius: np.ndarray  # (T,)
    angle: np.ndarray  # (T,)
    opacity: np.ndarray  # (T,)


@dataclass(frozen=True, slots=True)
class Scene:
    """One video before it is drawn: the background, the camera's path, what stands and drifts in it, and the event."""

    background: np.ndarray = field(repr=False)  # (size + margins, size + margins, 3) RGB in [0, 1]
    camera: np.ndarray  # (T, 2) shift of the scene in pixels
    others: tuple[Thing, ...]  # decoys and movers, in the order they are drawn
    event: Thing
    frames: tuple[int, int]  # when the event happens, half-open
    size: int  # pixels
    gain: float
    noise_seed: tuple[int, ...]


# --- shapes -----------------------------------------------------------------------------------------------------------
# A shape maps coordinates in units of its radius (x to the right, y down) to two signed distances in the same unit,
# negative inside: of its outline, and of the mark painted on it, which lets rotation be seen.


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _ball(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(x, y) - 0.95, np.abs(y) - 0.24


def _book(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _box(x, y, 0.68, 0.92), _box(x - 0.4, y, 0.16, 2.0)


def _cross(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(_box(x, y, 0.95, 0.34), _box(x, y, 0.34, 0.95)), y + 0.45


def _hoop(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(np.hypot(x, y) - 0.72) - 0.24, np.maximum(-y, np.abs(x) - 0.3)


def _kite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.56 * (np.abs(x) / 0.68 + np.abs(y) - 1.0), x


def _points(x: np.ndarray, y: np.ndarray, n: int, depth: float) -> np.ndarray:
    sector = 2 * np.pi / n
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)  # from the nearest tip
    r = np.hypot(x, y)
    # distance to the line from a tip at radius 1 to the notch at radius `depth`, half a sector away
    notch = depth * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    normal = np.array([notch[1], 1.0 - notch[0]]) / np.hypot(notch[1], 1.0 - notch[0])
    return (r * np.cos(angle) - 1.0) * normal[0] + r * np.sin(angle) * normal[1]


def _star(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _points(x, y, 5, 0.48), y + 0.3


def _rugby_ball(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # where two discs meet: 1.96 long, 1.32 high
    return np.hypot(x, np.abs(y) + 0.3975) - 1.0575, np.abs(np.abs(x) - 0.5) - 0.11


def _four_pointed_star(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _points(x, y, 4, 0.44), y + 0.1


def _latin_cross(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(_box(x, y, 0.24, 0.97), _box(x, y + 0.3, 0.72, 0.24)), 0.4 - y


def _square_hoop(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(_box(x, y, 0.5, 0.5)) - 0.2, y + 0.36


def _open_book(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # two pages that rise from the spine
    return _box(x, y - 0.24 + 0.45 * np.abs(x), 0.8, 0.48), np.abs(x) - 0.14


def _delta_kite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # distances to the base and to the sides that meet in the tip at (0, -1)
    return np.maximum(y - 0.5, (1.5 * np.abs(x) - 0.86 * (y + 1.0)) / 1.729), 0.2 - y


def _blob(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(x, y / 0.7) - 0.9, y


def _bar(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _box(x, y, 0.22, 0.95), y


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "Ball": _ball, "Book": _book, "Cross": _cross, "Hoop": _hoop, "Kite": _kite, "Star": _star,
    "Rugby Ball": _rugby_ball, "Four-pointed Star": _four_pointed_star, "Latin Cross": _latin_cross,
    "Square Hoop": _square_hoop, "Open Book": _open_book, "Delta Kite": _delta_kite,
    "Blob": _blob, "Bar": _bar,
}
MOVERS = ("Blob", "Bar")


# --- motions ----------------------------------------------------------------------------------------------------------
# A motion maps the event's time (n,) from 0 to DESIGN_EVENT, the frame size over DESIGN_SIZE, the actor's speed and a
# generator to the course of the object: centre (n, 2) relative to any point, radius as a factor (n,), angle (n,).

Course = tuple[np.ndarray, np.ndarray, np.ndarray]


def _course(time: np.ndarray, *, y=0.0, x=0.0, radius=1.0, angle=0.0) -> Course:
    y, x, radius, angle = (np.broadcast_to(np.asarray(v, np.float64), time.shape) for v in (y, x, radius, angle))
    return np.stack([y, x], axis=-1), radius, angle


def _sign(rng: Generator) -> float:
    return float(rng.choice((-1.0, 1.0)))


def _travel(time: np.ndarray, scale: float, speed: float) -> np.ndarray:
    return time * (34.0 * scale * speed / max(1.0, time[-1]))


def _falling(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, y=_travel(time, scale, speed))


def _rising(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, y=-_travel(time, scale, speed))


def _sliding(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, x=_sign(rng) * _travel(time, scale, speed))


def _bouncing(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    phase = np.pi * (speed * time / 8.5 + rng.uniform())
    return _course(time, y=-16.0 * scale * np.abs(np.sin(phase)))


def _swinging(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    # a pendulum of 20 pixels that swings by 35 degrees to both sides
    swing = 0.6 * np.sin(2 * np.pi * (speed * time / 12.0 + rng.uniform()))
    return _course(time, y=20.0 * scale * np.cos(swing), x=20.0 * scale * np.sin(swing), angle=-swing)


def _circling(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    phase = 2 * np.pi * _sign(rng) * (speed * time / 12.0 + rng.uniform())
    return _course(time, y=9.0 * scale * np.sin(phase), x=9.0 * scale * np.cos(phase))


def _spinning(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    return _course(time, radius=1.15, angle=2 * np.pi * (_sign(rng) * speed * time / 18.0 + rng.uniform()))


def _pulsing(time: np.ndarray, scale: float, speed: float, rng: Generator) -> Course:
    phase = 2 * np.pi * (speed * time / 9.0 + rng.uniform())
    return _course(time, radius=0.92 + 0.36 * np.sin(phase))


MOTIONS: dict[str, Callable[[np.ndarray, float, float, Generator], Course]] = {
    "Falling": _falling, "Rising": _rising, "Sliding": _sliding, "Bouncing": _bouncing, "Swinging": _swinging,
    "Circling": _circling, "Spinning": _spinning, "Pulsing": _pulsing,
}


# --- groups: background and actor -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """What the videos of one group share, whatever their class: the place, and how the actor looks and moves."""

    place: np.ndarray = field(repr=False)  # (2 size, 2 size, 3) RGB in [0, 1]
    hue: float  # degrees added to every object's
    saturation: float
    value: float
    radius: float  # pixels
    speed: float  # 1 is usual


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
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
    wall = _hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.25), rng.uniform(0.4, 0.7))
    floor = _hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.3), rng.uniform(0.25, 0.5))
    pattern = (0.05 * _wall(rng, y, x, scale))[..., None]
    boards = (0.04 * np.sin((y - horizon) / (scale * rng.uniform(1.2, 2.5))) + 0 * x)[..., None]
    place = np.where((y < horizon)[..., None], wall + pattern, floor + boards)
    for _ in range(6):  # cupboards on the floor, pictures on the wall
        height, width = size * rng.uniform(0.15, 0.5, 2)
        left = rng.uniform(-size, size)
        foot = horizon + size * rng.choice((0.08, rng.uniform(-0.9, -0.2)))
        inside = (y > foot - height) & (y < foot) & (x > left) & (x < left + width)
        colour = _hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.7))
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


# --- scenes -----------------------------------------------------------------------------------------------------------


def _colours(group: Group, shape: str) -> tuple[np.ndarray, np.ndarray]:
    hue = SHAPE_HUES[shape] + group.hue
    return _hsv(hue, group.saturation, group.value), _hsv(hue, 0.3 * group.saturation, group.value)


def _shown(n_frames: int, first: int, last: int) -> np.ndarray:
    """Opacity of something there in [first, last): half in its first and last frame, unless the video cuts it."""
    opacity = np.zeros(n_frames)
    opacity[first:last] = 1.0
    if first > 0:
        opacity[first] = 0.5
    if last < n_frames:
        opacity[last - 1] = 0.5
    return opacity


def _shake(rng: Generator, n_frames: int, scale: float) -> np.ndarray:
    """A hand-held camera's path (T, 2): slow waves of 1-2 pixels."""
    time = np.arange(n_frames)[:, None, None]
    period, phase = rng.uniform(14, 50, (1, 2, 3)), rng.uniform(0, 2 * np.pi, (1, 2, 3))
    return 0.6 * scale * np.sin(2 * np.pi * time / period + phase).sum(-1)


def _perform(
    rng: Generator, group: Group, shape: str, motion: str, span: tuple[int, int], n_frames: int, size: int
) -> tuple[Thing, np.ndarray]:
    """An object performing a motion in frames [first, last) = span, and the box (y0, x0, y1, x1) that it sweeps."""
    first, last = span
    scale = size / DESIGN_SIZE
    # a longer event shows the same motion more slowly, not more of it
    time = np.arange(last - first) * DESIGN_EVENT / (last - first)
    moved, factor, turned = MOTIONS[motion](time, scale, group.speed * rng.uniform(0.95, 1.05), rng)
    tilt = 0.0 if motion == "Spinning" else rng.uniform(-0.35, 0.35)
    radius = group.radius * rng.uniform(0.95, 1.05) * factor
    low = (moved - radius[:, None]).min(0)
    high = (moved + radius[:, None]).max(0)
    margin = 3.0 * scale  # the camera's shake keeps the event in the picture
    at = rng.uniform(margin - low, size - margin - high)
    hold = np.clip(np.arange(n_frames) - first, 0, last - first - 1)
    thing = Thing(
        shape=shape,
        colours=_colours(group, shape),
        centre=(moved + at)[hold],
        radius=radius[hold],
        angle=(turned + tilt)[hold],
        opacity=_shown(n_frames, first, last),
    )
    return thing, np.concatenate([low + at, high + at])


def _still(
    shape: str,
    colours: tuple[np.ndarray, np.ndarray],
    centre: np.ndarray,
    radius: float,
    angle: float,
    opacity: np.ndarray,
) -> Thing:
    """A thing of fixed size and angle; `centre` is (2,) or (T, 2)."""
    n = len(opacity)
    return Thing(shape, colours, np.broadcast_to(centre, (n, 2)), np.full(n, radius), np.full(n, angle), opacity)


def _decoy(
    rng: Generator, kinds: Generator | None, group: Group, swept: list[np.ndarray], n_frames: int, size: int
) -> Thing:
    """An object that stands still, all the time or as long as an event, away from the boxes in `swept`.

    `kinds` decides between the object's two kinds; without it, all are of the first.
    """
    radius = group.radius * rng.uniform(0.9, 1.15)
    candidates = rng.uniform(0.6 * radius, size - 0.6 * radius, (24, 2))
    low, high = candidates - radius, candidates + radius
    shared = [np.minimum(high, box[2:]) - np.maximum(low, box[:2]) for box in swept]
    overlap = sum(np.clip(sides, 0, None).prod(-1) for sides in shared)
    centre = candidates[np.argmin(overlap)]
    swept.append(np.concatenate([centre - radius, centre + radius]))
    shape = str(rng.choice(list(HUES)))
    if kinds is not None and kinds.integers(2):
        shape = SECOND_KINDS[shape][0]
    span = (0, n_frames) if rng.uniform() < 0.5 else _span(rng, n_frames)
    return _still(shape, _colours(group, shape), centre, radius, rng.uniform(-0.35, 0.35), _shown(n_frames, *span))


def _mover(rng: Generator, n_frames: int, size: int) -> Thing:
    """A grey blob or bar that drifts through the picture."""
    grey = rng.uniform(0.2, 0.85)
    body = _hsv(rng.uniform(0, 360), 0.08, grey)
    way, pace = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.4) * size / DESIGN_SIZE * 40 / n_frames
    middle = rng.uniform(0.15 * size, 0.85 * size, 2)  # where it is halfway through the video
    time = np.arange(n_frames)[:, None] - n_frames / 2
    centre = middle + time * pace * np.array([np.sin(way), np.cos(way)])
    radius = size / DESIGN_SIZE * rng.uniform(6, 10)
    return _still(str(rng.choice(MOVERS)), (body, 0.9 * body), centre, radius, rng.uniform(0, np.pi), np.ones(n_frames))


def _span(rng: Generator, n_frames: int) -> tuple[int, int]:
    """When an event happens: 16-20 frames of 40, neither at once nor to the very end."""
    length = round(n_frames * rng.uniform(0.4, 0.5))
    first = int(rng.integers(n_frames // 8, n_frames - n_frames // 8 - length + 1))
    return first, first + length


def make_scene(
    seed: int, label: int, group: int, clip: int = 1, *, way: int | None = None, n_frames: int = 40, size: int = 72
) -> Scene:
    """Decide everything about one video, as a pure function of its arguments.

    Args:
        label: index into CLASSES. group, clip: from 1, as in the file's name.
        way: 0 or 1, whether the object is of its first or its second kind, which changes nothing else; None where all
            videos show one way, which leaves the second kinds out of the decoys as well.
        n_frames: length of the video. size: height and width in pixels.
    """
    rng = np.random.default_rng((seed, 1, label, group, clip))
    actor = make_group(seed, group, size)
    # a stream of its own, for the objects to be the same whether they come in one kind or two
    kinds = None if way is None else np.random.default_rng((seed, 3, label, group, clip))
    _, shape, motion, _ = CLASSES[label]
    if way == 1:
        shape = SECOND_KINDS[shape][0]
    scale = size / DESIGN_SIZE
    span = _span(rng, n_frames)
    event, box = _perform(rng, actor, shape, motion, span, n_frames, size)
    swept = [box]
    decoys = [_decoy(rng, kinds, actor, swept, n_frames, size) for _ in range(rng.integers(1, 3))]
    movers = [_mover(rng, n_frames, size) for _ in range(rng.integers(1, 3))]
    margin = int(np.ceil(2 * scale)) + 1  # what the camera's shake may uncover
    side = size + 2 * margin
    y = rng.integers(size // 2, 3 * size // 4)  # the horizon stays in the picture
    x = rng.integers(0, 2 * size - side + 1)
    return Scene(
        background=actor.place[y : y + side, x : x + side],
        camera=_shake(rng, n_frames, scale),
        others=(*decoys, *movers),
        event=event,
        frames=span,
        size=size,
        gain=float(rng.uniform(0.9, 1.1)),
        noise_seed=(seed, 2, label, group, clip),
    )


# --- drawing ----------------------------------------------------------------------------------------------------------


def _film(background: np.ndarray, camera: np.ndarray, size: int) -> np.ndarray:
    """Film the background through the moving camera, by bilinear shifts; (T, size, size, 3)."""
    margin = (background.shape[0] - size) // 2
    frames = np.empty((len(camera), size, size, 3), dtype=np.float32)
    for frame, shift in zip(frames, margin - camera, strict=True):
        (y, x), (fy, fx) = np.floor(shift).astype(int), (shift % 1).astype(np.float32)
        part = background[y : y + size + 1, x : x + size + 1]
        rows = part[:-1] + fy * (part[1:] - part[:-1])
        frame[:] = rows[:, :-1] + fx * (rows[:, 1:] - rows[:, :-1])
    return frames


def _paint(frames: np.ndarray, thing: Thing, camera: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """Paint a thing over `frames` (T, H, W, 3), in place; edges are softened over one pixel.

    Returns:
        {frame: (x, y, width, height)} of all pixels that it may touch, where it is in the picture.
    """
    there = np.flatnonzero(thing.opacity)
    radius = thing.radius[there, None, None]  # (n, 1, 1)
    centre = (thing.centre + camera)[there]
    half = int(np.ceil(radius.max())) + 2
    corner = np.floor(centre).astype(int) - half  # (n, 2) of a square patch of pixels around the thing
    patch = np.arange(2 * half + 2)
    dy = (corner[:, :1] + patch - centre[:, :1])[:, :, None] / radius  # pixel i is centred at i
    dx = (corner[:, 1:] + patch - centre[:, 1:])[:, None, :] / radius
    cos, sin = np.cos(thing.angle[there, None, None]), np.sin(thing.angle[there, None, None])
    outline, mark = SHAPES[thing.shape](cos * dx + sin * dy, cos * dy - sin * dx)
    alpha = np.clip(0.5 - outline * radius, 0.0, 1.0)  # (n, S, S)
    rim = np.clip(-0.5 - outline * radius, 0.0, 1.0)[..., None]  # 0 on a darker edge one pixel wide
    share = np.clip(0.5 - mark * radius, 0.0, 1.0)[..., None]
    body, light = thing.colours
    shade = 1.0 - 0.15 * np.clip(dy, -1, 1)[..., None]  # lit from above
    colour = np.clip((body + share * (light - body)) * (0.55 + 0.45 * rim) * shade, 0.0, 1.0).astype(np.float32)
    cover = (alpha * thing.opacity[there, None, None]).astype(np.float32)[..., None]

    height, width = frames.shape[1:3]
    boxes = {}
    for i, t in enumerate(there):
        y0, x0 = np.maximum(corner[i], 0)
        y1, x1 = np.minimum(corner[i] + len(patch), (height, width))
        if y0 >= y1 or x0 >= x1:
            continue
        inner = (slice(y0 - corner[i, 0], y1 - corner[i, 0]), slice(x0 - corner[i, 1], x1 - corner[i, 1]))
        target = frames[t, y0:y1, x0:x1]
        target += cover[i][inner] * (colour[i][inner] - target)
        rows, columns = (np.flatnonzero(alpha[i][inner].any(axis)) for axis in (1, 0))
        if len(rows):
            (top, left), (bottom, right) = (y0 + rows[0], x0 + columns[0]), (y0 + rows[-1], x0 + columns[-1])
            boxes[int(t)] = (int(left), int(top), int(right - left) + 1, int(bottom - top) + 1)
    return boxes


def render(scene: Scene, *, with_event: bool = True) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Draw a scene.

    Returns:
        frames: (T, H, W, 3) uint8 RGB.
        boxes: (x, y, width, height) in pixels of the event's object in each of the event's frames, in order; outside of
            them the picture does not depend on the object. Empty without the event, which changes nothing else.
    """
    n_frames, size = len(scene.camera), scene.size
    frames = _film(scene.background, scene.camera, size)
    for thing in scene.others:
        _paint(frames, thing, scene.camera)
    boxes = _paint(frames, scene.event, scene.camera) if with_event else {}
    noise = np.random.default_rng(scene.noise_seed).standard_normal((n_frames, size, size, 1), dtype=np.float32)
    frames = np.clip(frames * scene.gain + 0.012 * noise, 0.0, 1.0) * 255.0 + 0.5
    return frames.astype(np.uint8), [boxes[t] for t in sorted(boxes)]


# --- files ------------------------------------------------------------------------------------------------------------


def write_avi(path: Path, frames: np.ndarray) -> None:
    """Write (T, H, W, 3) uint8 RGB frames as MPEG-4 in AVI, finely quantised, for small objects to keep their looks."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"qmin": "1", "qmax": "3", "g": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def video_name(label: int, group: int, clip: int = 1) -> str:
    """UCF-101's name of a video, without folder and ending: v_Class_gGG_cCC."""
    return f"v_{CLASSES[label][0]}_g{group:02d}_c{clip:02d}"


def training_ways(seed: int, label: int, n_groups: int, share: float) -> np.ndarray:
    """Which of two ways the training videos of a class show.

    Way 1 has share * 2 * n_groups of them, rounded, but either way has at least one. They are second clips
    while there are any left, and first clips beyond that. Which groups show it differs from class to class, and
    those of a small share show it in a larger one too.

    Args:
        label: index into CLASSES. n_groups: of training. share: of way 1, in (0, 1).
    Returns:
        (n_groups, 2) of 0 and 1, for clips 1 and 2 of every group.
    """
    n_clips = 2 * n_groups
    ways = np.zeros((2, n_groups), dtype=int)  # of the second clips, of the first clips
    ways.flat[: min(max(round(share * n_clips), 1), n_clips - 1)] = 1
    return ways[::-1, np.random.default_rng((seed, 4, label)).permutation(n_groups)].T


def _write_video(task: tuple[Path, int, int, int, int, int | None, int, int]) -> tuple[str, dict]:
    folder, seed, label, group, clip, way, n_frames, size = task
    scene = make_scene(seed, label, group, clip, way=way, n_frames=n_frames, size=size)
    frames, boxes = render(scene)
    name, class_name = video_name(label, group, clip), CLASSES[label][0]
    write_avi(folder / class_name / f"{name}.avi", frames)
    first, last = scene.frames
    tube = {"first_frame": first, "last_frame": last, "boxes_x_y_w_h": [list(box) for box in boxes]}
    look = {} if way is None else {"way": way}
    return name, {"class": class_name, **look, "n_frames": n_frames, "tubes": [tube]}


def make_demo_dataset(
    out_dir: str | Path,
    *,
    seed: int = 1,
    n_train_groups: int = 24,
    n_test_groups: int = 12,
    frames: int = 40,
    size: int = 72,
    ways: int = 1,
    way_share: float | None = None,
    n_jobs: int = 2,
) -> None:
    """Write the data set: `ways` videos of every class in every group, UCF-101's lists, the hierarchy and the truth.

    Leaves `videos/<Class>/v_<Class>_gGG_cCC.avi`, `ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt`,
    `hierarchy.csv` and `truth.json` in `out_dir`. Training groups are numbered from 1, the test groups follow. Same
    arguments, same bytes, whatever `n_jobs`.

    Args:
        frames: length of every video. size: its height and width in pixels, even.
        ways: 1 or 2, in how many ways the event of every class shows itself. Of two, clip 1 of a group shows the first
            and clip 2 the second, but for the training clips that `way_share` decides otherwise about.
        way_share: share of way 1 in the training clips of every class, in (0, 1), as `training_ways` deals it, with
            two ways only; None is WAY_SHARE. Test clips always show both ways evenly.
        n_jobs: processes; 1 stays in this one.

    Raises:
        ValueError: measures too small to show a motion, ways and shares that are none, or `out_dir` holds videos that
            are not of this data set.
    """
    out_dir = Path(out_dir)
    if frames < MIN_FRAMES:
        raise ValueError(f"--frames {frames} is too short for an event: give at least {MIN_FRAMES}")
    if size < MIN_SIZE or size % 2:
        raise ValueError(f"--size {size} cannot be drawn and encoded: give an even number of at least {MIN_SIZE}")
    if min(n_train_groups, n_test_groups, n_jobs) < 1 or seed < 0:
        raise ValueError("--n_train_groups, --n_test_groups and --n_jobs must be at least 1, and --seed at least 0")
    if ways not in (1, 2):
        raise ValueError(f"--ways {ways} is not available: give 1, or 2 for two kinds of every object")
    if way_share is not None and ways == 1:
        raise ValueError(f"--way_share {way_share:g} needs a second way: give --ways 2 as well")
    if way_share is not None and not 0 < way_share < 1:
        raise ValueError(f"--way_share {way_share:g} leaves one way out: give a number between 0 and 1, both exclusive")

    videos = out_dir / "videos"
    groups = range(1, n_train_groups + n_test_groups + 1)
    clip_ways = [[(None,)] * len(groups)] * len(CLASSES)  # the way of every clip of every group of every class
    if ways == 2:
        share = WAY_SHARE if way_share is None else way_share
        clip_ways = [
            [*training_ways(seed, label, n_train_groups, share).tolist(), *[(0, 1)] * n_test_groups]
            for label in range(len(CLASSES))
        ]
    tasks = [
        (videos, seed, label, group, clip, way, frames, size)
        for group in groups
        for label in range(len(CLASSES))
        for clip, way in enumerate(clip_ways[label][group - 1], 1)
    ]
    wanted = {
        videos / CLASSES[label][0] / f"{video_name(label, group, clip)}.avi" for _, _, label, group, clip, *_ in tasks
    }
    foreign = sorted(set(videos.glob("*/*")) - wanted)
    if foreign:
        raise ValueError(f"{foreign[0]} is not of this data set: remove {videos} or choose another folder")
    for name, *_ in CLASSES:
        (videos / name).mkdir(parents=True, exist_ok=True)

    progress = functools.partial(tqdm, total=len(tasks), desc="videos", unit="", disable=None)
    if n_jobs == 1:
        truth = dict(progress(map(_write_video, tasks)))
    else:
        with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
            truth = dict(progress(pool.map(_write_video, tasks, chunksize=len(CLASSES))))

    lists = out_dir / "ucfTrainTestlist"
    lists.mkdir(exist_ok=True)
    names = [name for name, *_ in CLASSES]
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    for file, chosen, labelled in (
        ("trainlist01.txt", groups[:n_train_groups], True),
        ("testlist01.txt", groups[n_train_groups:], False),
    ):
        lines = (
            f"{name}/{video_name(label, group, clip)}.avi" + (f" {label + 1}" if labelled else "")
            for label, name in enumerate(names)
            for group in chosen
            for clip in range(1, ways + 1)
        )
        (lists / file).write_text("".join(line + "\n" for line in lines))
    with open(out_dir / "hierarchy.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            (name, motion, family, "Root") for name, _, motion, family in CLASSES
        )
    # last and at once: where truth.json stands, the data set is whole
    part = out_dir / "truth.json.part"
    part.write_text(json.dumps(dict(sorted(truth.items()))))
    os.replace(part, out_dir / "truth.json")
