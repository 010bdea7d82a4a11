"""The stable distance against two slow references, the constructed tree, the scores, and the files."""

import itertools
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from decimal import Decimal, localcontext
from pathlib import Path

import geoopt
import pytest
import torch
from torch import Tensor

from hierarchy import (
    ClassEmbeddings,
    Hierarchy,
    distance,
    evaluate_embedding,
    find_embeddings,
    fit_embeddings,
    load_embeddings,
    one_hot,
    save_embeddings,
)
from hierarchy.measures import table
from util_scripts import fit_embeddings as script

ROOT = Path(__file__).resolve().parents[1]
CURVATURES = [1e-3, 0.1, 1.0, 3.0]
UCF101 = Hierarchy.from_csv(ROOT / "UCF-101_hierarchy.csv")
SMALL = Hierarchy.from_rows(
    [["a", "P", "X"], ["b", "P", "X"], ["c", "Q", "X"], ["d", "Other", "Y"], ["e", "Other", "X"]]
)


@pytest.fixture(autouse=True)
def no_unexpected_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def directions(n: int, dim: int, seed: int) -> Tensor:
    """(n, dim) float64, unit."""
    vectors = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-1, keepdim=True)


def points(n: int, dim: int, seed: int, *, c: float, radius: float) -> Tensor:
    """(n, dim) float64 tangent vectors, up to ``radius`` / sqrt(c) from the origin, some of them very near it."""
    share = torch.rand(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** 2
    return directions(n, dim, seed + 1) * share * radius / (2 * math.sqrt(c))


def textbook_distance(u: Tensor, w: Tensor, c: float) -> float:
    """The hyperbolic law of cosines, in decimals enough not to care."""
    with localcontext() as context:
        context.prec = 250
        u, w, root = [Decimal(x) for x in u.tolist()], [Decimal(x) for x in w.tolist()], Decimal(c).sqrt()
        u_norm, w_norm = sum(x * x for x in u).sqrt(), sum(x * x for x in w).sqrt()
        cosine = sum(x * y for x, y in zip(u, w, strict=True)) / (u_norm * w_norm)
        p, q = (2 * root * u_norm).exp(), (2 * root * w_norm).exp()
        cosh = ((p + 1 / p) * (q + 1 / q) - (p - 1 / p) * (q - 1 / q) * cosine) / 4
        return float((cosh + (cosh * cosh - 1).sqrt()).ln() / root)


# --- distance


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dim", [2, 300])
def test_distance_equals_geoopt_where_it_does_not_clip(c: float, seed: int, dim: int) -> None:
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    u, w = points(20, dim, seed, c=c, radius=9.5), points(30, dim, seed + 100, c=c, radius=9.5)
    w[:5] = u[:5] * 0.7  # on one ray, where 1 - cos loses everything
    u[6] = 0
    expected = ball.dist(ball.expmap0(u)[:, None], ball.expmap0(w)[None])
    exact = math.sqrt(c) * expected < 16  # its artanh stops at 16.8
    assert exact.float().mean() > 0.9
    torch.testing.assert_close(distance(u, w, c)[exact], expected[exact], rtol=1e-6, atol=1e-6 / math.sqrt(c))


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radii", [(1e-6, 3), (0.5, 0.6), (9, 9), (18, 0.01), (59, 61), (20, 150)])
def test_distance_equals_the_law_of_cosines_far_beyond_the_ball(c: float, radii: tuple[float, float]) -> None:
    r1, r2 = (radius / (2 * math.sqrt(c)) for radius in radii)
    ray, other, near = directions(3, 4, seed=7)
    near = ray + 1e-5 * near
    for one, two in [(ray, other), (ray, -ray), (ray, near), (other, near)]:
        u, w = r1 * one, r2 * two
        expected = textbook_distance(u, w, c)
        assert distance(u[None], w[None], c).item() == pytest.approx(expected, rel=1e-8)
        # float32 is told the same points, but knows a direction to 6e-8 only
        u, w = u.float(), w.float()
        expected = textbook_distance(u, w, c)
        slack = 5e-7 * math.exp((r1 + r2) * math.sqrt(c) - expected * math.sqrt(c) / 2) if two is near else 0
        if slack < 0.1:
            assert distance(u[None], w[None], c).item() == pytest.approx(expected, rel=2e-6 + slack)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("seed", range(3))
def test_float32_equals_float64(c: float, seed: int) -> None:
    u, w = (points(25, 300, seed + k, c=c, radius=40).float() for k in (0, 50))
    result = distance(u, w, c)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), distance(u.double(), w.double(), c), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [1e-6, 1.0, 9.0, 18.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_is_at_no_distance_from_itself(c: float, radius: float, dtype: torch.dtype) -> None:
    u = (directions(10, 300, seed=3) * radius / (2 * math.sqrt(c))).to(dtype)
    assert distance(u, u, c).diagonal().abs().max() < 1e-6


def test_distance_is_symmetric_and_keeps_leading_axes() -> None:
    u, w = points(6, 5, 0, c=1, radius=20).view(2, 3, 5), points(4, 5, 9, c=1, radius=20)
    result = distance(u, w, 1.0)
    assert result.shape == (2, 3, 4)
    torch.testing.assert_close(result[1], distance(w, u[1], 1.0).T)
    assert distance(u[:, :0], w, 1.0).shape == (2, 0, 4)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0, 1e-30, 1e-13, 1e-8, 1e-5, 1e-2, 1, 4.5, 9, 30, 100, 1e3, 1e4])
