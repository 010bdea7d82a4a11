"""Tables that benchmarks print, kept as CSV with the machine, the date and the versions of each; itself no benchmark.

Every benchmark takes --save PLACE: a folder, such as docs/results, or a file that ends in .csv. Each table that it
prints in Markdown becomes a CSV file there, and README.md of that folder gets a line for it: what is in the file, the
command, the machine, the date, the versions.
"""

import contextlib
import csv
import datetime
import io
import itertools
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine.writing import write_text

SAVE = "--save"
INDEX = "README.md"
COLUMNS = ("file", "what is in it", "command", "machine", "date", "versions")
ABOUT = ("# Tables of the benchmarks\n\n[docs/RESULTS.md](../RESULTS.md) says what follows from them. "
         "A benchmark writes its tables and its lines here with `--save docs/results`.\n")
Table = list[list[str]]  # rows, the columns' names first


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table, without emphasis."""
    return [cell.strip().replace("\\|", "|").replace("**", "") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def tables_in(text: str) -> list[tuple[str, Table]]:
    """The Markdown tables of a text, each with the last line of text before it, which says what it is."""
    found: list[tuple[str, Table]] = []
    title, rows = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append(cells_of(line))
            continue
        if len(rows) > 2 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1]):
            found.append((title, [rows[0], *rows[2:]]))
        rows = []
        title = line.strip().rstrip(":") or title
    return found


def csv_text(table: Table) -> str:
    """A table as CSV, each row filled up to the number of columns."""
    stream = io.StringIO()
    width = max(map(len, table))
    csv.writer(stream, lineterminator="\n").writerows([*row, *[""] * (width - len(row))] for row in table)
    return stream.getvalue()


def read_csv(path: Path) -> Table:
    """The rows of a CSV file, none where there is no such file."""
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")))) if path.is_file() else []


def added(old: Table, new: Table, keys: int) -> Table:
    """A table with the rows of another one of the same columns, which go before rows of the same first `keys` cells."""
    rows = {tuple(row[:keys]): row for row in [*old[1:], *new[1:]]}
    return [new[0], *(rows[key] for key in sorted(rows))]


def save_table(path: Path, table: Table, *, what: str, command: str, no_cuda: bool = False, adds: bool = False) -> None:
    """Write a table as CSV, and its line in the index of its folder.

    Args:
        what: what is in it, a few words. command: what made it. no_cuda: whether it ran on the CPU in any case.
        adds: whether part of it was there before, so that what the index says of that stays, too.
    """
    import torch

    from benchmarks.machine import machine
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, csv_text(table))
    index = path.parent / INDEX
    lines = index.read_text(encoding="utf-8").splitlines() if index.is_file() else []
    rows = {row[0]: row for row in map(cells_of, (line for line in lines if line.startswith("| [")))}
    values = (f"[{path.name}]({path.name})", what, f"`{command}`", machine(no_cuda=no_cuda),
              str(datetime.date.today()), f"Python {platform.python_version()}, PyTorch {torch.__version__}")
    before = rows.get(values[0], values) if adds else values
    rows[values[0]] = [both if (both := value.replace("|", "/").replace("\n", " ")) in old else f"{old}; {both}"
                       for old, value in zip(before, values, strict=True)]
    listed = ["| " + " | ".join(row) + " |" for row in ([*COLUMNS], ["---"] * len(COLUMNS),
                                                        *(rows[name] for name in sorted(rows)))]
    write_text(index, "\n".join([ABOUT, *listed, ""]))


class _Heard(io.TextIOBase):
    """Passes what is printed on, and remembers it."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self.stream, self.parts = stream, []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def _place(words: list[str]) -> str | None:
    """Take --save and its value out of the words of a command line; the value."""
    for i, word in enumerate(words):
        if word == SAVE:
            if i + 1 == len(words) or words[i + 1].startswith("--"):
                raise ValueError(f"{SAVE} needs a folder or a file that ends in .csv, such as {SAVE} docs/results")
            value = words[i + 1]
            del words[i:i + 2]
            return value
        if word.startswith(f"{SAVE}="):
            del words[i]
            return word.partition("=")[2]
    return None


def files_of(place: Path, names: Sequence[str], n: int) -> list[Path]:
    """The CSV files of n tables of a benchmark, by their names; further ones are called after the first: name_2.csv."""
    first = place if place.suffix == ".csv" else place / f"{names[0]}.csv"
    named = [first, *(first.with_name(f"{name}.csv") for name in names[1:])]
    return [*named, *(first.with_stem(f"{first.stem}_{i}") for i in range(len(named) + 1, n + 1))][:n]


def _numbered(path: Path) -> Iterator[Path]:
    """name.csv, name_2.csv, name_3.csv ..."""
    yield path
    yield from (path.with_stem(f"{path.stem}_{i}") for i in itertools.count(2))


def command_of(module: str, words: Sequence[str]) -> str:
    """The command line of a benchmark, without the place where its tables are saved."""
    words = list(map(str, words))
    _place(words)
    return shlex.join(["python", "-m", f"benchmarks.{module}", *words])


@contextlib.contextmanager
def saved_tables(name: str, *tables: str, keys: int = 0) -> Iterator[None]:
    """Save the tables that a benchmark prints where --save says; without --save change nothing.

    Args:
        name: of the benchmark, as in python -m benchmarks.NAME. tables: names of its tables in their order (default:
            that of the benchmark, and with numbers behind it). keys: number of first columns that tell rows apart, of a
            benchmark that measures some rows at a time: others that are in the file stay, and a table of other columns
            goes beside it, with a number; 0 for files that are replaced.
    Raises:
        ValueError: --save has no value, or the benchmark printed no table.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(f"{SAVE} PLACE writes the tables as CSV: to a folder such as docs/results, or to a file. Other flags:\n")
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *words])
    place = _place(words)
    if place is None:
        yield
        return
    before, heard, sys.argv = sys.argv, _Heard(sys.stdout), [sys.argv[0], *words]
    command = command.replace(f" {SAVE} {shlex.quote(place)}", "").replace(f" {SAVE}={shlex.quote(place)}", "")
    try:
        with contextlib.redirect_stdout(heard):
            yield
    finally:
        sys.argv = before
    found = tables_in("".join(heard.parts))
    if not found:
        raise ValueError(f"{SAVE}: benchmarks.{name} printed no table, so nothing was written")
    for path, (title, table) in zip(files_of(Path(place), tables or (name,), len(found)), found, strict=True):
        old: Table = []
        if keys:
            path = next(other for other in _numbered(path) if (old := read_csv(other))[:1] in ([], table[:1]))
        save_table(path, added(old, table, keys) if old else table, what=title or name, command=command,
                   no_cuda="--no_cuda" in words or "cpu" in words, adds=bool(old))
        print(f"{path}: {len(table) - 1} rows{f' added to {len(old) - 1}' if old else ''}")
