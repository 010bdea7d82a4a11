"""Writes annotation files from official lists and the videos on disk, for all *_json scripts; itself no script."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets import READERS
from datasets.on_disk import VideoFolder, at_place
from datasets.reading import FrameTimes, VideoInfo, file_type_of
from hierarchy import texts
from hierarchy.names import normalise
from machine.cores import cores
from machine.writing import write_text
from options.errors import CommandLine

MISSING, REMEDY = "no such file; fetch the official lists", "fetch it again"
SAME_RATE = 5e-4  # by which the rates of two videos of the same frames may differ


class Listed(NamedTuple):
    """One line of an official list.

    key: of its entry. subset: training, validation or testing. label: class, None where the list has none. place: under
    the folder of videos. segment: half-open range of frames from 1, None for the whole video. seconds: the same in
    seconds, where the list tells. fps: of the frames that `segment` counts, None for the video's own.
    """

    key: str
    subset: str
    label: str | None
    place: str
    segment: tuple[int, int] | None = None
    seconds: tuple[float, float] | None = None
    fps: float | None = None


def parser_of(description: str, lists: str, videos: str) -> CommandLine:
    """A command line with the official lists, the folder of videos and the file to write."""
    parser = CommandLine(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation_dir", type=Path, help=lists)
    parser.add_argument("video_dir", type=Path, help=videos)
    parser.add_argument("out", type=Path, help="JSON to write")
    return parser


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of an official list that are not blank, with their numbers; raises as `texts.read_text`."""
    return texts.read_lines(path, missing=MISSING, remedy=REMEDY)


