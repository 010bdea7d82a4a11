"""A set without some branches of its class tree, and runs of main.py on what is left; itself no benchmark."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import python
from machine.writing import write_text
from training.checkpoint import newest_whole


@dataclass(frozen=True)
class Split:
    """What is known and what is not.

    folder: holds hierarchy.csv of the known classes, known.json of their videos and unseen.json of the validation
    videos of the others. known, unseen: names of classes. begins: by unseen video, the highest level of its path that
    is not known, 0 for the class alone.
    """

    folder: Path
    known: tuple[str, ...]
    unseen: tuple[str, ...]
    begins: dict[str, int]


def leave_out(data: Path, annotation: str, branches: Sequence[str], folder: Path) -> Split:
    """Write the tree and the annotation of a set without the classes below some nodes.

    Args:
        data: folder with hierarchy.csv and the annotation. branches: names of nodes, of any level. folder: to write.
    Raises:
        ValueError: for a branch that is not in the tree, or where no class is left.
    """
    with (data / "hierarchy.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    nodes = {node for row in rows for node in row[:-1]}
    if unknown := [branch for branch in branches if branch not in nodes]:
        raise ValueError(f"{unknown[0]}: no node of {data / 'hierarchy.csv'}; choose among {', '.join(sorted(nodes))}")
    unseen = tuple(row[0] for row in rows if set(row) & set(branches))
    known = tuple(row[0] for row in rows if row[0] not in unseen)
    if not known:
        raise ValueError(f"{', '.join(branches)}: leaves no class of {data / 'hierarchy.csv'} to train on")
    known_nodes = {node for row in rows if row[0] in known for node in row[:-1]}
    level = {row[0]: max(i for i, node in enumerate(row[:-1]) if node not in known_nodes)
             for row in rows if row[0] in unseen}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "hierarchy.csv", "".join(",".join(row) + "\n" for row in rows if row[0] in known))
    content = json.loads((data / annotation).read_text(encoding="utf-8"))
    videos = {name: (entry["annotations"]["label"], entry) for name, entry in content["database"].items()}
    subsets = {"known": {video: entry for video, (label, entry) in videos.items() if label in known},
               # these stay in the folders of their classes
               "unseen": {video: entry | {"subset": "testing", "annotations": {"label": None},
                                          "video": f"{label}/{video}"}
                          for video, (label, entry) in videos.items()
                          if label in unseen and entry["subset"] == "validation"}}
    labels = [label for label in content.get("labels", known) if label in known]
    for name, some in subsets.items():
        write_text(folder / f"{name}.json", json.dumps({"labels": labels, "database": some}))
    begins = {video: level[label] for video, (label, entry) in videos.items()
              if label in unseen and entry["subset"] == "validation"}
    return Split(folder, known, unseen, begins)


def trained(split: Split, line: Sequence[str], results: Path) -> Path:
    """Train on what is known, or go on with it; the finished checkpoint.

    Args:
        line: flags of main.py on the whole set, of which the annotation and the tree are replaced.
    """
    python("main.py", *line, "--annotation_path", (split.folder / "known.json").resolve(), "--tree_file",
           (split.folder / "hierarchy.csv").resolve(), "--result_path", results, "--resume_path", "auto")
    return newest_whole(results)
