"""Remove prototypes for good: python -m util_scripts.prune --resume_path results/save_200.pth --forbid 12 17

--forbid names those that go, --keep those that stay. Without either they go by ProtoPNet's rule (Chen et al., NeurIPS
2019): of the training videos whose nearest patch is nearest to a prototype, the first --nearest are looked at, and a
prototype is removed where fewer than --least of them are of its own node; of every node the best one stays, so that it
can be explained. The score is tuned again as after a push, and what all this cost is printed. The new checkpoint
predicts, explains and goes on like any other; the old one is not touched. The prototypes that stay are numbered anew.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets import DATASETS
from datasets.annotation import subset_of
from datasets.groups import hold_out
from evaluation.recognition import accuracy_per_level
from hierarchy.tree import Hierarchy
from machine.writing import check_writable, write_text
from models import HIPE
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from run.data import even_clips, make_loader, make_reader, read_videos, window_power
from run.model import choose_device, model_of
from run.predict import predict
from run.resume import resume
from training.checkpoint import save_checkpoint
from training.engine import Phase, Trainer
from training.features import valid_clips
from training.losses import LossWeights
from training.schedule import Step

NEAREST, LEAST = 6, 3  # of ProtoPNet's rule


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
    nodes = ancestors[labels[nearest], level_of[node_of]]  # (n, P), at the prototype's level
    return (nodes == node_of).sum(0)


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


def named(flag: str, numbers: Sequence[int], node_of: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Which prototypes stay, by --forbid or --keep.

    Args:
        flag: "forbid" for numbers of prototypes that go, "keep" for numbers of those that stay.
        numbers: 0..P - 1, repeats allowed. node_of: (P,).
    Returns:
        (P,) bool.
    Raises:
        ValueError: a number is out of range, or a node would lose its last prototype.
    """
    unknown = [number for number in numbers if not 0 <= number < len(node_of)]
    if unknown:
        raise ValueError(f"--{flag} {unknown[0]}: the checkpoint's prototypes are 0 to {len(node_of) - 1}; see "
                         "prototypes.json for the numbers")
    mentioned = torch.zeros(len(node_of), dtype=torch.bool)
    mentioned[list(numbers)] = True
    keep = mentioned if flag == "keep" else ~mentioned
    empty = (torch.bincount(node_of[keep], minlength=len(hierarchy)) == 0).nonzero()[:, 0].tolist()
    if empty:
        own = ", ".join(map(str, (node_of == empty[0]).nonzero()[:, 0].tolist()))
        others = f"; so would {len(empty) - 1} other nodes" if len(empty) > 1 else ""
        name, lost = hierarchy.full_name(empty[0]), "would have no prototype left"
        if flag == "forbid":
            raise ValueError(f"--forbid {own}: {name} {lost}; leave one of these numbers out{others}")
        raise ValueError(f"--keep: {name} {lost}; add one of its numbers ({own}){others}")
    return keep


