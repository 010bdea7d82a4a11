"""Merging: prototypes of a node that see what others of it see, too, give way to them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def merged(activations: Tensor, labels: Tensor, node_of: Tensor, ancestors: Tensor, level_of: Tensor,
           coverage: Sequence[float]) -> Tensor:
    """Which prototypes stay, and which become which.

    Within a node stay, chosen greedily, the fewest prototypes S whose sum over the node's clips of the largest
    activation in S is at least a share of the same over all its prototypes. A prototype that goes becomes the one that
    stays whose activations on these clips correlate best with its own.

    Args:
        activations: (N, P) of training clips; labels: (N,) leaves; node_of: (P,); ancestors: (K0, L); level_of: (K,).
        coverage: the share by level, 0..1; 1 keeps all that add anything.
    Returns:
        (P,) int64, the prototype that each becomes; one that stays becomes itself.
    """
    into = torch.arange(len(node_of))
    for node in node_of.unique().tolist():
        which = (node_of == node).nonzero()[:, 0]
        own = activations[ancestors[labels, int(level_of[node])] == node][:, which].double()  # (n, p)
        if len(which) < 2 or not len(own):
            continue
        kept: list[int] = []
        best = torch.zeros(len(own), dtype=torch.float64)
        wanted = coverage[int(level_of[node])] * float(own.amax(1).sum())
        while not kept or (len(kept) < len(which) and float(best.sum()) < wanted):
            sums = torch.maximum(own, best[:, None]).sum(0)  # (p,)
            sums[kept] = -torch.inf
            kept.append(int(sums.argmax()))
            best = torch.maximum(best, own[:, kept[-1]])
        centred = own - own.mean(0)
        alike = torch.nan_to_num(centred.T @ centred[:, kept] / (centred.norm(dim=0)[:, None]
                                                                 * centred[:, kept].norm(dim=0)))  # (p, kept)
        nearest = torch.tensor(kept)[alike.argmax(1)]
        nearest[kept] = torch.tensor(kept)
        into[which] = which[nearest]
    return into


def ways_after(ways: Tensor, labels: Tensor, node_of: Tensor, into: Tensor) -> Tensor:
    """The ways of videos by the prototypes that tell them, once some have become others.

    Args:
        ways: (V,) int64, the number of a prototype of the video's class, -1 where it is unknown; labels: (V,) leaves;
            node_of: (P,), node by node.
        into: (P,) int64, the prototype that each becomes, itself for one that stays, -1 for one that is gone.
    Returns:
        (V,) int64, numbers among those that stay, -1 where the prototype is gone.
    """
    stays = into == torch.arange(len(into))
    place = stays.cumsum(0) - 1  # (P,) among those that stay
    before, after = torch.searchsorted(node_of, labels), torch.searchsorted(node_of[stays], labels)  # of each class
    now = into[before + ways.clamp(min=0)]
    return torch.where((ways >= 0) & (now >= 0), place[now] - after, -1)
