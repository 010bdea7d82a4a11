"""Grad-CAM peaks where the score comes from, at the centre of the best cell; every method keeps the contract."""

import functools
import itertools

import pytest
import torch
from attributable import WITHOUT_ATTENTION
from tiny import STRIDE, tiny_hipe
from torch import nn

from attribution import METHODS, options_of
from attribution.grad_cam import grad_cam
from attribution.random_heat import random_heat
from models import TRUNKS
from models.geometry import cell_centre, upsample

SIZE = (8, 24, 40)


@pytest.fixture
def network():
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 4, (3, 5, 9), STRIDE, (1, 2, 4))
    head = torch.randn(4)
    return conv, lambda clips: (conv(clips).mean((2, 3, 4)) * head).sum(1), head


@pytest.fixture
def clip():
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(2))


def test_grad_cam_is_the_class_map_of_a_pooled_head(network, clip):
    """For mean pooling and a linear head the channels' mean gradients are the head's weights (over the cells)."""
    conv, score, head = network
    kept = {}

    def keep(maps):
        kept["maps"] = maps
        return upsample(maps, SIZE, STRIDE)

    heat = grad_cam(score, clip, layer=conv, upsample=keep)
    features = conv(clip[None])[0]
    expected = (torch.einsum("c,cthw->thw", head, features) / features[0].numel()).relu()
    torch.testing.assert_close(kept["maps"], expected, atol=1e-6, rtol=1e-4)
    assert heat.shape == SIZE and not heat.requires_grad and heat.min() >= 0

    plain = torch.nn.functional.interpolate(expected[None, None], SIZE, mode="trilinear")[0, 0]
    torch.testing.assert_close(METHODS["grad_cam"](score, clip, layer=conv), plain, atol=1e-6, rtol=1e-4)

    best = cell_centre(expected.argmax(), tuple(expected.shape), STRIDE, SIZE)
    assert list(torch.unravel_index(heat.argmax(), SIZE)) == best.tolist()


def test_grad_cam_is_the_formula_in_loops(network, clip):
    """Of a score that is no linear function of the features: gradients differ from cell to cell."""
    conv, _, head = network

    def score_of(features):
        return torch.nn.functional.logsigmoid((features.tanh() * features).mean((2, 3, 4)) @ head)

    kept = {}
    grad_cam(lambda clips: score_of(conv(clips)), clip, layer=conv,
             upsample=lambda maps: kept.setdefault("maps", maps))
    features = conv(clip[None]).detach().requires_grad_()
    gradient, = torch.autograd.grad(score_of(features).sum(), features)
    slow = torch.zeros(features.shape[2:])
    for t, y, x in itertools.product(*map(range, slow.shape)):
        for channel in range(features.shape[1]):
            slow[t, y, x] += gradient[0, channel].mean() * features[0, channel, t, y, x].detach()
        slow[t, y, x] = max(slow[t, y, x], 0)
    assert 0 < (slow > 0).sum() < slow.numel()
    torch.testing.assert_close(kept["maps"], slow, atol=1e-7, rtol=1e-4)


def test_grad_cam_finds_a_spot(clip):
    """The score of a model on brightness comes from the only bright place, wherever it is."""
    model, _ = tiny_hipe()
    model.requires_grad_(False)
    for frame, y, x in ((0, 0, 0), (4, 8, 32), (6, 20, 16)):
        dark = torch.zeros(3, *SIZE)
        dark[:, frame:frame + 2, y:y + 4, x:x + 6] = 5
        heat = grad_cam(lambda clips: model.trunk(clips).amax((1, 2, 3, 4)), dark, layer=model.trunk.conv,
                        upsample=functools.partial(upsample, size=SIZE, stride=STRIDE))
        assert [int(i) for i in torch.unravel_index(heat.argmax(), SIZE)] == [frame, y, x]


def test_grad_cam_leaves_the_model_as_it_was(network, clip):
    conv, score, _ = network
    with torch.no_grad():
        grad_cam(score, clip, layer=conv, upsample=lambda maps: upsample(maps, SIZE, STRIDE))
    assert conv.weight.grad is None and not conv._forward_hooks and not clip.requires_grad


def test_random_heat_is_a_function_of_its_seed(clip):
    first, second = (random_heat(None, clip, seed=seed) for seed in (1, 2))
    assert first.shape == SIZE and torch.equal(first, random_heat(None, clip, seed=1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_methods_keep_the_contract(name, network, clip):
    conv, score, _ = network
    heat = METHODS[name](score, clip, layer=conv, upsample=functools.partial(upsample, size=SIZE, stride=STRIDE),
                         **options_of(name, seed=3, iterations=2, steps=2))
    assert heat.shape == SIZE and heat.isfinite().all() and not heat.requires_grad


@pytest.mark.slow
def test_heat_follows_time_where_features_keep_it():
    """i3d_resnet50 has no temporal stride: 16 frames get 16 different maps."""
    torch.manual_seed(0)
    trunk = TRUNKS["i3d_resnet50"]().eval().requires_grad_(False)
    head = torch.randn(trunk.out_channels)
    clip = torch.randn(3, 16, 64, 64)
    heat = grad_cam(lambda clips: trunk(clips).mean((2, 3, 4)) @ head, clip, layer=trunk,
                    upsample=functools.partial(upsample, size=(16, 64, 64), stride=trunk.stride))
    assert len(torch.unique(heat.flatten(1), dim=0)) == 16
