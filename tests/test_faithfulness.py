"""A perfect, an inverted and a random explanation score as they must; sets and boxes are worked out by slow loops."""

import numpy as np
import pytest
import torch
from tiny import ROWS, tiny_hipe

from evaluation.faithfulness import (
    block_ranks,
    blurred,
    box_share,
    deletion,
    greedy_set,
    insertion,
    kept_and_hidden,
    moved_box,
    noisy,
    random_set,
    recompressed,
    same_place,
    transition,
)
from hierarchy.tree import Hierarchy
from models.scores import TreeScore

SIZE = (8, 16, 24)
BOX = (2, 4, 6, 4, 8, 12)  # whole blocks of the grid


def inside(box=BOX) -> torch.Tensor:
    mask = torch.zeros(SIZE)
    mask[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = 1
    return mask


def clip() -> torch.Tensor:
    """Noise, whose pattern inside the box is what the score looks for."""
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))


def unbounded(clips: torch.Tensor) -> torch.Tensor:
    """1 where the box holds the clip's own pixels, less for every one that it does not."""
    return 1 - ((clips - clip()) * inside()).square().sum((1, 2, 3, 4)) / (clip() * inside()).square().sum()


def score(clips: torch.Tensor) -> torch.Tensor:
    return unbounded(clips).clamp(min=0)


GOOD, BAD = inside(), 1 - inside()
RANDOM = torch.rand(SIZE, generator=torch.Generator().manual_seed(1))


def test_perfect_random_and_inverted_heat():
    """The box is 8 blocks of 512: all of them are there after 2 of 128 steps, or only in the last 2."""
    inserted = [insertion(score, clip(), heat) for heat in (GOOD, RANDOM, BAD)]
    deleted = [deletion(score, clip(), heat) for heat in (GOOD, RANDOM, BAD)]
    assert inserted[0] > 0.98 and inserted[2] < 0.3 and inserted[0] > inserted[1] > inserted[2]
    assert deleted[0] < 0.02 and deleted[2] > 0.98 and deleted[0] < deleted[1] < deleted[2]
    assert deleted[1] == pytest.approx(0.5, abs=0.2)


