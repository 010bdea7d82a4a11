"""The losses, as named scalars; weights and sums are the engine's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.scores import log_softmax_within


def cross_entropies(log_probs: Tensor, labels: Tensor, ancestors: Tensor) -> Tensor:
    """Mean of -log p over the clips for the true node of each level.

    Args:
        log_probs: (B, K); labels: (B,) leaves; ancestors: (K0, L).
    Returns:
        (L,).
    """
    return -log_probs.gather(1, ancestors[labels]).mean(0)


def level_cross_entropies(evidence: Tensor, labels: Tensor, ancestors: Tensor, level_of: Tensor) -> Tensor:
    """Cross-entropy of every level by itself: the true node's evidence against that of all other nodes of the level.

    Args:
        evidence: (B, K) of the nodes; labels: (B,) leaves; ancestors: (K0, L); level_of: (K,).
    Returns:
        (L,), means over the clips.
    """
    return cross_entropies(log_softmax_within(evidence, level_of, ancestors.shape[1]), labels, ancestors)


def ways_cross_entropy(activations: Tensor, labels: Tensor, ways: Tensor, n_ways: Tensor, node_of: Tensor,
                       sharpness: float = 4.0) -> Tensor:
    """How far a class's prototypes are from telling the ways apart in which its clips show it.

    -log of the share that the prototypes of a clip's way have in softmax(4 a_p) over those of its class. Of a class
    with W ways prototype i, counted within the class, is of way i mod W.

    Args:
        activations: (B, P); labels: (B,) leaves; ways: (B,) int64, -1 for a clip of unknown way; n_ways: (B,) int64, of
            the clip's class; node_of: (P,).
    Returns:
        (), the mean over the clips of known way, 0 without any.
    """
    own = node_of == labels[:, None]  # (B, P)
    place = torch.arange(len(node_of), device=node_of.device) - own.long().argmax(1)[:, None]
    right = own & (place % n_ways.clamp(min=1)[:, None] == ways[:, None])
    known = right.any(1)
    log_probs = (sharpness * activations).masked_fill(~own, -torch.inf).log_softmax(1)
    picked = log_probs.masked_fill(~torch.where(known[:, None], right, own), -torch.inf).logsumexp(1)
    return -torch.where(known, picked, 0).sum() / known.sum().clamp(min=1)


def batch_cross_entropy(tangent: Tensor, classes: Tensor) -> Tensor:
    """The released code's cross-entropy: every clip is to find its class among those of the batch's clips.

    Clips of one class are each other's wrong answers: with n of each class it is at least log n. Here only to train the
    method as it was published.

    Args:
        tangent: (B, D), the last layer's output; classes: (B, D), the point in the ball of each clip's own class.
    Returns:
        (), the mean of -log softmax over the batch of minus the squared Euclidean distances.
    """
    distances = (tangent[:, None] - classes).square().sum(-1)  # (B, B)
    return F.cross_entropy(-distances, torch.arange(len(tangent), device=tangent.device))


def level_losses(nearest: Tensor, focused: Tensor, background: Tensor, labels: Tensor, node_of: Tensor,
                 ancestors: Tensor, level_of: Tensor, margin: float, *, sure: Tensor | None = None,
                 cluster_margin: float | None = None, rivals: str = "level") -> dict[str, Tensor]:
    """Cluster, separation, background and coverage losses of every level at once.

    A clip is pulled towards the nearest prototype of its own node at each level and pushed off the nearest one of any
    other node *of that level*, so never off its own ancestors. Coverage pulls every prototype, not only the nearest,
    to some patch of its node (R1 of Li et al., AAAI 2018).

    Args:
        nearest, focused, background: (B, P) squared L2 from each prototype to the nearest of all cells, of the focused
            cells and of the background cells of each clip.
        labels: (B,) leaves.
        node_of: (P,) node of each prototype.
        ancestors: (K0, L); level_of: (K,).
        margin: where the distances of separation and background are clamped.
        sure: (B,) bool, the clips that cluster, background and coverage are means over; None, or none of them, for all.
        cluster_margin: where the distances of cluster are clamped; None for nowhere.
        rivals: "level", or "all" as in the released code: off prototypes of any node but the own one of the level, the
            clip's other ancestors too.
    Returns:
        cluster, separation, background: (L,); coverage: ().
    """
    n_clips, n_nodes = len(labels), len(level_of)
    n_levels = ancestors.shape[1]
    own_nodes = ancestors[labels]  # (B, L)
    owned = own_nodes[:, level_of[node_of]] == node_of  # (B, P)
    counts = torch.ones_like(labels, dtype=torch.bool) if sure is None else sure | ~sure.any()
    share = counts[:, None] / counts.sum()  # (B, 1), each clip's part of a mean

    def per_node(distances: Tensor) -> Tensor:
        """The smallest distance over each node's prototypes: (B, P) -> (B, K)."""
        empty = distances.new_full((n_clips, n_nodes), torch.inf)
        return empty.scatter_reduce(1, node_of.expand(n_clips, -1), distances, "amin")

    if rivals == "all":
        others = per_node(nearest)[:, None].repeat(1, n_levels, 1)  # (B, L, K)
        nearest_other = others.scatter(2, own_nodes[..., None], torch.inf).amin(2)  # (B, L)
    else:
        own_column = torch.zeros(n_clips, n_nodes, dtype=torch.bool, device=labels.device).scatter(1, own_nodes, True)
        others = per_node(nearest).masked_fill(own_column, torch.inf)  # (B, K)
        nearest_other = others.new_full((n_clips, n_levels), torch.inf)
        nearest_other = nearest_other.scatter_reduce(1, level_of.expand(n_clips, -1), others, "amin")  # (B, L)

    covering = owned & counts[:, None]  # (B, P)
    covered = focused.masked_fill(~covering, torch.inf).amin(0)  # (P,)
    present = covering.any(0)  # (P,)
    return {
        "cluster": (per_node(focused).gather(1, own_nodes).clamp(max=cluster_margin or torch.inf) * share).sum(0),
        "separation": -nearest_other.clamp(max=margin).mean(0),
        "background": -(per_node(background).gather(1, own_nodes).clamp(max=margin) * share).sum(0),
        "coverage": torch.where(present, covered, 0).sum() / present.sum(),
    }


