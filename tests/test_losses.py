"""Losses equal slow, obvious loops in values and gradients, and keep what is promised of them."""

import math

import pytest
import torch
from tiny import random_tree, small_hipe

from training.losses import cross_entropies, group_sparsity, level_losses, orthogonality, sharing

# (levels, leaves, prototypes a node, labels of the batch)
CASES = {
    "one level": (1, 4, 2, [0, 3, 3, 1]),
    "two levels": (2, 5, 3, [4, 0, 0, 2, 1]),
    "three levels": (3, 7, 2, [6, 5, 5, 0, 3, 1]),
    "one prototype a node": (3, 6, 1, [0, 1, 2]),
    "a batch of one": (3, 6, 2, [4]),
    "all of one class": (2, 5, 2, [3, 3, 3]),
    "one class": (1, 1, 3, [0, 0]),
    "one class below ancestors": (3, 1, 2, [0, 0]),
}


@pytest.fixture(params=[(case, seed) for case in CASES for seed in range(2)], ids=lambda p: f"{p[0]}, seed {p[1]}")
def case(request):
    """A tree, labels, the node of each prototype, and three sets of distances."""
    (n_levels, n_leaves, per_node, labels), seed = CASES[request.param[0]], request.param[1]
    tree = random_tree(seed, n_levels, n_leaves)
    generator = torch.Generator().manual_seed(seed)
    node_of = torch.arange(len(tree)).repeat_interleave(per_node)
    distances = [(12 * torch.rand(len(labels), len(node_of), generator=generator, dtype=torch.float64)).requires_grad_()
                 for _ in range(3)]
    return tree, torch.tensor(labels), node_of, distances


def losses_of(case, margin=10.0, reliable=None):
    tree, labels, node_of, distances = case
    return level_losses(*distances, labels, node_of, tree.ancestors, tree.level_of, margin, reliable=reliable)


def slow_losses(case, margin=10.0, reliable=None):
    """One clip, level and prototype at a time; clips that are not reliable, if any is, only separate."""
    tree, labels, node_of, (nearest, focused, background) = case
    reliable = [True] * len(labels) if reliable is None or not reliable.any() else reliable.tolist()
    found = {"cluster": [], "separation": [], "background": []}
    for level in tree.levels:
        terms = {name: [] for name in found}
        for clip, label in enumerate(labels.tolist()):
            own = [node for node in tree.path_ids(label) if node in level][0]
            mine = [p for p in range(len(node_of)) if int(node_of[p]) == own]
            others = [p for p in range(len(node_of)) if int(node_of[p]) in level and int(node_of[p]) != own]
            away = min((nearest[clip, p] for p in others), default=torch.tensor(math.inf, dtype=torch.float64))
            terms["separation"].append(-away if away < margin else torch.tensor(-margin, dtype=torch.float64))
            if not reliable[clip]:
                continue
            terms["cluster"].append(min(focused[clip, p] for p in mine))
            behind = min(background[clip, p] for p in mine)
            terms["background"].append(-behind if behind < margin else torch.tensor(-margin, dtype=torch.float64))
        for name, values in terms.items():
            found[name].append(sum(values) / len(values))
    covered = []
    for p, node in enumerate(node_of.tolist()):
        clips = [clip for clip, label in enumerate(labels.tolist()) if reliable[clip] and node in tree.path_ids(label)]
        if clips:
            covered.append(min(focused[clip, p] for clip in clips))
    return {name: torch.stack(values) for name, values in found.items()} | {"coverage": sum(covered) / len(covered)}


def gradients(terms, inputs):
    """Of a sum in which every entry of every term has a weight of its own."""
    generator = torch.Generator().manual_seed(9)
    total = sum((torch.rand(value.shape, generator=generator, dtype=value.dtype) * value).sum()
                for _, value in sorted(terms.items()))
    if not total.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(x) if one is None else one for one, x in zip(found, inputs, strict=True)]