def test_gradients_are_finite(length: float, dtype: torch.dtype, c: float) -> None:
    ray = directions(8, 20, seed=1)
    leaves = torch.cat([directions(5, 20, seed=2), ray[:2], -ray[2:3], ray[3:4] + 1e-6]) * 4.5
    u = (ray * length).to(dtype).requires_grad_()
    w = torch.cat([leaves, ray[4:5] * length, 0 * ray[:1]]).to(dtype).requires_grad_()  # u itself, and the origin
    result = distance(u, w, c)
    assert result.isfinite().all()
    loss = torch.log_softmax(-result / 0.5, dim=-1)[:, 0].sum()
    for gradient in (*torch.autograd.grad(result.sum(), (u, w), retain_graph=True), *torch.autograd.grad(loss, (u, w))):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0, 1e-30, 1e-8, 1e-6])
def test_gradient_at_the_origin_leads_straight_to_the_other_point(length: float, dtype: torch.dtype, c: float) -> None:
    w = (directions(1, 20, seed=4) * 2 / math.sqrt(c)).to(dtype)
    u = (directions(1, 20, seed=5) * length).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(u, w, c).sum(), u)
    torch.testing.assert_close(gradient, -2 * w / w.norm(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [0.1, 3.0, 25.0, 40.0, 500.0])
def test_gradient_equals_finite_differences(radius: float, c: float) -> None:
    u = points(3, 4, 11, c=c, radius=radius) + directions(3, 4, seed=1) * 0.05 / math.sqrt(c)
    w = points(5, 4, 13, c=c, radius=radius) + directions(5, 4, seed=2) * 0.05 / math.sqrt(c)
    assert torch.autograd.gradcheck(
        lambda u, w: distance(u, w, c), (u.requires_grad_(), w.requires_grad_()), eps=1e-6, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_computed_in_float32(dtype: torch.dtype) -> None:
    u, w = points(6, 30, 0, c=1, radius=9).to(dtype), points(4, 30, 5, c=1, radius=9).float()
    result = distance(u, w, 1.0)
    assert result.dtype == torch.float32
    assert torch.equal(result, distance(u.float(), w, 1.0))
    assert torch.equal(distance(u, w.to(dtype), 1.0), distance(u.float(), w.to(dtype).float(), 1.0))


# --- the constructed tree


@pytest.mark.parametrize("dim", [300, 20, 10])
def test_ucf101_is_embedded_in_the_order_of_the_tree(dim: int) -> None:
    fitted = fit_embeddings(UCF101, dim=dim)
    assert fitted.shape == (126, dim)
    assert fitted.dtype == torch.float64
    figures = evaluate_embedding(fitted, UCF101, c=1.0)
    assert figures["mAP"] == 1
    assert figures["mean_distortion"] < 0.02
    assert figures["worst_distortion"] < 1.2
    apart, hops = distance(fitted[:101], fitted[:101], 1.0), UCF101.hops()
    for leaf in range(101):
        bands = [apart[leaf, hops[leaf] == k] for k in (2, 4, 6) if (hops[leaf] == k).any()]
        assert all(near.max() < far.min() for near, far in itertools.pairwise(bands))


def test_longer_edges_distort_less() -> None:
    figures = evaluate_embedding(fit_embeddings(UCF101, edge=6.0), UCF101, c=1.0)
    assert figures["worst_distortion"] < 1.1
    assert figures["mean_distortion"] < 0.01


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dim", [300, 10, 2])
@pytest.mark.parametrize("edge", [0.5, 3.0])
def test_every_node_is_an_edge_away_from_its_parent(c: float, dim: int, edge: float) -> None:
    fitted = torch.cat([fit_embeddings(UCF101, dim=dim, c=c, edge=edge), torch.zeros(1, dim, dtype=torch.float64)])
    parent = torch.tensor([(*UCF101.path_ids(node), -1)[1] for node in range(126)])
    apart = distance(fitted[:126, None], fitted[parent, None], c).flatten()
    torch.testing.assert_close(apart, torch.full_like(apart, edge), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_children_and_parent_are_as_far_apart_as_directions_can_be(n: int) -> None:
    """The law of cosines, with cos = -1/n between any two of a node's n children and its parent."""
    rows = [[f"{parent}{k}", str(parent)] for parent in range(2) for k in range(n)]
    hierarchy = Hierarchy.from_rows(rows)
    for dim in (n + 1, 40):  # too small for an axis for each family, and not
        fitted = torch.cat([fit_embeddings(hierarchy, dim=dim, edge=2.0), torch.zeros(1, dim, dtype=torch.float64)])
        family = fitted[[*range(n), -1]]  # the parent's parent is the root
        expected = math.acosh(math.cosh(2) ** 2 + math.sinh(2) ** 2 / n)
        apart = distance(family, family, 1.0)[~torch.eye(n + 1, dtype=torch.bool)]
        torch.testing.assert_close(apart, torch.full_like(apart, expected))


def test_a_family_too_large_for_the_space_is_spread() -> None:
    hierarchy = Hierarchy.from_rows([[str(k)] for k in range(12)])
    fitted = fit_embeddings(hierarchy, dim=3)
    unit = fitted / fitted.norm(dim=-1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-1).max()
    assert math.degrees(math.acos(nearest)) > 60  # the icosahedron's 63.4 is the best there is


def test_seed_decides_where_space_is_short() -> None:
    one, same, other = (fit_embeddings(UCF101, dim=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("dim", [2, 3, 8])
@pytest.mark.parametrize(
    "rows",
    [
        [["a"]],
        [["a"], ["b"]],
        [["a"], ["b"], ["c"], ["d"], ["e"]],
        [["a", "b", "c", "d"]],
        [["a", "x", "X"], ["b", "y", "Y"]],
        [["a", "x", "X"], ["b", "x", "X"], ["c", "z", "X"]],
    ],
)
def test_any_tree_can_be_embedded(rows: list[list[str]], dim: int) -> None:
    hierarchy = Hierarchy.from_rows(rows)
    fitted = fit_embeddings(hierarchy, dim=dim)
    figures = evaluate_embedding(fitted, hierarchy, c=1.0)
    assert figures["mAP"] == 1
    assert figures["worst_distortion"] < 1.3
    scores = ClassEmbeddings(fitted, hierarchy.n_leaves)(fitted[: hierarchy.n_leaves])
    assert (scores.softmax(-1).diagonal() >= 0.99).all()


def test_a_chain_is_a_straight_line() -> None:
    hierarchy = Hierarchy.from_rows([["a", "b", "c", "d"]])
    figures = evaluate_embedding(fit_embeddings(hierarchy, dim=5), hierarchy, c=1.0)
    assert figures["worst_distortion"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "dim >= 2"),
        ({"method": "losses", "epochs": -1}, "epochs >= 0"),
        ({"method": "guess"}, "constructive, losses, both"),
        ({"c": 0.0}, "c > 0"),
        ({"c": math.nan}, "c > 0"),
        ({"c": math.inf}, "--c inf"),
        ({"c": 1e-320}, "--c 9.99989e-321: .* from 1e-12"),
        ({"edge": 1e-9}, "--edge 1e-09: .* use 1e-06 or more"),
        ({"edge": math.inf}, "--edge 10 at most"),
        ({"dim": 10**8}, "--dim 100000000 .*101 GB; 101 dimensions are enough"),
        ({"edge": -1.0}, "edge > 0"),
        ({"edge": 10.1}, "--edge 10 at most"),
        ({"edge": 5.1, "c": 4.0}, "--edge 5 at most"),
    ],
)
def test_impossible_embeddings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_embeddings(UCF101, **options)


# --- scores


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine"])
@pytest.mark.parametrize("dim", [300, 10])
@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_a_clip_on_its_leaf_is_certain(score: str, dim: int, c: float) -> None:
    fitted = fit_embeddings(UCF101, dim=dim, c=c)
    embeddings = ClassEmbeddings(fitted, 101, c=c, score=score)
    scores = embeddings(fitted[:101].float())
    assert scores.shape == (101, 101)
    assert scores.dtype == torch.float32
    assert (scores <= 0).all()
    assert scores.softmax(-1).diagonal().min() >= 0.99


def test_scores_are_distances_over_the_temperature() -> None:
    fitted = fit_embeddings(SMALL, dim=6, c=0.5)
    v = points(7, 6, 3, c=0.5, radius=5)
    apart = distance(fitted[:5], fitted[:5], 0.5).fill_diagonal_(math.inf).min()
    embeddings = ClassEmbeddings(fitted, 5, c=0.5)
    temperature = float(apart) / math.log(500)
    assert float(embeddings.temperature) == pytest.approx(temperature)
    torch.testing.assert_close(embeddings(v), -distance(v, fitted[:5], 0.5) / temperature, rtol=1e-5, atol=0)
    given = ClassEmbeddings(fitted, 5, c=0.5, temperature=0.25)
    torch.testing.assert_close(given(v), -distance(v, fitted[:5], 0.5) * 4, rtol=1e-5, atol=0)
    assert {name: (tuple(value.shape), value.dtype) for name, value in given.state_dict().items()} == {
        "points": ((11, 6), torch.float32),
        "temperature": ((), torch.float32),
    }
    assert not list(given.parameters())


def test_euclidean_and_cosine_scores() -> None:
    fitted, v = fit_embeddings(SMALL, dim=6), points(7, 6, 3, c=1, radius=5)
    euclidean = ClassEmbeddings(fitted, 5, score="euclidean", temperature=1.0)(v)
    torch.testing.assert_close(euclidean, -2 * (v[:, None] - fitted[:5]).norm(dim=-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(euclidean, -distance(v, fitted[:5], 1e-8), rtol=1e-5, atol=1e-6)  # its limit
    cosine = ClassEmbeddings(fitted, 5, score="cosine", temperature=1.0)(v)
    expected = torch.nn.functional.cosine_similarity(v[:, None], fitted[:5], dim=-1) - 1
    torch.testing.assert_close(cosine, expected, rtol=1e-5, atol=1e-6)


def test_one_hot_leaves_make_a_linear_head() -> None:
    one_hot = torch.eye(5, dtype=torch.float64)
    v = points(7, 5, 3, c=1, radius=5).float()
    embeddings = ClassEmbeddings(one_hot, 5, score="linear", temperature=1.0)
    torch.testing.assert_close(embeddings(v), v)
    certain = ClassEmbeddings(3 * one_hot, 5, score="linear")
    assert certain(certain.points).softmax(-1).diagonal().min() >= 0.99
    certain.check(SMALL.names)
    for temperature in (None, 1.0):  # longer is always more
        longer = ClassEmbeddings(torch.stack([one_hot[0], 2 * one_hot[0]]), 2, score="linear", temperature=temperature)
        with pytest.raises(ValueError, match="classes a and b cannot be told apart .* linear .* --method one_hot"):
            longer.check(SMALL.names)


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine", "linear"])
def test_a_learnt_temperature_starts_where_the_other_stays(score: str) -> None:
    fitted, v = 3 * torch.eye(5, 6), points(7, 6, 3, c=1, radius=5).float()
    plain, learnt = (ClassEmbeddings(fitted, 5, score=score, learn_temperature=learn) for learn in (False, True))
    assert torch.equal(plain(v), learnt(v))
    assert [name for name, _ in learnt.named_parameters()] == ["log_factor"]
    optimizer = torch.optim.SGD(learnt.parameters(), lr=50.0)
    for _ in range(20):  # towards certainty, in steps that would take T itself far below zero
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(learnt(learnt.points[:5]), torch.arange(5)).backward()
        optimizer.step()
        assert 0 < learnt.T.item() <= plain.T.item()
    again = ClassEmbeddings(fitted, 5, score=score, learn_temperature=True)
    again.load_state_dict(learnt.state_dict())
    assert torch.equal(again(v), learnt(v)) and not torch.equal(again(v), plain(v))


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine", "linear"])
@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(2))
def test_scores_have_finite_gradients_for_any_feature_under_autocast(score: str, c: float, seed: int) -> None:
    fitted = torch.eye(5, 6) if score == "linear" else fit_embeddings(SMALL, dim=6, c=c)
    embeddings = ClassEmbeddings(fitted, 5, c=c, score=score, learn_temperature=True)
    lengths = torch.logspace(-8, 4, 25)[:, None]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        v = (directions(25, 6, seed) * lengths).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = embeddings(v)
        assert scores.isfinite().all() and scores.dtype == (dtype if dtype == torch.float64 else torch.float32)
        gradients = torch.autograd.grad(scores.log_softmax(-1)[:, seed].sum(), [v, embeddings.log_factor])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_leaves_that_float32_moves_are_told() -> None:
    apart = torch.tensor([[1.0, 0.0], [1.0, 1.2e-7]], dtype=torch.float64) * 8  # float32 knows 1 + 1.2e-7 only roughly
    turned = apart @ torch.linalg.qr(directions(2, 2, seed=0)).Q
    with pytest.warns(UserWarning, match="classes [ab] and [ab] lie so far out that float32"):
        ClassEmbeddings(turned, 2).check(SMALL.names)


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine"])
def test_autocast_changes_nothing(score: str) -> None:
    embeddings = ClassEmbeddings(fit_embeddings(UCF101, dim=20), 101, score=score)
    v = points(9, 20, 1, c=1, radius=9).float().requires_grad_()
    plain = embeddings(v)
    (expected,) = torch.autograd.grad(plain[:, 3].sum(), v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = embeddings(v)
        from_half = embeddings(v.bfloat16())
    (gradient,) = torch.autograd.grad(cast[:, 3].sum(), v)
    assert torch.equal(cast, plain)
    assert torch.equal(gradient, expected)
    assert torch.equal(from_half, embeddings(v.bfloat16().float()))
    assert embeddings(v.double()).dtype == torch.float64


@pytest.mark.parametrize("score", ["hyperbolic", "euclidean", "cosine"])
def test_scores_have_finite_gradients_at_the_origin_and_on_a_leaf(score: str) -> None:
    embeddings = ClassEmbeddings(fit_embeddings(UCF101, dim=20), 101, score=score)
    v = torch.stack([torch.zeros(20), embeddings.points[5], embeddings.points[101]]).requires_grad_()
    torch.log_softmax(embeddings(v), dim=-1)[:, 5].sum().backward()
    assert v.grad.isfinite().all()


def test_learning_from_the_origin_reaches_the_leaf() -> None:
    embeddings = ClassEmbeddings(fit_embeddings(UCF101, dim=20), 101)
    v = torch.zeros(101, 20, requires_grad=True)
    optimizer = torch.optim.Adam([v], lr=0.03)
    for _ in range(70):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(embeddings(v), torch.arange(101), reduction="sum").backward()
        optimizer.step()
    assert (embeddings(v).argmax(-1) == torch.arange(101)).all()


def test_embeddings_that_cannot_score_are_refused() -> None:
    fitted = fit_embeddings(SMALL, dim=6)
    twice = fitted.clone()
    for factor in (1, 1 + 1e-12):  # the same to float32
        twice[3] = twice[1] * factor
        with pytest.raises(ValueError, match="classes b and d cannot be told apart .* shorter --edge"):
            ClassEmbeddings(twice, 5).check(SMALL.names)
    for options in ({"score": "dot"}, {"c": 0.0}, {"c": math.inf}, {"temperature": 0.0}, {"temperature": math.inf}):
        with pytest.raises(ValueError, match=r"hyperbolic, euclidean, cosine, linear|positive"):
            ClassEmbeddings(fitted, 5, **options)
    only = ClassEmbeddings(fitted[:1], 1)
    only.check(["a"])
    assert float(only.temperature) == 1


# --- files


def published(path: Path, objects: list[str], embeddings: Tensor, **more: object) -> Path:
    torch.save({"objects": objects, "embeddings": embeddings, **more}, path)
    return path


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("hierarchy", [UCF101, SMALL, Hierarchy.from_rows([["Swing", "Swing"], ["b", "Swing"]])])
def test_what_was_saved_is_loaded(tmp_path: Path, hierarchy: Hierarchy, c: float) -> None:
    fitted = fit_embeddings(hierarchy, dim=12, c=c)
    save_embeddings(tmp_path / "new" / "emb.pth", fitted, hierarchy, c=c)
    loaded, loaded_c = load_embeddings(tmp_path / "new" / "emb.pth", hierarchy)
    assert loaded_c == c
    torch.testing.assert_close(loaded, fitted, rtol=1e-9, atol=1e-12)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["emb.pth"]


def test_the_file_is_the_published_form_in_the_ball(tmp_path: Path) -> None:
    fitted = fit_embeddings(SMALL, dim=6, c=0.5)
    save_embeddings(tmp_path / "emb.pth", fitted, SMALL, c=0.5, edge=3.0)
    content = torch.load(tmp_path / "emb.pth", weights_only=True)
    assert content["objects"] == ["a", "b", "c", "d", "e", "P", "Q", "Other / Y", "Other / X", "X", "Y"]
    assert content["embeddings"].dtype == torch.float64
    torch.testing.assert_close(content["embeddings"], geoopt.PoincareBall(c=0.5).expmap0(fitted).double())
    assert (content["c"], content["edge"], content["rows"]) == (0.5, 3.0, SMALL.rows)


PUBLISHED = {  # names of the published UCF-101 embedding that are not the tree's
    "BaseballPitch": "Basketball Pitch",
    "Basketball": "Basketball Shooting",
    "Billiards": "Billiards Shot",
    "Mixing": "Mixing Batter",
    "SalsaSpin": "Salsa Spins",
    "WalkingWithDog": "Walking with a dog",
    "Percussion": "Precussion",
    "Gymnastics": "Gymnatics",
    "Two persons": "Two persons interaction",
    **{name: f"{name} sports" for name in ("Air", "Ice or snow", "Water", "Target", "Strength", "Racket", "Ball")},
}


def published_ucf101(path: Path, *, root: bool, spaced: bool) -> Tensor:
    """A file of the published names and shapes: (126, 300), every leaf at norm .996 of the ball, in another order.

    Returns the tangent vectors (126, 300) that the tree's nodes must get.
    """
    norm = torch.cat([torch.full((101, 1), 0.996), torch.full((20, 1), 0.9), torch.full((5, 1), 0.5)]).double()
    in_ball = directions(126, 300, seed=5) * norm
    order = torch.randperm(126, generator=torch.Generator().manual_seed(0))
    objects = [PUBLISHED.get(UCF101.names[node], UCF101.names[node]) for node in order]
    if spaced:  # "Apply Eye Makeup"
        objects = [re.sub("(?<=[a-z])(?=[A-Z])", " ", name) for name in objects]
    rows = in_ball[order]
    if root:
        objects, rows = [*objects, "Root"], torch.cat([rows, torch.zeros(1, 300, dtype=torch.float64)])
    published(path, objects, rows)
    return torch.atanh(norm) * in_ball / norm


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("spaced", [False, True])
def test_the_published_file_is_read_by_name(tmp_path: Path, root: bool, spaced: bool) -> None:
    expected = published_ucf101(tmp_path / "emb.pth", root=root, spaced=spaced)
    loaded, c = load_embeddings(tmp_path / "emb.pth", UCF101)
    assert c == 1
    torch.testing.assert_close(loaded, expected)


def test_the_published_file_is_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    published_ucf101(tmp_path / "emb.pth", root=True, spaced=False)
    run(monkeypatch, ROOT / "UCF-101_hierarchy.csv", tmp_path / "emb.pth", "--measure")
    assert "126 nodes in 300 dimensions, c = 1\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["emb.pth"]


def test_unknown_classes_are_an_error_and_unknown_ancestors_a_warning(tmp_path: Path) -> None:
    fitted = fit_embeddings(SMALL, dim=6)
    in_ball = geoopt.PoincareBall().expmap0(fitted)
    objects = [SMALL.full_name(node) for node in range(len(SMALL))]
    with pytest.raises(ValueError, match=r"emb.pth: no embedding for 2 of 5 classes \(b, d\)"):
        load_embeddings(published(tmp_path / "emb.pth", ["a", "?", "c", "!", *objects[4:]], in_ball), SMALL)
    objects[5] = "Something else"
    path = published(tmp_path / "emb.pth", objects, in_ball)
    with pytest.warns(UserWarning, match=r"no embedding for 1 inner nodes \(P\)"):
        loaded, _ = load_embeddings(path, SMALL)
    torch.testing.assert_close(loaded[5], fitted[:2].mean(0))
    torch.testing.assert_close(torch.cat([loaded[:5], loaded[6:]]), torch.cat([fitted[:5], fitted[6:]]))


@pytest.mark.parametrize("c", [1.0, 0.25])
def test_points_beyond_the_ball_are_pulled_back_aloud(tmp_path: Path, c: float) -> None:
    ray = directions(len(SMALL), 6, seed=0)
    norm = torch.full((len(SMALL), 1), 0.9, dtype=torch.float64)
    norm[:3, 0] = torch.tensor([1.0 + 1e-7, 3.0, 1 - 1e-7])
    objects = [SMALL.full_name(node) for node in range(len(SMALL))]
    path = published(tmp_path / "emb.pth", objects, ray * norm / math.sqrt(c), c=c)
    with pytest.warns(UserWarning, match="3 of 11 points lie at or beyond"):
        loaded, _ = load_embeddings(path, SMALL)
    radius = 2 * math.sqrt(c) * loaded.norm(dim=-1)
    torch.testing.assert_close(radius[:3], torch.full((3,), 2 * math.atanh(1 - 1e-5), dtype=torch.float64))
    torch.testing.assert_close(radius[3:], torch.full((8,), 2 * math.atanh(0.9), dtype=torch.float64))
    torch.testing.assert_close(loaded / loaded.norm(dim=-1, keepdim=True), ray)


def test_points_that_the_ball_cannot_hold_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="radius 40 .*shorter --edge"):
        save_embeddings(tmp_path / "emb.pth", directions(len(SMALL), 6, seed=0) * 20, SMALL, c=1.0)
    assert not list(tmp_path.iterdir())


def test_what_is_no_embedding_file(tmp_path: Path) -> None:
    path = tmp_path / "emb.pth"
    with pytest.raises(FileNotFoundError, match="emb.pth: there is no such"):
        load_embeddings(path, SMALL)
    path.write_text("a,b,c\n")
    with pytest.raises(ValueError, match="emb.pth: not an embedding file"):
        load_embeddings(path, SMALL)
    unsafe = {"objects": ["a"], "embeddings": torch.zeros(1, 3), "code": Path("runs/when/loaded")}
    uncounted = {"objects": 5, "embeddings": torch.zeros(5, 3)}
    for content in ({"state_dict": {}}, torch.zeros(3), {"objects": ["a"], "embeddings": "b"}, unsafe, uncounted):
        torch.save(content, path)
        with pytest.raises(ValueError, match="emb.pth: not an embedding file"):
            load_embeddings(path, SMALL)
    with pytest.raises(ValueError, match=r"emb.pth: 1 names, but embeddings of shape \(2, 3\)"):
        load_embeddings(published(path, ["a"], torch.zeros(2, 3)), SMALL)
    with pytest.raises(ValueError, match=r"emb.pth: 1 names, but embeddings of shape \(1, 0\)"):
        load_embeddings(published(path, ["a"], torch.zeros(1, 0)), SMALL)
    with pytest.raises(ValueError, match="emb.pth: .* finite"):
        load_embeddings(published(path, ["a"], torch.full((1, 3), math.nan)), SMALL)
    for c in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"emb.pth: .* its c, {c:g}, above 0 and finite"):
            load_embeddings(published(path, ["a"], torch.zeros(1, 3), c=c), SMALL)


def test_embeddings_are_looked_for_in_order(tmp_path: Path) -> None:
    fitted = {}
    for seed, name in enumerate(["given", "shipped"]):
        fitted[name] = fit_embeddings(SMALL, dim=3, seed=seed)
        save_embeddings(tmp_path / name, fitted[name], SMALL, c=1.0, edge=3.0)
    places = {"shipped": tmp_path / "shipped", "cache": tmp_path / "results" / "cache"}
    wanted = {"dim": 3, "c": 1.0, "edge": 3.0}

    def found(hierarchy: Hierarchy = SMALL, emb_file: Path | None = None, **options: float) -> Tensor:
        return find_embeddings(hierarchy, emb_file=emb_file, **places, **wanted | options)[0]

    torch.testing.assert_close(found(emb_file=tmp_path / "given", dim=7), fitted["given"])
    torch.testing.assert_close(found(), fitted["shipped"])
    assert not places["cache"].exists()
    reordered = Hierarchy.from_rows(SMALL.rows[::-1])  # the same tree
    torch.testing.assert_close(found(reordered)[:5], fitted["shipped"][:5].flip(0))
    assert not places["cache"].exists()

    for options in ({"dim": 5}, {"c": 0.5}, {"edge": 2.0}):
        torch.testing.assert_close(found(**options), fit_embeddings(SMALL, **wanted | options))
    moved = Hierarchy.from_rows([["a", "Q", "X"], ["b", "P", "X"], *SMALL.rows[2:]])  # the same names, another tree
    torch.testing.assert_close(found(moved), fit_embeddings(moved, **wanted))

    kept = places["cache"].stat().st_mtime_ns
    torch.testing.assert_close(found(moved), fit_embeddings(moved, **wanted))
    assert places["cache"].stat().st_mtime_ns == kept  # read, not written again
    places["cache"].write_text("half a file")
    torch.testing.assert_close(found(moved), fit_embeddings(moved, **wanted))
    torch.testing.assert_close(load_embeddings(places["cache"], moved)[0], fit_embeddings(moved, **wanted))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        found(emb_file=tmp_path / "nowhere")


def test_the_shipped_file_is_what_the_script_writes() -> None:
    shipped = ROOT / "hierarchy" / "UCF-101_embeddings.pth"
    assert shipped.stat().st_size < 1e6
    found, c = find_embeddings(UCF101, emb_file=None, shipped=shipped, cache=None, dim=300, c=1.0, edge=3.0)
    assert c == 1
    torch.testing.assert_close(found, load_embeddings(shipped, UCF101)[0], rtol=0, atol=0)
    torch.testing.assert_close(found, fit_embeddings(UCF101), rtol=1e-9, atol=1e-9)
    figures = table(evaluate_embedding(found, UCF101, c=c))
    assert shipped.with_suffix(".md").read_text().endswith(f"\n\n{figures}\n")


# --- the script


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fit_embeddings", *map(str, arguments)])
    script.main()


def test_script_writes_and_measures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "util_scripts.fit_embeddings", "UCF-101_hierarchy.csv", str(tmp_path / "out.pth")]
    done = subprocess.run([*command, "--dim", "120"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "126 nodes in 120 dimensions" in done.stdout
    assert "| 1 |" in re.sub(" +", " ", next(line for line in done.stdout.splitlines() if "mAP" in line))
    assert done.stdout == (tmp_path / "out.md").read_text()
    loaded, c = load_embeddings(tmp_path / "out.pth", UCF101)
    assert loaded.shape == (126, 120)
    assert evaluate_embedding(loaded, UCF101) == evaluate_embedding(loaded, UCF101, c=c)


def test_script_takes_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--dim", 8, "--c", 0.5, "--edge", 4, "--seed", 3]
    run(monkeypatch, ROOT / "UCF-101_hierarchy.csv", tmp_path / "out.pth", *options)
    loaded, c = load_embeddings(tmp_path / "out.pth", UCF101)
    assert c == 0.5
    torch.testing.assert_close(loaded, fit_embeddings(UCF101, dim=8, c=0.5, edge=4.0, seed=3), rtol=1e-6, atol=1e-6)


def test_script_reports_bad_input_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("a,P,Root\nb,Root\n")
    tree = ROOT / "UCF-101_hierarchy.csv"
    for arguments, message in [
        ((tmp_path / "none.csv",), "none.csv: there is no such class tree"),
        ((tmp_path / "bad.csv",), "bad.csv:2: 1 levels, but 2"),
        ((tree, "--edge", 50), "use --edge 10 at most"),
        ((tree, "--dim", 1), "dim >= 2"),
        ((tree, "--dim", 10**8), "--dim 100000000"),
        ((tree, "--c", "inf"), "--c inf"),
        ((tree, "--c", "1e-320"), "--c 9.99989e-321"),
        ((tree, "--method", "one_hot", "--dim", 300), "--dim 300: one-hot classes have a dimension each, here 101"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, arguments[0], tmp_path / "out.pth", *arguments[1:])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()


def test_script_writes_over_nothing_but_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree.csv"
    tree.write_text("".join(",".join([*row, "Root"]) + "\n" for row in SMALL.rows))
    (tmp_path / "notes.md").write_text("What I know of it.\n")
    (tmp_path / "folder.png").mkdir()
    torch.save({"model": {}}, tmp_path / "save_200.pth")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for out, more, message in [
        ("tree.csv", (), "tree.csv: is the class tree itself"),
        ("out.md", (), "out.md: .md is for the table"),
        ("notes.pth", (), "notes.md: is there already"),
        ("save_200.pth", (), "save_200.pth: is there already and no embedding file"),
        ("folder.png", (), "folder.png: is a folder"),
        ("folder.png", ("--measure",), "folder.png: is a folder"),
        ("", (), f"{tmp_path}: is a folder"),
        ("out.pth", ("--plot", tmp_path / "tree.jpg"), "tree.jpg: the picture is a PNG"),
        ("out.pth", ("--plot", tmp_path / "folder.png"), "folder.png: is a folder"),
        ("out.png", ("--plot", tmp_path / "out.png"), "out.png: is another file of this call"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, tree, tmp_path / out, *more)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    for dim in (6, 7):  # its own table it replaces
        run(monkeypatch, tree, tmp_path / "out.pth", "--dim", dim)
    assert (tmp_path / "out.md").read_text().startswith("out.pth: 11 nodes in 7 dimensions")


@pytest.mark.parametrize("hierarchy", [UCF101, SMALL, Hierarchy.from_rows([["a", "b"]])])
def test_script_writes_one_hot_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hierarchy: Hierarchy
) -> None:
    (tmp_path / "tree.csv").write_text("".join(",".join([*row, "Root"]) + "\n" for row in hierarchy.rows))
    run(monkeypatch, tmp_path / "tree.csv", tmp_path / "out.pth", "--method", "one_hot")
    loaded, _ = load_embeddings(tmp_path / "out.pth", hierarchy)
    torch.testing.assert_close(loaded, one_hot(hierarchy))
    ClassEmbeddings(loaded, hierarchy.n_leaves, score="linear").check(hierarchy.names)
    assert "one_hot\n" in (tmp_path / "out.md").read_text()


def test_script_draws_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree.csv").write_text("".join(",".join([*row, "Root"]) + "\n" for row in SMALL.rows))
    options = ["--dim", 6, "--method", "both", "--epochs", 2, "--plot", tmp_path / "plots" / "tree.png"]
    run(monkeypatch, tmp_path / "tree.csv", tmp_path / "out.pth", *options)
    assert (tmp_path / "plots" / "tree.png").read_bytes()[:4] == b"\x89PNG"
    assert "edge = 3, both" in (tmp_path / "out.md").read_text()
