"""How strange a video is to what it is predicted to be, and from which level of the tree on it is unseen."""

import json
import math

import numpy as np
import pytest
import torch
from program import ROWS, call, train, write_data

from evaluation.recognition import VideoPool
from evaluation.typicality import OWN, distance_spread
from evaluation.unseen import (
    FAR,
    USUAL,
    level_spreads,
    overall,
    own_distances,
    unseen_entries,
    unseen_from,
    unseen_scores,
)
from explain.wording import unseen
from hierarchy.tree import Hierarchy

TREE = Hierarchy.from_rows(ROWS)


@pytest.fixture
def spread():
    """Of two prototypes a node, over thirty training videos."""
    generator = torch.Generator().manual_seed(0)
    node_of = torch.arange(len(TREE)).repeat_interleave(2)
    labels = torch.arange(30) % TREE.n_leaves
    distances = torch.rand(30, len(node_of), generator=generator)
    sources = torch.full((len(node_of),), -1)
    return node_of, distance_spread(distances, labels, sources, node_of, TREE.ancestors, TREE.level_of)


def slow_share(of, node_of, nodes, value):
    """The mean over all training videos of the nodes, by the quantiles of each node's nearest prototype."""
    total, count = 0.0, 0
    for node in nodes:
        which = [p for p in range(len(node_of)) if node_of[p] == node and of["n_own"][p] > 0]
        if not which:
            continue
        quantiles = [min(float(of["own"][p, q]) for p in which) for q in range(len(OWN))]
        n = max(int(of["n_own"][p]) for p in which)
        total += n * (1.0 if value >= quantiles[-1] else float(np.interp(value, quantiles, OWN)))
        count += n
    return total / count


@pytest.mark.parametrize("level", range(TREE.n_levels))
def test_scores_are_shares_of_the_training_videos_of_the_level(spread, level):
    node_of, of = spread
    nodes = TREE.levels[level]
    one, = level_spreads(of, node_of, [nodes])
    values = torch.cat((torch.rand(20, dtype=torch.float64), torch.tensor([0.0, 5.0])))
    for value, share in zip(values.tolist(), one.share(values).tolist(), strict=True):
        assert share == pytest.approx(slow_share(of, node_of.tolist(), nodes, value), abs=1e-9)
    usual = torch.tensor([one.distance(USUAL)], dtype=torch.float64)
    assert float(one.share(usual)) == pytest.approx(USUAL, abs=1e-6)
    largest = max(min(float(of["own"][p, -1]) for p in range(len(node_of)) if node_of[p] == node) for node in nodes)
    ends = torch.tensor([[0.0], [2 * largest], [torch.inf]], dtype=torch.float64)
    scores = unseen_scores(ends, [one])[:, 0].tolist()
    assert scores == [pytest.approx(slow_share(of, node_of.tolist(), nodes, 0.0)), pytest.approx(1 + math.log(2)),
                      math.inf]


def test_they_grow_with_the_distance_and_know_their_ends(spread):
    node_of, of = spread
    spreads = level_spreads(of, node_of, TREE.levels)
    own = torch.linspace(0, 5, 200, dtype=torch.float64)[:, None].expand(-1, TREE.n_levels)
    scores, total = unseen_scores(own, spreads), overall(own, spreads)
    assert (scores.diff(dim=0) >= 0).all() and (scores[-1] > 2).all() and (total.diff() > 0).all() and total[0] == 0
    nothing = level_spreads(dict(of, n_own=torch.zeros_like(of["n_own"])), node_of, TREE.levels)
    assert unseen_scores(own, nothing).isinf().all() and (overall(own, nothing) == 0).all()
    same = level_spreads(dict(of, own=torch.zeros_like(of["own"])), node_of, TREE.levels)  # on the prototypes
    assert unseen_scores(own, same).isfinite().all() and (unseen_scores(own[:1], same) <= 1).all()
    assert overall(own, same).isfinite().all()


def test_a_lower_level_counts_twice_as_much(spread):
    node_of, of = spread
    spreads = level_spreads(of, node_of, TREE.levels)
    usual = torch.tensor([one.distance(USUAL) for one in spreads], dtype=torch.float64)
    assert overall(torch.diag(usual), spreads).tolist() == pytest.approx([0.5 ** level for level in range(len(usual))])
    lost = torch.diag(usual)
    lost[0, 1] = torch.inf  # a node without prototypes says nothing
    assert overall(lost, spreads)[0] == pytest.approx(1.0)


