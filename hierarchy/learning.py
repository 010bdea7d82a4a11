"""The embedding of the class tree by gradient descent: hypernym loss, then entailment cones, and a margin of leaves."""

import math
from collections.abc import Callable, Iterator

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from hierarchy.hyperbolic import aperture, distance, outward_angle
from hierarchy.measures import CONE_WIDTH
from hierarchy.relations import lineage, parent_child
from hierarchy.tree import Hierarchy

REACH = 15.0  # at c = 1: a step in geoopt's float64 Lorentz model is exact to 1e-3 here, and NaN at radius 17
RATE = 0.1  # hyperbolic length of the first step of a point, at c = 1
N_NEGATIVES = 10  # unrelated nodes sampled for every pair
CONE_MARGIN = 0.01  # radians by which a node must lie outside the cones of nodes that are not its ancestors
LEAF_WEIGHT = 1.0  # of the leaves' margin, relative to the other loss
N_PAIRS, N_LEAVES = 2048, 512  # maximum per step


def learn(
    start: Tensor, hierarchy: Hierarchy, *, c: float, edge: float, epochs: int, seed: int, progress: bool = False
) -> Tensor:
    """Move the nodes by Riemannian Adam: epochs/2 of the hypernym loss, then epochs/2 of entailment cones.

    Hypernym loss: for every node and an ancestor, -log of the ancestor's share of exp(-distance) among it and sampled
    nodes that are neither above nor below (Nickel and Kiela, NeurIPS 2017). Cones: for every child, the angle by which
    it is outside its parent's cone; for sampled nodes that are not below the parent, the angle that they lack to being
    ``CONE_MARGIN`` outside (Ganea et al., ICML 2018). In both stages, leaves nearer to each other than siblings in the
    tree, 2 ``edge``, are pushed apart (the large margin of Long et al., CVPR 2020).

    Args:
        start: (K, D) float64 tangent vectors at the origin. Points move in the Lorentz model, in float64.
    Returns:
        (K, D) float64 tangent vectors, determined by ``start`` and ``seed``.
    Raises:
        ValueError: where the tree at this edge is larger than radius 15 / sqrt(c), beyond which gradient steps in
            float64 Lorentz coordinates fail.
    """
    root = math.sqrt(c)
    if root * edge * hierarchy.n_levels > REACH:
        raise ValueError(
            f"edges of length {edge:g} put the classes beyond the range of the losses; use --edge "
            f"{REACH / root / hierarchy.n_levels:.4g} at most, or --method constructive"
        )
    generator = torch.Generator().manual_seed(seed)
    space = geoopt.Lorentz(k=torch.ones((), dtype=torch.float64))
    points = geoopt.ManifoldParameter(_to_lorentz(root * start), manifold=space)
    samples = _Samples(hierarchy, generator)
    with tqdm(total=epochs, desc="fit", leave=False, disable=not progress) as bar:
        for stage, n_epochs in ((_hypernyms, epochs - epochs // 2), (_cones, epochs // 2)):
            optimizer = geoopt.optim.RiemannianAdam([points], lr=RATE, stabilize=1)
            for epoch in range(n_epochs):
                optimizer.param_groups[0]["lr"] = RATE * (1 - epoch / n_epochs)
                for pairs, leaves in samples.batches(stage):
                    optimizer.zero_grad()
                    at = _from_lorentz(points)
                    weight = LEAF_WEIGHT * epoch / n_epochs  # siblings must be close together before they are spread
                    loss = stage(at, pairs, samples) + weight * _crowding(at[leaves], 2 * edge * root)
                    (loss + _far_out(at)).backward()
                    optimizer.step()
                bar.update()
                bar.set_postfix(stage=stage.__name__[1:], loss=f"{loss.item():.3f}")
    return _from_lorentz(points.detach()) / root


def _to_lorentz(u: Tensor) -> Tensor:
    """Tangent vectors (K, D) at curvature -1 -> (K, D + 1) points of the hyperboloid."""
    radius = 2 * torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    return torch.cat([torch.cosh(radius), F.normalize(u, dim=-1) * torch.sinh(radius)], dim=-1)


def _from_lorentz(x: Tensor) -> Tensor:
    """The inverse of `_to_lorentz`, from the space part alone, which is exact at any radius."""
    length = torch.linalg.vector_norm(x[:, 1:], dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.asinh(length) / (2 * length) * x[:, 1:]


class _Samples:
    """Batches of related nodes, and samples of unrelated ones."""

    def __init__(self, hierarchy: Hierarchy, generator: torch.Generator) -> None:
        self.generator, self.n_leaves = generator, hierarchy.n_leaves
        self.lineage, self.level = lineage(hierarchy), hierarchy.level_of
        above = (self.lineage >= 0) & (self.lineage != torch.arange(len(hierarchy))[:, None])
        node, level = above.nonzero(as_tuple=True)
        self.closure = torch.stack([self.lineage[node, level], node], dim=-1)  # (N, 2): an ancestor and the node
        self.pairs = {_hypernyms: self.closure, _cones: parent_child(hierarchy)}

    def batches(self, stage: Callable) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs (B, 2) of a stage in random order, each batch with random leaves (M,)."""
        pairs = self.pairs[stage]
        order = torch.randperm(len(pairs), generator=self.generator)
        for part in order.split(N_PAIRS) if len(order) else [order]:
            yield pairs[part], torch.randperm(self.n_leaves, generator=self.generator)[:N_LEAVES]

    def unrelated(self, nodes: Tensor, *, upwards: bool) -> tuple[Tensor, Tensor]:
        """Random nodes (B, N) for nodes (B,), and a mask (B, N) of those that are not below the node.

        With ``upwards`` the mask excludes nodes above it as well.
        """
        others = torch.randint(len(self.level), (len(nodes), N_NEGATIVES), generator=self.generator)
        valid = self.lineage[others, self.level[nodes, None]] != nodes[:, None]
        if upwards:
            valid &= self.lineage[nodes[:, None], self.level[others]] != others
        return others, valid


def _hypernyms(at: Tensor, pairs: Tensor, samples: _Samples) -> Tensor:
    """Nickel and Kiela's loss: pairs (B, 2) of an ancestor and a node -> ()."""
    if not len(pairs):  # a tree of one level
        return at.new_zeros(())
    ancestor, node = pairs.T
    others, valid = samples.unrelated(node, upwards=True)
    against = at[torch.cat([ancestor[:, None], others], dim=-1)]  # (B, 1 + N, D)
    logits = -distance(at[node, None], against, 1.0)[:, 0]  # (B, 1 + N)
    logits[:, 1:].masked_fill_(~valid, -math.inf)
    return -logits.log_softmax(-1)[:, 0].mean()


def _cones(at: Tensor, pairs: Tensor, samples: _Samples) -> Tensor:
    """Ganea's loss: pairs (B, 2) of a parent and its child -> ()."""
    if not len(pairs):
        return at.new_zeros(())
    parent, child = pairs.T
    others, valid = samples.unrelated(parent, upwards=False)
    opening = aperture(at[parent], 1.0, CONE_WIDTH)  # (B,)
    outside = F.relu(outward_angle(at[parent], at[child], 1.0) - opening)
    beside = outward_angle(at[parent, None].expand(-1, N_NEGATIVES, -1), at[others], 1.0) - opening[:, None]
    return outside.mean() + (F.relu(CONE_MARGIN - beside) * valid).sum(-1).mean()


def _crowding(leaves: Tensor, margin: float) -> Tensor:
    """Mean amount by which the nearest other leaf is nearer than the margin: leaves (M, D) -> ()."""
    apart = distance(leaves, leaves, 1.0)
    itself = torch.eye(len(leaves), dtype=torch.bool)
    return F.relu(margin - apart.masked_fill(itself, math.inf).amin(-1)).mean()


def _far_out(at: Tensor) -> Tensor:
    """Penalty for points within one unit of REACH, where steps begin to lose precision."""
    return F.relu(2 * torch.linalg.vector_norm(at, dim=-1) - (REACH - 1)).square().sum()
