"""Video files, and folders of pictures of any name, as people have them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from datasets.reading.clock import FrameTimes
from datasets.reading.naming import frame_names
from datasets.reading.pictures import rgb_of, stacked
from datasets.reading.promise import promise_of
from datasets.reading.reader import VideoInfo
from datasets.reading.streams import film_of
from datasets.reading.video_file import VideoFile

MISSING = 1  # frames that the header of a complete video may promise in excess


class LooseFiles:
    """Reads video files, and folders of pictures in the order of the numbers in their names.

    Attributes:
        cut: of each file that breaks off, after how much it does, such as "17 of the 60 frames".
    """

    def __init__(self) -> None:
        self._files = VideoFile()
        self._infos: dict[Path, VideoInfo] = {}  # a file is decoded to count its frames
        self.cut: dict[Path, str] = {}

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        if not path.is_dir():
            return self._files.frames(path, indices)
        files = frame_files(path)
        wanted = range(len(files)) if indices is None else [int(i) for i in indices]
        return stacked(lambda i, into: _picture(files[i], into), wanted, path, "extract them again",
                       called=lambda i: files[i].name)

    def info(self, path: Path) -> VideoInfo:
        """Number of frames, size and rate; a folder has no rate."""
        if path in self._infos:
            return self._infos[path]
        if not path.is_dir():
            info = self._infos[path] = self._files.info(path)
            with av.open(str(path), metadata_errors="replace") as container:
                promise = promise_of(film_of(container), path)
            after = promise.broken(path, info.n_frames, self.times(path), spare=MISSING)
            if after or path in self._files.broken:
                self.cut[path] = after or f"{info.n_frames} frames"
            return info
        return VideoInfo(len(frame_files(path)), *self.size(path), None)

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown; None for a folder."""
        return None if path.is_dir() else self._files.times(path)

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width."""
        return tuple(self.frames(path, [0]).shape[1:3]) if path.is_dir() else self._files.size(path)


def cut_in_words(cut: Mapping[Path, str], n_videos: int) -> str:
    """A sentence on files that break off.

    Args:
        cut: as LooseFiles has it, not empty. n_videos: among how many they are.
    """
    path, after = next(iter(cut.items()))
    told = f"{path}: is cut short; it" if n_videos == 1 else f"{len(cut)} of {n_videos} videos are cut short: {path}"
    return f"{told} breaks off after {after}; replace the file"


def frame_files(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of the numbers in their names, some of which may be missing.

    Raises:
        ValueError: where there is none, or their order is not clear.
    """
    return [folder / name for name in frame_names(folder, gaps=True)]


def _picture(file: Path, into: np.ndarray | None) -> np.ndarray:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); replace it") from error
    return rgb_of(content, str(file), "replace it", into)
