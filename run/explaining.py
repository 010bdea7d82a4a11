"""What both analysis scripts do: explain videos at some levels of the tree, from a checkpoint alone."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from attribution import parse_options
from datasets.video import whole_videos
from explain import ExplanationSettings, explain_videos, write_report
from hierarchy.tree import Hierarchy
from run.checkpoint_model import CheckpointModel, own_video
from run.choosing import choose, moves_of, worst_mistakes
from run.data import window_power
from run.model import choose_device
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
    model = CheckpointModel(path, checkpoint, choose_device(args.device, args.no_cuda), **moves_of(args, given))
    model.tell_unpushed()
    known = model.videos(required=args.video is None)
    sources = model.sources(known)
    if args.video is None:
        names = worst_mistakes(path.parent / "metrics.json", args.mistakes) if args.mistakes else args.videos
        chosen = choose(whole_videos(known), names=names, subset=args.subset, n=args.n_videos)
        reader = sources.reader
    else:
        video, reader = own_video(args.video)
        chosen = [video]
    out = Path(args.out).expanduser().resolve() if args.out else path.parent / prog.removesuffix(".py")
    other = next(name for name in FOLDERS if name != prog.removesuffix(".py"))
    settings = ExplanationSettings(
        k=args.k, heat=args.heat, heat_options=heat_options, pictures=not args.no_img,
        batch_size=args.inference_batch_size, n_jobs=args.n_threads, power=window_power(model.flags),
        checkpoint=args.resume_path, against=[_class_of(model.hierarchy, name) for name in args.against])
    explanations = explain_videos(
        model.network, model.windows(chosen, reader), hierarchy=model.hierarchy, levels=levels_of(model.hierarchy),
        out=out, beside=out.parent / other, sources=sources, settings=settings)
    for explanation in explanations:
        for name in {model.hierarchy.full_name(leaf) for leaf in settings.against} & {explanation["prediction"][0]}:
            print(f"{explanation['video']}: is predicted to be {name}, so nothing is compared with --against {name}",
                  file=sys.stderr)
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