def sparsity(last_weight: Tensor) -> Tensor:
    """Sum of the absolute weights of the last layer, the released code's: (D, P) -> ()."""
    return last_weight.abs().sum()


def group_sparsity(last_weight: Tensor) -> Tensor:
    """Sum over the prototypes of the norm of the last layer's column: (D, P) -> ()."""
    return last_weight.norm(dim=0).sum()


def orthogonality(prototypes: Tensor, counts: Tensor, centre: float = 0.5, *, most: int | None = None) -> Tensor:
    """Mean squared cosine between the prototypes of a node.

    Args:
        prototypes: (P, C), node by node.
        counts: (K,) prototypes of each node; where none has two there is nothing to compare, and the loss is 0.
        centre: what cosines are taken around: the middle of a sigmoid's range, or 0.
        most: the largest of the counts, where it is known: to look it up waits for all that a GPU has to do.
    Returns:
        (), 0 (orthogonal) .. 1 (all alike).
    """
    most = int(counts.max()) if most is None else most
    place = torch.arange(most, device=counts.device) < counts[:, None]  # (K, n), which of n places are taken
    unit = F.normalize(prototypes - centre, dim=-1)
    unit = unit.new_zeros(*place.shape, unit.shape[1]).masked_scatter(place[..., None], unit)  # (K, n, C)
    cosines = unit @ unit.transpose(1, 2)  # (K, n, n), 0 where a place is not taken
    different = 1 - torch.eye(most, device=prototypes.device)
    return (cosines * different).square().sum() / (counts * (counts - 1)).sum().clamp(min=1)


def sharing(activations: Tensor, labels: Tensor, node_of: Tensor, ancestors: Tensor, level_of: Tensor) -> Tensor:
    """How far the ancestors' prototypes are from firing on every child (HComP-Net, arXiv 2409.02335).

    -mean over (prototype of an ancestor, child of that ancestor in the batch) of
    log tanh(mean activation over the child's clips).

    Args:
        activations: (B, P), not negative; labels, node_of, ancestors, level_of: as in `level_losses`.
    Returns:
        (), 0 in a tree of one level.
    """
    n_clips, n_levels = len(labels), ancestors.shape[1]
    if n_levels == 1:
        return activations.new_zeros(())
    own = ancestors[labels]  # (B, L)
    member = torch.zeros(n_clips, len(level_of), device=labels.device).scatter(1, own, 1.0)  # (B, K)
    clips_of = member.sum(0)  # (K,)
    means = member.T @ activations / clips_of.clamp(min=1)[:, None]  # (K, P)
    parent = torch.full_like(level_of, -1)
    parent = parent.scatter(0, ancestors[:, :-1].flatten(), ancestors[:, 1:].flatten())  # (K,), -1 at the top
    pairs = (parent[:, None] == node_of) & (clips_of > 0)[:, None]  # (K, P)
    told = torch.where(pairs, means, 1).clamp(min=1e-6).tanh().log()  # chosen by a mask, which waits for no GPU
    return -torch.where(pairs, told, 0).sum() / pairs.sum()
