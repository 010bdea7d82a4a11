"""HIPE's probabilities are consistent along the tree, per clip, and finite wherever features go."""

import pytest
import torch
from tiny import random_tree, small_hipe, tiny_hipe

from models.hipe import NECKS


def clips(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))


TREES = [(1, 5), (2, 6), (3, 9), (4, 7), (1, 1), (3, 1)]


@pytest.mark.parametrize(("n_levels", "n_leaves"), TREES)
@pytest.mark.parametrize("scale", [0, 1, 100, 1e4])
def test_a_nodes_probability_is_the_sum_of_its_leaves(n_levels, n_leaves, scale):
    tree = random_tree(n_levels, n_levels, n_leaves)
    model = small_hipe(tree)
    scores = scale * torch.randn(16, n_leaves, generator=torch.Generator().manual_seed(1))
    log_probs = model.node_log_probs(scores)
    assert log_probs.shape == (16, len(tree)) and log_probs.isfinite().all() and (log_probs <= 1e-6).all()
    leaves = scores.double().log_softmax(1)
    for node in range(len(tree)):
        expected = leaves[:, tree.leaves_below(node)].logsumexp(1)
        torch.testing.assert_close(log_probs[:, node].double(), expected, atol=1e-5, rtol=1e-6)
    for level in tree.levels:
        total = log_probs[:, list(level)].logsumexp(1)
        torch.testing.assert_close(total, torch.zeros(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0, 1, 1e4])
def test_gradients_of_the_nodes_equal_those_of_a_logsumexp(scale):
    tree = random_tree(3, 3, 7)
    model = small_hipe(tree)
    scores = (scale * torch.randn(4, 7, generator=torch.Generator().manual_seed(1))).double().requires_grad_()
    weights = torch.randn(4, len(tree), dtype=torch.float64)
    slow = torch.stack([scores.log_softmax(1)[:, tree.leaves_below(node)].logsumexp(1) for node in range(len(tree))], 1)
    (found,) = torch.autograd.grad((weights * model.node_log_probs(scores)).sum(), scores)
    (expected,) = torch.autograd.grad((weights * slow).sum(), scores)
    torch.testing.assert_close(found, expected)


def test_outputs_have_their_documented_shapes():
    tree = random_tree(0, 3, 6)
    model = small_hipe(tree, per_node=3, channels=5).eval()
    out = model(clips(2))
    n, dim = 3 * len(tree), model.score.embeddings.points.shape[1]
    assert out.log_probs.shape == (2, len(tree)) and out.evidence.shape == (2, dim)
    assert out.activations.shape == out.distances.shape == out.cells.shape == (2, n)
    assert out.features.shape == (2, 5, 2, 4, 4)
    torch.testing.assert_close(out.activations, model.prototype_layer.similarity(out.distances))
    torch.testing.assert_close(out.evidence, out.activations @ model.score.last_layer.weight.T)
    torch.testing.assert_close(out.log_probs, model.node_log_probs(model.score.embeddings(out.evidence)))
    assert out.activations.min() >= 0 and out.activations.max() <= 9.22
    assert out.features.min() >= 0 and out.features.max() <= 1  # sigmoid


@pytest.mark.parametrize("neck", NECKS)
def test_a_batch_equals_its_clips_one_by_one(neck):
    model = small_hipe(random_tree(0, 3, 6), neck=neck).eval()
    batch = clips(5)
    batch[4] *= 30  # an outlier is nobody else's business
    with torch.no_grad():
        together = model(batch)
        for i in range(4):
            alone = model(batch[i:i + 1])
            for name in ("log_probs", "evidence", "activations", "distances", "features"):
                one, other = getattr(alone, name)[0], getattr(together, name)[i]
                assert (one - other).abs().max() <= 1e-5 * max(1, other.abs().max()), name
            assert torch.equal(alone.cells[0], together.cells[i])


def test_the_mean_of_a_class_map_is_the_pooled_heads_logit():
    """Class activation mapping (Zhou et al., CVPR 2016)."""
    model = small_hipe(random_tree(0, 3, 6))
    features = torch.randn(3, 64, 2, 4, 4)
    maps = torch.stack([model.class_map(features, torch.full((3,), leaf)) for leaf in range(6)], 1)
    assert maps.shape == (3, 6, 2, 4, 4)
    pooled = maps.mean((2, 3, 4)) + model.pooled_head.bias
    torch.testing.assert_close(model.pooled_log_probs(features), pooled.log_softmax(1))
    labels = torch.tensor([5, 0, 2])
    torch.testing.assert_close(model.class_map(features, labels), maps[torch.arange(3), labels])


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("scale", [0, 1, 1e3])
def test_gradients_are_finite(neck, scale):
    model = small_hipe(random_tree(0, 3, 6), neck=neck).train()
    model(scale * clips(2)).log_probs.sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("pooled_head"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_gradients_are_finite_at_a_perfect_match_and_at_the_origin():
    model = small_hipe(random_tree(0, 3, 6)).eval()
    with torch.no_grad():
        features = model(clips(1)).features
        model.prototype_layer.prototypes.copy_(features[0, :, 0, 0, 0].expand_as(model.prototype_layer.prototypes))
        model.score.last_layer.weight.zero_()
    out = model(clips(1))
    assert (out.distances == 0).all() and (out.evidence == 0).all()
    out.log_probs[:, 0].sum().backward()
    assert all(p.grad.isfinite().all() for p in (*model.neck.parameters(), *model.score.last_layer.parameters()))


def test_every_prototype_starts_pulling_towards_its_own_node():
    tree = random_tree(0, 3, 6)
    model = small_hipe(tree, per_node=2)
    expected = 0.1 * model.score.embeddings.points.repeat_interleave(2, 0)
    torch.testing.assert_close(model.score.last_layer.weight.T, expected)
    for node in range(len(tree)):
        activations = 5 * (model.prototype_layer.node_of == node).float()[None]
        log_probs, _ = model.score(activations)
        level = list(tree.levels[int(tree.level_of[node])])
        assert level[int(log_probs[0, level].argmax())] == node


def test_scores_stay_float32_under_autocast():
    model = small_hipe(random_tree(0, 2, 4)).eval()
    activations = torch.rand(2, len(model.prototype_layer.prototypes))
    plain = model.score(activations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = model.score(activations)
    assert all(torch.equal(one, other) for one, other in zip(plain, under, strict=True))


def test_the_tree_is_not_part_of_the_state():
    model, _ = tiny_hipe()
    assert {key.split(".")[0] for key in model.state_dict()} == {
        "trunk", "prototype_layer", "score", "pooled_head"}
