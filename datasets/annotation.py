"""UCF-101 and everything annotated like it: videos in class folders, or wherever the annotation file says."""

import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from datasets.packed import packed_places
from datasets.reading import EXTENSIONS
from datasets.video import VideoTable
from hierarchy.tree import Hierarchy

SUBSETS = {"train": "training", "training": "training", "val": "validation", "validation": "validation",
           "test": "testing", "testing": "testing"}
WRITERS = "util_scripts.ucf101_json (or its data set's own *_json)"
MOST_FRAMES = 2**31  # of a video


@contextmanager
def undisturbed() -> Iterator[None]:
    """No search for garbage meanwhile: it would go through all that is being read, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def videos_on_disk(video_path: Path, *, file_type: str | None = None) -> dict[tuple[str, str], str]:
    """Find the videos in class folders.

    Args:
        video_path: holds `Class/video/` with frames ("jpg"), `Class/video.hdf5` ("hdf5") or `Class/video.avi`
            ("video"), or is what pack_frames wrote ("packed").
        file_type: one of these, or None for all but "packed", frame folders first.
    Returns:
        path of every video by its class folder and name, both casefolded: UCF-101 itself spells a class in two ways
        (HandstandPushups, v_HandStandPushups).
    Raises:
        FileNotFoundError: no such folder.
    """
    if file_type == "packed":
        places = ((place.casefold().rpartition("/"), place) for place in packed_places(video_path))
        return {(folder, name): f"{video_path}/{place}" for (folder, _, name), place in places}
    _check_folder(video_path)
    found: dict[tuple[str, str], str] = {}
    for folder in sorted(_visible(video_path), key=lambda entry: entry.name):
        if folder.is_dir():
            of = folder.name.casefold()
            for name, path in _videos_in(folder.path, file_type).items():
                found.setdefault((of, name), path)
    return found


def videos_at(video_path: Path, places: Iterable[str], *, file_type: str | None = None) -> dict[str, str]:
    """Find videos by their places, `folder/video` without an ending, however many folders deep.

    Only what lies in the folders is found, so that no place leads out of `video_path`. Folders are spelt exactly, for
    videos case does not matter.

    Args:
        video_path, file_type: as in `videos_on_disk`.
    Returns:
        path of every place where there is a video.
    Raises:
        FileNotFoundError: no such folder.
    """
    if file_type == "packed":
        packed = {place.casefold(): place for place in packed_places(video_path)}
        return {place: f"{video_path}/{packed[place.casefold()]}" for place in places if place.casefold() in packed}
    _check_folder(video_path)
    listings: dict[str, dict[str, str]] = {}
    found = {}
    for place in places:
        folder, _, name = place.rpartition("/")
        if folder not in listings:
            inside = not folder or not {"", ".", ".."} & set(folder.split("/"))
            listings[folder] = _videos_in(Path(video_path, folder), file_type) if inside else {}
        if name.casefold() in listings[folder]:
            found[place] = listings[folder][name.casefold()]
    return found


def _check_folder(video_path: Path) -> None:
    if not Path(video_path).is_dir():
        raise FileNotFoundError(f"{video_path}: no such folder of videos; give the folder that holds the class folders")


def _videos_in(folder: str | Path, file_type: str | None) -> dict[str, str]:
    """Path of every video of a folder by its casefolded name; none of a folder that is not there."""
    found: dict[str, str] = {}
    extensions = tuple(one for kind in ([file_type] if file_type else EXTENSIONS) for one in EXTENSIONS[kind])
    try:
        entries = sorted(_visible(folder), key=lambda entry: entry.name)
    except (OSError, ValueError):  # a name that cannot be one
        return found
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if file_type in ("jpg", None) and entry.is_dir():
            found[entry.name.casefold()] = entry.path
        elif extension.lower() in extensions and entry.is_file():
            found.setdefault(stem.casefold(), entry.path)
    return found


def _visible(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


class Entry(NamedTuple):
    """What an annotation file says of a video: its class, or None; its frames from 0, half-open, (0, 0) where it does
    not tell; its place under the folder of videos, "" for the class folder; frames of the whole video, 0 where it does
    not tell."""

    subset: str
    label: str | None
    segment: tuple[int, int] = (0, 0)
    place: str = ""
    n_frames: int = 0


def load_database(path: Path, remedy: str = f"write it with {WRITERS}") -> dict:
    """The whole content of an annotation file, in which `database` is a dict.

    Args:
        remedy: what to do where it is none.
    Raises:
        FileNotFoundError: no such file. ValueError: not such a file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content["database"], dict):
            raise ValueError("its database is no object")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such annotation file; {remedy}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not an annotation file; {remedy}") from error
    return content


