"""From a path and frame numbers to pixels: folders of JPEG files, video files, and a memory in front of any reader.

A reader is picklable and has
    frames(path, indices=None) -> (T, H, W, 3) uint8 RGB, all frames by default;
    info(path) -> VideoInfo of the source video;
    size(path) -> (height, width) of the source video, cheaper than info.
Stored frames may be smaller than the source video; `frames` gives them as they are stored. Whatever cannot be read is a
ValueError that names the file and the remedy; no frame is ever skipped.
"""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import av
import numpy as np
import torch
from av.video.frame import PictureType
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor
from tqdm import tqdm

VIDEO_EXTENSIONS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp")
EXTENSIONS = {"hdf5": (".hdf5", ".h5"), "jpg": (), "video": VIDEO_EXTENSIONS}  # of a video's file, by --file_type
FRAME_NAME = "image_{:05d}.jpg"  # numbered from 1
THREADS = min(os.cpu_count() or 1, 8)  # that preload; decoders release the interpreter's lock
CHUNK = 64  # videos between two looks at the budget
REMEDY = "delete its folder and run generate_video_jpgs again"
T = TypeVar("T")
INFO_NAME = "info.json"  # written last: a folder that has it is complete


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A source video: number of frames, pixels, frames a second (None where nothing tells)."""

    n_frames: int
    height: int
    width: int
    fps: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def checked(self) -> "VideoInfo":
        """Itself; ValueError for numbers that no video has."""
        sizes = (self.n_frames, self.height, self.width)
        if not all(type(n) is int and 0 < n < 2**31 for n in sizes) or not 0 < (self.fps or 1) < 1e6:
            raise ValueError("numbers that no video has")
        return self


class Reader(Protocol):
    """What every reader here offers; see the top of this file."""

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor: ...
    def info(self, path: Path) -> VideoInfo: ...
    def size(self, path: Path) -> tuple[int, int]: ...


def file_type_of(path: Path) -> str:
    """The --file_type of a video, by its path: a folder, or a file with one of the known endings."""
    return "jpg" if path.is_dir() else next(kind for kind, of in EXTENSIONS.items() if path.suffix.lower() in of)


def integers(indices: Sequence[int] | Tensor) -> list[int]:
    """Frame numbers as plain integers."""
    return indices.tolist() if isinstance(indices, Tensor) else list(indices)


class JpegFolder:
    """Reads folders of `image_00001.jpg`, `image_00002.jpg`, ..., with the `info.json` that generate_video_jpgs leaves.

    Folders without one, as people have them from ffmpeg, are counted, and their source size is their frames' size.
    """

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see the top of this file."""
        wanted = range(self.info(path).n_frames) if indices is None else integers(indices)
        return stacked(lambda i, into: self._image(path, i, into), wanted, path, REMEDY)

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
        return self._image(path, 0).shape[:2] if stored is None else stored.size

    def _stored(self, path: Path) -> VideoInfo | None:
        try:
            info = json.loads((path / INFO_NAME).read_text())
            n_frames, height, width = (info[name] for name in ("n_frames", "height", "width"))
            fps = None if info["fps"] is None else float(info["fps"])
            return VideoInfo(n_frames, height, width, fps).checked()
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


def rgb_of(content: bytes, name: str, remedy: str, into: np.ndarray | None = None) -> np.ndarray:
    """The bytes of a JPEG file as (H, W, 3) uint8 RGB, put into an array of that shape where it is given.

    Raises:
        ValueError: with the file's name and the remedy, where it is no picture.
    """
    try:  # the same pixels as Pillow's, in half of its time
        height, width, colours, _ = decode_jpeg_header(content)
        if colours in ("YCbCr", "Gray", "RGB") and height * width < Image.MAX_IMAGE_PIXELS:
            fits = into is not None and into.shape == (height, width, 3)
            return decode_jpeg(content, "RGB", buffer=into if fits else np.empty((height, width, 3), np.uint8))
    except ValueError:
        pass  # Pillow says better what is wrong, and reads other forms, too
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # on bytes that are no picture, Pillow's parsers raise whatever they stumble over
        raise ValueError(f"{name}: not a readable JPEG ({error}); {remedy}") from error


