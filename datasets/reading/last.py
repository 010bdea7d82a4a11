"""A reader that decodes a short video once for several clips of it that are read one after the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datasets.reading.clock import FrameTimes
from datasets.reading.reader import Reader, VideoInfo

MOST_BYTES = 1 << 29  # of a video in memory


class LastVideo:
    """Keeps all frames of the video that was read last; a long or large one is read as before.

    Args:
        reader: reads the frames. short: frames of the videos that are worth decoding as a whole, by path.
    """

    def __init__(self, reader: Reader, short: Mapping[str, int]) -> None:
        self.reader, self.short = reader, short
        self._path, self._frames = "", torch.empty(0)

    def __getstate__(self) -> dict:
        return {"reader": self.reader, "short": self.short}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0, a copy; see `Reader`."""
        if str(path) not in self.short or indices is None:
            return self.reader.frames(path, indices)
        if str(path) != self._path:
            self._path, self._frames = str(path), self._whole(path)
        indices = torch.as_tensor(indices)
        if len(self._frames) <= int(indices.max()):
            return self.reader.frames(path, indices)
        return self._frames[indices]  # (T, H, W, 3)

    def _whole(self, path: Path) -> Tensor:
        """All frames of a video; none where they are too many bytes, or damaged somewhere, perhaps not where frames are
        wanted."""
        try:
            height, width = self.reader.size(path)
            large = self.short[str(path)] * height * width * 3 > MOST_BYTES
            return torch.empty(0) if large else self.reader.frames(path)
        except ValueError:
            return torch.empty(0)

    def info(self, path: Path) -> VideoInfo:
        """As the wrapped reader's."""
        return self.reader.info(path)

    def times(self, path: Path) -> FrameTimes | None:
        """As the wrapped reader's."""
        return self.reader.times(path)

    def size(self, path: Path) -> tuple[int, int]:
        """As the wrapped reader's."""
        return self.reader.size(path)
