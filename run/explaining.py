"""What both analysis scripts do: explain videos at some levels of the tree, from a checkpoint alone."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attribution import METHODS, parse_options
from datasets import READERS
from datasets.loose import single_video
from datasets.reading import CachedReader, VideoFile
from datasets.video import whole_videos
from explain import ExplanationSettings, Sources, explain_videos, write_report
from explain.explainer import UPSAMPLE
from hierarchy.tree import Hierarchy
from options.flags import device_flags
from options.parsing import parse_given
from options.ranges import AMOUNT, COUNT
from run.choosing import MEMORY_GB, choose, stored_flags, worst_mistakes
from run.data import make_reader, read_videos, window_clips, window_power
from run.methods import options_flag
from run.model import choose_device, model_of
from run.paths import under_root
from training.checkpoint import load_checkpoint

FOLDERS = ("local_analysis", "local_analysis_parents")


def parse(prog: str, description: str, argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The command line of both analysis scripts, and which flags were given."""
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--resume_path", required=True, help="checkpoint to explain with; it carries all other flags")
    add("--root_path", default=".",
        help="folder that relative paths hang off, when the data has moved (default: .)")
    add("--video_path", help="folder of the videos, when it has moved (default: the checkpoint's)")
    add("--annotation_path", help="annotation JSON, when it has moved (default: the checkpoint's)")
    add("--file_type", choices=sorted(READERS), help="what is in --video_path (default: the checkpoint's)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--videos", nargs="+", metavar="NAME",
                       help="videos to explain, by their names in the annotation")
    which.add_argument("--video", type=Path, metavar="FILE", help="a video file of your own to explain")
    which.add_argument("--n_videos", type=AMOUNT, default=8,
                       help="how many to explain, spread over the classes; 0 for all (default: 8)")
    which.add_argument("--mistakes", type=COUNT, metavar="N",
                       help="explain the N worst mistakes of metrics.json, which inference wrote beside the checkpoint")
    add("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    add("--out", help=f"folder to write (default: {prog.removesuffix('.py')} beside the checkpoint)")
    add("--k", type=COUNT, default=3, help="prototypes of each predicted node (default: 3)")
    add("--heat", default="grad", choices=[UPSAMPLE, *METHODS], metavar="METHOD",
        help=f"heat, box and peak of a prototype: an attribution method ({', '.join(METHODS)}) on its activation, "
             "smoothed where it is of single voxels; use upsample, its similarity over the clip, for a coarser and "
             "more stable map (default: grad, which the measures of evaluate_explanations.py prefer)")
    options_flag(parser)
    add("--inference_stride", type=COUNT, help="frames from one window to the next (default: the checkpoint's)")
    add("--inference_batch_size", type=COUNT, default=8, help="windows at a time (default: 8)")
    add("--n_threads", type=AMOUNT, default=0, help="loader processes (default: 0)")
    add("--no_img", action="store_true", help="write explanation.json alone, without pictures and pages")
    device_flags(parser)
    return parse_given(parser, argv)


def analyse(prog: str, description: str, levels_of: Callable[[Hierarchy], list[int]],
            argv: Sequence[str] | None = None) -> None:
    """Explain videos at some levels of the tree, from a checkpoint alone.

    Args:
        prog, description: of the script. levels_of: the levels to explain, of a tree.
    """
    args, given = parse(prog, description, argv)
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
        checkpoint=args.resume_path)
    explanations = explain_videos(
        model.to(device).eval(), window_clips(stored, chosen, reader, stored.inference_stride,
                                              normalisation=model.normalisation), hierarchy=hierarchy,
        levels=levels_of(hierarchy), out=out, beside=out.parent / other, sources=sources, settings=settings)
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
