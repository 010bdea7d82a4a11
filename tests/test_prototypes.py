"""Distances of prototypes equal slow loops, are exact where the logarithm is steep, and stay float32."""

import math

import pytest
import torch

from models import prototypes
from models.prototypes import EPSILON, ChosenDistance, PrototypeLayer


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return PrototypeLayer([3, 2], per_node=2, channels=7)


def features_of(n: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, 7, 2, 3, 4, generator=torch.Generator().manual_seed(seed))


def loops(prototypes, features):
    """Squared L2 of each prototype to each patch: (B, P, N), one subtraction at a time."""
    patches = features.flatten(2)
    return torch.stack([torch.stack([torch.stack([((patches[b, :, n] - prototype) ** 2).sum()
                                                  for n in range(patches.shape[2])])
                                     for prototype in prototypes]) for b in range(len(patches))])


def test_prototypes_are_held_level_by_level(layer):
    assert layer.node_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert layer.level(0) == slice(0, 6) and layer.level(1) == slice(6, 10)
    assert layer.prototypes.shape == (10, 7)
    assert set(layer.state_dict()) == {"prototypes"}


def test_distances_equal_slow_loops(layer):
    features = features_of().requires_grad_()
    nearest, cells = layer(features)
    slow = loops(layer.prototypes, features)
    torch.testing.assert_close(nearest, slow.amin(2))
    assert torch.equal(cells, slow.argmin(2))

    weights = torch.randn(nearest.shape, generator=torch.Generator().manual_seed(2))
    inputs = (features, layer.prototypes)
    found = torch.autograd.grad((weights * nearest).sum(), inputs)
    expected = torch.autograd.grad((weights * slow.amin(2)).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_the_nearest_of_some_cells_equal_slow_loops(layer, monkeypatch, at_once):
    """However many prototypes are compared at a time; with cells that several prototypes share."""
    monkeypatch.setattr(prototypes, "AT_ONCE", {"cpu": at_once})
    features, generator = features_of().requires_grad_(), torch.Generator().manual_seed(3)
    masks = [torch.rand(4, 24, generator=generator) < share for share in (0.1, 0.8)]
    masks[0][:, 5] = True
    slow = loops(layer.prototypes, features)
    expected = [slow, *(slow.masked_fill(~mask[:, None], torch.inf) for mask in masks)]
    found = layer.nearest(features, masks)
    weights = torch.randn(3, 4, 10, generator=generator)
    for (nearest, cells), distances in zip(found, expected, strict=True):
        torch.testing.assert_close(nearest, distances.amin(2))
        assert torch.equal(cells, distances.argmin(2))
    inputs = (features, layer.prototypes)
    ours = torch.autograd.grad(sum((w * n).sum() for w, (n, _) in zip(weights, found, strict=True)), inputs)
    theirs = torch.autograd.grad(sum((w * d.amin(2)).sum() for w, d in zip(weights, expected, strict=True)), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_the_gradient_of_chosen_distances(monkeypatch, wanted):
    monkeypatch.setattr(prototypes, "AT_ONCE", {"cpu": 4})
    generator = torch.Generator().manual_seed(0)
    x, kept = (torch.rand(*size, generator=generator, dtype=torch.float64, requires_grad=want)
               for size, want in zip([(3, 5, 2), (6, 2)], wanted, strict=True))
    cells = torch.randint(5, (3, 6), generator=generator)
    assert torch.autograd.gradcheck(lambda x, kept: ChosenDistance.apply(x, kept, cells), (x, kept))


def test_what_is_kept_for_the_gradient_is_no_larger_than_what_was_given():
    layer, sizes = PrototypeLayer([100], per_node=10, channels=16), {}
    features, mask = torch.rand(2, 16, 1, 2, 2, requires_grad=True), torch.ones(2, 4, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(
            lambda kept: sizes.setdefault(kept.untyped_storage().data_ptr(), kept.numel()) and kept, lambda kept: kept):
        layer.nearest(features, [mask])
    assert max(sizes.values()) == layer.prototypes.numel()  # 1000 x 16; with the clips, it would be twice that


def test_maps_equal_slow_loops(layer):
    features, which = features_of(), torch.tensor([7, 0, 3])
    maps = layer.maps(features, which)
    assert maps.shape == (4, 3, 2, 3, 4)
    torch.testing.assert_close(maps.flatten(2), loops(layer.prototypes, features)[:, which])
    nearest, cells = layer(features)
    torch.testing.assert_close(maps.flatten(2).amin(2), nearest[:, which])
    assert torch.equal(maps.flatten(2).argmin(2), cells[:, which])


def test_search_orders_cells_as_distances_do(layer):
    features = features_of()
    slow = loops(layer.prototypes, features)
    found = layer.search(features)
    torch.testing.assert_close(found - found[..., :1], slow - slow[..., :1], atol=1e-5, rtol=0)
    assert not found.requires_grad


@pytest.mark.parametrize("channels", [1, 7, 128])
@pytest.mark.parametrize("scale", [1e-3, 1, 30])
def test_an_own_patch_is_at_distance_zero(channels, scale):
    """The expanded square is off by 1e-5 there, and more for large features."""
    torch.manual_seed(0)
    layer = PrototypeLayer([50], per_node=10, channels=channels)
    features = scale * (torch.rand(6, channels, 2, 4, 4) + 0.1 * torch.arange(6)[:, None, None, None, None])
    clip, cell = torch.randint(6, (500,)), torch.randint(32, (500,))
    with torch.no_grad():
        layer.prototypes.copy_(features.flatten(2)[clip, :, cell])
    nearest, cells = layer(features)
    own = nearest[clip, torch.arange(500)]
    if channels == 128:
        assert (own == 0).all() and torch.equal(cells[clip, torch.arange(500)], cell)
        assert layer.similarity(own).min() >= 9.2
    assert (own <= 1e-5 * scale).all()
    assert (layer.maps(features, torch.arange(500))[clip, torch.arange(500)].flatten(1).amin(1) == 0).all()


def test_similarity():
    similarity = PrototypeLayer([1], per_node=1).similarity(torch.tensor([0.0, 1e-4, 1, 10, 1e8]))
    expected = [math.log((d + 1) / (d + EPSILON)) for d in (0, 1e-4, 1, 10, 1e8)]
    assert similarity.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert similarity[0] == pytest.approx(9.2103, abs=1e-4) and similarity[-1] == pytest.approx(0, abs=1e-6)
    assert (similarity.diff() < 0).all()


def test_the_slope_of_the_similarity():
    """.01 at distance 10, and still finite at 0."""
    distances = torch.tensor([0.0, 10]).requires_grad_()
    PrototypeLayer([1], per_node=1).similarity(distances).sum().backward()
    assert distances.grad[0] == pytest.approx(1 - 1 / EPSILON, rel=1e-4)
    assert distances.grad[1] == pytest.approx(-0.009, abs=2e-3)


def test_autocast_changes_nothing(layer):
    features = features_of()
    plain, maps = layer(features), layer.maps(features, torch.arange(10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nearest, cells = layer(features)
        under = layer.maps(features, torch.arange(10))
        halved, _ = layer(features.bfloat16())
    assert nearest.dtype == under.dtype == halved.dtype == torch.float32
    assert torch.equal(nearest, plain[0]) and torch.equal(cells, plain[1]) and torch.equal(under, maps)
    torch.testing.assert_close(halved, layer(features.bfloat16().float())[0])


def test_one_clip_of_one_cell():
    layer = PrototypeLayer([1], per_node=1, channels=3)
    nearest, cells = layer(torch.ones(1, 3, 1, 1, 1))
    assert nearest.shape == (1, 1) and cells.item() == 0
