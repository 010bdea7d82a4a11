"""The report of a results folder, results/report.html: how good, where it fails, and why it says what it says.

Reads files alone: metrics.json, the predictions, prototypes.json, opts.json, the explanations with their pictures, and
what evaluate_explanations.py measured. What is missing is said in its place, and how to make it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from jinja2 import UndefinedError

from explain import pages
from explain.measured import measured_tables
from explain.names import PARTS, picture_name
from hierarchy.tree import Hierarchy

REPORT = "report.html"
FOLDERS = ("local_analysis", "local_analysis_parents")  # where explanations are looked for
SUBSETS = ("val", "test", "train")  # whose predictions are shown, where metrics.json does not say
WORST = 12  # mistakes shown with their explanations; the others are listed
SHOWN = 40  # stories listed before a button shows the rest
OPENED = 200  # nodes up to which a tree starts unfolded


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many decimals; a dash where it is undefined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


# --- pictures


@dataclass(frozen=True)
class Picture:
    """Addresses, as seen from the report, of a picture that moves and of a still that stands for it."""

    moving: str
    still: str


class _Pictures:
    """What was drawn of the prototypes (img/epoch_{e}/, else explanations) and of explained videos."""

    def __init__(self, results: Path) -> None:
        self.page = results / REPORT
        self.of: dict[int, Picture] = {}
        epochs = [path for path in results.glob("img/epoch_*") if re.fullmatch(r"epoch_\d+", path.name)]
        if (pushed := _last_push(results)) is not None:  # pictures of an earlier one show other prototypes
            epochs = [path for path in epochs if path.name == f"epoch_{pushed}"]
        for path in sorted(max(epochs, key=lambda path: int(path.name[6:])).iterdir()) if epochs else ():
            patch = path.with_name(f"{path.stem}_patch.png")
            if path.suffix == ".gif" and (found := re.match(r"\d+(?=_)", path.name)) and patch.is_file():
                self.of[int(found[0])] = Picture(self.link(path), self.link(patch))

    def link(self, path: Path) -> str:
        return pages._link(path, self.page)

    def part(self, folder: Path, name: str) -> Picture | None:
        """One of the pictures that a video's pages are made of; None where it was not drawn."""
        moving, still = (folder / PARTS / f"{stem}.webp" for stem in (name, f"{name}_still"))
        return Picture(self.link(moving), self.link(still)) if moving.is_file() and still.is_file() else None


def _last_push(results: Path) -> int | None:
    """The epoch of the newest push that metrics.jsonl tells of."""
    log = results / "metrics.jsonl"
    found = re.findall(r'^{"event": "push", "epoch": (\d+)', log.read_text() if log.is_file() else "", re.MULTILINE)
    return int(found[-1]) if found else None


# --- the tree


def _tree(predictions: dict | None, prototypes: Sequence[dict], metrics: dict | None) -> Hierarchy | None:
    """The class tree, from whichever file has it."""
    if predictions is not None and predictions.get("tree"):
        return Hierarchy.from_rows(list(predictions["tree"].values()))
    paths = [one["node"] for one in prototypes] + [one["path"] for one in (metrics or {}).get("nodes", ())]
    longest = max(map(len, paths), default=0)
    leaves = dict.fromkeys(tuple(path) for path in paths if len(path) == longest)
    return Hierarchy.from_rows([list(path) for path in leaves]) if leaves else None


@dataclass
class Node:
    """A node of the tree as the report shows it."""

    id: int
    name: str
    path: tuple[str, ...]  # from the node up
    level: int
    n_videos: int | None  # null where nothing was measured
    accuracy: float | None
    prototypes: list[dict] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)


def _forest(tree: Hierarchy, metrics: dict | None, prototypes: Iterable[dict], pictures: _Pictures) -> list[Node]:
    """The topmost nodes, with all that is below them."""
    measured = {tuple(one["path"]): one for one in (metrics or {}).get("nodes", ())}
    nodes = []
    for i in range(len(tree)):
        path = tuple(tree.path(i))
        found = measured.get(path, {})
        nodes.append(Node(i, tree.names[i], path, int(tree.level_of[i]), found.get("n_videos"), found.get("accuracy")))
    by_path = {node.path: node for node in nodes}
    for one in prototypes:
        if (node := by_path.get(tuple(one["node"]))) is not None:
            node.prototypes.append({**one, "picture": pictures.of.get(one["prototype"]),
                                    "stands_for": len(one.get("stands_for", [one]))})
    for node in nodes:
        if len(node.path) > 1:
            by_path[node.path[1:]].children.append(node)
    return [node for node in nodes if len(node.path) == 1]


# --- explanations


