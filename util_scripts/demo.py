"""The whole job on the embedded data: prepare, train, push, infer, evaluate, explain, and say how good it is.

Runs the project's own command lines, one after the other, and recomputes every figure of the summary from the files
that they leave.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.reading import JpegFolder, VideoFile
from datasets.transforms import EvalTransform, normalise
from datasets.video import Video
from evaluation.baselines import mean_frame_linear
from evaluation.decisions import decision_measures
from evaluation.localisation import Tube, on_event, points_at, random_hits, read_truth, read_ways
from evaluation.prototypes import ways_covered
from evaluation.recognition import accuracy_per_level
from explain.heat import heat_of
from explain.names import file_name
from hierarchy.tree import Hierarchy, level_name
from models import HIPE
from models.geometry import points_to_source
from options.errors import CommandLine, user_errors
from run.data import make_loader, make_reader, read_videos, window_clips, window_power
from run.model import model_of
from run.paths import HERE
from run.resume import stored_args
from training.checkpoint import load_checkpoint, newest_whole
from training.engine import predict
from training.push import PushRecord

# A small trunk of 4 x 8 x 8 cells for clips of 16 x 64 x 64, and a schedule that two CPU cores finish in minutes.
TRAINING = """--model_depth 10 --resnet_widen_factor 0.25 --conv1_t_size 3 --temporal_strides 2 1 2 1 1
 --spatial_strides 2 2 2 1 1 --sample_size 64 --batch_size 24 --trunk_epochs 32 --warm_epochs 14 --n_epochs 14
 --train_jitter 0 --focus 0.02 --prototypes_per_node 4 --edge 1.5
 --val_every 100 --n_val_samples 4 --inference_stride 4 --n_threads 0 --memory_gb 1"""
# Flags of main.py that the demo needs as it sets them.
OF_DEMO = ("--root_path", "--result_path", "--resume_path", "--video_path", "--annotation_path", "--dataset",
           "--no_train", "--inference", "--inference_subset")

DRAWN = 4  # mistakes whose explanations are drawn, and other videos
EXPLAINED = 48  # test videos that are explained above the class; at the class all are
BATCH = 48  # windows at a time

PARTS = {"videos", "ucfTrainTestlist", "hierarchy.csv", "truth.json", "jpg", "ucf101_01.json", "results",
         "summary.json"}  # what a demo writes


def run(*command: str | Path) -> None:
    """Run one of the project's command lines, showing it as a user would type it.

    Raises:
        ValueError: when it fails; it has said why.
    """
    words = [str(word) for word in command]
    print("\n$ python " + shlex.join(words), flush=True)
    if subprocess.run([sys.executable, *words], cwd=HERE).returncode:
        raise ValueError(f"python {shlex.join(words)} failed; its own message stands above")


def pictured(results: Path) -> list[str]:
    """The videos whose explanations are drawn: the worst mistakes, and others, spread over the classes."""
    worst = [mistake["video"] for mistake in json.loads((results / "metrics.json").read_text())["mistakes"]]
    others = [video for video in json.loads((results / "val.json").read_text())["results"] if video not in worst]
    return [*worst[:DRAWN], *others[::max(len(others) // DRAWN, 1)][:DRAWN]]


def mean_frames(files: list[Path]) -> np.ndarray:
    """(N, H, W, 3) mean of all frames of every video file."""
    reader = VideoFile()
    return np.stack([reader.frames(file).float().mean(0).numpy() for file in files])


def linear_accuracy(folder: Path, train: list[Video], test: list[Video]) -> float:
    """How much a linear model tells from the videos' mean frames alone: the data must not be that easy."""
    groups = np.array([video.name.split("_")[2] for video in train])
    frames, labels = zip(*((mean_frames([folder / video.path.parent.name / f"{video.name}.avi" for video in videos]),
                            np.array([video.label for video in videos])) for videos in (train, test)), strict=True)
    return mean_frame_linear(frames[0], labels[0], frames[1], labels[1], groups=groups)


