"""Frames of each video as pictures in a folder of its own."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from datasets.reading.clock import FrameTimes
from datasets.reading.naming import FRAME_NAME, frame_names
from datasets.reading.pictures import rgb_of, stacked
from datasets.reading.reader import VideoInfo, integers, remember
from hierarchy.texts import read_json

REMEDY = "extract this video's frames again; generate_video_jpgs does so once the folder is moved away"
INFO_NAME = "info.json"  # written last: a folder that has it is complete


class _Folder(NamedTuple):
    """What is known of a folder.

    size: height and width of the source video; None before a frame is decoded, where no info.json tells. names: of the
    frames, where they are not `FRAME_NAME` from 1.
    """

    size: tuple[int, int] | None
    names: list[str] | None


class JpegFolder:
    """Reads folders of `image_00001.jpg`, `image_00002.jpg`, ..., with the `info.json` that generate_video_jpgs leaves.

    In folders without one, such as ffmpeg's, the frames are counted, and the source has the frames' size; they may have
    other names and formats, see `frame_names`.
    """

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        wanted = range(self.info(path).n_frames) if indices is None else integers(indices)
        size, names = self._folder(path)
        frames = stacked(lambda i, into: _picture(path, i, names, into), wanted, path, REMEDY,
                         called=lambda i: FRAME_NAME.format(i + 1) if names is None else names[i])
        if size is None and len(frames):
            self._remember(path, _Folder(tuple(frames.shape[1:3]), names))
        return frames

    def info(self, path: Path) -> VideoInfo:
        """Frames and size of the source video; ValueError for a folder that is missing, empty or has gaps."""
        stored = _stored(path)
        if stored is not None:
            return stored[0]
        names = frame_names(path)
        return VideoInfo(len(names), *_picture(path, 0, names).shape[:2], None)

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown, as info.json tells; None for a folder without one."""
        stored = _stored(path)
        try:
            return None if stored is None else FrameTimes.of(stored[0].n_frames, stored[0].fps, stored[1].get("times"))
        except ValueError as error:
            raise ValueError(f"{path / INFO_NAME}: damaged; {REMEDY}") from error

    def names(self, path: Path) -> list[str]:
        """The names of all frames, in their order; raises as `info`."""
        stored = _stored(path)
        if stored is None:
            return frame_names(path)
        return [FRAME_NAME.format(i + 1) for i in range(stored[0].n_frames)]

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the source video."""
        size, names = self._folder(path)
        return self._remember(path, _Folder(size or _picture(path, 0, names).shape[:2], names)).size

    def _remember(self, path: Path, folder: _Folder) -> _Folder:
        return remember(vars(self).setdefault("_folders", {}), path, folder)

    def _folder(self, path: Path) -> _Folder:
        folder = vars(self).get("_folders", {}).get(str(path))
        if folder is None:
            info = _stored(path)
            usual = info is not None or (os.path.exists(f"{path}/{FRAME_NAME.format(1)}")
                                         and not os.path.exists(f"{path}/{FRAME_NAME.format(0)}"))
            folder = self._remember(path, _Folder(info and info[0].size, None if usual else frame_names(path)))
        return folder


def _stored(path: Path) -> tuple[VideoInfo, dict] | None:
    """What info.json tells, and its whole content; None where there is none."""
    try:
        info = read_json(path / INFO_NAME)
        n_frames, height, width = (info[name] for name in ("n_frames", "height", "width"))
        fps = None if info["fps"] is None else float(info["fps"])
        return VideoInfo(n_frames, height, width, fps).checked(), info
    except OSError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / INFO_NAME}: damaged, or not by generate_video_jpgs; {REMEDY}, or rename this file "
                         "if the frames are whole") from error


def _picture(path: Path, index: int, names: Sequence[str] | None, into: np.ndarray | None = None) -> np.ndarray:
    if names is not None and not 0 <= index < len(names):
        raise ValueError(f"{path}: frame {index} is asked for and there are {len(names)}; write the annotation again "
                         "from these files")
    name = FRAME_NAME.format(index + 1) if names is None else names[index]
    file = f"{path}/{name}"  # pathlib would take a tenth of the decoding
    try:
        with open(file, "rb", buffering=0) as opened:
            content = opened.read()
    except FileNotFoundError as error:
        raise ValueError(f"{file}: this frame is missing; {REMEDY}") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); {REMEDY}") from error
    return rgb_of(content, file, REMEDY, into)
