"""Read a data set once, as main.py would, and print what is wrong with it. All flags are main.py's, and --fix.

Nothing is changed; --fix writes an annotation file without the entries that are damaged, of an unknown class, not on
disk, unreadable, or annotated to last longer than the video does.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

import build
from datasets import DATASETS, READERS
from datasets.activitynet import find_keys, segments_of
from datasets.reading import Reader, VideoFile, VideoInfo
from datasets.ucf101 import entry_of, load_database
from datasets.video import Video
from hierarchy.tree import Hierarchy
from options import parse_main, resolve
from util_scripts.errors import user_errors
from util_scripts.processes import process_pool

CHUNK = 64  # frames decoded at a time
NAMED = 3  # of each kind of trouble


def classes_of(dataset: str, entry: object) -> set[str]:
    """The classes that an entry of an annotation file names; ValueError where it is damaged."""
    if dataset == "activitynet":
        _, fps, _, segments = segments_of(entry)
        if fps is None and segments:
            raise ValueError("it has no fps, which util_scripts.add_fps_into_activitynet_json adds")
        return {label for label, *_ in segments}
    return {label for label in [entry_of(entry).label] if label is not None}


def damaged_entries(dataset: str, database: dict, hierarchy: Hierarchy) -> dict[str, str]:
    """For each entry that main.py would not accept, what is wrong with it."""
    wrong = {}
    for key, entry in database.items():
        try:
            for label in classes_of(dataset, entry):
                hierarchy.label(label)
        except ValueError as error:
            wrong[key] = str(error)
    return wrong


def known_videos(args: argparse.Namespace, content: dict, hierarchy: Hierarchy) -> list[Video]:
    """The videos on disk that an annotation file of this content lists."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "annotation.json")
        file.write_text(json.dumps(content), encoding="utf-8")
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the table tells what the reader warns of
                return DATASETS[args.dataset](file, build.under_root(args, args.video_path), hierarchy,
                                              file_type=args.file_type)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(str(file), args.annotation_path)) from error


def look(path: Path, *, reader: Reader) -> tuple[VideoInfo | str, int, int]:
    """A video's info, or what is wrong with one of its frames; its bytes on disk, and decoded."""
    try:
        info = reader.info(path)
        sizes = {tuple(reader.frames(path, [0]).shape[1:])}
        if not isinstance(reader, VideoFile):  # whose info has decoded all there is
            for first in range(0, info.n_frames, CHUNK):
                sizes.add(tuple(reader.frames(path, range(first, min(first + CHUNK, info.n_frames))).shape[1:]))
        if len(sizes) > 1:
            raise ValueError(f"{path}: frames differ in size; prepare this video again")
        (height, width, colours), = sizes
        files = path.iterdir() if path.is_dir() else [path] if path.is_file() else []
        return info, sum(file.stat().st_size for file in files), info.n_frames * height * width * colours
    except (ValueError, OSError) as error:
        return str(error), 0, 0


def group_of(video: Video) -> str:
    """What videos that were cut from one recording share: UCF-101's class and group, Kinetics' id, else the file."""
    for pattern in (r"_c\d+$", r"_\d{6}_\d{6}$"):
        if re.search(pattern, video.name):
            return re.sub(pattern, "", video.name)
    return str(video.path)


def shared_groups(videos: Iterable[Video]) -> list[str]:
    """Groups that are in more than one subset."""
    subsets: dict[str, set[str]] = {}
    for video in videos:
        subsets.setdefault(group_of(video), set()).add(video.subset)
    return [group for group, of in subsets.items() if len(of) > 1]


