"""The flags of a run: those given, and those that its checkpoint carries."""

import argparse
import sys
from pathlib import Path

from hierarchy.tree import Hierarchy
from models.weights import is_named
from options.flags import parse_main
from options.recipes import CALL_FLAGS, LEGACY, PAPER, WEIGHT_FLAGS, fill
from options.resolve import resolve
from run.data import normalisation_of
from run.paths import DATA_PATHS, find_file, moved, under_root
from training.checkpoint import checkpoints_in, load_checkpoint, newest_whole


def stored_args(checkpoint: dict) -> argparse.Namespace:
    """All flags that a checkpoint was made with, also those that are younger than it."""
    paper = bool(checkpoint["args"].get("paper"))
    defaults = vars(parse_main(["--paper"] if paper else [])[0])
    args = argparse.Namespace(**{**defaults, **LEGACY, **(PAPER if paper else {}), **checkpoint["args"]})
    fill(args)
    return args


def _check_pool(args: argparse.Namespace, given: set[str]) -> None:
    if "window_power" in given and args.window_pool == "mean":
        raise ValueError(f"--window_power {args.window_power:g} means nothing to --window_pool mean, which this run "
                         "has; leave it out, or give --window_pool power")


def resume(args: argparse.Namespace, given: set[str]) -> tuple[dict | None, Path | None]:
    """Find and read the checkpoint that --resume_path means, and take over its flags.

    Model, data and schedule flags come from the checkpoint unless they are given; a given flag that contradicts the
    weights is an error.
    Returns:
        the checkpoint and its path, or None twice for a fresh run. Sets args.result_path.
    """
    path = None
    if args.resume_path == "auto":
        args.result_path = under_root(args, args.result_path or "results")
        path = newest_whole(args.result_path)
        if path is not None:
            print(f"{path}: going on from here", file=sys.stderr)
        if path is None and checkpoints_in(args.result_path):
            raise ValueError(f"{args.result_path}: none of its checkpoints can be read; begin afresh with --overwrite")
    elif args.resume_path:
        path = under_root(args, args.resume_path)
        args.result_path = under_root(args, args.result_path) if args.result_path else path.parent
    else:
        args.result_path = under_root(args, args.result_path or "results")
    for name in ("video_path", "annotation_path", "pretrain_path"):
        if getattr(args, name) and not (name == "pretrain_path" and is_named(args.pretrain_path)):
            setattr(args, name, str(under_root(args, getattr(args, name))))
    if args.emb_file:
        args.emb_file = str(find_file(args, args.emb_file))
    args.root_path = str(Path(args.root_path).expanduser().resolve())
    checkpoint = None if path is None else load_checkpoint(path)
    if checkpoint is None:
        resolve(args)
        _check_pool(args, given)
        return None, None
    stored = vars(stored_args(checkpoint))
    for name in WEIGHT_FLAGS:
        # strides are judged by what they come to, not by which of their flags was given
        if name in given and name in stored and name not in ("conv1_t_stride", "no_max_pool"):
            value = getattr(args, name)
            if name == "normalisation":
                stored[name] = normalisation_of(argparse.Namespace(**stored))
            if value != stored[name]:
                raise _contradiction(path, name, value, stored[name])
    for name, value in stored.items():
        if name not in given and name not in CALL_FLAGS:
            setattr(args, name, value)
    if "root_path" in given:
        for name in set(DATA_PATHS) - given:
            setattr(args, name, moved(getattr(args, name), stored["root_path"], args.root_path))
    else:
        args.root_path = stored["root_path"]
    resolve(args)
    _check_pool(args, given)
    for name in ("temporal_strides", "spatial_strides"):
        if getattr(args, name) != stored[name]:
            raise _contradiction(path, name, getattr(args, name), stored[name])
    return checkpoint, path


def _contradiction(path: Path, name: str, given: object, stored: object) -> ValueError:
    return ValueError(f"{path}: --{name} {given} contradicts the checkpoint, which was trained with {stored}; leave "
                      "the flag out, or train afresh")


def check_tree(args: argparse.Namespace, given: set[str], checkpoint: dict | None, path: Path | None) -> Hierarchy:
    """The class tree of the run, which must be the checkpoint's own where there is one."""
    if checkpoint is None:
        args.tree_file = str(find_file(args, args.tree_file))
        hierarchy = Hierarchy.from_csv(args.tree_file)
    else:
        hierarchy = Hierarchy.from_rows(checkpoint["hierarchy_rows"])
        if "tree_file" in given:
            other = find_file(args, args.tree_file)
            if Hierarchy.from_csv(other) != hierarchy:
                raise ValueError(f"{path}: trained on another tree than {other}; leave --tree_file out, or train "
                                 "afresh")
    if args.n_classes is not None and args.n_classes != hierarchy.n_leaves:
        raise ValueError(f"--n_classes {args.n_classes} contradicts the tree {args.tree_file}, which has "
                         f"{hierarchy.n_leaves} classes; mend one of them")
    args.n_classes = hierarchy.n_leaves
    return hierarchy
