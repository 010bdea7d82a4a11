"""Figures of an embedding equal their definitions written out, whatever the chunk; and the cones' geometry."""

import itertools
import math

import geoopt
import pytest
import torch
from tiny import random_tree

from benchmarks.embeddings import uneven_tree
from hierarchy import Hierarchy, distance, evaluate_embedding, fit_embeddings
from hierarchy.hyperbolic import aperture, from_ball, outward_angle, to_ball
from hierarchy.measures import MEANINGS, table
from hierarchy.relations import edges_between, lineage, parent_child

SMALL = Hierarchy.from_rows(
    [["a", "P", "X"], ["b", "P", "X"], ["c", "Q", "X"], ["d", "Other", "Y"], ["e", "Other", "X"]]
)


def scattered(n: int, dim: int, seed: int, *, length: float = 2.0) -> torch.Tensor:
    """(n, dim) float64."""
    return length * torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / dim**0.5


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def slow_figures(points: torch.Tensor, hierarchy: Hierarchy, c: float) -> dict[str, float]:
    """The definitions, literally."""
    apart = distance(points, points, c).tolist()
    nodes, leaves = range(len(hierarchy)), hierarchy.levels[0]
    up = [hierarchy.path_ids(node) for node in nodes]
    in_tree = [[len(set(a) ^ set(b)) for b in up] for a in up]
    precision = []
    for a in nodes:
        neighbours = {b for b in nodes if in_tree[a][b] == 1}
        found = []
        for b in neighbours:
            ball = {x for x in nodes if x != a and apart[a][x] <= apart[a][b]}
            found.append(len(ball & neighbours) / len(ball))
        if found:
            precision.append(mean(found))
    ratios = [apart[a][b] / in_tree[a][b] for a, b in itertools.combinations(nodes, 2)]
    figures = {
        "mAP": mean(precision) if precision else 1.0,
        "mean_distortion": min(mean([abs(r / s - 1) for r in ratios]) for s in ratios),
        "worst_distortion": max(ratios) / min(ratios),
    }

    top = 2 * hierarchy.n_levels
    pairs = list(itertools.combinations(leaves, 2))
    kinship = {
        "siblings": [(a, b) for a, b in pairs if in_tree[a][b] == 2 < top],
        "cousins": [(a, b) for a, b in pairs if 2 < in_tree[a][b] < top],
        "strangers": [(a, b) for a, b in pairs if in_tree[a][b] == top],
    }
    cosine = torch.nn.functional.cosine_similarity(points[:, None], points[None], dim=-1)
    for who, which in kinship.items():
        if which:
            figures[f"distance_{who}"] = mean([apart[a][b] for a, b in which])
            figures[f"cosine_{who}"] = mean([float(cosine[a, b]) for a, b in which])
    figures["disordered_leaves"] = sum(
        any(apart[a][b] >= apart[a][x] for b in leaves for x in leaves if a != b and in_tree[a][b] < in_tree[a][x])
        for a in leaves
    )
    if len(leaves) > 1:
        margins = [min(apart[a][b] for b in leaves if b != a) for a in leaves]
        figures |= {"margin_min": min(margins), "margin_mean": mean(margins)}

    edges = [(path[1], node) for node, path in enumerate(up) if len(path) > 1]
    if edges:
        angles = [float(cone_angle(points[a], points[b], c)) for a, b in edges]
        half = [cone_opening(points[a], c) for a, _ in edges]
        figures["entailment_violations"] = mean([angle > psi for angle, psi in zip(angles, half, strict=True)])
        figures["entailment_angle"] = math.degrees(mean(angles))
    return figures


def cone_angle(u: torch.Tensor, w: torch.Tensor, c: float) -> torch.Tensor:
    """Ganea et al.'s equation 28, in the unit ball."""
    x, y = (math.sqrt(c) * to_ball(v, c) for v in (u, w))
    along = x @ y * (1 + x @ x) - x @ x * (1 + y @ y)
    across = x.norm() * (x - y).norm() * (1 + x @ x * (y @ y) - 2 * x @ y).sqrt()
    return torch.acos((along / across).clamp(-1, 1))


def cone_opening(u: torch.Tensor, c: float) -> float:
    """Their equation 26, for K = .1, in the unit ball."""
    x = float(math.sqrt(c) * to_ball(u, c).norm())
    return math.asin(min(1.0, 0.1 * (1 - x**2) / x))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_levels", [1, 2, 4])
@pytest.mark.parametrize("c", [0.3, 1.0])
def test_figures_equal_their_definitions(seed: int, n_levels: int, c: float) -> None:
    hierarchy = random_tree(seed, n_levels, 9)
    embedded = scattered(len(hierarchy), 3, seed)
    figures = evaluate_embedding(embedded, hierarchy, c=c, chunk=4 + 3 * seed)
    assert figures == pytest.approx(slow_figures(embedded, hierarchy, c))
    assert list(figures) == [name for name in MEANINGS if name in figures]  # all have a meaning, in its order
    assert n_levels == 1 or figures["mAP"] < 1  # a random embedding is a bad one


def test_a_unit_of_length_changes_nothing_but_lengths() -> None:
    one, two = (
        evaluate_embedding(fit_embeddings(SMALL, edge=edge, c=c), SMALL, c=c) for edge, c in ((1.0, 1.0), (2.0, 0.25))
    )
    for name, value in one.items():
        factor = 2 if name.startswith(("distance", "margin")) else 1
        assert two[name] == pytest.approx(factor * value), name