def test_distances_are_those_of_the_nearest_prototype_of_the_predicted_nodes(spread):
    node_of, _ = spread
    distances = torch.rand(5, len(node_of)) * 2
    paths = TREE.ancestors[torch.tensor([0, 1, 2, 3, 1])]
    own = own_distances(distances, paths, node_of)
    for v, path in enumerate(paths.tolist()):
        for level, node in enumerate(path):
            assert own[v, level] == min(distances[v, p].double() for p in range(len(node_of)) if node_of[p] == node)
    lost = own_distances(distances[:, 2:], paths, node_of[2:])
    assert lost[0, 0].isinf() and torch.equal(lost[1:, 0], own[1:, 0])  # a class without prototypes


def test_files_say_it(spread):
    node_of, of = spread
    paths = TREE.ancestors[torch.tensor([0, 0])]
    nearest = torch.stack((torch.zeros(len(node_of)), torch.full((len(node_of),), 9.0)))
    near, far = unseen_entries(nearest, paths, of, node_of, TREE.levels)
    assert near["unseen_from"] is None and far["unseen_from"] == TREE.n_levels - 1
    assert near["unseen_score"] == 0 < far["unseen_score"] and max(near["unseen"]) < FAR < min(far["unseen"])
    unknown, _ = unseen_entries(nearest, paths, None, node_of, TREE.levels)
    assert set(unknown) == set(near) and set(unknown.values()) == {None}
    lost, _ = unseen_entries(nearest[:, 2:], paths, {name: values[2:] for name, values in of.items()}, node_of[2:],
                             TREE.levels)
    assert lost["unseen"][0] is None and json.dumps(lost, allow_nan=False)


@pytest.mark.parametrize(("level", "words", "value"), [
    (None, (), 0.5), (0, ("less like C than 98", "like P as usual"), 0.98),
    (1, ("less like C and P than all", "like G as usual"), 1.2), (2, ("less like C, P and G than all",), 1.5)])
def test_pages_say_it(level, words, value):
    said = unseen({"prediction": ["C", "P", "G"], "unseen": [value] * 3, "unseen_from": level})
    assert (said is None) == (not words) and unseen({"prediction": ["C"]}) is None  # of before
    assert all(some in said[1] for some in words)


@pytest.mark.parametrize(("scores", "level"), [
    ([0.2, 0.1, 0.0], None), ([1.2, 0.1, 0.0], 0), ([1.5, 0.96, 0.9], 1), ([3, 2, 1.01], 2), ([FAR, 2, 3], None),
    ([math.inf, 1.2, 0.5], 1), ([math.inf, 0.2, 0.5], None)])
def test_the_level_from_which_a_video_is_unseen(scores, level):
    assert unseen_from(scores) == level


def test_pools_keep_the_smallest_distance_of_each_video():
    generator = torch.Generator().manual_seed(0)
    videos, distances = torch.tensor([0, 1, 0, 2, 1]), torch.rand(5, 3, generator=generator)
    probs = torch.rand(5, len(TREE), generator=generator)
    whole = VideoPool(4, TREE.membership, n_prototypes=3)
    whole.add(videos, probs, torch.arange(5), distances)
    parts = [VideoPool(4, TREE.membership, n_prototypes=3) for _ in range(2)]
    for part, some in zip(parts, (slice(0, 2), slice(2, 5)), strict=True):
        part.add(videos[some], probs[some], torch.arange(5)[some], distances[some])
    parts[0].merge(parts[1])
    for video in range(3):
        assert torch.equal(whole.nearest[video], distances[videos == video].amin(0))
    assert torch.equal(whole.nearest, parts[0].nearest) and whole.nearest[3].isinf().all()


def test_predictions_tell_it(tmp_path):
    train(write_data(tmp_path), tmp_path / "results", "--inference")
    videos = json.loads((tmp_path / "results" / "val.json").read_text())["videos"]
    for about in videos.values():
        assert len(about["unseen"]) == TREE.n_levels and all(score >= 0 for score in about["unseen"])
        assert about["unseen_from"] in (None, *range(TREE.n_levels)) and about["unseen_score"] >= 0
    (tmp_path / "results" / "val.json").unlink()
    call("--root_path", tmp_path, "--resume_path", tmp_path / "results" / "save_3.pth",
         "--no_train --no_val --inference --no_cuda --n_threads 0")
    again = json.loads((tmp_path / "results" / "val.json").read_text())["videos"]
    assert {name: about["unseen"] for name, about in again.items()} == {
        name: about["unseen"] for name, about in videos.items()}
