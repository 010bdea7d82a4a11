"""The whole job on the embedded data: prepare, train, push, infer, evaluate, explain, and say how good it is.

Runs the project's own command lines, one after the other, and recomputes every figure of the summary from the files
that they leave.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import build
from attribution import METHODS
from datasets.reading import JpegFolder, VideoFile
from datasets.transforms import EvalTransform, normalise
from datasets.video import Video
from evaluation.baselines import mean_frame_linear
from evaluation.localisation import Tube, points_at, random_hits, read_truth
from evaluation.recognition import accuracy_per_level
from explain.names import file_name
from models import HIPE
from models.geometry import points_to_source, upsample
from training.checkpoint import load_checkpoint, newest_whole
from util_scripts.errors import CommandLine, user_errors

# A small trunk of 4 x 8 x 8 cells for clips of 16 x 64 x 64, and a schedule that two CPU cores finish in minutes.
TRAINING = """--model_depth 10 --resnet_widen_factor 0.25 --conv1_t_size 3 --temporal_strides 2 1 2 1 1
 --spatial_strides 2 2 2 1 1 --sample_size 64 --batch_size 24 --trunk_epochs 32 --warm_epochs 14 --n_epochs 14
 --train_jitter 0 --focus 0.02 --background 0.8 --background_weight 0.75 --prototypes_per_node 4 --edge 1.5
 --orthogonality_weight 3 --sharing_weight 3
 --tune_iterations 100 --val_every 100 --n_val_samples 1 --inference_stride 4 --n_threads 0 --memory_gb 1"""

DRAWN = 4  # mistakes whose explanations are drawn, and other videos

PARTS = {"videos", "ucfTrainTestlist", "hierarchy.csv", "truth.json", "jpg", "ucf101_01.json", "results",
         "summary.json"}  # what a demo writes


def run(*command: str | Path) -> None:
    """Run one of the project's command lines, showing it as a user would type it.

    Raises:
        ValueError: when it fails; it has said why.
    """
    words = [str(word) for word in command]
    print("\n$ python " + shlex.join(words), flush=True)
    if subprocess.run([sys.executable, *words], cwd=build.HERE).returncode:
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


def grad_cam_peak(model: HIPE, video: Video, explanation: dict, label: int, size: int) -> tuple[int, int, int]:
    """Where Grad-CAM of the trunk's pooled head peaks for a class, in an explanation's window: source frame, y, x."""
    frames = torch.arange(*explanation["window"])
    clip = normalise(EvalTransform(size)(JpegFolder().frames(video.path, frames))[0])  # (3, T, H, W)
    extent = tuple(clip.shape[1:])
    heat = METHODS["grad_cam"](lambda clips: model.pooled_log_probs(model.trunk(clips))[:, label], clip,
                               layer=model.trunk,
                               upsample=lambda maps: upsample(maps, extent, model.trunk.stride, model.offset))
    peak = torch.stack(torch.unravel_index(heat.argmax(), heat.shape))
    return tuple(points_to_source(peak, frames, torch.tensor(explanation["crop"]), extent[1:]).tolist())


def share(hits: list[bool] | list[float]) -> float:
    """Mean of hits, rounded; 0 of none."""
    return round(float(np.mean(hits)), 4) if hits else 0.0


def pointing(model: HIPE, videos: list[Video], explanations: dict[str, dict], truth: dict[str, list[Tube]],
             size: int) -> dict[str, float]:
    """The pointing game over the correctly classified videos: prototypes, a random point, Grad-CAM; and strictly."""
    hits: dict[str, list] = {name: [] for name in ("pointing", "pointing_random", "pointing_grad_cam")}
    strictly: dict[str, list] = {f"{name}_strict": [] for name in hits}
    for video in videos:
        explanation = explanations[video.name]
        if explanation["prediction"][0] != explanation["truth"]:
            continue
        tubes = truth[video.name]
        own = tuple(explanation["levels"][0]["prototypes"][0]["peak"])
        cam = grad_cam_peak(model, video, explanation, video.label, size)
        frames, crop = np.arange(*explanation["window"]), np.array(explanation["crop"])
        for strict, into in ((False, hits), (True, strictly)):
            suffix = "_strict" if strict else ""
            into[f"pointing{suffix}"].append(points_at(own, tubes, strict=strict))
            into[f"pointing_random{suffix}"].append(random_hits(tubes, frames, crop, strict=strict))
            into[f"pointing_grad_cam{suffix}"].append(points_at(cam, tubes, strict=strict))
    return {name: share(values) for name, values in (hits | strictly).items()}


def on_event(rows: list[dict], truth: dict[str, list[Tube]], n_levels: int) -> float:
    """Share of the pushed class prototypes whose own patch is centred on the event of its training video."""
    return share([points_at(tuple(row["peak"]), truth[row["video"]]) for row in rows
                  if row["video"] is not None and len(row["node"]) == n_levels])


def summarise(out: Path, minutes: float) -> dict:
    """Recompute every figure from the files of a finished demo.

    Args:
        out: the demo's folder; minutes: of work, as measured.
    """
    results = out / "results"
    checkpoint = load_checkpoint(newest_whole(results))
    model, hierarchy, _ = build.model_of(checkpoint, results)
    args = build.stored_args(checkpoint)
    videos = build.read_videos(args, hierarchy)
    test = [video for video in videos if video.subset == "validation"]
    train = [video for video in videos if video.subset == "training"]
    predicted = json.loads((results / "val.json").read_text())["results"]
    accuracy = accuracy_per_level(
        torch.tensor([hierarchy.label(predicted[video.name][0]["label"]) for video in test]),
        torch.tensor([video.label for video in test]), hierarchy.ancestors)
    folder = results / "local_analysis"
    explanations = {video.name: json.loads((folder / file_name(video.name) / "explanation.json").read_text())
                    for video in test}
    truth = read_truth(out / "truth.json")
    info = JpegFolder().info(test[0].path)
    rows = json.loads((results / "prototypes.json").read_text())
    return {"minutes": round(minutes, 2), "top1": round(float(accuracy[0]), 4),
            "top_level": round(float(accuracy[-1]), 4),
            "mean_frame_linear": round(linear_accuracy(out / "videos", train, test), 4),
            **pointing(model.eval(), test, explanations, truth, args.sample_size),
            "prototypes_on_event": on_event(rows, truth, hierarchy.n_levels),
            "test_videos": len(test), "frame_size": [info.height, info.width],
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
)


def main() -> None:
    parser = CommandLine(prog="python -m util_scripts.demo", description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=build.HERE / "demo", help="folder to fill (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="of the data and the training (default: 1)")
    parser.add_argument("--n_threads", type=int, default=2, help="processes that prepare the data (default: 2)")
    args = parser.parse_args()
    out = args.out.resolve()
    if out.is_dir() and (foreign := {path.name for path in out.iterdir()} - PARTS):
        raise ValueError(f"{out}: holds {min(foreign)}, which no demo has made; give an empty folder")
    began = time.monotonic()
    for part in ("videos", "jpg", "results"):  # of an earlier demo, whole or not
        shutil.rmtree(out / part, ignore_errors=True)
    jobs = ("--n_jobs", str(args.n_threads))
    run("-m", "util_scripts.make_demo_dataset", out, "--seed", str(args.seed), *jobs)
    run("-m", "util_scripts.generate_video_jpgs", out / "videos", out / "jpg", "ucf101", *jobs)
    run("-m", "util_scripts.ucf101_json", out / "ucfTrainTestlist", out / "jpg", out)
    run("main.py", "--root_path", out, "--video_path", "jpg", "--annotation_path", "ucf101_01.json",
        "--dataset", "ucf101", "--tree_file", "hierarchy.csv", "--manual_seed", str(args.seed), *TRAINING.split(),
        "--inference", "--inference_batch_size", "48", "--overwrite")
    results = out / "results"
    checkpoint = newest_whole(results)
    run("-m", "util_scripts.eval_accuracy", out / "ucf101_01.json", results / "val.json", "--subset", "val", "-k", "1")
    run("local_analysis.py", "--resume_path", checkpoint, "--n_videos", "0", "--no_img", "--k", "1",
        "--inference_batch_size", "24")
    for script in ("local_analysis.py", "local_analysis_parents.py"):
        run(script, "--resume_path", checkpoint, "--videos", *pictured(results))
    print("\nsummary ...", flush=True)
    summary = summarise(out, 0.0)
    summary["minutes"] = round((time.monotonic() - began) / 60, 2)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"\n{summary['minutes']} minutes\n")
    for name, meaning in MEANING:
        print(f"  {summary[name]:6.3f}  {meaning.format(**summary)}")
    print(f"\nAll figures: {out / 'summary.json'}\nOpen the report: {out.parent / summary['report']}")


if __name__ == "__main__":
    with user_errors():
        main()
