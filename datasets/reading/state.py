"""`states_of`: sizes and times of the files that frames are read from, by which a change of them is noticed."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets.reading.jpg import INFO_NAME
from datasets.reading.naming import FRAME_NAME, frame_names
from datasets.reading.packed import INDEX_NAME, SHARD_NAME, packed_shards


def states_of(videos: Iterable[tuple[Path, int, int]]) -> Iterator[str]:
    """Sizes and times of the files of videos, a string for each, in which those of missing files are left out.

    A folder's own time tells of pictures that come or go, and not of those that are written over.

    Args:
        videos: path (a video file, a folder of pictures, or a video's place in a packed folder), and the half-open
            range of its frames that are read, from 0; of a folder the first and the last count.
    """
    packed: dict[Path, str] = {}
    for path, first, last in videos:
        if path.is_dir():
            yield _states(path, ("", INFO_NAME, *_ends(path, first, last)))
        elif path.is_file():
            yield _states(path.parent, (path.name,))
        else:
            folder = next((parent for parent in path.parents if (parent / INDEX_NAME).is_file()), None)
            if folder is not None and folder not in packed:
                shards = map(SHARD_NAME.format, sorted(packed_shards(folder)))
                packed[folder] = _states(folder, (INDEX_NAME, *shards))
            yield packed.get(folder, "")


def _ends(folder: Path, first: int, last: int) -> list[str]:
    """The names of the first and the last of a folder's frames that are read."""
    usual = [FRAME_NAME.format(first + 1), FRAME_NAME.format(last)]
    if (folder / usual[0]).exists():
        return usual
    try:
        return frame_names(folder)[first:last][::max(last - first - 1, 1)]
    except ValueError:
        return usual


def _states(folder: Path, names: Iterable[str]) -> str:
    """Of the files of these names, "" for the folder itself."""
    lines = []
    for name in names:
        try:
            state = os.stat(folder / name)
        except OSError:
            continue
        lines.append(f"{name} {0 if stat.S_ISDIR(state.st_mode) else state.st_size} {state.st_mtime_ns}\n")
    return "".join(lines)
