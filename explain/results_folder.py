"""What a results folder holds for the report: pictures, the class tree, prototypes and explained videos."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from explain import pages
from explain.names import PARTS, picture_name
from hierarchy.tree import Hierarchy

TOP_PATCHES = "top_patches"  # folder, and name of the JSON in it
FOLDERS = ("local_analysis", "local_analysis_parents")  # where explanations are looked for


@dataclass(frozen=True)
class Picture:
    """A moving picture and a still that can replace it, as addresses relative to the report."""

    moving: str
    still: str


class Pictures:
    """The pictures of prototypes (of img/epoch_{e}/, else of explanations) and of explained videos.

    Args:
        page: the report, from which pictures are linked.
    Attributes:
        of: pictures by prototype.
    """

    def __init__(self, results: Path, page: Path) -> None:
        self.page = page
        self.of: dict[int, Picture] = {}
        epochs = [path for path in results.glob("img/epoch_*") if re.fullmatch(r"epoch_\d+", path.name)]
        if (pushed := _last_push(results)) is not None:  # pictures of earlier pushes show other prototypes
            epochs = [path for path in epochs if path.name == f"epoch_{pushed}"]
        for path in sorted(max(epochs, key=lambda path: int(path.name[6:])).iterdir()) if epochs else ():
            patch = path.with_name(f"{path.stem}_patch.png")
            if path.suffix == ".gif" and (number := re.match(r"\d+(?=_)", path.name)) and patch.is_file():
                self.of[int(number[0])] = Picture(self.link(path), self.link(patch))

    def link(self, path: Path) -> str:
        """The address of a file relative to the report."""
        return pages.address(path, self.page)

    def part(self, folder: Path, name: str) -> Picture | None:
        """A picture of a video's pages; None where it was not drawn."""
        moving, still = (folder / PARTS / f"{stem}.webp" for stem in (name, f"{name}_still"))
        return Picture(self.link(moving), self.link(still)) if moving.is_file() and still.is_file() else None


def top_patches(results: Path, page: Path) -> dict[tuple[int, str | None], dict]:
    """What util_scripts.top_patches wrote, by prototype and the video that it comes from: the sheet's address from the
    page, and what its rows are of."""
    entries = read_json(results / TOP_PATCHES / f"{TOP_PATCHES}.json") or []
    return {(entry["prototype"], entry["source"]): {
        "address": pages.address(results / TOP_PATCHES / entry["sheet"], page),
        "rows": ["all classes", *(name for name, of in entry["children"].items() if of)]}
        for entry in entries if (results / TOP_PATCHES / entry["sheet"]).is_file()}


def _last_push(results: Path) -> int | None:
    """The epoch of the newest push in metrics.jsonl."""
    log = results / "metrics.jsonl"
    epochs = re.findall(r'^{"event": "push", "epoch": (\d+)', log.read_text() if log.is_file() else "", re.MULTILINE)
    return int(epochs[-1]) if epochs else None


def class_tree(predictions: dict | None, prototypes: Sequence[dict], metrics: dict | None) -> Hierarchy | None:
    """The class tree: of the predictions, else of the prototypes and the metrics; None where no file has it."""
    if predictions is not None and predictions.get("tree"):
        return Hierarchy.from_rows(list(predictions["tree"].values()))
    paths = [row["node"] for row in prototypes] + [row["path"] for row in (metrics or {}).get("nodes", ())]
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
    n_videos: int | None  # None where there are no metrics
    accuracy: float | None
    prototypes: list[dict] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)


