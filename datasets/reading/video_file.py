"""Videos in files of any container and codec that PyAV decodes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from datasets.reading.decoding import frames_of_file, picture_of
from datasets.reading.reader import VideoInfo, integers, remember
from datasets.reading.seeking import PacketIndex, packet_index, seek_pictures
from datasets.reading.showing import shown_size


class VideoFile:
    """Reads video files of any container and codec that PyAV knows; numbers count the frames of a whole decoding.

    Where the packets tell which picture is which, only those from the last key picture before a wanted frame are
    decoded; else, and wherever what comes out is not what the packets promised, the file is decoded from the start.
    A file that breaks off keeps the frames before.
    """

    def __init__(self) -> None:
        self._indices: dict[str, PacketIndex | None] = {}  # None: decode from the start
        self._sizes: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict:
        return {}  # what is remembered is quickly found again

    def __setstate__(self, state: dict) -> None:
        self.__init__()

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        if indices is None:
            return _stacked(path, [picture_of(frame, path, stream) for frame, stream in self._until_it_breaks(path)])
        wanted = integers(indices)
        index = self._index(path)
        decoded = None
        if index is not None:
            decoded = seek_pictures(path, index, sorted(set(wanted)))
            if decoded is None:
                self._indices[str(path)] = None
        if decoded is None:
            decoded = self._from_the_start(path, set(wanted))
        return _stacked(path, [decoded[i] for i in wanted])

    def info(self, path: Path) -> VideoInfo:
        """Frames, size and rate; decodes the whole file, because headers are wrong by a frame often enough."""
        n, height, width, fps = 0, 0, 0, None
        for n, (frame, stream) in enumerate(self._until_it_breaks(path), 1):
            if n == 1:
                (height, width), fps = shown_size(frame, stream), stream.average_rate
        return VideoInfo(n, height, width, None if fps is None else float(fps))

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

    @staticmethod
    def _from_the_start(path: Path, missing: set[int]) -> dict[int, np.ndarray]:
        decoded = {}
        for i, (frame, stream) in enumerate(frames_of_file(path)):
            if i in missing:
                decoded[i] = picture_of(frame, path, stream)
                missing.remove(i)
            if not missing:
                return decoded
        raise ValueError(f"{path}: frame {min(missing)} is asked for and the file has {i + 1}; "
                         "write the annotation again from these files")

    @staticmethod
    def _until_it_breaks(path: Path) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
        n = 0
        try:
            for item in frames_of_file(path):
                n += 1
                yield item
        except ValueError:
            if n == 0:
                raise


def _stacked(path: Path, pictures: list[np.ndarray]) -> Tensor:
    """(T, H, W, 3) uint8; a size that changes midway is an error."""
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{path}: frames differ in size; convert the file anew, or take it out")
    return torch.from_numpy(np.stack(pictures))
