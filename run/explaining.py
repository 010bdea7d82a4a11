"""What the scripts that explain share: their flags, the videos that these choose, and the explanations themselves."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from datasets import READERS
from datasets.annotation import subset_of
from datasets.reading import CachedReader, VideoFile
from datasets.video import Video, whole_videos
from explain import explain_videos, write_report
from hierarchy.tree import Hierarchy
from models.geometry import smoothed
from options.flags import device_flags
from options.parsing import parse_given
from run.data import make_reader, read_videos, window_clips, window_power
from run.model import choose_device, model_of
from run.paths import DATA_PATHS, moved, under_root
from run.resume import stored_args
from training.checkpoint import load_checkpoint

FOLDERS = ("local_analysis", "local_analysis_parents")
MEMORY_GB = 1.0  # of decoded frames: windows overlap


def parse(prog: str, description: str, argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The command line of both analysis scripts, and which flags were given."""
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--resume_path", required=True, help="checkpoint to explain with; it carries all other flags")
    parser.add_argument("--root_path", default=".", help="folder that relative paths hang off, when the data has moved (default: .)")
    parser.add_argument("--video_path", help="folder of the videos, when it has moved (default: the checkpoint's)")
    parser.add_argument("--annotation_path", help="annotation JSON, when it has moved (default: the checkpoint's)")
    parser.add_argument("--file_type", choices=sorted(READERS), help="what is in --video_path (default: the checkpoint's)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--videos", nargs="+", metavar="NAME", help="videos to explain, by their names in the annotation")
    which.add_argument("--video", type=Path, metavar="FILE", help="a video file of your own to explain")
    which.add_argument("--n_videos", type=int, default=8, help="how many to explain, spread over the classes; 0 for all (default: 8)")
    which.add_argument("--mistakes", type=int, metavar="N", help="explain the N worst mistakes of metrics.json, which inference wrote beside the checkpoint")
    parser.add_argument("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    parser.add_argument("--out", help=f"folder to write (default: {prog.removesuffix('.py')} beside the checkpoint)")
    parser.add_argument("--k", type=int, default=3, help="prototypes of each predicted node (default: 3)")
    parser.add_argument("--heat", default="grad", metavar="METHOD", help="heat, box and peak of a prototype: an attribution method (grad, grad_cam, ...: see --vis_method of local_attribution.py) on its activation, smoothed where it is of single voxels, or its similarity over the clip (upsample), which is coarser and steadier (default: grad, which the measures of evaluate_explanations.py prefer)")
    parser.add_argument("--inference_stride", type=int, help="frames from one window to the next (default: the checkpoint's)")
    parser.add_argument("--inference_batch_size", type=int, default=8, help="windows at a time (default: 8)")
    parser.add_argument("--n_threads", type=int, default=0, help="loader processes (default: 0)")
    parser.add_argument("--no_img", action="store_true", help="write explanation.json alone, without pictures and pages")
    device_flags(parser)
    args, given = parse_given(parser, argv)
    for name, least in (("k", 1), ("inference_stride", 1), ("inference_batch_size", 1), ("n_videos", 0), ("n_threads", 0), ("mistakes", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    return args, given


def stored_flags(checkpoint: dict, args: argparse.Namespace, given: set[str]) -> argparse.Namespace:
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


def heat_method(name: str) -> tuple[str, Callable[..., Tensor]] | None:
    """The attribution method of that name, with its name; None for the similarity itself.

    What a method scatters over single voxels is smoothed.

    Raises:
        ValueError: where there is none of that name.
    """
    if name == "upsample":
        return None
    from attribution import METHODS, VOXELWISE  # and with it captum, which takes seconds

    if name not in METHODS:
        raise ValueError(f"--heat {name}: no such method; choose upsample or one of {', '.join(METHODS)}")
    method = METHODS[name]
    if name in VOXELWISE:
        return name, lambda *args, **options: smoothed(method(*args, **options))
    return name, method


def worst_mistakes(file: Path, n: int) -> list[str]:
    """The names of the videos that a metrics.json calls the worst mistakes.

    Raises:
        ValueError, FileNotFoundError: where the file is not there, is something else, or knows of no mistake.
    """
    try:
        names = [mistake["video"] for mistake in json.loads(file.read_text(encoding="utf-8"))["mistakes"][:n]]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file, so no mistakes are known; run main.py --inference first") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: does not list mistakes ({error!r}); run main.py --inference again") from error
    if not names:
        raise ValueError(f"{file}: lists no mistake; explain other videos with --n_videos or --videos")
    return names


def choose(args: argparse.Namespace, videos: Sequence[Video]) -> list[Video]:
    """The videos that the flags ask for.

    Raises:
        ValueError: for a name that is not in the annotation or not on disk, or a subset without videos.
    """
    if args.videos:
        by_name = {video.name: video for video in videos}
        unknown = [name for name in args.videos if name not in by_name]
        if unknown:
            raise ValueError(f"{unknown[0]}: not a video of the annotation that is on disk; names are like {videos[0].name}")
        return [by_name[name] for name in dict.fromkeys(args.videos)]
    wanted = [args.subset] if args.subset else ["val", "train"]
    for subset in wanted:
        found = [video for video in videos if video.subset == subset_of(subset)]
        if found:
            return spread(found, args.n_videos)
    raise ValueError(f"no video of the subset {' or '.join(wanted)} is on disk; check --video_path and --subset")


def analyse(prog: str, description: str, levels_of: Callable[[Hierarchy], list[int]], argv: Sequence[str] | None = None) -> None:
    """Explain videos at some levels of the tree, from a checkpoint alone.

    Args:
        prog, description: of the script. levels_of: the levels to explain, of a tree.
    """
    args, given = parse(prog, description, argv)
    heat = heat_method(args.heat)
    path = under_root(args, args.resume_path)
    checkpoint = load_checkpoint(path)
    device = choose_device(args.device, args.no_cuda)
    model, hierarchy, record = model_of(checkpoint, path)
    if record is None:
        print(f"{path}: nothing was pushed yet, so no prototype has a training video to show", file=sys.stderr)
    stored = stored_flags(checkpoint, args, given)
    try:
        known = read_videos(stored, hierarchy)
    except (ValueError, FileNotFoundError) as error:
        if args.video is None:
            raise
        print(f"training videos are not shown: {error}", file=sys.stderr)
        known = []
    source_reader = make_reader(stored)
    if args.mistakes:
        args.videos = worst_mistakes(path.parent / "metrics.json", args.mistakes)
    if args.video is None:
        chosen, reader = choose(args, whole_videos(known)), source_reader
    else:
        file, reader = args.video.expanduser().resolve(), CachedReader(VideoFile(), int(MEMORY_GB * 1e9))
        n_frames = reader.info(file).n_frames
        chosen = [Video(file.stem, file, -1, "testing", n_frames, (0, n_frames))]
    out = Path(args.out).expanduser().resolve() if args.out else path.parent / prog.removesuffix(".py")
    other = next(name for name in FOLDERS if name != prog.removesuffix(".py"))
    explanations = explain_videos(
        model.to(device).eval(), window_clips(stored, chosen, reader, stored.inference_stride,
                                                  normalisation=model.normalisation), hierarchy=hierarchy,
        record=record, levels=levels_of(hierarchy), out=out, beside=out.parent / other,
        source_videos={video.name: video for video in known}, source_reader=source_reader, k=args.k,
        heat=heat,
        pictures=not args.no_img, batch_size=args.inference_batch_size, n_jobs=args.n_threads,
        power=window_power(stored), checkpoint=args.resume_path)
    print(f"{len(explanations)} videos explained: {out if args.no_img else out / 'index.html'}")
    if out.parent == path.parent:  # where the report looks for them
        print(f"report: {write_report(path.parent)}")


def ancestor_levels(hierarchy: Hierarchy) -> list[int]:
    """The levels above the classes.

    Raises:
        ValueError: in a tree of one level.
    """
    if hierarchy.n_levels == 1:
        raise ValueError("this model's tree has one level, so its classes have no ancestors; use local_analysis.py")
    return list(range(1, hierarchy.n_levels))
