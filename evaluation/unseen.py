"""Is a video of a class that training never saw, and from which level of the tree on? By how far its nearest patches
are from the prototypes of what it is predicted to be, compared with the training videos of all nodes of that level."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evaluation.typicality import OWN

FAR = 0.95  # a node's score above this: farther than so many of the training videos are from their own nodes
USUAL = 0.9  # the share of the training videos that is nearer than a level's usual distance
LEAST = 1e-6  # squared distance that counts as the largest of training where all were smaller


def own_distances(distances: Tensor, paths: Tensor, node_of: Tensor) -> Tensor:
    """Squared distances of videos from the nearest prototype of each node that they are predicted to be.

    Args:
        distances: (V, P) of each video's nearest patch. paths: (V, L) predicted nodes, from the leaf up. node_of: (P,).
    Returns:
        (V, L) float64, infinite for a node without prototypes.
    """
    distances, node_of = distances.double().cpu(), node_of.cpu()
    return torch.stack([distances.masked_fill(node_of != nodes[:, None], torch.inf).amin(1) for nodes in paths.T], 1)


class LevelSpread:
    """How far the training videos are from the prototypes of their own nodes, over all nodes of a level.

    One measure for a whole level: a node whose own videos lie far apart is no excuse for a video that is like none.

    Args:
        spread: as `evaluation.typicality.distance_spread` has it. node_of: (P,). nodes: of the level, (n,).
    """

    def __init__(self, spread: Mapping[str, Tensor], node_of: Tensor, nodes: Sequence[int]) -> None:
        quantiles, counts, node_of = spread["own"].double().cpu(), spread["n_own"].double().cpu(), node_of.cpu()
        told = [which for which in ((node_of == node) & (counts > 0) for node in nodes) if which.any()]
        # of a video's distances from several prototypes of its node the smallest counts
        rows = [quantiles[which].amin(0) for which in told]
        self.quantiles = torch.stack(rows) if rows else quantiles.new_zeros(0, len(OWN))  # (m, Q)
        self.weights = torch.stack([counts[which].amax() for which in told]) if told else counts.new_zeros(0)  # (m,)

    @property
    def known(self) -> bool:
        """Whether there is any training video to compare with."""
        return len(self.weights) > 0

    def share(self, distances: Tensor) -> Tensor:
        """The share of training videos that are nearer than each of (V,) squared distances."""
        shares, row = torch.tensor(OWN, dtype=torch.float64), distances.double().contiguous()
        high = torch.searchsorted(self.quantiles, row.expand(len(self.quantiles), -1).contiguous(), right=True)
        high = high.clamp(1, len(OWN) - 1)
        from_, to = self.quantiles.gather(1, high - 1), self.quantiles.gather(1, high)
        part = ((row - from_) / (to - from_).clamp(min=1e-12)).clamp(0, 1)  # (m, V)
        nearer = shares[high - 1] + part * (shares[high] - shares[high - 1])
        nearer = nearer.masked_fill(row >= self.quantiles[:, -1:], 1.0)
        return (self.weights[:, None] * nearer).sum(0) / self.weights.sum()

    def distance(self, share: float) -> float:
        """The squared distance within which a share of the training videos are."""
        knots = self.quantiles.flatten().sort().values  # between them shares are linear
        shares = self.share(knots)
        high = int((shares >= share).nonzero()[0, 0])
        low = max(high - 1, 0)
        part = (share - shares[low]) / (shares[high] - shares[low]).clamp(min=1e-12)
        return max(float(knots[low] + part.clamp(0, 1) * (knots[high] - knots[low])), LEAST)


def level_spreads(spread: Mapping[str, Tensor], node_of: Tensor, levels: Sequence[Sequence[int]]) -> list[LevelSpread]:
    """The spread of every level; `levels` holds its nodes."""
    return [LevelSpread(spread, node_of, nodes) for nodes in levels]


def unseen_scores(own: Tensor, spreads: Sequence[LevelSpread]) -> Tensor:
    """How strange each video is to the node that it is predicted to be, at every level.

    Args:
        own: (V, L) as of `own_distances`. spreads: of the L levels.
    Returns:
        (V, L) float64: the share 0..1 of the training videos that are nearer to their own node of that level; farther
        than all of them, 1 plus the logarithm of the distance over the largest of theirs; infinite where no prototype
        of the node, or no training video of the level, can tell.
    """
    columns = []
    for distances, of in zip(own.T, spreads, strict=True):
        if not of.known:
            columns.append(torch.full_like(distances, torch.inf))
            continue
        share, largest = of.share(distances), of.quantiles.amax().clamp(min=LEAST)
        beyond = 1 + (distances / largest).clamp(min=1).log()
        columns.append(torch.where(distances > largest, beyond, share))
    return torch.stack(columns, 1)


def overall(own: Tensor, spreads: Sequence[LevelSpread]) -> Tensor:
    """One number of how unseen each video looks, larger for stranger ones: (V,).

    The sum over the levels of the distance over the level's usual one (see USUAL), each level counting half as much as
    the one below it. What cannot tell is left out.

    Args:
        own, spreads: as of `unseen_scores`.
    """
    total = own.new_zeros(len(own))
    for level, (distances, of) in enumerate(zip(own.T, spreads, strict=True)):
        if of.known:
            share = 0.5 ** level * distances / of.distance(USUAL)
            total += share.masked_fill(share.isinf(), 0)
    return total


def unseen_from(scores: Sequence[float]) -> int | None:
    """The highest level down from which a video is farther than FAR of the training videos: 0 for the class alone, 1
    for class and parent, ...; None where the class is seen. What no prototype can tell counts as its level below.

    Args:
        scores: (L,) from the leaf up, as of `unseen_scores`.
    """
    level = None
    for i, score in enumerate(scores):
        if score <= FAR:
            break
        if score < float("inf"):
            level = i
    return level


def unseen_entries(nearest: Tensor, paths: Tensor, spread: Mapping[str, Tensor] | None, node_of: Tensor,
                   levels: Sequence[Sequence[int]]) -> list[dict]:
    """What JSON files say of how unseen videos look.

    Args:
        nearest, paths, node_of: as of `own_distances`. spread: as of `level_spreads`; None where no push told how near
            training videos come. levels: the nodes of each.
    Returns:
        by video `unseen`, the scores of `unseen_scores`, None for an infinite one; `unseen_from`; and `unseen_score`,
        the number of `overall`; all None without a spread.
    """
    if spread is None:
        return [{"unseen": None, "unseen_from": None, "unseen_score": None} for _ in nearest]
    own, spreads = own_distances(nearest, paths, node_of), level_spreads(spread, node_of, levels)
    return [{"unseen": [round(value, 4) if math.isfinite(value) else None for value in scores],
             "unseen_from": unseen_from(scores), "unseen_score": round(total, 4)}
            for scores, total in zip(unseen_scores(own, spreads).tolist(), overall(own, spreads).tolist(), strict=True)]
