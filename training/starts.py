"""The start of prototypes: training patches at the peaks of class maps of the pooled head."""

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.hipe import HIPE, Standardise
from models.prototypes import unit
from models.stages import stage_maps
from training.features import trunk_features, valid_clips
from training.precision import Precision

HALF = 65504.0  # the largest number of half precision


@torch.no_grad()
def start_prototypes(model: HIPE, loader: Iterable[dict], *, device: torch.device, generator: torch.Generator,
                     peaks: int = 3, sure: float = 0.5, mapped: bool = True, precision: Precision | None = None,
                     progress: bool = False) -> int:
    """Start each node's prototypes at patches that are peaks of the class maps of its clips.

    Patches are sampled without replacement from the clips whose true class has a probability above `sure` by the pooled
    head. A node with too few of these takes the peaks of the clips with the highest probability, then any patch of its
    clips; its remaining prototypes keep their random values.

    Args:
        loader: batches of un-augmented training clips; generator: random numbers of the choice, on the CPU.
        peaks: candidate cells of each clip.
        mapped: False where the pooled head was not trained; patches are then chosen from all cells.
        precision: of the trunk (default: float32).
    Returns:
        the number of prototypes that were placed.
    Raises:
        ValueError: where no clip can be read.
    """
    layer, precision = model.prototype_layer, precision or Precision(device)
    n_leaves, n_levels = model.ancestors.shape
    most = layer.per_node
    patches, leaves, merits = [], [], []  # merit: 2 the peak of a sure clip, 1..2 another peak, below 1 any patch
    clips_of = torch.zeros(n_leaves, dtype=torch.int64)
    model.eval()
    for batch in valid_clips(loader, device, "start" if progress else None):
        with precision.in_inference():
            trunk = trunk_features(model.trunk, batch)
        trunk, label = trunk.float(), batch["label"].cpu()
        features = model.neck(trunk).flatten(2).transpose(1, 2)  # (B, N, S C)
        draw = torch.rand(features.shape[:2], generator=generator)  # (B, N)
        n_peaks = min(peaks, features.shape[1]) if mapped else 0
        best = model.class_map(trunk, batch["label"]).flatten(1).topk(n_peaks).indices.cpu()  # (B, n)
        true = model.pooled_log_probs(trunk).gather(1, batch["label"][:, None]).exp().cpu()  # (B, 1)
        merit = torch.where(true > sure, 2.0, 1 + true).expand_as(best)  # (B, n)
        # only classes with few clips need patches off the peaks
        n_others = max(min(most, features.shape[1]) - n_peaks, 0)
        others = draw.scatter(1, best, -1).topk(n_others)
        few = clips_of[label] * max(n_peaks, 1) < most  # (B,)
        clips_of += torch.bincount(label, minlength=n_leaves)
        for cells, value, which in ((best, merit, torch.ones_like(few)), (others.indices, others.values, few)):
            chosen = features[which.to(device)].gather(
                1, cells[which].to(device)[..., None].expand(-1, -1, features.shape[2]))  # (b, n, S C)
            patches.append(chosen.flatten(0, 1).cpu())
            leaves.append(label[which, None].expand(-1, cells.shape[1]).flatten())
            merits.append(value[which].flatten())
    if not patches:
        raise ValueError("start: not one training clip can be read; run util_scripts.generate_video_jpgs again")
    nodes = model.ancestors.cpu()[torch.cat(leaves)].flatten()  # (M L,): a patch is a candidate at every level
    merit = torch.cat(merits).repeat_interleave(n_levels)
    # each level has its own draws, otherwise ancestors would start at the patches of their classes
    draw = torch.rand(len(merit), generator=generator)
    merit = torch.where(merit >= 2, 2 + draw, torch.where(merit < 1, draw, merit))
    order = merit.argsort(descending=True, stable=True)
    order = order[nodes[order].argsort(stable=True)]  # by node, the best of each first
    count = torch.bincount(nodes, minlength=len(model.level_of))  # (K,) candidates of each node
    node_of = layer.node_of.cpu()
    first = (layer.counts.cumsum(0) - layer.counts).cpu()  # (K,) of each node's prototypes
    rank = torch.arange(len(node_of)) - first[node_of]  # (P,) index among the node's prototypes
    placed = rank < count[node_of]
    source = order[((count.cumsum(0) - count)[node_of] + rank)[placed]]
    chosen = torch.cat(patches)[source // n_levels].unflatten(1, (layer.n_groups, -1))  # (p, S, C)
    chosen = chosen[torch.arange(len(chosen)), layer.group_of.cpu()[placed]]  # (p, C)
    layer.prototypes[placed.to(device)] = chosen.to(device)
    return int(placed.sum())


@dataclass
class Starts:
    """The result of `spread_prototypes`.

    Args:
        placed: number of prototypes that were placed.
        ways: (n_videos,) int64, the way of its class that a training video shows, -1 where unknown. In a class with W
            ways, the i-th prototype starts in way i mod W.
    """

    placed: int
    ways: Tensor


@torch.no_grad()
def spread_prototypes(model: HIPE, loader: Iterable[dict], *, n_videos: int, device: torch.device, seed: int,
                      peaks: int = 3, sure: float = 0.5, mapped: bool = True, standardise: bool = False,
                      clips_a_way: int = 25, precision: Precision | None = None, progress: bool = False) -> Starts:
    """Start each node's prototypes far apart: a class's at cluster centres of its clips, an ancestor's in each child in
    turn.

    Candidates are the trunk's features at the peaks of each clip's own class map, first those of clips whose true class
    has a probability above `sure` by the pooled head. A class's clips are clustered (k-means of directions, one cluster
    per prototype) by the features of all parts of the trunk at the highest peak; the parts are standardised and have
    equal weights, since the last part differs least between clips of a class. The class's prototypes start at the
    patches nearest to the centres. A class of many clips is first divided into ways, large clusters of similar clips,
    and its prototypes start in the ways in turn. An ancestor's prototypes are drawn from its children in turn.
    Prototypes without a candidate keep their random values.

    Args:
        loader: batches of un-augmented training clips, or of their stored features with `looks`, the result of
            `looks_at` at the highest peaks where `mapped`.
        n_videos: number of videos that the batches' `video` indexes.
        seed: of the clusters and the draws. peaks: candidate cells of each clip.
        mapped: False where the pooled head was not trained; cells are then chosen at random, and there are no ways.
        standardise: fit the neck's `Standardise` to the clips' mean features first.
        clips_a_way: sure clips per way: a class with n sure clips has n // clips_a_way ways, at most one per prototype.
        precision: of the trunk (default: float32).
    Raises:
        ValueError: where no clip can be read.
    """
    precision = precision or Precision(device)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {"cells": [], "looks": [], "mean": [], "label": [], "video": [], "true": []}
    sizes: list[int] = []  # channels of the trunk's parts
    model.eval()
    for batch in valid_clips(loader, device, "start" if progress else None):
        with precision.in_inference():
            trunk, stages = (batch["trunk"], []) if "trunk" in batch else stage_maps(model.trunk, batch["clip"])
        trunk = trunk.float()
        flat = trunk.flatten(2)  # (B, C', N)
        n = min(peaks, flat.shape[2])
        rank = model.class_map(trunk, batch["label"]).flatten(1).cpu()  # (B, N)
        cells = (rank if mapped else torch.rand(rank.shape, generator=generator)).topk(n).indices.to(device)  # (B, n)
        parts["cells"].append(flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
                              .clamp(-HALF, HALF).half().cpu())
        looks = batch["looks"] if "looks" in batch else looks_at(stages, cells[:, 0]) if mapped else []
        sizes = [look.shape[1] for look in looks]
        parts["looks"].append(torch.cat(looks, 1) if looks else torch.empty(len(trunk), 0))  # (B, sum C_i)
        parts["mean"].append(flat.mean(2).cpu())
        parts["true"].append(model.pooled_log_probs(trunk).gather(1, batch["label"][:, None])[:, 0].exp().cpu())
        parts["label"].append(batch["label"].cpu())
        parts["video"].append(batch["video"].cpu())
    if not parts["cells"]:
        raise ValueError("start: not one training clip can be read; run util_scripts.generate_video_jpgs again")
    cells, looks, means, labels, videos, true = (torch.cat(rows) for rows in parts.values())
    if mapped:
        looks = torch.cat([_standardised(rows.float()) / n**0.5
                           for n, rows in zip(sizes, looks.split(sizes, 1), strict=True)], 1)
    if standardise:
        next(part for part in model.neck if isinstance(part, Standardise)).fit(means.to(device))
    draw = torch.rand(cells.shape[:2], generator=generator)  # (M, n)
    merit = torch.where(true > sure, 2.0, true)[:, None].expand_as(draw)  # (M, n): 2 a sure clip's peak

    layer, ways = model.prototype_layer, torch.full((n_videos,), -1)
    chosen = torch.full((len(layer.node_of), 2), -1)  # (P, 2): clip and peak
    first = (layer.counts.cumsum(0) - layer.counts).tolist()
    for node, count in enumerate(layer.counts.tolist()):
        level = int(model.level_of[node])
        own = (model.ancestors.cpu()[labels, level] == node).nonzero()[:, 0]  # (m,) clips of the node
        if level == 0:
            known = (true[own] > sure).nonzero()[:, 0]
            if mapped and len(known) >= count:
                n_ways = min(count, len(known) // max(clips_a_way, 1))
                picks, of_known = _in_ways(unit(looks[own[known]].double(), 1), count, n_ways, seed)
                if n_ways > 1:
                    order = true[own[known]].argsort(stable=True)  # the most probable clip decides for its video
                    ways.numpy()[videos[own[known[order]]].numpy()] = of_known[order].numpy()
                picks = own[known[picks]]
                chosen[first[node]:first[node] + count] = torch.stack([picks, torch.zeros_like(picks)], 1)
                continue
            family = torch.zeros(len(own), dtype=torch.int64)
        else:
            family = model.ancestors.cpu()[labels[own], level - 1]
        for i, (clip, peak) in enumerate(_in_turn(merit[own] + draw[own] / 2, family, count)):
            chosen[first[node] + i] = torch.tensor([int(own[clip]), peak])
    placed = (chosen[:, 0] >= 0).nonzero()[:, 0]
    clip, peak = chosen[placed].unbind(1)
    patches = model.neck(cells[clip, peak].float().to(device)[:, :, None, None, None])  # (p, S C, 1, 1, 1)
    groups = layer.groups(patches)[..., 0]  # (p, S, C)
    layer.prototypes[placed.to(device)] = groups[torch.arange(len(placed), device=device),
                                                 layer.group_of[placed.to(device)]]
    return Starts(len(placed), ways)


def looks_at(stages: Sequence[Tensor], cells: Tensor) -> list[Tensor]:
    """The features of every part of a trunk at one cell of each clip.

    Args:
        stages: of `stage_maps`, (B, C_i, t, h, w) each. cells: (B,) flat positions in (t, h, w).
    Returns:
        (B, C_i) in half precision on the CPU, one of each part.
    """
    return [maps.float().flatten(2).gather(2, cells[:, None, None].expand(-1, maps.shape[1], -1))[..., 0]
            .clamp(-HALF, HALF).half().cpu() for maps in stages]


def _standardised(rows: Tensor) -> Tensor:
    """Rows (M, C) minus their mean, divided by their deviation."""
    scale = Standardise(rows.shape[1])
    scale.fit(rows)
    return scale(rows)


def _in_ways(directions: Tensor, count: int, n_ways: int, seed: int) -> tuple[Tensor, Tensor]:
    """The clips at which a class's prototypes start, the i-th one in way i mod n_ways.

    Args:
        directions: (m, C) unit vectors of at least `count` clips. n_ways: below 2 for no ways.
    Returns:
        (count,) int64 clips, all different, and (m,) int64 every clip's way, 0 without ways.
    """
    way = _clusters(directions, n_ways, seed)[1] if n_ways > 1 else torch.zeros(len(directions), dtype=torch.int64)
    picks = torch.full((count,), -1)
    free = torch.ones(len(directions), dtype=torch.bool)
    for w in way.unique().tolist():  # identical clips fill fewer ways
        places = torch.arange(w, count, max(n_ways, 1))
        members = (way == w).nonzero()[:, 0]
        n = min(len(places), len(members))
        nearest = members[_clusters(directions[members], n, seed)[0]]
        picks[places[:n]], free[nearest] = nearest, False
    empty = (picks < 0).nonzero()[:, 0]  # of ways with fewer clips than prototypes
    picks[empty] = free.nonzero()[:len(empty), 0]
    return picks, way


def _clusters(directions: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-means of m >= k unit vectors (m, C): (k,) the vectors nearest to the centres, all different; (m,) clusters."""
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of identical clips
        model = KMeans(k, n_init=4, random_state=seed).fit(directions.numpy())
    likeness = directions @ unit(torch.from_numpy(model.cluster_centers_), 1).T  # (m, k)
    nearest, left = [], likeness.clone()
    for cluster in range(k):
        nearest.append(int(left[:, cluster].argmax()))
        left[nearest[-1]] = -torch.inf
    return torch.tensor(nearest), likeness.argmax(1)


def _in_turn(merit: Tensor, family: Tensor, count: int) -> list[tuple[int, int]]:
    """At most `count` peaks (clip, peak), best first, from the families in turn: merit (m, n), family (m,)."""
    queues = []
    for child in family.unique().tolist():
        mine = (family == child).nonzero()[:, 0]
        order = merit[mine].flatten().argsort(descending=True)[:count].tolist()
        queues.append([(int(mine[i // merit.shape[1]]), i % merit.shape[1]) for i in order])
    rounds = [pick for turn in itertools.zip_longest(*queues) for pick in turn if pick is not None]
    return rounds[:count]
