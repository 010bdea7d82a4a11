"""Contributions are what zeroing a prototype does, shares add up, and the predicted node is the leaf's ancestor."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiny import STRIDE, Record, tiny_hipe

from explain.match import match, match_output
from models.contributions import evidence_shares
from models.geometry import upsample

SIZE = (8, 24, 40)


@pytest.fixture
def clip():
    torch.manual_seed(1)
    return torch.randn(3, *SIZE).clamp(min=0)


@torch.no_grad()
def log_probability(model, activations, node):
    """Slow and plain, in float64: log of the sum over the leaves below the node."""
    tangent = model.score.last_layer.weight.double() @ activations.double()
    leaves = model.score.embeddings(tangent[None])[0].softmax(0)
    return leaves[model.membership[node] > 0].sum().log()


def test_contributions_equal_zeroing(clip):
    model, tree = tiny_hipe()
    activations = model(clip[None]).activations[0]
    nodes = torch.arange(len(tree))
    found = model.score.silenced(activations, nodes)
    assert found.shape == (len(tree), len(activations)) and found.dtype == torch.float64
    for j in range(len(activations)):
        without = activations.clone()
        without[j] = 0
        for node in nodes:
            expected = log_probability(model, activations, node) - log_probability(model, without, node)
            assert found[node, j] == pytest.approx(float(expected), abs=1e-12)
    assert found.abs().max() > 0.01


def test_contributions_equal_the_models_own_answer(clip):
    """The same through the score, as the model would be run without the prototype."""
    model, tree = tiny_hipe()
    activations = model(clip[None]).activations
    without = activations.repeat(activations.shape[1], 1).fill_diagonal_(0)
    expected = model.score(activations)[0] - model.score(without)[0]  # (P, K)
    torch.testing.assert_close(model.score.silenced(activations[0], torch.arange(len(tree))).T.float(), expected,
                               atol=2e-5, rtol=0)


def test_chunks_change_nothing(clip, monkeypatch):
    model, tree = tiny_hipe()
    activations, nodes = model(clip[None]).activations[0], torch.tensor([0, 7])
    whole = model.score.silenced(activations, nodes)
    monkeypatch.setattr("models.scores.CHUNK", 5)
    torch.testing.assert_close(model.score.silenced(activations, nodes), whole, atol=1e-14, rtol=0)


@pytest.mark.parametrize("node", [0, 5, 6, 9, 10])
def test_shares_are_owen_values(clip, node):
    """Shapley values of own, ancestors and the rest, which descendants and all others share as one team."""
    model, tree = tiny_hipe()
    activations = model(clip[None]).activations[0]
    owner = model.prototype_layer.node_of
    above = torch.tensor(tree.path_ids(node)[1:], dtype=torch.int64)
    below = torch.tensor([other for other in range(len(tree)) if node in tree.path_ids(other)[1:]], dtype=torch.int64)
    groups = {"own": owner == node, "ancestors": torch.isin(owner, above), "descendants": torch.isin(owner, below)}
    groups["elsewhere"] = ~(groups["own"] | groups["ancestors"] | groups["descendants"])
    groups["rest"] = groups["descendants"] | groups["elsewhere"]

    def gains(*order):
        """What each group adds where they arrive in this order."""
        present = torch.zeros_like(activations)
        for name in order:
            before = log_probability(model, present, node)
            present = present + activations * groups[name]
            yield name, float(log_probability(model, present, node) - before)

    three, four = dict.fromkeys(groups, 0.0), dict.fromkeys(groups, 0.0)
    for order in itertools.permutations(("own", "ancestors", "rest")):
        for name, gain in gains(*order):
            three[name] += gain / 6
        at = order.index("rest")
        for pair in (("descendants", "elsewhere"), ("elsewhere", "descendants")):
            for name, gain in gains(*order[:at], *pair, *order[at + 1:]):
                four[name] += gain / 12
    del four["rest"]
    total = log_probability(model, activations, node) - log_probability(model, 0 * activations, node)
    found = evidence_shares(model.score, activations, node)
    assert found == pytest.approx({**four, "total": float(total)}, abs=1e-12)
    assert sum(found[name] for name in four) == pytest.approx(found["total"], abs=1e-12)
    for name in ("own", "ancestors"):
        assert found[name] == pytest.approx(three[name], abs=1e-12)
    assert found["descendants"] + found["elsewhere"] == pytest.approx(three["rest"], abs=1e-12)
    for name, nodes in (("ancestors", above), ("descendants", below)):
        assert (found[name] == 0) == (not len(nodes))


def test_predicted_nodes_are_the_leafs_ancestors(clip):
    """Run and Jump, .3 each, outweigh Saw's parent, but Saw at .4 is the prediction."""
    model, tree = tiny_hipe()
    output = model(clip[None])
    scores = torch.tensor([[0.3, 0.3, 1e-6, 1e-6, 0.4, 1e-6]]).log()
    output = replace(output, log_probs=model.node_log_probs(scores))
    found = match_output(model, output, SIZE, [0, 1, 2])
    assert [tree.names[level.node] for level in found] == ["Saw", "Tool", "Thing"]
    assert [level.probability for level in found] == pytest.approx([0.4, 0.4, 0.4], abs=1e-4)
    assert [tree.names[level.node] for level in match_output(model, output, SIZE, [2, 0], leaf=2)] == ["Body", "Wave"]


