"""The losses, their weights and when each is computed: a new loss is a function here and a line in LOSSES.

Every loss is a scalar, or (L,) with one entry per level, leaves first. Its weight has its name: the flag is
`--{name}_weight`.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.hipe import HIPE
from models.prototypes import EPSILON
from models.score import log_softmax_within


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
    """Cross-entropy of a clip's way, one of several ways in which clips show its class, by the class's prototypes.

    -log of the share of the prototypes of a clip's way in softmax(4 a_p) over the prototypes of its class. In a class
    with W ways, the class's i-th prototype belongs to way i mod W.

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
    """The released code's cross-entropy: each clip against the classes of the batch's clips.

    Clips of one class count as each other's wrong answers: with n clips of each class the loss is at least log n. It
    only serves to train the method as published.

    Args:
        tangent: (B, D), the last layer's output; classes: (B, D), the point in the ball of each clip's own class.
    Returns:
        (), the mean of -log softmax over the batch of minus the squared Euclidean distances.
    """
    distances = (tangent[:, None] - classes).square().sum(-1)  # (B, B)
    return F.cross_entropy(-distances, torch.arange(len(tangent), device=tangent.device))


def level_losses(nearest: Tensor, focused: Tensor, background: Tensor, labels: Tensor, node_of: Tensor,
                 ancestors: Tensor, level_of: Tensor, margin: float, *, reliable: Tensor | None = None,
                 cluster_margin: float | None = None, rivals: str = "level") -> dict[str, Tensor]:
    """Cluster, separation, background and coverage losses of every level at once.

    Cluster pulls a clip towards the nearest prototype of its own node at each level; separation pushes it away from the
    nearest prototype of any other node *of that level*, so never away from its own ancestors. Coverage pulls every
    prototype, not only the nearest, to some patch of its node (R1 of Li et al., AAAI 2018).

    Args:
        nearest, focused, background: (B, P) squared L2 from each prototype to the nearest of all cells, of the focused
            cells and of the background cells of each clip.
        labels: (B,) leaves.
        node_of: (P,) node of each prototype.
        ancestors: (K0, L); level_of: (K,).
        margin: where the distances of separation and background are clamped.
        reliable: (B,) bool, the clips over which cluster, background and coverage are means; None, or False for every
            clip, for all.
        cluster_margin: where the distances of cluster are clamped; None for nowhere.
        rivals: whose prototypes separation pushes clips away from: "level", other nodes of the level; or "all", all
            nodes but the clip's own at the level, so also its other ancestors, as in the released code.
    Returns:
        cluster, separation, background: (L,); coverage: ().
    """
    n_clips, n_nodes = len(labels), len(level_of)
    n_levels = ancestors.shape[1]
    own_nodes = ancestors[labels]  # (B, L)
    owned = own_nodes[:, level_of[node_of]] == node_of  # (B, P)
    counts = torch.ones_like(labels, dtype=torch.bool) if reliable is None else reliable | ~reliable.any()
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
    """Sum of the absolute weights of the last layer, as in the released code: (D, P) -> ()."""
    return last_weight.abs().sum()


def group_sparsity(last_weight: Tensor) -> Tensor:
    """Sum over the prototypes of the norm of the last layer's column: (D, P) -> ()."""
    return last_weight.norm(dim=0).sum()


def orthogonality(prototypes: Tensor, counts: Tensor, centre: float = 0.5, *, most: int | None = None) -> Tensor:
    """Mean squared cosine between the prototypes of a node.

    Args:
        prototypes: (P, C), node by node.
        counts: (K,) prototypes of each node; the loss is 0 where no node has two.
        centre: subtracted before cosines are taken: the middle of a sigmoid's range, or 0.
        most: the largest count, if known; looking it up waits for the GPU's queue.
    Returns:
        (), 0 (orthogonal) .. 1 (all alike).
    """
    most = int(counts.max()) if most is None else most
    place = torch.arange(most, device=counts.device) < counts[:, None]  # (K, n), which of n places hold a prototype
    unit = F.normalize(prototypes - centre, dim=-1)
    unit = unit.new_zeros(*place.shape, unit.shape[1]).masked_scatter(place[..., None], unit)  # (K, n, C)
    cosines = unit @ unit.transpose(1, 2)  # (K, n, n), 0 where a place is empty
    different = 1 - torch.eye(most, device=prototypes.device)
    return (cosines * different).square().sum() / (counts * (counts - 1)).sum().clamp(min=1)