def stacked(read: Callable[[int, np.ndarray | None], np.ndarray], wanted: Sequence[int], name: Path,
            remedy: str) -> Tensor:
    """Frames of one video, each read once: (T, H, W, 3) uint8.

    Args:
        read: a frame's index, and where it may be put -> the frame (H, W, 3).
        wanted: indices, some perhaps more than once. name, remedy: for what is said of frames that do not match.
    Raises:
        ValueError: where frames differ in size, or are more than fit into memory.
    """
    place: dict[int, int] = {}  # in the stack, of each index; a looped clip has some twice
    frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
    for t, i in enumerate(wanted):
        into = frames[t] if t else None
        picture = read(i, into) if i not in place else frames[place[i]]
        if into is None:
            try:  # a damaged index asks for billions of frames
                frames = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
            except (MemoryError, ValueError) as error:
                raise ValueError(f"{name}: {len(wanted)} frames do not fit into memory; {remedy}") from error
            into = frames[t]
        elif picture.shape != into.shape:
            raise ValueError(f"{name}: frames differ in size; {remedy}")
        if not np.may_share_memory(picture, into):
            into[:] = picture
        place.setdefault(i, t)
    return torch.from_numpy(frames)


def decode(path: Path) -> Iterator[tuple[np.ndarray, av.VideoStream]]:
    """Decode a video file frame by frame, in one thread (loaders and scripts run several processes).

    Yields:
        (H, W, 3) uint8 RGB as it is to be shown, i.e. turned as phones ask for it; and the stream it is from.
    Raises:
        ValueError: when nothing can be read, or nothing more.
    """
    for frame, stream in _decode(path):
        yield _rgb(frame, path), stream


def _decode(path: Path) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
    n = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:  # titles of any encoding
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
        raise ValueError(f"{path}: no picture that can be decoded in this file; replace the file or take it out")


def _rgb(frame: av.VideoFrame, path: Path) -> np.ndarray:
    try:
        picture = frame.to_ndarray(format="rgb24", threads=1)  # (H, W, 3)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path}: a frame has no colours that can be shown ({error}); replace the file") from error
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


# Of these a packet is a picture, which parsers and containers agree on; others are decoded from the start.
SEEKABLE = frozenset({"h264", "hevc", "mpeg4", "mjpeg"})
# Bytes: a smaller packet of MPEG-4 may say "no new picture", which containers count and decoders do not.
LEAST_PACKET = 16
INDEXED = 1024  # videos whose index a reader remembers


@dataclass(frozen=True, slots=True)
class _PacketIndex:
    """Where the pictures of a video file are, from its packets: sorted times (N,), and of the key pictures among them
    their positions (M,) in that order and the times (2, M) at which containers find them, the second to be safe."""

    pts: np.ndarray
    keys: np.ndarray
    seeks: np.ndarray


class VideoFile:
    """Reads video files of any container and codec that PyAV knows; numbers count the frames of a whole decoding.

    Where the packets tell which picture is which, only those from the last key picture before a wanted frame are
    decoded; else, and wherever what comes out is not what the packets promised, the file is decoded from the start.
    A file that breaks off keeps the frames before.
    """

    def __init__(self) -> None:
        self._indices: dict[str, _PacketIndex | None] = {}  # None: decode from the start
        self._sizes: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict:
        return {}  # what is remembered is quickly found again

    def __setstate__(self, state: dict) -> None:
        self.__init__()

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see the top of this file."""
        if indices is None:
            return _stacked(path, [_rgb(frame, path) for frame, _ in self._until_it_breaks(path)])
        wanted = integers(indices)
        index = self._index(path)
        decoded = None
        if index is not None:
            decoded = _sought(path, index, sorted(set(wanted)))
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
                (height, width), fps = _shown_size(frame), stream.average_rate
        return VideoInfo(n, height, width, None if fps is None else float(fps))

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the video as shown."""
        known = self._sizes.get(str(path))
        if known is None:
            known = remember(self._sizes, path, _shown_size(next(_decode(path))[0]))
        return known

    def _index(self, path: Path) -> _PacketIndex | None:
        if str(path) in self._indices:
            return self._indices[str(path)]
        return remember(self._indices, path, _packet_index(path))

    @staticmethod
    def _from_the_start(path: Path, missing: set[int]) -> dict[int, np.ndarray]:
        decoded = {}
        for i, (frame, _) in enumerate(_decode(path)):
            if i in missing:
                decoded[i] = _rgb(frame, path)
                missing.remove(i)
            if not missing:
                return decoded
        raise ValueError(f"{path}: frame {min(missing)} is asked for and the file has {i + 1}; "
                         "write the annotation again from these files")

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


