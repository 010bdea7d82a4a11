"""Gradients have known answers, and every method but random finds the region that a score is made of."""

import pytest
import torch
from attributable import WITHOUT_ATTENTION
from toy import CELLS, INSIDE, REGION, SIZE, STRIDE, Toy, toy_clip

from attribution import METHODS, options_of
from attribution.gradients import POLARITIES, at_a_time, grad, grad_input, integrated_grad, smooth_grad
from models.geometry import upsample


@pytest.fixture
def clip():
    return toy_clip()


def by_polarity(method, score, clip, **options):
    return {polarity: method(score, clip, polarity=polarity, **options) for polarity in POLARITIES}


@pytest.mark.parametrize(("method", "factor"), [(grad, False), (smooth_grad, False), (grad_input, True),
                                                (integrated_grad, True)])
def test_a_linear_score_is_told_exactly(method, factor, clip):
    weights = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))
    found = by_polarity(method, lambda clips: (clips * weights).sum((1, 2, 3, 4)), clip)
    signed = weights * clip if factor else weights
    for polarity, expected in (("positive", signed.clamp(min=0)), ("negative", -signed.clamp(max=0)),
                               ("both", signed.abs())):
        torch.testing.assert_close(found[polarity], expected.sum(0), atol=1e-4, rtol=1e-4)
        assert not found[polarity].requires_grad


def test_integrated_gradients_are_complete(clip):
    torch.manual_seed(3)
    toy, baseline = Toy(), 0.1 * torch.randn(3, *SIZE)
    found = by_polarity(integrated_grad, toy.log_prob, clip, steps=60, baseline=baseline)
    gained = float((toy.log_prob(clip[None]) - toy.log_prob(baseline[None])).detach())
    assert float(found["positive"].sum() - found["negative"].sum()) == pytest.approx(gained, rel=0.01)


def test_noise_is_a_function_of_its_seed(clip):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    toy = Toy()
    after = torch.get_rng_state()
    first, again, other = (smooth_grad(toy.log_prob, clip, seed=seed, steps=3) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(after, torch.get_rng_state()) and not torch.equal(state, after)


def test_an_unknown_polarity_is_an_error(clip):
    with pytest.raises(ValueError, match="polarity"):
        grad(Toy().log_prob, clip, polarity="up")


@pytest.mark.parametrize("name", [name for name in WITHOUT_ATTENTION if name != "random"])
def test_every_method_finds_the_region(name, clip):
    torch.manual_seed(0)
    toy = Toy()
    options = options_of(name, areas=[0.05], iterations=130 if name == "step" else 60, sigma=4, step=7,
                         perturbation="fade", steps=8)
    heat = METHODS[name](toy.log_prob, clip, layer=toy, upsample=lambda maps: upsample(maps, SIZE, STRIDE), **options)
    assert heat.shape == SIZE and heat.min() >= 0 and not heat.requires_grad
    assert float(heat[INSIDE].mean()) > 2.5 * float(heat[~INSIDE].mean())
    peak = torch.unravel_index(heat.argmax(), SIZE)
    assert all(part.start - s <= int(at) < part.stop for part, s, at in zip(REGION, STRIDE, peak, strict=True))


def test_the_toy_reads_its_region_alone(clip):
    toy = Toy()
    other = clip.clone()
    other[:, ~INSIDE] = 5
    assert torch.equal(toy.log_prob(clip[None]), toy.log_prob(other[None]))
    assert toy(clip[None])[0, 0][CELLS].min() > 2 * toy(clip[None])[0, 0].median()


def test_large_clips_go_through_the_network_one_by_one():
    sizes = (16, 112), (16, 224), (32, 224), (64, 224), (128, 448)
    assert [at_a_time(frames * size ** 2) for frames, size in sizes] == [4, 4, 2, 1, 1]
