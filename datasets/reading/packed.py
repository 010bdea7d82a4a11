"""Frames of a whole data set in a few large files: the form for network disks, which are slow to open many small ones.

A folder holds `index.npy`, a sorted table of the videos, and `shard_0000.bin`, ...: of each video the offsets of its
n + 1 JPEG boundaries (uint32, from the first of them), then the JPEG files' own bytes, one after the other. The table
is mapped into memory, where all loader processes share it, and frames are read by their offset. Where frames of some
videos are not evenly spaced, `times_0000.npz`, with the number of the set's first shard, tells when they are shown.
"""

import bisect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from datasets.reading.clock import FrameTimes
from datasets.reading.pictures import rgb_of, stacked
from datasets.reading.reader import VideoInfo, integers

INDEX_NAME, SHARD_NAME, TIMES_NAME = "index.npy", "shard_{:04d}.bin", "times_{:04d}.npz"
REMEDY = "pack the data set again with util_scripts.pack_frames"
FIELDS = (("shard", "<u4"), ("offset", "<u8"), ("n_frames", "<u4"), ("height", "<u4"), ("width", "<u4"), ("fps", "<f8"))


def index_table(rows: Sequence[tuple]) -> np.ndarray:
    """The table of (place, shard, offset, n_frames, height, width, fps), sorted by place; fps is nan where unknown.

    Places are `folder/video`, at least one of them.
    """
    rows = sorted((os.fsencode(place), *rest) for place, *rest in rows)
    return np.array(rows, dtype=[("place", f"S{max(len(row[0]) for row in rows)}"), *FIELDS])


def write_times(file: BinaryIO, table: np.ndarray, times: Mapping[str, FrameTimes]) -> None:
    """Write the times of unevenly spaced frames: `rows` (M,) of the table, `firsts` (M,) and `edges`, their edges one
    after the other, of which each video's begin at its first.

    Args:
        times: by place.
    """
    rows = sorted((int(np.searchsorted(table["place"], os.fsencode(place))), shown.listed())
                  for place, shown in times.items())
    firsts = np.cumsum([0, *(len(edges) for _, edges in rows)])[:-1]
    np.savez_compressed(file, rows=np.array([row for row, _ in rows]), firsts=firsts,
                        edges=np.concatenate([edges for _, edges in rows]))


def _load_times(folder: Path, table: np.ndarray) -> dict[int, np.ndarray]:
    """The edges of unevenly spaced frames by the row of their video."""
    file = Path(folder, TIMES_NAME.format(int(table["shard"].min())))
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as content:
            rows, firsts, edges = (content[name] for name in ("rows", "firsts", "edges"))
        return dict(zip(rows.tolist(), np.split(edges, firsts[1:]), strict=True))
    except Exception as error:  # anything can be wrong in an archive
        raise ValueError(f"{file}: damaged; {REMEDY}") from error


def _load_index(folder: Path) -> np.ndarray:
    file = Path(folder, INDEX_NAME)
    try:
        table = np.load(file, mmap_mode="r", allow_pickle=False)
        if table.ndim != 1 or not is_index_type(table.dtype):
            raise ValueError("not such a table")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file; give the folder that util_scripts.pack_frames wrote") from error
    except Exception as error:  # the header is a Python expression, in which anything can be wrong
        raise ValueError(f"{file}: damaged; {REMEDY}") from error  # numpy's own words advise to unpickle it
    return table


def is_index_type(dtype: np.dtype) -> bool:
    """Whether a table's columns are those of an index."""
    return dtype.names is not None and dtype == np.dtype([("place", dtype[0]), *FIELDS])


def packed_shards(folder: Path) -> set[int]:
    """The numbers of the shards that the index of a folder tells of; none where it has no index that can be read."""
    try:
        return set(np.unique(_load_index(folder)["shard"]).tolist())
    except (FileNotFoundError, ValueError):
        return set()


