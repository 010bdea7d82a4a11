"""Where files lie: relative paths hang off --root_path."""

import argparse
from pathlib import Path

from models import TRUNKS
from models.hub_files import is_hub_name
from models.weights import is_named

HERE = Path(__file__).resolve().parents[1]
DATA_PATHS = ("video_path", "annotation_path")


def under_root(args: argparse.Namespace, path: str | Path) -> Path:
    """The absolute path of a flag: relative ones hang off --root_path."""
    return (Path(args.root_path).expanduser() / Path(path).expanduser()).resolve()


def weights_of(args: argparse.Namespace) -> str:
    """--pretrain_path: the name of weights, or an absolute path. A folder of the hub has a name for trunks that are
    published so, unless it lies under --root_path."""
    source, path = args.pretrain_path, under_root(args, args.pretrain_path)
    named = is_named(source) or (TRUNKS[args.model].on_hub and is_hub_name(source) and not path.exists())
    return str(source if named else path)


def config_of(args: argparse.Namespace) -> str:
    """--trunk_config: its JSON, or an absolute path."""
    text = args.trunk_config
    return str(under_root(args, text)) if text and not text.lstrip().startswith("{") else text


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