def sharing(activations: Tensor, labels: Tensor, node_of: Tensor, ancestors: Tensor, level_of: Tensor) -> Tensor:
    """Penalty for ancestors' prototypes that do not activate on every child (HComP-Net, arXiv 2409.02335).

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
    logs = torch.where(pairs, means, 1).clamp(min=1e-6).tanh().log()  # a mask, since indexing would wait for the GPU
    return -torch.where(pairs, logs, 0).sum() / pairs.sum()


def focused_and_background(maps: Tensor, focus: float, background: float) -> tuple[Tensor, Tensor]:
    """The cells where a class map is highest, and those where it is lowest.

    Args:
        maps: (..., N) values of the map. focus, background: shares (0..1) of the cells.
    Returns:
        two (..., N) bool masks of at least one cell each.
    """
    n = maps.shape[-1]
    order = maps.argsort(dim=-1, descending=True)
    empty = torch.zeros_like(maps, dtype=torch.bool)
    top = empty.scatter(-1, order[..., : max(1, round(focus * n))], True)
    bottom = empty.scatter(-1, order[..., n - max(1, round(background * n)):], True)
    return top, bottom


# --- which losses there are, and their weights


@dataclass(frozen=True)
class StepOutputs:
    """What the losses of a warm or joint step are computed from, for the clips of all processes.

    Args:
        labels: (B,) leaves. log_probs: (B, K). activations: (B, P).
        evidence: (B, K) of the nodes, or tangent vectors (B, D) where the score is of embeddings.
        by_level: of `level_losses`. reliable: (B,) bool, the clips whose class map is.
        ways: (B,) int64, -1 where unknown; n_ways: (B,) int64, of the clip's class.
        pooled: (B, K0) log-probabilities of the pooled head; None where its loss is not computed.
    """

    labels: Tensor
    log_probs: Tensor
    activations: Tensor
    evidence: Tensor
    by_level: Mapping[str, Tensor]
    reliable: Tensor
    ways: Tensor
    n_ways: Tensor
    pooled: Tensor | None = None


def _ways(model: HIPE, clips: StepOutputs) -> Tensor:
    shown = torch.where(clips.reliable, clips.ways, -1)  # a clip without its event shows no way
    return ways_cross_entropy(clips.activations, clips.labels, shown, clips.n_ways, model.prototype_layer.node_of)


def _sharing(model: HIPE, clips: StepOutputs) -> Tensor:
    layer = model.prototype_layer
    # similarities of all kinds on the scale of the logarithmic one, log(1 / EPSILON) at most, for tanh saturates
    activations = clips.activations * (math.log(1 / EPSILON) / layer.highest)
    return sharing(activations, clips.labels, layer.node_of, model.ancestors, model.level_of)


def _orthogonality(model: HIPE) -> Tensor:
    layer = model.prototype_layer
    return orthogonality(layer.prototypes, layer.counts, 0.0 if layer.by_level else 0.5, most=layer.per_node)


@dataclass(frozen=True)
class Loss:
    """How a loss is computed, and when.

    Args:
        of: the loss of a model and the outputs of a step. always: computed whatever its weight is, for the log.
        tuning: part of tuning as well, where there are no outputs: the loss is of the score's parameters alone.
        possible: whether the loss is defined for a model and outputs.
    """

    of: Callable[[HIPE, StepOutputs | None], Tensor]
    always: bool = False
    tuning: bool = False
    possible: Callable[[HIPE, StepOutputs | None], bool] = lambda model, clips: True


# in the order in which they are added up, which decides the last bits of the sum
LOSSES: dict[str, Loss] = {
    "ce": Loss(lambda model, clips: cross_entropies(clips.log_probs, clips.labels, model.ancestors), always=True),
    "cluster": Loss(lambda model, clips: clips.by_level["cluster"], always=True),
    "separation": Loss(lambda model, clips: clips.by_level["separation"], always=True),
    "background": Loss(lambda model, clips: clips.by_level["background"], always=True),
    "coverage": Loss(lambda model, clips: clips.by_level["coverage"], always=True),
    "group": Loss(lambda model, _: group_sparsity(model.score.columns), always=True, tuning=True,
                  possible=lambda model, _: model.score.columns is not None),
    "level_ce": Loss(lambda model, clips: level_cross_entropies(clips.evidence, clips.labels, model.ancestors,
                                                                model.level_of)),
    "orthogonality": Loss(lambda model, _: _orthogonality(model)),
    "sharing": Loss(_sharing),
    "ways": Loss(_ways),
    "even": Loss(lambda model, _: model.score.unevenness(), tuning=True,
                 possible=lambda model, _: model.score.unevenness() is not None),
    "pooled": Loss(lambda _, clips: F.nll_loss(clips.pooled, clips.labels),
                   possible=lambda _, clips: clips.pooled is not None),
    "batch_ce": Loss(lambda model, clips: batch_cross_entropy(clips.evidence,
                                                              model.score.embeddings.in_ball[clips.labels])),
    "l1": Loss(lambda model, _: sparsity(model.score.columns)),
}


class LossWeights:
    """Weights by the names of LOSSES, 0 where none is given.

    Args:
        weights: numbers, or for a loss of (L,) a list with one number per level, leaves first, whose last one is the
            weight of all levels above.
    Raises:
        TypeError: naming a weight that no loss has.
    """

    def __init__(self, **weights: float | list[float]) -> None:
        if unknown := set(weights) - set(LOSSES):
            raise TypeError(f"no loss is called {', '.join(sorted(unknown))}; there are {', '.join(LOSSES)}")
        self._weights = dict.fromkeys(LOSSES, 0.0) | weights

    def of(self, name: str, n_levels: int, device: torch.device) -> Tensor | float:
        """The weight of a loss: a number, or (L,)."""
        weight = self._weights[name]
        if not isinstance(weight, list):
            return weight
        return _on_device(tuple(weight[:n_levels] + weight[-1:] * (n_levels - len(weight))), device)

    def wants(self, name: str) -> bool:
        """Whether the weight of a loss is not 0 at every level."""
        weight = self._weights[name]
        return any(weight) if isinstance(weight, list) else bool(weight)

    def terms(self, model: HIPE, clips: StepOutputs) -> dict[str, Tensor]:
        """The losses of a step, unweighted: each () or (L,)."""
        return {name: loss.of(model, clips) for name, loss in LOSSES.items()
                if (loss.always or self.wants(name)) and loss.possible(model, clips)}

    def tuning_terms(self, model: HIPE) -> dict[str, Tensor]:
        """The losses of the score's parameters in a tuning pass, unweighted."""
        return {name: loss.of(model, None) for name, loss in LOSSES.items()
                if loss.tuning and (loss.always or self.wants(name)) and loss.possible(model, None)}

    def total(self, terms: Mapping[str, Tensor], n_levels: int) -> Tensor:
        """The weighted sum of some losses: ()."""
        total = torch.zeros((), device=next(iter(terms.values())).device)
        for name, value in terms.items():
            total = total + (self.of(name, n_levels, value.device) * value).sum()
        return total


def named_scalars(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses as the log names them, without gradient: a loss of (L,) becomes name_0, name_1, ..."""
    scalars: dict[str, Tensor] = {}
    for name, value in terms.items():
        value = value.detach()
        scalars |= {f"{name}_{level}": value[level] for level in range(len(value))} if value.dim() else {name: value}
    return scalars


@functools.lru_cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device, copied there once: a copy in every step would wait for the GPU's queue."""
    return torch.tensor(values, device=device)
