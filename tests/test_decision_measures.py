"""What prototypes have to do with a decision, held against loops over prototypes."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import embedded, random_tree

from evaluation.decisions import decision_measures
from models.prototypes import PrototypeLayer
from models.scores import TreeScore, most_telling

N = 3  # prototypes a node


class Spreads:
    """A push record that knows of every second prototype how near videos come to it."""

    def closer_than(self, prototype: int, distance: float) -> tuple[float, int] | None:
        return (1 - distance / 4, 5) if prototype % 2 else None

    def typical(self, prototype: int, distance: float) -> tuple[float, int] | None:
        return distance / 4, 5


def model_of(kind: str, seed: int):
    """A tree, and of a model what is asked for: the prototypes' layer and a score of random weights."""
    tree = random_tree(seed, 3, 7)
    layer = PrototypeLayer([len(level) for level in tree.levels], per_node=N, channels=4, by_level=kind == "tree",
                           scale=0.5 if kind == "tree" else None)
    make = TreeScore if kind == "tree" else embedded(tree, dim=8)
    torch.manual_seed(seed)
    score = make(tree, layer.node_of)
    score.initialise()
    with torch.no_grad():
        for weight in score.last:
            weight += 0.5 * torch.randn_like(weight)
    return tree, SimpleNamespace(prototype_layer=layer, score=score)


def log_prob(score, activations: list[float], node: int) -> float:
    return float(score(torch.tensor([activations], dtype=torch.float64))[0][0, node])


def without(activations: list[float], silent) -> list[float]:
    return [0.0 if p in silent else value for p, value in enumerate(activations)]


def top_of(score, activations: list[float], nodes: range) -> int:
    return max(nodes, key=lambda node: log_prob(score, activations, node))


@pytest.mark.parametrize("kind", ["tree", "hyperbolic"])
@pytest.mark.parametrize("seed", range(4))
def test_every_measure_is_a_loop_over_prototypes(kind, seed):
    tree, model = model_of(kind, seed)
    layer, score = model.prototype_layer, model.score
    distances = 4 * torch.rand(N * len(tree), generator=torch.Generator().manual_seed(seed))
    exact = layer.similarity(distances)
    activations = exact.double().tolist()
    leaf = top_of(score, activations, tree.levels[0])
    path, truth = tree.path_ids(leaf), tree.path_ids((leaf + seed) % tree.n_leaves)
    found = decision_measures(model, exact, distances, path, truth=truth, record=Spreads())
    for level, (node, measures) in enumerate(zip(path, found, strict=True)):
        here = log_prob(score, activations, node)
        own = [p for p in range(len(activations)) if p // N == node]
        loud = {p: activations[p] if score.weights is None else float(score.weights[p]) * activations[p] for p in own}
        gains = {p: here - log_prob(score, without(activations, {p}), node) for p in own}
        order = sorted(own, key=lambda p: (-round(gains[p], 10), -loud[p] if kind == "tree" else p))
        if kind != "tree" and max(map(abs, gains.values())) < 1e-9:
            continue  # certain whatever is silenced: rounding alone orders them
        siblings = sum(tree.path_ids(other)[1:2] == tree.path_ids(node)[1:2] for other in tree.levels[level])
        first, three = {order[0]}, set(order[:3])
        assert measures["silenced"] == pytest.approx(gains[order[0]], abs=1e-6)
        assert measures["silenced_three"] == pytest.approx(here - log_prob(score, without(activations, three), node),
                                                           abs=1e-6)
        for name, silent in (("flips", first), ("flips_three", three)):
            assert measures[name] == (top_of(score, without(activations, silent), tree.levels[level]) != node)
        assert measures["similarity"] == pytest.approx(activations[order[0]] / layer.highest)
        distance = float(distances[order[0]])
        assert measures["typical"] == pytest.approx(distance / 4)
        assert measures.get("closer_than") == (pytest.approx(1 - distance / 4) if order[0] % 2 else None)
        nearest = min((p for p in range(len(activations)) if p // N in tree.levels[level]),
                      key=lambda p: float(distances[p]))
        assert measures["nearest_own"] == (nearest // N == truth[level])
        if siblings > 1:
            assert measures["silenced_needed"] == pytest.approx(gains[order[0]] / math.log(siblings), abs=1e-6)
            assert measures["own_needed"] == pytest.approx(measures["own_evidence"] / math.log(siblings))
        else:
            assert not {"silenced_needed", "own_needed"} & set(measures)
        parts = [measures[f"{name}_evidence"] for name in ("own", "ancestors", "descendants", "elsewhere")]
        nothing = log_prob(score, [0.0] * len(activations), node)
        assert sum(parts) == pytest.approx(measures["total_evidence"]) == pytest.approx(here - nothing, abs=1e-6)
        if abs(sum(parts)) > 1e-6:
            assert measures["off_path"] == pytest.approx(abs(parts[2] + parts[3]) / abs(sum(parts)))
        else:
            assert "off_path" not in measures


def test_a_tree_score_decides_by_a_node_s_own_and_its_siblings_prototypes():
    """No descendant has a say, and what the top three of a lonely node are worth is nothing."""
    for seed in range(6):
        tree, model = model_of("tree", seed)
        distances = 4 * torch.rand(N * len(tree), generator=torch.Generator().manual_seed(seed))
        path = tree.path_ids(seed)
        for measures in decision_measures(model, model.prototype_layer.similarity(distances), distances, path):
            assert measures["descendants_evidence"] == 0 and measures["own_evidence"] >= 0
            assert "nearest_own" not in measures and "closer_than" not in measures
            if "own_needed" not in measures:
                assert measures["own_evidence"] == measures["silenced"] == 0


def test_prototypes_are_told_by_what_they_add_and_then_by_how_loud_they_are():
    gains, evidence = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 0.5, 3.0, 1.0, 9.0])
    assert most_telling(gains, evidence).tolist() == [1, 4, 2, 0, 3]
    for order in itertools.permutations(range(3)):
        assert most_telling(torch.tensor(order, dtype=torch.float64), torch.zeros(3)).tolist() == \
            sorted(range(3), key=lambda i: -order[i])
