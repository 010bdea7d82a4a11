"""The flags of a run: those given, and those that its checkpoint carries."""

import argparse
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from datasets.transforms import NORMALISATIONS
from hierarchy.tree import Hierarchy
from models import TRUNKS
from models.hub_files import config_text
from options.flags import main_parser, parse_main
from options.parsing import check_values
from options.recipes import CALL_FLAGS, LEGACY, PAPER, WEIGHT_FLAGS
from options.resolve import Flags, filled, resolve
from options.trunks import TRUNK_FLAGS
from run.paths import DATA_PATHS, find_file, moved, under_root
from run.weights import config_of, weights_of
from training.checkpoint import checkpoints_in, load_checkpoint, newest_whole, using


@dataclass(frozen=True)
class Resumed:
    """Where a run starts from: its flags and its tree, and the checkpoint and its path where it goes on."""

    args: Flags
    hierarchy: Hierarchy
    checkpoint: dict | None
    path: Path | None


def stored_args(checkpoint: dict) -> Flags:
    """All flags that a checkpoint was made with, also those that are younger than it.

    `normalisation` and `c` are those that its weights and its class embeddings have, whatever the flags were.

    Raises:
        ValueError: where a flag is none that the command line could have given.
    """
    check_values(main_parser(), checkpoint["args"])
    paper = bool(checkpoint["args"].get("paper"))
    defaults = vars(parse_main(["--paper"] if paper else [])[0])
    flags = filled(argparse.Namespace(**{**defaults, **LEGACY, **(PAPER if paper else {}), **checkpoint["args"]}))
    return flags.replaced(normalisation=stored_normalisation(checkpoint), c=checkpoint["embedding"]["c"])


def resume(given_args: argparse.Namespace, given: set[str]) -> Resumed:
    """Find and read the checkpoint that --resume_path means, and take over its flags.

    Model, data and schedule flags come from the checkpoint unless they are given; a given flag that contradicts the
    weights is an error.

    Args:
        given_args: of the command line, with defaults. given: names of the flags that stand on it.
    Raises:
        ValueError, FileNotFoundError: where no checkpoint can be read, or flags contradict it or each other.
    """
    args = argparse.Namespace(**vars(given_args))
    path = _checkpoint_path(args)
    for name in DATA_PATHS:
        if getattr(args, name):
            setattr(args, name, str(under_root(args, getattr(args, name))))
    args.pretrain_path = weights_of(args) if args.pretrain_path else args.pretrain_path
    args.trunk_config = config_of(args)
    if args.emb_file:
        args.emb_file = str(find_file(args, args.emb_file))
    args.root_path = str(Path(args.root_path).expanduser().resolve())
    checkpoint = None if path is None else load_checkpoint(path)
    if checkpoint is not None:
        with using(path, "its flags"):
            stored = stored_args(checkpoint)
            resolve(argparse.Namespace(**vars(stored)))
        _take_over(args, given, stored, path)
    flags = resolve(args)
    if "window_power" in given and flags.window_pool == "mean":
        raise ValueError(f"--window_power {flags.window_power:g} means nothing to --window_pool mean, which this run "
                         "has; leave it out, or give --window_pool power")
    if checkpoint is not None:
        for name in ("temporal_strides", "spatial_strides"):  # by what they come to, of whatever flags
            if getattr(flags, name) != getattr(stored, name):
                raise _contradiction(path, name, getattr(flags, name), getattr(stored, name))
    return Resumed(*with_tree(flags, given, checkpoint, path), checkpoint, path)


def _checkpoint_path(args: argparse.Namespace) -> Path | None:
    """The checkpoint to go on from, None for a fresh run; sets args.result_path."""
    if args.resume_path == "auto":
        args.result_path = under_root(args, args.result_path or "results")
        path = newest_whole(args.result_path)
        if path is not None:
            print(f"{path}: going on from here", file=sys.stderr)
        elif checkpoints_in(args.result_path):
            raise ValueError(f"{args.result_path}: none of its checkpoints can be read; begin afresh with --overwrite")
        return path
    if args.resume_path:
        path = under_root(args, args.resume_path)
        args.result_path = under_root(args, args.result_path) if args.result_path else path.parent
        return path
    args.result_path = under_root(args, args.result_path or "results")
    return None


def _take_over(args: argparse.Namespace, given: set[str], flags: Flags, path: Path) -> None:
    """Set the flags that nobody gave to the checkpoint's, `flags`.

    Raises:
        ValueError: where a given one contradicts the checkpoint's weights.
    """
    stored, trunk = vars(flags), TRUNKS[flags.model]
    if trunk.on_hub and "trunk_config" in given:  # as it is stored
        args.trunk_config = config_text(args.trunk_config, None, family=trunk.family, known=trunk.known)
    for name in (*WEIGHT_FLAGS, *TRUNK_FLAGS):
        # strides are judged by what they come to, not by which of their flags was given
        if name in given and name not in ("conv1_t_stride", "no_max_pool") and getattr(args, name) != stored[name]:
            raise _contradiction(path, name, getattr(args, name), stored[name])
    for name, value in stored.items():
        if name not in given and name not in CALL_FLAGS:
            setattr(args, name, value)
    if "root_path" in given:
        for name in set(DATA_PATHS) - given:
            setattr(args, name, moved(getattr(args, name), stored["root_path"], args.root_path))
    else:
        args.root_path = stored["root_path"]


def stored_normalisation(checkpoint: dict) -> str:
    """The mean and deviation that a checkpoint's clips are normalised by; those from before the flag have Kinetics'."""
    kind = checkpoint.get("normalisation") or checkpoint["args"].get("normalisation") or "kinetics"
    if not isinstance(kind, str) or kind not in NORMALISATIONS:
        raise ValueError(f"clips cannot be normalised as {str(kind)[:60]!r}")
    return kind


def _contradiction(path: Path, name: str, given: object, stored: object) -> ValueError:
    return ValueError(f"{path}: --{name} {given} contradicts the checkpoint, which was trained with {stored}; leave "
                      "the flag out, or train afresh")


def fresh(args: argparse.Namespace) -> tuple[Flags, Hierarchy]:
    """The flags and the class tree of a model that is made afresh, from the flags of a command line."""
    return with_tree(resolve(args))


def with_tree(flags: Flags, given: Collection[str] = (), checkpoint: dict | None = None,
              path: Path | None = None) -> tuple[Flags, Hierarchy]:
    """The class tree of a run, which must be the checkpoint's own where there is one, and flags that fit it.

    Raises:
        ValueError, FileNotFoundError: where the tree cannot be read, or contradicts the checkpoint or --n_classes.
    """
    if checkpoint is None:
        flags = flags.replaced(tree_file=str(find_file(flags, flags.tree_file)))
        hierarchy = Hierarchy.from_csv(flags.tree_file)
    else:
        with using(path, "its tree"):
            hierarchy = Hierarchy.from_rows(checkpoint["hierarchy_rows"])
        if "tree_file" in given and Hierarchy.from_csv(other := find_file(flags, flags.tree_file)) != hierarchy:
            raise ValueError(f"{path}: trained on another tree than {other}; leave --tree_file out, or train afresh")
    if flags.n_classes is not None and flags.n_classes != hierarchy.n_leaves:
        raise ValueError(f"--n_classes {flags.n_classes} contradicts the tree {flags.tree_file}, which has "
                         f"{hierarchy.n_leaves} classes; mend one of them")
    return flags.replaced(n_classes=hierarchy.n_leaves), hierarchy
