"""The scores that decide at every branching equal slow loops over nodes, and keep what is promised of them."""

import math
from collections.abc import Sequence

import pytest
import torch
from tiny import random_tree
from torch import Tensor
from tree_scores import (
    BOTH,
    TREES,
    activations_of,
    counts_of,
    families,
    nodes_of,
    parents,
    small_score,
    tree_score,
    with_weights,
)

from hierarchy import Hierarchy
from models.scores import TreeScore


@pytest.fixture(params=BOTH)
def make(request):
    """From a case of TREES to a score."""
    return BOTH[request.param]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def slow_evidence(tree: Hierarchy, node_of: Tensor, omega: Tensor, activations: Sequence[float]) -> list[float]:
    """Of every node, one prototype at a time."""
    evidence = []
    for node in range(len(tree)):
        voices = [softplus(w) * a for of, w, a in zip(node_of.tolist(), omega.tolist(), activations, strict=True)
                  if of == node]
        evidence.append(max(voices) if node < tree.n_leaves else sum(voices))
    return evidence


def slow_log_probs(tree: Hierarchy, evidence: Sequence[float]) -> list[float]:
    """Down from the root: log p(n) = log p(parent) + e_n - log sum over the siblings of exp e_m."""
    above, children = parents(tree), families(tree)

    def log_prob(node: int | None) -> float:
        if node is None:
            return 0.0
        siblings = [evidence[sibling] for sibling in children[above[node]]]
        top = max(siblings)
        return log_prob(above[node]) + evidence[node] - top - math.log(sum(math.exp(e - top) for e in siblings))

    return [log_prob(node) for node in range(len(tree))]


# --- the tree score


@pytest.mark.parametrize("case", TREES)
def test_unevenness_is_the_deviation_of_a_class_s_weights(make, case):
    """One class at a time; nodes above the classes, all of whose prototypes speak, take no part."""
    score, tree = make(case), random_tree(*case)
    squares = []
    for leaf in range(tree.n_leaves):
        own = [omega for omega, node in zip(score.omega.tolist(), score.node_of.tolist(), strict=True)
               if node == leaf]
        squares += [(omega - sum(own) / len(own)) ** 2 for omega in own]
    found = score.unevenness()
    assert found.item() == pytest.approx(sum(squares) / len(squares), rel=1e-5, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, score.omega)
    assert not gradient[score.node_of >= tree.n_leaves].any()
    assert bool(gradient.any()) == (found.item() > 0)


def test_even_weights_let_the_nearest_prototype_of_a_class_speak(make):
    case = TREES[3]
    score, tree = make(case), random_tree(*case)
    with torch.no_grad():
        score.omega[:] = torch.arange(len(tree), dtype=score.omega.dtype)[score.node_of]  # alike within every node
    assert score.unevenness().item() == 0
    activations = activations_of(5, score)
    standing_by = torch.stack([score.standing_by(one) for one in activations])
    for leaf in range(tree.n_leaves):
        own = score.node_of == leaf
        nearest = activations[:, own] == activations[:, own].amax(1, keepdim=True)
        speaks = ~standing_by[:, own]
        assert speaks.sum(1).tolist() == [1] * 5 and not (speaks & ~nearest).any()


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("seed", range(2))
def test_the_tree_score_equals_a_slow_loop_over_nodes(case, seed):
    tree = random_tree(*case)
    score = tree_score(tree, seed)
    activations = activations_of(4, score, seed)
    log_probs, evidence = score(activations)
    assert log_probs.dtype == evidence.dtype == torch.float64
    for one, found, told in zip(activations.tolist(), log_probs.tolist(), evidence.tolist(), strict=True):
        slow = slow_evidence(tree, score.node_of, score.omega, one)
        assert told == pytest.approx(slow, rel=1e-12)
        assert found == pytest.approx(slow_log_probs(tree, slow), rel=1e-10, abs=1e-12)


def test_a_node_without_prototypes_has_no_evidence():
    tree = random_tree(3, 3, 9)
    counts = [node % 2 for node in range(len(tree))]
    score = with_weights(TreeScore(tree, nodes_of(counts)))
    _, evidence = score(torch.ones(1, sum(counts), dtype=torch.float64))
    assert [bool(value) for value in evidence[0]] == [bool(count) for count in counts]


def test_every_prototype_starts_with_the_weight_that_is_asked_for():
    tree = random_tree(2, 2, 7)
    for start in (0.01, 1.5, 12.0):
        score = TreeScore(tree, nodes_of(counts_of(tree)), start=start)
        torch.testing.assert_close(score.weights, torch.full_like(score.omega, start))
        assert score.last == [score.omega]
    assert score.columns is None


