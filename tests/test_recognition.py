"""Measures of recognition equal slow loops over the tree, and tell the truth on cases worked out by hand."""

import numpy as np
import pytest
import torch

from evaluation.recognition import (
    VideoPool,
    accuracy_per_level,
    level_argmax_accuracy,
    mistake_severity,
    pool_windows,
    topk,
)
from hierarchy.tree import Hierarchy

TREE = Hierarchy.from_rows([["a", "A", "X"], ["b", "A", "X"], ["c", "B", "X"], ["d", "C", "Y"], ["e", "C", "Y"]])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(TREE.n_leaves, size, generator=rng(seed))


def test_accuracy_by_hand():
    labels = torch.tensor([0, 0, 0, 0])
    predicted = torch.tensor([0, 1, 2, 3])  # right, a sibling, a cousin, far away
    assert accuracy_per_level(predicted, labels, TREE.ancestors).tolist() == [0.25, 0.5, 0.75]
    assert mistake_severity(predicted, labels, TREE.ancestors) == 2
    assert mistake_severity(labels, labels, TREE.ancestors) == 0


def test_accuracy_is_a_loop_over_paths():
    predicted, labels = leaves(50), leaves(50, seed=1)
    slow = [np.mean([TREE.path(p)[level:] == TREE.path(y)[level:]
                     for p, y in zip(predicted.tolist(), labels.tolist(), strict=True)]) for level in range(3)]
    assert accuracy_per_level(predicted, labels, TREE.ancestors).tolist() == pytest.approx(slow)


def test_any_of_k_guesses_may_be_right_and_no_guess_is_wrong():
    predicted, labels = leaves(50, 3), leaves(50, seed=1)
    predicted[::7, 1:] = -1
    predicted[3] = -1
    slow = [np.mean([any(p >= 0 and TREE.path(p)[level:] == TREE.path(y)[level:] for p in guesses)
                     for guesses, y in zip(predicted.tolist(), labels.tolist(), strict=True)]) for level in range(3)]
    assert accuracy_per_level(predicted, labels, TREE.ancestors).tolist() == pytest.approx(slow)
    assert accuracy_per_level(torch.tensor([-1]), torch.tensor([4]), TREE.ancestors).tolist() == [0, 0, 0]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_any_number_of_levels(depth):
    tree = Hierarchy.from_rows([[f"{i}", *(["top"] * (depth - 1))] for i in range(3)])
    accuracy = accuracy_per_level(torch.tensor([0, 1]), torch.tensor([0, 2]), tree.ancestors)
    assert accuracy.tolist() == [0.5] + [1] * (depth - 1)


def test_severity_is_half_the_hops_to_the_label():
    predicted, labels = leaves(50), leaves(50, seed=1)
    hops = TREE.hops()[predicted, labels].double()
    assert mistake_severity(predicted, labels, TREE.ancestors) == pytest.approx(float(hops[hops > 0].mean() / 2))


def test_topk_is_a_sort():
    log_probs, labels = torch.rand(40, 5, generator=rng()).log(), leaves(40)
    for k in (1, 2, 5, 9):
        slow = np.mean([y in sorted(range(5), key=lambda c, row=row: -row[c])[:k]
                        for row, y in zip(log_probs.tolist(), labels.tolist(), strict=True)])
        assert topk(log_probs, labels, k) == pytest.approx(slow)
    assert topk(log_probs, labels, 5) == 1


def test_each_level_s_own_arg_max_is_another_measure():
    """Two siblings share the mass: the leaf is wrong, the level's own arg-max is right."""
    leaf = torch.tensor([[0.25, 0.25, 0.1, 0.4, 0.0]])
    log_probs = (leaf @ TREE.membership.T).log()  # (1, K)
    labels = torch.tensor([0])
    assert accuracy_per_level(leaf.argmax(1), labels, TREE.ancestors).tolist() == [0, 0, 0]
    assert level_argmax_accuracy(log_probs, labels, TREE.ancestors, TREE.levels).tolist() == [0, 1, 1]


def test_level_arg_max_is_a_loop():
    log_probs, labels = torch.rand(40, len(TREE), generator=rng()), leaves(40)
    slow = [np.mean([max(level, key=lambda node, row=row: row[node]) == TREE.path_ids(y)[depth]
                     for row, y in zip(log_probs.tolist(), labels.tolist(), strict=True)])
            for depth, level in enumerate(TREE.levels)]
    fast = level_argmax_accuracy(log_probs, labels, TREE.ancestors, TREE.levels)
    assert fast.tolist() == pytest.approx(slow)


