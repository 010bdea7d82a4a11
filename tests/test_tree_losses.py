"""Losses of the scores that decide at every branching, against slow loops."""

import math

import pytest
import torch
from tiny import random_tree
from torch import Tensor

from hierarchy import Hierarchy
from training.losses import level_cross_entropies, ways_cross_entropy

TREES = [(0, 1, 4), (1, 2, 6), (2, 3, 9), (3, 3, 1), (4, 4, 7)]


def slow_level_cross_entropies(evidence: Tensor, labels: list[int], tree: Hierarchy) -> list[Tensor]:
    """One clip and level at a time, a softmax over all nodes of the level."""
    found = []
    for level, nodes in enumerate(tree.levels):
        terms = []
        for clip, label in zip(evidence, labels, strict=True):
            own = tree.path_ids(label)[level]
            terms.append(torch.stack([clip[node] for node in nodes]).logsumexp(0) - clip[own])
        found.append(sum(terms) / len(terms))
    return found


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("scale", [0, 1, 50])
def test_every_level_s_own_cross_entropy(case, scale):
    tree, generator = random_tree(*case), torch.Generator().manual_seed(0)
    labels = torch.randint(tree.n_leaves, (5,), generator=generator)
    evidence = (scale * torch.rand(5, len(tree), generator=generator, dtype=torch.float64)).requires_grad_()
    found = level_cross_entropies(evidence, labels, tree.ancestors, tree.level_of)
    expected = torch.stack(slow_level_cross_entropies(evidence, labels.tolist(), tree))
    assert found.shape == (tree.n_levels,)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, tree.n_levels + 1, dtype=torch.float64)
    one, other = (torch.autograd.grad((weights * values).sum(), evidence)[0] for values in (found, expected))
    torch.testing.assert_close(one, other)


def test_known_cross_entropies():
    """Without evidence the logarithm of the number of nodes; other levels' evidence changes nothing."""
    tree = Hierarchy.from_rows([["a", "x", "top"], ["b", "x", "top"], ["c", "y", "top"]])
    evidence = torch.zeros(1, 6)
    labels = torch.tensor([0])
    assert level_cross_entropies(evidence, labels, tree.ancestors, tree.level_of).tolist() == pytest.approx(
        [math.log(3), math.log(2), 0])
    evidence[0, 3] = 100.0
    assert level_cross_entropies(evidence, labels, tree.ancestors, tree.level_of).tolist() == pytest.approx(
        [math.log(3), 0, 0], abs=1e-6)


@pytest.mark.parametrize("scale", [0, 1, 1e4])
def test_gradients_are_finite(scale):
    tree = random_tree(2, 3, 9)
    evidence = (scale * torch.rand(3, len(tree), generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = level_cross_entropies(evidence, torch.tensor([0, 5, 8]), tree.ancestors, tree.level_of)
    assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), evidence)[0].isfinite().all()


def slow_ways(activations: Tensor, labels: list[int], ways: list[int], n_ways: list[int], node_of: list[int],
              sharpness: float) -> Tensor:
    """One clip at a time; n_ways by class."""
    terms = []
    for clip, label, way in zip(activations, labels, ways, strict=True):
        if way >= 0:
            own = [(sharpness * a).exp() for a, node in zip(clip, node_of, strict=True) if node == label]
            right = [value for i, value in enumerate(own) if i % n_ways[label] == way]
            terms.append(-(sum(right) / sum(own)).log())
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=activations.dtype)


@pytest.mark.parametrize(("counts", "n_ways"), [([2, 2, 2, 2, 2], [2, 2, 2]), ([3, 1, 4, 2, 1], [3, 1, 4]),
                                                ([5, 4, 3, 2, 1], [2, 3, 1]), ([5, 4, 3, 2, 1], [4, 2, 0])])
@pytest.mark.parametrize("known", ["all", "some", "none"])
@pytest.mark.parametrize("sharpness", [4.0, 1.0])
def test_ways_equal_a_slow_loop(counts, n_ways, known, sharpness):
    """Three classes and what lies above them, with other numbers of prototypes and ways each."""
    generator = torch.Generator().manual_seed(0)
    node_of = torch.arange(5).repeat_interleave(torch.tensor(counts))
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    ways = torch.tensor([int(torch.randint(n_ways[label], (), generator=generator)) if n_ways[label] else -1
                         for label in labels.tolist()])
    if known != "all":
        ways[::2] = -1
    if known == "none":
        ways[:] = -1
    activations = torch.rand(6, len(node_of), generator=generator, dtype=torch.float64).requires_grad_()
    found = ways_cross_entropy(activations, labels, ways, torch.tensor(n_ways)[labels], node_of, sharpness)
    expected = slow_ways(activations, labels.tolist(), ways.tolist(), n_ways, node_of.tolist(), sharpness)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, activations)
    assert gradient.isfinite().all()
    if known == "none":
        assert found == 0 and not gradient.any()
    else:
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, activations)[0])


def test_the_sharpness_of_ways_is_four():
    activations, node_of = torch.tensor([[0.9, 0.1, 0.5]]), torch.tensor([0, 0, 1])
    loss = ways_cross_entropy(activations, torch.tensor([0]), torch.tensor([0]), torch.tensor([2]), node_of)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-3.2)))


def test_a_way_is_known_by_any_of_its_prototypes():
    """Of four prototypes and two ways the first and the third are of way 0: one of them is enough."""
    node_of, label = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0])
    for activations in ([90.0, 0, 0, 0, 50], [0.0, 0, 90, 0, 50]):
        losses = [float(ways_cross_entropy(torch.tensor([activations]), label, torch.tensor([way]), torch.tensor([n]),
                                           node_of)) for way, n in ((0, 2), (1, 2), (0, 1))]
        assert losses == pytest.approx([0, 360 - math.log(2), 0], abs=1e-3)
