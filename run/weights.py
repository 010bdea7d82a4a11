"""Where the flags find a trunk's weights and its config."""

import argparse

from models import TRUNKS
from models.hub_files import is_hub_name
from models.weights import is_named
from run.paths import under_root


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
