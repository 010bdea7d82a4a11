"""What is measured of decisions, against zeroing prototypes one by one."""

import itertools
import math
from functools import partial

import pytest
import torch
from tiny import levels_hipe, random_tree, small_hipe
from torch import Tensor

from evaluation.decisions import decision_measures
from hierarchy import Hierarchy, fit_embeddings
from models.contributions import evidence_shares, most_telling
from models.hipe import HIPE
from models.scores import HyperbolicTreeScore, TreeScore


class Record:
    """Shares that name the prototype and the distance."""

    def closer_than(self, prototype: int, distance: float) -> tuple[float, int] | None:
        return prototype + distance / 10, 30

    def typical(self, prototype: int, distance: float) -> tuple[float, int] | None:
        return None


def made(name: str, tree: Hierarchy, per_node: int | list[int]) -> HIPE:
    if name == "hyperbolic":
        model = small_hipe(tree, per_node=per_node)
    else:
        score = TreeScore if name == "tree" else partial(HyperbolicTreeScore, points=fit_embeddings(tree, dim=8))
        model = levels_hipe(tree, per_node=per_node, score=score)
        torch.nn.init.uniform_(model.score.omega, -1, 3)
    return model.eval()


def log_probs(model: HIPE, activations: Tensor, without: list[int]) -> Tensor:
    some = activations.double().clone()
    some[without] = 0
    return model.score(some[None])[0][0]


@torch.no_grad()
@pytest.mark.parametrize("name", ["tree", "tree_hyperbolic", "hyperbolic"])
@pytest.mark.parametrize(("n_levels", "n_leaves"), [(1, 4), (3, 7), (2, 1)])
def test_measures_equal_zeroing_by_hand(name, n_levels, n_leaves):
    tree = random_tree(2, n_levels, n_leaves)
    counts = [1 + node % 5 for node in range(len(tree))]
    model = made(name, tree, counts)
    layer, generator = model.prototype_layer, torch.Generator().manual_seed(0)
    for _ in range(3):
        distances = 2 * torch.rand(len(layer.node_of), generator=generator)
        activations = layer.similarity(distances)
        leaf, truth = (int(torch.randint(n_leaves, (), generator=generator)) for _ in range(2))
        path, true_path = tree.path_ids(leaf), tree.path_ids(truth)
        found = decision_measures(model, activations, distances, path, truth=true_path, record=Record())
        assert len(found) == n_levels
        for level, (node, measures) in enumerate(zip(path, found, strict=True)):
            whole, own = log_probs(model, activations, [])[node], (layer.node_of == node).nonzero()[:, 0].tolist()
            gains = {p: float(whole - log_probs(model, activations, [p])[node]) for p in own}
            loud = [0.0] * len(distances) if name == "hyperbolic" else (model.score.weights * activations).tolist()
            order = sorted(own, key=lambda p: (-round(gains[p], 14), -loud[p]))
            first, three = order[0], order[:3]
            assert measures["silenced"] == pytest.approx(gains[first], abs=1e-9)
            without = log_probs(model, activations, three)
            assert measures["silenced_three"] == pytest.approx(float(whole - without[node]), abs=1e-9)
            nodes = list(tree.levels[level])
            most_probable = nodes[int(log_probs(model, activations, [])[nodes].argmax())] == node
            for some, key in (([first], "flips"), (three, "flips_three")):
                predicted = nodes[int(log_probs(model, activations, some)[nodes].argmax())]
                assert measures.get(key) == (float(predicted != node) if most_probable else None)
            assert measures["similarity"] == pytest.approx(float(activations[first]) / layer.highest)
            assert measures["closer_than"] == pytest.approx(first + float(distances[first]) / 10)
            assert "typical" not in measures
            shares = evidence_shares(model.score, activations, node)
            assert {name: measures[f"{name}_evidence"] for name in shares} == shares
            off = abs(shares["descendants"] + shares["elsewhere"])
            if abs(shares["total"]) > 1e-6:
                assert measures["off_path"] == pytest.approx(off / abs(shares["total"]))
            else:  # an only child of the root is certain
                assert "off_path" not in measures
            nearest = min((p for p in range(len(distances)) if int(layer.node_of[p]) in nodes),
                          key=lambda p: float(distances[p]))
            assert measures["nearest_own"] == float(int(layer.node_of[nearest]) == true_path[level])
            siblings = [n for n in nodes if level == n_levels - 1
                        or {tree.path_ids(node)[1]} <= set(tree.path_ids(n)[1:2])]
            if len(siblings) == 1:
                assert "own_needed" not in measures and "silenced_needed" not in measures
            else:
                assert measures["own_needed"] == pytest.approx(shares["own"] / math.log(len(siblings)))
                assert measures["silenced_needed"] == pytest.approx(gains[first] / math.log(len(siblings)), abs=1e-9)


@torch.no_grad()
def test_without_truth_and_record_there_are_no_such_measures():
    tree = random_tree(2, 2, 5)
    model = made("tree", tree, 2)
    distances = torch.rand(len(model.prototype_layer.node_of))
    for measures in decision_measures(model, model.prototype_layer.similarity(distances), distances, tree.path_ids(1)):
        assert not {"nearest_own", "closer_than", "typical"} & set(measures)
        assert all(math.isfinite(value) for value in measures.values())


@torch.no_grad()
def test_a_known_decision():
    """Two classes, all weights 1: evidence 1 against 0, and .4 against 0 without the first prototype."""
    tree = Hierarchy.from_rows([["a"], ["b"]])
    model = levels_hipe(tree, per_node=2, score=partial(TreeScore, start=1.0)).eval()
    activations = torch.tensor([0.4, 1.0, 0, 0])
    (measures,) = decision_measures(model, activations, -0.5 * activations.log(), [0], truth=[0])

    def p(e: float) -> float:
        return e - math.log(math.exp(e) + 1)

    assert measures["silenced"] == pytest.approx(p(1) - p(0.4), abs=1e-6)
    assert measures["silenced_three"] == pytest.approx(p(1) - p(0), abs=1e-6)
    assert (measures["flips"], measures["similarity"], measures["nearest_own"]) == (0, 1, 1)
    for name in ("own_evidence", "total_evidence"):
        assert measures[name] == pytest.approx(p(1) - p(0), abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("first", "second", "flips"),
                         [(1.0, 0.8, (0, 1)), (1.0, 0.2, (1, 1)), (0.4, 0.3, (None, None))])
def test_only_the_most_probable_node_can_be_flipped(first, second, flips):
    """Two prototypes of class a against one at .5 of class b, all weights 1."""
    tree = Hierarchy.from_rows([["a"], ["b"]])
    model = levels_hipe(tree, per_node=[2, 1], score=partial(TreeScore, start=1.0)).eval()
    activations = torch.tensor([first, second, 0.5])
    (measures,) = decision_measures(model, activations, -0.5 * activations.log(), [0])
    assert (measures.get("flips"), measures.get("flips_three")) == flips


def test_prototypes_are_told_by_what_they_add_and_then_by_how_loud_they_are():
    gains, evidence = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 0.5, 3.0, 1.0, 9.0])
    assert most_telling(gains, evidence).tolist() == [1, 4, 2, 0, 3]
    for order in itertools.permutations(range(3)):
        assert most_telling(torch.tensor(order, dtype=torch.float64), torch.zeros(3)).tolist() == \
            sorted(range(3), key=lambda i: -order[i])
