"""The general annotation: its JSON file, and the videos that it lists, in class folders or at the places that it names.
"""

import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from datasets.on_disk import VideoFolder, at_place, of_class
from datasets.video import VideoTable
from hierarchy.texts import read_json
from hierarchy.tree import Hierarchy

SUBSETS = {"train": "training", "training": "training", "val": "validation", "validation": "validation",
           "test": "testing", "testing": "testing"}
WRITERS = "util_scripts.ucf101_json (or its data set's own *_json)"
MOST_FRAMES = 2**31  # of a video


@contextmanager
def undisturbed() -> Iterator[None]:
    """Switch garbage collection off meanwhile: it would search all that is being read, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Entry(NamedTuple):
    """One video of an annotation file.

    subset: training, validation or testing. label: class, None where it is not known. segment: half-open range of
    frames from 0, (0, 0) where the file does not state it. place: under the folder of videos, "" for the class folder.
    n_frames: of the whole video, 0 where the file does not state it.
    """

    subset: str
    label: str | None
    segment: tuple[int, int] = (0, 0)
    place: str = ""
    n_frames: int = 0


def load_database(path: Path, remedy: str = f"write it with {WRITERS}") -> dict:
    """The whole content of an annotation file, in which `database` is a dict.

    Args:
        remedy: what to do where the file is missing or damaged.
    Raises:
        FileNotFoundError: no such file. ValueError: not such a file.
    """
    content = read_json(path, missing=f"no such annotation file; {remedy}", remedy=remedy,
                        expected="an annotation file in JSON")
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise ValueError(f"{path}: not an annotation file, which is an object with the videos as its \"database\"; "
                         f"{remedy}")
    return content


def entry_of(content: object) -> Entry:
    """One entry of an annotation file; of ActivityNet's lists of segments, the class of most seconds.

    Raises:
        ValueError: with the reason, where the entry is damaged.
    """
    try:
        subset = subset_of(content["subset"])
        annotation = content["annotations"] if subset != "testing" else content.get("annotations") or {}
        if isinstance(annotation, list):
            seconds: dict[str, float] = {}
            for one in annotation:
                first, last = one["segment"]
                seconds[one["label"]] = seconds.get(one["label"], 0) + last - first
            if not all(isinstance(one, str) for one in seconds):
                raise ValueError("labels are names")
            return Entry(subset, max(seconds, key=seconds.get) if seconds else None)
        label, (first, last) = annotation.get("label"), annotation.get("segment", (1, 1))  # frames from 1
        place, n_frames = content.get("video", ""), content.get("n_frames", 0)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if not (isinstance(label, str) or (label is None and subset == "testing")) or not isinstance(place, str):
        raise ValueError(f"label {label!r}, video {place!r}: both are names")
    if not (type(first) is type(last) is int and 1 <= first <= last < MOST_FRAMES):
        raise ValueError(f"segment {[first, last]}: not the first frame and the one after the last, counted from 1")
    if type(n_frames) is not int or not 0 <= n_frames < MOST_FRAMES:
        raise ValueError(f"n_frames {n_frames!r}: not a number of frames")
    return Entry(subset, label, (first - 1, last - 1), place, n_frames)


def scan_annotation(database: dict) -> tuple[dict[str, Entry], dict[str, str]]:
    """The sound entries of a database, and what is wrong with each of the others."""
    entries, damaged = {}, {}
    for name, content in database.items():
        try:
            entries[name] = entry_of(content)
        except ValueError as error:
            damaged[name] = str(error)
    return entries, damaged


def complain(path: Path, damaged: dict[str, str], remedy: str = f"write the file again with {WRITERS}") -> None:
    """Raise a ValueError that names the first damaged entry of an annotation file and counts the others, if any."""
    if damaged:
        name, reason = next(iter(damaged.items()))
        others = f", as are {len(damaged) - 1} others" if len(damaged) > 1 else ""
        raise ValueError(f"{path}: the entry of {name} is damaged ({reason}){others}; {remedy}, or "
                         "leave them out with util_scripts.check_dataset --fix")


def read_annotation(path: Path) -> dict[str, Entry]:
    """Read the entries of an annotation file, in its order.

    Raises:
        FileNotFoundError: no such file. ValueError: not such a file, or an entry is damaged.
    """
    entries, damaged = scan_annotation(load_database(path)["database"])
    complain(path, damaged)
    return entries


def labels_of(names: Iterable[str], hierarchy: Hierarchy, annotation_path: Path) -> dict[str, int]:
    """Leaf ids of class names.

    Raises:
        ValueError: naming the annotation file, for classes that the tree does not know.
    """
    labels, unknown = {}, []
    for name in dict.fromkeys(names):
        try:
            labels[name] = hierarchy.label(name)
        except ValueError as error:
            unknown.append(str(error))
    if unknown:
        others = f" (and {len(unknown) - 1} other classes are not)" if len(unknown) > 1 else ""
        raise ValueError(f"{annotation_path}: {unknown[0]}{others}")
    return labels


def subset_of(name: str) -> str:
    """The subset by any of its usual names: train, training, val, validation, test, testing."""
    try:
        return SUBSETS[name.strip().lower()]
    except KeyError:
        raise ValueError(f"no subset is called {name}; there are {', '.join(SUBSETS)}") from None


@undisturbed()
def read_annotated_videos(annotation_path: Path, video_path: Path, hierarchy: Hierarchy, *, file_type: str = "jpg",
                          strict: bool = False) -> VideoTable:
    """Read the videos of an annotation file, all subsets, in the file's order.

    Args:
        annotation_path: JSON as the *_json scripts write it.
        video_path: the folder of class folders, or of the places that the file names; see `VideoFolder`.
        hierarchy: states the label ids; the order of the file's labels does not matter.
        file_type: as in `VideoFolder`, but not None.
        strict: a video that is not on disk is an error; else these are counted in one warning.
    Raises:
        FileNotFoundError: no such file or folder, or none of the videos. ValueError: a damaged annotation file, or a
        class that the tree does not know.
    """
    entries = read_annotation(annotation_path)
    if not entries:
        raise ValueError(f"{annotation_path}: no video in it; write it again with {WRITERS}")
    names = (entry.label for entry in entries.values() if entry.label is not None)
    labels = labels_of(names, hierarchy, annotation_path) | {None: -1}
    wanted = (at_place(entry.place, elsewhere=False) if entry.place else
              of_class(name, entry.label, entry.subset, anywhere=entry.label is None)
              for name, entry in entries.items())
    paths = VideoFolder(video_path, file_type=file_type, classes=hierarchy.names[:hierarchy.n_leaves]).find_all(wanted)
    videos, missing = [], []
    for (name, (subset, label, segment, _, n_frames)), path in zip(entries.items(), paths, strict=True):
        if path is None:
            missing.append(name)
        else:
            videos.append((name, path, labels[label], subset, n_frames or segment[1], segment, ""))
    tell_missing(annotation_path, video_path, missing, len(entries), strict=strict)
    return VideoTable.from_rows(videos)


def tell_missing(annotation_path: Path, video_path: Path, missing: Sequence[str], n_listed: int, *,
                 strict: bool) -> None:
    """Warn of the videos that are not on disk, in one line.

    Raises:
        FileNotFoundError: where all of them are missing, or with `strict` any.
    """
    if missing:
        absent = f"{video_path}: {len(missing)} of the {n_listed} videos of {annotation_path} are not here"
        if strict or len(missing) == n_listed:
            raise FileNotFoundError(f"{absent}, {missing[0]} for one; check --video_path and --file_type, or prepare "
                                    "them with util_scripts.generate_video_jpgs")
        print(f"warning: {absent} and left out", file=sys.stderr)
