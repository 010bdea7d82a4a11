"""The constructed embedding of a tree: distances, directions, and what cannot be embedded."""

import itertools
import math

import pytest
import torch
from embedding_cases import CURVATURES, UCF101

from hierarchy import (
    ClassEmbeddings,
    Hierarchy,
    distance,
    evaluate_embedding,
    fit_embeddings,
)

pytestmark = pytest.mark.filterwarnings("error")


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
        ({"c": 1e-320}, "--c 9.99989e-321"),
        ({"edge": 1e-9}, "--edge 1e-09"),
        ({"edge": math.inf}, "--edge 10"),
        ({"dim": 10**8}, "--dim 100000000 .*101 GB"),
        ({"edge": -1.0}, "edge > 0"),
        ({"edge": 10.1}, "--edge 10"),
        ({"edge": 5.1, "c": 4.0}, "--edge 5"),
    ],
)
def test_impossible_embeddings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_embeddings(UCF101, **options)
