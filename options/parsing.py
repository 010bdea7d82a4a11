"""How flags are parsed: which were given, choices that are looked up when they are needed, and a short --help."""

import argparse
import importlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NoReturn

from options.version import versions
from options.words import FlagParser


class Names(Collection[str]):
    """The names of a registry as an argparse type's choices, which imports the registry when it is asked.

    With PyTorch behind them, registries take seconds to import, and --help needs none.

    Args:
        module, registry: where the names are the keys, or the items, of what. others: further names, which go first.
    """

    def __init__(self, module: str, registry: str, *others: str) -> None:
        self.module, self.registry, self.others = module, registry, others

    def _names(self) -> list[str]:
        return [*self.others, *getattr(importlib.import_module(self.module), self.registry)]

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


class _Help(argparse.Action):
    """Prints the help of some flags, or of all."""

    def __init__(self, option_strings: Sequence[str], dest: str, names: Collection[str] | None, short: bool,
                 help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.names, self.short = names, short

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        for action in parser._actions:
            if (self.names is not None and action.dest not in self.names
                    and not isinstance(action, _Help | _Version)):
                action.help = argparse.SUPPRESS
            if isinstance(action.choices, Names):
                if not self.short:
                    action.metavar = "{" + ",".join(map(str, action.choices)) + "}"
                action.choices = None  # argparse would look them up to format the help
        parser.print_help()
        parser.exit()


class _Version(argparse.Action):
    """Prints the versions of the program, PyTorch and Python."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(versions())
        parser.exit()


def asks_for_help(argv: Sequence[str] | None) -> bool:
    """Whether the command line asks for the short help or the version, which need no flag that PyTorch has to list."""
    return bool({"-h", "--help", "--version"} & set(sys.argv[1:] if argv is None else argv))


def parser_of(prog: str, description: str, first: Collection[str] | None = None) -> FlagParser:
    """A parser whose --help lists the flags `first`, by default all that are added, and whose --help_all lists all."""
    epilog = f"{prog} --help_all lists all flags."
    parser = FlagParser(prog=prog, description=description, allow_abbrev=False, add_help=False,
                        usage=f"{prog} [--FLAG VALUE ...]", epilog=epilog,
                        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36))
    parser.add_argument("-h", "--help", action=_Help, dest=argparse.SUPPRESS, names=first, short=True,
                        help="the flags that are used first")
    parser.add_argument("--help_all", action=_Help, dest=argparse.SUPPRESS, names=None, short=False, help="all flags")
    parser.add_argument("--version", action=_Version, dest=argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS,
                        help="the versions of the program, PyTorch and Python")
    return parser


def check_values(parser: argparse.ArgumentParser, values: Mapping[str, object]) -> None:
    """See that values are such as the command line could have given.

    Args:
        values: by the names of flags; of unknown ones, of None and of defaults nothing is asked.
    Raises:
        ValueError: naming the flag.
    """
    for action in parser._actions:
        value = values.get(action.dest)
        if value is None or (type(value) is type(action.default) and value == action.default):
            continue
        several = action.nargs not in (None, 0, "?")
        items = value if several and isinstance(value, list | tuple) else [value]
        if (several and items[:1] == [value]) or not all(_could_be(action, item) for item in items):
            raise ValueError(f"--{action.dest} cannot be {str(value)[:60]!r}")


def _could_be(action: argparse.Action, item: object) -> bool:
    """Whether an argparse action takes this item."""
    if action.nargs == 0:
        return isinstance(item, bool)
    try:
        parsed = str(item) == item if action.type is None else action.type(str(item)) == item
        return bool(parsed) and (action.choices is None or item in action.choices)
    except (argparse.ArgumentTypeError, TypeError, ValueError):
        return False


def parse_given(parser: FlagParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """Parse, and find out which flags were given.

    Returns:
        the namespace with all defaults, and the names of the flags on the command line.
    Raises:
        ValueError: for what the parser does not know; argparse itself would print the usage of a hundred flags.
    """
    def refuse(message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace(": must be", " must be", 1)
        raise ValueError(f"{message}{parser.suggestion(message)}; see {parser.prog} --help")

    parser.error = refuse
    args = parser.parse_args(argv)
    untouched = object()  # defaults only fill in what the namespace does not have
    second = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), untouched)))
    return args, {name for name, value in vars(second).items() if value is not untouched}
