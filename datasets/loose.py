"""Videos without an annotation: any video file or folder of pictures, and folders of those."""

import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.reading import VIDEO_EXTENSIONS, VideoFile, VideoInfo
from datasets.video import Video
from hierarchy.tree import Hierarchy

IMAGES = (".jpg", ".jpeg", ".png")
MISSING = 1  # frames by which headers are wrong of videos that are whole


class AnyVideo:
    """Reads video files, and folders of pictures in the order of the numbers in their names.

    Attributes:
        cut: by file, for files with fewer frames than their header promises: the frames they have and promise.
    """

    def __init__(self) -> None:
        self._files = VideoFile()
        self.cut: dict[Path, tuple[int, int]] = {}

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `datasets.reading`."""
        if not path.is_dir():
            return self._files.frames(path, indices)
        files = frame_files(path)
        wanted = range(len(files)) if indices is None else [int(i) for i in indices]
        pictures = []
        for i in wanted:
            try:
                with Image.open(files[i]) as image:
                    pictures.append(np.asarray(image.convert("RGB")))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{files[i]}: not a readable picture ({error}); replace it") from error
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError(f"{path}: frames differ in size; extract them again")
        return torch.from_numpy(np.stack(pictures))

    def info(self, path: Path) -> VideoInfo:
        """Number of frames, size and rate; a folder has no rate."""
        if not path.is_dir():
            info = self._files.info(path)
            with av.open(str(path), metadata_errors="replace") as container:
                promised = container.streams.video[0].frames  # 0 where the container does not say
            if promised > info.n_frames + MISSING:
                self.cut[path] = info.n_frames, promised
            return info
        return VideoInfo(len(frame_files(path)), *self.size(path), None)

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width."""
        return tuple(self.frames(path, [0]).shape[1:3]) if path.is_dir() else self._files.size(path)


def frame_files(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of the numbers in their names.

    Raises:
        ValueError: where there is none.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES]
    if not files:
        raise ValueError(f"{folder}: no frames in this folder; put in pictures (image_00001.jpg, ...), or give the "
                         "video file")

    def numbers(path: Path) -> list[int | str]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]

    return sorted(files, key=numbers)


def videos_in(folder: Path, hierarchy: Hierarchy) -> list[Video]:
    """The frame folders and video files in a folder, also one level deeper in class folders.

    Raises:
        ValueError: for a folder without any, and for a label that is no class.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check --videos_dir")
    labelled: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        label = (path.name if path.is_dir() else path.stem).split("-")[0]
        if path.is_dir():
            inside = sorted(video for video in path.iterdir()
                            if video.is_dir() or video.suffix.lower() in VIDEO_EXTENSIONS)
            if not inside or any(file.suffix.lower() in IMAGES for file in path.iterdir()):
                frame_files(path)
                inside = [path]
            labelled += [(video, label) for video in inside]
        elif path.suffix.lower() in VIDEO_EXTENSIONS:
            labelled.append((path, label))
    if not labelled:
        raise ValueError(f"{folder}: neither frame folders nor video files in it; check --videos_dir")
    videos = []
    for path, label in labelled:
        try:
            index = hierarchy.label(label)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; a name up to its first - is the label") from error
        videos.append(Video(path.name if path.is_dir() else path.stem, path, index, "testing", 0, (0, 0)))
    return videos


def single_video(path: Path, n_frames: int) -> Video:
    """A video file or frame folder whose class is not known."""
    name = path.name if path.is_dir() else path.stem
    return Video(name, path, -1, "testing", n_frames, (0, n_frames))
