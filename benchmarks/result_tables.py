"""Figures of several methods, means over seeds: as a Markdown table, and as CSV with the least and the largest."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.tables import read_csv, save_table

DASH = "\N{EN DASH}"
COLUMNS = ["figure", "method", "mean", "least", "largest"]


class Figure(NamedTuple):
    """A mean over seeds, with the least and the largest of them."""

    mean: float
    least: float
    largest: float

    def __str__(self) -> str:
        spread = f" ({self.least:.3f} to {self.largest:.3f})" if self.least != self.largest else ""
        return f"{self.mean:.3f}{spread}"


Cells = dict[str, dict[str, Figure]]  # of a table, by method and name of the figure


def figure(values: Sequence[float | None]) -> Figure | None:
    """Of the values of all seeds; None where nothing was measured."""
    values = [value for value in values if value is not None]
    return Figure(sum(values) / len(values), min(values), max(values)) if values else None


def cells(figures: dict[str, list[dict]]) -> Cells:
    """Of the figures of every seed, by method."""
    made = {method: {name: figure([row.get(name) for row in rows]) for name in dict.fromkeys(itertools.chain(*rows))}
            for method, rows in figures.items()}
    return {method: {name: one for name, one in column.items() if one is not None} for method, column in made.items()}


def names_of(columns: Cells) -> list[str]:
    """The names of all figures, those of one measure together."""
    names = list(dict.fromkeys(itertools.chain(*columns.values())))
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in names))
    return sorted(names, key=lambda name: kinds.index(name.partition(":")[0]))


def table(columns: Cells) -> str:
    """A Markdown table: a row a figure, a column a method, a dash where nothing was measured."""
    lines = ["| | " + " | ".join(columns) + " |", "|" + " --- |" * (1 + len(columns))]
    lines += ["| " + " | ".join([name, *(str(column.get(name, DASH)) for column in columns.values())]) + " |"
              for name in names_of(columns)]
    return "\n".join(lines)


def stored_cells(path: Path) -> Cells:
    """What a CSV file of `store` holds; nothing where there is none."""
    stored: Cells = {}
    for name, method, *values in read_csv(path)[1:]:
        stored.setdefault(method, {})[name] = Figure(*map(float, values))
    return stored


def store(path: Path, columns: Cells, **about: object) -> None:
    """Write the figures as CSV, and their line in the index of the folder.

    Args:
        about: what the index says of them, as of `save_table`.
    """
    rows = [[name, method, *(f"{value:.3f}" for value in column[name])] for name in names_of(columns)
            for method, column in columns.items() if name in column]
    save_table(path, [COLUMNS, *rows], **about)
