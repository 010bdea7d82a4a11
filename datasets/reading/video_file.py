"""Videos in files of any container and codec that PyAV decodes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from datasets.reading.clock import FrameClock, FrameTimes
from datasets.reading.decoding import frames_of_file, picture_of
from datasets.reading.reader import VideoInfo, integers, remember
from datasets.reading.resizing import resized
from datasets.reading.seeking import Cursor, PacketIndex, UnsoughtError, packet_index
from datasets.reading.showing import shown_size


class VideoFile:
    """Reads video files of any container and codec that PyAV knows; numbers count the frames of a whole decoding.

    Where the packets tell which picture is which, only those from the last key picture before a wanted frame are
    decoded; else, and wherever what comes out is not what the packets promised, the file is decoded from the start.
    The file that was read last stays open: where the next clip of it lies ahead, the decoder goes on from where it is.
    A file that breaks off keeps the frames before. Where the size of frames changes midway, all have the first one's.

    Attributes:
        broken: files whose decoding has ended with an error, of those that were decoded to the end.
    """

    def __init__(self) -> None:
        self._indices: dict[str, PacketIndex | None] = {}  # None: decode from the start
        self._sizes: dict[str, tuple[int, int]] = {}
        self._times: dict[str, FrameTimes | None] = {}
        self.broken: set[Path] = set()
        self._open: dict[str, Cursor] = {}  # at most one, which a thread that reads takes out

    def __getstate__(self) -> dict:
        return {}  # what is remembered is quickly found again

    def __setstate__(self, state: dict) -> None:
        self.__init__()

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        if indices is None:
            return _stacked([picture_of(frame, path, stream) for frame, stream in self._until_it_breaks(path)])
        wanted = integers(indices)
        pictures = self._pictures(path, sorted(set(wanted))) if wanted else {}
        return _stacked([pictures[i] for i in wanted])

    def info(self, path: Path) -> VideoInfo:
        """Frames, size and rate; decodes the whole file, because headers are wrong by a frame often enough."""
        clock, size = None, (0, 0)
        for frame, stream in self._until_it_breaks(path):
            if clock is None:
                clock, size = FrameClock(stream), shown_size(frame, stream)
            clock.show(frame)
        times = remember(self._times, path, clock.times())
        return VideoInfo(clock.n_frames, *size, None if times is None else times.fps)

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown; decodes the whole file the first time."""
        if str(path) not in self._times:
            self.info(path)
        return self._times[str(path)]

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the video as shown."""
        known = self._sizes.get(str(path))
        if known is None:
            frames = frames_of_file(path)  # which closes the file when it goes
            known = remember(self._sizes, path, shown_size(*next(frames)))
        return known

    def _index(self, path: Path) -> PacketIndex | None:
        if str(path) in self._indices:
            return self._indices[str(path)]
        return remember(self._indices, path, packet_index(path))

    def _pictures(self, path: Path, wanted: list[int]) -> dict[int, np.ndarray]:
        """Ascending frames, each once, by their number."""
        cursor = self._open.pop(str(path), None)
        if cursor is None or not cursor.serves(path):
            cursor = Cursor(path, self._index(path))
        try:
            pictures = cursor.pictures(wanted)
        except UnsoughtError:
            self._indices[str(path)] = None
            cursor = Cursor(path, None)
            pictures = cursor.pictures(wanted)
        self._open = {str(path): cursor}
        if cursor.changes_size:
            size = self.size(path)
            return {i: _at(picture, size) for i, picture in pictures.items()}
        return pictures

    def _until_it_breaks(self, path: Path) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
        n = 0
        try:
            for item in frames_of_file(path):
                n += 1
                yield item
        except ValueError:
            if n == 0:
                raise
            self.broken.add(path)


def _at(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at a size, where it has another one."""
    return picture if picture.shape[:2] == size else resized(picture, size)


def _stacked(pictures: list[np.ndarray]) -> Tensor:
    """(T, H, W, 3) uint8; where the size changes midway, all have the first picture's."""
    return torch.from_numpy(np.stack([_at(picture, pictures[0].shape[:2]) for picture in pictures]))
