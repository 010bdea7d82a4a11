"""What the orthogonality and sharing losses of ancestors' prototypes cost, and what they improve.

    python -m benchmarks.ancestors --demo DIR [--trunk trunk.pth] [--weights 0,0 0.1,0 0,0.05] [--seeds 1 2]

--demo is a folder that `python -m util_scripts.demo DIR --seed N` filled; choose weights on another seed than the one
that is reported. The trunk stays as it is (by default the demo's), so its features of all clips are computed once and
cached in --work; every pair of weights, of --orthogonality_weight and --sharing_weight, then trains the warm epochs,
pushes and tunes on them, without merging, once a seed. Prints means over the seeds, for each level from the leaf up:
accuracy; how often the most contributing prototype points at the event; how many pushed prototypes lie on one; the
share of duplicates, which are the same as another one of their node; and of ancestors' prototypes how surely they tell
clips of the child that they know worst from clips of other nodes (sharing, an AUC), the share that on clips of every
child is more active in the mean than on clips of other nodes, and how evenly they fire: the least child's mean by the
largest's.
"""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.cached_features import CachedTrunk, FeatureBatches, load_features, train_head
from benchmarks.tables import saved_tables
from datasets.video import Video
from evaluation.localisation import Tube, points_at, read_truth
from evaluation.prototypes import duplicates, sharing
from evaluation.recognition import VideoPool
from hierarchy.tree import Hierarchy
from models import HIPE
from models.geometry import cell_centre, points_to_source
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from run.data import read_videos, window_power
from run.model import model_of
from run.resume import resume
from training.push import PushRecord


def firing(activations: Tensor, labels: Tensor, hierarchy: Hierarchy, node_of: Tensor) -> tuple[Tensor, Tensor]:
    """Whether ancestors' prototypes fire on all children, and how evenly.

    Args:
        activations: (N, P); labels: (N,) leaves, of clips; node_of: (P,).
    Returns:
        (P,) 1 where the mean activation on clips of every child is above that on clips of other nodes, else 0; and (P,)
        in 0..1, the least child's mean by the largest's. nan for leaves, and the second for an only child's parent.
    """
    shared, even = (torch.full((len(node_of),), torch.nan) for _ in range(2))
    for node in range(hierarchy.n_leaves, len(hierarchy)):
        mine = node_of == node
        means = torch.stack([activations[:, mine][torch.isin(labels, hierarchy.leaves_below(child))].mean(0)
                             for child in hierarchy.children(node)])  # (children, n)
        outside = activations[:, mine][~torch.isin(labels, hierarchy.leaves_below(node))].mean(0)
        shared[mine] = (means.amin(0) > outside).float()
        if len(means) > 1:
            even[mine] = means.amin(0) / means.amax(0)
    return shared, even


@torch.no_grad()
def measures(model: HIPE, hierarchy: Hierarchy, record: PushRecord, cached: dict[str, Tensor], videos: list[Video],
             truth: dict[str, list[Tube]], power: float = 1.0) -> dict[str, list[float]]:
    """A figure for each measure and level, from the leaf up.

    Args:
        cached: features of the test videos' windows. videos: of the test. truth: of test and training videos.
        power: of `VideoPool`.
    """
    model.eval()
    outputs = [model(batch["clip"]) for batch in FeatureBatches(cached, 48)]
    log_probs, activations, cells = (torch.cat([getattr(output, name) for output in outputs])
                                     for name in ("log_probs", "activations", "cells"))
    layer, levels, size = model.prototype_layer, range(hierarchy.n_levels), record.clip_size
    hits: list[list[bool]] = [[] for _ in levels]
    right: list[list[bool]] = [[] for _ in levels]
    pool = VideoPool(len(videos), hierarchy.membership, power)
    pool.add(cached["video"], log_probs.exp(), torch.arange(len(log_probs)))
    predicted = pool.probs[:, :hierarchy.n_leaves].argmax(1).tolist()
    for v, (video, leaf) in enumerate(zip(videos, predicted, strict=True)):
        for level in levels:
            right[level].append(bool(hierarchy.ancestors[leaf, level] == hierarchy.ancestors[video.label, level]))
        if leaf != video.label:
            continue
        window = pool.best[v, leaf]
        gains = model.score.silenced(activations[window], hierarchy.ancestors[leaf])  # (L, P)
        for level in levels:
            best = gains[level].masked_fill(layer.node_of != hierarchy.ancestors[leaf, level], -torch.inf).argmax()
            peak = cell_centre(cells[window, best], tuple(record.maps.shape[1:]), record.stride, size, record.offset)
            place = points_to_source(peak, cached["frames"][window], cached["crop"][window], size[1:])
            hits[level].append(points_at(tuple(place.tolist()), truth[video.name]))
    shared, even = firing(activations, cached["label"], hierarchy, layer.node_of)
    of_video = torch.zeros(len(videos), activations.shape[1]).scatter_reduce(
        0, cached["video"][:, None].expand_as(activations), activations, "amax")
    auc = sharing(of_video, torch.tensor([video.label for video in videos]), layer.node_of, hierarchy.ancestors,
                   hierarchy.level_of)
    of_level = [list(range(layer.level(level).start, layer.level(level).stop)) for level in levels]
    placed = [[points_at(tuple(record.peak(p).tolist()), truth[record.video[p]]) for p in some] for some in of_level]
    twice = duplicates(layer.prototypes, layer.node_of)
    return {"accuracy": [share(some) for some in right], "pointing": [share(some) for some in hits],
            "on event": [share(some) for some in placed],
            "duplicates": [float(twice[some].float().mean()) for some in of_level],
            "sharing": [float(auc[some].nanmean()) for some in of_level[1:]],
            "shared": [float(shared[some].nanmean()) for some in of_level[1:]],
            "evenness": [float(even[some].nanmean()) for some in of_level[1:]]}


