"""Frames of each video as JPEG files in a folder of its own."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datasets.reading.clock import FrameTimes
from datasets.reading.pictures import rgb_of, stacked
from datasets.reading.reader import VideoInfo, integers

FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
REMEDY = "delete its folder and run generate_video_jpgs again"
INFO_NAME = "info.json"  # written last: a folder that has it is complete


class JpegFolder:
    """Reads folders of `image_00001.jpg`, `image_00002.jpg`, ..., with the `info.json` that generate_video_jpgs leaves.

    In folders without one, such as ffmpeg's, the frames are counted, and the source has the frames' size.
    """

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        wanted = range(self.info(path).n_frames) if indices is None else integers(indices)
        return stacked(lambda i, into: self._image(path, i, into), wanted, path, REMEDY)

    def info(self, path: Path) -> VideoInfo:
        """Frames and size of the source video; ValueError for a folder that is missing, empty or has gaps."""
        stored = self._stored(path)
        if stored is not None:
            return stored[0]
        try:
            names = {entry.name for entry in path.iterdir() if entry.match("image_*.jpg")}
        except OSError as error:
            raise ValueError(f"{path}: no such folder of frames; run generate_video_jpgs or check the paths") from error
        for i in range(1, len(names) + 1):
            if FRAME_NAME.format(i) not in names:
                raise ValueError(f"{path / FRAME_NAME.format(i)}: this frame is missing among {len(names)}; {REMEDY}")
        if not names:
            raise ValueError(f"{path}: no frame image_00001.jpg; run generate_video_jpgs for this video")
        return VideoInfo(len(names), *self._image(path, 0).shape[:2], None)

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the source video."""
        stored = self._stored(path)
        return self._image(path, 0).shape[:2] if stored is None else stored[0].size

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown, as info.json tells; None for a folder without one."""
        stored = self._stored(path)
        try:
            return None if stored is None else FrameTimes.of(stored[0].n_frames, stored[0].fps, stored[1].get("times"))
        except ValueError as error:
            raise ValueError(f"{path / INFO_NAME}: damaged; {REMEDY}") from error

    def _stored(self, path: Path) -> tuple[VideoInfo, dict] | None:
        try:
            info = json.loads((path / INFO_NAME).read_text())
            n_frames, height, width = (info[name] for name in ("n_frames", "height", "width"))
            fps = None if info["fps"] is None else float(info["fps"])
            return VideoInfo(n_frames, height, width, fps).checked(), info
        except OSError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path / INFO_NAME}: damaged; {REMEDY}") from error

    @staticmethod
    def _image(path: Path, index: int, into: np.ndarray | None = None) -> np.ndarray:
        file = f"{path}/{FRAME_NAME.format(index + 1)}"  # pathlib would take a tenth of the decoding
        try:
            with open(file, "rb") as opened:
                content = opened.read()
        except FileNotFoundError as error:
            raise ValueError(f"{file}: this frame is missing; {REMEDY}") from error
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror}); {REMEDY}") from error
        return rgb_of(content, file, REMEDY, into)
