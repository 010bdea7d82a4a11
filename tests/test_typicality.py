"""Shares of videos that come less near to a prototype: against numpy's quantiles and exact counts."""

import numpy as np
import pytest
import torch
from tiny import random_tree
from torch import Tensor

from evaluation.typicality import OTHERS, OWN, distance_spread, share_farther
from hierarchy import Hierarchy


def made(seed: int, n_videos: int = 200, n_levels: int = 3, n_leaves: int = 6) -> tuple:
    """A tree, labels, nodes, sources, distances: every third prototype comes from no video, one video has no clips."""
    tree, generator = random_tree(seed, n_levels, n_leaves), torch.Generator().manual_seed(seed)
    labels = torch.randint(n_leaves, (n_videos,), generator=generator)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    sources = torch.randint(n_videos, (len(node_of),), generator=generator)
    sources[::3] = -1
    distances = 4 * torch.rand(n_videos, len(node_of), generator=generator)
    distances[3] = torch.inf
    return tree, labels, node_of, sources, distances


def spread_of(tree: Hierarchy, labels: Tensor, node_of: Tensor, sources: Tensor, distances: Tensor) -> dict:
    return distance_spread(distances, labels, sources, node_of, tree.ancestors, tree.level_of)


def videos_of(whose: str, p: int, tree: Hierarchy, labels: Tensor, node_of: Tensor, sources: Tensor,
              distances: Tensor) -> list[float]:
    """The distances that count, one video at a time."""
    node, found = int(node_of[p]), []
    for video, label in enumerate(labels.tolist()):
        own = node in tree.path_ids(label)
        if own == (whose == "own") and video != int(sources[p]) and bool(distances[video, p].isfinite()):
            found.append(float(distances[video, p]))
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("whose", ["others", "own"])
def test_quantiles_are_numpy_s(seed, whose):
    case = made(seed)
    spread = spread_of(*case)
    for p in range(len(case[2])):
        videos = videos_of(whose, p, *case)
        assert int(spread[f"n_{whose}"][p]) == len(videos)
        if videos:
            expected = np.quantile(videos, OTHERS if whose == "others" else OWN)
            assert spread[whose][p].tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
        else:
            assert bool((spread[whose][p] == torch.inf).all())


@pytest.mark.parametrize("whose", ["others", "own"])
@pytest.mark.parametrize("n_videos", [20, 200])
def test_shares_are_those_of_the_videos(whose, n_videos):
    """Within a step between two quantiles where the distance lies, and one video."""
    case = made(1, n_videos)
    spread, shares = spread_of(*case), np.array(OTHERS if whose == "others" else OWN)
    for p in range(len(case[2])):
        videos = np.array(videos_of(whose, p, *case))
        for distance in (0.0, 1e-3, 0.02, 0.3, 1, 2, 3, 3.9, 4.5):
            found = share_farther(spread, whose, p, distance)
            if not len(videos):
                assert found is None
                continue
            share, count = found
            exact = (videos > distance).mean()
            around = np.searchsorted(shares, 1 - exact).clip(1, len(shares) - 1)
            slack = shares[around] - shares[around - 1] + 1 / len(videos) + 0.005
            assert count == len(videos) and 0 <= share <= 1 and abs(share - exact) <= slack


def test_shares_fall_with_the_distance_and_end_at_one_and_zero():
    spread = spread_of(*made(0))
    for whose in ("others", "own"):
        found = [share_farther(spread, whose, 1, distance)[0] for distance in np.linspace(0, 5, 200)]
        assert found[0] == 1 and found[-1] == 0 and all(a >= b for a, b in zip(found, found[1:], strict=False))
    assert share_farther(spread, "others", 1, torch.inf)[0] == 0


def test_known_shares():
    """One level: eleven videos of the other class at 0, .1 ... 1, so that shares are known between them, too."""
    tree = Hierarchy.from_rows([["a"], ["b"]])
    labels = torch.tensor([1] * 11 + [0, 0])
    distances = torch.tensor([[i / 10, 9.0] for i in range(11)] + [[0.5, 9.0], [2.0, 9.0]])
    spread = distance_spread(distances, labels, torch.tensor([11, -1]), torch.tensor([0, 1]), tree.ancestors,
                             tree.level_of)
    for distance, share in ((-1, 1), (0.5, 0.5), (0.75, 0.25), (1, 0), (3, 0)):
        assert share_farther(spread, "others", 0, distance) == (pytest.approx(share, abs=2e-3), 11)
    assert share_farther(spread, "own", 0, 1.9) == (1.0, 1)  # the video it comes from is not counted
    assert share_farther(spread, "own", 0, 2.0) == (0.0, 1)
    assert share_farther(spread, "own", 1, 9.5) == (0.0, 11)


def test_without_videos_nothing_is_known():
    tree = Hierarchy.from_rows([["a"], ["b"]])
    spread = distance_spread(torch.tensor([[0.3, 0.4]]), torch.tensor([0]), torch.tensor([0, -1]), torch.tensor([0, 1]),
                             tree.ancestors, tree.level_of)
    assert share_farther(spread, "own", 0, 0.1) is None and share_farther(spread, "others", 0, 0.1) is None
    assert share_farther(spread, "own", 1, 0.1) is None and share_farther(spread, "others", 1, 0.1) == (1.0, 1)
    nothing = distance_spread(torch.full((2, 2), torch.inf), torch.tensor([0, 1]), torch.tensor([-1, -1]),
                              torch.tensor([0, 1]), tree.ancestors, tree.level_of)
    assert all(share_farther(nothing, whose, p, 1.0) is None for whose in ("own", "others") for p in (0, 1))


def test_what_is_kept_takes_tens_of_kilobytes():
    tree = random_tree(0, 3, 101)
    node_of = torch.arange(len(tree)).repeat_interleave(10)[:1260]
    spread = distance_spread(torch.rand(50, len(node_of)), torch.arange(50), torch.full((len(node_of),), -1), node_of,
                             tree.ancestors, tree.level_of)
    assert spread["others"].dtype == spread["own"].dtype == torch.float16
    assert sum(values.untyped_storage().nbytes() for values in spread.values()) < 80_000
