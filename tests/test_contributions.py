"""What a prototype adds to a decision of the tree scores: silenced in turn, and by groups."""

import itertools
import math

import pytest
import torch
from score_contract import slow_silenced
from tiny import random_tree
from torch import Tensor
from tree_scores import (
    BOTH,
    TREES,
    activations_of,
    hyperbolic_score,
    small_score,
    tree_score,
)

from hierarchy import Hierarchy
from models.contributions import credits, evidence_shares
from models.score import GROUPS
from models.scores import TreeScore


@pytest.fixture(params=BOTH)
def make(request):
    """From a case of TREES to a score."""
    return BOTH[request.param]


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


def test_credits_of_siblings_are_what_their_loudest_prototypes_say():
    """log p(n) - log p(m) of two classes under one parent is e_n - e_m, and e the voice of one prototype."""
    tree, score = small_score()
    activations = activations_of(1, score)[0]
    for n, m in itertools.combinations(range(tree.n_leaves), 2):
        if tree.path(n)[1:] != tree.path(m)[1:]:
            continue
        found, start = credits(score, activations, torch.tensor([n, m]))
        voices = score.weights.detach() * activations
        expected = torch.zeros_like(activations)
        for node, sign in ((n, 1), (m, -1)):
            mine = (score.node_of == node).nonzero()[:, 0]
            loudest = mine[voices[mine].argmax()]
            expected[loudest] = sign * voices[loudest]
        torch.testing.assert_close(found[0] - found[1], expected, atol=1e-6, rtol=0)
        assert float(start[0] - start[1]) == pytest.approx(0, abs=1e-12)
        break
    else:
        raise AssertionError("no siblings")


def test_credits_are_the_mean_gradient_on_the_way_there():
    """By a slow sum over many steps of central differences."""
    score = hyperbolic_score(TREES[3])
    activations, nodes = activations_of(2, score)[1], torch.arange(score.n_nodes)[::3]
    found, start = credits(score, activations, nodes)
    steps, slow = 100, torch.zeros_like(found)
    nudges = 1e-5 * torch.eye(len(activations)).double()
    with torch.no_grad():
        for i in range(steps):
            at = (i + 0.5) / steps * activations
            rise = score(at + nudges)[0][:, nodes] - score(at - nudges)[0][:, nodes]  # (P, n)
            slow += activations * rise.T / 2e-5 / steps
        none = score(torch.zeros_like(activations)[None])[0][0, nodes]
    torch.testing.assert_close(found, slow, atol=2e-4, rtol=0)
    torch.testing.assert_close(start, none)
