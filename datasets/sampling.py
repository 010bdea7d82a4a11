"""Which frames of a video make a clip, and which clips make a batch: integers in, integers out, nothing is read.

All randomness here and in `transforms` comes from generators made by `seed_of`, so a clip is a pure function of
(seed, step, item) and does not depend on how many workers load it.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def seed_of(*integers: int) -> np.random.Generator:
    """A generator that is a pure function of non-negative integers, independent between different tuples."""
    # The length goes in first: SeedSequence pads with zeros, so that (1, 2) and (1, 2, 0) would be one stream.
    return np.random.default_rng(np.random.SeedSequence((len(integers), *integers)))


class _Clips:
    """Clips of `duration` frames, `stride` apart; a video that is shorter than that is looped, as published."""

    random = False  # whether a clip depends on the generator: such items are for training

    def __init__(self, duration: int, *, stride: int = 1) -> None:
        if duration < 1 or stride < 1:
            raise ValueError(f"a clip needs a duration and a stride of at least 1 frame, got {duration} and {stride}")
        self.duration, self.stride = duration, stride

    def _last_start(self, n_frames: int) -> int:
        """The last frame that a clip can start from without running over the end (0 where it must be looped)."""
        return max(n_frames - (self.duration - 1) * self.stride - 1, 0)

    def _clip(self, start: int, n_frames: int) -> Tensor:
        return torch.arange(start, start + self.duration * self.stride, self.stride) % n_frames  # (T,)


class RandomClip(_Clips):
    """One clip a video, from a random start: what training sees."""

    random = True

    def count(self, n_frames: int) -> int:
        return 1

    def __call__(self, n_frames: int, k: int, rng: np.random.Generator) -> Tensor:
        """Frames (T,) int64 in [0, n_frames) of a clip; `k` is always 0."""
        return self._clip(int(rng.integers(self._last_start(n_frames) + 1)), n_frames)


class EvenClips(_Clips):
    """`n` clips a video, evenly spaced from its first frame to its last (one: in the middle): validation and push."""

    def __init__(self, duration: int, n: int, *, stride: int = 1) -> None:
        super().__init__(duration, stride=stride)
        if n < 1:
            raise ValueError(f"at least one clip a video is needed, got {n}")
        self.n = n

    def count(self, n_frames: int) -> int:
        return self.n

    def __call__(self, n_frames: int, k: int, rng: np.random.Generator | None = None) -> Tensor:
        """Frames (T,) int64 in [0, n_frames) of the video's clip `k`."""
        last = self._last_start(n_frames)
        return self._clip(last // 2 if self.n == 1 else round(k * last / (self.n - 1)), n_frames)


class SlidingWindows(_Clips):
    """Clips every `step` frames, and one flush with the end where that leaves frames unseen: inference."""

    def __init__(self, duration: int, step: int, *, stride: int = 1) -> None:
        super().__init__(duration, stride=stride)
        if step < 1:
            raise ValueError(f"windows must be at least 1 frame apart, got {step}")
        self.step = step

    def count(self, n_frames: int) -> int:
        return -(-self._last_start(n_frames) // self.step) + 1

    def __call__(self, n_frames: int, k: int, rng: np.random.Generator | None = None) -> Tensor:
        """Frames (T,) int64 in [0, n_frames) of the video's window `k`."""
        return self._clip(min(k * self.step, self._last_start(n_frames)), n_frames)


class SpreadWindows(_Clips):
    """Clips in the middle of equal parts of a video, without overlap, or evenly spread ones of its sliding windows.

    Args:
        most: clips a video; 0 for no limit.
        share: of the frames that clips are enough to show, 0..1; no more clips than there are without overlap.
        step: frames from one sliding window to the next, which are taken in place of clips without overlap.
    """

    def __init__(self, duration: int, most: int, *, share: float = 1.0, step: int | None = None,
                 stride: int = 1) -> None:
        super().__init__(duration, stride=stride)
        if most < 0 or not 0 < share <= 1:
            raise ValueError(f"the number of windows must be at least 0, and their share above 0 and at most 1, got "
                             f"{most} and {share}")
        self.most, self.share, self.step = most, share, step
        self._sliding = None if step is None else SlidingWindows(duration, step, stride=stride)

    def count(self, n_frames: int) -> int:
        if self._sliding is not None:
            enough = self._sliding.count(n_frames)
        else:
            span = (self.duration - 1) * self.stride + 1
            enough = max(1, min(math.ceil(n_frames * self.share / span), n_frames // span))
        return min(enough, self.most) if self.most else enough

    def __call__(self, n_frames: int, k: int, rng: np.random.Generator | None = None) -> Tensor:
        """Frames (T,) int64 in [0, n_frames) of the video's window `k`."""
        n = self.count(n_frames)
        if self._sliding is not None:
            return self._sliding(n_frames, (2 * k + 1) * self._sliding.count(n_frames) // (2 * n))
        # (k + 1/2) n_frames / n - span / 2 in integers, halves upwards: rounding to even would let windows overlap
        start = ((2 * k + 1) * n_frames - n * ((self.duration - 1) * self.stride)) // (2 * n)
        return self._clip(min(max(start, 0), self._last_start(n_frames)), n_frames)


def n_batches(n_items: int, batch_size: int, least: int = 2) -> int:
    """Batches in an epoch, when a last batch of fewer than `least` items is merged into the one before."""
    return -(-n_items // batch_size) - (n_items > batch_size and 0 < n_items % batch_size < least)


class EpochBatches:
    """Batch sampler of one epoch: every item once, in an order that only (seed, epoch) decide.

    Yields lists of (epoch, item), which is how `VideoClips` knows the step its randomness belongs to. A last batch of
    fewer than `least` items is merged into the one before: batch-norm cannot train on a single clip, and each of
    several processes needs one.

    Args:
        n_items: length of the dataset.
        batch_size: items a batch; the last one is smaller, or larger by less than `least`.
        seed, epoch: non-negative integers.
        first: the iteration to begin with; the ones before are skipped without being read.
    """

    def __init__(self, n_items: int, batch_size: int, *, seed: int, epoch: int, first: int = 0, least: int = 2) -> None:
        self.n_items, self.batch_size, self.seed, self.epoch, self.first = n_items, batch_size, seed, epoch, first
        self.least = least

    def __len__(self) -> int:
        return max(n_batches(self.n_items, self.batch_size, self.least) - self.first, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = seed_of(self.seed, self.epoch).permutation(self.n_items).tolist()
        n = n_batches(self.n_items, self.batch_size, self.least)
        for b in range(self.first, n):
            end = self.n_items if b == n - 1 else (b + 1) * self.batch_size
            yield [(self.epoch, i) for i in order[b * self.batch_size:end]]
