"""Losses that make ancestors' prototypes ancestors: what orthogonality and sharing cost, and what they are good for.

    python -m benchmarks.ancestors --demo DIR [--trunk trunk.pth] [--weights 0,0 0.1,0 0,0.05] [--seeds 1 2]

--demo is a folder that `python -m util_scripts.demo DIR --seed N` filled; choose weights on another seed than the one
that is reported. The trunk stays as it is (by default the demo's), so its features of all clips are computed once and
kept in --work; every pair of weights, of --orthogonality_weight and --sharing_weight, then trains the warm epochs,
pushes and tunes on them, without merging, once a seed. Prints means over the seeds, for each level from the leaf up:
accuracy; how often the most contributing prototype points at the event; how many pushed prototypes lie on one; the
share of duplicates, which are the same as another one of their node; and of ancestors' prototypes how surely they tell
clips of the child that they know worst from clips of other nodes (sharing, an AUC), the share that on clips of every
child is more active in the mean than on clips of other nodes, and how evenly they fire: the least child's mean by the
largest's.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.step import loss_weights
from datasets.sampling import n_batches
from datasets.video import Video, VideoClips
from evaluation.localisation import Tube, points_at, read_truth
from evaluation.prototypes import duplicates, sharing
from evaluation.recognition import VideoPool
from hierarchy.tree import Hierarchy
from models import HIPE
from models.geometry import cell_centre, points_to_source
from models.stages import stage_maps
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from run.data import even_clips, make_loader, make_reader, read_videos, training_clips, window_clips, window_power
from run.model import model_of
from run.resume import resume
from training.engine import Phase, Trainer
from training.features import KeptFeatures, Views, valid_clips
from training.merging import merge_prototypes, spread_of
from training.push import PushRecord, push
from training.schedule import ScheduledBatches, training_steps
from training.starts import spread_prototypes, start_prototypes

CPU = torch.device("cpu")
FIELDS = ("label", "video", "item", "frames", "crop")


class Kept(nn.Module):
    """A trunk whose features were computed before: what it is given is what it gives.

    Args:
        trunk: whose they are. sizes: channels of what its earlier parts make, where that stands behind its features.
    """

    def __init__(self, trunk: nn.Module, sizes: Sequence[int] = ()) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.out_channels, self.stride = trunk.out_channels, trunk.stride
        self.offset = getattr(trunk, "offset", (0, 0, 0))

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :self.out_channels]

    def stage_maps(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `models.stages.stage_maps`."""
        own, *earlier = features.split([self.out_channels, *self.sizes], 1)
        return own, [*earlier, own]


