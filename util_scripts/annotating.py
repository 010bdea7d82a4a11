"""Writes annotation files from official lists and the videos on disk, for all *_json scripts; itself no script."""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets import READERS
from datasets.on_disk import videos_at
from datasets.reading import VideoInfo, file_type_of
from machine.cores import cores
from machine.writing import write_text
from options.errors import CommandLine


class Listed(NamedTuple):
    """One line of an official list.

    key: of its entry. subset: training, validation or testing. label: class, None where the list has none. place: under
    the folder of videos. segment: half-open range of frames from 1, None for the whole video.
    """

    key: str
    subset: str
    label: str | None
    place: str
    segment: tuple[int, int] | None = None


def parser_of(description: str, lists: str, videos: str) -> CommandLine:
    """A command line with the official lists, the folder of videos and the file to write."""
    parser = CommandLine(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation_dir", type=Path, help=lists)
    parser.add_argument("video_dir", type=Path, help=videos)
    parser.add_argument("out", type=Path, help="JSON to write")
    return parser


def read_text(path: Path) -> str:
    """The content of an official list; raises FileNotFoundError, or ValueError where it is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; fetch the official lists") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason}); fetch it again") from error


def read_csv(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """The lines of a CSV by its header, or by the names of its columns where it has none.

    Raises:
        FileNotFoundError: no such file. ValueError: naming the file and the line, for columns that are missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, fieldnames=columns)
            rows = []
            for row in reader:
                if None in row.values():
                    raise ValueError(f"{path}:{reader.line_num}: {sum(value is None for value in row.values())} cells "
                                     "are missing; fetch the file again")
                rows.append(row)
            return rows
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; fetch the official lists") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 CSV file ({error}); fetch it again") from error


def column(row: dict[str, str], name: str, path: Path) -> str:
    """A cell by its column's name; ValueError where the file has no such column."""
    if name not in row:
        raise ValueError(f"{path}: has no column {name}; fetch the official list again")
    return row[name].strip()


def number(row: dict[str, str], name: str, path: Path) -> int:
    """A cell that is a number, whole or followed by .0."""
    try:
        return int(float(column(row, name, path)))
    except (ValueError, OverflowError):
        raise ValueError(f"{path}: {column(row, name, path)!r} in column {name} is no number; fetch it again") from None


def read_json(path: Path) -> object:
    """The content of an official JSON file; raises as `read_csv`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; fetch the official lists") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); fetch it again") from error


def write_annotation(out: Path, labels: Iterable[str], listed: Sequence[Listed], video_dir: Path) -> None:
    """Write an annotation file of the listed videos that are on disk and can be read; print how many are not.

    Args:
        out: the JSON. labels: all classes. listed: in the lists' order. video_dir: frame folders or video files.
    Raises:
        FileNotFoundError: no video is there. ValueError: none can be read, or one is listed in two ways.
    """
    paths = videos_at(video_dir, dict.fromkeys(video.place for video in listed))
    paths = {place: Path(path) for place, path in paths.items()}
    if not paths:
        raise FileNotFoundError(f"{video_dir}: none of the {len(listed)} listed videos is here; they are expected like "
                                f"{listed[0].place if listed else 'folder/video'}")
    n_frames, broken = count_frames(set(paths.values()))
    for sentence in broken:
        print(f"left out: {sentence}", file=sys.stderr)
    database: dict[str, dict] = {}
    beyond = 0
    for key, subset, label, place, segment in listed:
        n = n_frames.get(paths.get(place), 0)
        first, last = segment or (1, n + 1)
        if n and not 1 <= first < min(last, n + 1):
            beyond += 1
        elif n:
            annotation = {"segment": [first, min(last, n + 1)]} | ({} if label is None else {"label": label})
            entry = {"subset": subset, "annotations": annotation, "video": place, "n_frames": n}
            if database.setdefault(key, entry) != entry:
                raise ValueError(f"{key} is listed twice, in other lists or classes; correct the lists")
    if not database:
        raise ValueError(f"{video_dir}: none of the listed videos can be read; prepare them again with "
                         "util_scripts.generate_video_jpgs")
    write_text(out, json.dumps({"labels": list(labels), "database": database}, indent=1), durable=True)
    subsets = [entry["subset"] for entry in database.values()]
    counts = ", ".join(f"{subsets.count(name)} {name}" for name in ("training", "validation", "testing"))
    print(f"{out}: {counts}; {len(listed) - len(database) - beyond} that the lists name are not in {video_dir} or "
          f"cannot be read, {beyond} lie behind the end of their video")


def count_frames(paths: set[Path]) -> tuple[dict[Path, int], list[str]]:
    """Number of frames of every readable video, and a sentence for each of the others."""
    infos, broken = read_infos(paths)
    return {path: info.n_frames for path, info in infos.items()}, broken


def read_infos(paths: set[Path]) -> tuple[dict[Path, VideoInfo], list[str]]:
    """Frames and size of every readable video, and a sentence for each of the others."""
    def read(path: Path) -> VideoInfo | str:
        try:
            return READERS[file_type_of(path)]().info(path)
        except ValueError as error:
            return str(error)

    # Threads: decoding and waiting for the disk both leave the interpreter free.
    with ThreadPoolExecutor(cores()) as pool:
        ordered = sorted(paths)
        infos = list(tqdm(pool.map(read, ordered), total=len(ordered), unit="video", desc="counting frames"))
    return ({path: info for path, info in zip(ordered, infos, strict=True) if isinstance(info, VideoInfo)},
            [info for info in infos if isinstance(info, str)])
