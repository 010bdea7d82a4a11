"""From a path and frame numbers to pixels: folders of JPEG files, video files, and a memory in front of either.

A reader is picklable and has
    frames(path, indices=None) -> (T, H, W, 3) uint8 RGB, all frames by default;
    info(path) -> VideoInfo of the source video;
    size(path) -> (height, width) of the source video, cheaper than info.
Stored frames may be smaller than the source video; `frames` gives them as they are stored. Whatever cannot be read is a
ValueError that names the file and the remedy; no frame is ever skipped.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

VIDEO_EXTENSIONS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp")
FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
THREADS = min(os.cpu_count() or 1, 8)  # that preload; decoders release the interpreter's lock
CHUNK = 64  # videos between two looks at the budget
REMEDY = "delete its folder and run generate_video_jpgs again"
INFO_NAME = "info.json"  # written last: a folder that has it is complete


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A source video: number of frames, pixels, frames a second (None where nothing tells)."""

    n_frames: int
    height: int
    width: int
    fps: float | None


class Reader(Protocol):
    """What every reader here offers; see the top of this file."""

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor: ...
    def info(self, path: Path) -> VideoInfo: ...
    def size(self, path: Path) -> tuple[int, int]: ...


def _integers(indices: Sequence[int] | Tensor) -> list[int]:
    return indices.tolist() if isinstance(indices, Tensor) else list(indices)


class JpegFolder:
    """Reads folders of `image_00001.jpg`, `image_00002.jpg`, ..., with the `info.json` that generate_video_jpgs leaves.

    Folders without one, as people have them from ffmpeg, are counted, and their source size is their frames' size.
    """

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see the top of this file."""
        wanted = range(self.info(path).n_frames) if indices is None else _integers(indices)
        decoded = {i: self._image(path, i) for i in dict.fromkeys(wanted)}  # a looped clip asks for frames twice
        shapes = {image.shape for image in decoded.values()}
        if len(shapes) > 1:
            raise ValueError(f"{path}: frames differ in size; {REMEDY}")
        return torch.from_numpy(np.stack([decoded[i] for i in wanted]))  # (T, H, W, 3)

    def info(self, path: Path) -> VideoInfo:
        """Frames and size of the source video; ValueError for a folder that is missing, empty or has gaps."""
        stored = self._stored(path)
        if stored is not None:
            return stored
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
        return self._image(path, 0).shape[:2] if stored is None else (stored.height, stored.width)

    def _stored(self, path: Path) -> VideoInfo | None:
        try:
            info = json.loads((path / INFO_NAME).read_text())
            return VideoInfo(info["n_frames"], info["height"], info["width"], info["fps"])
        except OSError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path / INFO_NAME}: damaged; {REMEDY}") from error

    @staticmethod
    def _image(path: Path, index: int) -> np.ndarray:
        file = path / FRAME_NAME.format(index + 1)
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except FileNotFoundError as error:
            raise ValueError(f"{file}: this frame is missing; {REMEDY}") from error
        except (OSError, SyntaxError) as error:  # Pillow tells of a broken header by SyntaxError
            raise ValueError(f"{file}: not a readable JPEG ({error}); {REMEDY}") from error


def decode(path: Path) -> Iterator[tuple[np.ndarray, av.VideoStream]]:
    """Decode a video file frame by frame, in one thread (loaders and scripts run several processes).

    Yields:
        (H, W, 3) uint8 RGB as it is to be shown, i.e. turned as phones ask for it; and the stream it is from.
    Raises:
        ValueError: when nothing can be read, or nothing more.
    """
    for frame, stream in _decode(path):
        yield _rgb(frame), stream


def _decode(path: Path) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
    n = 0
    try:
        with av.open(str(path)) as container:
            for stream in container.streams.video[:1]:
                if stream.codec_context is None:  # as PyAV tells of a codec that it does not know
                    raise ValueError(f"{path}: of an unknown codec; replace the file or take it out")
                stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
                for frame in container.decode(stream):
                    n += 1
                    yield frame, stream
    except av.FileNotFoundError as error:
        raise ValueError(f"{path}: no such video file; check the paths") from error
    except av.FFmpegError as error:
        where = f"broken after {n} frames" if n else "not a readable video"
        raise ValueError(f"{path}: {where} ({error.strerror}); replace the file or take it out") from error
    if n == 0:
        raise ValueError(f"{path}: no picture in this file; replace the file or take it out")


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24", threads=1)  # (H, W, 3)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


class VideoFile:
    """Reads video files of any container and codec that PyAV knows, decoding from the start: frame numbers are exact.

    A file that breaks off keeps the frames before.
    """

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see the top of this file."""
        if indices is None:
            return torch.from_numpy(np.stack([_rgb(frame) for frame, _ in self._until_it_breaks(path)]))
        wanted = _integers(indices)
        missing, decoded = set(wanted), {}
        for i, (frame, _) in enumerate(_decode(path)):
            if i in missing:
                decoded[i] = _rgb(frame)
                missing.remove(i)
            if not missing:
                break
        else:
            raise ValueError(f"{path}: frame {min(missing)} is asked for and the file has {i + 1}; "
                             "write the annotation again from these files")
        return torch.from_numpy(np.stack([decoded[i] for i in wanted]))  # (T, H, W, 3)

    def info(self, path: Path) -> VideoInfo:
        """Frames, size and rate; decodes the whole file, because headers are wrong by a frame often enough."""
        n, height, width, fps = 0, 0, 0, None
        for n, (frame, stream) in enumerate(self._until_it_breaks(path), 1):
            if n == 1:
                (height, width), fps = _shown_size(frame), stream.average_rate
        return VideoInfo(n, height, width, None if fps is None else float(fps))

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the video as shown."""
        return _shown_size(next(_decode(path))[0])

    @staticmethod
    def _until_it_breaks(path: Path) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
        n = 0
        try:
            for item in _decode(path):
                n += 1
                yield item
        except ValueError:
            if n == 0:
                raise


READERS = {"jpg": JpegFolder, "video": VideoFile}  # by --file_type


def _shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    return (frame.width, frame.height) if round(frame.rotation / 90) % 2 else (frame.height, frame.width)


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
        """Frames by their index from 0, a copy; see the top of this file."""
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
        """As the reader behind tells."""
        held = self._videos.get(str(path))
        return self.reader.info(path) if held is None else held[1]

    def size(self, path: Path) -> tuple[int, int]:
        """As the reader behind tells."""
        held = self._videos.get(str(path))
        return self.reader.size(path) if held is None else (held[1].height, held[1].width)

    def preload(self, paths: Iterable[Path], *, progress: bool = True) -> int:
        """Read videos until the budget is spent; unreadable ones are left for the dataset to tell. Returns how many
        are in memory."""
        paths = [path for path in paths if str(path) not in self._videos]
        with (tqdm(total=len(paths), desc="reading videos", unit="video", disable=not progress, leave=False) as bar,
              ThreadPoolExecutor(THREADS) as pool):
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
            found = self._readable(path)
            if found is None:  # somewhere, which need not be where frames are wanted
                self._damaged.add(str(path))
                return None
            held = self._keep(path, *found)
        return held