def window_of(video: Video, explanation: dict, size: int) -> Tensor:
    """The window that an explanation is of: (3, T, H, W), normalised."""
    return normalise(EvalTransform(size)(JpegFolder().frames(video.path, torch.arange(*explanation["window"])))[0])


def grad_cam_peak(model: HIPE, clip: Tensor, explanation: dict, label: int) -> tuple[int, int, int]:
    """Where Grad-CAM of the trunk's pooled head peaks for a class, in an explanation's window: source frame, y, x."""
    extent = tuple(clip.shape[1:])
    heat = heat_of("grad_cam", lambda clips: model.pooled_log_probs(model.trunk(clips))[:, label], clip,
                   trunk=model.trunk)
    peak, frames = torch.stack(torch.unravel_index(heat.argmax(), heat.shape)), torch.arange(*explanation["window"])
    return tuple(points_to_source(peak, frames, torch.tensor(explanation["crop"]), extent[1:]).tolist())


def share(hits: Iterable[float]) -> float:
    """Mean of hits, rounded; 0 of none."""
    hits = list(hits)
    return round(float(np.mean(hits)), 4) if hits else 0.0


def pointing(model: HIPE, videos: list[Video], clips: list[Tensor], explanations: dict[str, dict],
             truth: dict[str, list[Tube]]) -> dict[str, float]:
    """The pointing game over the correctly classified videos: prototypes, a random point, Grad-CAM; and strictly."""
    hits: dict[str, list] = {name: [] for name in ("pointing", "pointing_random", "pointing_grad_cam")}
    strictly: dict[str, list] = {f"{name}_strict": [] for name in hits}
    for video, clip in zip(videos, clips, strict=True):
        explanation = explanations[video.name]
        if explanation["prediction"][0] != explanation["truth"]:
            continue
        tubes = truth[video.name]
        own = tuple(explanation["levels"][0]["prototypes"][0]["peak"])
        cam = grad_cam_peak(model, clip, explanation, video.label)
        frames, crop = np.arange(*explanation["window"]), np.array(explanation["crop"])
        for strict, into in ((False, hits), (True, strictly)):
            suffix = "_strict" if strict else ""
            into[f"pointing{suffix}"].append(points_at(own, tubes, strict=strict))
            into[f"pointing_random{suffix}"].append(random_hits(tubes, frames, crop, strict=strict))
            into[f"pointing_grad_cam{suffix}"].append(points_at(cam, tubes, strict=strict))
    return {name: share(values) for name, values in (hits | strictly).items()}


def centred_on_event(rows: list[dict], truth: dict[str, list[Tube]], n_levels: int) -> float:
    """Share of the pushed class prototypes whose own patch is centred on the event of its training video."""
    return share(points_at(tuple(row["peak"]), truth[row["video"]]) for row in rows
                 if row["video"] is not None and len(row["node"]) == n_levels)


def decisions(model: HIPE, record: PushRecord, hierarchy: Hierarchy, videos: list[Video], clips: list[Tensor],
              explanations: dict[str, dict]) -> list[list[dict[str, float]]]:
    """What the prototypes of every level have to do with the decision, of every video's explained window.

    Returns:
        by video and level, see `decision_measures`.
    """
    leaf_of = {hierarchy.full_name(leaf): leaf for leaf in hierarchy.levels[0]}
    found = []
    for first in range(0, len(videos), BATCH):
        with torch.no_grad():
            output = model(torch.stack(clips[first:first + BATCH]))
        for i, video in enumerate(videos[first:first + BATCH]):
            leaf = leaf_of[explanations[video.name]["prediction"][0]]
            found.append(decision_measures(model, output.activations[i], output.distances[i], hierarchy.path_ids(leaf),
                                           truth=hierarchy.path_ids(video.label), record=record))
    return found


