"""Scores of drawn trees with drawn weights, and the slow way around in such trees."""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from tiny import random_tree
from torch import Tensor

from hierarchy import Hierarchy, fit_embeddings
from models.scores import HyperbolicTreeScore, TreeScore

# (seed of the tree, levels, leaves)
TREES = [(0, 1, 1), (1, 1, 6), (2, 2, 7), (3, 3, 9), (4, 4, 8), (5, 5, 12), (6, 6, 20), (7, 6, 1)]
DIMS = {1: 2, 2: 3, 3: 5, 4: 20, 5: 10, 6: 20}  # of the embedding, by levels


def counts_of(tree: Hierarchy, seed: int = 0) -> list[int]:
    """One to four prototypes a node."""
    return np.random.default_rng(seed).integers(1, 5, len(tree)).tolist()


def nodes_of(counts: Sequence[int]) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def with_weights(score: TreeScore, seed: int = 0) -> TreeScore:
    """Another weight for every prototype."""
    with torch.no_grad():
        score.omega.copy_(1.5 * torch.randn(len(score.omega), generator=torch.Generator().manual_seed(seed)))
    return score


def tree_score(tree: Hierarchy, seed: int = 0) -> TreeScore:
    return with_weights(TreeScore(tree, nodes_of(counts_of(tree, seed))), seed)


@cache
def points_of(case: tuple[int, int, int], c: float = 1.0) -> Tensor:
    return fit_embeddings(random_tree(*case), dim=DIMS[case[1]], edge=2.0 / math.sqrt(c), c=c)


def hyperbolic_score(case: tuple[int, int, int], seed: int = 0, c: float = 1.0) -> HyperbolicTreeScore:
    tree = random_tree(*case)
    return with_weights(HyperbolicTreeScore(tree, nodes_of(counts_of(tree, seed)), points=points_of(case, c), c=c),
                        seed)


BOTH = {"tree": lambda case: tree_score(random_tree(*case)), "tree_hyperbolic": hyperbolic_score}


def activations_of(n: int, score: TreeScore, seed: int = 0) -> Tensor:
    """(n, P) float64 in 0..1, some of them 0 and some alike."""
    drawn = torch.rand(n, len(score.node_of), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(drawn < 0.15, 0, torch.where(drawn > 0.85, 0.9, drawn))


def parents(tree: Hierarchy) -> list[int | None]:
    """Of every node the one above, None at the top."""
    above: list[int | None] = [None] * len(tree)
    for leaf in range(tree.n_leaves):
        for node, parent in itertools.pairwise(tree.path_ids(leaf)):
            above[node] = parent
    return above


def families(tree: Hierarchy) -> dict[int | None, list[int]]:
    """The children of every node that has some, and of the root, None."""
    found: dict[int | None, list[int]] = {}
    for node, parent in enumerate(parents(tree)):
        found.setdefault(parent, []).append(node)
    return found


def small_score() -> tuple[Hierarchy, TreeScore]:
    """Two classes of three prototypes and one, and their parent of two; all weights 1."""
    tree = Hierarchy.from_rows([["a", "top"], ["b", "top"]])
    return tree, TreeScore(tree, torch.tensor([0, 0, 0, 1, 2, 2]), start=1.0)