def test_a_transition_is_a_loop_over_blocks():
    heat = torch.rand(SIZE, generator=torch.Generator().manual_seed(2))
    grid, steps = (4, 4, 6), 8
    blocks = [(slice(2 * t, 2 * t + 2), slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
              for t in range(4) for y in range(4) for x in range(6)]
    blocks.sort(key=lambda block: -float(heat[block].mean()))
    first, last = clip(), torch.zeros(3, *SIZE)
    slow, turned = [score(first[None])], first.clone()
    for step in range(steps):
        for block in blocks[step * 96 // steps:(step + 1) * 96 // steps]:
            turned[(slice(None), *block)] = last[(slice(None), *block)]
        slow.append(score(turned[None]))
    fast = transition(score, first, last, heat, steps=steps, grid=grid, batch_size=3)
    assert torch.allclose(fast, torch.cat(slow), atol=1e-6)


def test_equal_blocks_come_in_random_order_and_grids_need_not_fit():
    ranks = block_ranks(torch.zeros(5, 7, 9), (2, 3, 4), seed=1)
    assert sorted(ranks.unique().tolist()) == pytest.approx([i / 24 for i in range(24)])
    assert not torch.equal(ranks, block_ranks(torch.zeros(5, 7, 9), (2, 3, 4), seed=2))
    assert block_ranks(torch.zeros(3, 2, 2), (8, 8, 8)).unique().numel() == 12  # no more blocks than voxels
    heat = torch.zeros(5, 7, 9)
    heat[4, 6, 8] = 1
    assert float(block_ranks(heat, (2, 3, 4))[4, 6, 8]) == 0


def test_what_boxes_keep_and_hide():
    whole, only, hidden = kept_and_hidden(score, clip(), BOX)
    assert whole == 1 and only == 1 and hidden < 0.2
    _, only, hidden = kept_and_hidden(score, clip(), (4, 8, 12, 8, 16, 24))  # beside it
    assert only < 0.2 and hidden == 1
    _, only, hidden = kept_and_hidden(score, clip(), (0, 0, 0, *SIZE))
    assert only == 1 and hidden < 0.2


def test_random_boxes_keep_and_hide_what_they_hold_of_the_event():
    """For a score that adds up voxel by voxel."""
    ruined, rng = float(unbounded(blurred(clip())[None])), np.random.default_rng(0)
    lost = (blurred(clip()) - clip()).square().sum(0) * inside()
    boxes = [moved_box((0, 0, 0, 5, 9, 12), SIZE, rng) for _ in range(50)]
    found = [kept_and_hidden(unbounded, clip(), box) for box in boxes]
    held = [float((lost * inside(box)).sum() / lost.sum()) for box in boxes]
    for (whole, only, hidden), share in zip(found, held, strict=True):
        assert whole == 1 and only == pytest.approx(ruined + (1 - ruined) * share, abs=1e-4)
        assert hidden == pytest.approx(1 - (1 - ruined) * share, abs=1e-4)
    assert 0.05 < np.mean(held) < 0.9 and max(held) > 0


def test_boxes():
    assert box_share((0, 0, 0, *SIZE), SIZE) == 1 and box_share(BOX, SIZE) == pytest.approx(2 * 4 * 6 / (8 * 16 * 24))
    rng = np.random.default_rng(0)
    for box in (moved_box(BOX, SIZE), *(moved_box(BOX, SIZE, rng) for _ in range(20))):
        assert [b - a for a, b in zip(box[:3], box[3:], strict=True)] == [2, 4, 6]
        assert all(0 <= a < b <= n for a, b, n in zip(box[:3], box[3:], SIZE, strict=True))
    assert moved_box(BOX, SIZE) == (3, 6, 9, 5, 10, 15)
    assert moved_box((1, 1, 1, 9, 17, 25), SIZE, rng) == (0, 0, 0, *SIZE)


def test_disturbances():
    still = torch.full((3, 4, 16, 16), 120, dtype=torch.uint8)
    assert float((noisy(still, 1).float() - 120).std()) == pytest.approx(8, rel=0.1)
    assert torch.equal(noisy(still, 1), noisy(still, 1)) and not torch.equal(noisy(still, 1), noisy(still, 2))
    assert recompressed(still).shape == still.shape and recompressed(still).float().sub(120).abs().max() < 3
    ramp = torch.arange(16, dtype=torch.uint8).mul(15).expand(3, 4, 16, 16)
    assert recompressed(ramp).float().sub(ramp.float()).abs().mean() < 6  # nothing is transposed
    assert torch.allclose(blurred(torch.ones(3, 4, 16, 16)), torch.ones(3, 4, 16, 16), atol=1e-5)
    assert float(blurred(clip()).std()) < 0.5 * float(clip().std())


def test_places():
    peaks, others = torch.tensor([[1, 8, 8], [1, 8, 8]]), torch.tensor([[3, 4, 8], [4, 8, 8]])
    assert same_place(peaks, others, torch.tensor([2, 4, 4])).tolist() == [True, False]


def of_sum(pulls: torch.Tensor):
    """The value of a set whose prototypes pull a tangent vector, (P, D), by the sum of what it has in the end."""
    return lambda masks: torch.nn.functional.logsigmoid((masks @ pulls).sum(-1))


def test_the_greedy_set_is_the_smallest_for_a_score_of_one_dimension():
    pulls = torch.tensor([[0.1], [3.0], [-1.0], [2.0], [0.2], [-0.3]], dtype=torch.float64)
    value = of_sum(pulls)
    whole, none = value(torch.stack([torch.ones(6), torch.zeros(6)]).double())
    taken = greedy_set(6, value)
    inside = torch.zeros(1, 6, dtype=torch.float64)
    inside[0, taken] = 1
    assert taken == [1, 3][:len(taken)] and value(inside) >= none + 0.9 * (whole - none)
    assert len(taken) == 2 or value(torch.eye(6).double()[1:2]) >= none + 0.9 * (whole - none)
    assert greedy_set(6, of_sum(-pulls)) == [] and greedy_set(3, of_sum(torch.zeros(3, 2).double())) == []
    one = torch.zeros(5, 3, dtype=torch.float64)
    one[4] = 2
    assert greedy_set(5, of_sum(one)) == [4]


def test_random_sets_are_larger():
    generator = torch.Generator().manual_seed(0)
    pulls = torch.randn(40, 4, generator=generator, dtype=torch.float64) + 0.2
    rng = np.random.default_rng(0)
    sizes = [random_set(40, of_sum(pulls), rng) for _ in range(20)]
    assert 1 <= len(greedy_set(40, of_sum(pulls))) < np.mean(sizes) <= 40
    assert random_set(40, of_sum(-pulls), rng) == 0


def slow_sets(pulls: torch.Tensor, log_prob, order: list[int], share: float) -> tuple[list[int], int]:
    """Greedy and ordered sets by tangent vectors that are added up one by one."""
    whole, none = float(log_prob(pulls.sum(0))), float(log_prob(0 * pulls[0]))
    wanted = none + share * (whole - none)
    taken, tangent = [], 0 * pulls[0]
    while whole > none and (not taken or float(log_prob(tangent)) < wanted):
        gains = [-np.inf if p in taken else float(log_prob(tangent + pulls[p])) for p in range(len(pulls))]
        taken.append(int(np.argmax(gains)))
        tangent = tangent + pulls[taken[-1]]
    size, tangent = 0, 0 * pulls[0]
    while whole > none and float(log_prob(tangent)) < wanted - 1e-9:
        tangent, size = tangent + pulls[order[size]], size + 1
    return taken, size


@pytest.mark.parametrize("node", [0, 3, 6, 9])
def test_sets_of_a_linear_score_are_those_of_its_tangent_vectors(node):
    model, _ = tiny_hipe()
    activations = 3 * torch.rand(36, generator=torch.Generator().manual_seed(node), dtype=torch.float64)
    pulls = activations[:, None] * model.score.last_layer.weight.detach().double().T
    slow = slow_sets(pulls, lambda tangent: model.score.log_probs(tangent[None])[0, node],
                     np.random.default_rng(1).permutation(36).tolist(), 0.9)

    def value(masks: torch.Tensor) -> torch.Tensor:
        return model.score(activations * masks)[0][:, node]

    assert (greedy_set(36, value), random_set(36, value, np.random.default_rng(1))) == slow


@pytest.mark.parametrize("node", [0, 3, 6, 9])
def test_the_greedy_set_of_a_tree_score_are_the_prototypes_of_the_path(node):
    """What does not stand on the path from the node to the top can only take from it."""
    tree = Hierarchy.from_rows(ROWS)
    node_of = torch.arange(len(tree)).repeat_interleave(3)
    score = TreeScore(tree, node_of)
    activations = torch.rand(len(node_of), generator=torch.Generator().manual_seed(node), dtype=torch.float64)
    taken = greedy_set(len(node_of), lambda masks: score(activations * masks)[0][:, node].detach())
    below = {0: {0, 6, 10}, 3: {3, 7, 10}, 6: {6, 10}, 9: {9, 11}}[node]  # and the node itself
    assert set(node_of[taken].tolist()) <= below
    loudest = max((p for p in range(len(node_of)) if node_of[p] == node), key=lambda p: float(activations[p]))
    assert node > 5 or not taken or loudest in taken
