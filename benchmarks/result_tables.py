"""Tables of figures, a row each and a column a method, and the page that holds them between marks."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from machine.writing import write_text

DASH = "\N{EN DASH}"
MARKS = ("<!-- benchmarks.results begins -->", "<!-- benchmarks.results ends -->")


def cell(values: Sequence[float | None]) -> str:
    """A mean over seeds with the least and the largest, a dash where nothing was measured."""
    values = [value for value in values if value is not None]
    if not values:
        return DASH
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.3f}{spread}"


Cells = dict[str, dict[str, str]]  # of a table, by method and name of the figure


def cells(figures: dict[str, list[dict]]) -> Cells:
    """Of the figures of every seed, by method."""
    return {method: {name: cell([row.get(name) for row in rows]) for name in dict.fromkeys(itertools.chain(*rows))}
            for method, rows in figures.items()}


def stored_cells(page: Path, heading: str) -> Cells:
    """What the tables below a heading on a page hold, as an earlier call has put them there.

    Args:
        heading: the beginning of the paragraph before the tables; they end at the next paragraph like it.
    """
    stored: Cells = {}
    methods, inside = [], False
    for line in page.read_text().splitlines() if page.is_file() else ():
        if ", seeds " in line:
            inside = line.startswith(heading)
        if not inside or not line.startswith("| ") or line.startswith("| ---"):
            continue
        name, *values = (word.strip() for word in line.strip("|").split("|"))
        if name:
            for method, value in zip(methods, values, strict=True):
                if value != DASH:
                    stored[method][name] = value
        else:
            methods = values
            stored |= {method: {} for method in methods if method not in stored}
    return stored


def table(columns: Cells) -> str:
    """A Markdown table: a row a figure, a column a method."""
    names = list(dict.fromkeys(itertools.chain(*columns.values())))
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in names))
    names.sort(key=lambda name: kinds.index(name.partition(":")[0]))
    lines = ["| | " + " | ".join(columns) + " |", "|" + " --- |" * (1 + len(columns))]
    lines += ["| " + " | ".join([name, *(column.get(name, DASH) for column in columns.values())]) + " |"
              for name in names]
    return "\n".join(lines)


def folded(columns: Cells) -> str:
    """The table of recognition, and that of explanations, which is long, to be unfolded."""
    recognised, explained = ({method: {name: value for name, value in column.items() if (":" in name) == long}
                              for method, column in columns.items()} for long in (False, True))
    if not any(explained.values()):
        return table(recognised)
    return (f"{table(recognised)}\n\n<details>\n<summary>Explanations and prototypes, every measure</summary>\n\n"
            f"{table(explained)}\n\n</details>")


def put(page: Path, text: str) -> None:
    """Write a text between the marks of a page, at its end where it has none."""
    content = page.read_text() if page.is_file() else "# Results\n"
    if MARKS[0] in content:
        before, _, rest = content.partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
    else:
        before, after = content.rstrip("\n") + "\n\n", "\n"
    write_text(page, f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