def decided(measures: list[dict[str, float]]) -> dict[str, float | None]:
    """The figures of one level: medians of nats and likeness, means of shares; None where nothing is known."""
    def of(name: str, how: Callable[[list[float]], float]) -> float | None:
        values = [one[name] for one in measures if name in one]
        return round(float(how(values)), 4) if values else None

    total = sum(abs(one["total_evidence"]) for one in measures)
    off = sum(abs(one["descendants_evidence"] + one["elsewhere_evidence"]) for one in measures)
    return {"off_path": round(off / total, 4) if total else None,
            **{name: of(name, np.mean) for name in ("own_evidence", "own_needed")},
            **{name: of(name, np.median) for name in ("silenced", "silenced_needed", "silenced_three", "similarity")},
            **{name: of(name, np.mean) for name in ("flips", "flips_three", "closer_than", "typical", "nearest_own")}}


def points_at_level(explanations: dict[str, dict], level: int, truth: dict[str, list[Tube]],
                    of_truth: dict[str, tuple[str, ...]]) -> dict[str, float | int]:
    """How often the first prototype of a level points at the event, over the explained videos whose node is right.

    Args:
        explanations: by video. of_truth: by video, the names of the true class and of what lies above it.
    """
    hits = []
    for video, explanation in explanations.items():
        found = next((one for one in explanation["levels"] if one["level"] == level), None)
        if found is not None and found["node"] == of_truth[video][level]:
            hits.append(points_at(tuple(found["prototypes"][0]["peak"]), truth[video]))
    return {"explained": sum(any(one["level"] == level for one in explanation["levels"])
                             for explanation in explanations.values()), "pointing": share(hits)}


def lost_at_push(log: Path, n_levels: int) -> list[float] | None:
    """Accuracy that the last push, its merging and the tuning after it cost at each level, (L,), negative for a gain.

    The last validation before the last push minus the last one after it, of metrics.jsonl; None where one is missing.
    """
    events = [json.loads(line) for line in log.read_text().splitlines()]
    pushed = max((i for i, event in enumerate(events) if event["event"] == "push"), default=0)
    before, after = ([event for event in some if event["event"] == "val" and event["done"][0] != "trunk"]
                     for some in (events[:pushed], events[pushed:]))
    if not before or not after:
        return None
    names = ["top1", *(f"level_{level}" for level in range(1, n_levels))]
    return [round(before[-1][name] - after[-1][name], 4) for name in names]


def same_way(videos: list[Video], explanations: dict[str, dict], ways: dict[str, int]) -> float | None:
    """How often the first class prototype comes from a video that shows the true class in the same way as the video.

    Over all videos whose way is known; a wrong class never does. None where no ways are known.
    """
    hits = []
    for video in videos:
        explanation = explanations[video.name]
        source = explanation["levels"][0]["prototypes"][0]["source"]
        if video.name in ways:
            hits.append(explanation["prediction"][0] == explanation["truth"] and source is not None
                        and ways[source["video"]] == ways[video.name])
    return share(hits) if hits else None


def read_explanations(results: Path, videos: list[Video]) -> list[dict[str, dict]]:
    """The contents of explanation.json by video: at the class of all videos, and above it of those that have one."""
    files = [{video.name: results / folder / file_name(video.name) / "explanation.json" for video in videos}
             for folder in ("local_analysis", "local_analysis_parents")]
    return [{name: json.loads(file.read_text()) for name, file in some.items() if file.is_file()} for some in files]


