"""How far prototypes decide and resemble, for heads of any flags on the same cached features of a trunk.

    python -m benchmarks.decisions --demo DIR [--trunk trunk.pth] [--tree_file other.csv] [--seeds 1 2] [other flags]

--demo is a folder with the synthetic set (jpg/, ucf101_01.json, hierarchy.csv, truth.json), as util_scripts.demo or
make_demo_dataset, generate_video_jpgs and ucf101_json fill it; --trunk a checkpoint whose trunk and softmax head were
trained on it (default: results/trunk.pth in that folder). The trunk stays as it is: its features of all clips are
computed once and cached in --work; start, warm epochs, push, merging and tuning run on them as main.py runs them,
once a seed. Other flags are main.py's; by default they are the checkpoint's, or those of the score.

Prints, for each seed and in the mean, the accuracy of every stage and of the softmax head of the same trunk over the
same windows, pooled alike, and for every level the measures of evaluation.decisions over all test videos; pointing by
the centre of the best cell, in the box that the event sweeps; the share of pushed prototypes on an event within a cell;
where the set shows its classes in two ways, the share of right videos whose first class prototype comes from a training
video of the same way; and how often the evidence of the classes alone, without the levels above, would be right.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.cached_features import CachedTrunk, FeatureBatches, load_features, train_head
from benchmarks.tables import saved_tables
from datasets.video import Video
from evaluation.calibration import calibration_error
from evaluation.decisions import decision_measures
from evaluation.localisation import on_event, points_at, read_truth, read_ways
from evaluation.recognition import accuracy_per_level, pool_windows
from hierarchy.tree import Hierarchy, level_name
from models import HIPE
from models.geometry import cell_centre, points_to_source
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from options.trunks import TRUNK_FLAGS
from run.data import read_videos, window_power
from run.model import build_model, fresh_embedding
from run.resume import fresh, stored_args
from training.checkpoint import load_checkpoint
from training.push import PushRecord

TRUNK = ("model", "model_depth", "conv1_t_stride", "no_max_pool", "temporal_strides", "spatial_strides", "sample_size",
         "sample_duration", "sample_t_stride", "batch_size", "trunk_epochs", "inference_stride", "train_jitter",
         "normalisation", "video_path", "annotation_path", "manual_seed", *TRUNK_FLAGS)
CLIPS = ("cache_features", "push_clips", "train_crop", "train_crop_min_scale", "train_crop_min_ratio")


def digest_of(demo: Path, state: dict[str, Tensor], args: argparse.Namespace) -> str:
    """Eight letters that depend on everything that decides the trunk's features of a demo's clips."""
    flags = [(name, getattr(args, name)) for name in (*TRUNK, *CLIPS)]
    trunk = [value.numpy().tobytes() for name, value in sorted(state.items()) if name.startswith("trunk.")]
    return hashlib.sha256(repr((str(demo), flags)).encode() + b"".join(trunk)).hexdigest()[:8]


class Test:
    """The test videos' windows, as cached features.

    Args:
        cached: features and fields by name. videos: V of them. demo: the folder with truth.json.
    """

    def __init__(self, cached: dict[str, Tensor], videos: Sequence[Video], tree: Hierarchy, demo: Path,
                 power: float) -> None:
        self.cached, self.videos, self.tree, self.power = cached, videos, tree, power
        self.labels = torch.tensor([video.label for video in videos])
        self.tubes, self.ways = read_truth(demo / "truth.json"), read_ways(demo / "truth.json")

    def pooled(self, log_probs: Tensor) -> Tensor:
        """(N, K) of the windows -> (V, K0) probabilities of the videos."""
        windows = [log_probs[self.cached["video"] == v] for v in range(len(self.videos))]
        return torch.stack([pool_windows(some, self.tree.membership, self.power)[0][:self.tree.n_leaves]
                            for some in windows])

    def by_level(self, probs: Tensor) -> list[float]:
        """Accuracies of (V, K0) probabilities."""
        return accuracy_per_level(probs.argmax(1), self.labels, self.tree.ancestors).tolist()

    @torch.no_grad()
    def outputs(self, model: HIPE) -> dict[str, Tensor]:
        """Outputs of the model for every window."""
        model.eval()
        outputs = [model(batch["clip"]) for batch in FeatureBatches(self.cached, 48)]
        return {name: torch.cat([getattr(one, name) for one in outputs])
                for name in ("log_probs", "evidence", "activations", "distances", "cells")}

    def accuracy(self, model: HIPE) -> list[float]:
        """Accuracies of the model by level."""
        return self.by_level(self.pooled(self.outputs(model)["log_probs"]))

    @torch.no_grad()
    def softmax_head(self, model: HIPE) -> list[float]:
        """Accuracies of the trunk's softmax head."""
        log_probs = [model.node_log_probs(model.pooled_log_probs(batch["clip"]))
                     for batch in FeatureBatches(self.cached, 48)]
        return self.by_level(self.pooled(torch.cat(log_probs)))

    @torch.no_grad()
    def measures(self, model: HIPE, record: PushRecord) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Figures of the model, and of every level."""
        out, tree, layer = self.outputs(model), self.tree, model.prototype_layer
        probs = self.pooled(out["log_probs"])
        predicted = probs.argmax(1)
        sums: list[dict[str, list[float]]] = [{} for _ in tree.levels]
        same_way, nearest_way = [], []
        for v, video in enumerate(self.videos):
            windows = (self.cached["video"] == v).nonzero()[:, 0]
            best = windows[out["log_probs"][windows, predicted[v]].argmax()]
            path, truth = tree.ancestors[predicted[v]].tolist(), tree.ancestors[video.label].tolist()
            of_levels = decision_measures(model, out["activations"][best], out["distances"][best], path, truth=truth,
                                      record=record)
            gains = model.score.silenced(out["activations"][best], torch.tensor(path))
            for level, measures in enumerate(of_levels):
                first = int(gains[level].masked_fill(layer.node_of != path[level], -torch.inf).argmax())
                if path[level] == truth[level]:
                    peak = cell_centre(out["cells"][best, first], tuple(record.maps.shape[1:]), record.stride,
                                       record.clip_size, record.offset)
                    place = points_to_source(peak, self.cached["frames"][best], self.cached["crop"][best],
                                             record.clip_size[1:])
                    measures["pointing"] = points_at(tuple(place.tolist()), self.tubes[video.name])
                    if level == 0 and self.ways:
                        same_way.append(self.ways[record.video[first]] == self.ways[video.name])
                        other = layer.node_of != path[0]
                        nearest = int(out["activations"][best].masked_fill(other, -torch.inf).argmax())
                        nearest_way.append(self.ways[record.video[nearest]] == self.ways[video.name])
                for name, value in measures.items():
                    sums[level].setdefault(name, []).append(float(value))
        levels = [{name: float(np.median(values) if name in ("silenced", "silenced_needed", "similarity", "off_path")
                               else np.mean(values)) for name, values in one.items()} for one in sums]
        placed = on_event(record, self.tubes)  # (P,)
        for level, row in enumerate(levels):
            some = placed[layer.level(level)]
            row |= {"prototypes": len(some), "on_event": float(some.nanmean())}
        whole = {"calibration_error": calibration_error(probs.max(1).values, predicted == self.labels)[0],
                 "named": float((probs.max(1).values >= 0.9).double().mean())}
        if model.score.weights is not None:
            alone = out["evidence"][:, :tree.n_leaves].log_softmax(1)
            whole["class_evidence_alone"] = self.by_level(self.pooled(model.node_log_probs(alone)))[0]
        if same_way:
            whole |= {"same_way": float(np.mean(same_way)), "same_way_nearest": float(np.mean(nearest_way))}
        return whole, levels


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.decisions", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--demo", type=Path, required=True, help="folder of the synthetic set")
    parser.add_argument("--trunk", type=Path, help="checkpoint of its trunk (default: results/trunk.pth there)")
    parser.add_argument("--work", type=Path, default=Path("results/decisions"), help="(default: results/decisions)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of starts and batches (default: 1)")
    own, others = parser.parse_known_args(argv)
    demo = own.demo.resolve()
    trunk = (own.trunk or demo / "results" / "trunk.pth").resolve()
    if not (demo / "truth.json").is_file():
        raise ValueError(f"{demo}: holds no demo; make one with python -m util_scripts.demo {demo}")
    checkpoint = load_checkpoint(trunk)
    stored = stored_args(checkpoint)
    args, given = parse_main(["--root_path", str(demo), "--tree_file", "hierarchy.csv", *others])
    for name in set(TRUNK) - given:
        setattr(args, name, getattr(stored, name))
    args, tree = fresh(args)
    videos = read_videos(args, tree)
    training, testing = ([video for video in videos if video.subset == name] for name in ("training", "validation"))
    embedding = fresh_embedding(args, tree, None)
    state = {name: value for name, value in checkpoint["model"].items() if name.startswith(("trunk.", "pooled_head."))}
    rows = []
    cached = test = None
    for seed in own.seeds:
        torch.manual_seed(seed)
        model = build_model(args, tree, *embedding)
        model.load_state_dict(state, strict=False)
        features = own.work.resolve() / f"{demo.name}_{digest_of(demo, state, args)}.features"
        cached = cached or load_features(features, model, args, {"training": training, "validation": testing})
        model.trunk = CachedTrunk(model.trunk, cached["still"]["sizes"])
        test = test or Test(cached["test"], testing, tree, demo, window_power(args))
        accuracies = {"softmax head": test.softmax_head(model)}
        record = train_head(model, args, cached, training, seed,
                            lambda stage, model=model, test=test, into=accuracies:
                            into.update({stage: test.accuracy(model)}))
        whole, levels = test.measures(model, record)
        rows.append({"seed": seed, "accuracy": accuracies, **whole, "levels": levels})
        print(json.dumps(rows[-1]), flush=True)
    for level in range(tree.n_levels):
        names = list(dict.fromkeys(name for row in rows for name in row["levels"][level]))
        print(f"\n{level_name(level)}\n\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
        print("| " + " | ".join(f"{np.mean([row['levels'][level].get(name, np.nan) for row in rows]):.3f}"
                                for name in names) + " |")


if __name__ == "__main__":
    with user_errors(), saved_tables("decisions"):
        main()
