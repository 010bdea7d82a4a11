"""Videos as records, and clips of them as a dataset."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.reading import Reader
from datasets.sampling import EvenClips, RandomClip, SlidingWindows, seed_of


@dataclass(frozen=True, slots=True)
class Video:
    """One video of an annotation file.

    name: its key there. path: folder of frames, or video file. label: leaf class, -1 unknown. subset: training,
    validation or testing. n_frames: 0 where not known yet. segment: half-open range of the frames that show the
    class, from 0; empty where n_frames is not known.
    """

    name: str
    path: Path
    label: int
    subset: str
    n_frames: int
    segment: tuple[int, int]


class VideoClips(Dataset):
    """Clips of videos, as a pure function of (seed, step, item): the same whatever the number of workers.

    `dataset[step, i]` is item i at a step (training: the epoch), `dataset[i]` is item i at step 0. An item is a pair of
    a video and the number of a clip in it, as the sampler counts them.

    A video that cannot be read is warned of once a process, by name. When training (a `RandomClip` sampler) the next
    readable item takes its place; else its items come as zeros with `valid` False.

    Args:
        videos: the records; `dataset.videos` keeps them in this order.
        sampler: which frames make a clip.
        transform: frames (T, H, W, 3) uint8 and a generator -> clip (3, T, size, size) uint8, crop (4,), flip.
        reader: turns paths into frames; see `datasets.reading`.
        seed: non-negative.
        strict: raise ValueError for what cannot be read.
    """

    def __init__(self, videos: Sequence[Video], *, sampler: RandomClip | EvenClips | SlidingWindows,
                 transform: Callable[..., tuple[Tensor, Tensor, bool]], reader: Reader, seed: int = 1,
                 strict: bool = False) -> None:
        self.videos = list(videos)
        self.sampler, self.transform, self.reader = sampler, transform, reader
        self.seed, self.strict = seed, strict
        self.unreadable: set[int] = set()  # indices of the videos warned of, in this process
        # Arrays, not lists of objects: forked workers share them without copying.
        self._spans = np.array([self._span(v) for v in range(len(self.videos))], dtype=np.int64).reshape(-1, 2)
        counts = np.array([sampler.count(last - first) if last > first else 1 for first, last in self._spans.tolist()],
                          dtype=np.int64)
        self.item_video = np.repeat(np.arange(len(counts)), counts)  # (n_items,)
        self.item_clip = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)  # (n_items,)

    def __len__(self) -> int:
        return len(self.item_video)

    @property
    def looped(self) -> int:
        """How many videos are shorter than a clip, which then shows frames twice."""
        lengths = self._spans[:, 1] - self._spans[:, 0]
        return int(((lengths > 0) & (lengths <= (self.sampler.duration - 1) * self.sampler.stride)).sum())

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """One clip.

        Returns:
            clip (3, T, H, W) uint8 · label · video: index into `videos` · frames (T,) int64 in the video, from 0 ·
            crop (4,) float32: y0, x0, y1, x1 of the shown region in the source video's own pixels, before the flip ·
            flip · item · valid.
        """
        step, i = index if isinstance(index, tuple) else (0, index)
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        for j in range(i, i + (len(self) if self.sampler.random else 1)):
            found = self._read(step, j % len(self))
            if found is not None:
                return found
        if self.sampler.random:
            raise ValueError("none of the videos can be read; see the warnings above")
        size = self.transform.size
        return self._item(i, clip=torch.zeros(3, self.sampler.duration, size, size, dtype=torch.uint8),
                          frames=torch.zeros(self.sampler.duration, dtype=torch.int64), crop=torch.zeros(4),
                          flip=False, valid=False)

    def item_frames(self, i: int) -> Tensor:
        """The frames (T,) int64 in its video of an item of an evaluation sampler."""
        first, last = self._spans[self.item_video[i]].tolist()
        return first + self.sampler(last - first, int(self.item_clip[i]))

    def _read(self, step: int, i: int) -> dict | None:
        v = int(self.item_video[i])
        path, (first, last) = self.videos[v].path, self._spans[v].tolist()
        if last <= first:
            return None  # told when the dataset was made
        rng = seed_of(self.seed, step, i)
        frames = first + self.sampler(last - first, int(self.item_clip[i]), rng)  # (T,)
        try:
            pictures, (height, width) = self.reader.frames(path, frames), self.reader.size(path)  # (T, H, W, 3)
        except ValueError as error:
            self._tell(v, error)
            return None
        clip, crop, flip = self.transform(pictures, rng)
        scale = torch.tensor((height / pictures.shape[1], width / pictures.shape[2])).repeat(2)
        return self._item(i, clip=clip, frames=frames, crop=crop * scale, flip=flip, valid=True)

    def _item(self, i: int, **values: Tensor | bool) -> dict:
        v = int(self.item_video[i])
        return values | {"label": self.videos[v].label, "video": v, "item": i}

    def _span(self, v: int) -> tuple[int, int]:
        """The frames to take clips from; an empty range for a video of unknown length that cannot be read."""
        video = self.videos[v]
        if video.segment[1] > video.segment[0]:
            return video.segment
        try:
            return 0, video.n_frames or self.reader.info(video.path).n_frames
        except ValueError as error:
            self._tell(v, error)
            return 0, 0

    def _tell(self, v: int, error: ValueError) -> None:
        if self.strict:
            raise error
        if v not in self.unreadable:
            self.unreadable.add(v)
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=3)
