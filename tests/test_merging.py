"""Merging keeps the fewest prototypes that see what all see: against slow loops over clips and sets."""

import itertools

import numpy as np
import pytest
import torch
from tiny import random_tree
from torch import Tensor

from hierarchy import Hierarchy
from training.merging import merged, ways_after

ONE = Hierarchy.from_rows([["a"], ["b"]])


def of_one_class(activations: list[list[float]], coverage: float = 0.9) -> list[int]:
    """Clips (rows) and prototypes of class a; the other class has one prototype and no clips."""
    rows = torch.tensor([[*row, 0.0] for row in activations])
    node_of = torch.tensor([0] * len(activations[0]) + [1])
    labels = torch.zeros(len(rows), dtype=torch.int64)
    into = merged(rows, labels, node_of, ONE.ancestors, ONE.level_of, [coverage])
    assert int(into[-1]) == len(activations[0])
    return into[:-1].tolist()


def covered(own: np.ndarray, chosen: list[int]) -> float:
    return float(own[:, chosen].max(1).sum())


def slow_merged(activations: Tensor, labels: Tensor, node_of: Tensor, tree: Hierarchy,
                coverage: list[float]) -> list[int]:
    """One node at a time; each step takes what covers most together with what is kept already."""
    into = list(range(len(node_of)))
    for node in range(len(tree)):
        mine = [p for p, of in enumerate(node_of.tolist()) if of == node]
        clips = [i for i, label in enumerate(labels.tolist()) if node in tree.path_ids(label)]
        if len(mine) < 2 or not clips:
            continue
        own = activations.double().numpy()[np.ix_(clips, mine)]
        wanted = coverage[int(tree.level_of[node])] * covered(own, list(range(len(mine))))
        kept: list[int] = []
        while not kept or covered(own, kept) < wanted - 1e-12:
            kept.append(max((i for i in range(len(mine)) if i not in kept),
                            key=lambda i: covered(own, [*kept, i])))
        for i in range(len(mine)):
            if i not in kept:
                with np.errstate(invalid="ignore"):
                    alike = [np.nan_to_num(np.corrcoef(own[:, i], own[:, k])[0, 1]) for k in kept]
                into[mine[i]] = mine[kept[int(np.argmax(alike))]]
    return into


@pytest.mark.parametrize(("n_levels", "n_leaves"), [(1, 3), (2, 5), (3, 6)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [(0.9, 0.8, 0.8), (1.0, 1.0, 1.0), (0.5, 0.97, 0.1)])
def test_merging_equals_a_slow_loop(n_levels, n_leaves, seed, shares):
    tree, generator = random_tree(seed, n_levels, n_leaves), torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 6, (len(tree),), generator=generator)
    node_of = torch.arange(len(tree)).repeat_interleave(counts)
    labels = torch.arange(30) % (n_leaves - 1)  # the last class has no clips
    activations = torch.rand(30, len(node_of), generator=generator).square()
    into = merged(activations, labels, node_of, tree.ancestors, tree.level_of, list(shares[:n_levels]))
    assert into.tolist() == slow_merged(activations, labels, node_of, tree, list(shares))
    assert torch.equal(into[into], into) and torch.equal(node_of[into], node_of)
    assert bool((into[node_of == n_leaves - 1] == (node_of == n_leaves - 1).nonzero()[:, 0]).all())


@pytest.mark.parametrize("seed", range(5))
def test_what_stays_covers_its_share_and_is_seldom_more_than_the_smallest_set(seed):
    """By trying all sets: the greedy one has at most one more."""
    rows = torch.rand(25, 6, generator=torch.Generator().manual_seed(seed)) ** 3
    into = of_one_class(rows.tolist())
    kept, own = sorted(set(into)), rows.double().numpy()
    wanted = 0.9 * covered(own, list(range(6)))
    assert covered(own, kept) >= wanted
    smallest = next(n for n in range(1, 7) for some in itertools.combinations(range(6), n)
                    if covered(own, list(some)) >= wanted)
    assert smallest <= len(kept) <= smallest + 1


def test_twins_merge_and_two_ways_do_not():
    """Clips 0-2 are done in one way, which two prototypes see, clips 3-5 in another."""
    one_way, other_way = [1.0, 0.98, 0.05, 0.1], [0.1, 0.08, 0.9, 0.2]
    assert of_one_class([one_way] * 3 + [other_way] * 3) == [0, 0, 2, 2]


def test_a_prototype_that_alone_covers_some_clips_stays():
    """A way of one clip in ten is a tenth of what is covered: .95 keeps it, .85 may drop it."""
    rows = [[0.9, 0.85, 0.0]] * 9 + [[0.0, 0.0, 0.9]]
    assert of_one_class(rows, 0.95) == [0, 0, 2] and len(set(of_one_class(rows, 0.85))) == 1


def test_full_coverage_keeps_all_that_add_anything():
    rows = [[0.5, 0.5, 0.2, 0.1], [0.4, 0.4, 0.9, 0.1], [0.3, 0.3, 0.1, 0.31]]
    assert of_one_class(rows, 1.0) == [0, 0, 2, 3]


def test_what_sees_nothing_leaves_one():
    into = of_one_class([[0.0] * 3] * 4)
    assert len(set(into)) == 1


def test_a_dropped_prototype_becomes_the_one_that_is_like_it():
    """Not the loudest one."""
    quiet = [0.02 * i for i in range(6)]
    rows = [[0.8, 0.1 * i, value, 0.8 if i % 2 else 0.0] for i, value in enumerate(quiet)]
    into = of_one_class([*rows, [0.0, 5.0, 1.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    assert into[2] == 1


def test_every_node_by_its_own_level_s_share():
    """The same activations everywhere: at .9 two stay at the classes, at .5 one above them."""
    tree = Hierarchy.from_rows([["a", "top"], ["b", "top"]])
    node_of = torch.tensor([0, 0, 1, 1, 2, 2])
    labels = torch.tensor([0, 0, 1, 1])
    activations = torch.tensor([[1.0, 0], [0, 0.9], [1, 0], [0, 0.9]]).repeat(1, 3)
    into = merged(activations, labels, node_of, tree.ancestors, tree.level_of, [0.9, 0.5])
    assert into.tolist() == [0, 1, 2, 3, 4, 4]


def test_the_order_of_clips_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    tree = random_tree(2, 2, 4)
    node_of = torch.arange(len(tree)).repeat_interleave(4)
    labels = torch.randint(4, (20,), generator=generator)
    activations = torch.rand(20, len(node_of), generator=generator)
    order = torch.randperm(20, generator=generator)
    one, other = (merged(activations[rows], labels[rows], node_of, tree.ancestors, tree.level_of, [0.8, 0.8])
                  for rows in (torch.arange(20), order))
    assert torch.equal(one, other)


def test_ways_are_told_by_the_prototypes_that_took_over():
    """Of class a the first became the third, of b the last is gone, of c nothing changed; above them something did."""
    node_of = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])
    into = torch.tensor([2, 1, 2, 3, -1, 5, 6, 8, 8])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    ways = torch.tensor([0, 1, 2, -1, 0, 1, -1, 0, 1])
    assert ways_after(ways, labels, node_of, into).tolist() == [1, 0, 1, -1, 0, -1, -1, 0, 1]
    assert torch.equal(ways_after(ways, labels, node_of, torch.arange(9)), ways)
