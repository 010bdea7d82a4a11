"""The real clips whose actors have tubes, and Markdown tables of what is measured on them; itself no part."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.on_disk import videos_on_disk
from hierarchy.names import Names
from machine.writing import write_text
from util_scripts.ucf24_truth import read_annotation, truth_of

SOURCES = ("ucf101", "ucf24")  # folders of videos/ and boxes.json


def boxed_truth(data: Path, file: Path) -> dict[str, dict]:
    """Write the tubes of all boxed clips in their own pixels as truth.json, and return its content.

    Raises:
        FileNotFoundError, ValueError: where the clips are not there or do not fit their boxes.
    """
    truth: dict[str, dict] = {}
    for source in SOURCES:
        truth |= truth_of(read_annotation(data / source / "boxes.json"), data / source / "videos")[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(truth))
    return truth


def boxed_clips(data: Path, folder: Path, n: int = 0) -> tuple[Path, Path]:
    """Gather the boxed clips in one folder, as links.

    Args:
        folder: to fill. n: clips, the first of each class before the second ones; 0 for all.
    Returns:
        the folder of videos, and truth.json.
    """
    truth = boxed_truth(data, folder / "truth.json")
    paths = Names({name: Path(path) for source in SOURCES
                   for (_, name), path in videos_on_disk(data / source / "videos").items()})
    seen: dict[str, int] = {}
    order = []  # (how many of the class came before, name)
    for name, entry in truth.items():
        order.append((seen.get(entry["class"], 0), name))
        seen[entry["class"]] = order[-1][0] + 1
    chosen = {name for _, name in sorted(order)[:n or None]}
    for name in chosen:
        path = paths.find(name)
        link = folder / "videos" / truth[name]["class"] / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    for link in (folder / "videos").glob("*/*"):
        if link.stem not in chosen:
            link.unlink()
    return folder / "videos", folder / "truth.json"


def markdown_table(columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> str:
    """Rows by their names, with the cells that they have."""
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {name} | " + " | ".join(row.get(column, "") for column in columns) + " |"
              for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def interval(mean: float, low: float, high: float) -> str:
    """A mean and its 95 % interval."""
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
