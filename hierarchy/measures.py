"""Measures of how well an embedding represents the class tree."""

import math

import torch
from torch import Tensor
from tqdm import tqdm

from hierarchy.hyperbolic import aperture, distance, outward_angle
from hierarchy.relations import edges_between, lineage, parent_child
from hierarchy.tree import Hierarchy

CONE_WIDTH = 0.1  # K of the entailment cones, as in Ganea et al.

MEANINGS = {  # of the measures, in the order of the table; a group of leaves may be missing
    "mAP": "mAP of finding parent and children among a node's nearest",
    "mean_distortion": "mean relative distortion after the best single scale",
    "worst_distortion": "worst-case distortion: largest ratio / smallest",
    "distance_siblings": "mean distance of siblings: leaves of one parent",
    "distance_cousins": "mean distance of cousins: a higher ancestor in common",
    "distance_strangers": "mean distance of strangers: nothing but the root in common",
    "cosine_siblings": "mean cosine of siblings, seen from the origin",
    "cosine_cousins": "mean cosine of cousins",
    "cosine_strangers": "mean cosine of strangers",
    "disordered_leaves": "leaves with a nearer relative beyond a farther one",
    "margin_min": "smallest distance from a leaf to its nearest other leaf",
    "margin_mean": "mean distance from a leaf to its nearest other leaf",
    "entailment_violations": f"share of children outside their parent's cone of K = {CONE_WIDTH:g}",
    "entailment_angle": "mean angle of the way to a child with the way outwards, degrees",
}