# --- both


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("scale", [0, 1, 100])
def test_probabilities_are_consistent_along_the_tree(make, case, scale):
    tree, score = random_tree(*case), make(case)
    for dtype, slack in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        log_probs, _ = score((scale * activations_of(3, score)).to(dtype))
        assert log_probs.dtype == dtype and (log_probs <= slack).all()
        for parent, children in families(tree).items():
            whole = torch.zeros(3, dtype=dtype) if parent is None else log_probs[:, parent]
            torch.testing.assert_close(log_probs[:, children].logsumexp(1), whole, atol=slack, rtol=1e-5)
            if len(children) == 1:
                assert torch.equal(log_probs[:, children[0]], whole)
        for level in tree.levels:
            total = log_probs[:, list(level)].logsumexp(1)
            torch.testing.assert_close(total, torch.zeros_like(total), atol=slack, rtol=0)


@pytest.mark.parametrize("case", TREES)
def test_ancestors_do_not_depend_on_descendants(make, case):
    tree, score = random_tree(*case), make(case)
    activations = activations_of(2, score)
    for level in range(1, tree.n_levels):
        changed = activations.clone()
        below = tree.level_of[score.node_of] < level
        changed[:, below] = activations_of(2, score, seed=5)[:, below]
        kept = tree.level_of >= level
        one, other = score(activations)[0], score(changed)[0]
        assert torch.equal(one[:, kept], other[:, kept])


@pytest.mark.parametrize("case", TREES)
def test_float64_goes_in_and_out_and_autocast_changes_nothing(make, case):
    score = make(case)
    activations = activations_of(3, score).float()
    plain = score(activations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = score(activations)
        halved = score(activations.bfloat16())
    for one, other in zip(plain, under, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    rounded = score(activations.bfloat16().float())
    assert all(torch.equal(one, other) for one, other in zip(halved, rounded, strict=True))
    for one, other in zip(plain, score(activations.double()), strict=True):
        assert other.dtype == torch.float64
        torch.testing.assert_close(one, other.float(), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite(make, case, dtype):
    """Also where all activations are alike, so that every maximum is a tie."""
    score = make(case)
    n = len(score.node_of)
    drawn = activations_of(4, score)
    clips = [torch.full((n,), value) for value in (0, 1e-30, 1e-8, 1e-3, 1, 30, 1e4)]
    clips += [scale * some for scale, some in zip((1e-8, 1, 100, 1e4), drawn, strict=True)]
    activations = torch.stack([clip.to(dtype) for clip in clips]).requires_grad_()
    log_probs, evidence = score(activations)
    assert log_probs.isfinite().all() and evidence.isfinite().all()
    probe = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for loss in (log_probs.sum(), (probe * log_probs).sum(), (probe * log_probs.exp()).sum()):
        for gradient in torch.autograd.grad(loss, (activations, score.omega), retain_graph=True):
            assert gradient.isfinite().all()


def test_any_number_of_clips_goes_through_an_exported_score(make):
    score = make(TREES[3]).requires_grad_(False)
    activations = activations_of(5, score).float()
    program = torch.export.export(score, (activations[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for n in (1, 5):
        for one, other in zip(program.module()(activations[:n]), score(activations[:n]), strict=True):
            torch.testing.assert_close(one, other)


# --- weights of merged prototypes


def test_kept_prototypes_take_over_weights():
    """Of classes the larger one, above them the sum; what is not merged keeps its weight."""
    _, score = small_score()
    with torch.no_grad():
        score.omega.copy_(torch.log(torch.expm1(torch.tensor([1.0, 3, 2, 0.5, 4, 30]))))
    score.absorb(torch.tensor([2, 1, 2, 3, 5, 5]))
    weights = score.weights.tolist()
    assert [weights[p] for p in (1, 2, 3, 5)] == pytest.approx([3, 2, 0.5, 34], rel=1e-5)
    before = score.weights.clone()
    score.absorb(torch.arange(6))
    torch.testing.assert_close(score.weights, before, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weight", [1e-12, 1e-3, 1, 19, 21, 500])
def test_weights_of_any_size_survive_merging(weight):
    _, score = small_score()
    with torch.no_grad():
        weights = torch.full((6,), weight, dtype=torch.float64)
        score.omega.copy_(weights + torch.log(-torch.expm1(-weights)))
    score.absorb(torch.tensor([0, 0, 0, 3, 4, 4]))
    assert score.omega.isfinite().all()
    assert score.weights[[0, 3, 4]].tolist() == pytest.approx([weight, weight, 2 * weight], rel=1e-5)
