"""Attribution methods on a real network with real truth: do they find the actor, and what the network looks at?

Every method explains what the network predicts of each boxed clip (the classes are not the network's own), beside
random and centred heat and the event itself. Needs ucf101/ and ucf24/ in --data.
"""

import argparse
import json
import shlex
from pathlib import Path

import pandas as pd

import evaluate_explanations
from benchmarks.filmed.boxed import boxed_clips, interval, markdown_table
from evaluation.measures import ARROWS, MEASURES
from options.ranges import AMOUNT, COUNT

TABLES = {
    "Where the heat is": ("pointing_strict", "pointing", "pointing_space", "pointing_time", "energy", "energy_space",
                          "energy_time"),
    "Where its box is, and what the network makes of it": (
        "box_iou", "box_iou_space", "box_iou_time", "box_volume", "box_only", "box_hidden", "insertion", "deletion")}
PUBLISHED = ("Published for comparison: removal-based methods on UCF-101 reach a pointing accuracy of 53 %, and "
             "intersections over union below 20 % (REVEX, Gaya-Morey et al., arXiv 2401.11796).")


def flags(group: argparse._ArgumentGroup) -> None:
    """Of this part."""
    add = group.add_argument
    add("--attribution_methods", nargs="+", default=["all"], metavar="METHOD", help="(default: all)")
    add("--attribution_size", type=COUNT, default=160, help="pixels of a clip's side (default: 160)")
    add("--attribution_duration", type=COUNT, default=32, help="frames of a clip (default: 32)")
    add("--attribution_stride", type=COUNT, default=2, help="from one frame of a clip to the next (default: 2)")
    add("--attribution_iterations", type=COUNT, default=150, help="of a perturbation (default: 150)")
    add("--attribution_steps", type=COUNT, default=11, help="of insertion and deletion (default: 11)")
    add("--attribution_flags", default="", metavar="'...'",
        help="more flags of evaluate_explanations.py, as --attribution_flags='--device cuda --model_depth 50'")
    add("--attribution_clips", type=AMOUNT, default=0, help="how many, over the classes; 0 for all (default: 0)")


def run(data: Path, out: Path, args: argparse.Namespace) -> str:
    """Measure what rows.jsonl in `out` does not have yet; returns the tables."""
    videos, truth = boxed_clips(data, out, args.attribution_clips)
    measures = [name for names in TABLES.values() for name in names]
    line = ["--model", args.model, "--pretrain_path", args.pretrain_path,
            *(["--classes", Path(args.classes).resolve()] if args.classes else []),
            "--videos_dir", videos, "--truth", truth, "--out", out, "--vis_method", *args.attribution_methods,
            "--smooth", "--measures", *measures, "--sample_size", args.attribution_size,
            "--sample_duration", args.attribution_duration, "--sample_t_stride", args.attribution_stride,
            "--inference_stride", 16, "--num_iter", args.attribution_iterations, "--steps", args.attribution_steps,
            "--batch_size", 1, *(["--no_cuda"] if args.no_cuda else []), *shlex.split(args.attribution_flags)]
    evaluate_explanations.main([str(word) for word in line])
    rows = [row for row in map(json.loads, (out / "rows.jsonl").read_text(encoding="utf-8").splitlines())
            if "video" in row and any(videos.glob(f"*/{row['video']}*"))]
    return tables(pd.read_csv(out / "measures.csv"), rows, args)


def tables(frame: pd.DataFrame, rows: list[dict], args: argparse.Namespace) -> str:
    """Markdown of measures.csv, and of what is predicted."""
    predicted = {row["video"]: row["node"] for row in rows}
    clip = (f"{args.attribution_duration} frames at stride {args.attribution_stride} of {args.attribution_size} "
            f"pixels, {args.attribution_iterations} iterations, {args.attribution_steps} steps")
    parts = [f"### Attribution on {args.model} ({args.pretrain_path}), {len(predicted)} clips with a tube\n",
             f"For the predicted class; {clip}; mean [95 % interval over clips]. {PUBLISHED} "
             "`event` is the tube itself as heat, `chance` what heat that knows nothing comes to. Of each clip the "
             "surest window is explained; where the tube is not in it, only the rest is measured.\n"]
    cells: dict[str, dict[str, str]] = {}
    for row in frame.itertuples():
        cells.setdefault(row.explanation, {})[row.measure] = interval(row.mean, row.low, row.high)
    n = frame.pivot_table(index="explanation", columns="measure", values="n")
    for title, names in TABLES.items():
        heads = {name: f"{name} {ARROWS[MEASURES[name].direction]}".rstrip() for name in names}
        shown = {explanation: {heads[name]: cell for name, cell in row.items() if name in heads}
                 for explanation, row in cells.items()}
        shown = {explanation: {"clips": f"{n.loc[explanation, names].max():.0f}", **row}
                 for explanation, row in shown.items() if row}
        parts.append(f"{title}:\n\n" + markdown_table(["clips", *heads.values()], shown))
    parts.append("- " + "\n- ".join(f"`{name}`: {MEASURES[name].meaning}" for names in TABLES.values()
                                    for name in names) + "\n")
    parts.append("Predicted: " + "; ".join(f"{video}: {node}" for video, node in predicted.items()) + ".\n")
    return "\n".join(parts)