def entry_of(content: object) -> Entry:
    """What one entry of an annotation file says; of ActivityNet's lists of segments, the class of most seconds.

    Raises:
        ValueError: with the reason, where the entry is damaged.
    """
    try:
        subset, noted = subset_of(content["subset"]), content["annotations"]
        if isinstance(noted, list):
            seconds: dict[str, float] = {}
            for one in noted:
                first, last = one["segment"]
                seconds[one["label"]] = seconds.get(one["label"], 0) + last - first
            if not all(isinstance(one, str) for one in seconds):
                raise ValueError("labels are names")
            return Entry(subset, max(seconds, key=seconds.get) if seconds else None)
        label, (first, last) = noted.get("label"), noted.get("segment", (1, 1))  # frames from 1
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
    """The entries of a database that can be read, and for each of the others what is wrong with it."""
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
    """Read an annotation file of the form that ucf101_json writes: what it says of each video, in its order.

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
        return SUBSETS[name.lower()]
    except KeyError:
        raise ValueError(f"no subset is called {name}; there are {', '.join(SUBSETS)}") from None


@undisturbed()
def read_ucf101(annotation_path: Path, video_path: Path, hierarchy: Hierarchy, *, file_type: str = "jpg",
                strict: bool = False) -> VideoTable:
    """Read the videos of an annotation file, all subsets, in the file's order.

    Args:
        annotation_path: JSON as ucf101_json writes it.
        video_path: the folder of class folders.
        hierarchy: gives the label ids, whatever order the file lists its labels in.
        file_type: as in `videos_on_disk`, but not None.
        strict: a video that is not on disk is an error; else all of them are counted in one line.
    Raises:
        FileNotFoundError: no such file or folder, or none of the videos. ValueError: a damaged annotation file, or a
        class that the tree does not know.
    """
    entries = read_annotation(annotation_path)
    if not entries:
        raise ValueError(f"{annotation_path}: no video in it; write it again with {WRITERS}")
    placed = [entry.place for entry in entries.values() if entry.place]
    found = videos_on_disk(video_path, file_type=file_type) if len(placed) < len(entries) else {}
    at = videos_at(video_path, placed, file_type=file_type) if placed else {}
    names = (entry.label for entry in entries.values() if entry.label is not None)
    labels = labels_of(names, hierarchy, annotation_path) | {None: -1}
    videos, missing = [], []
    for name, (subset, label, segment, place, n_frames) in entries.items():
        path = at.get(place) if place else found.get(((label or "").casefold(), name.casefold()))
        if path is None:
            missing.append(name)
        else:
            videos.append((name, path, labels[label], subset, n_frames or segment[1], segment, ""))
    tell_missing(annotation_path, video_path, missing, len(entries), strict=strict)
    return VideoTable.from_rows(videos)


def tell_missing(annotation_path: Path, video_path: Path, missing: Sequence[str], n_listed: int, *,
                 strict: bool) -> None:
    """Count the videos that are not on disk in one line.

    Raises:
        FileNotFoundError: where it is all of them, or with `strict` any.
    """
    if missing:
        absent = f"{video_path}: {len(missing)} of the {n_listed} videos of {annotation_path} are not here"
        if strict or len(missing) == n_listed:
            raise FileNotFoundError(f"{absent}, {missing[0]} for one; check --video_path and --file_type, or prepare "
                                    "them with util_scripts.generate_video_jpgs")
        print(f"warning: {absent} and left out", file=sys.stderr)
