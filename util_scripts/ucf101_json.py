"""Write UCF-101's official lists as annotation files: OUT_DIR/ucf101_01.json and so on, one a split.

Entries are for the videos that are in JPG_DIR, as folders of frames, HDF5 files or video files; the others are counted.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from datasets.on_disk import videos_on_disk
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from util_scripts.annotating import count_frames


def read_classes(path: Path) -> list[str]:
    """Class names of classInd.txt (`1 ApplyEyeMakeup` a line), in the order of their numbers."""
    numbered: dict[int, str] = {}
    for line, text in _lines(path):
        number, _, name = text.partition(" ")
        if not number.isdigit() or not name.strip() or int(number) in numbered:
            raise ValueError(f"{path}:{line}: expected a new number and a class name, got {text!r}")
        numbered[int(number)] = name.strip()
    if not numbered:
        raise ValueError(f"{path}: no class in it; fetch UCF-101's lists again")
    return [numbered[number] for number in sorted(numbered)]


def read_list(path: Path, classes: list[str]) -> list[tuple[str, str]]:
    """(class, video) of every line `Class/v_Class_g01_c01.avi 1` of a list; the class as classInd.txt spells it."""
    spelling = {name.casefold(): name for name in classes}
    entries = []
    for line, text in _lines(path):
        # Only a number at the end is the label: names may hold spaces.
        folder, _, file = re.sub(r"\s+\d+$", "", text).rpartition("/")
        label = spelling.get(folder.rpartition("/")[2].casefold())
        if label is None or not file:
            raise ValueError(f"{path}:{line}: expected Class/video.avi of a class in classInd.txt, got {text!r}")
        entries.append((label, os.path.splitext(file)[0]))
    return entries


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not blank; CRLF as in the official lists, or not."""
    try:
        return [(i, line.strip()) for i, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; give UCF-101's folder ucfTrainTestlist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason}); save it in that encoding") from error


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


def annotate(lists: dict[str, list[tuple[str, str]]], paths: dict[tuple[str, str], Path],
             n_frames: dict[Path, int]) -> dict[str, dict]:
    """The `database` of one split: an entry for each listed video that is on disk and can be read.

    Args:
        lists: subset -> (class, video) in the list's order.
        paths: path of every video by its class and name, both casefolded.
        n_frames: of every readable video.
    Raises:
        ValueError: a video that is listed under two subsets or two classes.
    """
    database: dict[str, dict] = {}
    for subset, entries in lists.items():
        for label, name in entries:
            path = paths.get((label.casefold(), name.casefold()))
            if path not in n_frames:
                continue
            key = path.name if path.is_dir() else path.stem  # as it is spelt on disk
            entry = {"subset": subset, "annotations": {"label": label, "segment": [1, n_frames[path] + 1]},
                     "n_frames": n_frames[path]}
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
        paths = {video: Path(path) for video, path in videos_on_disk(args.jpg_dir).items()}
        listed = {(label.casefold(), name.casefold())
                  for lists in splits.values() for entries in lists.values() for label, name in entries}
        if not listed & paths.keys():
            raise FileNotFoundError(f"{args.jpg_dir}: none of the {len(listed)} listed videos is here; prepare them "
                                    "with util_scripts.generate_video_jpgs, as Class/video")
        n_frames, broken = count_frames({paths[video] for video in listed & paths.keys()})
        for sentence in broken:
            print(f"left out: {sentence}", file=sys.stderr)
        if not n_frames:
            raise ValueError(f"{args.jpg_dir}: none of the listed videos can be read; prepare them again with "
                             "util_scripts.generate_video_jpgs")
        databases = {n: annotate(lists, paths, n_frames) for n, lists in splits.items()}
        for n, database in databases.items():
            file = args.out_dir / f"ucf101_{n}.json"
            write_text(file, json.dumps({"labels": classes, "database": database}, indent=1), durable=True)
            subsets = [entry["subset"] for entry in database.values()]
            print(f"{file}: {subsets.count('training')} training and {subsets.count('validation')} validation videos; "
                  f"{sum(map(len, splits[n].values())) - len(database)} that the lists name are not in {args.jpg_dir}")


if __name__ == "__main__":
    main()
