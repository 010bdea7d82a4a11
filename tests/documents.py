"""The pages of the project as tests read them: links, anchors, code, flags, commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from program import ROOT

PAGES = {str(path.relative_to(ROOT)): path for path in sorted(
    (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))}
FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
STARTS = ("python", ".venv/bin/python", "torchrun", "make", "pytest")


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its fenced code."""
    return FENCE.sub("", text_of(page))


def spans(page: str) -> list[str]:
    """The inline code of a page, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def code(page: str) -> list[str]:
    """The inline code of a page and the lines of its fenced code, continued lines joined."""
    fenced = [line.strip() for _, block in FENCE.findall(text_of(page))
              for line in block.replace("\\\n", " ").splitlines()]
    return [*spans(page), *fenced]


def links(page: str) -> list[str]:
    """Targets of links and pictures."""
    return re.findall(r"\]\(\s*([^)\s]+)\s*\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return {slug if not found[:i].count(slug) else f"{slug}-{found[:i].count(slug)}" for i, slug in enumerate(found)}


@dataclass(frozen=True)
class Command:
    """A command line of a page.

    Attributes:
        program: python, torchrun, make. script: dotted module of the project, or empty. words: what follows.
    """

    page: str
    program: str
    script: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.program} {self.script} {' '.join(self.words)}"


def command(page: str, line: str) -> Command | None:
    """The command of a line of code, None for other code."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]  # the environment
    if not words or words[0] not in STARTS or len(words) == 1:
        return None
    program, *rest = words
    program, rest = program.rpartition("/")[2], [word.strip("[]") for word in rest if word not in ("...", "&")]
    if not rest:
        return None
    if program == "make":
        return Command(page, program, "", tuple(rest))
    if rest[0] == "-m" and len(rest) > 1 and not rest[1].endswith("."):
        return Command(page, program, rest[1], tuple(rest[2:]))
    place = next((i for i, word in enumerate(rest) if word.endswith(".py")), None)
    if place is None:
        return None
    script = rest[place].removesuffix(".py").replace("/", ".")
    return Command(page, program, script, tuple(rest[place + 1:]))


def commands(page: str) -> list[Command]:
    """All commands of a page."""
    return [found for line in code(page) if (found := command(page, line)) is not None]
