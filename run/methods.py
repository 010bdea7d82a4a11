"""Options of attribution methods on the command line: --options for all of them, and the published flags of some."""

import argparse
from collections.abc import Iterable

from attribution import METHODS, Option, parse_options

# flags that local_attribution.py has for options of several methods at once, and their defaults where these differ
PUBLISHED = {"polarity": "polarity", "steps": "steps", "num_iter": "iterations", "perturb_area": "areas",
             "perturb_type": "perturbation", "variant": "variants", "published_energy": "published_energy",
             "theta": "theta", "depth": "depth", "top_n": "top_n", "manual_seed": "seed"}
DEFAULTS = {"perturb_area": [0.1], "manual_seed": 1}
ONE = ("variants",)  # options whose flag takes one value, though the methods take several


def _takers(name: str) -> list[str]:
    """The methods that take an option of that name."""
    return [method.name for method in METHODS.values() if name in method.options]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_written, value)) if isinstance(value, tuple | list) else \
        f"{value:g}" if isinstance(value, float) else str(value)


def _described(option: Option) -> str:
    """An option's help, with its choices and default as --options takes them."""
    if option.default is None:
        return option.help
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    return f"{option.help}{choices} (default: {_written(option.default)})"


def options_help() -> str:
    """The help of --options: every option of every method."""
    lines = []
    for method in METHODS.values():
        for name, option in method.options.items():
            line = f"{name} of {', '.join(_takers(name))}: {_described(option)}"
            if line not in lines:
                lines.append(line)
    return ("options of attribution methods, such as smooth_grad.noise=0.2 3d_ep.areas=0.05,0.1. "
            + "; ".join(lines)).replace("%", "%%")


def options_flag(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--options, with which every script that runs attribution methods offers what they declare."""
    group.add_argument("--options", nargs="+", default=[], metavar="METHOD.NAME=VALUE", help=options_help())


def published_flags(group: argparse._ArgumentGroup) -> None:
    """The published flags; they hold for all methods that take the option, and --options goes before them."""
    for flag, name in PUBLISHED.items():
        takers = _takers(name)
        option = METHODS[takers[0]].options[name]
        text = f"of {', '.join(takers)}: {option.help}"
        if option.type is bool:
            group.add_argument(f"--{flag}", action="store_true", help=text)
            continue
        several = option.several and name not in ONE
        default = DEFAULTS.get(flag, option.default[0] if name in ONE else option.default)
        if default is not None:
            text += f" (default: {_written(default).replace(',', ' ')})"
        group.add_argument(f"--{flag}", type=option.type, nargs="+" if several else None, default=default,
                           choices=option.choices or None, help=text)


def method_options(args: argparse.Namespace, methods: Iterable[str]) -> dict[str, dict[str, object]]:
    """By method, all options that the published flags and --options set.

    Raises:
        ValueError: naming the flag whose value is out of range; see `parse_options`.
    """
    methods = list(methods)
    for flag, name in PUBLISHED.items():
        value = getattr(args, flag)
        try:
            METHODS[_takers(name)[0]].options[name].checked([value] if name in ONE else value)
        except ValueError as error:
            raise ValueError(f"--{flag} {error}") from error
    given = parse_options(args.options, methods)
    options = {}
    for method in methods:
        flags = {name: tuple([value] if name in ONE else value) if METHODS[method].options[name].several else value
                 for flag, name in PUBLISHED.items() if name in METHODS[method].options
                 for value in (getattr(args, flag),)}
        options[method] = flags | given.get(method, {})
    return options