@dataclass
class Story:
    """An explained video: what the model says at each level, from the top down, and the prototypes that say so."""

    explanation: dict  # of any of its levels
    levels: list[dict]
    page: str | None

    @property
    def video(self) -> str:
        return self.explanation["video"]

    @property
    def right(self) -> bool | None:
        """Whether the class is right; None where the truth is not known."""
        truth = self.explanation["truth"]
        return None if truth is None else truth == self.explanation["prediction"][0]

    @property
    def pictured(self) -> bool:
        return any(level["box"] is not None for level in self.levels)

    @property
    def find(self) -> str:
        """What a search looks at."""
        words = [self.video, *self.explanation["prediction"], self.explanation["truth"] or ""]
        words += [one["source"]["video"] for level in self.levels for one in level["prototypes"] if one["source"]]
        return " ".join(words).lower()


def _explanations(results: Path, model: str | None) -> list[tuple[Path, dict]]:
    """Every explanation by a model, where it is not known by that of the newest one, and the folder it lies in.

    Those that an earlier version wrote lack what the report shows, and are left out.
    """
    files = [file for name in FOLDERS for file in (results / name).glob(f"*/{pages.EXPLANATION}")]
    loaded = [(file.stat().st_mtime_ns, file.parent, _read(file)) for file in sorted(files)]
    loaded = [one for one in loaded if pages.is_current(one[2])]
    if not loaded:
        return []
    model = model or max(loaded, key=lambda one: one[0])[2].get("model")
    return [(folder, explanation) for _, folder, explanation in loaded if explanation.get("model") == model]


def _stories(found: Sequence[tuple[Path, dict]], pictures: _Pictures) -> list[Story]:
    """One story a video, of its explanations in all folders; those with pictures first, then the mistakes."""
    by_video: dict[str, list[tuple[Path, dict]]] = {}
    for folder, explanation in found:
        by_video.setdefault(explanation["video"], []).append((folder, explanation))
    stories = []
    for parts in by_video.values():
        levels = [_level(folder, level, pictures) for folder, explanation in parts for level in explanation["levels"]]
        files = [folder / name for name in (pages.STORY, pages.PAGE) for folder, _ in parts]
        page = next((pictures.link(path) for path in files if path.is_file()), None)
        stories.append(Story(parts[0][1], sorted(levels, key=lambda level: -level["level"]), page))
    return sorted(stories, key=lambda story: (not story.pictured, story.right is not False, story.video))


def _level(folder: Path, level: dict, pictures: _Pictures) -> dict:
    """A level's numbers, with the picture of where its first prototype matches, and the one of each prototype."""
    prototypes = []
    for rank, one in enumerate(level["prototypes"], 1):
        source = pictures.part(folder, picture_name(level["level"], rank, "source"))
        if source is not None:
            pictures.of.setdefault(one["prototype"], source)
        prototypes.append({**one, "picture": source or pictures.of.get(one["prototype"])})
    box = pictures.part(folder, picture_name(level["level"], 1, "box"))
    return {**level, "prototypes": prototypes, "box": box}


def _evidence(stories: Sequence[Story]) -> list[dict]:
    """Of each level, how many of the cards that were checked hold, and the mean shares of activation."""
    checked: dict[int, list[dict]] = {}
    for story in stories:
        for level in story.levels:
            found = [one["box_test"] for one in level["prototypes"] if one.get("box_test")]
            checked.setdefault(level["level"], []).extend(found)
    return [{"level": level, "cards": len(cards), "holds": _mean(one["holds"] for one in cards),
             **{key: _mean(one[key] for one in cards) for key in ("box_only", "box_hidden")}}
            for level, cards in sorted(checked.items()) if cards]


