"""From measures of single clips or prototypes to tables: means with bootstrap intervals, in several formats."""

import html
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.measures import ARROWS, MEASURES
from machine.writing import write_text

LATEX_ARROWS = {1: r"$\uparrow$", -1: r"$\downarrow$", 0: ""}
ALIKE = 0.5  # rank correlation with the heat of shuffled weights, above which heat counts as the same
MARK = "†"
RESAMPLES = 1000
COLUMNS = ["table", "explanation", "level", "measure", "mean", "low", "high", "n"]


def bootstrap(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Mean, and the 2.5th and 97.5th percentile of the means of resampled values (Efron, 1979).

    Args:
        values: (n,), n at least 1. seed: of the resampling.
    """
    values = np.asarray(values, dtype=float)
    rng = np.random.default_rng((seed, len(values)))
    means = np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(1)
                            for n in [100] * (resamples // 100)])
    return float(values.mean()), *(float(edge) for edge in np.quantile(means, (0.025, 0.975)))


def summarise(rows: Iterable[dict], *, seed: int = 0) -> pd.DataFrame:
    """The table of everything that was measured.

    Args:
        rows: dicts with `table`, `explanation`, `level` and `measures`, names to numbers or None.
    Returns:
        a row each table, explanation, level and measure: mean, low and high end of the 95 % interval, n values; in the
        order in which explanations came and measures are listed.
    """
    values: dict[tuple, list[float]] = {}
    for row in rows:
        for measure, value in row["measures"].items():
            if value is not None and np.isfinite(value):
                values.setdefault((row["table"], row["explanation"], row["level"], measure), []).append(float(value))
    tables, explanations = (list(dict.fromkeys(key[i] for key in values)) for i in (0, 1))
    names = list(MEASURES)
    ordered = sorted(values, key=lambda key: (tables.index(key[0]), key[2], explanations.index(key[1]),
                                              names.index(key[3])))
    return pd.DataFrame([(*key, *bootstrap(values[key], seed=seed + zlib.crc32(key[3].encode())), len(values[key]))
                         for key in ordered], columns=COLUMNS)


def prototypes_on_events(frame: pd.DataFrame) -> list[str]:
    """A line for each level: how many prototypes' boxes overlap the event of their training videos, and how many would
    by chance; none where no event is known."""
    own = frame[(frame["table"] == "prototypes") & (frame["explanation"] == "prototypes")]
    lines = []
    for level, rows in own.groupby("level", sort=False):
        values = rows.set_index("measure")
        if "box_meets_event" in values.index:
            share, chance = (values.loc[name, "mean"] for name in ("box_meets_event", "box_meets_event_chance"))
            n = int(values.loc["box_meets_event", "n"])
            lines.append(f"level {level}: prototypes whose boxes overlap the annotated event (the actor) in at least "
                         f"one frame: {round(share * n)} of {n} ({100 * share:.0f} %); boxes of the same size anywhere "
                         f"in their clips: {100 * chance:.0f} %")
    return lines


def insensitive(frame: pd.DataFrame) -> set[str]:
    """The explanations whose heat hardly changes when the model's weights are shuffled, on any level."""
    rows = frame[(frame["measure"] == "randomised") & (frame["mean"] > ALIKE)]
    return set(rows["explanation"])


def _parts(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    for (table, level), part in frame.groupby(["table", "level"], sort=False):
        yield f"{table}, level {level}", part


def _cells(part: pd.DataFrame) -> tuple[list[str], list[str], dict[tuple[str, str], str]]:
    measures = [name for name in MEASURES if name in set(part["measure"])]
    cells = {(row.explanation, row.measure): f"{row.mean:.3g} [{row.low:.3g}, {row.high:.3g}]"
             for row in part.itertuples()}
    return list(dict.fromkeys(part["explanation"])), measures, cells


def markdown(frame: pd.DataFrame) -> str:
    """One Markdown table a level: explanations against measures, mean [95 % interval]; arrows point to better."""
    lines, marked = [], insensitive(frame)
    for title, part in _parts(frame):
        explanations, measures, cells = _cells(part)
        heads = " | ".join(f"{name} {ARROWS[MEASURES[name].direction]}".rstrip() for name in measures)
        lines += [f"## {title}", "", f"| | {heads} |", "| --- |" + " --- |" * len(measures)]
        lines += [f"| {one}{f' {MARK}' * (one in marked)} | "
                  + " | ".join(cells.get((one, name), "") for name in measures) + " |" for one in explanations]
        lines.append("")
    if marked:
        lines += [f"{MARK} the heat hardly depends on what the model learned: its rank correlation with that of "
                  f"shuffled weights is above {ALIKE:g}", ""]
    used = set(frame["measure"])
    lines += [f"- `{name}`: {measure.meaning}" for name, measure in MEASURES.items() if name in used]
    return "\n".join(lines) + "\n"


def latex(frame: pd.DataFrame) -> str:
    """The same tables for LaTeX with the package booktabs, turned: a row a measure, a column an explanation."""
    tables, marked = [], insensitive(frame)
    for title, part in _parts(frame):
        explanations, measures, cells = _cells(part)
        heads = [f"{_escaped(name)} {LATEX_ARROWS[MEASURES[name].direction]}".rstrip() for name in measures]
        columns = [_escaped(one) + r"$^\dagger$" * (one in marked) for one in explanations]
        table = pd.DataFrame([[cells.get((one, name), "") for one in explanations] for name in measures],
                             columns=columns, index=heads)
        tables.append(table.to_latex(caption=f"{title}; mean [95 \\% interval]"))
    return "\n".join(tables)


def _escaped(name: str) -> str:
    """A name as LaTeX shows it."""
    return re.sub(r"([_#%&$])", r"\\\1", name)


def _plot(part: pd.DataFrame, measure: str) -> str:
    """A dot and its interval for each explanation, as SVG."""
    rows = part[part["measure"] == measure]
    least, most = min(0.0, rows["low"].min()), max(1.0 if rows["high"].max() <= 1 else rows["high"].max(), 1e-9)
    left, width, step = 170, 300, 20

    def at(value: float) -> float:
        return left + (value - least) / (most - least) * width

    height = step * len(rows) + 24
    direction = {1: "more is better", -1: "less is better", 0: ""}[MEASURES[measure].direction]
    whole = left + width + 60
    lines = [f'<svg viewBox="0 0 {whole} {height}" width="{whole}" height="{height}" role="img" '
             f'aria-label="{html.escape(measure)}">']
    for i, row in enumerate(rows.itertuples()):
        y = step * i + 14
        lines.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{html.escape(row.explanation)}</text>'
                     f'<line x1="{at(row.low):.1f}" x2="{at(row.high):.1f}" y1="{y}" y2="{y}"/>'
                     f'<circle cx="{at(row.mean):.1f}" cy="{y}" r="4"/>'
                     f'<text x="{left + width + 8}" y="{y + 4}">{row.mean:.3g}</text>')
    lines.append(f'<text x="{left}" y="{height - 2}">{least:.2g}</text><text x="{left + width}" y="{height - 2}" '
                 f'text-anchor="end">{most:.3g}</text></svg>')
    return (f"<figure><figcaption><b>{html.escape(measure)}</b> {html.escape(MEASURES[measure].meaning)}"
            f"{'; ' + direction if direction else ''}</figcaption>{''.join(lines)}</figure>")


def plots(frame: pd.DataFrame, title: str) -> str:
    """A page that needs no other file: a plot each measure, table and level."""
    body = "".join(f"<h2>{html.escape(name)}</h2>" + "".join(_plot(part, measure) for measure in _cells(part)[1])
                   for name, part in _parts(frame))
    style = ("body{font:15px/1.4 system-ui,sans-serif;margin:1rem auto;max-width:70rem;padding:0 1rem;"
             "color-scheme:light dark}figure{margin:1rem 0;overflow-x:auto}svg{font-size:12px;fill:currentColor}"
             "line{stroke:currentColor;stroke-width:2;opacity:.5}")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title><style>{style}</style><h1>{html.escape(title)}</h1>{body}</html>\n")


def write_tables(frame: pd.DataFrame, folder: Path, title: str) -> None:
    """Write measures.csv, measures.md, measures.tex and measures.html."""
    write_text(folder / "measures.csv", frame.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "measures.md", f"# {title}\n\n{markdown(frame)}")
    write_text(folder / "measures.tex", latex(frame))
    write_text(folder / "measures.html", plots(frame, title))