def packed_places(folder: Path) -> Iterator[str]:
    """The places of all videos of a packed folder.

    Raises:
        FileNotFoundError: not such a folder. ValueError: a damaged one.
    """
    return map(os.fsdecode, _load_index(folder)["place"].tolist())


class PackedFrames:
    """Reads the folder that pack_frames writes; the path of a video is the folder's and its place in it.

    What is open stays open; a reader that is sent to another process opens it there anew.
    """

    def __init__(self) -> None:
        self._tables: dict[Path, np.ndarray] = {}
        self._files: dict[Path, int] = {}
        self._times: dict[Path, dict[int, np.ndarray]] = {}  # by folder and row, of unevenly spaced frames

    def __getstate__(self) -> dict:
        return {}

    def __setstate__(self, state: dict) -> None:
        self.__init__()

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)

    def frames(self, path: Path, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Frames by their index from 0; see `Reader`."""
        folder, table, i = self._row(path)
        row = table[i]
        n, shard, start = int(row["n_frames"]), folder / SHARD_NAME.format(int(row["shard"])), int(row["offset"])
        bounds = np.frombuffer(self._bytes(shard, start, 4 * (n + 1)), dtype="<u4").tolist()
        wanted = range(n) if indices is None else integers(indices)
        if len(wanted) and not 0 <= min(wanted) <= max(wanted) < n:
            raise ValueError(f"{path}: frame {max(wanted)} is asked for and there are {n}; "
                             "write the annotation again from these files")

        def read(i: int, into: np.ndarray | None) -> np.ndarray:
            content = self._bytes(shard, start + bounds[i], bounds[i + 1] - bounds[i])
            return rgb_of(content, f"{path}: frame {i}", REMEDY, into)

        return stacked(read, wanted, path, REMEDY)

    def info(self, path: Path) -> VideoInfo:
        """Frames and size of the source video."""
        _, table, i = self._row(path)
        n_frames, height, width, fps = (table[i][name].item() for name in ("n_frames", "height", "width", "fps"))
        return VideoInfo(n_frames, height, width, fps if fps > 0 else None)

    def times(self, path: Path) -> FrameTimes | None:
        """When its frames are shown; None where nothing tells."""
        (folder, table, i), info = self._row(path), self.info(path)
        if folder not in self._times:
            self._times[folder] = _load_times(folder, table)
        try:
            return FrameTimes.of(info.n_frames, info.fps, self._times[folder].get(i))
        except ValueError as error:
            raise ValueError(f"{path}: its frames' times are damaged; {REMEDY}") from error

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the source video."""
        return self.info(path).size

    def _row(self, path: Path) -> tuple[Path, np.ndarray, int]:
        """The folder of a video, the folder's table and the video's row in it."""
        folder = next((parent for parent in path.parents if parent in self._tables), None)
        if folder is None:
            folder = next((parent for parent in path.parents if (parent / INDEX_NAME).is_file()), path.parent)
            try:
                self._tables[folder] = _load_index(folder)
            except FileNotFoundError as error:
                raise ValueError(str(error)) from error
        table, place = self._tables[folder], os.fsencode(path.relative_to(folder).as_posix())
        i = bisect.bisect_left(table["place"], place)
        if i == len(table) or table["place"][i] != place or not table["n_frames"][i]:
            raise ValueError(f"{path}: not among the packed videos; {REMEDY}")
        return folder, table, i

    def _bytes(self, shard: Path, offset: int, length: int) -> bytes:
        """By offset, which processes that share an open file can do at the same time."""
        try:
            if shard not in self._files:
                self._files[shard] = os.open(shard, os.O_RDONLY)
            file = self._files[shard]
            whole = length > 0 and offset + length <= os.fstat(file).st_size  # else index or offsets are damaged
            content = os.pread(file, length, offset) if whole else b""
        except (OSError, OverflowError) as error:
            raise ValueError(f"{shard}: cannot be read ({error}); {REMEDY}") from error
        if not whole or len(content) < length:
            raise ValueError(f"{shard}: damaged, or ends within a video; {REMEDY}")
        return content

