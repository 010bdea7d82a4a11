"""Checkpoints: written whole or not at all, read without running code, found again after a kill."""

import contextlib
import os
import re
import warnings
from pathlib import Path

import torch

from models.weights import read_state

FORMAT = "hipe-1"
_NAME = re.compile(r"(save_\d+|trunk|last)\.pth")


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


def save_checkpoint(path: str | Path, checkpoint: dict) -> None:
    """Save a checkpoint of tensors and plain types, atomically.

    Args:
        checkpoint: {format, done, args, hierarchy_rows, embedding, model, optimizers, rng, push_record}.
    """
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
    """The newest checkpoint of a results folder that can be read, or None; newer broken ones are warned of."""
    for path in checkpoints_in(folder):
        try:
            load_checkpoint(path)
        except (ValueError, FileNotFoundError) as error:
            warnings.warn(f"passed over: {error}", RuntimeWarning, stacklevel=2)
        else:
            return path
    return None
