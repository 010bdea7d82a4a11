"""Merging keeps the fewest prototypes that see what all see: against slow loops over clips and sets."""

import itertools

import numpy as np
import pytest
import torch
from tiny import random_tree
from torch import Tensor

from hierarchy import Hierarchy
from training.merging import merged

ONE = Hierarchy.from_rows([["a"], ["b"]])


def of_one_class(activations: list[list[float]], coverage: float = 0.9, ways: list[int] | None = None) -> list[int]:
    """Clips (rows) and prototypes of class a; the other class has one prototype and no clips."""
    rows = torch.tensor([[*row, 0.0] for row in activations])
    node_of = torch.tensor([0] * len(activations[0]) + [1])
    labels = torch.zeros(len(rows), dtype=torch.int64)
    into = merged(rows, labels, node_of, ONE.ancestors, ONE.level_of, [coverage],
                  None if ways is None else torch.tensor(ways))
    assert int(into[-1]) == len(activations[0])
    return into[:-1].tolist()


def covered(own: np.ndarray, chosen: list[int]) -> float:
    return float(own[:, chosen].max(1).sum())


def slow_merged(activations: Tensor, labels: Tensor, node_of: Tensor, tree: Hierarchy, coverage: list[float],
                ways: list[int] | None = None) -> list[int]:
    """One node at a time; each step takes what adds most to what is still missing of the ways, and then to all."""
    into = list(range(len(node_of)))
    for node in range(len(tree)):
        mine = [p for p, of in enumerate(node_of.tolist()) if of == node]
        clips = [i for i, label in enumerate(labels.tolist()) if node in tree.path_ids(label)]
        if len(mine) < 2 or not clips:
            continue
        own = activations.double().numpy()[np.ix_(clips, mine)]
        level = int(tree.level_of[node])
        way_of = [-1 if ways is None or level else ways[i] for i in clips]
        parts = [own[[way == one for way in way_of]] for one in sorted(set(way_of))]

        def shares(kept: list[int], parts: list[np.ndarray] = parts, n: int = len(mine)) -> list[float]:
            return [covered(part, kept) / covered(part, list(range(n))) for part in parts]

        def worth(kept: list[int], wanted: float = coverage[level]) -> tuple[float, float]:
            found = shares(kept)
            return round(sum(min(share, wanted) for share in found), 9), sum(found)

        kept: list[int] = []
        while not kept or min(shares(kept)) < coverage[level] - 1e-9:
            kept.append(max((i for i in range(len(mine)) if i not in kept), key=lambda i: worth([*kept, i])))
        for i in range(len(mine)):
            if i not in kept:
                with np.errstate(invalid="ignore"):
                    alike = [np.nan_to_num(np.corrcoef(own[:, i], own[:, k])[0, 1]) for k in kept]
                into[mine[i]] = mine[kept[int(np.argmax(alike))]]
    return into


@pytest.mark.parametrize(("n_levels", "n_leaves"), [(1, 3), (2, 5), (3, 6)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [(0.9, 0.8, 0.8), (1.0, 1.0, 1.0), (0.5, 0.97, 0.1)])
@pytest.mark.parametrize("n_ways", [0, 3])
def test_merging_equals_a_slow_loop(n_levels, n_leaves, seed, shares, n_ways):
    tree, generator = random_tree(seed, n_levels, n_leaves), torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 6, (len(tree),), generator=generator)
    node_of = torch.arange(len(tree)).repeat_interleave(counts)
    labels = torch.arange(30) % (n_leaves - 1)  # the last class has no clips
    activations = torch.rand(30, len(node_of), generator=generator).square()
    ways = torch.randint(-1, n_ways, (30,), generator=generator) if n_ways else None
    into = merged(activations, labels, node_of, tree.ancestors, tree.level_of, list(shares[:n_levels]), ways)
    assert into.tolist() == slow_merged(activations, labels, node_of, tree, list(shares),
                                        None if ways is None else ways.tolist())
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


@pytest.mark.parametrize("unknown", [-1, 0])
def test_a_rare_way_keeps_its_prototype(unknown):
    """A tenth of the clips: of all together .85 is covered without it, of its own way nothing is."""
    rows = [[0.9, 0.85, 0.0]] * 9 + [[0.0, 0.0, 0.9]]
    assert len(set(of_one_class(rows, 0.85))) == 1
    assert of_one_class(rows, 0.85, [unknown] * 9 + [1]) == [0, 0, 2]
    assert len(set(of_one_class(rows, 0.85, [0] * 10))) == 1  # one way is as good as none


def test_a_way_that_no_prototype_sees_asks_for_none():
    rows = [[0.9, 0.85, 0.3]] * 9 + [[0.0, 0.0, 0.0]]
    assert len(set(of_one_class(rows, 0.85, [0] * 9 + [1]))) == 1


def test_ancestors_have_no_ways():
    """The same rows at a class and above it: the rare way's prototype stays at the class alone."""
    tree = Hierarchy.from_rows([["a", "top"], ["b", "top"]])
    node_of = torch.tensor([0, 0, 1, 2, 2])
    activations = torch.tensor([[0.9, 0, 0, 0.9, 0]] * 9 + [[0, 0.9, 0, 0, 0.9]])
    into = merged(activations, torch.zeros(10, dtype=torch.int64), node_of, tree.ancestors, tree.level_of, [0.85, 0.85],
                  torch.tensor([0] * 9 + [1]))
    assert into.tolist() == [0, 1, 2, 3, 3]
