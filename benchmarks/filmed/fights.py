"""Fights filmed by surveillance cameras, four folds by scene, on a frozen trunk: a softmax head, ours, and a logistic
regression on pooled features; and how good the explanations are.

Needs fights/ in --data (Akti et al., IPTA 2019): videos/, ucfTrainTestlist/ with lists of each fold, hierarchy.csv.
"""

import argparse
import json
import re
import shlex
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import evaluate_explanations
from benchmarks.filmed.boxed import interval, markdown_table
from benchmarks.filmed.settings import claim
from benchmarks.runs import python
from evaluation.measures import ARROWS, MEASURES
from machine.writing import write_bytes, write_text, write_whole
from options.ranges import AMOUNT, COUNT
from run.data import even_clips, make_loader, make_reader, read_videos
from run.model import model_of
from run.resume import stored_args
from training.checkpoint import load_checkpoint
from training.features import valid_clips

CLIPS = 4  # of each video, evenly spaced; every head is judged on these
STRENGTHS = np.logspace(-4, 0, 9)  # of the logistic regression's fit to its data; held-out scenes choose one
FLAGS = f"""--dataset ucf101 --tree_file hierarchy.csv --n_classes 2 --file_type video --ft_begin_module fc
 --batch_size 16 --trunk_epochs 10 --warm_epochs 10 --n_epochs 11 --push_start 11
 --n_val_samples {CLIPS} --push_clips {CLIPS} --middle_push_clips {CLIPS} --val_every 100 --checkpoint 100"""
OF_A_RUN = ("model", "pretrain_path", "fights_size", "fights_duration", "fights_flags")
OF_EXPLANATIONS = ("fights_videos", "fights_steps")
STAGES = {"trunk": "softmax head", "joint": "ours before the push", "push": "ours after the push",
          "last": "ours after tuning"}
SHOWN = ("insertion", "deletion", "abpc", "average_drop", "box_only", "box_hidden", "sparseness")
OF_MATCHES = ("activation_box_only", "activation_box_hidden")  # of prototypes, which a softmax head has not


def flags(group: argparse._ArgumentGroup) -> None:
    """Of this part."""
    add = group.add_argument
    add("--fights_folds", type=COUNT, nargs="+", default=[1, 2, 3, 4], help="(default: 1 2 3 4)")
    add("--fights_seeds", type=COUNT, nargs="+", default=[1], help="(default: 1)")
    add("--fights_size", type=COUNT, default=160, help="pixels of a clip's side (default: 160)")
    add("--fights_duration", type=COUNT, default=32, help="frames of a clip (default: 32)")
    add("--fights_videos", type=AMOUNT, default=4,
        help="of each fold whose explanations are measured (default: 4; 0 for none)")
    add("--fights_steps", type=COUNT, default=8, help="of insertion and deletion (default: 8)")
    add("--fights_flags", default="", metavar="'...'", help="more flags of main.py")


def run(data: Path, out: Path, args: argparse.Namespace) -> str:
    """Train, fit and explain what `out` does not hold yet; returns the tables."""
    fights = data / "fights"
    if not (fights / "videos").is_dir():
        raise ValueError(f"{fights}: has no folder videos/; give the folder that holds fights/ as --data")
    if not (out / "hierarchy.csv").is_file():
        python("-m", "util_scripts.ucf101_json", fights / "ucfTrainTestlist", fights / "videos", out)
        write_bytes(out / "hierarchy.csv", (fights / "hierarchy.csv").read_bytes())
    rows, seconds = [], []
    for fold in args.fights_folds:
        for seed in args.fights_seeds:
            results = trained(fights, out, fold, seed, args)
            rows.append({"fold": str(fold), "seed": str(seed), **stages(results),
                         "logistic regression": regression(results, out, fold)})
            print("fold {fold}, seed {seed}: ".format(**rows[-1]) + ", ".join(
                f"{name} {value:.3f}" for name, value in rows[-1].items() if isinstance(value, float)), flush=True)
            seconds.append(json.loads((results / "seconds.json").read_text()))
    text = accuracies(rows, seconds, args)
    if args.fights_videos:
        text += explained(pd.concat([explanations(out / f"fold{fold}_seed{args.fights_seeds[0]}", args)
                                     for fold in args.fights_folds]), args)
    return text


def trained(fights: Path, out: Path, fold: int, seed: int, args: argparse.Namespace) -> Path:
    """The results folder of one run of main.py, which goes on where it was interrupted."""
    results = out / f"fold{fold}_seed{seed}"
    begun = (results / "opts.json").is_file()
    claim(results, {name: getattr(args, name) for name in OF_A_RUN})
    if not (results / "seconds.json").is_file():
        began = time.perf_counter()
        python("main.py", "--root_path", out, "--video_path", fights / "videos", "--annotation_path",
               f"ucf101_{fold:02}.json", "--model", args.model, "--pretrain_path", args.pretrain_path, *FLAGS.split(),
               "--sample_size", args.fights_size, "--sample_duration", args.fights_duration, "--manual_seed", seed,
               "--result_path", results, "--resume_path", "auto", *(["--no_cuda"] if args.no_cuda else []),
               *shlex.split(args.fights_flags))
        # of a whole run alone
        write_text(results / "seconds.json", json.dumps(None if begun else time.perf_counter() - began))
    return results


