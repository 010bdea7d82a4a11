"""Does an explanation point at the event that makes the class? Where events are, and heat compared with that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from hierarchy.texts import read_json

Parsed = TypeVar("Parsed")
EXACTLY = (0, 0, 0)


@dataclass(frozen=True)
class Tube:
    """Where and when an event can be seen: one box a frame.

    first_frame: from 0, in the source video. boxes: (n, 4) x, y, width, height in the source's pixels.
    """

    first_frame: int
    boxes: np.ndarray

    @property
    def last_frame(self) -> int:
        """Exclusive."""
        return self.first_frame + len(self.boxes)

    @property
    def sweep(self) -> tuple[float, float, float, float]:
        """y0, x0, y1, x1 of the box that holds all of the tube's boxes."""
        corner, end = self.boxes[:, :2].min(0), (self.boxes[:, :2] + self.boxes[:, 2:]).max(0)
        return float(corner[1]), float(corner[0]), float(end[1]), float(end[0])

    def hit_by(self, frame: int, y: float, x: float, *, strict: bool = False,
               within: Sequence[float] = EXACTLY) -> bool:
        """Whether a pixel of the source lies in the event's frames and in the box it sweeps, or (strict) in the box of
        that very frame; or beside them, by no more frames, rows and columns than `within`."""
        frames, rows, columns = within
        if not self.first_frame - frames <= frame < self.last_frame + frames:
            return False
        y0, x0, y1, x1 = self.sweep
        if strict:
            left, top, width, height = self.boxes[min(max(frame - self.first_frame, 0), len(self.boxes) - 1)]
            y0, x0, y1, x1 = top, left, top + height, left + width
        return bool(y0 - rows <= y < y1 + rows and x0 - columns <= x < x1 + columns)


def _tube(first_frame: int, last_frame: int, boxes_x_y_w_h: list[list[float]], **_: object) -> Tube:
    """A tube as it stands in a file; ValueError where it has not one box a frame, or boxes that nothing can hit."""
    tube = Tube(int(first_frame), np.array(boxes_x_y_w_h, dtype=float).reshape(-1, 4))
    if first_frame < 0 or not len(tube.boxes):
        raise ValueError(f"a tube of the frames {first_frame} to {last_frame}")
    if not (np.isfinite(tube.boxes).all() and (tube.boxes[:, 2:] > 0).all()):
        raise ValueError("a box without a width and height above 0")
    if tube.last_frame != last_frame:
        raise ValueError(f"{len(tube.boxes)} boxes for the frames {first_frame} to {last_frame}")
    return tube


def _read(path: str | Path, parse: Callable[[dict], Parsed]) -> Parsed:
    """What `parse` makes of a truth's content; errors name the file."""
    content = read_json(Path(path), missing="no such file; make_demo_dataset writes truth.json",
                        expected="a file of tubes in JSON", remedy="see docs/FORMATS.md")
    try:
        return parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of tubes ({error}); see docs/FORMATS.md") from error


def read_truth(path: str | Path) -> dict[str, list[Tube]]:
    """Read truth.json, or boxes.json of the same form.

    Returns:
        the tubes of every video.
    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing or of another form.
    """
    return _read(path, lambda content: {video: [_tube(**tube) for tube in entry["tubes"]]
                                        for video, entry in content.items()})


def _way(way: object) -> int:
    if type(way) is not int or way < 0:
        raise ValueError(f"the way {way!r}")
    return way


def read_ways(path: str | Path) -> dict[str, int]:
    """Read from truth.json which way each video shows the event of its class.

    Returns:
        the way, from 0, of every video whose entry has one; empty for a data set of one way.
    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing or of another form.
    """
    return _read(path, lambda content: {video: _way(entry["way"]) for video, entry in content.items()
                                        if "way" in entry})


def points_at(peak: tuple[int, float, float], tubes: list[Tube], *, strict: bool = False,
              within: Sequence[float] = EXACTLY) -> bool:
    """The pointing game (Zhang et al., IJCV 2018) in space and time: is a peak (frame, y, x) in one of the tubes?

    Args:
        strict: in the box of that very frame. within: (3,) frames, rows and columns by which it may miss a tube.
    """
    return any(tube.hit_by(*peak, strict=strict, within=within) for tube in tubes)


def half_cell(stride: tuple[int, int, int], frames: Tensor, crop: Tensor, size: tuple[int, int]) -> tuple[float, ...]:
    """Half of what a feature cell spans in the source: frames, rows and columns, for `points_at`.

    Args:
        stride: of the trunk. frames: (T,) of the clip in the source. crop: (4,) y0, x0, y1, x1 of the source's pixels
            that the clip shows. size: (H, W) of the clip.
    """
    apart = (int(frames.max()) - int(frames.min())) / max(len(frames.unique()) - 1, 1)  # from frame to frame
    height, width = (crop[2:] - crop[:2]).tolist()
    return stride[0] * apart / 2, stride[1] * height / size[0] / 2, stride[2] * width / size[1] / 2


