"""From a trunk's published weights to the table of its explanations, over loose videos."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from attribution import METHODS
from datasets.loose import videos_in
from datasets.reading import CachedReader
from datasets.reading.loose import LooseFiles
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform
from datasets.video import Video, VideoClips
from hierarchy.tree import Hierarchy
from judging.judge import Settings
from judging.scenes import load_truth, truth_beside
from judging.table import Footage, Wanted, measure
from judging.trunk_model import TrunkModel
from options.flags import parse_main
from run.attributing import GRID_METHODS, leave_out
from run.choosing import MEMORY_GB, spread
from run.data import make_loader
from run.judging import digest_of, digest_of_file, tell_truth
from run.model import check_size, choose_device
from run.paths import under_root
from run.subjects import clip_of, trunk_subject

OF_CHECKPOINTS = ("subset", "video_path", "annotation_path", "file_type", "levels", "method_levels", "heats",
                  "no_prototypes")  # flags that ask for what a trunk with loose videos does not have


def check_flags(args: argparse.Namespace, given: set[str]) -> None:
    """Raise ValueError for flags that are missing, and for those that say nothing of a trunk."""
    if not args.pretrain_path:
        raise ValueError("nothing to judge; give a HIPE checkpoint as --resume_path, or a trunk's weights as "
                         "--pretrain_path")
    if not args.videos_dir:
        raise ValueError("no videos; give their folder as --videos_dir")
    if "head" in given and args.head != "softmax":
        raise ValueError(f"--head {args.head} needs a HIPE checkpoint; give it as --resume_path")
    if of_checkpoints := sorted(given.intersection(OF_CHECKPOINTS)):
        raise ValueError(f"--{of_checkpoints[0]} needs a HIPE checkpoint; give it as --resume_path, or leave it out")


def load_trunk(args: argparse.Namespace, device: torch.device) -> tuple[TrunkModel, Hierarchy, None]:
    """The trunk with its head, and its classes as a tree of one level."""
    subject = trunk_subject(args, device)
    return TrunkModel(subject), subject.hierarchy, None


def trunk_table(args: argparse.Namespace, given: set[str], wanted: Wanted, *, out: Path,
                progress: bool = True) -> pd.DataFrame:
    """Measure explanations of a trunk's own predictions and return the table; also writes it (see docs/FORMATS.md).

    Where the class of a video is not among the trunk's, its prediction counts for what is predicted: the heat is held
    against the event all the same.

    Args:
        args: of evaluate_explanations.py. given: the flags on its command line. out: folder to write.
    Returns:
        as `run.judging.explanation_table`, with an explanation "event": the event itself, as if it were one.
    Raises:
        ValueError, FileNotFoundError: naming what is wrong and the remedy.
    """
    check_flags(args, given)
    device = choose_device(args.device, args.no_cuda)
    load = partial(load_trunk, args, device)
    model, tree, _ = load()
    wanted = replace(wanted, head="softmax", event=True)
    if hasattr(model.trunk, "class_token"):
        wanted = replace(wanted, methods=leave_out(
            list(wanted.methods or METHODS), GRID_METHODS, f"explains by a grid of features, and the head of "
            f"{args.model} reads none, but a class token; use gradients or perturbations",
            by_name=wanted.methods is not None))
    size, duration, stride, power = clip_of(args, None)
    check_size(model.trunk, (duration, size, size))
    folder = under_root(args, args.videos_dir)
    n = args.n_videos if "n_videos" in given else 0
    videos = chosen_videos(videos_in(folder, tree).videos, folder, args.videos, n)
    file = Path(under_root(args, args.truth)) if args.truth else truth_beside(folder / "videos")
    truth = load_truth(file)
    tell_truth(file, truth.of(videos), len(videos), insisted=args.truth is not None, place=f"in {folder}")
    step = args.inference_stride or parse_main([])[0].inference_stride
    windows = VideoClips(videos, sampler=SlidingWindows(duration, step, stride=stride),
                         transform=EvalTransform(size), reader=CachedReader(LooseFiles(), int(MEMORY_GB * 1e9)),
                         normalisation=model.normalisation)
    settings = Settings(
        f"{digest_of(model.state_dict())} {duration}x{size}x{size} by {stride}", wanted.head, wanted.steps,
        wanted.iterations, windows.sampler.step, wanted.seed, digest_of_file(file), power,
        " ".join(wanted.options), wanted.smooth)
    out.mkdir(parents=True, exist_ok=True)
    return measure(load, wanted, Footage(windows=windows, truth=truth), settings, out,
                   name=f"{args.model} {args.pretrain_path}", device=device,
                   loader=partial(make_loader, n_threads=args.n_threads, batch_size=16), n_threads=args.n_threads,
                   batch_size=args.batch_size, overwrite=args.overwrite, progress=progress)


def chosen_videos(videos: Sequence[Video], folder: Path, names: Sequence[str] | None, n: int) -> list[Video]:
    """The videos of a folder that are asked for.

    Args:
        names: None for all. n: how many of these, 0 for all.
    Raises:
        ValueError: for a name that is not there, or one that two videos have.
    """
    by_name: dict[str, Video] = {}
    for video in videos:
        if video.name in by_name:
            raise ValueError(f"{folder}: {by_name[video.name].path} and {video.path} have one name, by which the truth "
                             "and the measures know them; rename one of them")
        by_name[video.name] = video
    if unknown := [name for name in names or () if name not in by_name]:
        raise ValueError(f"{unknown[0]}: not a video in {folder}; names are like {next(iter(by_name))}")
    return spread([by_name[name] for name in dict.fromkeys(names or by_name)], n)
