"""What the answers of a study come to: mean agreement, and accuracy of distinction against chance."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from explain.study.answers import Answer
from explain.study.questions import AGREEMENT, DISTINCTION, OPTIONS, TASKS
from hierarchy.tree import level_name
from machine.writing import check_writable, write_text

ALL = "all"
PREDICTIONS = (ALL, "right", "wrong")


@dataclass(frozen=True)
class Scores:
    """The tables of a study.

    tables: by task, a row for all participants and each of them, each level and right and wrong predictions.
    excluded: by task, participants who failed an attention check or did not answer all. counted: by task, how many
    participants count.
    """

    tables: dict[str, pd.DataFrame]
    excluded: dict[str, list[str]]
    counted: dict[str, int]


def score(answers: Sequence[Answer], key: Mapping) -> Scores:
    """Evaluate answers; those of a participant who fails an attention check of a task, or has not answered all checks,
    are left out of it.

    Args:
        key: the content of key.json.
    """
    tables, excluded, counted = {}, {}, {}
    for task, summary in ((AGREEMENT, agreement_row), (DISTINCTION, distinction_row)):
        own = [answer for answer in answers if answer.task == task]
        checks = [answer for answer in own if "check" in answer.known]
        passed = Counter(answer.participant for answer in checks if answer.answer in answer.known["check"])
        failed = sorted({answer.participant for answer in own} - {who for who, n in passed.items() if n >= expected}
                        if (expected := _checks(key, task)) else ())
        asked = [answer for answer in own if "check" not in answer.known and answer.participant not in failed]
        if own:
            tables[task] = pd.DataFrame(_rows(asked, summary))
            excluded[task], counted[task] = failed, len({answer.participant for answer in asked})
    return Scores(tables, excluded, counted)


def _checks(key: Mapping, task: str) -> int:
    """How many attention checks a participant of a task is given."""
    return min(key["checks"], sum("check" in known for known in key[task].values()))


def _rows(answers: Sequence[Answer], summary: Callable[[Sequence[Answer]], dict]) -> Iterable[dict]:
    levels = sorted({answer.known["level"] for answer in answers})
    for participant in (ALL, *sorted({answer.participant for answer in answers})):
        own = [answer for answer in answers if participant in (ALL, answer.participant)]
        for level in (ALL, *levels):
            for prediction in PREDICTIONS:
                some = [answer for answer in own if level in (ALL, answer.known["level"])
                        and (prediction == ALL or answer.known["right"] is (prediction == "right"))]
                if some:
                    yield {"participant": participant, "level": level if level == ALL else level_name(level),
                           "prediction": prediction, "answers": len(some), **summary(some)}


def agreement_row(answers: Sequence[Answer]) -> dict:
    """Mean rating with a 95 % interval by Student's t, over participants' means where there are several, else over
    answers."""
    ratings = pd.Series([int(answer.answer) for answer in answers])
    of = ratings.groupby([answer.participant for answer in answers]).mean()
    values = of.to_numpy() if len(of) > 1 else ratings.to_numpy(dtype=float)
    mean, low, high = float(values.mean()), np.nan, np.nan
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        low, high = max(1.0, mean - half), min(4.0, mean + half)
    return {"mean": mean, "low": low, "high": high}


def distinction_row(answers: Sequence[Answer]) -> dict:
    """Share of right answers with an exact 95 % interval (Clopper and Pearson), the two-sided exact binomial test
    against chance, and how often the model's own answer was chosen."""
    right = sum(answer.answer == answer.known["answer"] for answer in answers)
    test = stats.binomtest(right, len(answers), 1 / OPTIONS)
    interval = test.proportion_ci(0.95, "exact")
    offered = [answer for answer in answers if answer.known["predicted"] is not None]
    as_model = sum(answer.answer == answer.known["predicted"] for answer in offered)
    return {"right": right, "accuracy": right / len(answers), "low": float(interval.low), "high": float(interval.high),
            "chance": 1 / OPTIONS, "p": float(test.pvalue),
            "as_model": as_model / len(offered) if offered else np.nan}


def markdown(scores: Scores) -> str:
    """The tables in words."""
    parts = ["# Study"]
    titles = {AGREEMENT: "Agreement: how alike prototype and video look, 1 to 4",
              DISTINCTION: "Distinction: which of four explanations belongs to the right answer"}
    for task in TASKS:
        if task not in scores.tables:
            continue
        out = scores.excluded[task]
        left = f"Left out for a failed or missing attention check: {', '.join(out)}." if out else \
            "All passed the attention checks."
        n = scores.counted[task]
        parts += [f"## {titles[task]}", f"{n} participant{'' if n == 1 else 's'}. {left}"]
        table = scores.tables[task]
        if table.empty:
            continue
        head = [name for name in table.columns if name not in ("low", "high", "right", "chance")]
        lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
        for row in table.to_dict("records"):
            lines.append("| " + " | ".join(_cell(name, row) for name in head) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(name: str, row: dict) -> str:
    value = row[name]
    if name in ("mean", "accuracy"):
        text = f"{value:.2f}"
        return text if np.isnan(row["low"]) else f"{text} ({row['low']:.2f} to {row['high']:.2f})"
    if isinstance(value, float):
        return "\N{EN DASH}" if np.isnan(value) else f"{value:.3g}"
    return str(value)


def write_scores(scores: Scores, out: Path) -> list[Path]:
    """Write agreement.csv, distinction.csv and study.md, and return them."""
    check_writable(out)
    written = []
    for task, table in scores.tables.items():
        write_text(out / f"{task}.csv", table.to_csv(index=False))
        written.append(out / f"{task}.csv")
    write_text(out / "study.md", markdown(scores))
    return [*written, out / "study.md"]
