"""The report of a results folder, report.html: how accurate the model is, where it fails, and how it decides.

It is made of files alone: metrics.json, the predictions, prototypes.json, opts.json, the explanations with their
pictures, and the tables of evaluate_explanations.py. Where one is missing, the report says how to make it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import UndefinedError

from explain import pages
from explain.measured import measured_tables
from explain.results_folder import (
    Pictures,
    Story,
    class_tree,
    forest_of,
    read_explanations,
    read_json,
    stories_of,
    top_patches,
)
from hierarchy.tree import Hierarchy

REPORT = "report.html"
PREDICTED = ("val", "test", "train")  # subsets whose predictions are looked for, without metrics.json
WORST = 12  # mistakes shown with their explanations; the others are listed
SHOWN = 40  # stories listed before a button shows the rest
OPENED = 200  # number of nodes up to which the tree starts unfolded


def number(value: float | None, digits: int = 3) -> str:
    """A number with some decimals; a dash where it is undefined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


# --- tables


def _evidence(stories: Sequence[Story]) -> list[dict]:
    """The box tests of each level: number of cards, share that hold, and mean shares of activation."""
    by_level: dict[int, list[dict]] = {}
    for story in stories:
        for level in story.levels:
            tests = [match["box_test"] for match in level["prototypes"] if match.get("box_test")]
            by_level.setdefault(level["level"], []).extend(tests)
    return [{"level": level, "cards": len(tests), "holds": _mean(test["holds"] for test in tests),
             **{key: _mean(test[key] for test in tests) for key in ("box_only", "box_hidden")}}
            for level, tests in sorted(by_level.items()) if tests]


def _decisions(stories: Sequence[Story]) -> list[dict]:
    """For each level, how well the first prototypes of the explained videos match and what they decide.

    Returns:
        level; videos, their number; similarity: median; closer_than: mean, None where unknown; left, left_three: median
        share of the node's probability that is left without the first and without the first three prototypes; flips,
        flips_three: share of answers that change then; nearest_own: share of videos whose nearest prototype belongs to
        the true node; own, ancestors, off_path: shares of the absolute evidence.
    """
    levels: dict[int, list[dict]] = {}
    for story in stories:
        for level in story.levels:
            if level["prototypes"]:
                levels.setdefault(level["level"], []).append(level)
    rows = []
    for level_id, explained in sorted(levels.items()):
        first = [level["prototypes"][0] for level in explained]
        closer = [match["closer_than"] for match in first if match["closer_than"] is not None]
        answers = {name: [level["decision"][name] for level in explained if level["decision"][name] is not None]
                   for name in ("flips", "flips_three", "nearest_own")}
        nats = {group: sum(abs(level["shares"][group]) for level in explained)
                for group in ("own", "ancestors", "descendants", "elsewhere")}
        total = sum(nats.values()) or 1.0
        rows.append({"level": level_id, "videos": len(explained),
                     "similarity": median(match["similarity"] for match in first),
                     "closer_than": _mean(closer) if closer else None,
                     "left": median(math.exp(-match["contribution"]) for match in first),
                     "left_three": median(math.exp(-level["decision"]["silenced_three"]) for level in explained),
                     **{name: _mean(values) if values else None for name, values in answers.items()},
                     "own": nats["own"] / total, "ancestors": nats["ancestors"] / total,
                     "off_path": (nats["descendants"] + nats["elsewhere"]) / total})
    return rows


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _mistakes(metrics: dict | None, tree: Hierarchy | None, stories: Sequence[Story]) -> list[dict]:
    """Mistakes, worst first, with both paths, their lowest common node, and the story if there is one."""
    story_of = {story.video: story for story in stories}
    paths = {name(leaf): tree.path(leaf) for leaf in tree.levels[0]
             for name in (tree.full_name, tree.names.__getitem__)} if tree else {}
    mistakes = []
    for mistake in (metrics or {}).get("mistakes", ()):
        truth, prediction = (paths.get(mistake[key], (mistake[key],)) for key in ("truth", "prediction"))
        shared = truth[mistake["height"]] if mistake["height"] < len(truth) else None
        mistakes.append({**mistake, "truth_path": truth, "prediction_path": prediction, "shared": shared,
                         "story": story_of.get(mistake["video"])})
    return mistakes