def summarise(out: Path, minutes: float) -> dict:
    """Recompute every figure from the files of a finished demo.

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


def softmax_accuracy(model: HIPE, args: argparse.Namespace, videos: list[Video], labels: Tensor) -> Tensor | None:
    """Accuracy of every level, (L,), of the trunk's softmax head on the same windows, pooled in the same way.

    None where that head has learnt nothing.
    """
    if not (args.trunk_epochs or getattr(args, "head_given", False)):
        return None
    clips = window_clips(args, videos, make_reader(args), args.inference_stride)
    loader = make_loader(clips, n_threads=0, device=model.device, batch_size=BATCH)
    pool = predict(model, loader, len(videos), device=model.device, pooled=True, description="softmax head",
                   power=window_power(args))
    return accuracy_per_level(pool.probs[:, :model.hierarchy.n_leaves].argmax(1), labels, model.hierarchy.ancestors)


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


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.demo", description=__doc__.splitlines()[0],
                         usage="%(prog)s [-h] [--seed N] [--ways {1,2}] [--way_share S] [--n_threads N] [out] "
                               "[-- flags of main.py]")
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "demo", help="folder to fill (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="of the data and the training (default: 1)")
    parser.add_argument("--ways", type=int, default=1, metavar="{1,2}",
                        help="2: every class is shown in two ways, as make_demo_dataset has it (default: 1)")
    parser.add_argument("--way_share", type=float, metavar="S", help="with --ways 2: share of the second way in the "
                                                                     "training videos (default: make_demo_dataset's)")
    parser.add_argument("--n_threads", type=int, default=2, help="processes that prepare the data (default: 2)")
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args, flags = parser.parse_args(words[:end]), words[end + 1:]
    if taken := [word for word in flags if word.partition("=")[0] in OF_DEMO]:
        raise ValueError(f"{taken[0]}: the demo sets it itself; leave it out behind --")
    out = args.out.resolve()
    if out.is_dir() and (foreign := {path.name for path in out.iterdir()} - PARTS):
        raise ValueError(f"{out}: holds {min(foreign)}, which no demo has made; give an empty folder")
    began = time.monotonic()
    for part in ("videos", "jpg", "results"):  # of an earlier demo, whole or not
        shutil.rmtree(out / part, ignore_errors=True)
    jobs = ("--n_jobs", str(args.n_threads))
    share_of = () if args.way_share is None else ("--way_share", str(args.way_share))
    run("-m", "util_scripts.make_demo_dataset", out, "--seed", str(args.seed), "--ways", str(args.ways), *share_of,
        *jobs)
    run("-m", "util_scripts.generate_video_jpgs", out / "videos", out / "jpg", "ucf101", *jobs)
    run("-m", "util_scripts.ucf101_json", out / "ucfTrainTestlist", out / "jpg", out)
    run("main.py", "--root_path", out, "--video_path", "jpg", "--annotation_path", "ucf101_01.json",
        "--dataset", "ucf101", "--tree_file", "hierarchy.csv", "--manual_seed", str(args.seed), *TRAINING.split(),
        "--inference", "--inference_batch_size", str(BATCH), "--overwrite", *flags)
    results = out / "results"
    checkpoint = newest_whole(results)
    run("-m", "util_scripts.eval_accuracy", out / "ucf101_01.json", results / "val.json", "--subset", "val", "-k", "1")
    levels = json.loads((results / "metrics.json").read_text())["levels"]
    scripts = ("local_analysis.py", *(("local_analysis_parents.py",) if len(levels) > 1 else ()))
    for script, n in zip(scripts, (0, EXPLAINED), strict=False):
        run(script, "--resume_path", checkpoint, "--n_videos", str(n), "--no_img", "--k", "1",
            "--inference_batch_size", "24")
    for script in scripts:
        run(script, "--resume_path", checkpoint, "--videos", *pictured(results))
    print("\nsummary ...", flush=True)
    summary = summarise(out, 0.0)
    summary["minutes"] = round((time.monotonic() - began) / 60, 2)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"\n{summary['minutes']} minutes\n\n{table(summary)}")
    print(f"\nAll figures: {out / 'summary.json'}\nOpen the report: {out.parent / summary['report']}")


if __name__ == "__main__":
    with user_errors():
        main()