def share(values: Sequence[bool]) -> float:
    """Share of true values, nan of none."""
    return sum(values) / len(values) if values else float("nan")


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.ancestors", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--demo", type=Path, required=True, help="folder of a demo, best of another seed than 1")
    parser.add_argument("--trunk", type=Path, help="trunk.pth to start from (default: the demo's own)")
    parser.add_argument("--work", type=Path, default=Path("results/ancestors"), help="(default: results/ancestors)")
    parser.add_argument("--weights", nargs="+", default=["0,0", "0.1,0", "0,0.1", "0.1,0.1"], metavar="O,S",
                        help="of orthogonality and sharing (default: 0,0 0.1,0 0,0.1 0.1,0.1)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100], help="of starts and batches (default: 100)")
    own, others = parser.parse_known_args(argv)
    demo = own.demo.resolve()
    if not (demo / "truth.json").is_file():
        raise ValueError(f"{demo}: holds no demo; make one with python -m util_scripts.demo {demo} --seed 100")
    try:
        pairs = [tuple(map(float, pair.split(",", 1))) for pair in own.weights]
        pairs = [(orthogonality, shared) for orthogonality, shared in pairs]
    except ValueError as error:
        raise ValueError("--weights takes pairs of numbers with a comma between, such as 0.1,0") from error
    trunk = (own.trunk or demo / "results" / "trunk.pth").resolve()
    args, given = parse_main(["--root_path", str(demo), "--video_path", "jpg", "--annotation_path", "ucf101_01.json",
                              "--resume_path", str(trunk), *others])
    start = resume(args, given)
    args, hierarchy = start.args, start.hierarchy
    trained = model_of(start.checkpoint, start.path)[0]
    subsets = {name: [video for video in read_videos(args, hierarchy) if video.subset == name]
               for name in ("training", "validation")}
    cached = load_features(own.work.resolve() / f"{demo.name}.features", trained, args, subsets)
    trained.trunk = CachedTrunk(trained.trunk, cached["still"]["sizes"])
    truth = read_truth(demo / "truth.json")
    first = True
    for orthogonality, shared in pairs:
        weighted = args.replaced(orthogonality_weight=orthogonality, sharing_weight=shared)
        of_seeds = []
        for seed in own.seeds:
            torch.manual_seed(seed)
            model = copy.deepcopy(trained)
            record = train_head(model, weighted, cached, subsets["training"], seed)
            of_seeds.append(measures(model, hierarchy, record, cached["test"], subsets["validation"], truth,
                                     window_power(args)))
        if first:
            names = [f"{name} {level + hierarchy.n_levels - len(of_seeds[0][name])}" for name in of_seeds[0]
                     for level in range(len(of_seeds[0][name]))]
            print("| orthogonality | sharing | " + " | ".join(names) + " |\n|" + " --- |" * (2 + len(names)))
            first = False
        means = torch.tensor([sum(one.values(), []) for one in of_seeds]).mean(0).tolist()
        print(f"| {orthogonality:g} | {shared:g} | "
              + " | ".join(f"{value:.3f}" for value in means) + " |", flush=True)


if __name__ == "__main__":
    with user_errors(), saved_tables("ancestors"):
        main()
