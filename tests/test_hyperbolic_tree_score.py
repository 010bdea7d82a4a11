"""Siblings in hyperbolic space equal the method word for word, and a page can compute them from their formula."""

import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import geoopt
import pytest
import torch
from tiny import random_tree
from torch import Tensor
from tree_scores import (
    TREES,
    activations_of,
    counts_of,
    families,
    hyperbolic_score,
    nodes_of,
    points_of,
    tree_score,
    with_weights,
)

from hierarchy import Hierarchy, distance, fit_embeddings, load_embeddings
from hierarchy.hyperbolic import seen_from, to_ball
from models.scores import HyperbolicTreeScore

ROOT = Path(__file__).parents[1]

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