def read_csv(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """The rows of an official CSV file by its columns; see `texts.read_table`."""
    return [row for _, row in texts.read_table(path, columns, missing=MISSING, remedy=REMEDY)]


def column(row: dict[str, str], name: str, path: Path) -> str:
    """A cell by its column's name; ValueError where the file has no such column."""
    if name not in row:
        raise ValueError(f"{path}: has no column {name}; fetch the official list again")
    return row[name]


def number(row: dict[str, str], name: str, path: Path) -> int:
    """A cell that is a number, whole or followed by .0."""
    try:
        return int(float(column(row, name, path)))
    except (ValueError, OverflowError):
        raise ValueError(f"{path}: {column(row, name, path)!r} in column {name} is no number; fetch it again") from None


def read_json(path: Path) -> object:
    """The content of an official JSON file; raises as `texts.read_json`."""
    return texts.read_json(path, missing=MISSING, remedy=REMEDY)


def spelling_of(names: Iterable[str]) -> dict[str, str]:
    """Class names by what `normalise` makes of them.

    Raises:
        ValueError: for two that differ in nothing that is compared.
    """
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(normalise(name), name)
        if other != name:
            raise ValueError(f"the classes {other!r} and {name!r} differ only in case, blanks or punctuation, which do "
                             "not count; rename one of them")
    return spellings


def find_listed(listed: Sequence[Listed], video_dir: Path) -> dict[Listed, tuple[Path, str]]:
    """The path of every listed video that is on disk, and its place below `video_dir` as it is spelt there.

    Videos lie where the lists say, also in a folder of their subset, or side by side in that or in `video_dir`.
    """
    folder, listed = VideoFolder(video_dir), list(dict.fromkeys(listed))
    paths = folder.find_all(at_place(video.place, video.subset) for video in listed)
    return {video: (Path(path), place_of(Path(path), video_dir))
            for video, path in zip(listed, paths, strict=True) if path is not None}


def place_of(path: Path, video_dir: Path) -> str:
    """The place of a video below the folder of the videos: its path there without an ending."""
    place = path.relative_to(video_dir)
    return (place if path.is_dir() else place.with_name(path.stem)).as_posix()


def distinct_keys(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A key for every key and place: the key itself, or the place where videos of several places have that key."""
    pairs = list(dict.fromkeys(keys))
    places: dict[str, set[str]] = {}
    for key, place in pairs:
        places.setdefault(key, set()).add(place)
    return {(key, place): key if len(places[key]) == 1 else place for key, place in pairs}


def write_annotation(out: Path, labels: Iterable[str], listed: Sequence[Listed], video_dir: Path) -> None:
    """Write an annotation file of the listed videos that are on disk and can be read; print how many are not.

    Args:
        out: the JSON. labels: all classes. listed: in the lists' order. video_dir: frame folders or video files.
    Raises:
        FileNotFoundError: no video is there. ValueError: none can be read, or one is listed in two ways.
    """
    there = find_listed(listed, video_dir)
    if not there:
        raise FileNotFoundError(f"{video_dir}: none of the {len(listed)} listed videos is here; they are expected like "
                                f"{listed[0].place if listed else 'folder/video'}")
    infos, times, broken = read_times({path for path, _ in there.values()})
    for sentence in broken:
        print(f"left out: {sentence}", file=sys.stderr)
    keys = distinct_keys((video.key, place) for video, (_, place) in there.items())
    database: dict[str, dict] = {}
    beyond = 0
    for video in listed:
        path, place = there.get(video, (None, ""))
        n = infos[path].n_frames if path in infos else 0
        first, last = frames_of(video, n, times.get(path))
        if n and not 1 <= first < min(last, n + 1):
            beyond += 1
        elif n:
            annotation = {"segment": [first, min(last, n + 1)]}
            if video.label is not None:
                annotation["label"] = video.label
            entry = {"subset": video.subset, "annotations": annotation, "video": place, "n_frames": n}
            key = keys[video.key, place]
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


def frames_of(listed: Listed, n_frames: int, times: FrameTimes | None) -> tuple[int, int]:
    """The frames of a listed segment in the video on disk, half-open, from 1.

    Frame numbers that count the frames of another rate than the video's own are taken for seconds where the list
    tells no seconds itself.

    Args:
        n_frames, times: of the video; times are None where nothing tells, as of frames that others extracted.
    """
    if listed.segment is None:
        return 1, n_frames + 1
    if listed.fps is None or times is None or (times.edges is None and abs(times.fps / listed.fps - 1) < SAME_RATE):
        return listed.segment
    first, last = times.frames_in(*(listed.seconds or ((frame - 1) / listed.fps for frame in listed.segment)))
    return first + 1, last + 1


def count_frames(paths: set[Path]) -> tuple[dict[Path, int], list[str]]:
    """Number of frames of every readable video, and a sentence for each of the others."""
    infos, broken = read_infos(paths)
    return {path: info.n_frames for path, info in infos.items()}, broken


def read_infos(paths: set[Path]) -> tuple[dict[Path, VideoInfo], list[str]]:
    """Frames and size of every readable video, and a sentence for each of the others."""
    infos, _, broken = read_times(paths)
    return infos, broken


def read_times(paths: set[Path]) -> tuple[dict[Path, VideoInfo], dict[Path, FrameTimes | None], list[str]]:
    """Frames and size, and when frames are shown, of every readable video, and a sentence for each of the others."""
    def read(path: Path) -> tuple[VideoInfo, FrameTimes | None] | str:
        try:
            reader = READERS[file_type_of(path)]()
            return reader.info(path), reader.times(path)
        except ValueError as error:
            return str(error)

    # Threads: decoding and waiting for the disk both leave the interpreter free.
    with ThreadPoolExecutor(cores()) as pool:
        ordered = sorted(paths)
        seen = list(tqdm(pool.map(read, ordered), total=len(ordered), unit="video", desc="counting frames"))
    known = {path: one for path, one in zip(ordered, seen, strict=True) if isinstance(one, tuple)}
    return ({path: info for path, (info, _) in known.items()}, {path: times for path, (_, times) in known.items()},
            [one for one in seen if isinstance(one, str)])
