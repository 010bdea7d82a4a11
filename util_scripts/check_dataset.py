"""Read a data set once, as main.py would, and print what is wrong with it. All flags are main.py's, and --fix.

Nothing is changed; --fix writes an annotation file without the entries that are damaged, of an unknown class, not on
disk, unreadable, or annotated to last longer than the video does.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from simplejpeg import encode_jpeg
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets import DATASETS, READERS, Dataset
from datasets.activitynet import REMEDY, find_keys, segments_of
from datasets.annotation import WRITERS, entry_of, load_database
from datasets.groups import recording_of, ungrouped
from datasets.on_disk import videos_at
from datasets.reading import Reader, VideoFile, VideoInfo
from datasets.reading.packed import INDEX_NAME
from datasets.reading.resizing import resized, stored_size
from datasets.video import Video
from hierarchy.tree import Hierarchy
from machine.processes import process_pool
from machine.writing import write_text
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from run.paths import under_root
from run.resume import fresh
from util_scripts.storing import QUALITY, SIZE

CHUNK = 64  # frames decoded at a time
NAMED = 3  # of each kind of trouble
HDF5_FRAME = 100  # bytes that a frame takes in HDF5 beside its JPEG file
PACKED_FRAME = 4
VIDEO_SHARE = 0.14  # of a video file in the size of its JPEG files, measured on UCF-101


def classes_of(dataset: str, entry: object) -> set[str]:
    """The classes that an entry of an annotation file names; ValueError where it is damaged."""
    if dataset == "activitynet":
        _, times, _, segments = segments_of(entry)
        if times is None and segments:
            raise ValueError("it has no fps, which util_scripts.add_fps_into_activitynet_json adds")
        return {label for label, *_ in segments}
    return {label for label in [entry_of(entry).label] if label is not None}


def damaged_entries(dataset: str, database: dict, hierarchy: Hierarchy) -> dict[str, str]:
    """What is wrong with each entry that main.py does not accept."""
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
            with contextlib.redirect_stderr(io.StringIO()):  # the reader's warnings are rows of the table
                return DATASETS[args.dataset].read(file, under_root(args, args.video_path), hierarchy,
                                                   file_type=args.file_type)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(str(file), args.annotation_path)) from error


class Seen(NamedTuple):
    """A video as read: its info, or what is wrong with a frame; its bytes on disk, decoded, and as JPEG files."""

    info: VideoInfo | str
    on_disk: int = 0
    decoded: int = 0
    as_jpeg: int = 0


def look(path: Path, *, reader: Reader) -> Seen:
    """Read a video once."""
    try:
        info = reader.info(path)
        first_frame = reader.frames(path, [0])[0].numpy()  # (H, W, 3)
        sizes = {first_frame.shape}
        if not isinstance(reader, VideoFile):  # its info has decoded all frames already
            for first in range(0, info.n_frames, CHUNK):
                sizes.add(tuple(reader.frames(path, range(first, min(first + CHUNK, info.n_frames))).shape[1:]))
        if len(sizes) > 1:
            raise ValueError(f"{path}: frames differ in size; prepare this video again")
        on_disk = bytes_of(path)
        as_jpeg = info.n_frames * jpeg_bytes(first_frame) if isinstance(reader, VideoFile) else on_disk
        return Seen(info, on_disk, info.n_frames * first_frame.size, as_jpeg)
    except (ValueError, OSError) as error:
        return Seen(str(error))


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder; 0 for a place in packed files."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def jpeg_bytes(picture: np.ndarray) -> int:
    """Bytes of a frame (H, W, 3) as generate_video_jpgs stores it by default."""
    shown = stored_size(*picture.shape[:2], SIZE)
    if shown != picture.shape[:2]:
        picture = resized(picture, shown)
    return len(encode_jpeg(np.ascontiguousarray(picture), quality=QUALITY, colorsubsampling="420"))


def disk_rows(root: Path, file_type: str, seen_at: Mapping[Path, Seen]) -> list[tuple[str, str, tuple]]:
    """GB of each kind of storage: measured where its files are there, else estimated, with "about".

    Args:
        root: the folder of the videos; packed files in it count as a whole. seen_at: by path.
    """
    readable = {path: seen for path, seen in seen_at.items() if not isinstance(seen.info, str)}
    places = [path.relative_to(root).as_posix() for path in readable]
    if file_type in ("hdf5", "video"):
        places = [os.path.splitext(place)[0] for place in places]
    measured = {file_type: sum(seen.on_disk for seen in readable.values())}
    for form in READERS:
        if form == "packed" and (root / INDEX_NAME).is_file():
            measured[form] = sum(bytes_of(file) for file in (root / INDEX_NAME, *root.glob("shard_*.bin")))
        elif form not in ("packed", file_type) and places:
            at = videos_at(root, places, file_type=form)
            if len(at) == len(places):
                measured[form] = sum(bytes_of(Path(path)) for path in at.values())
    n_frames = sum(seen.info.n_frames for seen in readable.values())
    jpeg = measured.get("jpg", measured["packed"] if file_type == "packed" else
                        sum(seen.as_jpeg for seen in readable.values()))
    about = {"jpg": jpeg, "hdf5": jpeg + HDF5_FRAME * n_frames, "packed": jpeg + PACKED_FRAME * n_frames,
             "video": VIDEO_SHARE * jpeg}
    return [(f"GB as {form}", f"{measured[form] / 1e9:.3g}" if form in measured else f"about {n_bytes / 1e9:.2g}", ())
            for form, n_bytes in about.items()]


def shared_recordings(videos: Iterable[Video], dataset: Dataset) -> list[str] | None:
    """Recordings, or else files, that are in more than one subset; None where names do not tell recordings."""
    subsets: dict[str, set[str]] = {}
    known = False
    for video in videos:
        recording = recording_of(video, dataset)
        known |= recording is not None
        subsets.setdefault(recording or str(video.path), set()).add(video.subset)
    shared = [recording for recording, of in subsets.items() if len(of) > 1]
    return shared if shared or known else None


def report(rows: Sequence[tuple[str, object, Sequence[str]]]) -> str:
    """A table with a line for each count, and a few of the names that it counts."""
    width = max(len(what) for what, *_ in rows)
    lines = []
    for what, value, names in rows:
        shown = value if isinstance(value, str) else f"{value:d}"
        more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"{what:{width}}  {shown:>10}" + (f"  {'; '.join(names[:NAMED])}{more}" if names else ""))
    return "\n".join(line.encode(errors="backslashreplace").decode() for line in lines)


class Faults(NamedTuple):
    """What is wrong with the videos on disk: by key, a sentence about an unreadable one, and one about a video that is
    annotated to other frames than there are; the names of videos that are shorter than a clip."""

    unreadable: dict[str, str]
    differ: dict[str, str]
    short: list[str]


def faults_of(videos: Sequence[Video], entries: Mapping[str, dict], seen: Mapping[Path, Seen], span: int) -> Faults:
    """Compare the annotation with the files.

    Args:
        entries: of the annotation file by key. seen: by path. span: frames from the first of a clip to its last.
    """
    unreadable, differ, short = {}, {}, []
    for video in videos:
        key = key_of(video)
        info, (first, last) = seen[video.path].info, video.segment
        n_annotated = entries[key].get("n_frames", 0)
        if isinstance(info, str):
            unreadable[key] = info
            continue
        if last > info.n_frames or n_annotated not in (0, info.n_frames):
            differ[key] = f"{key}: {n_annotated or last} annotated, {info.n_frames} there"
        if (last - first or info.n_frames) < span:
            short.append(video.name)
    return Faults(unreadable, differ, short)


def key_of(video: Video) -> str:
    """The key of a video, or of a segment's whole video, in the annotation file."""
    return video.part_of or video.name


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Path | None]:
    """The flags of main.py, and --fix.

    Raises:
        ValueError: a path is missing, or --fix would replace the annotation file or cannot be written.
    """
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False)
    parser.add_argument("--fix", type=Path, metavar="JSON", help="annotation file to write without the bad entries")
    own, rest = parser.parse_known_args(argv)
    args, _ = parse_main(rest)
    for flag in ("video_path", "annotation_path"):
        if not getattr(args, flag):
            raise ValueError(f"--{flag} is missing; give the {flag.replace('_', ' ')} under --root_path")
    args.annotation_path = str(under_root(args, args.annotation_path))
    if own.fix is not None and own.fix.resolve() == Path(args.annotation_path):
        raise ValueError(f"--fix {own.fix} is the annotation file itself; give another one to write")
    if own.fix is not None and (own.fix.is_dir() or not own.fix.parent.is_dir()):
        raise ValueError(f"--fix {own.fix}: give a file, in a folder that is there")
    return args, own.fix


