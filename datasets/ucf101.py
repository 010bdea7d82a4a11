"""UCF-101 and everything annotated like it: class folders of frame folders or of video files."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from datasets.reading import VIDEO_EXTENSIONS
from datasets.video import Video
from hierarchy.tree import Hierarchy

SUBSETS = {"train": "training", "training": "training", "val": "validation", "validation": "validation",
           "test": "testing", "testing": "testing"}


def videos_on_disk(video_path: Path, *, file_type: str | None = None) -> dict[tuple[str, str], Path]:
    """Find the videos in class folders.

    Args:
        video_path: holds `Class/video/` with frames ("jpg") or `Class/video.avi` ("video").
        file_type: "jpg", "video", or None for both, frame folders first.
    Returns:
        path of every video by its class folder and name, both casefolded: UCF-101 itself spells a class in two ways
        (HandstandPushups, v_HandStandPushups).
    Raises:
        FileNotFoundError: no such folder.
    """
    if not Path(video_path).is_dir():
        raise FileNotFoundError(f"{video_path}: no such folder of videos; give the folder that holds the class folders")
    found: dict[tuple[str, str], Path] = {}
    for folder in sorted(_visible(video_path), key=lambda entry: entry.name):
        if not folder.is_dir():
            continue
        for entry in sorted(_visible(folder.path), key=lambda entry: entry.name):
            stem, extension = os.path.splitext(entry.name)
            if file_type != "video" and entry.is_dir():
                found[folder.name.casefold(), entry.name.casefold()] = Path(entry.path)
            elif file_type != "jpg" and extension.lower() in VIDEO_EXTENSIONS and entry.is_file():
                found.setdefault((folder.name.casefold(), stem.casefold()), Path(entry.path))
    return found


def _visible(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


class Entry(NamedTuple):
    """What an annotation file says of a video; its frames from 0, half-open, (0, 0) where it does not tell."""

    subset: str
    label: str
    segment: tuple[int, int]


def read_annotation(path: Path) -> dict[str, Entry]:
    """Read an annotation file of the form that ucf101_json writes: what it says of each video, in its order.

    Raises:
        FileNotFoundError: no such file. ValueError: not such a file.
    """
    try:
        database = dict(json.loads(Path(path).read_text())["database"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such annotation file; write it with util_scripts.ucf101_json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an annotation file; write it with util_scripts.ucf101_json") from error
    entries = {}
    for name, entry in database.items():
        try:
            first, last = entry["annotations"].get("segment", (1, 1))  # frames from 1
            entries[name] = Entry(subset_of(entry["subset"]), entry["annotations"]["label"], (first - 1, last - 1))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: the entry of {name} is damaged ({error}); "
                             "write the file again with util_scripts.ucf101_json") from error
    return entries


def subset_of(name: str) -> str:
    """The subset by any of its usual names: train, training, val, validation, test, testing."""
    try:
        return SUBSETS[name.lower()]
    except KeyError:
        raise ValueError(f"no subset is called {name}; there are {', '.join(SUBSETS)}") from None


def read_ucf101(annotation_path: Path, video_path: Path, hierarchy: Hierarchy, *, file_type: str = "jpg",
                strict: bool = False) -> list[Video]:
    """Read the videos of an annotation file, all subsets, in the file's order.

    Args:
        annotation_path: JSON as ucf101_json writes it.
        video_path: the folder of class folders.
        hierarchy: gives the label ids, whatever order the file lists its labels in.
        file_type: "jpg" for frame folders, "video" for video files.
        strict: a video that is not on disk is an error; else all of them are counted in one line.
    Returns:
        list of `Video`.
    Raises:
        FileNotFoundError: no such file or folder, or none of the videos. ValueError: a damaged annotation file, or a
        class that the tree does not know.
    """
    entries = read_annotation(annotation_path)
    found = videos_on_disk(video_path, file_type=file_type)
    try:
        labels = {name: hierarchy.label(name) for name in dict.fromkeys(entry.label for entry in entries.values())}
    except ValueError as error:
        raise ValueError(f"{annotation_path}: {error}") from error
    videos, missing = [], []
    for name, entry in entries.items():
        path = found.get((entry.label.casefold(), name.casefold()))
        if path is None:
            missing.append(name)
        else:
            videos.append(Video(name, path, labels[entry.label], entry.subset, entry.segment[1], entry.segment))
    if not entries:
        raise ValueError(f"{annotation_path}: no video in it; write it again with util_scripts.ucf101_json")
    absent = f"{video_path}: {len(missing)} of the {len(entries)} videos of {annotation_path} are not here"
    if not videos or (strict and missing):
        raise FileNotFoundError(f"{absent}, {missing[0]} for one; check --video_path and --file_type, or prepare them "
                                "with util_scripts.generate_video_jpgs")
    if missing:
        print(f"warning: {absent} and left out", file=sys.stderr)
    return videos
