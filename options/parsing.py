"""How flags are parsed: which were given, choices that are looked up when they are needed, and a short --help."""

import argparse
import importlib
from collections.abc import Collection, Iterator, Sequence
from typing import NoReturn


class Names(Collection[str]):
    """The names of a registry as an argparse type's choices, which imports the registry when it is asked.

    With PyTorch behind them, registries take seconds to import, and --help needs none.

    Args:
        module, registry: where the names are the keys, or the items, of what.
    """

    def __init__(self, module: str, registry: str) -> None:
        self.module, self.registry = module, registry

    def _names(self) -> Collection[str]:
        return getattr(importlib.import_module(self.module), self.registry)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

    def __len__(self) -> int:
        return len(self._names())


class _Help(argparse.Action):
    """Prints the help of some flags, or of all."""

    def __init__(self, option_strings: Sequence[str], dest: str, names: Collection[str] | None, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.names = names

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        for action in parser._actions:
            if self.names is not None and action.dest not in self.names and not isinstance(action, _Help):
                action.help = argparse.SUPPRESS
            if isinstance(action.choices, Names):
                if self.names is None:
                    action.metavar = "{" + ",".join(map(str, action.choices)) + "}"
                action.choices = None  # argparse would look them up to format the help
        parser.print_help()
        parser.exit()


def parser_of(prog: str, description: str, first: Collection[str] | None = None) -> argparse.ArgumentParser:
    """A parser whose --help is of the flags `first`, and whose --help_all is of all; without them --help is of all."""
    epilog = None if first is None else f"{prog} --help_all lists all flags."
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False, add_help=False,
                                     usage=f"{prog} [--FLAG VALUE ...]", epilog=epilog,
                                     formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36))
    parser.add_argument("-h", "--help", action=_Help, dest=argparse.SUPPRESS, names=first,
                        help="this list" if first is None else "the flags that are used first")
    if first is not None:
        parser.add_argument("--help_all", action=_Help, dest=argparse.SUPPRESS, names=None, help="all flags")
    return parser


def parse_given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """Parse, and find out which flags were given.

    Returns:
        the namespace with all defaults, and the names of the flags on the command line.
    Raises:
        ValueError: for what the parser does not know; argparse itself would print the usage of a hundred flags.
    """
    def refuse(message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace(": must be", " must be", 1)
        raise ValueError(f"{message}; see {parser.prog} --help")

    parser.error = refuse
    args = parser.parse_args(argv)
    untouched = object()  # defaults only fill in what the namespace does not have
    second = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), untouched)))
    return args, {name for name, value in vars(second).items() if value is not untouched}
