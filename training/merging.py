"""Merging: prototypes that activate on the same clips as others of their node are removed."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evaluation.typicality import distance_spread
from models.hipe import HIPE
from training.push import PushRecord


def merged(activations: Tensor, labels: Tensor, node_of: Tensor, ancestors: Tensor, level_of: Tensor,
           coverage: Sequence[float], ways: Tensor | None = None) -> Tensor:
    """The prototype that each prototype is merged into.

    Within a node, a greedily chosen smallest set S of prototypes stays such that the sum over the node's clips of the
    largest activation in S is at least a share of the same sum over all its prototypes. At a class this holds for the
    clips of every way, since a rare way would otherwise be given up for a few clips of a frequent one. A prototype
    outside S is merged into the one of S whose activations on these clips correlate best with its own.

    Args:
        activations: (N, P) of training clips; labels: (N,) leaves; node_of: (P,); ancestors: (K0, L); level_of: (K,).
        coverage: the share by level, 0..1; 1 keeps all prototypes that add anything.
        ways: (N,) int64, the way of its class that a clip shows, -1 where unknown; None for all unknown.
    Returns:
        (P,) int64, the prototype that each is merged into; itself for one that stays.
    """
    into = torch.arange(len(node_of))
    for node in node_of.unique().tolist():
        which = (node_of == node).nonzero()[:, 0]
        mine = ancestors[labels, int(level_of[node])] == node
        own = activations[mine][:, which].double()  # (n, p)
        if len(which) < 2 or not len(own):
            continue
        way = torch.full((len(own),), -1) if ways is None or level_of[node] > 0 else ways[mine]
        of_way = (way[:, None] == way.unique()).double()  # (n, w)
        whole = of_way.T @ own.amax(1)  # (w,) sum of activations of all prototypes in each way
        of_way = of_way / whole.clamp(min=1e-12)
        wanted = torch.where(whole > 0, coverage[int(level_of[node])], 0.0).double()  # (w,)
        stay: list[int] = []
        best = torch.zeros(len(own), dtype=torch.float64)
        while not stay or (len(stay) < len(which) and bool((of_way.T @ best < wanted - 1e-9).any())):
            shares = of_way.T @ torch.maximum(own, best[:, None])  # (w, p)
            sums = torch.minimum(shares, wanted[:, None]).sum(0) + 1e-6 * shares.sum(0)  # missing shares first
            sums[stay] = -torch.inf
            stay.append(int(sums.argmax()))
            best = torch.maximum(best, own[:, stay[-1]])
        centred = own - own.mean(0)
        correlation = torch.nan_to_num(centred.T @ centred[:, stay] / (centred.norm(dim=0)[:, None]
                                                                 * centred[:, stay].norm(dim=0)))  # (p, s)
        nearest = torch.tensor(stay)[correlation.argmax(1)]
        nearest[stay] = torch.tensor(stay)
        into[which] = which[nearest]
    return into


def merge_prototypes(model: HIPE, record: PushRecord, distances: Tensor, labels: Tensor,
                     coverage: Sequence[float], ways: Tensor | None = None) -> tuple[PushRecord, Tensor]:
    """Merge a model's pushed prototypes as `merged` says; those that stay absorb the weights of those that go.

    Args:
        model: of a score with weights. record: of the push.
        distances: (N, P) squared distances of the nearest patches of all training clips, in an order that does not
            depend on the number of processes; labels: (N,).
        coverage: a share for each level from the leaf up; the last one holds for all levels above.
        ways: (N,) of the clips, see `merged`.
    Returns:
        the record of the prototypes that stay, and (P,) int64, the result of `merged`.
    """
    layer, device = model.prototype_layer, model.device
    n_levels = model.ancestors.shape[1]
    shares = [*coverage[:n_levels], *coverage[-1:] * (n_levels - len(coverage))]
    into = merged(layer.similarity(distances), labels, layer.node_of.cpu(), model.ancestors.cpu(), model.level_of.cpu(),
                  shares, ways)
    keep = into == torch.arange(len(into))
    model.score.absorb(into.to(device))
    if not keep.all():
        model.keep(keep)
    return replace(record, stands_for=[(into == p).nonzero()[:, 0].tolist() for p in range(len(into))]).only(keep), into


def spread_of(model: HIPE, record: PushRecord, distances: Tensor, videos: Tensor, names: Sequence[str],
              labels: Tensor) -> dict[str, Tensor]:
    """Quantiles of the distances of all training videos from pushed prototypes, see `distance_spread`.

    Args:
        distances: (N, P), of the clips' nearest patches; videos: (N,) each clip's video.
        names, labels: (V,) of the videos.
    """
    nearest = torch.full((len(names), distances.shape[1]), torch.inf)
    nearest.scatter_reduce_(0, videos[:, None].expand_as(distances), distances, "amin")
    number = {name: i for i, name in enumerate(names)}
    sources = torch.tensor([-1 if name is None else number[name] for name in record.video])
    return distance_spread(nearest, labels, sources, model.prototype_layer.node_of.cpu(), model.ancestors.cpu(),
                           model.level_of.cpu())