def forest_of(tree: Hierarchy, metrics: dict | None, prototypes: Iterable[dict], pictures: Pictures,
              sheets: Mapping[tuple[int, str | None], dict]) -> list[Node]:
    """The topmost nodes, with their descendants and prototypes.

    Args:
        sheets: as `top_patches` has them.
    """
    measured = {tuple(node["path"]): node for node in (metrics or {}).get("nodes", ())}
    nodes = []
    for i in range(len(tree)):
        path = tuple(tree.path(i))
        row = measured.get(path, {})
        nodes.append(Node(i, tree.names[i], path, int(tree.level_of[i]), row.get("n_videos"), row.get("accuracy")))
    by_path = {node.path: node for node in nodes}
    for prototype in prototypes:
        if (node := by_path.get(tuple(prototype["node"]))) is not None:
            node.prototypes.append({**prototype, "picture": pictures.of.get(prototype["prototype"]),
                                    "sheet": sheets.get((prototype["prototype"], prototype["video"])),
                                    "stands_for": len(prototype.get("stands_for", [prototype]))})
    for node in nodes:
        if len(node.path) > 1:
            by_path[node.path[1:]].children.append(node)
    return [node for node in nodes if len(node.path) == 1]


@dataclass
class Story:
    """An explained video: the prediction at each level, from the top down, and the prototypes behind it."""

    explanation: dict  # of one folder, with some of the levels
    levels: list[dict]
    page: str | None

    @property
    def video(self) -> str:
        return self.explanation["video"]

    @property
    def right(self) -> bool | None:
        """Whether the class is right; None where the truth is unknown."""
        truth = self.explanation["truth"]
        return None if truth is None else truth == self.explanation["prediction"][0]

    @property
    def pictured(self) -> bool:
        """Whether its pictures were drawn."""
        return any(level["box"] is not None for level in self.levels)

    @property
    def find(self) -> str:
        """The text that the report's search matches."""
        words = [self.video, *self.explanation["prediction"], self.explanation["truth"] or ""]
        words += [match["source"]["video"] for level in self.levels for match in level["prototypes"] if match["source"]]
        return " ".join(words).lower()


def read_explanations(results: Path, model: str | None) -> list[tuple[Path, dict]]:
    """The folder and content of every explanation of a model; None for the model of the newest explanation.

    Explanations of earlier versions lack entries that the report shows, and are left out.
    """
    files = [file for name in FOLDERS for file in (results / name).glob(f"*/{pages.EXPLANATION}")]
    dated = [(file.stat().st_mtime_ns, file.parent, read_json(file)) for file in sorted(files)]
    dated = [entry for entry in dated if pages.is_current(entry[2])]
    if not dated:
        return []
    model = model or max(dated, key=lambda entry: entry[0])[2].get("model")
    return [(folder, explanation) for _, folder, explanation in dated if explanation.get("model") == model]


def stories_of(explanations: Sequence[tuple[Path, dict]], pictures: Pictures) -> list[Story]:
    """One story per video, from its explanations in all folders; videos with pictures first, then mistakes."""
    by_video: dict[str, list[tuple[Path, dict]]] = {}
    for folder, explanation in explanations:
        by_video.setdefault(explanation["video"], []).append((folder, explanation))
    stories = []
    for parts in by_video.values():
        levels = [_level(folder, level, pictures) for folder, explanation in parts for level in explanation["levels"]]
        files = [folder / name for name in (pages.STORY, pages.PAGE) for folder, _ in parts]
        page = next((pictures.link(path) for path in files if path.is_file()), None)
        stories.append(Story(parts[0][1], sorted(levels, key=lambda level: -level["level"]), page))
    return sorted(stories, key=lambda story: (not story.pictured, story.right is not False, story.video))


def _level(folder: Path, level: dict, pictures: Pictures) -> dict:
    """A level of an explanation, with the pictures of its first match and of each prototype."""
    prototypes = []
    for rank, match in enumerate(level["prototypes"], 1):
        source = pictures.part(folder, picture_name(level["level"], rank, "source"))
        if source is not None:
            pictures.of.setdefault(match["prototype"], source)
        prototypes.append({**match, "picture": source or pictures.of.get(match["prototype"])})
    box = pictures.part(folder, picture_name(level["level"], 1, "box"))
    return {**level, "prototypes": prototypes, "box": box}


def read_json(path: Path) -> object | None:
    """The content of a JSON file; None where there is no file.

    Raises:
        ValueError: naming the file, where it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); remove it, or have it written again") from error
