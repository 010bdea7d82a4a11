"""Measures of recognition equal slow loops over the tree, and tell the truth on cases worked out by hand."""

import numpy as np
import pytest
import torch

from evaluation.recognition import (
    VideoMean,
    accuracy_per_level,
    level_argmax_accuracy,
    mistake_severity,
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


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_a_video_is_the_mean_of_its_clips(batch_size):
    videos = torch.randint(6, (30,), generator=rng()) % 5  # video 5 has no clip
    probs = torch.rand(30, 7, generator=rng(1)).round(decimals=1)  # ties
    means = VideoMean(6, 7)
    for start in range(0, 30, batch_size):
        end = start + batch_size
        means.add(videos[start:end], probs[start:end], torch.arange(30)[start:end])
    for video in range(5):
        of_video = probs[videos == video]
        assert torch.allclose(means.mean[video], of_video.double().mean(0))
        assert means.count[video] == len(of_video)
        for node in range(7):
            column = of_video[:, node].tolist()
            first = column.index(max(column))  # the earliest wins
            assert means.best[video, node] == (videos == video).nonzero()[first, 0]
    assert means.seen.tolist() == [True] * 5 + [False]
    assert not means.mean[5].any()
    assert (means.best[5] == -1).all()
