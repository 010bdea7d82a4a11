"""How strange a video is to what it is predicted to be, and from which level of the tree on it is unseen."""

import json
import math

import pytest
import torch
from program import ROWS, call, train, write_data

from evaluation.recognition import VideoPool
from evaluation.typicality import OWN, distance_spread, share_farther
from evaluation.unseen import strangeness, unseen_from, unseen_scores
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


def test_strangeness_is_the_share_of_training_videos_that_are_nearer(spread):
    node_of, of = spread
    distances = torch.rand(9, len(node_of), generator=torch.Generator().manual_seed(1)) * 0.9
    strange = strangeness(distances, of)
    assert strange.shape == distances.shape and strange.dtype == torch.float64
    for v in range(9):
        for p in range(len(node_of)):
            value, largest = float(distances[v, p]), float(of["own"][p].double()[-1])
            beyond = value > largest
            expected = 1 + math.log(value / largest) if beyond else 1 - share_farther(of, "own", p, value)[0]
            assert float(strange[v, p]) == pytest.approx(expected, abs=1e-6), (v, p)


def test_it_grows_with_the_distance_and_knows_its_ends(spread):
    node_of, of = spread
    distances = torch.linspace(0, 5, 200)[:, None].expand(-1, len(node_of))
    strange = strangeness(distances, of)
    assert (strange.diff(dim=0) >= 0).all() and (strange[0] == 0).all() and (strange[-1] > 2).all()
    nothing = dict(of, n_own=torch.zeros_like(of["n_own"]))
    assert strangeness(distances, nothing).isinf().all()
    same = dict(of, own=torch.zeros_like(of["own"]))  # all training videos lie on the prototype
    assert strangeness(distances, same).isfinite().all() and (strangeness(distances[:1], same) <= 1).all()
    assert len(OWN) == of["own"].shape[1]


def test_each_level_has_the_strangeness_of_its_nearest_prototype(spread):
    node_of, of = spread
    distances = torch.rand(5, len(node_of)) * 2
    paths = TREE.ancestors[torch.tensor([0, 1, 2, 3, 1])]
    scores, strange = unseen_scores(distances, paths, node_of, of), strangeness(distances, of)
    for v, path in enumerate(paths.tolist()):
        for level, node in enumerate(path):
            assert scores[v, level] == min(strange[v, p] for p in range(len(node_of)) if node_of[p] == node)
    lost = unseen_scores(distances[:, 2:], paths, node_of[2:], {name: values[2:] for name, values in of.items()})
    assert lost[0, 0].isinf() and torch.equal(lost[1:, 0], scores[1:, 0])  # a class without prototypes


@pytest.mark.parametrize(("scores", "level"), [
    ([0.2, 0.1, 0.0], None), ([1.2, 0.1, 0.0], 0), ([1.5, 1.1, 0.9], 1), ([3, 2, 1.01], 2), ([1.0, 2, 3], None),
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
        assert about["unseen_from"] in (None, *range(TREE.n_levels))
    (tmp_path / "results" / "val.json").unlink()
    call("--root_path", tmp_path, "--resume_path", tmp_path / "results" / "save_3.pth",
         "--no_train --no_val --inference --no_cuda --n_threads 0")
    again = json.loads((tmp_path / "results" / "val.json").read_text())["videos"]
    assert {name: about["unseen"] for name, about in again.items()} == {
        name: about["unseen"] for name, about in videos.items()}
