"""Features of clips by a trunk that never moves, computed once and stored in files that a killed pass goes on with."""

import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from machine.writing import check_writable, naming, sweep, write_fully, write_whole
from models.state_files import read_state
from training.distributed import World
from training.features import valid_clips
from training.starts import HALF

# To be raised with every change of these files, and of what a clip is decoded or transformed to, which no fingerprint
# tells: decoders, resizing, cropping, jitter, normalisation, the sampling of frames.
FORMAT = "hipe-features-2"
ALIGNED = 8  # bytes of which a row is a multiple, so that it can be read as numbers of any type
FLUSH_SECONDS = 20.0  # at most so much of a pass is lost when it is killed
FEATURES = "features"  # the first column
REMEDY = "free some space and go on with --resume_path auto, or run the trunk in every epoch by --cache_features 0"
ROWS = ("label", "video", "item", "frames", "crop")  # what is stored of a clip beside its features

# From a batch of `valid_clips` to the features (B, C, t, h, w), and further rows (B, ...) by name.
Part = Callable[[dict], tuple[Tensor, dict[str, Tensor]]]


class Paused(Exception):
    """A pass ended because it was asked to; the next one goes on where it stands."""


class StoredBatches:
    """Batches of stored features in a fixed order, in place of a loader of clips."""

    def __init__(self, stored: "StoredFeatures", which: Tensor, batch_size: int) -> None:
        self.stored, self.which, self.batch_size = stored, which, batch_size

    def __len__(self) -> int:
        return -(-len(self.which) // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        for some in self.which.split(self.batch_size) if len(self.which) else ():
            rows = {name: values[some] for name, values in self.stored.rows.items()}
            looks = [rows.pop(name) for name in sorted(rows) if name.startswith("looks.")]
            yield {"trunk": self.stored.take(some), "clip_size": self.stored.clip_size, **rows,
                   **({"looks": looks} if looks else {})}


class StoredFeatures:
    """Features of clips in the order of their keys, in memory or mapped from files.

    Args:
        parts: tensors (n, C, t, h, w), one of each process. rows: (N, ...) by name, in the order of `parts`.
        keys: (N,) int64, all different: places in the order of all clips, of which unreadable ones are missing.
        clip_size: (T, H, W) of the clips.
        mapped: whether the features stay in the files.
    Attributes:
        nbytes: of the features.
    """

    def __init__(self, parts: Sequence[Tensor], rows: dict[str, Tensor], keys: Tensor,
                 clip_size: tuple[int, int, int], *, mapped: bool) -> None:
        order = keys.argsort(stable=True)
        self.rows, self.keys = {name: values[order] for name, values in rows.items()}, keys[order]
        self.clip_size = clip_size
        self.parts = [part for part in parts if len(part)]
        sizes = torch.tensor([len(part) for part in self.parts], dtype=torch.int64)
        self._part = torch.arange(len(sizes)).repeat_interleave(sizes)[order]  # (N,)
        self._row = torch.cat([torch.arange(n) for n in sizes.tolist()] or [sizes])[order]  # (N,)
        self.nbytes = sum(part.nbytes for part in self.parts)
        self.mapped = mapped
        if self.parts and not mapped:
            self.parts = [self.take(torch.arange(len(order)))]
            self._part, self._row = torch.zeros_like(order), torch.arange(len(order))

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: Tensor) -> Tensor:
        """Features of some clips, by their numbers (n,) among these: (n, C, t, h, w)."""
        part, row = self._part[which], self._row[which]
        if len(self.parts) == 1:
            return self.parts[0][row]
        taken = torch.empty(len(which), *self.parts[0].shape[1:], dtype=self.parts[0].dtype)
        for i, features in enumerate(self.parts):
            taken[part == i] = features[row[part == i]]
        return taken

    def batches(self, order: Iterable[list[int]], device: torch.device) -> Iterator[dict]:
        """Batches of given clips for `Trainer.step`."""
        for items in order:
            which = torch.tensor(items)
            yield {"trunk": self.take(which).to(device, non_blocking=True).float(),
                   "label": self.rows["label"][which].to(device, non_blocking=True),
                   "video": self.rows["video"][which]}

    def loader(self, batch_size: int, rank: int = 0, size: int = 1) -> StoredBatches:
        """Batches of the clips of which every size-th is this process's, in place of a loader of clips."""
        return StoredBatches(self, (self.keys % size == rank).nonzero()[:, 0], batch_size)


