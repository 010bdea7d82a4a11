"""Videos as records, and clips of them as a dataset."""

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.reading import CachedReader, LastVideo, Reader
from datasets.reading.state import states_of
from datasets.sampling import EvenClips, RandomClip, SlidingWindows, SpreadWindows, seed_of


@dataclass(frozen=True, slots=True)
class Video:
    """One video of an annotation file.

    name: its key there. path: folder of frames, or video file. label: leaf class, -1 unknown. subset: training,
    validation or testing. n_frames: 0 where not known yet. segment: half-open range of the frames that show the
    class, from 0; empty where n_frames is not known. part_of: the key of the video that this is an annotated segment
    of, empty for a video of its own.
    """

    name: str
    path: Path
    label: int
    subset: str
    n_frames: int
    segment: tuple[int, int]
    part_of: str = ""


class _Strings(Sequence[str]):
    """Strings in one array of bytes."""

    def __init__(self, strings: Iterable[str]) -> None:
        # JSON can name what UTF-8 cannot, and so can folders
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        bounds = np.cumsum([0, *map(len, encoded)])
        self.first, self.last = bounds[:-1], bounds[1:]
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, i: int) -> str:
        return self.bytes[self.first[i]:self.last[i]].tobytes().decode("utf-8", "surrogatepass")

    def take(self, which: np.ndarray) -> "_Strings":
        """Some of them, in the same bytes."""
        taken = copy.copy(self)
        taken.first, taken.last = self.first[which], self.last[which]
        return taken