def report(rows: Sequence[tuple[str, object, Sequence[str]]]) -> str:
    """A table of a line a count, with a few of the names it counts."""
    width = max(len(what) for what, *_ in rows)
    lines = []
    for what, value, names in rows:
        shown = value if isinstance(value, str) else f"{value:d}"
        more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"{what:{width}}  {shown:>10}" + (f"  {'; '.join(names[:NAMED])}{more}" if names else ""))
    return "\n".join(line.encode(errors="backslashreplace").decode() for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--fix", type=Path, metavar="JSON", help="annotation file to write without the bad entries")
    own, rest = parser.parse_known_args(argv)
    args, given = parse_main(rest)
    with user_errors():
        for flag in ("video_path", "annotation_path"):
            if not getattr(args, flag):
                raise ValueError(f"--{flag} is missing; give the {flag.replace('_', ' ')} under --root_path")
        args.annotation_path = str(build.under_root(args, args.annotation_path))
        if own.fix is not None and own.fix.resolve() == Path(args.annotation_path):
            raise ValueError(f"--fix {own.fix} is the annotation file itself; give another one to write")
        if own.fix is not None and (own.fix.is_dir() or not own.fix.parent.is_dir()):
            raise ValueError(f"--fix {own.fix}: give a file, in a folder that is there")
        hierarchy = build.check_tree(args, given, None, None)
        resolve(args)
        content = load_database(args.annotation_path)
        database = content["database"]
        damaged = damaged_entries(args.dataset, database, hierarchy)
        sound = {key: entry for key, entry in database.items() if key not in damaged}
        if damaged and not sound:
            key, why = next(iter(damaged.items()))
            raise ValueError(f"{args.annotation_path}: none of its {len(damaged)} entries can be used, {key} for one "
                             f"({why}); check --dataset and --tree_file, or write the file again")
        videos = known_videos(args, content | {"database": sound}, hierarchy)
        keys = [video.part_of or video.name for video in videos]
        known = set(keys)
        missing = [key for key in sound if key not in known]
        if args.dataset == "activitynet":
            there = find_keys(missing, build.under_root(args, args.video_path), file_type=args.file_type)
            bare = {key: "no segment holds a frame of it" for key, path in there.items() if path is not None}
            damaged |= bare
            sound = {key: entry for key, entry in sound.items() if key not in bare}
            missing = [key for key in missing if key not in bare]
        paths = list(dict.fromkeys(video.path for video in videos))
        with process_pool(args.n_threads or 1) as pool:
            found = list(tqdm(pool.map(partial(look, reader=READERS[args.file_type]()), paths, chunksize=4),
                              total=len(paths), unit="video", desc="reading"))
        infos = {path: info for path, (info, *_) in zip(paths, found, strict=True)}
        span = (args.sample_duration - 1) * args.sample_t_stride + 1
        unreadable, short, differ, bad = {}, [], {}, set(damaged) | set(missing)
        for key, video in zip(keys, videos, strict=True):
            info, (first, last) = infos[video.path], video.segment
            if isinstance(info, str):
                unreadable[key] = info
                continue
            if last > info.n_frames or (video.part_of and video.n_frames not in (0, info.n_frames)):
                differ[key] = f"{key}: {video.n_frames or last} annotated, {info.n_frames} there"
            if (last - first or info.n_frames) < span:
                short.append(video.name)
        bad |= unreadable.keys() | differ.keys()
        trained = {video.label for key, video in zip(keys, videos, strict=True)
                   if video.subset == "training" and key not in bad}
        empty = [hierarchy.names[leaf] for leaf in hierarchy.levels[0] if leaf not in trained]
        disk, decoded = (sum(row[i] for row in found) / 1e9 for i in (1, 2))
        print(report([
            ("entries listed", len(database), ()),
            ("damaged, or of an unknown class", len(damaged), [f"{key}: {why}" for key, why in damaged.items()]),
            ("not on disk", len(missing), missing),
            ("on disk", len(sound) - len(missing), ()),
            ("unreadable", len(unreadable), list(unreadable.values())),
            ("annotated to other frames than there are", len(differ), list(differ.values())),
            ("shorter than a clip, and looped", len(short), short),
            ("classes without a training clip", len(empty), empty),
            ("recordings in more than one subset", len(shared := shared_groups(videos)), shared),
            (f"GB as {args.file_type}", f"{disk:.3g}" if args.file_type != "packed" else
             f"{_packed_bytes(build.under_root(args, args.video_path)) / 1e9:.3g}", ()),
            ("GB decoded (--memory_gb)", f"{decoded:.3g}", ()),
        ]))
        if own.fix is not None:
            content["database"] = {key: entry for key, entry in database.items() if key not in bad}
            if not content["database"]:
                raise ValueError(f"{args.annotation_path}: not one entry is without fault; nothing was written")
            own.fix.write_text(json.dumps(content, indent=1), encoding="utf-8")
            print(f"{own.fix}: {len(content['database'])} entries, {len(bad)} left out")
        elif bad:
            print(f"{len(bad)} entries are bad; --fix FILE writes an annotation without them", file=sys.stderr)


def _packed_bytes(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())


if __name__ == "__main__":
    main()
