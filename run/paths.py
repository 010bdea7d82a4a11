"""Where files lie: relative paths hang off --root_path."""

import argparse
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
DATA_PATHS = ("video_path", "annotation_path")


def under_root(args: argparse.Namespace, path: str | Path) -> Path:
    """The absolute path of a flag: relative ones hang off --root_path."""
    return (Path(args.root_path).expanduser() / Path(path).expanduser()).resolve()


def find_file(args: argparse.Namespace, name: str) -> Path:
    """A file looked for under --root_path, then beside main.py.

    Raises:
        FileNotFoundError: naming both places.
    """
    for path in (under_root(args, name), HERE / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name}: neither under {Path(args.root_path).resolve()} nor in {HERE}; check the path")


def moved(path: str | None, old_root: str, new_root: str) -> str | None:
    """A stored path, under the new root where the data has moved there from the old one."""
    if path and Path(path).is_relative_to(old_root):
        there = Path(new_root).expanduser().resolve() / Path(path).relative_to(old_root)
        if there.exists():
            return str(there)
    return path
