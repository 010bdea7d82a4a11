"""Relations between the nodes of a class tree, as tensors for the whole tree."""

import torch
from torch import Tensor

from hierarchy.tree import Hierarchy


def lineage(hierarchy: Hierarchy) -> Tensor:
    """(K, L) int64, the ancestor of every node at each level, itself at its own level; -1 below it."""
    table = torch.full((len(hierarchy), hierarchy.n_levels), -1)
    for node in range(len(hierarchy)):
        up = hierarchy.path_ids(node)
        table[node, hierarchy.n_levels - len(up) :] = torch.tensor(up)
    return table


def parent_child(hierarchy: Hierarchy) -> Tensor:
    """(E, 2) int64, pairs of a parent and a child; the root does not count as a parent."""
    pairs = [(node, child) for node in range(len(hierarchy)) for child in hierarchy.children(node)]
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2)


def edges_between(lineage: Tensor, nodes: Tensor) -> Tensor:
    """(R, K) int64, number of edges from nodes (R,) to every node, through the root where they share no ancestor."""
    n_edges = (lineage[nodes] >= 0).sum(-1, keepdim=True) + (lineage >= 0).sum(-1)
    for own, all_nodes in zip(lineage[nodes].T, lineage.T, strict=True):
        n_edges -= 2 * ((own[:, None] == all_nodes) & (all_nodes >= 0))
    return n_edges
