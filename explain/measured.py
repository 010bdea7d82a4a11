"""The report's tables of what evaluate_explanations.py measured, read from its files."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEASURED = {"explanations": "HIPE's predictions",  # what is explained, by folder
            "explanations_softmax": "the softmax head's predictions"}
BASELINES = ("random", "centre", "chance")  # explanations that know nothing


@dataclass
class Measured:
    """A table of evaluate_explanations.py: of one head, over clips or over prototypes, at one level."""

    of: str  # what is explained
    title: str  # with the checkpoint and how many videos
    page: str  # of the plots
    kind: str  # explanations or prototypes
    level: int
    columns: list[str]  # kinds of explanation
    rows: list[dict]  # measure, meaning, arrow, n; cells in the order of the columns: mean, low, high, best; or None


def measured_tables(results: Path, model: str | None, link: Callable[[Path], str]) -> list[Measured]:
    """The tables of evaluate_explanations.py, where it has written them, but for those that name another model.

    Raises:
        ValueError: where a measures.csv is something else.
    """
    return [table for folder, of in MEASURED.items() if (results / folder / "measures.csv").is_file()
            for table in _tables(results / folder, of, link)
            if not (named := re.search(r", model ([0-9a-f]{8})$", table.title)) or model in (None, named[1])]


def _tables(folder: Path, of: str, link: Callable[[Path], str]) -> list[Measured]:
    """The tables of one folder, in the order of its measures.csv; measures that are not registered are left out."""
    from evaluation.measures import ARROWS, MEASURES  # and with it torchvision, which takes long

    words = folder / "measures.md"
    title = words.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") if words.is_file() else ""
    parts: dict[tuple[str, int], dict[tuple[str, str], dict]] = {}
    file = folder / "measures.csv"
    with file.open(newline="", encoding="utf-8") as lines:
        try:
            for row in csv.DictReader(lines):
                cells = parts.setdefault((row["table"], int(row["level"])), {})
                cells[row["measure"], row["explanation"]] = {
                    name: float(row[name]) for name in ("mean", "low", "high", "n")}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not what evaluate_explanations.py writes ({error!r}); run it again") from error
    tables = []
    for (kind, level), cells in parts.items():
        columns = list(dict.fromkeys(explanation for _, explanation in cells))
        rows = []
        for name, measure in MEASURES.items():
            row = {column: cells.get((name, column)) for column in columns}
            known = [cell for cell in row.values() if cell is not None]
            if known:
                best = _best(row, measure.direction)
                rows.append({"measure": name, "meaning": measure.meaning, "arrow": ARROWS[measure.direction],
                             "n": int(max(cell["n"] for cell in known)),
                             "cells": [cell and {**cell, "best": column in best} for column, cell in row.items()]})
        tables.append(Measured(of, title, link(folder / "measures.html"), kind, level, columns, rows))
    return tables


def _best(cells: dict[str, dict | None], direction: int) -> set[str]:
    """The columns with the best mean, if chance does not come near: their interval parts from those of the baselines.

    Args:
        cells: mean, low and high by column. direction: 1 more is better, -1 less, 0 neither.
    """
    worth = {column: direction * cell["mean"] for column, cell in cells.items()
             if cell is not None and column not in BASELINES}
    if not direction or not worth:
        return set()
    near, far = ("low", "high") if direction > 0 else ("high", "low")
    chance = [direction * cell[far] for column, cell in cells.items() if column in BASELINES and cell is not None]
    return {column for column, value in worth.items() if value == max(worth.values())
            and all(direction * cells[column][near] > other for other in chance)}
