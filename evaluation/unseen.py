"""Is a video of a class that training never saw, and from which level of the tree on? By how far its nearest patches
are from the prototypes of what it is predicted to be, compared with the training videos of that node."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evaluation.typicality import OWN

LEAST = 1e-6  # squared distance that counts as the largest of training where all were smaller
FAR = 1.0  # a score above this: farther than every training video of the node


def strangeness(distances: Tensor, spread: Mapping[str, Tensor]) -> Tensor:
    """How far videos are from prototypes, by the training videos of each prototype's own node.

    Args:
        distances: (V, P) squared distance of each video's nearest patch.
        spread: as `evaluation.typicality.distance_spread` has it.
    Returns:
        (V, P) float64: the share 0..1 of those training videos that are nearer; farther than all of them, 1 plus the
        logarithm of the distance over the largest of theirs; infinite where the node has no other training video.
    """
    quantiles = spread["own"].double().cpu()  # (P, Q)
    distances, shares = distances.double().cpu(), torch.tensor(OWN, dtype=torch.float64)
    above = torch.searchsorted(quantiles, distances.T.contiguous(), right=True)  # (P, V)
    high = above.clamp(1, len(OWN) - 1)
    low = high - 1
    from_, to = quantiles.gather(1, low), quantiles.gather(1, high)
    part = ((distances.T - from_) / (to - from_).clamp(min=1e-12)).clamp(0, 1)
    within = shares[low] + part * (shares[high] - shares[low])
    largest = quantiles[:, -1:].clamp(min=LEAST)
    beyond = 1 + (distances.T / largest).clamp(min=1).log()
    result = torch.where(quantiles[:, -1:] < distances.T, beyond, within)
    return result.masked_fill(spread["n_own"].cpu()[:, None] == 0, torch.inf).T


def unseen_scores(distances: Tensor, paths: Tensor, node_of: Tensor, spread: Mapping[str, Tensor]) -> Tensor:
    """How strange each video is to the node that it is predicted to be, at every level.

    Args:
        distances: (V, P). paths: (V, L) predicted nodes, from the leaf up. node_of: (P,).
    Returns:
        (V, L) float64, the strangeness to the node's nearest prototype: 0 for a typical video, above FAR for one that
        is farther than every training video; infinite where no prototype of the node can tell.
    """
    strange, node_of = strangeness(distances, spread), node_of.cpu()
    return torch.stack([strange.masked_fill(node_of != nodes[:, None], torch.inf).amin(1) for nodes in paths.T], 1)


def unseen_from(scores: Sequence[float]) -> int | None:
    """The highest level down from which a video is farther than every training video: 0 for the class alone, 1 for
    class and parent, ...; None where the class is seen. What no prototype can tell counts as its level below.

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