def remember(known: dict[str, T], path: Path, value: T) -> T:
    """Keep a value for a path, in place of the oldest where there are many."""
    if len(known) >= INDEXED:
        known.pop(next(iter(known)), None)
    known[str(path)] = value
    return value


def _stacked(path: Path, pictures: list[np.ndarray]) -> Tensor:
    """(T, H, W, 3) uint8; a size that changes midway is an error."""
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{path}: frames differ in size; convert the file anew, or take it out")
    return torch.from_numpy(np.stack(pictures))


def _packet_index(path: Path) -> _PacketIndex | None:
    """The pictures of a file by its packets alone; None where these do not tell exactly."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            if stream.codec_context is None or stream.codec_context.name not in SEEKABLE:
                return None
            macroblocks = stream.codec_context.width * stream.codec_context.height // 256
            least = max(LEAST_PACKET, macroblocks // 8) if stream.codec_context.name == "mpeg4" else 1
            packets = [packet for packet in container.demux(stream) if packet.size]  # the last one only says "the end"
            if any(packet.pts is None or packet.is_discard or packet.is_corrupt or packet.size < least
                   for packet in packets):
                return None
            pts = np.array([packet.pts for packet in packets], dtype=np.int64)
            key = np.array([packet.is_keyframe for packet in packets], dtype=bool)
            dts = np.array([packet.pts if packet.dts is None else packet.dts for packet in packets], dtype=np.int64)
    except (av.FFmpegError, IndexError):  # a decoding from the start tells what is wrong
        return None
    order = np.sort(pts)
    # What does not begin with a key picture begins with pictures that no decoder shows.
    if len(pts) == 0 or not key[0] or pts[0] != order[0] or (np.diff(order) == 0).any():
        return None
    # Some containers look for a picture's showing, some for its decoding, counted from the first picture's showing.
    seeks = np.stack([np.maximum(pts, dts + pts[0] - dts[0])[key], dts[key]])
    return _PacketIndex(order, np.searchsorted(order, pts[key]), seeks)


def _sought(path: Path, index: _PacketIndex, wanted: list[int]) -> dict[int, np.ndarray] | None:
    """Decode ascending frames, each from the last key picture before it on; None where not what was promised comes."""
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(index.pts):
        return None
    keys = np.searchsorted(index.keys, wanted, side="right") - 1
    decoded: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            for key in dict.fromkeys(keys.tolist()):
                group = [i for i, k in zip(wanted, keys, strict=True) if k == key]
                if not any(_decode_group(container, stream, index, time, key, group, decoded)
                           for time in index.seeks[:, key].tolist()):
                    return None
    except av.FFmpegError:
        return None
    return decoded


def _decode_group(container: av.container.InputContainer, stream: av.VideoStream, index: _PacketIndex, time: int,
                  key: int, group: list[int], decoded: dict[int, np.ndarray]) -> bool:
    """Decode frames that follow one key picture into `decoded`; whether every picture on the way was as promised."""
    first = int(index.keys[key])
    container.seek(time, stream=stream)
    expected = None
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            return False
        if frame.pts < index.pts[first]:  # the container went further back, or an open group leads in
            continue
        if expected is None and frame.pict_type != PictureType.I:  # containers call other pictures key pictures, too
            return False
        expected = first if expected is None else expected + 1
        if expected >= len(index.pts) or frame.pts != index.pts[expected]:
            return False
        if expected in group:
            decoded[expected] = _rgb(frame, Path(container.name))
        if expected == group[-1]:
            return True
    return False


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
        paths = [path for path in dict.fromkeys(paths) if str(path) not in self._videos]  # segments share theirs
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