def retune(model: HIPE, activations: Tensor, labels: Tensor, args: argparse.Namespace, passes: int) -> None:
    """Passes of the score's last parameters alone, as after a push: activations (N, P), labels (N,)."""
    trainer = Trainer(model, {"tune": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)},
                      LossWeights(ce=args.ce_weight, group=args.group_weight, even=args.even_weight))
    for i in range(passes):
        trainer.tune(Step("tune", args.n_epochs, i), i / passes, activations, labels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.prune", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's; give --resume_path.")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--forbid", type=int, nargs="+", metavar="NUMBER", help="prototypes that go")
    chosen.add_argument("--keep", type=int, nargs="+", metavar="NUMBER", help="prototypes that stay; all others go")
    parser.add_argument("--nearest", type=int, help=f"training videos looked at (default: {NEAREST})")
    parser.add_argument("--least", type=int, help=f"of these that must be the node's own (default: {LEAST})")
    parser.add_argument("--retune", type=int, help="passes of the last layer, or of the prototypes' weights, "
                                                   "afterwards (default: --tune_iterations; 0 where it learns in joint "
                                                   "epochs alone)")
    parser.add_argument("--out", type=Path, help="checkpoint to write (default: pruned/ beside the other, by its name)")
    own_args, others = parser.parse_known_args(argv)
    args, given = parse_main(others)
    if not args.resume_path:
        raise ValueError("--resume_path is missing; give the checkpoint to prune")
    flag = next((name for name in ("forbid", "keep") if getattr(own_args, name)), None)
    rule = next((name for name in ("nearest", "least") if getattr(own_args, name) is not None), None)
    if flag and rule:
        raise ValueError(f"--{rule} is of the rule that chooses where nobody does, and --{flag} chooses; give one of "
                         "them")
    n_nearest = NEAREST if own_args.nearest is None else own_args.nearest
    least = LEAST if own_args.least is None else own_args.least
    if not 0 <= least <= n_nearest or n_nearest < 1 or (own_args.retune or 0) < 0:
        raise ValueError("--nearest must be at least 1, --least between 0 and --nearest, and --retune not negative")
    device = choose_device(args.device, args.no_cuda)
    start = resume(args, given)
    args, hierarchy, checkpoint, path = start.args, start.hierarchy, start.checkpoint, start.path
    if checkpoint is None:
        raise ValueError(f"{args.result_path}: holds no checkpoint to prune; give one as --resume_path")
    out = (own_args.out or path.parent / "pruned" / path.name).expanduser().resolve()
    if out == path:
        raise ValueError(f"--out {out}: is the checkpoint itself, which stays; give another name")
    model, _, record = model_of(checkpoint, path)
    if record is None:
        raise ValueError(f"{path}: nothing was pushed yet, so no prototype is a patch; prune after a push")
    node_of = model.prototype_layer.node_of
    keep = named(flag, getattr(own_args, flag), node_of, hierarchy) if flag else None
    model = model.to(device).eval()
    videos = hold_out(read_videos(args, hierarchy), checkpoint.get("held_out", ()), DATASETS[args.dataset])
    reader = make_reader(args)
    training, validation = ([video for video in videos if video.subset == subset_of(name)] for name in ("train", "val"))
    if not training:
        raise ValueError(f"{args.annotation_path}: lists no training video that is on disk; check --video_path")
    check_writable(out.parent)

    def loader(some, n):
        return make_loader(even_clips(args, some, reader, n, normalisation=model.normalisation),
                           n_threads=args.n_threads, device=device, batch_size=args.batch_size)

    rows = {}  # by when: accuracy and mean log-probability of the truth, by level

    def look(when: str) -> None:
        if not validation:
            return
        pool = predict(model, loader(validation, args.n_val_samples), len(validation), device=device,
                       description="val", power=window_power(args))
        probs, truth = pool.probs[pool.seen], torch.tensor([video.label for video in validation])[pool.seen]
        log_probs = probs.gather(1, hierarchy.ancestors[truth]).clamp(min=1e-12).log()
        rows[when] = (accuracy_per_level(probs[:, :hierarchy.n_leaves].argmax(1), truth, hierarchy.ancestors).tolist(),
                      log_probs.mean(0).tolist())

    activations, labels, distances = clips_of(model, loader(training, args.push_clips), len(training), device)
    of_videos = torch.tensor([video.label for video in training])
    if keep is None:
        seen = distances.isfinite().all(1)
        own = own_among_nearest(distances[seen], of_videos[seen], node_of, hierarchy.ancestors, hierarchy.level_of,
                                n_nearest)
        keep = staying(own, node_of, len(hierarchy), least)
    look("before")
    model.keep(keep)
    look("without them")
    passes = own_args.retune
    if passes is None:
        passes = args.tune_iterations if args.last_layer == "always" else 0
    if passes:
        retune(model, activations[:, keep], labels, args, passes)
        look("tuned")
    print_tables(keep, node_of, hierarchy, rows, by_name=flag == "forbid")
    record = replace(record, earlier=torch.arange(len(keep))).only(keep)
    content = {**checkpoint, "model": model.state_dict(), "optimizers": {},
               "counts": model.prototype_layer.counts.tolist(), "push_record": record.to_dict()}
    content.pop("ways", None)  # of prototypes that may be gone
    save_checkpoint(out, content)
    table = out.parent / "prototypes.json"
    fresh = own_args.out is None or not table.exists()  # the folder of --out may hold another run's
    if fresh:
        write_text(table, json.dumps(record.rows(hierarchy, node_of[keep])), durable=True)
    print(f"\n{out}: {int(keep.sum())} of {len(keep)} prototypes, numbered anew from 0 to {int(keep.sum()) - 1}"
          + (f"; {table} has each one's number of before as \"earlier\"" if fresh else ""))


def print_tables(keep: Tensor, node_of: Tensor, hierarchy: Hierarchy, rows: dict[str, tuple[list[float], list[float]]],
                 *, by_name: bool) -> None:
    """Print how many prototypes stay at every level, and the accuracy before and after.

    Args:
        keep, node_of: (P,). rows: by time of measurement, accuracy and mean log-probability of the truth by level.
        by_name: print every prototype that goes.
    """
    for level, nodes in enumerate(hierarchy.levels):
        own = torch.isin(node_of, torch.tensor(nodes))
        print(f"level {level}: {int(keep[own].sum())} of {int(own.sum())} prototypes stay")
    if by_name:
        print("removed: " + ", ".join(f"{number} ({hierarchy.full_name(int(node_of[number]))})"
                                      for number in (~keep).nonzero()[:, 0].tolist()))
    for what, i in (("accuracy", 0), ("mean log-probability of the truth", 1)) if rows else ():
        print(f"\n| level, {what} | " + " | ".join(rows) + " |\n|" + " --- |" * (len(rows) + 1))
        for level in range(hierarchy.n_levels):
            print(f"| {level} | " + " | ".join(f"{row[i][level]:.4f}" for row in rows.values()) + " |")


@torch.no_grad()
def clips_of(model: HIPE, loader, n_videos: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Activations of the prototypes on all clips, and their distances to every video.

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
