"""The videos that an analysis script explains, chosen by name, by subset or by the mistakes of an inference."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from datasets.annotation import subset_of
from datasets.video import Video
from options.resolve import Flags
from run.paths import DATA_PATHS, moved, under_root
from run.resume import stored_args

MEMORY_GB = 1.0  # of decoded frames: windows overlap


def stored_flags(checkpoint: dict, args: argparse.Namespace, given: set[str]) -> Flags:
    """The flags that the checkpoint carries, with the paths of this call where the data has moved."""
    stored = stored_args(checkpoint)
    paths = {name: getattr(stored, name) for name in DATA_PATHS}
    for name in DATA_PATHS:
        if name in given:
            paths[name] = str(under_root(args, getattr(args, name)))
        elif "root_path" in given:
            paths[name] = moved(paths[name], stored.root_path, args.root_path)
    return stored.replaced(**paths, inference_stride=args.inference_stride or stored.inference_stride,
                           file_type=args.file_type or stored.file_type, strict=False, memory_gb=MEMORY_GB)


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
        by_name = {video.name: video for video in videos}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise ValueError(f"{unknown[0]}: not a video of the annotation that is on disk; names are like "
                             f"{videos[0].name}")
        return [by_name[name] for name in dict.fromkeys(names)]
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
    try:
        names = [mistake["video"] for mistake in json.loads(file.read_text(encoding="utf-8"))["mistakes"][:n]]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file, so no mistakes are known; run main.py --inference first") \
            from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: does not list mistakes ({error!r}); run main.py --inference again") from error
    if not names:
        raise ValueError(f"{file}: lists no mistake; explain other videos with --n_videos or --videos")
    return names
