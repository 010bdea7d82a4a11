"""The contract of all readers of frames, and what they share whatever the storage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from datasets.reading.clock import FrameTimes

VIDEO_EXTENSIONS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp",
                    ".3g2", ".asf", ".divx", ".dv", ".f4v", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t",
                    ".m2ts", ".m2v", ".mjpeg", ".mjpg", ".mod", ".mpe", ".mts", ".mxf", ".nut", ".ogm", ".qt",
                    ".rm", ".rmvb", ".tod", ".ts", ".vob", ".y4m")
EXTENSIONS = {"hdf5": (".hdf5", ".h5"), "jpg": (), "video": VIDEO_EXTENSIONS}  # of video files, by --file_type
INDEXED = 1024  # videos whose index or size a reader remembers
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A source video: number of frames, pixels, mean frames a second (None where nothing tells)."""

    n_frames: int
    height: int
    width: int
    fps: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def checked(self) -> "VideoInfo":
        """The same object; ValueError for numbers that no video has."""
        sizes = (self.n_frames, self.height, self.width)
        if not all(type(n) is int and 0 < n < 2**31 for n in sizes) or not 0 < (self.fps or 1) < 1e6:
            raise ValueError("numbers that no video has")
        return self


class Reader(Protocol):
    """What every reader offers. A reader is picklable.

    Stored frames may be smaller than the source video; `frames` returns them as they are stored. Whatever cannot be
    read is a ValueError that names the file and the remedy; no frame is ever skipped.
    """

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0, all by default: (T, H, W, 3) uint8 RGB."""

    def info(self, path: Path) -> VideoInfo:
        """Frames, size and rate of the source video."""

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown; None where nothing tells."""

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the source video, cheaper than `info`."""


def file_type_of(path: Path) -> str:
    """The --file_type of a video by its path, which is a folder or a file with a known extension."""
    return "jpg" if path.is_dir() else next(kind for kind, of in EXTENSIONS.items() if path.suffix.lower() in of)


def integers(indices: Sequence[int] | Tensor) -> list[int]:
    """Frame numbers as plain integers."""
    return indices.tolist() if isinstance(indices, Tensor) else list(indices)


def remember(known: dict[str, T], path: Path, value: T) -> T:
    """Keep a value for a path, in place of the oldest where there are many."""
    if len(known) >= INDEXED:
        known.pop(next(iter(known)), None)
    known[str(path)] = value
    return value
