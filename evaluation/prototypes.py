"""Are prototypes what they are called? Purity, duplicates, sharing among children, consistency: a number a prototype.

Activations are those of videos, (N, P), higher is more similar; `node_of` (P,), `membership` (K, K0), `ancestors`
(K0, L) and `level_of` (K,) are those of the model and of a `Hierarchy`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evaluation.localisation import Tube

NEAREST = 10
SAME = 1e-6  # squared distance up to which prototypes are one and the same
CONSISTENT = 0.8  # of the clips that a part has to be covered in (Huang et al., ICCV 2023)
PARTS = ((0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))  # places in a box: its y and x, 0..1


def purity(activations: Tensor, labels: Tensor, node_of: Tensor, membership: Tensor, k: int = NEAREST) -> Tensor:
    """Of the k videos that hold the patches nearest to each prototype, the share that lie under its node.

    Args:
        activations: (N, P) of training videos; labels: (N,) leaves.
    Returns:
        (P,) float64 in 0..1; a random prototype's is the share of videos under its node.
    """
    nearest = activations.topk(min(k, len(activations)), dim=0).indices  # (k, P)
    return membership[node_of, labels[nearest]].double().mean(0)


def duplicates(prototypes: Tensor, node_of: Tensor) -> Tensor:
    """Which prototypes (P, C) are the same as an earlier one of their node: (P,) bool."""
    repeated = torch.zeros(len(prototypes), dtype=torch.bool)
    for node in node_of.unique().tolist():
        which = (node_of == node).nonzero()[:, 0]
        distances = torch.cdist(prototypes[which].double(), prototypes[which].double()).square()
        repeated[which.cpu()] = (distances.tril(-1) + torch.ones_like(distances).triu() <= SAME).any(1).cpu()
    return repeated


def sharing(activations: Tensor, labels: Tensor, node_of: Tensor, ancestors: Tensor,
            level_of: Tensor) -> Tensor:
    """Does an ancestor's prototype fire on clips of all its children?

    How surely it tells clips of a child from clips of other nodes, as the area under the ROC curve, for the child where
    it does so worst.

    Args:
        activations: (N, P) of videos; labels: (N,) leaves.
    Returns:
        (P,) float64: 1 fires on every child more than on anything else, .5 does not know the worst child; nan for the
        prototypes of leaves, and where a child has no video.
    """
    result = torch.full((len(node_of),), torch.nan, dtype=torch.float64)
    paths = ancestors[labels]  # (N, L)
    for node in node_of.unique().tolist():
        level = int(level_of[node])
        inside = paths[:, level] == node
        if level == 0 or inside.all():
            continue
        which = (node_of == node).nonzero()[:, 0]
        others = activations[~inside][:, which]  # (n, p)
        children = ancestors[ancestors[:, level] == node, level - 1].unique().tolist()
        worst = torch.ones(len(which), dtype=torch.float64)
        for child in children:
            own = activations[paths[:, level - 1] == child][:, which]  # (m, p)
            worst = torch.minimum(worst, auc(own, others)) if len(own) else torch.full_like(worst, torch.nan)
        result[which.cpu()] = worst
    return result


def auc(positive: Tensor, negative: Tensor) -> Tensor:
    """(m, p) and (n, p) -> (p,) float64: how often one of the first is above one of the second, ties half."""
    ranked, asked = negative.T.sort(dim=1).values.contiguous(), positive.T.contiguous()  # (p, n), (p, m)
    below = sum(torch.searchsorted(ranked, asked, right=ties).double() for ties in (False, True)) / 2  # (p, m)
    return (below.mean(1) / len(negative)).cpu()


def covered_parts(tubes: Sequence[Tube], frame: int, box: Sequence[float]) -> np.ndarray | None:
    """Which parts of the event a region covers: the middle of its box and of the box's four quarters.

    Args:
        tubes: of the video. frame: of the source. box: y0, x0, y1, x1 of the region, in the source's pixels.
    Returns:
        (5,) bool, or None where nothing is to be seen in that frame.
    """
    covered = []
    for tube in tubes:
        if tube.first_frame <= frame < tube.last_frame:
            left, top, width, height = tube.boxes[frame - tube.first_frame]
            covered.append([box[0] <= top + y * height < box[2] and box[1] <= left + x * width < box[3]
                            for y, x in PARTS])
    # of several actors the one of whom the region covers most
    return np.array(max(covered, key=sum)) if covered else None


def consistency(covered: Sequence[np.ndarray]) -> float:
    """Of one prototype over clips, (5,) bool each: how often it covers the part that it covers most often, 0..1."""
    return float(np.mean(covered, axis=0).max())


def ways_covered(sources: Sequence[str | None], node_of: Tensor, labels: Mapping[str, int],
                 ways: Mapping[str, int]) -> Tensor:
    """Of the ways in which the training videos show a class, the share that some prototype of the class comes from.

    Args:
        sources: (P,) names of the videos that prototypes come from. labels: leaf of every training video, by name.
        ways: of the videos of which it is known.
    Returns:
        (P,) float64 in 0..1 at the first prototype of every class, so that a mean counts every class once; nan at all
        others, and where the ways of a class are not known.
    """
    result = torch.full((len(node_of),), torch.nan, dtype=torch.float64)
    shown: dict[int, set[int]] = {}
    for video, label in labels.items():
        if video in ways:
            shown.setdefault(label, set()).add(ways[video])
    for leaf, of_class in shown.items():
        which = (node_of == leaf).nonzero()[:, 0].tolist()
        if which:
            result[which[0]] = len(of_class & {ways.get(sources[p]) for p in which}) / len(of_class)
    return result