def evaluate_embedding(
    points: Tensor, hierarchy: Hierarchy, *, c: float = 1.0, chunk: int = 128, progress: bool = False
) -> dict[str, float]:
    """How well distances between nodes follow the tree.

    Args:
        points: (K, D) tangent vectors at the origin; computed in float64. c: minus the curvature.
        chunk: nodes whose distances to all others are held at a time; beside them 8 K^2 bytes are needed.
        progress: show a progress bar.
    Returns:
        figures, of which those of pairs that the tree does not have are left out: ``mAP``, mean average precision of
        finding a node's parent and children among its nearest neighbours, 1 where every node is nearest to its own
        (nodes without any, in a tree of one level, do not count); ``mean_distortion``, mean of |s d/d_tree - 1| over
        pairs of nodes, with the scale s that makes it smallest; ``worst_distortion``, largest d/d_tree over smallest,
        >= 1 (Sala et al., ICML 2018). The tree's distances go through the root where nothing else joins two nodes.
        ``distance_`` and ``cosine_`` of ``siblings`` (the same parent), ``cousins`` (an ancestor, but another parent)
        and ``strangers`` (only the root): means over pairs of leaves, cosines of the tangent vectors;
        ``disordered_leaves``, how many have any relative beyond one that is farther in the tree; ``margin_min`` and
        ``margin_mean``, from a leaf to its nearest other leaf; ``entailment_violations``, share of the children outside
        their parent's entailment cone of K = .1 (Ganea et al., ICML 2018), and ``entailment_angle``, the mean angle
        (degrees) at the parent between the way outwards and that to the child.
    """
    points, above = points.double(), lineage(hierarchy)
    n_nodes, leaves = len(points), _Leaves(points, hierarchy)
    precision, ratios = [], torch.empty(n_nodes * (n_nodes - 1) // 2, dtype=torch.float64)
    filled = 0
    for rows in tqdm(torch.arange(n_nodes).split(chunk), desc="measure", leave=False, disable=not progress):
        apart, edges = distance(points[rows], points, c), edges_between(above, rows)  # (R, K)
        precision += _precision(apart, edges)
        ratio = (apart / edges)[torch.arange(n_nodes) > rows[:, None]]
        ratios[filled : filled + len(ratio)] = ratio
        filled += len(ratio)
        leaves.add(rows, apart, edges)
    ratios.numpy().sort()  # in place, which torch's sort is not
    figures = {"mAP": sum(precision) / len(precision) if precision else 1.0, **_distortion(ratios), **leaves.figures()}
    return figures | _entailment(points, hierarchy, c)


def table(figures: dict[str, float]) -> str:
    """The figures as a table in Markdown, a line each with its meaning."""
    width = max(map(len, MEANINGS.values()))
    lines = [f"| {MEANINGS[name]:{width}} | {value:10.4g} |" for name, value in figures.items()]
    return "\n".join([f"| {'figure':{width}} | {'value':>10} |", f"| {'-' * width} | {'-' * 9}: |", *lines])


def _precision(apart: Tensor, edges: Tensor) -> list[float]:
    """Average precision of every node's own neighbours: apart and edges (R, K) -> one for each node that has any."""
    found = []
    others = apart.masked_fill(edges == 0, math.inf).sort(-1).values  # a node is no neighbour of its own
    for distances, edge, within in zip(apart, edges, others, strict=True):
        near = distances[edge == 1].sort().values
        if len(near):
            hits = torch.searchsorted(near, near, right=True)
            found.append(float((hits / torch.searchsorted(within, near, right=True)).mean()))
    return found


def _distortion(ratios: Tensor) -> dict[str, float]:
    """Mean and worst distortion of d/d_tree, ascending.

    The best scale s is the inverse of a weighted median, for |s r - 1| = r |s - 1/r|.
    """
    if not len(ratios):
        return {"mean_distortion": 0.0, "worst_distortion": 1.0}
    total = ratios.cumsum(0)
    middle = float(ratios[int(torch.searchsorted(total, total[-1] / 2))])
    worst = float(ratios[-1] / ratios[0])
    return {"mean_distortion": float(ratios.div_(middle).sub_(1).abs_().mean()), "worst_distortion": worst}


class _Leaves:
    """What is collected of the leaves alone, chunk by chunk."""

    def __init__(self, points: Tensor, hierarchy: Hierarchy) -> None:
        self.n, self.n_levels = hierarchy.n_leaves, hierarchy.n_levels
        self.unit = torch.nn.functional.normalize(points[: self.n], dim=-1)
        self.sums = torch.zeros(3, self.n_levels + 1, dtype=torch.float64)  # of pairs, distances and cosines, by height
        self.margins: list[Tensor] = []
        self.disordered = 0

    def add(self, rows: Tensor, apart: Tensor, edges: Tensor) -> None:
        """Take the leaves among the rows; apart, edges: (R, K)."""
        rows = rows[rows < self.n]
        apart, height = apart[: len(rows), : self.n], edges[: len(rows), : self.n] // 2
        if not len(rows):
            return
        cosines = self.unit[rows] @ self.unit.T
        for total, values in zip(self.sums, (torch.ones_like(apart), apart, cosines), strict=True):
            total.index_add_(0, height.flatten(), values.flatten())
        wrong = torch.zeros(len(rows), dtype=torch.bool)
        farthest = torch.full((len(rows),), -math.inf, dtype=torch.float64)
        for level in range(1, self.n_levels + 1):
            wrong |= apart.masked_fill(height != level, math.inf).amin(-1) <= farthest
            farthest = torch.maximum(farthest, apart.masked_fill(height != level, -math.inf).amax(-1))
        self.disordered += int(wrong.sum())
        self.margins.append(apart.masked_fill(height == 0, math.inf).amin(-1))

    def figures(self) -> dict[str, float]:
        """Means by kinship, disorder and margins."""
        if self.n == 1:
            return {"disordered_leaves": 0}
        top = self.n_levels
        kinship = {"siblings": slice(1, min(2, top)), "cousins": slice(2, top), "strangers": slice(top, top + 1)}
        count, *sums = self.sums
        means = {
            f"{what}_{who}": float(total[heights].sum() / count[heights].sum())
            for what, total in zip(("distance", "cosine"), sums, strict=True)
            for who, heights in kinship.items()
            if count[heights].sum()
        }
        margins = torch.cat(self.margins)
        order = {"disordered_leaves": self.disordered}
        return means | order | {"margin_min": float(margins.min()), "margin_mean": float(margins.mean())}


def _entailment(points: Tensor, hierarchy: Hierarchy, c: float) -> dict[str, float]:
    """Of every child and its parent: whether it lies outside the parent's cone, and how far off the way outwards."""
    edges = parent_child(hierarchy)  # (E, 2)
    if not len(edges):
        return {}
    parents, children = points[edges[:, 0]], points[edges[:, 1]]
    angle = outward_angle(parents, children, c)
    outside = angle > aperture(parents, c, CONE_WIDTH)
    return {
        "entailment_violations": float(outside.double().mean()),
        "entailment_angle": math.degrees(float(angle.mean())),
    }
