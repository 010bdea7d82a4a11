"""Checkpoints: written atomically, read without running code, and found again after a kill."""

import contextlib
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from machine.writing import sweep, write_whole
from models.state_files import read_state
from training.schedule import KINDS, Step, completed

FORMAT = "hipe-1"
# what every use of a checkpoint needs; without optimisers, push record and random states it can still be used
PARTS = {"args": dict, "hierarchy_rows": list, "embedding": dict, "model": dict, "done": (list, tuple)}
_NAME = re.compile(r"(save_\d+|trunk|last)\.pth")


def save_checkpoint(path: str | Path, checkpoint: dict) -> None:
    """Save a checkpoint of tensors and plain types atomically, after a sweep that may free the space for it.

    Args:
        checkpoint: {format, done, args, hierarchy_rows, embedding, counts, model, optimizers, rng, push_record}.
    """
    sweep(Path(path).parent)
    write_whole(path, lambda file: torch.save({"format": FORMAT, **checkpoint}, file))


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint of this program.

    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing, damaged or not a checkpoint of this
            program.
    """
    checkpoint = read_state(path)
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise ValueError(f"{path}: not a HIPE checkpoint; give the weights of a trunk as --pretrain_path, or in "
                         "Python as load(trunk, weights=...)")
    missing = [name for name in PARTS if name not in checkpoint]
    if missing:
        raise ValueError(f"{path}: a HIPE checkpoint without {', '.join(missing)}, which every use of it needs; give "
                         "the checkpoint as main.py wrote it")
    odd = [name for name, kind in PARTS.items() if not isinstance(checkpoint[name], kind)]
    with contextlib.suppress(TypeError, ValueError):  # of `done`
        if not odd and {"points", "c"} <= checkpoint["embedding"].keys() and _is_step(checkpoint["done"]):
            return checkpoint
    raise ValueError(f"{path}: a HIPE checkpoint whose {', '.join(odd) or 'embedding or done'} was changed; give the "
                     "checkpoint as main.py wrote it")


@contextlib.contextmanager
def using(path: str | Path, what: str) -> Iterator[None]:
    """Turn what an altered checkpoint causes, of a part that is used inside, into an error that names the file.

    Raises:
        ValueError: for every error that values of other types, sizes or names cause.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' ...')}"
        raise ValueError(f"{path}: {what} cannot be used ({why}); the file was changed, or is of other code: give "
                         "another checkpoint") from error


def _is_step(done: Iterable) -> bool:
    step = Step.of_stored(done)
    return step.kind in KINDS and isinstance(step.epoch, int) and isinstance(step.iteration, int)


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The checkpoints of a results folder, newest first."""
    folder = Path(folder)
    paths = [path for path in folder.glob("*.pth") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def newest_whole(folder: str | Path) -> Path | None:
    """The readable checkpoint of a results folder that is farthest in the schedule, or None.

    Damaged ones that would have come first cause a warning. File times decide only between checkpoints of one step,
    since copying a folder changes them.
    """
    by_time = checkpoints_in(folder)
    in_order = sorted(by_time, key=_epoch, reverse=True)
    best: tuple[Path, Step] | None = None
    for path in [path for path in in_order if path.stem == "last"] + [path for path in in_order if path.stem != "last"]:
        try:
            done = Step.of_stored(load_checkpoint(path)["done"])
        except (ValueError, FileNotFoundError) as error:
            warnings.warn(f"passed over: {error}", RuntimeWarning, stacklevel=2)
            continue
        newer = best is None or (by_time.index(path) < by_time.index(best[0]) if done == best[1]
                                 else not completed(done, best[1]))
        if newer:
            best = path, done
        if path.stem != "last":  # the following ones are of earlier epochs
            break
    return None if best is None else best[0]


def put_aside(folder: str | Path, done: Step | None) -> list[Path]:
    """Rename the checkpoints of epochs that a run is about to repeat, so that they are not taken for its newest.

    Args:
        done: the step from which the run is resumed; None for a new run, which has no earlier checkpoints.
    Returns:
        their former paths; the new names end in `.ahead`.
    """
    if done is None:
        return []
    reached = 0 if done.kind in ("trunk", "start") else done.epoch
    ahead = [path for path in checkpoints_in(folder) if _epoch(path) > reached]
    for path in ahead:
        path.replace(path.with_name(f"{path.name}.ahead"))
    return ahead


def _epoch(path: Path) -> int:
    """The epoch in a checkpoint's name; 0 where it has none."""
    return int("".join(filter(str.isdigit, path.stem)) or 0)
