"""Write UCF-101's official lists as annotation files: OUT_DIR/ucf101_01.json and so on, one a split.

Entries are for the videos that are in JPG_DIR, as folders of frames, HDF5 files or video files; the others are counted.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets.on_disk import VideoFolder, of_class
from hierarchy.names import normalise
from hierarchy.texts import read_lines
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from util_scripts.annotating import count_frames, distinct_keys, place_of, spelling_of

MISSING, REMEDY = "no such file; give UCF-101's folder ucfTrainTestlist", "fetch UCF-101's lists again"


def read_classes(path: Path) -> list[str]:
    """Class names of classInd.txt (`1 ApplyEyeMakeup` a line), in the order of their numbers."""
    numbered: dict[int, str] = {}
    for line, text in read_lines(path, missing=MISSING, remedy=REMEDY):
        number, *name = text.split(maxsplit=1)
        if not number.isdecimal() or not name or int(number) in numbered:
            raise ValueError(f"{path}:{line}: expected a new number and a class name, got {text!r}")
        numbered[int(number)] = name[0]
    if not numbered:
        raise ValueError(f"{path}: no class in it; {REMEDY}")
    return [numbered[number] for number in sorted(numbered)]


def read_list(path: Path, classes: list[str]) -> list[tuple[str, str]]:
    """(class, video) of every line `Class/v_Class_g01_c01.avi 1` of a list; the class as classInd.txt spells it."""
    spelling = spelling_of(classes)
    entries = []
    for line, text in read_lines(path, missing=MISSING, remedy=REMEDY):
        # Only a number at the end is the label: names may hold spaces.
        place = re.sub(r"\s+\d+$", "", text)
        folder, _, file = (place if "/" in place else place.replace("\\", "/")).rpartition("/")  # written on Windows
        label = spelling.get(normalise(folder.rpartition("/")[2]))
        if label is None or not file:
            raise ValueError(f"{path}:{line}: expected Class/video.avi of a class in classInd.txt, got {text!r}")
        entries.append((label, os.path.splitext(file)[0]))
    return entries


def find_splits(folder: Path) -> list[int]:
    """Numbers of the splits whose two lists are there."""
    names = {path.name for path in folder.glob("*list*.txt")}
    numbers = sorted({match[1] for name in names if (match := re.fullmatch(r"(?:train|test)list(\d+)\.txt", name))})
    whole = [n for n in numbers if {f"trainlist{n}.txt", f"testlist{n}.txt"} <= names]
    for n in numbers:
        if n not in whole:
            print(f"split {n} is left out: only one of its two lists is in {folder}", file=sys.stderr)
    if not whole:
        raise FileNotFoundError(f"{folder}: no trainlist01.txt with a testlist01.txt; give UCF-101's ucfTrainTestlist")
    return whole


class Found(NamedTuple):
    """A listed video on disk: its path, its key in the annotation, and its place where the class folder is not it."""

    path: Path
    key: str
    place: str = ""


def find_videos(splits: Iterable[dict[str, list[tuple[str, str]]]], jpg_dir: Path) -> dict[tuple[str, str], Found]:
    """The listed videos that are on disk, by class and name.

    Args:
        splits: subset -> (class, video), of each split. Splits spell some videos in two ways.
        jpg_dir: where they lie, in class folders, in folders a subset or side by side.
    """
    folder, there = VideoFolder(jpg_dir), {}
    for lists in splits:
        subset_of = {video: subset for subset, entries in lists.items() for video in entries}
        paths = folder.find_all(of_class(name, label, subset) for (label, name), subset in subset_of.items())
        there |= {video: Path(path) for video, path in zip(subset_of, paths, strict=True) if path is not None}
    places = {video: place_of(path, jpg_dir) for video, path in there.items()}
    keys = distinct_keys((place.rpartition("/")[2], place) for place in places.values())  # as they are spelt on disk
    found = {}
    for video, path in there.items():
        of, _, name = places[video].rpartition("/")
        key = keys[name, places[video]]
        in_class = normalise(of) == normalise(video[0]) and key == name
        found[video] = Found(path, key, "" if in_class else places[video])
    return found


def annotate(lists: dict[str, list[tuple[str, str]]], found: dict[tuple[str, str], Found],
             n_frames: dict[Path, int]) -> dict[str, dict]:
    """The `database` of one split: an entry for each listed video that is on disk and can be read.

    Args:
        lists: subset -> (class, video) in the list's order.
        found: the videos on disk by class and name.
        n_frames: of every readable video.
    Raises:
        ValueError: a video that is listed under two subsets or two classes.
    """
    database: dict[str, dict] = {}
    for subset, entries in lists.items():
        for video in entries:
            if video not in found or found[video].path not in n_frames:
                continue
            path, key, place = found[video]
            entry = {"subset": subset, "annotations": {"label": video[0], "segment": [1, n_frames[path] + 1]},
                     "n_frames": n_frames[path]} | ({"video": place} if place else {})
            if database.setdefault(key, entry) != entry:
                raise ValueError(f"{key} is listed twice in one split, in other lists or classes; correct the lists")
    return database


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation_dir", type=Path, help="folder of classInd.txt, trainlist01.txt, ...")
    parser.add_argument("jpg_dir", type=Path, help="folder of class folders of frames, HDF5 or video files")
    parser.add_argument("out_dir", type=Path, help="folder to write ucf101_01.json, ... to")
    args = parser.parse_args(argv)
    with user_errors():
        classes = read_classes(args.annotation_dir / "classInd.txt")
        splits = {n: {subset: read_list(args.annotation_dir / f"{kind}list{n}.txt", classes)
                      for kind, subset in (("train", "training"), ("test", "validation"))}
                  for n in find_splits(args.annotation_dir)}
        found = find_videos(splits.values(), args.jpg_dir)
        if not found:
            listed = {(label, normalise(name)) for lists in splits.values() for entries in lists.values()
                      for label, name in entries}
            raise FileNotFoundError(f"{args.jpg_dir}: none of the {len(listed)} listed videos is here; prepare them "
                                    "with util_scripts.generate_video_jpgs, as Class/video")
        n_frames, broken = count_frames({video.path for video in found.values()})
        for sentence in broken:
            print(f"left out: {sentence}", file=sys.stderr)
        if not n_frames:
            raise ValueError(f"{args.jpg_dir}: none of the listed videos can be read; prepare them again with "
                             "util_scripts.generate_video_jpgs")
        databases = {n: annotate(lists, found, n_frames) for n, lists in splits.items()}
        for n, database in databases.items():
            file = args.out_dir / f"ucf101_{n}.json"
            write_text(file, json.dumps({"labels": classes, "database": database}, indent=1), durable=True)
            subsets = [entry["subset"] for entry in database.values()]
            print(f"{file}: {subsets.count('training')} training and {subsets.count('validation')} validation videos; "
                  f"{sum(map(len, splits[n].values())) - len(database)} that the lists name are not in {args.jpg_dir}")


if __name__ == "__main__":
    main()
