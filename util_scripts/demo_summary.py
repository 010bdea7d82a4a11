"""The summary of a finished demo: its figures, recomputed from its files, and their table; itself no script."""

import json
from pathlib import Path

import torch

from datasets.reading import JpegFolder
from datasets.video import Video
from evaluation.localisation import on_event, read_truth, read_ways
from evaluation.prototypes import ways_covered
from evaluation.recognition import accuracy_per_level
from explain.names import file_name
from hierarchy.tree import level_name
from run.data import read_videos
from run.model import model_of
from run.resume import stored_args
from training.checkpoint import load_checkpoint, newest_whole
from util_scripts.demo_measures import (
    centred_on_event,
    decided,
    decisions,
    linear_accuracy,
    lost_at_push,
    pointing,
    points_at_level,
    same_way,
    share,
    softmax_accuracy,
    window_of,
)


def read_explanations(results: Path, videos: list[Video]) -> list[dict[str, dict]]:
    """The contents of explanation.json by video: at the class of all videos, and above it of those that have one."""
    files = [{video.name: results / folder / file_name(video.name) / "explanation.json" for video in videos}
             for folder in ("local_analysis", "local_analysis_parents")]
    return [{name: json.loads(file.read_text()) for name, file in some.items() if file.is_file()} for some in files]


def summarise(out: Path, minutes: float) -> dict:
    """Compute every figure from the files of a finished demo.

    Args:
        out: the demo's folder; minutes: of work, as measured.
    """
    results = out / "results"
    checkpoint = load_checkpoint(newest_whole(results))
    model, hierarchy, record = model_of(checkpoint, results)
    model, args = model.eval(), stored_args(checkpoint)
    videos = read_videos(args, hierarchy)
    test = [video for video in videos if video.subset == "validation"]
    train = [video for video in videos if video.subset == "training"]
    labels = torch.tensor([video.label for video in test])
    predicted = json.loads((results / "val.json").read_text())["results"]
    accuracy = accuracy_per_level(
        torch.tensor([hierarchy.label(predicted[video.name][0]["label"]) for video in test]), labels,
        hierarchy.ancestors)
    metrics = json.loads((results / "metrics.json").read_text())
    explanations, above = read_explanations(results, test)
    clips = [window_of(video, explanations[video.name], args.sample_size) for video in test]
    truth, ways = read_truth(out / "truth.json"), read_ways(out / "truth.json")
    info = JpegFolder().info(test[0].path)
    rows = json.loads((results / "prototypes.json").read_text())
    lost = lost_at_push(results / "metrics.jsonl", hierarchy.n_levels)
    summary = {"minutes": round(minutes, 2), "top1": round(float(accuracy[0]), 4),
               "top_level": round(float(accuracy[-1]), 4),
               "mean_frame_linear": round(linear_accuracy(out / "videos", train, test), 4),
               **pointing(model, test, clips, explanations, truth),
               "prototypes_on_event": centred_on_event(rows, truth, hierarchy.n_levels),
               "calibration_error": round(metrics["levels"][0]["ece"], 4),
               "backoff_threshold": metrics["threshold"],
               "backoff_right": round(metrics["backoff"]["accuracy"], 4),
               "backoff_named": round(metrics["backoff"]["coverage_leaf"], 4)}
    if ways:
        leaves = {video.name: video.label for video in train}
        covered = ways_covered(record.video, model.prototype_layer.node_of, leaves, ways)
        summary |= {"same_way": same_way(test, explanations, ways), "ways_covered": share(covered[~covered.isnan()])}
    softmax = softmax_accuracy(model, args, test, labels)
    measures = decisions(model, record, hierarchy, test, clips, explanations)
    near = on_event(record, truth)  # (P,)
    of_truth = {video.name: tuple(map(hierarchy.full_name, hierarchy.path_ids(video.label))) for video in test}
    summary["levels"] = [{
        "level": level, "name": level_name(level), "nodes": len(hierarchy.levels[level]),
        "accuracy": round(float(accuracy[level]), 4),
        "softmax_head_accuracy": None if softmax is None else round(float(softmax[level]), 4),
        "accuracy_lost_at_push": None if lost is None else lost[level],
        "calibration_error": round(metrics["levels"][level]["ece"], 4),
        **decided([one[level] for one in measures]),
        **points_at_level(above if level else explanations, level, truth, of_truth),
        "prototypes": len(near[model.prototype_layer.level(level)]),
        "prototypes_on_event": share(hit for hit in near[model.prototype_layer.level(level)].tolist() if hit == hit),
    } for level in range(hierarchy.n_levels)]
    return summary | {"test_videos": len(test), "frame_size": [info.height, info.width],
                      "report": str((results / "report.html").relative_to(out.parent))}


MEANING = (
    ("top1", "class accuracy, {test_videos} videos of unseen groups"),
    ("top_level", "accuracy of the grandparent"),
    ("mean_frame_linear", "class accuracy of a linear model on the mean frame"),
    ("pointing", "heat peak of the first class prototype on the event (its frames, and the box it sweeps)"),
    ("pointing_random", "the same of a random point"),
    ("pointing_grad_cam", "the same of Grad-CAM on the trunk's softmax head"),
    ("pointing_strict", "heat peak in the event's box of that very frame"),
    ("pointing_random_strict", "the same of a random point"),
    ("pointing_grad_cam_strict", "the same of Grad-CAM"),
    ("prototypes_on_event", "pushed class prototypes that sit on an event"),
    ("calibration_error", "how far class probabilities are from how often they are right"),
    ("backoff_right", "right answers when the model climbs the tree until it is {backoff_threshold:.0%} sure"),
    ("backoff_named", "answers that then still name the class"),
    ("same_way", "first class prototypes that show the class in the way of the video"),
    ("ways_covered", "ways of a class that its prototypes come from"),
)
OF_LEVELS = (
    ("accuracy", "right"),
    ("softmax_head_accuracy", "right by the softmax head of the same trunk"),
    ("accuracy_lost_at_push", "of it lost when prototypes became patches and were merged and tuned"),
    ("similarity", "how alike the first prototype is (median)"),
    ("closer_than", "nearer to it than this share of other nodes' training videos"),
    ("nearest_own", "nearest of all prototypes is one of the truth"),
    ("silenced", "nats that it adds (median)"),
    ("silenced_needed", "the same over ln(siblings), what certainty takes"),
    ("flips_three", "another answer without the first three"),
    ("own_needed", "evidence of the node's own prototypes over ln(siblings)"),
    ("off_path", "evidence of prototypes below it and elsewhere, over all"),
    ("pointing", "its heat peaks on the event"),
    ("prototypes_on_event", "pushed prototypes on an event, within one cell"),
    ("calibration_error", "probabilities off by"),
)


def table(summary: dict) -> str:
    """The figures in plain words: those of the whole demo, then a column a level."""
    def figure(value: float | None) -> str:
        return f"{'-':>6}" if value is None else f"{value:6.3f}"

    lines = [f"  {figure(summary[name])}  {meaning.format(**summary)}" for name, meaning in MEANING if name in summary]
    levels = summary["levels"]
    width = max(len(level["name"]) for level in levels)
    lines += ["", "  " + "  ".join(f"{level['name']:>{width}}" for level in levels)]
    lines += ["  " + "  ".join(f"{figure(level[name]):>{width}}" for level in levels) + f"  {meaning}"
              for name, meaning in OF_LEVELS]
    return "\n".join(lines)