def clips_of_videos() -> tuple[torch.Tensor, torch.Tensor]:
    """The videos (30,) of clips, of which video 5 has none, and their probabilities (30, K), with ties."""
    videos = torch.randint(6, (30,), generator=rng()) % 5
    leaf = torch.randint(1, 4, (30, TREE.n_leaves), generator=rng(1)).float()
    return videos, leaf / leaf.sum(1, keepdim=True) @ TREE.membership.T


def pooled(videos: torch.Tensor, probs: torch.Tensor, power: float, batch_size: int = 7) -> VideoPool:
    pool = VideoPool(6, TREE.membership, power)
    for items in torch.arange(len(videos)).split(batch_size):
        pool.add(videos[items], probs[items], items)
    return pool


def slow_probs(clips: list[list[float]], power: float) -> list[float]:
    """Of one video, node by node and clip by clip."""
    sums = [sum(clip[leaf] ** power for clip in clips) for leaf in range(TREE.n_leaves)]
    return [sum(sums[leaf] for leaf in TREE.leaves_below(node).tolist()) / sum(sums) for node in range(len(TREE))]


@pytest.mark.parametrize("power", [0.5, 1, 4, 37.5])
@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_a_video_is_pooled_from_its_clips(batch_size, power):
    videos, probs = clips_of_videos()
    pool = pooled(videos, probs, power, batch_size)
    for video in range(5):
        of_video = probs[videos == video]
        assert pool.probs[video].tolist() == pytest.approx(slow_probs(of_video.double().tolist(), power), rel=1e-6)
        assert pool.count[video] == len(of_video)
        for node in range(len(TREE)):
            column = of_video[:, node].tolist()
            first = column.index(max(column))  # the earliest wins
            assert pool.best[video, node] == (videos == video).nonzero()[first, 0]
    assert pool.seen.tolist() == [True] * 5 + [False]
    assert not pool.probs[5].any()
    assert (pool.best[5] == -1).all()


def test_power_one_is_the_mean_to_the_bit():
    videos, probs = clips_of_videos()
    found = pooled(videos, probs, 1.0, batch_size=30).probs
    expected = torch.zeros(6, len(TREE), dtype=torch.float64).index_add_(0, videos, probs.double())
    assert torch.equal(found, expected / torch.bincount(videos, minlength=6).clamp(min=1)[:, None])


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_the_order_of_windows_does_not_matter(power):
    videos, probs = clips_of_videos()
    order = torch.randperm(30, generator=rng(2))
    found = pooled(videos[order], probs[order], power).probs
    torch.testing.assert_close(found, pooled(videos, probs, power).probs, rtol=1e-12, atol=0)


def test_a_sure_window_outweighs_unsure_ones():
    unsure, sure = [0.2] * 5, [0.96, 0.01, 0.01, 0.01, 0.01]
    log_probs = (torch.tensor([unsure] * 4 + [sure]) @ TREE.membership.T).log()
    probs, leaf, window = pool_windows(log_probs, TREE.membership, 4.0)
    mean, *rest = pool_windows(log_probs, TREE.membership, 1.0)
    assert [leaf, window] == rest == [0, 4]
    assert mean[0] < 0.4 and probs[0] > 0.95 and probs[:5].sum() == pytest.approx(1)
    torch.testing.assert_close(probs, TREE.membership.double() @ probs[:5])


@pytest.mark.parametrize("power", [4.0, 1e6])
def test_tiny_probabilities_vanish_and_nothing_becomes_nan(power):
    leaf = torch.tensor([[0.0, 1e-38, 2e-38, 0.0, 0.0], [0.0, 0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    pool = pooled(torch.tensor([0, 0, 1]), leaf @ TREE.membership.T, power, batch_size=1)
    assert pool.probs.isfinite().all() and pool.probs[0, 2] > 0.8 and pool.probs[0, 0] == 0
    assert not pool.probs[1].any()  # of a clip to which nothing is possible, as if there were none


def test_the_window_shown_is_that_of_the_videos_prediction():
    """Window 1 is surest of anything, but of leaf 1; the video as a whole is leaf 0, which window 2 shows best."""
    probabilities = torch.tensor([[0.6, 0.4, 1.0], [0.05, 0.95, 1.0], [0.9, 0.1, 1.0]])
    membership = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert pool_windows(probabilities.log(), membership, 1.0)[1:] == (0, 2)
    assert pool_windows(probabilities.log(), membership, 8.0)[1:] == (1, 1)  # the surest window says leaf 1