class FeatureBatches:
    """Batches as a loader of clips makes them, with the trunk's features in place of the clips."""

    def __init__(self, kept: dict[str, Tensor], batch_size: int) -> None:
        self.kept, self.batch_size = kept, batch_size

    def __len__(self) -> int:
        return -(-len(self.kept["label"]) // self.batch_size)

    def __iter__(self):
        for items in torch.arange(len(self.kept["label"])).split(self.batch_size):
            yield {"clip": self.kept["features"][items].float(), "valid": torch.ones(len(items), dtype=torch.bool),
                   **{name: self.kept[name][items] for name in FIELDS}}


@torch.no_grad()
def features_of(trunk: nn.Module, clips: VideoClips, name: str, *, stages: bool = False, **how) -> dict[str, Tensor]:
    """The trunk's features, in half precision, and what else batches tell of their clips; `how` as `make_loader`.

    With `stages` what its earlier parts make stands behind the features, and its channels under "sizes".
    """
    rows: dict[str, list[Tensor]] = {key: [] for key in ("features", *FIELDS)}
    sizes: list[int] = []
    for batch in valid_clips(make_loader(clips, n_threads=0, device=CPU, **how), CPU, name):
        features, maps = stage_maps(trunk, batch["clip"])
        sizes = [earlier.shape[1] for earlier in maps[:-1]]
        rows["features"].append(torch.cat([features, *(maps[:-1] if stages else ())], 1).half())
        for key in FIELDS:
            rows[key].append(batch[key])
    kept = {key: torch.cat(parts) for key, parts in rows.items()}
    return {**kept, "sizes": sizes} if stages else kept


def keep(path: Path, model: HIPE, args: argparse.Namespace, subsets: dict[str, list[Video]]) -> dict[str, dict]:
    """Features of the training views of the warm epochs, of the clips of a push and of the test videos' windows."""
    if path.is_file():
        return torch.load(path, weights_only=True)
    reader, trunk = make_reader(args), model.trunk.eval()
    training = training_clips(args, subsets["training"], reader)
    views = Views(args.cache_features, len(training), first=args.trunk_epochs + 1)
    still = even_clips(args, subsets["training"], reader, args.push_clips)
    windows = window_clips(args, subsets["validation"], reader, args.inference_stride)
    kept = {"views": features_of(trunk, training, "views", batch_sampler=views.passes(args.batch_size)),
            "still": features_of(trunk, still, "push clips", stages=True, batch_size=args.batch_size),
            "test": features_of(trunk, windows, "test windows", batch_size=args.batch_size)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept, path)
    return kept


def train(model: HIPE, args: argparse.Namespace, kept: dict[str, dict], seed: int,
          watch: Callable[[str], None] = lambda stage: None) -> PushRecord:
    """Start, warm epochs, push, merging and tuning, as main.py does them for as many --warm_epochs as --n_epochs.

    Args:
        args: of main.py, with `names` and `labels` of the training videos.
        watch: called behind every stage with its name: before the push, pushed, merged, tuned.
    """
    still = FeatureBatches(kept["still"], args.batch_size)
    ways = torch.full((len(args.names),), -1)
    if args.starts == "sampled":
        start_prototypes(model, still, device=CPU, generator=torch.Generator().manual_seed(seed), sure=args.sure)
    else:
        ways = spread_prototypes(model, still, n_videos=len(ways), device=CPU, seed=seed, sure=args.sure,
                                 standardise=args.standardise, clips_a_way=args.ways_clips).ways
    if not args.ways_weight:
        ways.fill_(-1)
    phases = {"warm": Phase("adam", 0, args.warm_learning_rate, 0, args.momentum, args.warm_lr_scheduler,
                            score_rate=args.warm_score_learning_rate),
              "tune": Phase("adam", 0, args.last_learning_rate, 0, args.momentum)}
    trainer = Trainer(model, phases, loss_weights(args), margin=args.separation_margin, focus=args.focus,
                      background=args.background, sure=args.sure)
    trainer.count_ways(ways, args.labels)
    views = KeptFeatures(*(kept["views"][name] for name in ("features", "label", "video", "item")))
    n_clips = len(views.labels) // args.cache_features
    steps = training_steps(
        n_batches=n_batches(n_clips, args.batch_size), trunk_epochs=args.trunk_epochs, warm_epochs=args.warm_epochs,
        n_epochs=args.warm_epochs, push_start=1, push_every=1, tune_iterations=args.tune_iterations)
    warm = steps.only("warm")
    places = Views(args.cache_features, n_clips, first=args.trunk_epochs + 1)
    order = ScheduledBatches(warm, n_clips, args.batch_size, seed=seed, trunk_epochs=args.trunk_epochs)
    for i, (step, batch) in enumerate(zip(warm, views.batches(places.items(order), CPU), strict=True)):
        trainer.step(step, i / len(warm), {**batch, "way": ways[batch["video"]]})
    watch("before the push")
    record, neck = push(model, still, names=args.names, device=CPU, n_clips=len(kept["still"]["label"]))
    record.clip_size = (args.sample_duration, args.sample_size, args.sample_size)
    watch("pushed")
    distances = neck.distances(model.prototype_layer, CPU)
    if args.merge_coverage and not args.no_merge:
        record, into = merge_prototypes(model, record, distances, neck.labels, args.merge_coverage, ways[neck.videos])
        distances = distances[:, into == torch.arange(len(into))]
        trainer.forget()
        watch("merged")
    record.spread = spread_of(model, record, distances, neck.videos, args.names, args.labels)
    activations = model.prototype_layer.similarity(distances)
    for step in steps.only("tune"):
        trainer.tune(step, 0.0, activations, neck.labels)
    watch("tuned")
    return record


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
def measures(model: HIPE, hierarchy: Hierarchy, record: PushRecord, kept: dict[str, Tensor], videos: list[Video],
             truth: dict[str, list[Tube]], power: float = 1.0) -> dict[str, list[float]]:
    """By measure a figure a level, from the leaf up.

    Args:
        kept: of the test videos' windows. videos: these. truth: of test and training videos. power: of `VideoPool`.
    """
    model.eval()
    outputs = [model(batch["clip"]) for batch in FeatureBatches(kept, 48)]
    log_probs, activations, cells = (torch.cat([getattr(output, name) for output in outputs])
                                     for name in ("log_probs", "activations", "cells"))
    layer, levels, size = model.prototype_layer, range(hierarchy.n_levels), record.clip_size
    hits: list[list[bool]] = [[] for _ in levels]
    right: list[list[bool]] = [[] for _ in levels]
    pool = VideoPool(len(videos), hierarchy.membership, power)
    pool.add(kept["video"], log_probs.exp(), torch.arange(len(log_probs)))
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
            place = points_to_source(peak, kept["frames"][window], kept["crop"][window], size[1:])
            hits[level].append(points_at(tuple(place.tolist()), truth[video.name]))
    shared, even = firing(activations, kept["label"], hierarchy, layer.node_of)
    of_video = torch.zeros(len(videos), activations.shape[1]).scatter_reduce(
        0, kept["video"][:, None].expand_as(activations), activations, "amax")
    told = sharing(of_video, torch.tensor([video.label for video in videos]), layer.node_of, hierarchy.ancestors,
                   hierarchy.level_of)
    of_level = [list(range(layer.level(level).start, layer.level(level).stop)) for level in levels]
    placed = [[points_at(tuple(record.peak(p).tolist()), truth[record.video[p]]) for p in some] for some in of_level]
    twice = duplicates(layer.prototypes, layer.node_of)
    return {"accuracy": [share(some) for some in right], "pointing": [share(some) for some in hits],
            "on event": [share(some) for some in placed],
            "duplicates": [float(twice[some].float().mean()) for some in of_level],
            "sharing": [float(told[some].nanmean()) for some in of_level[1:]],
            "shared": [float(shared[some].nanmean()) for some in of_level[1:]],
            "evenness": [float(even[some].nanmean()) for some in of_level[1:]]}


def share(values: Sequence[bool]) -> float:
    """The share that is true."""
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
        pairs = [(orthogonality, sharing) for orthogonality, sharing in pairs]
    except ValueError as error:
        raise ValueError("--weights takes pairs of numbers with a comma between, such as 0.1,0") from error
    trunk = (own.trunk or demo / "results" / "trunk.pth").resolve()
    args, given = parse_main(["--root_path", str(demo), "--video_path", "jpg", "--annotation_path", "ucf101_01.json",
                              "--resume_path", str(trunk), *others])
    checkpoint, path = resume(args, given)
    trained, hierarchy, _ = model_of(checkpoint, path)
    subsets = {name: [video for video in read_videos(args, hierarchy) if video.subset == name]
               for name in ("training", "validation")}
    args.names = [video.name for video in subsets["training"]]
    args.labels = torch.tensor([video.label for video in subsets["training"]])
    kept = keep(own.work.resolve() / f"{demo.name}.features", trained, args, subsets)
    trained.trunk = Kept(trained.trunk, kept["still"]["sizes"])
    truth = read_truth(demo / "truth.json")
    first = True
    for args.orthogonality_weight, args.sharing_weight in pairs:
        found = []
        for seed in own.seeds:
            torch.manual_seed(seed)
            model = copy.deepcopy(trained)
            record = train(model, args, kept, seed)
            found.append(measures(model, hierarchy, record, kept["test"], subsets["validation"], truth,
                                  window_power(args)))
        if first:
            names = [f"{name} {level + hierarchy.n_levels - len(found[0][name])}" for name in found[0]
                     for level in range(len(found[0][name]))]
            print("| orthogonality | sharing | " + " | ".join(names) + " |\n|" + " --- |" * (2 + len(names)))
            first = False
        means = torch.tensor([sum(one.values(), []) for one in found]).mean(0).tolist()
        print(f"| {args.orthogonality_weight:g} | {args.sharing_weight:g} | "
              + " | ".join(f"{value:.3f}" for value in means) + " |", flush=True)


if __name__ == "__main__":
    with user_errors():
        main()