class Pushed(Protocol):
    """Where prototypes come from, as `on_event` and `box_in_event` read it (see training/push.py)."""

    video: list[str | None]  # (P,)
    frames: Tensor  # (P, T)
    crop: Tensor  # (P, 4)
    clip_size: tuple[int, int, int]
    stride: tuple[int, int, int]

    def peak(self, prototype: int) -> Tensor: ...  # (3,) frame, y, x in its video

    def box(self, prototype: int) -> tuple[int, ...]: ...  # t0, y0, x0, t1, y1, x1 in its video, half-open


def on_event(record: Pushed, truth: dict[str, list[Tube]]) -> Tensor:
    """Whether the patch that each prototype is lies on the event of its training video, within one cell.

    Within one cell: at most half a cell beside the frames of the event and the box that it sweeps.

    Returns:
        (P,) float64, 0 or 1; nan for a prototype without a training video, or of one whose event is not known.
    """
    result = torch.full((len(record.video),), torch.nan, dtype=torch.float64)
    for p, video in enumerate(record.video):
        if tubes := truth.get(video):
            within = half_cell(record.stride, record.frames[p], record.crop[p], record.clip_size[1:])
            result[p] = points_at(tuple(record.peak(p).tolist()), tubes, within=within)
    return result


def box_in_event(record: Pushed, truth: dict[str, list[Tube]]) -> dict[str, Tensor]:
    """How much of each prototype's box lies in the event's boxes of its frames, and how much of the same box anywhere.

    Anywhere: in all places that the box can have in the frames and the picture of its clip, one as likely as another.
    Pixels are counted, by their centres.

    Returns:
        (P,) float64 each, nan for a prototype without a training video, or of one whose event is not known.
        "meets": 1 where any pixel of any frame does, else 0. "inside": share of the box, 0..1. "meets_chance",
        "inside_chance": the means of these over all places.
    """
    result = {name: torch.full((len(record.video),), torch.nan, dtype=torch.float64)
              for name in ("meets", "inside", "meets_chance", "inside_chance")}
    counted: tuple[object, np.ndarray] = (None, np.empty(0))  # prototypes of one clip mostly follow each other
    for p, video in enumerate(record.video):
        if not (tubes := truth.get(video)):
            continue
        top, left, bottom, right = (int(edge) for edge in (*record.crop[p][:2].floor(), *record.crop[p][2:].ceil()))
        start = np.array([int(record.frames[p].min()), top, left])
        frames = np.arange(start[0], int(record.frames[p].max()) + 1)
        clip = (video, len(frames), *start, bottom, right)
        if counted[0] != clip:
            inside = truth_mask(tubes, frames, np.array([top, left, bottom, right]), (bottom - top, right - left))
            counted = clip, _summed(inside.numpy())
        box = np.array(record.box(p)).reshape(2, 3) - start
        within = _inside_boxes(counted[1], tuple(box[1] - box[0]))  # pixels of the event, by place
        volume = np.prod(box[1] - box[0])
        own = within[tuple(box[0])]
        for name, pixels in (("", own), ("_chance", within)):
            result[f"meets{name}"][p] = float(np.mean(pixels > 0))
            result[f"inside{name}"][p] = float(np.mean(pixels) / volume)
    return result


def _summed(values: np.ndarray) -> np.ndarray:
    """Sums of (T, H, W) over all that lies before each corner of a cell: (T + 1, H + 1, W + 1)."""
    return np.pad(values.astype(np.int64).cumsum(0).cumsum(1).cumsum(2), ((1, 0),) * 3)


def _inside_boxes(summed: np.ndarray, spans: tuple[int, int, int]) -> np.ndarray:
    """Sums over boxes of one shape, by where they begin: (T - t + 1, H - h + 1, W - w + 1)."""
    for axis, span in enumerate(spans):
        length = summed.shape[axis]
        summed = summed.take(range(span, length), axis) - summed.take(range(length - span), axis)
    return summed