class _Counted:
    """A loader that counts the batches that were taken from it."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.dataset, self.n = loader, loader.dataset, 0

    def __iter__(self) -> Iterator[dict]:
        for batch in self.loader:
            self.n += 1
            yield batch


@dataclass(frozen=True)
class Pass:
    """What goes through the trunk to fill a file.

    Args:
        batches: the indices of a dataset, batch by batch. loader: of these batches, or of the last ones of them.
        part: of the network. dtype: of the stored features, float16 or float32. description: of the progress bar.
    """

    batches: Sequence[list]
    loader: Callable[[Sequence[list]], DataLoader]
    part: Part
    dtype: torch.dtype
    description: str


class FeatureFile:
    """The features of a pass in two files: PATH.rows, one row a clip, and PATH.pth, what the rows are and how many.

    A row has the features first, and then what else is known of the clip. PATH.pth is small; it is written after the
    rows that it counts are on the disk, every FLUSH_SECONDS and at the end, and the rows' checksum is compared before
    they are believed.

    Args:
        path: without suffix. fingerprint: of all that the features depend on; files with another are replaced.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.rows_path, self.index_path = path.with_name(f"{path.name}.rows"), path.with_name(f"{path.name}.pth")
        empty = {"format": FORMAT, "fingerprint": fingerprint, "batches": 0, "n": 0, "columns": [], "sum": 0}
        self.index = self._read(fingerprint) or empty

    def _read(self, fingerprint: str) -> dict | None:
        try:
            index = read_state(self.index_path)
            believed = (index["format"] == FORMAT and index["fingerprint"] == fingerprint
                        and self._checksum(index["n"] * _row_bytes(index["columns"])) == index["sum"])
        except (ValueError, OSError, KeyError, TypeError, AttributeError):
            return None
        return index if believed else None

    def _checksum(self, nbytes: int) -> int | None:
        """The checksum of the first bytes of the rows; None where there are fewer."""
        total = 0
        with open(self.rows_path, "rb") as file:
            while nbytes:
                piece = file.read(min(nbytes, 1 << 24))
                if not piece:
                    return None
                total, nbytes = zlib.crc32(piece, total), nbytes - len(piece)
        return total

    def __len__(self) -> int:
        return self.index["n"]

    def columns(self) -> dict[str, Tensor]:
        """All columns by name, each (n, ...): `features` mapped, and the others in memory."""
        if not len(self):
            return {}
        width = _row_bytes(self.index["columns"])
        rows = torch.from_file(str(self.rows_path), shared=False, size=len(self) * width, dtype=torch.uint8)
        rows, columns, first = rows.view(len(self), width), {}, 0
        for name, shape, dtype in self.index["columns"]:
            last = first + _nbytes(shape, dtype)
            column = rows[:, first:last] if name == FEATURES else rows[:, first:last].clone(
                memory_format=torch.contiguous_format)
            columns[name] = column.view(getattr(torch, dtype)).unflatten(1, shape or (1,))
            columns[name] = columns[name] if shape else columns[name][:, 0]
            first = last
        return columns

    @torch.no_grad()
    def fill(self, todo: Pass, *, device: torch.device, world: World, stop: Callable[[], bool] = lambda: False) -> None:
        """Compute what is missing; all processes call this together, each for a file of its own.

        Args:
            stop: whether the pass is to end early, in any of the processes.
        Raises:
            Paused: where it did.
            OSError: naming the file, where the disk is full.
        """
        left = todo.batches[self.index["batches"]:]
        if not world.any(bool(left)):
            return
        if not self.index["batches"]:
            check_writable(self.rows_path.parent)
            sweep(self.rows_path.parent)
            self.index_path.unlink(missing_ok=True)  # before the rows that it counts
        flushed, before = time.monotonic(), self.index["batches"]
        bar = tqdm(total=sum(map(len, todo.batches)), initial=sum(map(len, todo.batches[:before])), unit=" clips",
                   desc=todo.description, leave=False)
        with bar, open(self.rows_path, "r+b" if before else "wb", buffering=0) as file:
            file.truncate(len(self) * _row_bytes(self.index["columns"]))
            file.seek(0, os.SEEK_END)
            counted = _Counted(todo.loader(left)) if left else None
            batches = valid_clips(counted, device) if left else iter(())
            while world.any((batch := next(batches, None)) is not None):
                if batch is not None:
                    features, more = todo.part(batch)
                    self._append(file, features, {name: batch[name] for name in ROWS} | more, todo.dtype)
                    done, self.index["batches"] = self.index["batches"], before + counted.n
                    bar.update(sum(map(len, todo.batches[done:self.index["batches"]])))
                asked = world.any(stop())
                if asked or time.monotonic() - flushed > FLUSH_SECONDS:
                    self._flush(file)
                    flushed = time.monotonic()
                if asked:
                    raise Paused
            self.index["batches"] = len(todo.batches)
            self._flush(file)

    def _append(self, file, features: Tensor, rows: dict[str, Tensor], dtype: torch.dtype) -> None:
        if dtype == torch.float16:
            features = features.clamp(-HALF, HALF)
        columns = {FEATURES: features.to(dtype), **rows}
        self.index["columns"] = [(name, tuple(values.shape[1:]), str(values.dtype).removeprefix("torch."))
                                 for name, values in columns.items()]
        width = _row_bytes(self.index["columns"])
        parts = [values.to("cpu").contiguous().view(len(features), -1).view(torch.uint8) for values in columns.values()]
        content = F.pad(torch.cat(parts, 1), (0, width - sum(part.shape[1] for part in parts))).numpy().data
        with naming(self.rows_path, remedy=REMEDY):
            write_fully(file, content)
        self.index["sum"] = zlib.crc32(content, self.index["sum"])
        self.index["n"] += len(features)

    def _flush(self, file) -> None:
        """Put the rows on the disk, and then the index that counts them."""
        with naming(self.rows_path, remedy=REMEDY):
            os.fsync(file.fileno())
        write_whole(self.index_path, lambda out: torch.save(self.index, out))


def _nbytes(shape: Sequence[int], dtype: str) -> int:
    return torch.Size(shape).numel() * getattr(torch, dtype).itemsize


def _row_bytes(columns: Sequence[tuple[str, Sequence[int], str]]) -> int:
    """The bytes of a row of columns (name, shape, type), with what makes it a multiple of ALIGNED."""
    return -(-sum(_nbytes(shape, dtype) for _, shape, dtype in columns) // ALIGNED) * ALIGNED
