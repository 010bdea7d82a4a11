"""Prototypes that are compared with unit vectors of their own level: slow loops, gradients, and fewer of them."""

import argparse
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny import levels_hipe, random_tree
from torch import Tensor

from hierarchy import Hierarchy, fit_embeddings
from models import prototypes
from models.hipe import HIPE, Standardise
from models.prototypes import PrototypeLayer, UnitLevels, unit
from models.scores import HyperbolicTreeScore, TreeScore
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_model

COUNTS = [2, 1, 3, 1, 2, 2]  # of three classes, two nodes above, one at the top
LEVELS, CHANNELS = [3, 2, 1], 4


@pytest.fixture
def layer() -> PrototypeLayer:
    torch.manual_seed(0)
    return PrototypeLayer(LEVELS, per_node=COUNTS, channels=CHANNELS, by_level=True, scale=0.5)


def features_of(n: int = 4, grid: tuple[int, ...] = (2, 3, 4), seed: int = 1) -> Tensor:
    """(n, L C, t, h, w) as a neck's last step leaves them."""
    drawn = torch.randn(n, len(LEVELS) * CHANNELS, *grid, generator=torch.Generator().manual_seed(seed))
    return UnitLevels(len(LEVELS))(drawn)


def loops(layer: PrototypeLayer, features: Tensor) -> Tensor:
    """Squared distances (B, P, N) to unit vectors along the prototypes, one cell at a time, in the level's channels."""
    levels = [level for level, nodes in enumerate(layer.node_levels) for node in nodes
              for _ in range(int(layer.counts[node]))]
    patches = features.flatten(2)
    rows = []
    for clip in patches:
        for prototype, level in zip(layer.prototypes, levels, strict=True):
            own = clip[level * CHANNELS:(level + 1) * CHANNELS]
            point = prototype / prototype.norm()
            rows.append(torch.stack([((own[:, n] - point) ** 2).sum() for n in range(own.shape[1])]))
    return torch.stack(rows).view(len(patches), len(levels), -1)


def test_prototypes_belong_to_a_level(layer):
    assert layer.node_of.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 5]
    assert layer.group_of.tolist() == [0] * 6 + [1] * 3 + [2] * 2 and layer.n_groups == 3
    assert [layer.level(level) for level in range(3)] == [slice(0, 6), slice(6, 9), slice(9, 11)]
    assert layer.per_node == 3 and set(layer.state_dict()) == {"prototypes"}
    torch.testing.assert_close(layer.points.norm(dim=1), torch.ones(11))


