"""The videos that an analysis script explains, chosen by name, by subset or by the mistakes of an inference."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from datasets.annotation import subset_of
from datasets.reading import VIDEO_EXTENSIONS
from datasets.video import Video
from hierarchy.names import Names, normalise
from hierarchy.texts import read_json
from options.resolve import Flags
from run.paths import DATA_PATHS, moved, under_root
from run.resume import stored_args

MEMORY_GB = 1.0  # of decoded frames: windows overlap


def moves_of(args: argparse.Namespace, given: set[str]) -> dict[str, str | int | None]:
    """The arguments of `moved_flags` that the flags of a call are."""
    paths = {name: getattr(args, name) if name in given else None for name in ("root_path", *DATA_PATHS)}
    return paths | {"file_type": args.file_type, "inference_stride": args.inference_stride}


def moved_flags(checkpoint: dict, *, root_path: str | None = None, video_path: str | None = None,
                annotation_path: str | None = None, file_type: str | None = None,
                inference_stride: int | None = None) -> Flags:
    """The flags that the checkpoint carries, with other paths where the data has moved; None for its own."""
    stored, given = stored_args(checkpoint), {"video_path": video_path, "annotation_path": annotation_path}
    root = argparse.Namespace(root_path=root_path or ".")
    paths = {name: getattr(stored, name) for name in DATA_PATHS}
    for name, path in given.items():
        if path is not None:
            paths[name] = str(under_root(root, path))
        elif root_path is not None:
            paths[name] = moved(paths[name], stored.root_path, root_path)
    return stored.replaced(**paths, inference_stride=inference_stride or stored.inference_stride,
                           file_type=file_type or stored.file_type, strict=False, memory_gb=MEMORY_GB)


def stored_flags(checkpoint: dict, args: argparse.Namespace, given: set[str]) -> Flags:
    """The flags that the checkpoint carries, with the paths of this call where the data has moved."""
    return moved_flags(checkpoint, **moves_of(args, given))


def spread(videos: Sequence[Video], n: int) -> list[Video]:
    """n videos, as many classes as possible, the classes evenly spaced where there are more of them; 0 for all."""
    if n == 0 or n >= len(videos):
        return list(videos)
    by_class: dict[int, list[Video]] = {}
    for video in videos:
        by_class.setdefault(video.label, []).append(video)
    order = [by_class[label] for label in sorted(by_class)]
    if n <= len(order):
        return [order[i * len(order) // n][0] for i in range(n)]
    rounds = max(map(len, order))
    return [group[i] for i in range(rounds) for group in order if i < len(group)][:n]


def named(videos: Sequence[Video], names: Sequence[str], where: str) -> list[Video]:
    """The videos of some names, each once, however case, blanks and punctuation of a name are written.

    A name may have the ending of the video's file; and it may lack the folder before it where one folder alone has it.

    Args:
        where: what they have to be, for errors.
    Raises:
        ValueError: for a name that no video has, or several.
    """
    by_name = Names({video.name: video for video in videos})
    chosen: dict[str, Video] = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        spellings = [name, stem] if ending.lower() in VIDEO_EXTENSIONS else [name]
        video = next((video for one in spellings if (video := by_name.find(one)) is not None), None)
        if video is None:
            in_folders = [other for other in by_name if "/" in other
                          and any(normalise(other.rpartition("/")[2]) == normalise(one) for one in spellings)]
            if len(in_folders) > 1:
                raise ValueError(f"{name}: is the name of {len(in_folders)} videos; give it as {in_folders[0]} or "
                                 f"{in_folders[1]}")
            if not in_folders:
                raise ValueError(f"{name}: not {where}; names are like {' and '.join(by_name.nearest(name, 2))}")
            video = by_name.find(in_folders[0])
        chosen[video.name] = video
    return list(chosen.values())


def choose(videos: Sequence[Video], *, names: Sequence[str] | None, subset: str | None, n: int) -> list[Video]:
    """The videos that the flags ask for.

    Args:
        names: in the annotation; None to take n of a subset.
        subset: train, val or test; None for val, or train where no video of val is on disk.
        n: how many, spread over the classes; 0 for all.
    Raises:
        ValueError: for a name that is not in the annotation or not on disk, or a subset without videos.
    """
    if names:
        return named(videos, names, "a video of the annotation that is on disk")
    subsets = [subset] if subset else ["val", "train"]
    for name in subsets:
        some = [video for video in videos if video.subset == subset_of(name)]
        if some:
            return spread(some, n)
    raise ValueError(f"no video of the subset {' or '.join(subsets)} is on disk; check --video_path and --subset")


def worst_mistakes(file: Path, n: int) -> list[str]:
    """The names of the videos that a metrics.json calls the worst mistakes.

    Raises:
        ValueError, FileNotFoundError: where the file is not there, is something else, or lists no mistake.
    """
    content = read_json(file, missing="no such file, so no mistakes are known; run main.py --inference first",
                        remedy="run main.py --inference again")
    try:
        names = [mistake["video"] for mistake in content["mistakes"][:n]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: does not list mistakes ({error!r}); run main.py --inference again") from error
    if not names:
        raise ValueError(f"{file}: lists no mistake; explain other videos with --n_videos or --videos")
    return names