def test_matches_are_the_nodes_own_most_contributing_first(clip):
    model, tree = tiny_hipe(per_node=5)
    with torch.no_grad():
        output = model(clip[None])
    leaf = int(output.log_probs[0, :6].argmax())
    for level, found in enumerate(match(model, clip, [0, 1, 2], k=4)):
        assert found.level == level and found.node == tree.path_ids(leaf)[level]
        own = (model.prototype_layer.node_of == found.node).nonzero()[:, 0]
        gains = model.score.silenced(output.activations[0], torch.tensor([found.node]))[0, own]
        assert [one.prototype for one in found.matches] == own[gains.argsort(descending=True)][:4].tolist()
        assert [one.contribution for one in found.matches] == pytest.approx(sorted(gains.tolist())[:0:-1])
        for one in found.matches:
            assert one.activation == pytest.approx(float(output.activations[0, one.prototype]))
            assert one.similarity == pytest.approx(one.activation / math.log(1e4))
            assert one.heat.shape == SIZE
            assert float(one.heat.max()) == pytest.approx(one.activation, abs=1e-5)
            assert float(one.heat[one.peak]) == pytest.approx(one.activation, abs=1e-5)
            assert all(first <= at < last for first, at, last in zip(one.box[:3], one.peak, one.box[3:], strict=True))
        expected = torch.zeros(SIZE)
        for j, gain in zip(own, gains, strict=True):
            maps = model.prototype_layer.similarity(model.prototype_layer.maps(output.features, j[None]))[0, 0]
            expected += max(0.0, float(gain)) * upsample(maps, SIZE, STRIDE)
        torch.testing.assert_close(found.heat, expected, atol=1e-5, rtol=1e-5)


def test_heat_of_a_method_gives_way_where_it_tells_nothing(clip):
    """Where it is flat, and at the prototype's own patch, where the distance has no gradient."""
    model, _ = tiny_hipe(per_node=5)
    with torch.no_grad():
        output = model(clip[None])
    own, *others = (one.prototype for one in match_output(model, output, SIZE, [0], 5)[0].matches)
    flat, dot = torch.full(SIZE, 0.2), torch.zeros(SIZE)
    dot[5, 6, 7] = 1
    with torch.no_grad():  # the first is now a patch of this clip
        cell = output.cells[0, own]
        model.prototype_layer.prototypes[own] = output.features[0].flatten(1)[:, cell]
        output = model(clip[None])
    found = match_output(model, output, SIZE, [0], 5, heat_of=lambda p: flat if p == others[0] else dot)[0].matches
    plain = {one.prototype: one for one in match_output(model, output, SIZE, [0], 5)[0].matches}
    assert {one.prototype for one in found if one.by_similarity} == {own, others[0]}
    for one in found:
        if one.by_similarity:
            assert one.box == plain[one.prototype].box and torch.equal(one.heat, plain[one.prototype].heat)
        else:
            assert one.peak == (5, 6, 7) and one.box == (5, 6, 7, 6, 7, 8) and one.heat is dot


def test_unmatched_prototypes_are_listed_without_a_source(clip):
    model, _ = tiny_hipe()
    n = len(model.prototype_layer.node_of)
    record = Record(["v"] * n, torch.arange(8), torch.tensor([0.0, 0, 48, 80]), torch.rand(4, 6, 5), SIZE)
    best = match(model, clip, [0])[0].matches[0].prototype
    record.video[best] = None
    first, second, _ = match(model, clip, [0], record=record)[0].matches
    assert (first.prototype, first.source) == (best, None)
    assert second.source.video == "v" and second.source.box == record.box(second.prototype)
    assert match(model, clip, [0])[0].matches[1].source is None
