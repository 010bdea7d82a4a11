"""Tells the words of a command line that begin with a hyphen and are names, such as -0r0HwAYiQ, from flags."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

_MARK = "\0"  # stands before such a name while argparse looks at it; no argument of a process can hold it


EMPTY = "must be a path, and is empty"  # of a variable of the shell perhaps that is not set
PATHS = ("video_path", "videos_dir", "annotation_path", "result_path", "out", "truth", "classes")


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(EMPTY)
    return Path(text)


def _is_path(action: argparse.Action) -> bool:
    """Whether a flag takes a path as it stands, of those for which nothing is no path."""
    return action.type in (None, str) and (action.dest in PATHS or (
        action.required and action.dest.endswith(("_path", "_dir", "_file"))))


class FlagParser(argparse.ArgumentParser):
    """A parser that takes names which begin with a hyphen as values of flags that take names, files or folders.

    Flags that it knows, and words that look like flags (`--vidoes`: small letters after two hyphens, or nearly a flag),
    are none of these names; `--videos=--name` passes whatever it is.
    """

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.register("type", Path, _path)  # of an empty one pathlib makes the current folder

    def parse_known_args(self, args: Sequence[str] | None = None,
                         namespace: argparse.Namespace | None = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's own."""
        namespace, rest = super().parse_known_args(self._marked(sys.argv[1:] if args is None else args), namespace)
        for action in self._actions:
            if _is_path(action) and action.default != "" and getattr(namespace, action.dest, None) == "":
                self.error(f"{'/'.join(action.option_strings) or action.dest}: {EMPTY}")
        for name, value in vars(namespace).items():
            if (plain := _unmarked(value)) is not value:
                setattr(namespace, name, plain)
        return namespace, [_unmarked(word) for word in rest]

    def suggestion(self, message: str) -> str:
        """What may be meant by the flag that an error of argparse names as unknown; empty where nothing is like it."""
        unknown = re.match(r"unrecognized arguments: (--?[^\s=]+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        return f"; do you mean {near[0]}?" if near else ""

    def _marked(self, words: Sequence[str]) -> list[str]:
        marked, room = [], 0  # how many more values the last flag takes, if these are names
        for i, word in enumerate(words):
            if word == "--":
                return [*marked, *words[i:]]
            hyphen = word.startswith("-") and word != "-"
            if hyphen and not (room and self._is_name(word)):
                room = _room(self._option_string_actions.get(word))
                marked.append(word)
            else:
                room = max(room - 1, 0)
                marked.append(_MARK + word if hyphen else word)
        return marked

    def _is_name(self, word: str) -> bool:
        """Whether a word that begins with a hyphen is a name and no flag, known or misspelt."""
        flag, flags = word.partition("=")[0], self._option_string_actions
        short = flags.get(word[:2])  # -k3
        if flag in flags or (short is not None and word[1] != "-" and short.nargs != 0):
            return False
        if self.allow_abbrev and any(other.startswith(flag) for other in flags if flag.startswith("--")):
            return False
        looks = re.fullmatch(r"--[a-z][a-z0-9_-]*", flag) or f"-{flag}" in flags
        return not looks and not difflib.get_close_matches(flag.lower(), flags, n=1, cutoff=0.85)


def _room(action: argparse.Action | None) -> float:
    """How many values a flag takes, 0 where they are no names."""
    if action is None or action.nargs == 0 or action.choices is not None or action.type not in (None, str, Path):
        return 0
    return 1 if action.nargs in (None, "?") else action.nargs if isinstance(action.nargs, int) else math.inf


def _unmarked(value: object) -> object:
    if isinstance(value, str) and value.startswith(_MARK):
        return value[1:]
    if isinstance(value, Path) and str(value).startswith(_MARK):
        return Path(str(value)[1:])
    if isinstance(value, list) and any(_unmarked(one) is not one for one in value):
        return [_unmarked(one) for one in value]
    return value