@pytest.mark.parametrize("doubt", ["of none", "of some", "of all"])
def test_level_losses_equal_slow_loops(case, doubt):
    labels = case[1]
    odd = torch.arange(len(labels)) % 2 == 1
    reliable = {"of none": None, "of some": ~odd, "of all": odd & ~odd}[doubt]
    found, expected = losses_of(case, reliable=reliable), slow_losses(case, reliable=reliable)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(gradients(found, case[3]), gradients(expected, case[3]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_clip_is_never_pushed_off_its_own_ancestors(case):
    tree, labels, node_of, distances = case
    gradient, = gradients({"separation": losses_of(case, margin=100.0)["separation"]}, distances[:1])
    for clip, label in enumerate(labels.tolist()):
        own = [p for p, node in enumerate(node_of.tolist()) if node in tree.path_ids(label)]
        assert (gradient[clip, own] == 0).all()
        assert (gradient[clip] <= 0).all()


def test_clips_of_one_class_are_not_negatives():
    """Were they, adding a second clip of the class would change what the first one is pushed off."""
    tree = random_tree(0, 2, 5)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    distances = torch.rand(1, len(node_of))
    one = level_losses(*[distances] * 3, torch.tensor([2]), node_of, tree.ancestors, tree.level_of, 10.0)
    three = level_losses(*[distances.repeat(3, 1)] * 3, torch.tensor([2, 2, 2]), node_of, tree.ancestors, tree.level_of,
                         10.0)
    for name, value in one.items():
        torch.testing.assert_close(three[name], value)


def test_far_from_every_prototype_there_is_a_gradient():
    """The released code's cluster and separation have none beyond distance 128, where unbounded features start out."""
    tree = random_tree(0, 2, 5)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    far = (500 + torch.rand(3, len(node_of))).requires_grad_()
    found = level_losses(far, far, far, torch.tensor([0, 1, 2]), node_of, tree.ancestors, tree.level_of, 1000.0)
    for name in ("cluster", "separation", "coverage"):
        gradient, = torch.autograd.grad(found[name].sum(), far, retain_graph=True)
        assert float(gradient.abs().sum()) == pytest.approx(1 if name == "coverage" else tree.n_levels, rel=1e-5), name


def test_unbounded_features_reach_the_model():
    """The same through distances: a leaky neck far from its prototypes is pulled towards them."""
    model = small_hipe(random_tree(0, 2, 4), neck="leaky").train()
    with torch.no_grad():
        model.prototype_layer.prototypes += 20
    out = model(torch.randn(2, 3, 8, 32, 32))
    assert out.distances.min() > 128
    losses = level_losses(*[out.distances] * 3, torch.tensor([0, 1]), model.prototype_layer.node_of, model.ancestors,
                          model.level_of, 10.0)
    losses["cluster"].sum().backward()
    assert model.prototype_layer.prototypes.grad.abs().sum() > 1
    assert model.neck[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("n_levels", [1, 2, 3])
def test_cross_entropies_equal_slow_loops(n_levels):
    tree = random_tree(3, n_levels, 6)
    labels = torch.tensor([5, 0, 0, 2])
    log_probs = torch.randn(4, len(tree), dtype=torch.float64, requires_grad=True)
    found = cross_entropies(log_probs, labels, tree.ancestors)
    paths = [tree.path_ids(label) for label in labels.tolist()]
    expected = torch.stack([-sum(log_probs[clip, path[level]] for clip, path in enumerate(paths)) / 4
                            for level in range(n_levels)])
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients({"ce": found}, [log_probs]), gradients({"ce": expected}, [log_probs]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_perfect_prediction_costs_nothing():
    """However many clips of a class the batch holds; the released code's costs log 3 with three of each."""
    tree = random_tree(1, 3, 4)
    model = small_hipe(tree)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 3, 3, 3])
    scores = torch.full((9, 4), -200.0).scatter(1, labels[:, None], 0.0)
    ce = cross_entropies(model.node_log_probs(scores), labels, tree.ancestors)
    torch.testing.assert_close(ce, torch.zeros(3))


def test_a_clip_on_its_leaf_is_a_prediction_of_99_percent():
    tree = random_tree(1, 3, 6)
    model = small_hipe(tree)
    log_probs = model.node_log_probs(model.score.embeddings(model.score.embeddings.points[:6]))
    assert cross_entropies(log_probs, torch.arange(6), tree.ancestors)[0] <= -math.log(0.99)


def test_cross_entropy_of_a_batch_is_the_mean_of_its_clips():
    tree = random_tree(0, 3, 6)
    log_probs, labels = torch.randn(5, len(tree)), torch.tensor([1, 1, 1, 0, 4])
    alone = [cross_entropies(log_probs[i:i + 1], labels[i:i + 1], tree.ancestors) for i in range(5)]
    torch.testing.assert_close(cross_entropies(log_probs, labels, tree.ancestors), torch.stack(alone).mean(0))


@pytest.mark.parametrize("per_node", [1, 2, 5])
def test_orthogonality_equals_slow_loops(per_node):
    torch.manual_seed(per_node)
    prototypes = torch.rand(4 * per_node, 6, dtype=torch.float64, requires_grad=True)
    terms = []
    for node in range(4):
        for i in range(per_node):
            for j in range(per_node):
                if i != j:
                    one, other = (prototypes[node * per_node + k] - 0.5 for k in (i, j))
                    terms.append((torch.dot(one, other) / (one.norm() * other.norm())) ** 2)
    found = orthogonality(prototypes, torch.full((4,), per_node))
    if per_node == 1:
        assert found == 0
        return
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, prototypes)[0] for value in (found, expected)))


