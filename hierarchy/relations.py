"""Who is above whom, as tables for whole trees at once."""

import torch
from torch import Tensor

from hierarchy.tree import Hierarchy


def lineage(hierarchy: Hierarchy) -> Tensor:
    """(K, L) int64, the node at each level that every node is or lies below; -1 at the levels below its own."""
    table = torch.full((len(hierarchy), hierarchy.n_levels), -1)
    for node in range(len(hierarchy)):
        up = hierarchy.path_ids(node)
        table[node, hierarchy.n_levels - len(up) :] = torch.tensor(up)
    return table


def parent_child(hierarchy: Hierarchy) -> Tensor:
    """(E, 2) int64, every node that has a parent, behind that parent; the root is none."""
    pairs = [(node, child) for node in range(len(hierarchy)) for child in hierarchy.children(node)]
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2)


def edges_between(lineage: Tensor, some: Tensor) -> Tensor:
    """(R, K) int64, edges from some nodes (R,) to every node, through the root where nothing else joins them."""
    n_edges = (lineage[some] >= 0).sum(-1, keepdim=True) + (lineage >= 0).sum(-1)
    for own, every in zip(lineage[some].T, lineage.T, strict=True):
        n_edges -= 2 * ((own[:, None] == every) & (every >= 0))
    return n_edges
