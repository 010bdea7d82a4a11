"""The losses equal loops, and descending them places a tree."""

import math

import pytest
import torch
from tiny import random_tree

from hierarchy import Hierarchy, distance, evaluate_embedding, fit_embeddings
from hierarchy.hyperbolic import aperture, outward_angle
from hierarchy.learning import (
    CONE_MARGIN,
    N_NEGATIVES,
    REACH,
    _cones,
    _crowding,
    _far_out,
    _from_lorentz,
    _hypernyms,
    _Samples,
    _to_lorentz,
)

TREE = Hierarchy.from_rows([[f"{g}{p}{k}", f"{g}{p}", f"{g}"] for g in "XY" for p in "PQ" for k in range(3)])


def scattered(n: int, dim: int, seed: int) -> torch.Tensor:
    """(n, dim) float64."""
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Fixed(_Samples):
    """Always the same random nodes."""

    def unrelated(self, nodes, *, upwards):
        self.generator.manual_seed(3)
        return super().unrelated(nodes, upwards=upwards)


@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_loops(seed: int) -> None:
    hierarchy = random_tree(seed, 3, 9)
    at, samples = scattered(len(hierarchy), 4, seed), Fixed(hierarchy, torch.Generator())
    up = [set(hierarchy.path_ids(node)) for node in range(len(hierarchy))]

    def apart(a: int, b: int) -> float:
        return float(distance(at[a, None], at[b, None], 1.0))

    pairs = samples.closure
    assert {tuple(pair) for pair in pairs.tolist()} == {(a, n) for n, path in enumerate(up) for a in path - {n}}
    others, terms = samples.unrelated(pairs[:, 1], upwards=True)[0].tolist(), []
    for (ancestor, node), row in zip(pairs.tolist(), others, strict=True):
        against = [math.exp(-apart(node, x)) for x in row if x not in up[node] and node not in up[x]]
        terms.append(-math.log(math.exp(-apart(node, ancestor)) / (math.exp(-apart(node, ancestor)) + sum(against))))
    assert float(_hypernyms(at, pairs, samples)) == pytest.approx(sum(terms) / len(terms))

    pairs = samples.pairs[_cones]
    others, terms = samples.unrelated(pairs[:, 0], upwards=False)[0].tolist(), []

    def outside(a: int, b: int) -> float:
        return float(outward_angle(at[a], at[b], 1.0) - aperture(at[a], 1.0, 0.1))

    for (parent, child), row in zip(pairs.tolist(), others, strict=True):
        pushed = sum(max(0.0, CONE_MARGIN - outside(parent, x)) for x in row if parent not in up[x])
        terms.append(max(0.0, outside(parent, child)) + pushed)
    assert float(_cones(at, pairs, samples)) == pytest.approx(sum(terms) / len(terms))

    leaves = range(hierarchy.n_leaves)
    nearest = [min(apart(a, b) for b in leaves if b != a) for a in leaves]
    margin = sorted(nearest)[5]
    expected = sum(max(0.0, margin - d) for d in nearest) / len(leaves)
    assert float(_crowding(at[: hierarchy.n_leaves], margin)) == pytest.approx(expected)


def test_samples_are_unrelated_nodes() -> None:
    samples = _Samples(TREE, torch.Generator().manual_seed(0))
    nodes = torch.arange(len(TREE))
    up = [set(TREE.path_ids(node)) for node in range(len(TREE))]
    for upwards in (True, False):
        others, counts = samples.unrelated(nodes, upwards=upwards)
        assert others.shape == (len(TREE), N_NEGATIVES)
        for node in range(len(TREE)):
            for other, counted in zip(others[node].tolist(), counts[node].tolist(), strict=True):
                assert counted == (node not in up[other] and not (upwards and other in up[node]))


@pytest.mark.parametrize("radius", [1e-6, 1.0, REACH, 25.0])
def test_the_lorentz_model_and_back(radius: float) -> None:
    u = torch.nn.functional.normalize(scattered(9, 5, 0), dim=-1) * radius / 2
    torch.testing.assert_close(_from_lorentz(_to_lorentz(u)), u, rtol=1e-9, atol=1e-12)


def test_the_reach_is_held_without_clipping() -> None:
    at = torch.tensor([[REACH / 2 - 0.6, 0], [0, REACH / 2]], dtype=torch.float64)
    assert float(_far_out(at[:1])) == 0
    assert float(_far_out(at)) == pytest.approx(1)


@pytest.mark.parametrize("method", ["losses", "both"])
def test_descending_the_losses_places_a_tree(method: str) -> None:
    fitted = fit_embeddings(TREE, dim=5, edge=2.0, method=method, epochs=40, seed=1)
    assert fitted.dtype == torch.float64 and fitted.isfinite().all()
    assert torch.equal(fitted, fit_embeddings(TREE, dim=5, edge=2.0, method=method, epochs=40, seed=1))
    other = fit_embeddings(TREE, dim=5, edge=2.0, method=method, epochs=40, seed=2)
    assert not torch.allclose(fitted, other)
    figures = evaluate_embedding(fitted, TREE, c=1.0)
    start = evaluate_embedding(fit_embeddings(TREE, dim=5, edge=2.0), TREE, c=1.0)
    assert start["entailment_violations"] == 1
    if method == "losses":
        assert figures["entailment_violations"] < 0.5  # what the last stage is for
    else:
        assert figures["entailment_angle"] < 0.8 * start["entailment_angle"]
    assert figures["margin_min"] > 1
    assert figures["mAP"] > 0.6


@pytest.mark.parametrize("rows", [[["a"]], [["a"], ["b"]], [["a", "b", "c"]]])
def test_trees_without_pairs_or_strangers_are_learnt_too(rows: list[list[str]]) -> None:
    for method in ("losses", "both"):
        fitted = fit_embeddings(Hierarchy.from_rows(rows), dim=3, method=method, epochs=4)
        assert fitted.isfinite().all()


def test_a_unit_of_length_changes_nothing() -> None:
    one = fit_embeddings(TREE, dim=5, edge=2.0, c=1.0, method="both", epochs=4)
    two = fit_embeddings(TREE, dim=5, edge=4.0, c=0.25, method="both", epochs=4)
    torch.testing.assert_close(2 * one, two, rtol=1e-6, atol=1e-8)


def test_edges_beyond_the_reach_of_the_losses_are_refused() -> None:
    for c, longest in ((1.0, "5"), (4.0, "2.5")):
        with pytest.raises(ValueError, match=f"--edge {longest} .*--method"):
            fit_embeddings(TREE, edge=5.1, c=c, method="losses")
    assert fit_embeddings(TREE, dim=8, edge=5.0, method="both", epochs=4).isfinite().all()