def test_orthogonality_of_known_prototypes():
    corners = torch.eye(4) * 0.3 + 0.5
    four = torch.tensor([4])
    assert orthogonality(corners, four) == pytest.approx(0, abs=1e-12)
    assert orthogonality(corners[:1].repeat(4, 1), four) == pytest.approx(1)
    opposite = torch.stack([corners[0], 1 - corners[0]])
    assert orthogonality(opposite, torch.tensor([2])) == pytest.approx(1)
    unequal = torch.cat([corners[:1], corners[:1], 1 - corners[:1], corners[1:3]])  # nodes of one, two and two
    assert orthogonality(unequal, torch.tensor([1, 2, 2])) == pytest.approx(0.5)


def test_group_sparsity_equals_slow_loops():
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    expected = sum(sum(weight[d, p] ** 2 for d in range(5)) ** 0.5 for p in range(7))
    found = group_sparsity(weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, weight)[0] for value in (found, expected)))


def test_group_sparsity_of_an_empty_column_has_a_gradient():
    weight = torch.zeros(5, 7, requires_grad=True)
    group_sparsity(weight).backward()
    assert weight.grad.isfinite().all()


def slow_sharing(tree, activations, labels, node_of):
    terms = []
    for p, node in enumerate(node_of.tolist()):
        for child in tree.children(node):
            clips = [clip for clip, label in enumerate(labels.tolist()) if child in tree.path_ids(label)]
            if clips:
                mean = sum(activations[clip, p] for clip in clips) / len(clips)
                terms.append(torch.log(torch.tanh(mean)))
    return -sum(terms) / len(terms)


@pytest.mark.parametrize(("n_levels", "n_leaves", "labels"), [
    (2, 5, [0, 1, 1, 4]), (3, 8, [7, 7, 2, 0, 3]), (3, 6, [2]), (2, 4, [1, 1]), (3, 1, [0, 0]), (4, 6, [0, 5, 3])])
@pytest.mark.parametrize("seed", range(2))
def test_sharing_equals_slow_loops(n_levels, n_leaves, labels, seed):
    tree, labels = random_tree(seed, n_levels, n_leaves), torch.tensor(labels)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    activations = 3 * torch.rand(len(labels), len(node_of), generator=torch.Generator().manual_seed(seed))
    activations.requires_grad_()
    found = sharing(activations, labels, node_of, tree.ancestors, tree.level_of)
    expected = slow_sharing(tree, activations, labels, node_of)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, activations)[0] for value in (found, expected)))


def test_sharing_without_ancestors_or_activation():
    flat, tree = random_tree(0, 1, 3), random_tree(0, 2, 4)
    node_of = torch.arange(3)
    assert sharing(torch.rand(2, 3), torch.tensor([0, 1]), node_of, flat.ancestors, flat.level_of) == 0
    silent = torch.zeros(2, len(tree), requires_grad=True)
    value = sharing(silent, torch.tensor([0, 1]), torch.arange(len(tree)), tree.ancestors, tree.level_of)
    value.backward()
    assert value.isfinite() and silent.grad.isfinite().all()