def random_hits(tubes: list[Tube], frames: np.ndarray, crop: np.ndarray, *, strict: bool = False) -> float:
    """The probability that a random point of a clip lies in one of the tubes: what pointing must be compared with.

    Args:
        frames: (T,) of the clip in the source. crop: (4,) y0, x0, y1, x1 of the source's pixels that the clip shows.
    Returns:
        0..1, exactly, counted over all pixels of all frames.
    """
    y0, x0, y1, x1 = np.asarray(crop, dtype=float)
    y = np.arange(np.ceil(y0), np.ceil(y1))[:, None]
    x = np.arange(np.ceil(x0), np.ceil(x1))[None, :]
    hits = 0.0
    for frame in np.asarray(frames).tolist():
        inside = np.zeros(np.broadcast_shapes(y.shape, x.shape), dtype=bool)
        for tube in tubes:
            if tube.first_frame <= frame < tube.last_frame:
                left, top, width, height = tube.boxes[frame - tube.first_frame]
                top, left, bottom, right = (top, left, top + height, left + width) if strict else tube.sweep
                inside |= (top <= y) & (y < bottom) & (left <= x) & (x < right)
        hits += inside.mean()
    return hits / len(frames)


def truth_mask(tubes: list[Tube], frames: np.ndarray, crop: np.ndarray, size: tuple[int, int], *,
               strict: bool = True) -> Tensor:
    """Which voxels of a clip show the event: those whose centre lies in the box of their frame.

    Args:
        frames: (T,) of the clip in the source. crop: (4,) y0, x0, y1, x1 of the source's pixels that the clip shows.
        size: (H, W) of the clip. strict: False takes the box that the event sweeps, in all frames of the event.
    Returns:
        (T, H, W) bool.
    """
    y0, x0, y1, x1 = (float(edge) for edge in crop)
    y = (y0 + (np.arange(size[0]) + 0.5) * (y1 - y0) / size[0])[:, None]
    x = (x0 + (np.arange(size[1]) + 0.5) * (x1 - x0) / size[1])[None]
    mask = np.zeros((len(frames), *size), dtype=bool)
    for t, frame in enumerate(np.asarray(frames).tolist()):
        for tube in tubes:
            if tube.first_frame <= frame < tube.last_frame:
                left, top, width, height = tube.boxes[frame - tube.first_frame]
                top, left, bottom, right = (top, left, top + height, left + width) if strict else tube.sweep
                mask[t] |= (top <= y) & (y < bottom) & (left <= x) & (x < right)
    return torch.from_numpy(mask)


def placed(heat: Tensor, strict: Tensor, swept: Tensor) -> dict[str, float]:
    """The pointing game and the energy inside the truth, in space and time together and apart.

    Pointing (Zhang et al., IJCV 2018): does the hottest voxel lie in the event's frames and in the box it sweeps; in
    the box of that very frame (`_strict`); in a place where the event passes at any time of the clip (`_space`); in a
    frame in which it is on (`_time`)? Where several voxels are hottest, one of them is drawn: the share that lie
    inside. Energy (Wang et al., CVPR workshops 2020): the share of the heat in the box of every frame, in the places,
    in the frames.

    Args:
        heat: (T, H, W), not negative. strict, swept: (T, H, W) bool, `truth_mask`s.
    Returns:
        numbers in 0..1; heat that is 0 everywhere is taken for 1 everywhere. Nothing where the event is not in the
        clip.
    """
    if not strict.any():
        return {}
    heat = heat.detach().double().cpu().clamp(min=0)
    heat = heat if heat.any() else torch.ones_like(heat)
    place, moment = strict.any(0).expand_as(heat), strict.flatten(1).any(1)[:, None, None].expand_as(heat)
    top = heat == heat.max()
    energy = heat / heat.sum()
    return ({f"pointing{name}": float(mask[top].double().mean())
             for name, mask in (("", swept), ("_strict", strict), ("_space", place), ("_time", moment))}
            | {f"energy{name}": float(energy[mask].sum())
               for name, mask in (("", strict), ("_space", place), ("_time", moment))})


def overlap(box: Sequence[int], strict: Tensor) -> dict[str, float]:
    """Intersection over union of a box with the event, in space and time together and apart.

    Args:
        box: (t0, y0, x0, t1, y1, x1) in the clip, half-open. strict: (T, H, W) bool, a `truth_mask`.
    Returns:
        "iou": of voxels; "iou_space": of the box's rectangle with all places that the event passes; "iou_time": of
        frames; in 0..1. Nothing where the event is not in the clip.
    """
    if not strict.any():
        return {}
    inside = torch.zeros_like(strict)
    inside[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = True
    pairs = {"iou": (inside, strict), "iou_space": (inside.any(0), strict.any(0)),
             "iou_time": (inside.flatten(1).any(1), strict.flatten(1).any(1))}
    return {name: float((one & other).sum() / (one | other).sum()) for name, (one, other) in pairs.items()}


def chance(strict: Tensor, swept: Tensor) -> dict[str, float]:
    """What `placed` gives for heat that knows nothing: the shares of voxels, places and frames."""
    return placed(torch.zeros(strict.shape), strict, swept)