def stages(results: Path) -> dict[str, float]:
    """Video accuracy at the end of every stage of a run."""
    events = map(json.loads, (results / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    last = {event["done"][0]: event["top1"] for event in events if event["event"] == "val"}
    return {name: last[kind] for kind, name in STAGES.items()}


def checkpoint_of(results: Path) -> Path:
    """The last checkpoint of a finished run."""
    return max(results.glob("save_*.pth"), key=lambda path: int(re.search(r"\d+", path.stem).group()))


def pooled_features(results: Path, file: Path) -> tuple[list[str], torch.Tensor]:
    """The names of all videos, and the trunk's features of their clips, means over the grid: (N, CLIPS, C).

    Args:
        results: of any fold, for all have the same trunk and clips. file: where the features are kept.
    """
    if not file.is_file():
        checkpoint = load_checkpoint(checkpoint_of(results))
        model, tree, _ = model_of(checkpoint, results)
        flags, model = stored_args(checkpoint), model.eval()
        videos = read_videos(flags, tree)
        clips = even_clips(flags, videos, make_reader(flags), CLIPS, normalisation=model.normalisation)
        loader = make_loader(clips, n_threads=0, device=torch.device("cpu"), batch_size=4)
        with torch.no_grad():
            features = torch.cat([model.trunk(batch["clip"]).mean((2, 3, 4))
                                  for batch in valid_clips(loader, torch.device("cpu"), "pooled features")])
        content = {"names": list(videos.names), "features": features.unflatten(0, (-1, CLIPS))}
        write_whole(file, lambda out: torch.save(content, out))
    stored = torch.load(file, weights_only=True)
    return stored["names"], stored["features"]


def regression(results: Path, out: Path, fold: int) -> float:
    """Test accuracy of a logistic regression on standardised pooled features, trained on the clips of a fold.

    A video's probability is the mean of its clips'. The strength of the fit is chosen by scenes held out of training.
    """
    names, features = pooled_features(results, out / "pooled.pt")
    database = json.loads((out / f"ucf101_{fold:02}.json").read_text())["database"]
    labels = np.array([database[name]["annotations"]["label"] for name in names])
    scenes = np.array([re.search(r"_g(\d+)_", name).group(1) for name in names])
    train = np.array([database[name]["subset"] == "training" for name in names])
    per_clip = features.double().numpy()

    def rows(which: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.repeat(of[which], CLIPS)

    folds = list(GroupKFold(5).split(rows(train, labels), groups=rows(train, scenes)))
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(
        Cs=STRENGTHS, cv=folds, max_iter=5000, scoring="neg_log_loss", l1_ratios=(0,), use_legacy_attributes=False))
    model.fit(per_clip[train].reshape(-1, per_clip.shape[-1]), rows(train, labels))
    probabilities = model.predict_proba(per_clip[~train].reshape(-1, per_clip.shape[-1]))
    probabilities = probabilities.reshape(-1, CLIPS, probabilities.shape[-1]).mean(1)
    return float((model.classes_[probabilities.argmax(1)] == labels[~train]).mean())


def explanations(results: Path, args: argparse.Namespace) -> pd.DataFrame:
    """What evaluate_explanations.py measures of our explanations, and of attributions on the softmax head."""
    frames = []
    for head in ("prototypes", "softmax"):
        out = claim(results / f"explanations_{head}", {name: getattr(args, name) for name in OF_EXPLANATIONS})
        measures = (*SHOWN, *OF_MATCHES) if head == "prototypes" else SHOWN
        if not (out / "measures.csv").is_file():
            evaluate_explanations.main([
                "--resume_path", str(checkpoint_of(results)), "--head", head, "--out", str(out), "--n_videos",
                str(args.fights_videos), "--subset", "val", "--steps", str(args.fights_steps), "--methods", "grad_cam",
                "grad", "--smooth", "--measures", *measures, "--no_prototypes",
                *(["--no_cuda"] if args.no_cuda else [])])
        frames.append(pd.read_csv(out / "measures.csv").assign(head=head, fold=results.name))
    return pd.concat(frames)


def accuracies(rows: Sequence[dict], seconds: Sequence[float | None], args: argparse.Namespace) -> str:
    """Markdown of the accuracies of each fold, and their means."""
    columns = [*STAGES.values(), "logistic regression"]
    cells = {f"fold {row['fold']}, seed {row['seed']}": {name: f"{row[name]:.3f}" for name in columns} for row in rows}
    cells["mean"] = {name: f"{statistics.mean(row[name] for row in rows):.3f}" for name in columns}
    whole = [value for value in seconds if value is not None]
    took = f" of {statistics.mean(whole) / 60:.1f} minutes each on this machine" if whole else ""
    return "\n".join([f"### Fights, four folds by scene, frozen {args.model} ({args.pretrain_path})\n",
                      f"Video accuracy; {args.fights_duration} frames of {args.fights_size} pixels, {CLIPS} clips a "
                      f"video; {len(rows)} runs{took}.\n",
                      markdown_table(columns, cells)])


def explained(frame: pd.DataFrame, args: argparse.Namespace) -> str:
    """Markdown of the measures of explanations, means over the folds."""
    shown = frame[frame.measure.isin((*SHOWN, *OF_MATCHES)) & (frame.table == "explanations")].dropna(subset="mean")
    means = shown.groupby(["head", "explanation", "measure"])[["mean", "low", "high"]].mean()
    cells: dict[str, dict[str, str]] = {}
    for (head, explanation, measure), row in means.iterrows():
        head_name = "ours" if head == "prototypes" else "softmax head"
        column = f"{measure} {ARROWS[MEASURES[measure].direction]}".rstrip()
        cells.setdefault(f"{head_name}: {explanation}", {})[column] = interval(row["mean"], row["low"], row["high"])
    columns = sorted({column for row in cells.values() for column in row})
    return (f"\nExplanations of {args.fights_videos} test videos of each fold, means over the folds [and of the bounds "
            "of their 95 % intervals]:\n\n" + markdown_table(columns, cells))