class VideoTable(Sequence[Video]):
    """Videos in a few arrays, because a list of a million objects is slow to make, and loader processes copy what they
    read of it.

    Attributes:
        labels: (N,) int64. n_frames: (N,) int64. segments: (N, 2) int64. names: N strings.
    """

    def __init__(self, videos: Iterable[Video]) -> None:
        self._fill((video.name, str(video.path), video.label, video.subset, video.n_frames, video.segment,
                    video.part_of) for video in videos)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple]) -> "VideoTable":
        """A table of the fields of videos, in their order, with the path as a string."""
        table = cls.__new__(cls)
        table._fill(rows)
        return table

    def _fill(self, rows: Iterable[tuple]) -> None:
        names, paths, labels, subsets, n_frames, segments, wholes = tuple(zip(*rows, strict=True)) or ((),) * 7
        self.labels, self.n_frames = (np.array(column, dtype=np.int64) for column in (labels, n_frames))
        self.segments = np.array(segments, dtype=np.int64).reshape(-1, 2)
        self.names, self._paths, self._wholes = (_Strings(column) for column in (names, paths, wholes))
        codes = {subset: code for code, subset in enumerate(dict.fromkeys(subsets))}
        self._subset_names, self._subsets = list(codes), np.array([codes[subset] for subset in subsets], dtype=np.int8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Video:
        if not 0 <= i < len(self):
            raise IndexError(f"video {i} of {len(self)}")
        return Video(self.names[i], self.path(i), int(self.labels[i]), self._subset_names[self._subsets[i]],
                     int(self.n_frames[i]), tuple(self.segments[i].tolist()), self._wholes[i])

    def path(self, i: int) -> Path:
        """The path of a video alone."""
        return Path(self._paths[i])

    def subset(self, name: str) -> "VideoTable":
        """The videos of a subset, in their order."""
        table = copy.copy(self)
        which = (self._subsets == (self._subset_names.index(name) if name in self._subset_names else -1)).nonzero()[0]
        for column in ("labels", "n_frames", "segments", "_subsets"):
            setattr(table, column, getattr(self, column)[which])
        for column in ("names", "_paths", "_wholes"):
            setattr(table, column, getattr(self, column).take(which))
        return table

    @property
    def cut(self) -> bool:
        """Whether any of them is an annotated segment of another video."""
        return bool((self._wholes.last > self._wholes.first).any())


def whole_videos(videos: VideoTable) -> Sequence[Video]:
    """Every video once and as a whole, in place of its annotated segments; its class is that of most of their frames.
    """
    if not videos.cut:
        return videos
    frames: dict[str, dict[int, int]] = {}  # of each class of each video
    firsts: dict[tuple[str, str], Video] = {}
    for video in videos:
        firsts.setdefault(("", video.part_of) if video.part_of else (video.name, ""), video)
        if video.part_of:
            of_class = frames.setdefault(video.part_of, {})
            of_class[video.label] = of_class.get(video.label, 0) + video.segment[1] - video.segment[0]
    return [replace(video, name=video.part_of, label=max(frames[video.part_of], key=frames[video.part_of].get),
                    segment=(0, video.n_frames), part_of="") if video.part_of else video for video in firsts.values()]


class VideoClips(Dataset):
    """Clips of videos, as a pure function of (seed, step, item): the same whatever the number of workers.

    `dataset[step, i]` is item i at a step (training: the epoch), `dataset[i]` is item i at step 0. An item is a pair of
    a video and the number of a clip in it, as the sampler counts them.

    Each process warns once, by name, of a video that cannot be read. When training (a `RandomClip` sampler) the next
    readable item takes its place; else its items come as zeros with `valid` False.

    Args:
        videos: the records; `dataset.videos` keeps them in this order, as a table.
        sampler: which frames make a clip.
        transform: frames (T, H, W, 3) uint8 and a generator -> clip (3, T, size, size) uint8, crop (4,), flip.
        reader: of the frames; see `datasets.reading.Reader`.
        seed: non-negative.
        strict: raise ValueError for what cannot be read.
        normalisation: of `transforms.NORMALISATIONS`, applied to the clips on the device.
    """

    def __init__(self, videos: Sequence[Video], *, sampler: RandomClip | EvenClips | SlidingWindows | SpreadWindows,
                 transform: Callable[..., tuple[Tensor, Tensor, bool]], reader: Reader, seed: int = 1,
                 strict: bool = False, normalisation: str = "kinetics") -> None:
        self.videos = videos if isinstance(videos, VideoTable) else VideoTable(videos)
        self.sampler, self.transform, self.reader = sampler, transform, reader
        self.seed, self.strict, self.normalisation = seed, strict, normalisation
        # indices of the videos that this process warned of, or that were missing from its loaders' batches
        self.unreadable: set[int] = set()
        self._spans = self.videos.segments.copy()  # the frames to take clips from
        for v in (self._spans[:, 1] <= self._spans[:, 0]).nonzero()[0].tolist():
            self._spans[v] = 0, self._length(v)
        lengths = self.lengths
        counts = np.array([sampler.count(n) if n > 0 else 1 for n in lengths.tolist()], dtype=np.int64)
        self.item_video = np.repeat(np.arange(len(counts)), counts)  # (n_items,)
        self.item_clip = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)  # (n_items,)

    def __len__(self) -> int:
        return len(self.item_video)

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip as loader processes hand it over."""
        return 3 * self.sampler.duration * self.transform.size**2

    @property
    def lengths(self) -> np.ndarray:
        """(N,) frames of each video, or of its segment; 0 where it cannot be read."""
        return self._spans[:, 1] - self._spans[:, 0]

    @property
    def looped(self) -> int:
        """How many videos are shorter than a clip, which then shows frames twice."""
        lengths = self.lengths
        return int(((lengths > 0) & (lengths <= (self.sampler.duration - 1) * self.sampler.stride)).sum())

    def identity(self) -> list:
        """All that the clips are a function of, as plain values and a checksum of the videos: names, labels, frames,
        and sizes and times of their files; see `states_of`."""
        total = hashlib.sha256(self.videos.labels.tobytes() + self._spans.tobytes())
        videos = ((self.videos.path(i), *span) for i, span in enumerate(self._spans.tolist()))
        for name, state in zip(self.videos.names, states_of(videos), strict=True):
            total.update(name.encode("utf-8", "surrogatepass") + b"\0" + state.encode("utf-8", "surrogatepass"))
        made = [[type(part).__name__, {name: value for name, value in vars(part).items() if not name.startswith("_")}]
                for part in (self.sampler, self.transform)]
        return [made, self.seed, self.normalisation, total.hexdigest()]

    def one_by_one(self, most: int) -> "VideoClips":
        """The same clips by a reader that decodes a video of at most so many frames once for clips that follow each
        other."""
        if isinstance(self.reader, CachedReader):
            return self
        clips, known = copy.copy(self), self.videos.n_frames
        short = ((known > 0) & (known <= most)).nonzero()[0].tolist()
        clips.reader = LastVideo(self.reader, {str(self.videos.path(v)): int(known[v]) for v in short})
        return clips

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """One clip.

        Returns:
            clip (3, T, H, W) uint8 · label · video: index into `videos` · frames (T,) int64 in the video, from 0 ·
            crop (4,) float32: y0, x0, y1, x1 of the shown region in the source video's own pixels ·
            flip: whether the clip is to be mirrored · item · asked: i, not the item where that took its place · valid.
        """
        step, i = index if isinstance(index, tuple) else (0, index)
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        for j in range(i, i + (len(self) if self.sampler.random else 1)):
            clip = self._read(step, j % len(self))
            if clip is not None:
                return clip | {"asked": i}
        if self.sampler.random:
            raise ValueError("none of the videos can be read; see the warnings above")
        size = self.transform.size
        return self._item(i, clip=torch.zeros(3, self.sampler.duration, size, size, dtype=torch.uint8),
                          frames=torch.zeros(self.sampler.duration, dtype=torch.int64), crop=torch.zeros(4),
                          flip=False, valid=False, asked=i)

    def n_frames(self, v: int) -> int:
        """How many frames of a video clips are taken from."""
        return int(self._spans[v, 1] - self._spans[v, 0])

    def item_frames(self, i: int) -> Tensor:
        """The frames (T,) int64 in its video of an item of an evaluation sampler."""
        first, last = self._spans[self.item_video[i]].tolist()
        return first + self.sampler(last - first, int(self.item_clip[i]))

    def _read(self, step: int, i: int) -> dict | None:
        v = int(self.item_video[i])
        path, (first, last) = self.videos.path(v), self._spans[v].tolist()
        if last <= first:
            return None  # warned of when the dataset was made
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
        return values | {"label": int(self.videos.labels[v]), "video": v, "item": i}

    def _length(self, v: int) -> int:
        """Frames of a video without a segment; 0 for one of unknown length that cannot be read."""
        try:
            return int(self.videos.n_frames[v]) or self.reader.info(self.videos.path(v)).n_frames
        except ValueError as error:
            self._tell(v, error)
            return 0

    def _tell(self, v: int, error: ValueError) -> None:
        if self.strict:
            raise error
        if v not in self.unreadable:
            self.unreadable.add(v)
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=3)
