"""Scenes: what happens in a video, when and where, before it is drawn."""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from datasets.synthetic.classes import DESIGN_EVENT, DESIGN_SIZE, HUES, SECOND_KINDS, SETS, SHAPE_HUES
from datasets.synthetic.motions import MOTIONS
from datasets.synthetic.places import Group, hsv_colour, make_group
from datasets.synthetic.shapes import MOVERS


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


def _colours(group: Group, shape: str) -> tuple[np.ndarray, np.ndarray]:
    hue = SHAPE_HUES[shape] + group.hue
    return hsv_colour(hue, group.saturation, group.value), hsv_colour(hue, 0.3 * group.saturation, group.value)


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
    body = hsv_colour(rng.uniform(0, 360), 0.08, grey)
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


def _performance(seed: int, label: int, group: int, differ: str) -> tuple[str, str]:
    """The object and the motion of a class in a group; what does not make the class is drawn once a group."""
    act, rng = SETS[differ][label], np.random.default_rng((seed, 5, group))
    thing, motion = str(rng.choice(list(HUES))), str(rng.choice(list(MOTIONS)))
    return act.thing or thing, act.motion or motion


def make_scene(
    seed: int, label: int, group: int, clip: int = 1, *, way: int | None = None, n_frames: int = 40, size: int = 72,
    differ: str = "both"
) -> Scene:
    """Decide everything about one video, as a pure function of its arguments.

    Args:
        label: index into SETS[differ]. group, clip: from 1, as in the file's name.
        way: 0 or 1, whether the object is of its first or its second kind, which changes nothing else; None where all
            videos show one way, which leaves the second kinds out of the decoys as well.
        n_frames: length of the video. size: height and width in pixels.
        differ: of SETS, what differs from class to class. Where it is one thing alone nothing moves beside the event,
            and where it is the object nothing stands still, or what moves would tell which object counts.
    """
    rng = np.random.default_rng((seed, 1, label, group, clip))
    actor = make_group(seed, group, size)
    # a stream of its own, for the objects to be the same whether they come in one kind or two
    kinds = None if way is None else np.random.default_rng((seed, 3, label, group, clip))
    shape, motion = _performance(seed, label, group, differ)
    if way == 1:
        shape = SECOND_KINDS[shape][0]
    scale = size / DESIGN_SIZE
    span = _span(rng, n_frames)
    event, box = _perform(rng, actor, shape, motion, span, n_frames, size)
    swept = [box]
    n_decoys = 0 if differ == "object" else rng.integers(1, 3)
    decoys = [_decoy(rng, kinds, actor, swept, n_frames, size) for _ in range(n_decoys)]
    n_movers = 0 if differ in ("motion", "object") else rng.integers(1, 3)
    movers = [_mover(rng, n_frames, size) for _ in range(n_movers)]
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
