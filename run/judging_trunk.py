"""From a trunk's published weights to the table of its explanations, over loose videos."""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from attribution import METHODS
from datasets.loose import by_place, videos_in
from datasets.reading import CachedReader
from datasets.reading.loose import LooseFiles
from datasets.sampling import SlidingWindows, SpreadWindows
from datasets.video import Video
from hierarchy.tree import Hierarchy
from judging.scenes import load_truth, truth_beside
from judging.table import Footage, Wanted, measure
from judging.trunk_model import TrunkModel
from run.attributing import GRID_METHODS, clips_of, grid_refusal, leave_out
from run.choosing import MEMORY_GB, named, spread
from run.data import make_loader
from run.judging import Once, digest_of, settings_of, tell_truth
from run.model import check_size, choose_device
from run.paths import under_root
from run.subjects import PublishedTrunk, clip_of, trunk_subject

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


def model_of_trunk(subject: Callable[[], PublishedTrunk]) -> tuple[TrunkModel, Hierarchy, None]:
    """The trunk with its head, and its classes as a tree of one level."""
    trunk = subject()
    return TrunkModel(trunk), trunk.hierarchy, None


def digest_of_trunk(trunk: PublishedTrunk, model: str) -> str:
    """Sixteen letters of all that decides what a trunk says of a clip: its weights and its head's, and then its kind,
    the arguments of its constructor, the normalisation of clips, and the classes.

    Args:
        model: the trunk's name in TRUNKS.
    """
    weights = {f"trunk.{name}": value for name, value in trunk.trunk.state_dict().items()}
    weights |= {"head.weight": trunk.head, "head.bias": trunk.head_bias}
    weights |= {f"pooler.{name}": value for name, value in (trunk.pooler.state_dict() if trunk.pooler else {}).items()}
    rest = [model, sorted(trunk.arguments.items()), trunk.normalisation, trunk.hierarchy.names]
    return digest_of(weights) + hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:8]


def windows_in_words(sampler: SlidingWindows | SpreadWindows) -> str:
    """Which windows of a video a sampler takes, as `Settings` has them."""
    if isinstance(sampler, SlidingWindows):
        return ""
    return f"{sampler.most or 'all'}, of {sampler.share:g} of the frames"


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
    load = Once(partial(trunk_subject, args, device))
    subject = load()
    wanted = replace(wanted, head="softmax", event=True)
    if reason := grid_refusal(subject, args.model):
        wanted = replace(wanted, methods=leave_out(list(wanted.methods or METHODS), GRID_METHODS, reason,
                                                   by_name=wanted.methods is not None))
    form = clip_of(args, None, subject.trunk)
    check_size(subject.trunk, (form.duration, form.size, form.size))
    folder = under_root(args, args.videos_dir)
    n = args.n_videos if "n_videos" in given else 0
    videos = chosen_videos(videos_in(folder, subject.hierarchy).videos, folder, args.videos, n)
    file = Path(under_root(args, args.truth)) if args.truth else truth_beside(folder / "videos")
    truth = load_truth(file)
    tell_truth(file, truth.of(videos), len(videos), insisted=args.truth is not None, place=f"in {folder}")
    windows = clips_of(args, form, subject, videos, CachedReader(LooseFiles(), int(MEMORY_GB * 1e9)))
    digest = (f"{digest_of_trunk(subject, args.model)} {form.duration}x{form.size}x{form.size} by {form.stride}, "
              "antialiased")
    settings = settings_of(wanted, digest, step=windows.sampler.step, truth=file, power=form.power,
                           windows=windows_in_words(windows.sampler))
    out.mkdir(parents=True, exist_ok=True)
    return measure(partial(model_of_trunk, load), wanted, Footage(windows=windows, truth=truth), settings, out,
                   name=f"{args.model} {args.pretrain_path}", device=device,
                   loader=partial(make_loader, n_threads=args.n_threads, batch_size=16), n_threads=args.n_threads,
                   batch_size=args.batch_size, overwrite=args.overwrite, progress=progress)


def chosen_videos(videos: Sequence[Video], folder: Path, names: Sequence[str] | None, n: int) -> list[Video]:
    """The videos of a folder that are asked for; those that share a name are called by their place, `folder/name`.

    Args:
        names: None for all. n: how many of these, 0 for all.
    Raises:
        ValueError: for a name that is not there, or one that two videos in one folder have.
    """
    videos = by_place(videos, folder)
    counts = Counter(video.name for video in videos)
    if twice := [video for video in videos if counts[video.name] > 1]:
        raise ValueError(f"{folder}: {twice[0].path} and {twice[1].path} have one name, by which the truth and the "
                         "measures know them; rename one of them")
    return spread(videos if names is None else named(videos, names, f"a video in {folder}"), n)
