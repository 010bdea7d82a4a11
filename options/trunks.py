"""The flags of trunks' constructors, as the classes of the trunks state them."""

import argparse

from models import TRUNKS
from models.trunk import Option
from options.ranges import Range

# By flag, the argument of trunks' constructors that it sets.
TRUNK_FLAGS: dict[str, Option] = {option.flag: option for trunk in TRUNKS.values() for option in trunk.options.values()}


def trunk_flags(parser: argparse.ArgumentParser) -> None:
    """What the constructors of trunks take."""
    group = parser.add_argument_group("trunk")
    for flag, option in TRUNK_FLAGS.items():
        if isinstance(option.default, bool):
            group.add_argument(f"--{flag}", action="store_true", help=option.help)
        elif option.choices:
            group.add_argument(f"--{flag}", default=option.default, choices=option.choices, help=option.help)
        elif isinstance(option.default, str):
            group.add_argument(f"--{flag}", default=option.default, metavar="TEXT", help=option.help)
        else:
            of = Range(type(option.default), option.least, above=option.above, odd=option.odd)
            group.add_argument(f"--{flag}", type=of, default=option.default, help=option.help)
