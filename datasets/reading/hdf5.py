"""Frames of each video in an HDF5 file of its own, the published form: a dataset `video` of JPEG files, a frame each.

The dataset is of variable-length uint8; its attributes `width`, `height` and `fps` are the source video's, as far as
they are known. Files without any, as other tools write them, have their frames' size for the source's. Where frames
are not evenly spaced, a dataset `times` tells when they are shown, in seconds, and when the last one ends.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from datasets.reading.clock import FrameTimes
from datasets.reading.pictures import rgb_of, stacked
from datasets.reading.reader import VideoInfo, integers, remember

NAME, FRAMES, TIMES = "{}.hdf5", "video", "times"
# Where a frame is, and what lies there: HDF5's "global heaps", of one or more frames each.
PLACE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
HEAP = np.dtype({"names": ["signature", "length"], "formats": ["S4", "<u8"], "offsets": [0, 8]})
OBJECT = np.dtype({"names": ["index", "length"], "formats": ["<u2", "<u8"], "offsets": [0, 8]})
REMEDY = "pack this video again with util_scripts.generate_video_hdf5"


def write_hdf5(file: Path, frames: Sequence[bytes], info: VideoInfo, times: FrameTimes | None = None) -> None:
    """Write a video: the bytes of its n_frames JPEG files, and what is known of its source and of its frames' times."""
    with h5py.File(file, "w") as content:
        video = content.create_dataset(FRAMES, len(frames), dtype=h5py.vlen_dtype(np.uint8))
        for i, frame in enumerate(frames):  # an array of all would be two-dimensional where lengths are equal
            video[i] = np.frombuffer(frame, dtype=np.uint8)
        if times is not None and times.edges is not None:
            content[TIMES] = np.array(times.listed())
        video.attrs.update({"width": info.width, "height": info.height} | ({"fps": info.fps} if info.fps else {}))


class Hdf5Frames:
    """Reads such files. They are opened for each clip and closed after it, so no process inherits an open one."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        with _opened(path) as video:
            n = len(video)
            wanted = range(n) if indices is None else integers(indices)
            if len(wanted) and not 0 <= min(wanted) <= max(wanted) < n:
                raise ValueError(f"{path}: frame {max(wanted)} is asked for and there are {n}; "
                                 "write the annotation again from these files")
            numbers = sorted(set(wanted))
            _check_heaps(video, numbers)
            # all at once: one by one costs ten times as much
            files = dict(zip(numbers, video[numbers], strict=True))
            remember(self._sizes, path, _info(video, path).size)
            return stacked(lambda i, into: _rgb(files[i], path, i, into), wanted, path, REMEDY)

    def info(self, path: Path) -> VideoInfo:
        """Frames and size of the source video."""
        with _opened(path) as video:
            return _info(video, path)

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown; None where the file does not tell."""
        with _opened(path) as video:
            edges = video.parent[TIMES][:] if TIMES in video.parent else None
            return FrameTimes.of(len(video), _info(video, path).fps, edges)

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the source video."""
        known = self._sizes.get(str(path))
        return self.info(path).size if known is None else known


def frame_lengths(path: Path) -> list[int] | None:
    """Bytes of each frame's file, without reading them; None where only reading tells. Raises as `Hdf5Frames`."""
    with _opened(path) as video:
        places = _places(video)
        return None if places is None else places["length"].tolist()


def frame_bytes(path: Path) -> list[bytes]:
    """The JPEG file of every frame; raises as `Hdf5Frames`."""
    with _opened(path) as video:
        _check_heaps(video, range(len(video)))
        return [frame.tobytes() for frame in video[:]]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.Dataset]:
    """The frames of a file; whatever is wrong with it, then and later, is a ValueError."""
    try:
        with h5py.File(path, "r", locking=False) as content:  # network disks refuse locks
            video = content[FRAMES]
            if h5py.check_vlen_dtype(video.dtype) != np.uint8 or video.ndim != 1 or not len(video):
                raise ValueError("its frames are no list of JPEG files")
            yield video
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; run generate_video_hdf5 or check the paths") from error
    except Exception as error:  # of damaged files the library raises whatever it stumbles over
        if isinstance(error, ValueError) and str(error).startswith(str(path)):  # which says already what to do
            raise
        what = " ".join(str(error).split())  # the library breaks lines
        raise ValueError(f"{path}: not a readable HDF5 file of frames ({what}); {REMEDY}") from error


def _places(video: h5py.Dataset) -> np.ndarray | None:
    """Where each frame is (N,), None of a chunked or compressed dataset, as neither we nor the published script write
    it."""
    places = video.id.get_offset()
    if places is None:
        return None
    return np.frombuffer(os.pread(video.file.id.get_vfd_handle(), len(video) * PLACE.itemsize, places), dtype=PLACE)


def _check_heaps(video: h5py.Dataset, numbers: Sequence[int]) -> None:
    """Refuse frames from a heap whose objects do not add up to its size: on those the library may never come back."""
    places, file = _places(video), video.file.id.get_vfd_handle()
    if places is None:
        return
    size, frames = os.fstat(file).st_size, places[list(numbers)]
    for heap in np.unique(frames["heap"]).tolist():
        if heap + HEAP.itemsize > size:
            raise ValueError("frames behind the end of the file")
        signature, length = np.frombuffer(os.pread(file, HEAP.itemsize, heap), dtype=HEAP)[0].tolist()
        at = heap + HEAP.itemsize
        while at + OBJECT.itemsize <= heap + length <= size and signature == b"GCOL":
            index, n_bytes = np.frombuffer(os.pread(file, OBJECT.itemsize, at), dtype=OBJECT)[0].tolist()
            step = OBJECT.itemsize + -(-n_bytes // 8) * 8 if index else n_bytes  # what is free counts its own header
            if step < OBJECT.itemsize:
                raise ValueError("a heap of frames is damaged")
            at += step
        if at > heap + length or signature != b"GCOL":
            raise ValueError("a heap of frames is damaged")


def _rgb(file: np.ndarray, path: Path, index: int, into: np.ndarray | None = None) -> np.ndarray:
    return rgb_of(file.tobytes(), f"{path}: frame {index}", REMEDY, into)


def _info(video: h5py.Dataset, path: Path) -> VideoInfo:
    about = dict(video.attrs)
    if {"width", "height"} <= about.keys():
        fps = float(about["fps"]) if "fps" in about else None
        return VideoInfo(len(video), int(about["height"]), int(about["width"]), fps).checked()
    return VideoInfo(len(video), *_rgb(video[0], path, 0).shape[:2], None)
