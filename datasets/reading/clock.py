"""When each frame of a video is shown: `FrameTimes`, and the `FrameClock` that makes them from decoded frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from torch import Tensor

ROUNDED = 0.001  # seconds, to which containers round times
LEAST = 0.004  # seconds: containers give a last frame of unknown length less
HEARD = Fraction(1, 10)  # seconds by which sound may begin earlier, as codecs have it, without anybody noticing
EARLY = Fraction(1, 4)  # of the time from one frame to the next: how much too early a thinned frame may be
LATEST = 1e7  # seconds
RATES = (Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001))  # usual ones that are no integers


@dataclass(frozen=True, slots=True, eq=False)
class FrameTimes:
    """When each frame of a video is shown, in seconds from the start of the video.

    Args:
        n_frames: 0 where their number is not known.
        fps: mean frames a second.
        edges: (n_frames + 1,) float64, when each frame is first shown, and the end of the last; None where frame i is
            shown from i / fps on.
    """

    n_frames: int
    fps: float
    edges: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameTimes) and (self.n_frames, self.fps) == (other.n_frames, other.fps) and (
            self.listed() == other.listed())

    @classmethod
    def of(cls, n_frames: int, fps: float | None, edges: Sequence[float] | None = None) -> "FrameTimes | None":
        """The times by what a file has stored of them; None where it has nothing.

        Raises:
            ValueError: for what cannot be times of so many frames.
        """
        if edges is None:
            return None if not fps else cls(n_frames, float(fps))
        try:
            edges = np.array(edges, dtype=np.float64)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if edges.shape != (n_frames + 1,) or n_frames < 1 or not (np.isfinite(edges).all() and edges[0] >= 0
                                                                  and (np.diff(edges) >= 0).all()
                                                                  and edges[0] < edges[-1] < LATEST):
            raise ValueError("times that no video has")
        return cls(n_frames, float(fps) if fps else n_frames / float(edges[-1] - edges[0]), edges)

    def listed(self) -> list[float] | None:
        """The n_frames + 1 edges in microseconds' precision, for a file; None where the rate tells them all."""
        return None if self.edges is None else np.round(self.edges, 6).tolist()

    def frames_in(self, start: float, end: float) -> tuple[int, int]:
        """The frames that show a segment: frame i counts where start <= its time < end.

        Args:
            start, end: seconds.
        Returns:
            half-open range, empty where the segment is reversed, negative, behind the end or shorter than a frame.
        """
        if not 0 <= start < end < LATEST:
            return 0, 0
        if self.edges is None:
            first, last = (math.ceil(seconds * self.fps - 1e-6) for seconds in (start, end))
            last = min(last, self.n_frames or last)
        else:
            first, last = np.searchsorted(self.edges[:-1], (start - 1e-6, end - 1e-6)).tolist()
        return (first, last) if first < last else (0, 0)

    def seconds_of(self, first: int, last: int) -> tuple[float, float]:
        """The seconds in which the frames of a half-open range are shown: from the first one's start to the last one's
        end; of frames behind the end, from when on they would be."""
        if self.edges is None:
            return first / self.fps, last / self.fps
        return tuple(float(self.edges[min(frame, self.n_frames)]) for frame in (first, last))

    def step(self, frames: Tensor) -> float | list[float]:
        """Seconds from each frame of a clip to the next, a single number where frames are even.

        Args:
            frames: (T,) indices in the video, evenly spaced; a looped short clip jumps back.
        """
        forward = sorted(b - a for a, b in pairwise(frames.tolist()) if a < b)
        usual = forward[(len(forward) - 1) // 2] if forward else 1
        if self.edges is None:
            return usual / self.fps
        spans = [self.seconds_of(frame, frame + usual) for frame in frames.tolist()]
        return [end - start for start, end in spans]

    def some(self, frames: Sequence[int], fps: float | None = None) -> "FrameTimes":
        """The times of frames that are taken out of the video, at least one.

        Args:
            frames: ascending. fps: what their rate is by intention; None for the mean.
        """
        starts = [self.seconds_of(frame, frame)[0] for frame in frames]
        edges = np.array([*starts, self.seconds_of(0, self.n_frames)[1]])
        return evenly(edges, [fps] if fps else [], stated=fps)


class Thinning:
    """Chooses frames evenly in time: of each 1 / fps seconds the first frame, or one that is hardly earlier."""

    def __init__(self, fps: Fraction) -> None:
        self.fps, self._next = fps, 0

    def keeps(self, time: Fraction | None, exact: bool = True) -> bool:
        """Whether to keep the next frame.

        Args:
            time: when it is shown, from the first frame; every frame is kept where nothing tells.
            exact: False for a time that may come a little too early.
        """
        if time is None:
            return True
        due = math.floor(time * self.fps + (0 if exact else EARLY))
        keep, self._next = due >= self._next, max(due + 1, self._next)
        return keep


class FrameClock:
    """Makes times of decoded frames, which it is shown one after the other.

    Where all of a file's timestamps agree with the rate that the container states, or with another one, frames are
    even. Where timestamps are missing or go backwards, the stated rate is all that is known; so it is of AVI files with
    B-frames, which number pictures in the order of decoding.

    Args:
        stream: that the frames are from.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        rate = stream.average_rate
        self.rate: Fraction | None = rate if rate and rate > 0 else None  # as stated
        self.n_frames = 0
        self._offset, self._tick = _offset(stream), stream.time_base or Fraction(0)
        self._codec, self._avi = stream.codec_context, stream.container.format.name == "avi"
        self._stamps: list[int] = []  # in ticks
        self._length = 0  # of the last frame, in ticks
        self._sound = bool(self._tick)  # whether timestamps can be relied on so far

    def show(self, frame: av.VideoFrame) -> None:
        """Take the next frame."""
        self.n_frames += 1
        if self._sound:
            stamp, self._length = frame.pts, frame.duration or 0
            self._sound = not (stamp is None or (self._stamps and stamp < self._stamps[-1])
                               or (self._avi and self._codec.has_b_frames))
            self._stamps.append(stamp)

    def time(self) -> tuple[Fraction | None, bool]:
        """When the last frame is shown, in seconds from the first one, and whether that is exact by the stated rate."""
        even = None if self.rate is None else (self.n_frames - 1) / self.rate
        time = (self._stamps[-1] - self._stamps[0]) * self._tick if self._sound else None
        if time is None or (even is not None
                            and abs(time - even) <= _tolerance(float(self._tick), float(self.rate))):
            return even, True
        return time, False

    def times(self) -> FrameTimes | None:
        """The times of the frames so far; None where nothing tells."""
        n, stated = self.n_frames, None if self.rate is None else float(self.rate)
        tick = float(self._tick)
        length = self._length * tick if self._length * tick > LEAST else None
        if n < 2 or not self._sound or self._stamps[-1] == self._stamps[0]:
            return FrameTimes.of(n, stated or (1 / length if n == 1 and length else None))
        starts = (np.array(self._stamps) - self._stamps[0]) * tick
        length = length or starts[-1] - starts[-2] or starts[-1] / (n - 1)
        mean = (n - 1) / float(starts[-1])
        rates = [stated, *(float(rate) for rate in (round(mean), *RATES)), mean]
        return evenly(self._offset + np.append(starts, starts[-1] + length), [rate for rate in rates if rate],
                      stated=stated, tick=tick)


def evenly(edges: np.ndarray, rates: Sequence[float], *, stated: float | None = None, tick: float = 0.0) -> FrameTimes:
    """Times by the edges of frames, compact where they begin at 0 and agree with one of some rates.

    Args:
        edges: (n + 1,) seconds. rates: frames a second, the most trusted first. stated: the mean rate, as far as it is
            right to one frame. tick: of the container, in seconds.
    """
    n = len(edges) - 1
    for rate in rates:
        if (np.abs(edges[:-1] - np.arange(n) / rate) <= _tolerance(tick, rate)).all():
            return FrameTimes(n, rate)
    mean = n / float(edges[-1] - edges[0])
    return FrameTimes(n, stated if stated and abs(n / stated - n / mean) < 1.5 / stated else mean, edges)


def _tolerance(tick: float, rate: float) -> float:
    """Seconds by which a time may differ from an even one: its rounding, less where that is no small part of a frame.
    """
    return min(max(tick, ROUNDED) * 1.001, 0.25 / rate)


def _offset(stream: av.VideoStream) -> float:
    """Seconds from the start of a file, which is its sound's where that begins clearly first, to the first frame."""
    sounds = [sound.start_time * sound.time_base for sound in stream.container.streams.audio
              if sound.start_time is not None]
    if stream.start_time is None or not sounds:
        return 0.0
    offset = stream.start_time * stream.time_base - max(min(sounds), 0)  # before 0 a codec's run-up, which is not heard
    return float(offset) if offset > HEARD else 0.0
