"""A tree of real actions: the classes of UCF-101 that have clips of two groups or more, under UCF-101's own levels, on
a frozen trunk. One group of each class is explained and the others are trained on: too few to claim accuracy, enough to
read explanations.

Needs ucf101/ and ucf24/ in --data. Pages are in OUT/tree/run/local_analysis/, with a story of all levels.
"""

import argparse
import csv
import io
import json
import re
import shlex
from pathlib import Path

from benchmarks.filmed.boxed import SOURCES, markdown_table
from benchmarks.filmed.settings import claim
from benchmarks.runs import figures, python
from datasets.on_disk import videos_on_disk
from machine.writing import write_text
from options.ranges import COUNT
from run.paths import HERE

FLAGS = """--dataset ucf101 --tree_file hierarchy.csv --video_path videos --annotation_path actions.json
 --file_type video --ft_begin_module fc --batch_size 4 --trunk_epochs 20 --warm_epochs 20 --n_epochs 21 --push_start 21
 --n_val_samples 4 --push_clips 4 --middle_push_clips 4 --val_every 100 --checkpoint 100 --inference"""

OF_A_RUN = ("model", "pretrain_path", "tree_size", "tree_duration", "tree_stride", "tree_flags")


def flags(group: argparse._ArgumentGroup) -> None:
    """Of this part."""
    add = group.add_argument
    add("--tree_size", type=COUNT, default=224, help="pixels of a clip's side (default: 224)")
    add("--tree_duration", type=COUNT, default=32, help="frames of a clip (default: 32)")
    add("--tree_stride", type=COUNT, default=2, help="from one frame of a clip to the next (default: 2)")
    add("--tree_name", default="run", help="folder of the run below OUT/tree (default: run)")
    add("--tree_flags", default="", metavar="'...'", help="more flags of main.py")


def groups_of(data: Path) -> dict[str, dict[int, list[Path]]]:
    """The files of each class and group, of classes with clips of two groups or more.

    Raises:
        ValueError: where there is no such class.
    """
    groups: dict[str, dict[int, list[Path]]] = {}
    for source in SOURCES:
        for path in sorted(map(Path, videos_on_disk(data / source / "videos").values())):
            if match := re.fullmatch(r"v_(\w+)_g(\d+)_c\d+", path.stem):
                groups.setdefault(match[1], {}).setdefault(int(match[2]), []).append(path)
    groups = {name: of for name, of in sorted(groups.items()) if len(of) > 1}
    if not groups:
        raise ValueError(f"{data}: holds no class with clips of two groups in {' or '.join(SOURCES)}; check --data")
    return groups


def prepare(data: Path, out: Path) -> int:
    """Link the clips, and write annotation and tree; returns the number of classes. A class's last group is explained.
    """
    groups, database = groups_of(data), {}
    for name, of in groups.items():
        for group, paths in of.items():
            for path in paths:
                link = out / "videos" / name / path.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(path)
                database[path.stem] = {"subset": "validation" if group == max(of) else "training",
                                       "annotations": {"label": name}}
    write_text(out / "actions.json", json.dumps({"labels": list(groups), "database": database}))
    with (HERE / "UCF-101_hierarchy.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] in groups]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_text(out / "hierarchy.csv", text.getvalue())
    return len(groups)


def run(data: Path, out: Path, args: argparse.Namespace) -> str:
    """Train and explain what `out` does not hold yet; returns the table of what is predicted."""
    n_classes, results = prepare(data, out), out / args.tree_name
    device = ["--no_cuda"] if args.no_cuda else []
    claim(results, {name: getattr(args, name) for name in OF_A_RUN})
    if not (results / "metrics.json").is_file():
        python("main.py", "--root_path", out, *FLAGS.split(), "--n_classes", n_classes, "--model", args.model,
               "--pretrain_path", args.pretrain_path, "--sample_size", args.tree_size, "--sample_duration",
               args.tree_duration, "--sample_t_stride", args.tree_stride, "--result_path", results, "--resume_path",
               "auto", *device, *shlex.split(args.tree_flags))
    for script in ("local_analysis", "local_analysis_parents"):
        if not (results / script / "index.html").is_file():
            checkpoint, = results.glob("save_*.pth")
            python(f"{script}.py", "--resume_path", checkpoint, "--n_videos", 0, "--heat", "upsample", *device)
    return table(results, args)


def table(results: Path, args: argparse.Namespace) -> str:
    """What is predicted of each clip, and the accuracies."""
    predictions = json.loads((results / "val.json").read_text())["results"]
    cells = {video: {"prediction": of[0]["label"], "probability": f"{of[0]['score']:.2f}"}
             for video, of in predictions.items()}
    measured = ", ".join(f"{name} {value:.2f}" for name, value in figures(results).items())
    return (f"### A tree of real actions, frozen {args.model} ({args.pretrain_path})\n\n"
            f"{args.tree_duration} frames at stride {args.tree_stride} of {args.tree_size} pixels; {len(predictions)} "
            f"clips of groups that training never saw: {measured}.\n\n"
            + markdown_table(["prediction", "probability"], cells))
