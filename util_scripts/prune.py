"""Remove prototypes that are not their node's own: python -m util_scripts.prune --resume_path results/save_200.pth

ProtoPNet's rule (Chen et al., NeurIPS 2019): of the training videos whose nearest patch is nearest to a prototype, the
first --nearest are looked at, and a prototype is removed where fewer than --least of them are of its own node. Of every
node the best one stays, so that it can be explained. The last layer is tuned again, and what all this cost is printed.
The new checkpoint predicts, explains and goes on like any other; the old one is not touched.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import build
from datasets.groups import hold_out
from datasets.ucf101 import subset_of
from evaluation.recognition import accuracy_per_level
from hierarchy.tree import Hierarchy
from models import HIPE
from options import parse_main
from training.checkpoint import save_checkpoint
from training.engine import LossWeights, Phase, Trainer, predict
from training.features import valid_clips
from training.schedule import Step
from util_scripts.errors import CommandLine, user_errors


def own_among_nearest(distances: Tensor, labels: Tensor, node_of: Tensor, ancestors: Tensor, level_of: Tensor,
                      n: int) -> Tensor:
    """How many of the n videos nearest to a prototype are of its own node.

    Args:
        distances: (V, P), of each video's nearest patch. labels: (V,) leaves. node_of: (P,).
        ancestors: (K0, L). level_of: (K,).
    Returns:
        (P,) int64, 0..n.
    """
    nearest = distances.topk(min(n, len(distances)), dim=0, largest=False).indices  # (n, P)
    found = ancestors[labels[nearest], level_of[node_of]]  # (n, P), the node of the prototype's level
    return (found == node_of).sum(0)


def staying(own: Tensor, node_of: Tensor, n_nodes: int, least: int) -> Tensor:
    """Which prototypes stay: those with at least `least` own videos, and of every node the first of its best.

    Args:
        own: (P,) as from `own_among_nearest`; node_of: (P,).
    Returns:
        (P,) bool.
    """
    order = (-own).argsort(stable=True)
    order = order[node_of[order].argsort(stable=True)]  # by node, the best of each first
    counts = torch.bincount(node_of, minlength=n_nodes)
    best = order[(counts.cumsum(0) - counts)[counts > 0]]
    return (own >= least).scatter(0, best, True)


def prune(model: HIPE, hierarchy: Hierarchy, keep: Tensor, args: argparse.Namespace, c: float) -> HIPE:
    """A model with some of the prototypes: keep (P,) bool, in which every node has one."""
    layer = model.prototype_layer
    counts = torch.bincount(layer.node_of[keep], minlength=len(hierarchy))
    state = model.state_dict()
    state["prototype_layer.prototypes"] = state["prototype_layer.prototypes"][keep]
    state["last_layer.weight"] = state["last_layer.weight"][:, keep]
    pruned = build.build_model(args, hierarchy, model.embeddings.points, c, counts.tolist())
    pruned.load_state_dict(state)
    return pruned


def retune(model: HIPE, activations: Tensor, labels: Tensor, args: argparse.Namespace, passes: int) -> None:
    """Passes of the last layer alone, as after a push: activations (N, P), labels (N,)."""
    trainer = Trainer(model, {"last": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)},
                      LossWeights(ce=args.ce_weight, cluster=[0.0], separation=[0.0], background=0.0, coverage=0.0,
                                  group=args.group_weight))
    for i in range(passes):
        trainer.tune(Step("last", args.n_epochs, i), i / passes, activations, labels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.prune", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's; give --resume_path.")
    parser.add_argument("--nearest", type=int, default=6, help="training videos looked at (default: 6)")
    parser.add_argument("--least", type=int, default=3, help="of these that must be the node's own (default: 3)")
    parser.add_argument("--retune", type=int, help="passes of the last layer afterwards (default: --tune_iterations; "
                                                   "0 where it learns in joint epochs alone)")
    parser.add_argument("--out", type=Path, help="checkpoint to write (default: pruned/ beside the other, by its name)")
    own_args, others = parser.parse_known_args(argv)
    args, given = parse_main(others)
    if not args.resume_path:
        raise ValueError("--resume_path is missing; give the checkpoint to prune")
    if not 0 <= own_args.least <= own_args.nearest or own_args.nearest < 1 or (own_args.retune or 0) < 0:
        raise ValueError("--nearest must be at least 1, --least between 0 and --nearest, and --retune not negative")
    device = build.choose_device(args.device, args.no_cuda)
    checkpoint, path = build.resume(args, given)
    if checkpoint is None:
        raise ValueError(f"{args.result_path}: holds no checkpoint to prune; give one as --resume_path")
    out = (own_args.out or path.parent / "pruned" / path.name).expanduser().resolve()
    if out == path:
        raise ValueError(f"--out {out}: is the checkpoint itself, which stays; give another name")
    hierarchy = build.check_tree(args, given, checkpoint, path)
    model, _, record = build.model_of(checkpoint, path)
    if record is None:
        raise ValueError(f"{path}: nothing was pushed yet, so no prototype is a patch; prune after a push")
    model = model.to(device).eval()
    videos = hold_out(build.read_videos(args, hierarchy), checkpoint.get("held_out", ()))
    reader = build.make_reader(args)
    training, validation = ([video for video in videos if video.subset == subset_of(name)] for name in ("train", "val"))
    if not training:
        raise ValueError(f"{args.annotation_path}: lists no training video that is on disk; check --video_path")

    def loader(some, n):
        return build.make_loader(build.even_clips(args, some, reader, n), n_threads=args.n_threads, device=device,
                                 batch_size=args.batch_size)

    def accuracy(some: HIPE) -> list[float]:
        pool = predict(some, loader(validation, args.n_val_samples), len(validation), device=device, description="val",
                       power=build.window_power(args))
        labels = torch.tensor([video.label for video in validation])
        leaves = pool.probs[pool.seen, :hierarchy.n_leaves]
        return accuracy_per_level(leaves.argmax(1), labels[pool.seen], hierarchy.ancestors).tolist()

    activations, labels, distances = clips_of(model, loader(training, args.push_clips), len(training), device)
    layer, seen = model.prototype_layer, distances.isfinite().all(1)
    own = own_among_nearest(distances[seen], torch.tensor([video.label for video in training])[seen],
                            layer.node_of.cpu(), hierarchy.ancestors, hierarchy.level_of, own_args.nearest)
    keep = staying(own, layer.node_of.cpu(), len(hierarchy), own_args.least)
    pruned = prune(model, hierarchy, keep.to(device), args, checkpoint["embedding"]["c"]).to(device).eval()
    rows = {}
    if validation:
        rows |= {"before": accuracy(model), "pruned": accuracy(pruned)}
    passes = own_args.retune
    if passes is None:
        passes = args.tune_iterations if args.last_layer == "always" else 0
    if passes:
        retune(pruned, activations[:, keep], labels, args, passes)
        if validation:
            rows["tuned"] = accuracy(pruned)
    for level, nodes in enumerate(hierarchy.levels):
        mine = torch.isin(layer.node_of.cpu(), torch.tensor(nodes))
        print(f"level {level}: {int(keep[mine].sum())} of {int(mine.sum())} prototypes stay")
    if rows:
        print("\n| accuracy of the level | " + " | ".join(rows) + " |\n|" + " --- |" * (len(rows) + 1))
        for level in range(hierarchy.n_levels):
            print(f"| {level} | " + " | ".join(f"{row[level]:.4f}" for row in rows.values()) + " |")
    save_checkpoint(out, {**checkpoint, "model": pruned.state_dict(), "optimizers": {},
                          "counts": pruned.prototype_layer.counts.tolist(), "push_record": record.only(keep).to_dict()})
    print(f"\n{out}: {int(keep.sum())} of {len(keep)} prototypes")


@torch.no_grad()
def clips_of(model: HIPE, loader, n_videos: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What the prototypes make of all clips, and how near they are to every video.

    Returns:
        activations (N, P) and labels (N,) of the clips; distances (n_videos, P), of each video's nearest patch,
        infinite for a video that cannot be read.
    """
    activations, labels = [], []
    nearest = torch.full((n_videos, len(model.prototype_layer.node_of)), torch.inf)
    for batch in valid_clips(loader, device, "training clips"):
        output = model(batch["clip"])
        videos = batch["video"][:, None].expand(-1, nearest.shape[1])
        nearest.scatter_reduce_(0, videos, output.distances.cpu(), "amin")
        activations.append(output.activations.cpu())
        labels.append(batch["label"].cpu())
    if not labels:
        raise ValueError("not one training clip can be read; run util_scripts.generate_video_jpgs again")
    return torch.cat(activations), torch.cat(labels), nearest


if __name__ == "__main__":
    with user_errors():
        main()
