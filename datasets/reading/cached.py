"""A memory of decoded videos in front of any reader."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from datasets.reading.clock import FrameTimes
from datasets.reading.reader import Reader, VideoInfo
from machine.cores import cores

THREADS = 8  # of `preload` at most; decoders release the interpreter's lock
CHUNK = 64  # videos between two looks at the budget


class CachedReader:
    """Keeps whole decoded videos in memory until a budget is spent; what does not fit is read as before.

    Videos enter when they are first read, or by `preload`, which forked workers share; what a worker reads for itself
    stays its own, up to the same budget.

    Args:
        reader: reads what is not in memory.
        budget_bytes: decoded frames, one byte a channel.
    """

    def __init__(self, reader: Reader, budget_bytes: int) -> None:
        self.reader, self.budget_bytes = reader, budget_bytes
        self._videos: dict[str, tuple[Tensor, VideoInfo]] = {}
        self._left = budget_bytes
        self._damaged: set[str] = set()

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0, a copy; see `Reader`."""
        held = self._hold(path)
        if held is None:
            return self.reader.frames(path, indices)
        video, n = held[0], held[0].shape[0]
        if indices is None:
            return video.clone()
        indices = torch.as_tensor(indices)
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < n:
            raise ValueError(f"{path}: frame {int(indices.max())} is asked for and there are {n}; "
                             "write the annotation again from these files")
        return video[indices]  # (T, H, W, 3)

    def info(self, path: Path) -> VideoInfo:
        """As the wrapped reader's."""
        held = self._videos.get(str(path))
        return self.reader.info(path) if held is None else held[1]

    def times(self, path: Path) -> FrameTimes | None:
        """As the wrapped reader's."""
        return self.reader.times(path)

    def size(self, path: Path) -> tuple[int, int]:
        """As the wrapped reader's."""
        held = self._videos.get(str(path))
        return self.reader.size(path) if held is None else (held[1].height, held[1].width)

    def preload(self, paths: Iterable[Path], *, progress: bool = True) -> int:
        """Read videos until the budget is spent; returns how many are in memory. Unreadable videos are left out."""
        paths = [path for path in dict.fromkeys(paths) if str(path) not in self._videos]  # segments share theirs
        with (tqdm(total=len(paths), desc="reading videos", unit="video", disable=not progress, leave=False) as bar,
              ThreadPoolExecutor(min(cores(), THREADS)) as pool):
            for first in range(0, len(paths), CHUNK):
                chunk = paths[first:first + CHUNK]
                for path, video in zip(chunk, pool.map(self._readable, chunk), strict=True):
                    if video is not None:
                        self._keep(path, *video)
                    bar.update()
                if self._left <= 0:
                    break
        return len(self._videos)

    def _read(self, path: Path) -> tuple[Tensor | None, VideoInfo]:
        """A whole video, or None in place of frames that would not fit, which are not decoded."""
        info = self.reader.info(path)
        fits = self.reader.frames(path, [0]).numel() * info.n_frames <= self._left
        return self.reader.frames(path) if fits else None, info

    def _readable(self, path: Path) -> tuple[Tensor | None, VideoInfo] | None:
        try:
            return self._read(path)
        except ValueError:
            return None

    def _keep(self, path: Path, frames: Tensor | None, info: VideoInfo) -> tuple[Tensor, VideoInfo] | None:
        if frames is None or frames.numel() > self._left:
            self._left = 0  # full: do not try another one in vain
            return None
        self._left -= frames.numel()
        self._videos[str(path)] = (frames, info)
        return frames, info

    def _hold(self, path: Path) -> tuple[Tensor, VideoInfo] | None:
        """The video in memory, taking it in if the budget allows."""
        held = self._videos.get(str(path))
        if held is None and self._left > 0 and str(path) not in self._damaged:
            video = self._readable(path)
            if video is None:  # damaged somewhere, perhaps not where frames are wanted
                self._damaged.add(str(path))
                return None
            held = self._keep(path, *video)
        return held