def _decisions(stories: Sequence[Story]) -> list[dict]:
    """Of each level, what the first prototypes of the explained videos resemble and decide.

    Returns:
        level; videos; similarity: median; closer_than: mean, None where it is not known of any; left, left_three: of
        the node's probability without the prototype and without the first three, median; flips, flips_three: share of
        answers that are another one then; nearest_own: share of videos to which a prototype of the true node is the
        nearest of all; own, ancestors, off_path: shares of all evidence, counted without its sign.
    """
    levels: dict[int, list[dict]] = {}
    for story in stories:
        for level in story.levels:
            if level["prototypes"]:
                levels.setdefault(level["level"], []).append(level)
    rows = []
    for number_of, some in sorted(levels.items()):
        first = [level["prototypes"][0] for level in some]
        closer = [one["closer_than"] for one in first if one["closer_than"] is not None]
        asked = {name: [level["decision"][name] for level in some if level["decision"][name] is not None]
                 for name in ("flips", "flips_three", "nearest_own")}
        nats = {group: sum(abs(level["shares"][group]) for level in some)
                for group in ("own", "ancestors", "descendants", "elsewhere")}
        total = sum(nats.values()) or 1.0
        rows.append({"level": number_of, "videos": len(some), "similarity": median(one["similarity"] for one in first),
                     "closer_than": _mean(closer) if closer else None,
                     "left": median(math.exp(-one["contribution"]) for one in first),
                     "left_three": median(math.exp(-level["decision"]["silenced_three"]) for level in some),
                     **{name: _mean(known) if known else None for name, known in asked.items()},
                     "own": nats["own"] / total, "ancestors": nats["ancestors"] / total,
                     "off_path": (nats["descendants"] + nats["elsewhere"]) / total})
    return rows


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _mistakes(metrics: dict | None, tree: Hierarchy | None, stories: Sequence[Story]) -> list[dict]:
    """Mistakes, worst first, with both paths, the lowest node that they share, and the story if there is one."""
    told = {story.video: story for story in stories}
    paths = {name(leaf): tree.path(leaf) for leaf in tree.levels[0]
             for name in (tree.full_name, tree.names.__getitem__)} if tree else {}
    mistakes = []
    for one in (metrics or {}).get("mistakes", ()):
        truth, said = (paths.get(one[key], (one[key],)) for key in ("truth", "prediction"))
        shared = truth[one["height"]] if one["height"] < len(truth) else None
        mistakes.append({**one, "truth_path": truth, "prediction_path": said, "shared": shared,
                         "story": told.get(one["video"])})
    return mistakes


# --- plots: the points of a figure in the units of its drawing, for the template


@dataclass(frozen=True)
class Plot:
    """A figure whose data lie in 0 .. right and 0 .. top; `x` and `y` carry them to the drawing."""

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
    """As high as the largest risk, rounded up to a number that four even ticks divide well."""
    most = max((point["risk"] for point in curve if point["risk"] is not None), default=0)
    return Plot(next((top for top in (0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8) if most <= top), 1.0), width=380)


# --- files


def _read(path: Path) -> object | None:
    """What a JSON file says; None where there is none.

    Raises:
        ValueError: where it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); remove it, or have it written again") from error


def write_report(results: Path) -> Path:
    """Write report.html of a results folder from the files in it.

    The page needs no network; it shows pictures and links pages that lie in the folder, so send the folder with it.

    Args:
        results: what `--result_path` of main.py names, and where the checkpoint lies that explanations are by.
    Returns:
        the page.
    Raises:
        ValueError: where there is nothing to report, or a file is not what it ought to be.
    """
    metrics, options = _read(results / "metrics.json"), _read(results / "opts.json")
    prototypes = _read(results / "prototypes.json") or []
    subsets = [metrics["subset"]] if metrics else SUBSETS
    subset = next((name for name in subsets if (results / f"{name}.json").is_file()), None)
    predictions = _read(results / f"{subset}.json") if subset else None
    try:
        model = (metrics or {}).get("model")
        found = _explanations(results, model)
        measured = measured_tables(results, model, lambda path: pages._link(path, results / REPORT))
        if not (metrics or predictions or prototypes or found or measured):
            raise ValueError(f"{results}: holds no predictions, prototypes or explanations; run main.py with this "
                             "--result_path first")
        pictures = _Pictures(results)
        stories = _stories(found, pictures)
        tree = _tree(predictions, prototypes, metrics)
        forest = _forest(tree, metrics, prototypes, pictures) if tree else []
        levels = {level["level"]: level["name"] for level in (metrics or {}).get("levels", ())}
        newest = max(results.glob("save_*.pth"), key=lambda path: path.stat().st_mtime, default=None)
        pages.write_template(
            results / REPORT, "report.html", metrics=metrics, options=options or {}, subset=subset,
            n_predicted=len(predictions["results"]) if predictions else None, tree=tree, forest=forest,
            stories=stories, evidence=_evidence(stories), decisions=_decisions(stories), measured=measured,
            mistakes=_mistakes(metrics, tree, stories),
            n_prototypes=len(prototypes), n_matched=sum(one["video"] is not None for one in prototypes),
            level_name=lambda level: levels.get(level, pages.above(level).lower()), number=number,
            calibration=Plot(1.0), risk=_risk_plot(((metrics or {}).get("backoff") or {}).get("curve", ())),
            checkpoint=newest.name if newest else "save_200.pth", worst=WORST, shown_stories=SHOWN,
            unfolded=tree is not None and len(tree) <= OPENED)
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise ValueError(f"{results}: a file in it is not as this version writes it ({error!r}); run main.py "
                         "--inference and local_analysis.py again") from error
    return results / REPORT