def test_distances_equal_slow_loops(layer):
    features = features_of().requires_grad_()
    nearest, cells = layer(features)
    slow = loops(layer, features)
    torch.testing.assert_close(nearest, slow.amin(2))
    assert torch.equal(cells, slow.argmin(2)) and nearest.min() >= 0 and nearest.max() <= 4

    weights = torch.randn(nearest.shape, generator=torch.Generator().manual_seed(2))
    inputs = (features, layer.prototypes)
    found = torch.autograd.grad((weights * nearest).sum(), inputs)
    expected = torch.autograd.grad((weights * slow.amin(2)).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert one.abs().sum() > 0


def test_search_orders_cells_as_distances_do(layer):
    features = features_of()
    found, slow = layer.search(features), loops(layer, features)
    torch.testing.assert_close(found - found[..., :1], slow - slow[..., :1], atol=1e-5, rtol=0)
    assert not found.requires_grad


@pytest.mark.parametrize("at_once", [1, 4, 11])
def test_the_nearest_of_some_cells_equal_slow_loops(layer, monkeypatch, at_once):
    """However many prototypes are compared at a time, also where a block goes across levels."""
    monkeypatch.setattr(prototypes, "AT_ONCE", {"cpu": at_once})
    features, generator = features_of().requires_grad_(), torch.Generator().manual_seed(3)
    masks = [torch.rand(4, 24, generator=generator) < share for share in (0.1, 0.8)]
    masks[0][:, 5] = True
    slow = loops(layer, features)
    expected = [slow, *(slow.masked_fill(~mask[:, None], torch.inf) for mask in masks)]
    found = layer.nearest(features, masks)
    weights = torch.randn(3, 4, 11, generator=generator)
    for (nearest, cells), distances in zip(found, expected, strict=True):
        torch.testing.assert_close(nearest, distances.amin(2))
        assert torch.equal(cells, distances.argmin(2))
    inputs = (features, layer.prototypes)
    ours = torch.autograd.grad(sum((w * n).sum() for w, (n, _) in zip(weights, found, strict=True)), inputs)
    theirs = torch.autograd.grad(sum((w * d.amin(2)).sum() for w, d in zip(weights, expected, strict=True)), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_chosen_cells_of_ones_own(layer):
    features = features_of()
    cells = torch.randint(24, (4, 11), generator=torch.Generator().manual_seed(0))
    expected = loops(layer, features).gather(2, cells[..., None])[..., 0]
    torch.testing.assert_close(layer.distance(features, cells), expected)


def test_maps_equal_slow_loops(layer):
    features, which = features_of(), torch.tensor([10, 0, 7])
    maps = layer.maps(features, which)
    assert maps.shape == (4, 3, 2, 3, 4)
    torch.testing.assert_close(maps.flatten(2), loops(layer, features)[:, which])


def test_autocast_changes_nothing(layer):
    features = features_of()
    plain, maps = layer(features), layer.maps(features, torch.arange(11))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nearest, cells = layer(features)
        under = layer.maps(features, torch.arange(11))
        made = UnitLevels(3)(features.bfloat16())
    assert nearest.dtype == under.dtype == made.dtype == torch.float32
    assert torch.equal(nearest, plain[0]) and torch.equal(cells, plain[1]) and torch.equal(under, maps)


def test_what_other_levels_see_does_not_matter(layer):
    features = features_of()
    changed = features.clone()
    changed[:, CHANNELS:2 * CHANNELS] = -changed[:, CHANNELS:2 * CHANNELS]
    one, other = layer(features), layer(changed)
    kept = layer.group_of != 1
    assert torch.equal(one[0][:, kept], other[0][:, kept]) and not torch.equal(one[0], other[0])


@pytest.mark.parametrize("length", [1e-2, 1, 50])
def test_an_own_patch_is_at_distance_zero(layer, length):
    """Whatever length a copied prototype has grown to."""
    features = features_of(11)
    own = layer.groups(features)[torch.arange(11), layer.group_of, :, 7]
    with torch.no_grad():
        layer.prototypes.copy_(length * own)
    nearest, cells = layer(features)
    assert nearest.diagonal().max() < 1e-10 and (cells.diagonal() == 7).all()
    assert layer.similarity(nearest).diagonal().min() > 1 - 1e-6 and layer.highest == 1
    if length == 1:
        assert layer.maps(features, torch.arange(11)).flatten(2)[torch.arange(11), torch.arange(11), 7].max() < 1e-10


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
def test_similarity(scale):
    layer = PrototypeLayer([1], per_node=1, by_level=True, scale=scale)
    distances = torch.tensor([0.0, 1e-6, 0.2, 1, 4]).requires_grad_()
    similarity = layer.similarity(distances)
    assert similarity.tolist() == pytest.approx([math.exp(-d / scale) for d in distances.tolist()], rel=1e-6)
    assert torch.autograd.grad(similarity.sum(), distances)[0][0] == pytest.approx(-1 / scale)


def test_known_similarities():
    """Of cosines 1, .9, .5 and 0, with s = .5."""
    layer = PrototypeLayer([1], per_node=1, channels=2, by_level=True, scale=0.5)
    with torch.no_grad():
        layer.prototypes.copy_(torch.tensor([[3.0, 0]]))
    cosines = torch.tensor([1, 0.9, 0.5, 0])
    features = torch.stack([cosines, (1 - cosines**2).sqrt()], 1)[:, :, None, None, None]
    assert layer.similarity(layer(features)[0])[:, 0].tolist() == pytest.approx([1, 0.67, 0.135, 0.018], abs=1e-3)


def test_unit_vectors():
    drawn = torch.randn(2, 6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    made = UnitLevels(3)(drawn)
    assert made.shape == drawn.shape
    torch.testing.assert_close(made, F.normalize(drawn.unflatten(1, (3, 2)), dim=2).flatten(1, 2))


@pytest.mark.parametrize("scale", [0, 1e-30, 1e-8, 1, 1e10])
def test_unit_vectors_have_finite_gradients(scale):
    x = (scale * torch.randn(2, 6, 1, 2, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    made = UnitLevels(2)(x)
    assert made.isfinite().all() and made.abs().max() <= 1 + 1e-6
    assert torch.autograd.grad((made * torch.arange(6)[:, None, None, None]).sum(), x)[0].isfinite().all()
    p = (scale * torch.ones(3, 2)).requires_grad_()
    assert torch.autograd.grad(unit(p, 1).square().sum() + unit(p, 1).sum(), p)[0].isfinite().all()


# --- the neck, and the model around it


def clips(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n_levels", "n_leaves"), [(1, 4), (3, 6), (3, 1)])
def test_a_model_with_a_neck_for_each_level(n_levels, n_leaves):
    tree = random_tree(0, n_levels, n_leaves)
    model = levels_hipe(tree, channels=4, hidden=16).eval()
    output = model(clips(2))
    assert output.features.shape == (2, 4 * n_levels, 2, 4, 4)
    lengths = output.features.unflatten(1, (n_levels, 4)).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert output.evidence.shape == output.log_probs.shape == (2, len(tree))
    torch.testing.assert_close(output.activations, torch.exp(-output.distances / 0.5))
    torch.testing.assert_close(output.log_probs, model.score(output.activations)[0])
    output.log_probs[:, 0].sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("pooled_head"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("scale", [0, 1, 1e3])
def test_gradients_are_finite(scale):
    model = levels_hipe(random_tree(0, 3, 6)).train()
    model(scale * clips(2)).log_probs.sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("pooled_head"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def scores(tree: Hierarchy) -> dict:
    return {"tree": TreeScore, "tree_hyperbolic": partial(HyperbolicTreeScore, points=fit_embeddings(tree, dim=8))}


@torch.no_grad()
@pytest.mark.parametrize("name", ["tree", "tree_hyperbolic"])
def test_what_stays_predicts_as_if_the_others_saw_nothing(name):
    tree = random_tree(3, 3, 7)
    model = levels_hipe(tree, per_node=3, score=scores(tree)[name]).eval()
    model.score.omega.uniform_(-2, 2)
    batch, before = clips(3), model(clips(3))
    which = torch.rand(len(model.prototype_layer.node_of), generator=torch.Generator().manual_seed(0)) < 0.5
    which[::3] = True
    expected, evidence = model.score(before.activations * which)
    omega, points = model.score.omega[which], model.prototype_layer.prototypes[which]
    model.keep(which)
    layer = model.prototype_layer
    assert layer.counts.tolist() == which.view(-1, 3).sum(1).tolist() and layer.counts.min() >= 1
    assert torch.equal(layer.prototypes, points) and torch.equal(model.score.omega, omega)
    assert layer.by_level and layer.scale == 0.5 and torch.equal(model.score.node_of, layer.node_of)
    after = model(batch)
    torch.testing.assert_close(after.activations, before.activations[:, which])
    torch.testing.assert_close(after.log_probs, expected)
    torch.testing.assert_close(after.evidence, evidence)
    torch.testing.assert_close(after.features, before.features)


def test_a_model_that_keeps_less_can_be_trained():
    model = levels_hipe(random_tree(3, 3, 7), per_node=3)
    model.keep(torch.arange(len(model.prototype_layer.node_of)) % 3 != 1)
    model(clips(2)).log_probs.sum().backward()
    assert model.prototype_layer.prototypes.grad.isfinite().all() and model.score.omega.grad.isfinite().all()


FLAGS = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1 --sample_size 32 "
         "--sample_duration 8 --prototype_channels 4 --neck_channels 6 --prototypes_per_node 3")


def built(more: str, tree: Hierarchy, counts: list[int] | None = None) -> HIPE:
    args: argparse.Namespace = parse_main(f"{FLAGS} {more}".split())[0]
    args = resolve(args)
    return build_model(args, tree, fit_embeddings(tree, dim=8), 1.0, counts).eval()


@torch.no_grad()
@pytest.mark.parametrize("more", ["--score tree", "--score tree_hyperbolic", "--score hyperbolic"])
def test_a_model_that_keeps_less_comes_back_from_its_state(more):
    torch.manual_seed(0)
    tree = random_tree(3, 3, 7)
    model = built(more, tree)
    model.keep(torch.arange(len(model.prototype_layer.node_of)) % 3 != 1)
    again = built(more, tree, model.prototype_layer.counts.tolist())
    again.load_state_dict(model.state_dict())
    one, other = model(clips(2)), again(clips(2))
    assert torch.equal(one.log_probs, other.log_probs) and torch.equal(one.activations, other.activations)


# --- standardised features


def test_features_are_standardised_by_the_means_of_clips():
    means = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6) + 3
    means[:, 2] = -7.0  # never changes
    layer = Standardise(5)
    x = torch.randn(4, 5, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layer(x), x)
    layer.fit(means)
    made = layer(means[:, :, None, None, None])[..., 0, 0, 0]
    torch.testing.assert_close(made.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    spread = torch.tensor(means.numpy().std(0))
    torch.testing.assert_close(made.std(0, correction=0), torch.tensor([1.0, 1, 0, 1, 1]), atol=1e-5, rtol=0)
    spread[2] = 1  # a channel that never changes keeps its scale
    torch.testing.assert_close(layer(x), (x - means.mean(0).view(-1, 1, 1, 1)) / spread.view(-1, 1, 1, 1),
                               atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer(x)) and layer(x).dtype == torch.float32
    assert set(layer.state_dict()) == {"mean", "deviation"} and not list(layer.parameters())


def test_one_clip_alone_sets_the_mean_only():
    layer = Standardise(3)
    layer.fit(torch.tensor([[1.0, 2, 3]]))
    assert layer.mean.tolist() == [1, 2, 3] and layer.deviation.tolist() == [1, 1, 1]
