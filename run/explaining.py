"""What both analysis scripts do: explain videos at some levels of the tree, from a checkpoint alone."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from attribution import parse_options
from datasets.loose import single_video
from datasets.reading import CachedReader, VideoFile
from datasets.video import whole_videos
from explain import ExplanationSettings, Sources, explain_videos, write_report
from hierarchy.tree import Hierarchy
from run.choosing import MEMORY_GB, choose, stored_flags, worst_mistakes
from run.data import make_reader, read_videos, window_clips, window_power
from run.model import choose_device, model_of
from run.paths import under_root
from training.checkpoint import load_checkpoint

FOLDERS = ("local_analysis", "local_analysis_parents")


def analyse(prog: str, args: argparse.Namespace, given: set[str],
            levels_of: Callable[[Hierarchy], list[int]]) -> None:
    """Explain videos at some levels of the tree, from a checkpoint alone.

    Args:
        prog: the script. args, given: its flags, as `options.analysis.parse_analysis` gives them.
        levels_of: the levels to explain, of a tree.
    """
    heat_options = parse_options(args.options, [args.heat]).get(args.heat, {})
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
    sources = Sources(record, {video.name: video for video in known}, make_reader(stored))
    if args.video is None:
        names = worst_mistakes(path.parent / "metrics.json", args.mistakes) if args.mistakes else args.videos
        chosen = choose(whole_videos(known), names=names, subset=args.subset, n=args.n_videos)
        reader = sources.reader
    else:
        file, reader = args.video.expanduser().resolve(), CachedReader(VideoFile(), int(MEMORY_GB * 1e9))
        chosen = [single_video(file, reader.info(file).n_frames)]
    out = Path(args.out).expanduser().resolve() if args.out else path.parent / prog.removesuffix(".py")
    other = next(name for name in FOLDERS if name != prog.removesuffix(".py"))
    settings = ExplanationSettings(
        k=args.k, heat=args.heat, heat_options=heat_options, pictures=not args.no_img,
        batch_size=args.inference_batch_size, n_jobs=args.n_threads, power=window_power(stored),
        checkpoint=args.resume_path, against=[_class_of(hierarchy, name) for name in args.against])
    explanations = explain_videos(
        model.to(device).eval(), window_clips(stored, chosen, reader, stored.inference_stride,
                                              normalisation=model.normalisation), hierarchy=hierarchy,
        levels=levels_of(hierarchy), out=out, beside=out.parent / other, sources=sources, settings=settings)
    print(f"{len(explanations)} videos explained: {out if args.no_img else out / 'index.html'}")
    if out.parent == path.parent:  # where the report looks for them
        print(f"report: {write_report(path.parent)}")


def _class_of(hierarchy: Hierarchy, name: str) -> int:
    """The leaf that --against names."""
    try:
        return hierarchy.label(name)
    except ValueError as error:
        raise ValueError(f"--against: {error}") from error


def ancestor_levels(hierarchy: Hierarchy) -> list[int]:
    """The levels above the classes.

    Raises:
        ValueError: in a tree of one level.
    """
    if hierarchy.n_levels == 1:
        raise ValueError("this model's tree has one level, so its classes have no ancestors; use local_analysis.py")
    return list(range(1, hierarchy.n_levels))