def main(argv: list[str] | None = None) -> None:
    with user_errors():
        args, fixed = parse(argv)
        args, hierarchy = fresh(args)
        dataset, video_path = DATASETS[args.dataset], under_root(args, args.video_path)
        content = load_database(args.annotation_path, REMEDY if args.dataset == "activitynet" else
                                f"write it with {WRITERS}")
        database = content["database"]
        damaged = damaged_entries(args.dataset, database, hierarchy)
        sound = {key: entry for key, entry in database.items() if key not in damaged}
        if damaged and not sound:
            key, why = next(iter(damaged.items()))
            raise ValueError(f"{args.annotation_path}: none of its {len(damaged)} entries can be used, {key} for one "
                             f"({why}); check --dataset and --tree_file, or write the file again")
        videos = known_videos(args, content | {"database": sound}, hierarchy)
        known = set(map(key_of, videos))
        missing = [key for key in sound if key not in known]
        if args.dataset == "activitynet":
            there = find_keys(missing, video_path, file_type=args.file_type)
            bare = {key: "no segment holds a frame of it" for key, path in there.items() if path is not None}
            damaged |= bare
            sound = {key: entry for key, entry in sound.items() if key not in bare}
            missing = [key for key in missing if key not in bare]
        paths = list(dict.fromkeys(video.path for video in videos))
        with process_pool(args.n_threads or 1) as pool:
            looks = list(tqdm(pool.map(partial(look, reader=READERS[args.file_type]()), paths, chunksize=4),
                              total=len(paths), unit="video", desc="reading"))
        seen = dict(zip(paths, looks, strict=True))
        faults = faults_of(videos, sound, seen, (args.sample_duration - 1) * args.sample_t_stride + 1)
        bad = {*damaged, *missing, *faults.unreadable, *faults.differ}
        trained = {video.label for video in videos if video.subset == "training" and key_of(video) not in bad}
        empty = [hierarchy.names[leaf] for leaf in hierarchy.levels[0] if leaf not in trained]
        shared = shared_recordings(videos, dataset)
        print(report([
            ("entries listed", len(database), ()),
            ("damaged, or of an unknown class", len(damaged), [f"{key}: {why}" for key, why in damaged.items()]),
            ("not on disk", len(missing), missing),
            ("on disk", len(sound) - len(missing), ()),
            ("unreadable", len(faults.unreadable), list(faults.unreadable.values())),
            ("annotated to other frames than there are", len(faults.differ), list(faults.differ.values())),
            ("shorter than a clip, and looped", len(faults.short), faults.short),
            ("classes without a training clip", len(empty), empty),
            ("recordings in more than one subset", "not known for this set" if shared is None else len(shared),
             shared or ()),
            *disk_rows(video_path, args.file_type, seen),
            ("GB decoded (--memory_gb)", f"{sum(video.decoded for video in looks) / 1e9:.3g}", ()),
        ]))
        if sentence := ungrouped(args.dataset, dataset, videos):
            print(sentence, file=sys.stderr)
        if fixed is not None:
            content["database"] = {key: entry for key, entry in database.items() if key not in bad}
            if not content["database"]:
                raise ValueError(f"{args.annotation_path}: not one entry is without fault; nothing was written")
            write_text(fixed, json.dumps(content, indent=1), durable=True)
            print(f"{fixed}: {len(content['database'])} entries, {len(bad)} left out")
        elif bad:
            print(f"{len(bad)} entries are bad; --fix FILE writes an annotation without them", file=sys.stderr)


if __name__ == "__main__":
    main()
