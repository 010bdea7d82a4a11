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


def _takers(name: str, option: Option) -> list[str]:
    """The methods that take this very option by that name; another option may have the same name elsewhere."""
    return [method.name for method in METHODS.values() if method.options.get(name) == option]


def _published(name: str) -> Option:
    """The option that a published flag sets."""
    return next(method.options[name] for method in METHODS.values() if name in method.options)


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
            line = f"{name} of {', '.join(_takers(name, option))}: {_described(option)}"
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
        option = _published(name)
        text, of = option.help, f"of {', '.join(_takers(name, option))}"
        if option.type is bool:
            group.add_argument(f"--{flag}", action="store_true", help=f"{text} ({of})")
            continue
        several = option.several and name not in ONE
        default = DEFAULTS.get(flag, option.default[0] if name in ONE else option.default)
        if default is not None:
            of += f"; default: {_written(default).replace(',', ' ')}"
        group.add_argument(f"--{flag}", type=option.type, nargs="+" if several else None, default=default,
                           choices=option.choices or None, help=f"{text} ({of})")


def method_options(args: argparse.Namespace, methods: Iterable[str]) -> dict[str, dict[str, object]]:
    """By method, all options that the published flags and --options set.

    Raises:
        ValueError: naming the flag whose value is out of range; see `parse_options`.
    """
    methods = list(methods)
    options: dict[str, dict[str, object]] = {method: {} for method in methods}
    for flag, name in PUBLISHED.items():
        option, value = _published(name), getattr(args, flag)
        if option.several:
            value = (value,) if name in ONE else tuple(value)
        try:
            option.checked(value)
        except ValueError as error:
            raise ValueError(f"--{flag} {error}") from error
        for method in set(methods) & set(_takers(name, option)):
            options[method][name] = value
    given = parse_options(args.options, methods)
    return {method: values | given.get(method, {}) for method, values in options.items()}


def usual_options(method: str) -> dict[str, object]:
    """The options that local_attribution.py runs a method with where no flag says otherwise."""
    parser = argparse.ArgumentParser()
    published_flags(parser.add_argument_group())
    options_flag(parser)
    return method_options(parser.parse_args([]), [method])[method]
