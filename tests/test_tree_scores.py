"""The scores that decide at every branching equal slow loops over nodes, and keep what is promised of them."""

import itertools
import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from tiny import random_tree
from torch import Tensor

from hierarchy import Hierarchy, distance, fit_embeddings, load_embeddings
from hierarchy.hyperbolic import seen_from, to_ball
from models.scores import GROUPS, HyperbolicTreeScore, TreeScore, evidence_shares

ROOT = Path(__file__).parents[1]
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


@pytest.fixture(params=BOTH)
def make(request):
    """From a case of TREES to a score."""
    return BOTH[request.param]


def activations_of(n: int, score: TreeScore, seed: int = 0) -> Tensor:
    """(n, P) float64 in 0..1, some of them 0 and some alike."""
    drawn = torch.rand(n, len(score.node_of), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(drawn < 0.15, 0, torch.where(drawn > 0.85, 0.9, drawn))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


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


# --- what silencing does


def slow_silenced(score: TreeScore, activations: Tensor, nodes: Tensor) -> Tensor:
    """One prototype at a time: (n, P)."""
    whole = score(activations[None])[0][0, nodes]
    found = []
    for p in range(len(activations)):
        without = activations.clone()
        without[p] = 0
        found.append(whole - score(without[None])[0][0, nodes])
    return torch.stack(found, 1)


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("kind", ["drawn", "all alike", "nothing"])
def test_silenced_equals_zeroing_each_prototype_in_turn(make, case, kind):
    score = make(case)
    activations = {"drawn": activations_of(1, score)[0], "nothing": torch.zeros(len(score.node_of)).double(),
                   "all alike": torch.full((len(score.node_of),), 0.5).double()}[kind]
    if kind == "all alike":  # ties among a class's prototypes, whose weights are the same too
        with torch.no_grad():
            score.omega.fill_(0.7)
    nodes = torch.arange(score.n_nodes)[::2]
    found = score.silenced(activations.float(), nodes)
    assert found.shape == (len(nodes), len(activations)) and found.dtype == torch.float64
    torch.testing.assert_close(found, slow_silenced(score, activations.float().double(), nodes), atol=1e-9, rtol=1e-9)


def test_silenced_in_parts_is_silenced_at_once(monkeypatch):
    score = hyperbolic_score(TREES[3])
    activations = activations_of(1, score)[0]
    whole = score.silenced(activations, torch.arange(score.n_nodes))
    monkeypatch.setattr("models.scores.CHUNK", 3)
    torch.testing.assert_close(score.silenced(activations, torch.arange(score.n_nodes)), whole, atol=1e-12, rtol=1e-12)


def small_score() -> tuple[Hierarchy, TreeScore]:
    """Two classes of three prototypes and one, and their parent of two; all weights 1."""
    tree = Hierarchy.from_rows([["a", "top"], ["b", "top"]])
    return tree, TreeScore(tree, torch.tensor([0, 0, 0, 1, 2, 2]), start=1.0)


def test_the_loudest_prototype_of_a_class_speaks_and_its_others_stand_by():
    _, score = small_score()
    for activations, expected in (([0.2, 0.9, 0.5, 0.1, 0.3, 0.4], [True, False, True, False, False, False]),
                                  ([0.9, 0.2, 0.9, 0, 0, 0], [False, True, True, False, False, False]),
                                  ([0, 0, 0, 0, 0, 0], [False, True, True, False, False, False])):
        assert score.standing_by(torch.tensor(activations)).tolist() == expected


def test_a_silenced_prototype_gives_way_to_the_second():
    """Known by hand: e_a = .9, then .5; e_b = .1, then 0; nobody is beside their parent."""
    _, score = small_score()
    activations = torch.tensor([0.2, 0.9, 0.5, 0.1, 0.3, 0.4])

    def of_a(e_a: float, e_b: float) -> float:
        return e_a - math.log(math.exp(e_a) + math.exp(e_b))

    found = score.silenced(activations, torch.tensor([0, 2]))
    assert found[0].tolist() == pytest.approx(
        [0, of_a(0.9, 0.1) - of_a(0.5, 0.1), 0, of_a(0.9, 0.1) - of_a(0.9, 0), 0, 0], abs=1e-7)
    assert found[1].abs().max() == 0


# --- whose the evidence is


def slow_shares(score: TreeScore, tree: Hierarchy, activations: Tensor, node: int) -> dict[str, float]:
    """Every order in which the groups may arrive, descendants and all others next to each other."""
    path = set(tree.path_ids(node))
    names = []
    for of in score.node_of.tolist():
        names.append("own" if of == node else "ancestors" if of in path
                     else "descendants" if node in tree.path_ids(of) else "elsewhere")
    shares, n = dict.fromkeys(GROUPS, 0.0), 0
    for order in itertools.permutations(GROUPS):
        if abs(order.index("descendants") - order.index("elsewhere")) != 1:
            continue
        n += 1
        for i, name in enumerate(order):
            values = []
            for there in (order[:i], order[:i + 1]):
                mask = torch.tensor([one in there for one in names])
                values.append(float(score((activations * mask)[None])[0][0, node]))
            shares[name] += values[1] - values[0]
    return {name: value / n for name, value in shares.items()}


@torch.no_grad()
@pytest.mark.parametrize("case", TREES[:4])
def test_shares_equal_all_orders_of_arrival_and_add_up(make, case):
    tree, score = random_tree(*case), make(case)
    activations = activations_of(1, score)[0]
    nothing = torch.zeros_like(activations)[None]
    for node in range(0, len(tree), 3):
        shares = evidence_shares(score, activations, node)
        assert list(shares) == [*GROUPS, "total"]
        total = float((score(activations[None])[0] - score(nothing)[0])[0, node])
        assert shares["total"] == pytest.approx(total, abs=1e-9)
        assert sum(shares[name] for name in GROUPS) == pytest.approx(total, abs=1e-9)
        assert shares["descendants"] == 0
        expected = slow_shares(score, tree, activations, node)
        assert {name: shares[name] for name in GROUPS} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", TREES)
def test_every_prototype_is_in_one_group_of_a_node(case):
    tree = random_tree(*case)
    score = tree_score(tree)
    for node in range(len(tree)):
        groups = score.groups(node)
        assert torch.equal(torch.stack([groups[name] for name in GROUPS]).sum(0), torch.ones(len(score.node_of)).long())
        below = {other for other in range(len(tree)) if node in tree.path_ids(other)} - {node}
        for name, nodes in (("own", {node}), ("ancestors", set(tree.path_ids(node)) - {node}), ("descendants", below)):
            assert set(score.node_of[groups[name]].tolist()) == nodes


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


# --- where a child lies as seen from its parent


def spread(n: int, dim: int, radius: float, seed: int, c: float) -> Tensor:
    """(n, dim) tangent vectors up to a radius from the origin."""
    generator = torch.Generator().manual_seed(seed)
    rays = torch.randn(n, dim, dtype=torch.float64, generator=generator)
    share = torch.rand(n, 1, dtype=torch.float64, generator=generator)
    return rays / rays.norm(dim=1, keepdim=True) * share * radius / (2 * math.sqrt(c))


@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("dim", [2, 5, 300])
def test_a_point_seen_from_another_is_their_moebius_difference(c, dim):
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    u, w = spread(40, dim, 6, 0, c), spread(40, dim, 6, 1, c)
    w[:3], u[3:6], w[6:9], w[9] = 1.5 * u[:3], 0, 0, -u[9]  # on one ray; from the origin; to the origin; the other side
    expected = ball.logmap0(ball.mobius_add(-ball.expmap0(u), ball.expmap0(w)))
    torch.testing.assert_close(seen_from(u, w, c), expected, atol=1e-6 / math.sqrt(c), rtol=1e-6)
    assert torch.equal(seen_from(u[3:6], w[3:6], c), w[3:6])


@pytest.mark.parametrize("c", [1e-3, 1.0, 3.0])
@pytest.mark.parametrize("radius", [1, 8, 22, 26])
def test_a_change_of_place_keeps_distances(c, radius):
    """Far beyond what a ball in float64 holds, too: a parent at that radius, its children within 3 of it, as far as
    directions of 16 digits tell them apart."""
    m, near = spread(1, 6, radius, 0, c), spread(12, 6, 3, 1, c)
    m = m / m.norm() * radius / (2 * math.sqrt(c))
    children = seen_from(-m, near, c)  # put around m
    seen = seen_from(m, children, c)
    slack = {"rtol": 0, "atol": max(1e-7, 1e-15 * math.exp(radius + 3)) / math.sqrt(c)}
    torch.testing.assert_close(distance(seen, seen, c), distance(children, children, c), **slack)
    torch.testing.assert_close(2 * seen.norm(dim=1), distance(m, children, c)[0], **slack)
    torch.testing.assert_close(seen, near, **slack)


# --- siblings in hyperbolic space


def to_tangent(x: Tensor, c: float) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return torch.atanh(math.sqrt(c) * norm) / (math.sqrt(c) * norm) * x


def moebius(x: Tensor, y: Tensor, c: float) -> Tensor:
    xy, x2, y2 = (x * y).sum(-1, keepdim=True), (x * x).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True)
    return ((1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y) / (1 + 2 * c * xy + c * c * x2 * y2)


def in_ball(x: Tensor, y: Tensor, c: float) -> float:
    return float(2 / math.sqrt(c) * torch.atanh(math.sqrt(c) * moebius(-x, y, c).norm(dim=-1)))


def literal_log_probs(tree: Hierarchy, points: Tensor, c: float, evidence: Sequence[float]) -> list[float]:
    """METHOD.md, 1a, word for word, in the ball."""
    given = torch.zeros(len(tree), dtype=torch.float64)
    for parent, children in families(tree).items():
        m = torch.zeros(points.shape[1], dtype=torch.float64) if parent is None else to_ball(points[parent], c)
        x = [to_tangent(moebius(-m, to_ball(points[n], c), c), c) for n in children]
        t = sum(evidence[n] * place / place.norm() for n, place in zip(children, x, strict=True))
        if len(children) == 1:
            continue
        nearest = min(in_ball(to_ball(one, c), to_ball(other, c), c) for one, other in itertools.combinations(x, 2))
        temperature = nearest / math.log(100 * len(children))
        scores = torch.tensor([-in_ball(to_ball(t, c), to_ball(place, c), c) / temperature for place in x])
        given[children] = scores.double().log_softmax(0)
    return [float(sum(given[one] for one in tree.path_ids(node))) for node in range(len(tree))]


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize(("radius", "c"), [(0.5, 1.0), (1.5, 1.0), (3, 1.0), (1.5, 0.1), (1, 3.0)])
def test_a_regular_simplex_equals_the_method_word_for_word(n, radius, c):
    tree = random_tree(0, 1, n)
    corners = torch.eye(n, dtype=torch.float64) - 1 / n
    points = corners / corners.norm(dim=1, keepdim=True) * radius / 2
    score = with_weights(HyperbolicTreeScore(tree, nodes_of(counts_of(tree)), points=points, c=c))
    activations = activations_of(5, score)
    log_probs, evidence = score(activations)
    for found, e in zip(log_probs.tolist(), evidence.tolist(), strict=True):
        assert found == pytest.approx(literal_log_probs(tree, points, c, e), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("case", [case for case in TREES if case[1] <= 4])
@pytest.mark.parametrize("c", [0.1, 1.0])
def test_any_tree_equals_the_method_word_for_word(case, c):
    tree, points, score = random_tree(*case), points_of(case, c), hyperbolic_score(case, c=c)
    log_probs, evidence = score(activations_of(3, score))
    for found, e in zip(log_probs.tolist(), evidence.tolist(), strict=True):
        assert found == pytest.approx(literal_log_probs(tree, points, c, e), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("c", [1e-3, 0.3, 3.0])
def test_hyperbolic_siblings_are_finite_at_any_curvature_and_evidence(case, c):
    tree = random_tree(*case)
    score = hyperbolic_score(case, c=c)
    rows = [torch.full((len(tree),), value) for value in (0, 1e-12, 1e-8, 1e-4, 1, 30, 1e3, 1e4)]
    for scale in (1e-8, 1, 100, 1e4):
        rows += [scale * torch.eye(len(tree))[node] for node in (0, len(tree) - 1)]
        rows.append(scale * torch.rand(len(tree), generator=torch.Generator().manual_seed(0)))
    for dtype in (torch.float32, torch.float64):
        evidence = torch.stack(rows).to(dtype).requires_grad_()
        log_probs = score.along(evidence)
        assert log_probs.isfinite().all()
        for parent, children in families(tree).items():
            whole = torch.zeros(len(rows), dtype=dtype) if parent is None else log_probs[:, parent]
            torch.testing.assert_close(log_probs[:, children].logsumexp(1), whole, atol=1e-3, rtol=1e-4)
        probe = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
        for loss in (log_probs.sum(), (probe * log_probs).sum(), (probe * log_probs.exp()).sum()):
            assert torch.autograd.grad(loss, evidence, retain_graph=True)[0].isfinite().all()


@pytest.fixture(scope="module")
def ucf101() -> tuple[Hierarchy, HyperbolicTreeScore]:
    tree = Hierarchy.from_csv(ROOT / "UCF-101_hierarchy.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points, c = load_embeddings(ROOT / "hierarchy" / "UCF-101_embeddings.pth", tree)
    return tree, HyperbolicTreeScore(tree, nodes_of([10] * len(tree)), points=points, c=c)


def test_the_shipped_embedding_of_ucf101(ucf101):
    """Finite and consistent; a prototype of a node's own makes the node the likeliest of its siblings."""
    tree, score = ucf101
    assert (len(tree), len(score.node_of)) == (126, 1260)
    activations = torch.rand(6, 1260, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0, 1e-8, 0.1, 1, 100, 1e4])[:, None]
    activations.requires_grad_()
    log_probs, _ = score(activations)
    assert log_probs.isfinite().all()
    for parent, children in families(tree).items():
        whole = torch.zeros(6) if parent is None else log_probs[:, parent]
        torch.testing.assert_close(log_probs[:, children].logsumexp(1), whole, atol=1e-3, rtol=1e-4)
    for gradient in torch.autograd.grad((log_probs * torch.rand(126)).sum(), (activations, score.omega)):
        assert gradient.isfinite().all()
    log_probs, evidence = score(torch.eye(126).repeat_interleave(10, 1))
    assert torch.equal(evidence[:, 101:].diagonal(-101), torch.full((25,), 15.0))  # ten of 1.5, above the classes
    for children in families(tree).values():
        assert torch.equal(log_probs[children][:, children].argmax(1), torch.arange(len(children)))


@pytest.mark.parametrize("n_children", [2, 5])
def test_a_clip_on_its_childs_place_gets_it_almost_surely(n_children):
    """As the temperature is chosen: .99."""
    tree = random_tree(0, 1, n_children)
    points = fit_embeddings(tree, dim=n_children, edge=3.0)
    score = HyperbolicTreeScore(tree, nodes_of([1] * n_children), points=points)
    evidence = torch.diag(points.norm(dim=1))
    assert (score.along(evidence).diagonal().exp() >= 0.99 - 1e-9).all()


def test_siblings_that_cannot_be_told_apart_are_named():
    tree = Hierarchy.from_rows([["run", "legs"], ["jump", "legs"], ["wave", "arms"]])
    points = fit_embeddings(tree, dim=4, edge=2.0)
    node_of = nodes_of([1] * len(tree))
    HyperbolicTreeScore(tree, node_of, points=points)
    together, onto = points.clone(), points.clone()
    together[1], onto[0] = together[0], onto[tree.path_ids(0)[1]]
    for spoilt in (together, onto):
        with pytest.raises(ValueError, match="run|jump") as caught:
            HyperbolicTreeScore(tree, node_of, points=spoilt)
        assert "tree_hyperbolic" in str(caught.value)
    onto = points.clone()
    onto[2] = onto[tree.path_ids(2)[1]]  # an only child is told apart from nobody
    assert HyperbolicTreeScore(tree, node_of, points=onto)(torch.ones(1, len(tree)))[0].isfinite().all()


# --- what a page computes


def page_log_probs(formula: dict, tree: Hierarchy, evidence: Sequence[float]) -> list[float]:
    """The score by plain arithmetic on what `formula` tells: hyperbolic law of cosines at every branching."""
    root = math.sqrt(formula["c"])
    given = [0.0] * len(tree)
    for branching in formula["branchings"]:
        children, lengths, cosines = (branching[name] for name in ("children", "lengths", "cosines"))
        e = [evidence[n] for n in children]
        inner = [sum(e[i] * cosines[i][j] for i in range(len(e))) for j in range(len(e))]  # t . x_j / |x_j|
        length = math.sqrt(max(sum(e[j] * inner[j] for j in range(len(e))), 0))
        scores = []
        for j, size in enumerate(lengths):
            r1, r2 = 2 * root * length, 2 * root * size
            q = (1 - inner[j] / length) / 2 if length else 0.5
            s = math.sinh((r1 - r2) / 2) ** 2 + math.sinh(r1) * math.sinh(r2) * q
            scores.append(-2 / root * math.asinh(math.sqrt(s)) / branching["temperature"])
        top = max(scores)
        total = top + math.log(sum(math.exp(score - top) for score in scores))
        for node, score in zip(children, scores, strict=True):
            given[node] = score - total
    return [sum(given[one] for one in tree.path_ids(node)) for node in range(len(tree))]


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("c", [0.3, 1.0])
def test_the_formula_is_enough_to_compute_the_score(case, c):
    tree, score = random_tree(*case), hyperbolic_score(case, c=c)
    formula = score.formula()
    assert formula["name"] == "tree_hyperbolic" and formula["c"] == c
    assert sorted(sum((branching["children"] for branching in formula["branchings"]), [])) == list(range(len(tree)))
    log_probs, evidence = score(activations_of(4, score))
    for found, e in zip(log_probs.tolist(), evidence.tolist(), strict=True):
        assert found == pytest.approx(page_log_probs(formula, tree, e), rel=1e-9, abs=1e-9)


def test_the_formula_of_ucf101(ucf101):
    tree, score = ucf101
    log_probs, evidence = score(torch.rand(2, 1260, generator=torch.Generator().manual_seed(0)).double() / 5)
    for found, e in zip(log_probs.tolist(), evidence.tolist(), strict=True):
        assert found == pytest.approx(page_log_probs(score.formula(), tree, e), rel=1e-9, abs=1e-9)


def test_the_formula_of_the_tree_score():
    assert tree_score(random_tree(2, 2, 7)).formula() == {"name": "tree"}
