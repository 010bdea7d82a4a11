"""Do prototypes sit on people? The boxes of pushed prototypes against the tubes of the clips that they come from.

Of every checkpoint in --prototypes_of, or of the part tree, the prototypes whose training video is one of the boxed
clips. Needs ucf101/ and ucf24/ in --data.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.filmed.boxed import boxed_truth, interval, markdown_table
from evaluation.localisation import box_in_event, read_truth
from evaluation.summary import bootstrap
from hierarchy.tree import level_name
from machine.writing import write_text
from run.model import model_of
from training.checkpoint import load_checkpoint

COLUMNS = {"meets": "box meets the tube", "meets_chance": "the same box anywhere",
           "inside": "share of the box inside", "inside_chance": "of the same box anywhere"}


def flags(group: argparse._ArgumentGroup) -> None:
    """Of this part."""
    group.add_argument("--prototypes_of", type=Path, nargs="+", default=[], metavar="CHECKPOINT",
                       help="HIPE checkpoints that were pushed to videos among which are boxed ones (default: those of "
                            "the part tree)")


def run(data: Path, out: Path, args: argparse.Namespace) -> str:
    """Write rows.jsonl, a line each checkpoint and prototype; returns the table."""
    checkpoints = args.prototypes_of or sorted(out.parent.glob("tree/*/save_*.pth"))
    if not checkpoints:
        print("prototypes: left out, for there is neither a checkpoint of the part tree nor one of --prototypes_of",
              file=sys.stderr)
        return ""
    boxed_truth(data, out / "truth.json")
    truth, rows = read_truth(out / "truth.json"), []
    for path in checkpoints:
        model, _, record = model_of(load_checkpoint(path), path)
        if record is None:
            raise ValueError(f"{path}: nothing was pushed yet; give a later checkpoint")
        values = box_in_event(record, truth)
        node_of = model.prototype_layer.node_of.cpu()
        levels = model.level_of.cpu()[node_of].tolist()
        own = [{"checkpoint": f"{path.parent.name}/{path.name}", "prototype": p, "level": levels[p], "video": video,
                **{name: round(float(column[p]), 6) for name, column in values.items()}}
               for p, video in enumerate(record.video) if video in truth]
        if not own:
            raise ValueError(f"{path}: none of its {len(record.video)} prototypes comes from one of the {len(truth)} "
                             "boxed clips; train on a list that has some of them")
        rows += own
    write_text(out / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return table(rows)


def table(rows: list[dict]) -> str:
    """Markdown: a line each checkpoint and level, with 95 % intervals over prototypes."""
    lines: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys((row["checkpoint"], row["level"]) for row in rows):
        some = [row for row in rows if (row["checkpoint"], row["level"]) == key]
        lines[f"{key[0]}, {level_name(key[1])}"] = {"prototypes": str(len(some)), "clips": str(
            len({row["video"] for row in some}))} | {
            title: interval(*bootstrap([row[name] for row in some])) for name, title in COLUMNS.items()}
    return ("### Prototypes on the actor\n\nOf the pushed prototypes from clips with a tube; mean [95 % interval over "
            "prototypes].\n\n" + markdown_table(["prototypes", "clips", *COLUMNS.values()], lines))
