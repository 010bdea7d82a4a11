"""Occlusion, RISE, LIME and KernelSHAP find what a score is made of; Grad-CAM++ and HiResCAM are their formulas."""

import math

import pytest
import torch
from torch import nn

from attribution import METHODS
from attribution.grad_cam import grad_cam, grad_cam_pp, hires_cam
from attribution.occlusion import boxes_along, occluded, occlusion, rise
from attribution.superpixels import kernel_shap, lime, superpixels

SIZE = (8, 16, 24)
AT = (slice(2, 6), slice(8, 16), slice(0, 8))


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return torch.randn(3, *SIZE)


def inside(clips):
    return clips[(slice(None), 0, *AT)].mean((1, 2, 3))


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
@pytest.mark.parametrize("polarity", ["positive", "negative"])
def test_occlusion_is_what_the_score_loses_under_each_box(clip, perturbation, polarity):
    base, total, count = occluded(clip, perturbation), torch.zeros(SIZE), torch.zeros(SIZE)
    shape = [math.ceil(size / 4) for size in SIZE]
    starts = [sorted({min(k * (box // 2), size - 1) for k in range(2 * size)})
              for size, box in zip(SIZE, shape, strict=True)]
    starts = [[at for at in of if at == 0 or of[of.index(at) - 1] + box < size]
              for of, box, size in zip(starts, shape, SIZE, strict=True)]
    for t in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                box = (slice(t, t + shape[0]), slice(y, y + shape[1]), slice(x, x + shape[2]))
                other = clip.clone()
                other[(slice(None), *box)] = base[(slice(None), *box)]
                total[box] += inside(clip[None])[0] - inside(other[None])[0]
                count[box] += 1
    mean = total / count
    wanted = mean.clamp(min=0) if polarity == "positive" else -mean.clamp(max=0)
    heat = occlusion(inside, clip, perturbation=perturbation, polarity=polarity)
    torch.testing.assert_close(heat, wanted, atol=1e-5, rtol=1e-4)
    assert len(starts[0]) == boxes_along(0.25)


def test_rise_weighs_masks_by_the_score_less_its_mean(clip):
    def bright(clips):
        return clips[(slice(None), 0, *AT)].mean((1, 2, 3)).exp()

    clip[(slice(None), *AT)] = 3
    heat = rise(bright, clip, masks=300, score="activation")
    cold = torch.ones(SIZE, dtype=torch.bool)
    cold[AT] = False
    assert heat.min() == 0 and heat[AT].mean() > 3 * heat[cold].mean()
    # the logarithm of a score is the same question
    torch.testing.assert_close(rise(lambda clips: bright(clips).log(), clip, masks=300), heat, atol=1e-4, rtol=1e-3)
    # a score that depends on nothing has no heat but rounding
    assert rise(lambda clips: clips.new_ones(len(clips)), clip, masks=50, score="activation").max() < 1e-6


def test_shapley_values_of_an_additive_score_are_its_terms(clip):
    parts = superpixels(clip, 12)
    values = torch.arange(1.0, parts.max() + 2)
    base = occluded(clip, "fade")

    def additive(clips):  # a part counts where it is shown
        shown = (clips[:, 0] == clip[0]) & (clip[0] != base[0])
        return torch.tensor([sum(float(values[part]) for part in range(len(values)) if one[parts == part].all())
                             for one in shown])

    for method, tolerance in ((kernel_shap, 0.05), (lime, 0.3)):
        heat = method(additive, clip, perturbation="fade", parts=12, samples=400)
        for part, value in enumerate(values):
            own = heat[parts == part]
            assert own.max() == own.min()
            assert abs(float(own[0]) - float(value)) < tolerance * float(value) + 0.1, (method, part)


def test_superpixels_keep_to_objects_and_are_as_many_as_asked_for():
    clip = torch.full((3, 16, 56, 56), -1.0)
    clip[:, :, 14:28, 14:28] = 2
    parts = superpixels(clip, 27)
    assert parts.shape == clip.shape[1:] and sorted(parts.unique().tolist()) == list(range(int(parts.max()) + 1))
    assert 14 <= parts.max() + 1 <= 40
    inner = set(parts[:, 14:28, 14:28].flatten().tolist())
    outer = torch.ones(56, 56, dtype=torch.bool)
    outer[14:28, 14:28] = False
    assert not inner & set(parts[:, outer].flatten().tolist())


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 40, 40), (40, 1, 3), (3, 7, 5)])
def test_methods_without_gradients_take_clips_of_any_size(size):
    clip = torch.randn(3, *size)
    for name in ("occlusion", "rise", "lime", "kernel_shap"):
        options = {"masks": 4, "samples": 8, "parts": 8}
        heat = METHODS[name](lambda clips: clips.mean((1, 2, 3, 4)), clip,
                             **{key: value for key, value in options.items() if key in METHODS[name].options})
        assert heat.shape == size and heat.isfinite().all() and heat.min() >= 0


def test_the_callers_random_state_is_left_as_it_was(clip):
    state = torch.get_rng_state()
    for name in ("rise", "lime", "kernel_shap"):
        heats = [METHODS[name](inside, clip, seed=seed) for seed in (1, 1, 2)]
        assert torch.equal(heats[0], heats[1]) and not torch.equal(heats[0], heats[2])
    assert torch.equal(state, torch.get_rng_state())


class Linear(nn.Module):
    """A layer, and a linear head of its mean features."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(3, 5, 4, 4)
        self.weights = torch.randn(5)

    def score(self, clips):
        return self.layer(clips).mean((2, 3, 4)) @ self.weights


def test_hires_cam_is_what_each_cell_adds_to_a_linear_score(clip):
    toy = Linear()
    heat = hires_cam(toy.score, clip, layer=toy.layer, upsample=lambda maps: maps)
    with torch.no_grad():
        features = toy.layer(clip[None])[0]
    cells = torch.einsum("cthw,c->thw", features, toy.weights) / features[0].numel()
    torch.testing.assert_close(heat, cells.clamp(min=0))
    assert not torch.allclose(heat / heat.max(), grad_cam(toy.score, clip, layer=toy.layer, upsample=lambda maps: maps))


def test_grad_cam_pp_is_its_formula(clip):
    toy = Linear()

    def score(clips):  # whose gradient differs from cell to cell
        return (toy.layer(clips).square().mean((2, 3, 4)) @ toy.weights).tanh()

    heat = grad_cam_pp(score, clip, layer=toy.layer, upsample=lambda maps: maps)
    features = toy.layer(clip[None]).detach().requires_grad_()
    (features.square().mean((2, 3, 4)) @ toy.weights).tanh().sum().backward()
    wanted = torch.zeros(features.shape[2:])
    for c in range(5):
        weight = 0.0
        for g in features.grad[0, c].flatten().tolist():
            weight += g * g / (2 * g * g + g ** 3 * float(features[0, c].detach().sum())) * max(g, 0)
        wanted += weight * features[0, c].detach()
    torch.testing.assert_close(heat, wanted.clamp(min=0), rtol=1e-3, atol=1e-6)
