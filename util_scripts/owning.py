"""What lies where this program is to write, and whether the program made it: names alone never tell."""

import os
import re
from pathlib import Path

import h5py
import numpy as np

from datasets.folders import is_litter
from datasets.reading import FRAME_NAME, INFO_NAME
from datasets.reading.hdf5 import FRAMES
from datasets.reading.naming import OWN_NAME
from datasets.reading.packed import INDEX_NAME, is_index_type, packed_shards
from hierarchy.texts import read_json

# How a file begins that generate_video_jpgs wrote: one that a power cut has torn tells no more.
TORN_INFO = re.compile(r'\{"n_frames": ([0-9]+)[,}]')
INFO_KEYS = ("n_frames", "width", "height", "fps")  # which every version has written
SHARD = re.compile(r"shard_([0-9]{4,})\.bin")
TIMES = re.compile(r"times_([0-9]{4,})\.npz")
PART = re.compile(r"(?:shard_[0-9]{4,}\.bin|times_[0-9]{4,}\.npz)\.[0-9]+\.part")  # which a killed run leaves
HDF5 = b"\x89HDF\r\n\x1a\n"  # what such a file begins with
JPEG = b"\xff\xd8"


def check_own_frames(folder: Path) -> None:
    """See that a folder may be replaced by new frames: that it is not there, empty, or was made by generate_video_jpgs.

    Such a folder has an info.json from its first moment on, and no other frames than this counts.

    Raises:
        ValueError: naming what is in the way.
    """
    if not os.path.lexists(folder):
        return
    remedy = "move it, or choose another JPG_DIR"
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"{folder}: is in the way of a folder of frames; {remedy}")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_litter(entry.name))
    if not names:
        return
    n_frames = _own_frames(folder / INFO_NAME)
    if n_frames is None:
        raise ValueError(f"{folder}: holds files that generate_video_jpgs has not made, such as {names[0]}; {remedy}")
    for name in names:
        own = name == INFO_NAME or (OWN_NAME.fullmatch(name) and name == FRAME_NAME.format(int(name[6:-4]))
                                    and 0 < int(name[6:-4]) <= n_frames)
        if not own:
            raise ValueError(f"{folder / name}: is in the way of frames; {remedy}")


def check_own_part(folder: Path) -> None:
    """The same of the hidden folder that frames are written to before they are complete, which has no info.json yet."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (entry.name == INFO_NAME or OWN_NAME.fullmatch(entry.name) or is_litter(entry.name)):
                    raise ValueError(f"{entry.path}: is in the way of frames; move it, or choose another JPG_DIR")


def _own_frames(file: Path) -> int | None:
    """How many frames an info.json of generate_video_jpgs counts, also a torn one; None where it is none of these."""
    try:
        info = read_json(file)
    except OSError:
        return None
    except ValueError:
        torn = TORN_INFO.match(file.read_bytes()[:80].decode("ascii", "replace"))
        return int(torn[1]) if torn else None
    whole = isinstance(info, dict) and all(key in info for key in INFO_KEYS)
    return info["n_frames"] if whole and type(info["n_frames"]) is int else None


def check_own_hdf5(file: Path) -> None:
    """See that an HDF5 file may be replaced: that it is not there, of generate_video_hdf5, or one that nobody can read.

    Raises:
        ValueError: where it is in the way.
    """
    if not os.path.lexists(file):
        return
    sentence = f"{file}: is in the way, not being of generate_video_hdf5; move it, or choose another HDF5_DIR"
    if not file.is_file():
        raise ValueError(sentence)
    with file.open("rb") as opened:
        begins = opened.read(len(HDF5))
    if not HDF5.startswith(begins):  # of an empty file, too, nothing is lost
        raise ValueError(sentence)
    try:
        with h5py.File(file, "r", locking=False) as content:
            own = FRAMES in content and {"width", "height"} <= set(content[FRAMES].attrs)
    except Exception:  # of damaged files the library raises whatever it stumbles over
        return
    if not own:
        raise ValueError(sentence)


def check_own_index(folder: Path) -> None:
    """See that the index.npy of a folder may be replaced: that it is not there, of pack_frames, or one that nobody can
    read.

    Raises:
        ValueError: where it is in the way.
    """
    file = folder / INDEX_NAME
    if not os.path.lexists(file):
        return
    sentence = f"{file}: is in the way, not being of pack_frames; move it, or choose another OUT_DIR"
    if not file.is_file():
        raise ValueError(sentence)
    magic = np.lib.format.MAGIC_PREFIX
    with file.open("rb") as opened:
        begins = opened.read(len(magic))
        if not magic.startswith(begins):
            raise ValueError(sentence)
        try:
            opened.seek(0)
            version = np.lib.format.read_magic(opened)
            header = np.lib.format.read_array_header_1_0 if version < (2, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(opened)
        except Exception:  # the header is a Python expression, in which anything can be wrong
            return
    if len(shape) != 1 or not is_index_type(dtype):
        raise ValueError(sentence)


def taken_numbers(folder: Path) -> set[int]:
    """The numbers that shards or times in a folder have, whoever made them."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {int(match[1]) for name in names for match in (SHARD.fullmatch(name) or TIMES.fullmatch(name),) if match}


def own_pack(folder: Path) -> set[Path]:
    """The shards and times of pack_frames in a folder, of its set and of runs that were killed."""
    told = packed_shards(folder)
    found = set()
    for path in map(folder.joinpath, os.listdir(folder)):
        shard, times = SHARD.fullmatch(path.name), TIMES.fullmatch(path.name)
        own = (PART.fullmatch(path.name) or (shard and (int(shard[1]) in told or _is_shard(path)))
               or (times and _is_times(path)))
        if own and path.is_file():
            found.add(path)
    return found


def _is_shard(path: Path) -> bool:
    """Whether a file begins as a shard does: with the boundaries of a video's JPEG files, then the first of these."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = int.from_bytes(file.read(4), "little")
            if first < 8 or first % 4 or first + len(JPEG) > size:
                return False
            bounds = np.frombuffer(file.read(first - 4), dtype="<u4")
            return bool((np.diff(bounds.astype(np.int64), prepend=first) > 0).all()) and file.read(2) == JPEG
    except OSError:
        return False


def _is_times(path: Path) -> bool:
    """Whether an archive of arrays holds what times do."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return set(content.files) == {"rows", "firsts", "edges"}
    except Exception:  # anything can be wrong in an archive
        return False