def test_a_single_class_and_a_chain() -> None:
    assert evaluate_embedding(torch.ones(1, 3), Hierarchy.from_rows([["a"]]), c=1.0) == {
        "mAP": 1.0, "mean_distortion": 0.0, "worst_distortion": 1.0, "disordered_leaves": 0}
    chain = Hierarchy.from_rows([["a", "b", "c"]])
    figures = evaluate_embedding(fit_embeddings(chain, dim=4), chain, c=1.0)
    assert figures["entailment_violations"] == 0  # straight outwards
    assert figures["entailment_angle"] == pytest.approx(0, abs=1e-4)


def test_kinship_in_ucf101s_shape() -> None:
    """Everything a leaf's family can be: in the construction nearer relatives are nearer, without exception."""
    hierarchy = uneven_tree(400, 6)
    figures = evaluate_embedding(fit_embeddings(hierarchy, dim=20, edge=2.5), hierarchy, c=1.0, chunk=70)
    assert figures["mAP"] == 1 and figures["disordered_leaves"] == 0
    assert figures["distance_siblings"] < figures["distance_cousins"] < figures["distance_strangers"]
    assert figures["cosine_siblings"] > figures["cosine_cousins"] > figures["cosine_strangers"]


def test_the_table_has_a_line_a_figure() -> None:
    figures = evaluate_embedding(fit_embeddings(SMALL, dim=6), SMALL, c=1.0)
    lines = table(figures).splitlines()
    assert len(lines) == 2 + len(figures) and len({len(line) for line in lines}) == 1
    assert MEANINGS["mAP"] in lines[2] and lines[2].endswith(" 1 |")


# --- geometry


@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_cones_equal_ganeas_formulas(c: float, seed: int) -> None:
    u, w = scattered(30, 4, seed) / math.sqrt(c), scattered(30, 4, seed + 9) / math.sqrt(c)
    expected = torch.stack([cone_angle(a, b, c) for a, b in zip(u, w, strict=True)])
    torch.testing.assert_close(outward_angle(u, w, c), expected, rtol=1e-6, atol=1e-6)
    openings = torch.tensor([cone_opening(a, c) for a in u], dtype=torch.float64)
    torch.testing.assert_close(aperture(u, c, 0.1), openings, rtol=1e-6, atol=2e-6)


def test_outward_angle_beyond_the_ball_and_its_gradient() -> None:
    ray, other = torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64)
    for length in (2, 5, 14):
        angle = outward_angle(length * ray, (length + 1) * ray, 1.0)
        assert float(angle) == pytest.approx(0, abs=1e-6)
        assert float(outward_angle(length * ray, (length - 1) * ray, 1.0)) == pytest.approx(math.pi, abs=1e-6)
        assert float(outward_angle(length * ray, length * other, 1.0)) == pytest.approx(math.pi, abs=0.05)  # back first
    ends = torch.stack([0 * ray, ray, 9 * ray, 9 * ray + 1e-9 * other, -3 * ray]).requires_grad_()
    every = outward_angle(ends[:, None].expand(-1, 5, -1), ends[None].expand(5, -1, -1), 1.0)
    (gradient,) = torch.autograd.grad(every.sum() + aperture(ends, 1.0, 0.1).sum(), ends)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_never_leave_the_ball(c: float, dtype: torch.dtype) -> None:
    lengths = torch.logspace(-8, 4, 60, dtype=dtype)[:, None]
    u = (scattered(60, 5, seed=1).to(dtype) * lengths).requires_grad_()
    in_ball = to_ball(u, c)
    assert (math.sqrt(c) * in_ball.norm(dim=-1) <= 1 + 4 * torch.finfo(dtype).eps).all()
    (gradient,) = torch.autograd.grad(in_ball.sum(), u)
    assert gradient.isfinite().all()
    near = 2 * math.sqrt(c) * u.norm(dim=-1) < (5 if dtype == torch.float32 else 11)
    torch.testing.assert_close(from_ball(in_ball, c)[near], u[near], rtol=1e-3, atol=0)
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=dtype))
    torch.testing.assert_close(in_ball[near], ball.expmap0(u)[near], rtol=1e-5, atol=0)


# --- relations


@pytest.mark.parametrize("seed", range(4))
def test_relations_equal_loops(seed: int) -> None:
    hierarchy = random_tree(seed, 4, 11)
    above, up = lineage(hierarchy), [hierarchy.path_ids(node) for node in range(len(hierarchy))]
    for node, path in enumerate(up):
        assert tuple(above[node][above[node] >= 0].tolist()) == path
    some = torch.tensor([0, len(hierarchy) - 1, 3])
    assert edges_between(above, some).tolist() == [[len(set(up[a]) ^ set(path)) for path in up] for a in some.tolist()]
    assert {tuple(pair) for pair in parent_child(hierarchy).tolist()} == {
        (path[1], node) for node, path in enumerate(up) if len(path) > 1}


@pytest.mark.parametrize(("n_nodes", "n_levels"), [(12, 6), (244, 3), (800, 3), (3000, 6)])
def test_made_up_trees_have_the_size_asked_for_and_differ_in_their_branches(n_nodes: int, n_levels: int) -> None:
    hierarchy = uneven_tree(n_nodes, n_levels)
    assert (len(hierarchy), hierarchy.n_levels) == (n_nodes, n_levels)
    families = sorted(len(hierarchy.children(node)) for level in hierarchy.levels[1:] for node in level)
    assert families[0] >= 1 and (n_nodes < 100 or families[-1] > 5 * families[len(families) // 2])
    with pytest.raises(ValueError, match="at least 12 nodes"):
        uneven_tree(11, 6)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [10, 300])
def test_ten_thousand_nodes(dim: int) -> None:
    hierarchy = uneven_tree(10000, 6)
    figures = evaluate_embedding(fit_embeddings(hierarchy, dim=dim, edge=2.5), hierarchy, c=1.0)
    assert figures["mAP"] == 1 and figures["disordered_leaves"] == 0
    assert figures["mean_distortion"] < 0.05