# --- plots: the points of a figure in the units of its drawing, for the template


@dataclass(frozen=True)
class Plot:
    """A figure with data in 0 .. right and 0 .. top, which `x` and `y` convert to units of the drawing."""

    top: float
    right: float = 1.0
    width: int = 300
    height: int = 240
    left: int = 46
    bottom: int = 40
    margin: int = 12

    def x(self, value: float) -> float:
        return round(self.left + (self.width - self.left - self.margin) * value / self.right, 1)

    def y(self, value: float) -> float:
        return round(self.margin + (self.height - self.bottom - self.margin) * (1 - value / self.top), 1)

    def line(self, points: Iterable[tuple[float | None, float | None]]) -> str:
        """Corners of a polyline; points of which a coordinate is undefined are left out."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points if x is not None and y is not None)

    @property
    def ticks(self) -> list[float]:
        return [self.top * i / 4 for i in range(5)]


def _risk_plot(curve: Sequence[Mapping]) -> Plot:
    """A plot as high as the largest risk, rounded up to a number that four even ticks divide well."""
    most = max((point["risk"] for point in curve if point["risk"] is not None), default=0)
    return Plot(next((top for top in (0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8) if most <= top), 1.0), width=380)


# --- the page


def write_report(results: Path) -> Path:
    """Write report.html of a results folder from the files in it.

    The page works offline; it shows pictures and links pages of the folder, so they must be passed on together.

    Args:
        results: the folder of `--result_path` of main.py, which holds the checkpoint that explanations are of.
    Returns:
        the page.
    Raises:
        ValueError: where there is nothing to report, or a file has another form than expected.
    """
    metrics, options = read_json(results / "metrics.json"), read_json(results / "opts.json")
    prototypes = read_json(results / "prototypes.json") or []
    subsets = [metrics["subset"]] if metrics else PREDICTED
    subset = next((name for name in subsets if (results / f"{name}.json").is_file()), None)
    predictions = read_json(results / f"{subset}.json") if subset else None
    try:
        model = (metrics or {}).get("model")
        explanations = read_explanations(results, model)
        measured = measured_tables(results, model, lambda path: pages.address(path, results / REPORT))
        if not (metrics or predictions or prototypes or explanations or measured):
            raise ValueError(f"{results}: holds no predictions, prototypes or explanations; run main.py with this "
                             "--result_path first")
        pictures = Pictures(results, results / REPORT)
        stories = stories_of(explanations, pictures)
        tree = class_tree(predictions, prototypes, metrics)
        sheets = top_patches(results, results / REPORT)
        forest = forest_of(tree, metrics, prototypes, pictures, sheets) if tree else []
        levels = {level["level"]: level["name"] for level in (metrics or {}).get("levels", ())}
        newest = max(results.glob("save_*.pth"), key=lambda path: path.stat().st_mtime, default=None)
        pages.write_template(
            results / REPORT, "report.html", metrics=metrics, options=options or {}, subset=subset,
            n_predicted=len(predictions["results"]) if predictions else None, tree=tree, forest=forest,
            stories=stories, evidence=_evidence(stories), decisions=_decisions(stories), measured=measured,
            mistakes=_mistakes(metrics, tree, stories),
            n_prototypes=len(prototypes), n_matched=sum(prototype["video"] is not None for prototype in prototypes),
            level_name=lambda level: levels.get(level, pages.above(level).lower()), number=number,
            calibration=Plot(1.0), risk=_risk_plot(((metrics or {}).get("backoff") or {}).get("curve", ())),
            checkpoint=newest.name if newest else "save_200.pth", worst=WORST, shown_stories=SHOWN,
            unfolded=tree is not None and len(tree) <= OPENED)
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise ValueError(f"{results}: a file in it is not as this version writes it ({error!r}); run main.py "
                         "--inference and local_analysis.py again") from error
    return results / REPORT
