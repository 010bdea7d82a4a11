"""Tables of means and deviations, written as CSV, Markdown and LaTeX; itself no benchmark."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks.tables import save_table
from evaluation.summary import ALIKE, MARK
from machine.writing import write_text

DASH = "\N{EN DASH}"
PRETTY = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", MARK: r"$^\dagger$", DASH: "--", "%": r"\%", "_": r"\_",
          "&": r"\&", "#": r"\#", "±": r"$\pm$"}


@dataclass
class Table:
    """Values by row and column, several of a cell where there are several seeds or videos.

    marked: rows whose heat hardly depends on what the model learned. notes: a sentence each, below the table. head:
    name of the column of the rows' names.
    """

    title: str
    cells: dict[str, dict[str, Sequence[float]]]
    marked: set[str] = field(default_factory=set)
    notes: Sequence[str] = ()
    digits: int = 3
    head: str = "figure"

    @property
    def columns(self) -> list[str]:
        """In the order in which rows name them."""
        return list(dict.fromkeys(column for row in self.cells.values() for column in row))

    def _cell(self, values: Sequence[float]) -> str:
        if not len(values):
            return DASH
        mean, deviation = mean_and_deviation(values)
        return f"{mean:.{self.digits}f}" + (f" ± {deviation:.{self.digits}f}" if len(values) > 1 else "")

    def _lines(self) -> list[list[str]]:
        return [[f"{name} {MARK}" if name in self.marked else name,
                 *(self._cell(row.get(column, ())) for column in self.columns)] for name, row in self.cells.items()]

    def csv(self) -> str:
        """A line a cell: row, column, mean, deviation, number of values, and whether the row is marked."""
        rows = [(name, column, *mean_and_deviation(values), len(values), int(name in self.marked))
                for name, row in self.cells.items() for column, values in row.items() if len(values)]
        frame = pd.DataFrame(rows, columns=["row", "column", "mean", "deviation", "n", "marked"])
        return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")

    def _notes(self) -> list[str]:
        return [*self.notes, *([MARKED] if self.marked else [])]

    def markdown(self) -> str:
        """The title, the table and the notes."""
        lines = ["| " + " | ".join([self.head, *self.columns]) + " |", "|" + " --- |" * (1 + len(self.columns))]
        lines += ["| " + " | ".join(line) + " |" for line in self._lines()]
        return "\n".join([f"### {self.title}", "", *lines, *(word for note in self._notes() for word in ("", note))])

    def latex(self) -> str:
        """The same for the package booktabs."""
        frame = pd.DataFrame([[_pretty(cell) for cell in line] for line in self._lines()],
                             columns=[self.head, *map(_pretty, self.columns)])
        return frame.to_latex(index=False, caption=" ".join(map(_pretty, (f"{self.title}.", *self._notes()))))

    def write(self, folder: Path, name: str, *, command: str, no_cuda: bool = False) -> None:
        """Write name.csv, name.md and name.tex, and a line in the index of the folder.

        Args:
            command: what made it. no_cuda: whether it ran on the CPU in any case.
        """
        save_table(folder / f"{name}.csv", list(csv.reader(io.StringIO(self.csv()))), what=self.title, command=command,
                   no_cuda=no_cuda)
        write_text(folder / f"{name}.md", self.markdown() + "\n")
        write_text(folder / f"{name}.tex", self.latex())


MARKED = (f"{MARK} the heat hardly depends on what the model learned: its rank correlation with that of shuffled "
          f"weights is above {ALIKE:g}")


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the deviation of a sample, 0 of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _pretty(text: str) -> str:
    return "".join(PRETTY.get(letter, letter) for letter in text)


def of_seeds(title: str, figures: Mapping[str, Sequence[Mapping[str, float | None]]]) -> Table:
    """A table of the figures of several seeds, a row a figure and a column a method.

    Args:
        figures: by method, a mapping of figures for every seed; those of explanations are named "measure: explanation,
            level", and marked where any method's `randomised` says that the explanation hardly changes.
    """
    cells: dict[str, dict[str, list[float]]] = {}
    for method, seeds in figures.items():
        for row in seeds:
            for name, value in row.items():
                if value is not None:
                    cells.setdefault(name, {}).setdefault(method, []).append(value)
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in cells))
    cells = dict(sorted(cells.items(), key=lambda item: kinds.index(item[0].partition(":")[0])))
    same = {_explanation(name) for name, row in cells.items() if name.startswith("randomised")
            for values in row.values() if statistics.fmean(values) > ALIKE}
    return Table(title, cells, marked={name for name in cells if _explanation(name) in same})


def _explanation(figure: str) -> str | None:
    """The explanation that a figure is of; None for a figure of recognition or of prototypes."""
    measure, colon, rest = figure.partition(": ")
    return rest.rpartition(", ")[0] if colon and "over prototypes" not in measure else None
