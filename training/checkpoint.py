"""Checkpoints: written whole or not at all, read without running code, found again after a kill."""

import contextlib
import os
import re
import time
import warnings
from pathlib import Path

import torch

from models.weights import read_state
from training.schedule import Step, completed

FORMAT = "hipe-1"
_NAME = re.compile(r"(save_\d+|trunk|last)\.pth")
_PART = re.compile(r".+\.(?:pth|json|jsonl)\.(\d+)\.part")  # of write_whole, in a results folder


def write_whole(path: str | Path, write) -> None:
    """Write a file beside the target, and move it over the target when it is complete and on the disk.

    Args:
        path: the target. write: a function of a binary file.
    Raises:
        OSError: naming the file, where it cannot be written; the old file is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise OSError(f"{path}: cannot be written ({error}); free some space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def sweep(folder: str | Path, untouched: float = 3600) -> None:
    """Remove what killed processes have left half written in a results folder.

    A process of that number may be at work on another machine that shares the disk: then it still writes.

    Args:
        untouched: seconds for which nothing was written to what is removed.
    """
    for path in Path(folder).glob("*.part"):
        name = _PART.fullmatch(path.name)
        with contextlib.suppress(OSError):  # somebody else was faster, or may remove it
            if name and not _runs(int(name[1])) and time.time() - path.stat().st_mtime > untouched:
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def save_checkpoint(path: str | Path, checkpoint: dict) -> None:
    """Save a checkpoint of tensors and plain types, atomically, where there is room for it after a sweep.

    Args:
        checkpoint: {format, done, args, hierarchy_rows, embedding, counts, model, optimizers, rng, push_record}.
    """
    sweep(Path(path).parent)
    write_whole(path, lambda file: torch.save({"format": FORMAT, **checkpoint}, file))


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint of this program.

    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing, broken or something else.
    """
    checkpoint = read_state(path)
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise ValueError(f"{path}: not a HIPE checkpoint; to start from a Kinetics trunk give it as --pretrain_path")
    return checkpoint


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The checkpoints of a results folder, newest first."""
    folder = Path(folder)
    found = [path for path in folder.glob("*.pth") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def newest_whole(folder: str | Path) -> Path | None:
    """The checkpoint of a results folder that has come farthest in the schedule, of those that can be read, or None.

    Broken ones that would have come first are warned of. File times decide only between equals: a copied folder has
    others.
    """
    found = checkpoints_in(folder)
    in_order = sorted(found, key=_epoch, reverse=True)
    best: tuple[Path, Step] | None = None
    for path in [path for path in in_order if path.stem == "last"] + [path for path in in_order if path.stem != "last"]:
        try:
            done = Step.of_stored(load_checkpoint(path)["done"])
        except (ValueError, FileNotFoundError) as error:
            warnings.warn(f"passed over: {error}", RuntimeWarning, stacklevel=2)
            continue
        newer = best is None or (found.index(path) < found.index(best[0]) if done == best[1]
                                 else not completed(done, best[1]))
        if newer:
            best = path, done
        if path.stem != "last":  # those after it are of earlier epochs
            break
    return None if best is None else best[0]


def put_aside(folder: str | Path, done: Step | None) -> list[Path]:
    """Rename the checkpoints of epochs that a run is about to train again, so that they are not taken for its newest.

    Args:
        done: the step that the run goes on from; None for a run from the beginning, which has no earlier checkpoints.
    Returns:
        their paths until now; `.ahead` was added to their names.
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
