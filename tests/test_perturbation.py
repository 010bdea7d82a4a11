"""Extremal perturbations: each part against the formula written out, and masks whose answer is known."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from toy import INSIDE, Toy, toy_clip

from attribution.masks import ELLIPSOID, Degradations, SmoothMask, area_penalty, roughness
from attribution.perturbation import AREA_WEIGHT, AREAS, ENERGIES, extremal_masks
from models.resnet3d import ResNet3D


def unfolded_mask(values, size, step, sigma):
    """The mask by a tensor of all neighbours' weights at all pixels: (M, gh, gw) -> (M, H', W')."""
    radius, padding = 1 + math.ceil(sigma / step), 1 + math.ceil(2 * sigma / step)
    cells = [math.ceil(n / step) + 2 * (padding - radius) for n in size]
    high, wide = (step * n - step + 1 for n in cells)
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    grid = F.pad(values, (padding,) * 4)
    terms = []
    for ky in range(2 * radius + 1):
        for kx in range(2 * radius + 1):
            rows, columns = y // step + ky, x // step + kx  # in the padded grid
            away = torch.sqrt((y - sigma - step * (rows - padding)).double() ** 2
                              + (x - sigma - step * (columns - padding)).double() ** 2) / sigma
            weight = torch.exp(-2 * (away - 0.5).clamp(min=0) ** 2).to(values)
            terms.append(weight * grid[:, rows, columns])
    terms = torch.stack(terms)
    return (terms * (20 * terms).softmax(0)).sum(0)


@pytest.mark.parametrize(("size", "step", "sigma"), [((28, 35), 7, 4), ((30, 16), 5, 6), ((22, 50), 7, 11)])
def test_the_smooth_mask_is_the_unfolded_one(size, step, sigma):
    operator = SmoothMask(size, step=step, sigma=sigma, dtype=torch.float64)
    values = torch.rand(2, 3, *operator.grid, dtype=torch.float64, requires_grad=True)
    mask, padded = operator(values)
    slow = unfolded_mask(values.flatten(0, 1), size, step, sigma).unflatten(0, (2, 3))
    torch.testing.assert_close(padded, slow)
    assert mask.shape == (2, 3, *size) and padded.shape[2:] == operator.padded
    torch.testing.assert_close(mask, slow[..., sigma:sigma + size[0], sigma:sigma + size[1]])
    probe = torch.randn_like(padded)
    torch.testing.assert_close(*(torch.autograd.grad((one * probe).sum(), values)[0] for one in (padded, slow)))


def test_a_mask_stands_where_its_grid_point_is():
    operator = SmoothMask((56, 70))
    values = torch.zeros(1, *operator.grid)
    values[0, 2, 6] = 1
    mask = operator(values)[0][0]
    assert mask[14, 42] == pytest.approx(1, abs=1e-4) and mask.max() <= 1
    assert mask[14, 42 + 11] > 0.5 > mask[14, 42 + 22]
    torch.testing.assert_close(mask[14, 24:43].flip(0), mask[14, 42:61])


@pytest.mark.parametrize("sigma", [1, 2, 3, 5, 23])
def test_any_sigma_covers_the_frame(sigma):
    operator = SmoothMask((24, 31), sigma=sigma)
    mask, padded = operator(torch.ones(2, *operator.grid))
    assert mask.shape == (2, 24, 31) and padded.shape == (2, *operator.padded)
    assert (padded.shape[1] >= 24 + round(sigma)) and mask.max() > 0.8


@pytest.mark.parametrize("kind", ["blur", "fade"])
def test_the_pyramid_goes_from_ruin_to_the_clip(kind):
    clips = torch.randn(2, 3, 2, 9, 12)
    pyramid = Degradations(clips, kind=kind, strongest=4)
    which = torch.tensor([1, 0, 1])
    torch.testing.assert_close(pyramid(torch.ones(3, 2, 9, 12), which), clips[which])
    torch.testing.assert_close(pyramid(torch.zeros(3, 2, 9, 12), which), pyramid.levels[0, which])
    between = 0.7 * pyramid.levels[3, which] + 0.3 * pyramid.levels[4, which]
    torch.testing.assert_close(pyramid(torch.full((3, 2, 9, 12), 3.3 / 7), which), between, atol=1e-5, rtol=1e-4)
    edges = pyramid.levels.diff(dim=-1).std((1, 2, 3, 4, 5))
    assert (edges.diff() > 0).all()
    if kind == "fade":
        torch.testing.assert_close(pyramid.levels[2], clips * 2 / 7)


def test_a_blur_is_a_gaussian_and_keeps_what_is_even():
    clips = torch.ones(1, 3, 1, 60, 61)
    torch.testing.assert_close(Degradations(clips).levels, torch.ones(8, 1, 3, 1, 60, 61))
    clips = torch.zeros(1, 3, 1, 60, 61)
    clips[..., 30, 30] = 1
    row = Degradations(clips, strongest=5).levels[0, 0, 0, 0, 30]
    torch.testing.assert_close(row / row[30], torch.exp(-(torch.arange(61) - 30.0) ** 2 / 50) * (row > 0), atol=1e-5,
                               rtol=1e-4)


def sorted_penalty(masks, areas):
    """Rows sorted, and held against a step of the area's size."""
    n = masks.shape[-1]
    reference = torch.ones(len(areas), *[1] * (masks.dim() - 2), n)
    for i, area in enumerate(areas.double().tolist()):
        reference[i, ..., :int(n * (1 - area))] = 0
    return (masks.sort(-1).values - reference).square().flatten(1).mean(1)


@pytest.mark.parametrize("shape", [(4, 333), (4, 5, 97)])
def test_the_area_penalty_is_that_of_the_sorted_mask(shape):
    areas = torch.tensor([0.01, 0.1, 0.2, 0.1])
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fast, slow = area_penalty(masks, areas), sorted_penalty(masks, areas)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(one.sum(), masks)[0] for one in (fast, slow)))


def test_equal_values_share_the_area():
    """The mean over all orders in which a sort could put them."""
    masks = torch.full((1, 100), 0.6, requires_grad=True)
    penalty = area_penalty(masks, torch.tensor([0.25]))
    torch.testing.assert_close(penalty, sorted_penalty(masks, torch.tensor([0.25])))
    gradient, = torch.autograd.grad(penalty.sum(), masks)
    torch.testing.assert_close(gradient, torch.full((1, 100), 2 * (0.6 - 0.25) / 100))


def test_roughness_is_its_formula_and_prefers_ellipsoids():
    areas = torch.tensor([0.02, 0.1])
    masks = torch.rand(2, 9, 30, 37)
    slow = []
    for mask, area in zip(masks, areas.tolist(), strict=True):
        means = []
        for t in range(9 - 6):
            for y in range(0, 30 - 10, 11):
                for x in range(0, 37 - 10, 11):
                    inside = [float(mask[t + i, y + j, x + k]) for i in range(7) for j in range(11) for k in range(11)
                              if ((i - 3) / 3) ** 2 + ((j - 5) / 5) ** 2 + ((k - 5) / 5) ** 2 <= 1 + 1e-6]
                    means.append(sum(inside) / len(inside))
        means = torch.tensor(sorted(means, reverse=True))
        full = min(math.ceil(area * mask.numel() / int(math.prod(ELLIPSOID) * 0.5236)), len(means) - 1)
        slow.append(((means[:full] - 1) ** 2).mean() + (means[full:] ** 2).mean())
    torch.testing.assert_close(roughness(masks, areas), torch.stack(slow), atol=1e-5, rtol=1e-4)
    lump = torch.zeros(1, 9, 30, 37)
    lump[:, 1:8, 0:11, 11:22] = 1
    scattered = lump.flatten()[torch.randperm(lump.numel())].view_as(lump)
    area = lump.mean()[None]
    assert roughness(lump, area) < roughness(scattered, area)


def fair_penalty(rows, area):
    """The penalty of sorted rows, each the mean over the orders in which equal values may stand."""
    total = 0.0
    for row in rows:
        zeros = int(len(row) * (1 - area))
        edge = row.detach().sort().values[zeros]
        equal, above = (row.detach() - edge).abs() <= 1e-5, row.detach() > edge + 1e-5
        share = (len(row) - zeros - above.sum()) / equal.sum()
        step = (row - 1) ** 2
        total = total + torch.where(above, step, torch.where(equal, share * step + (1 - share) * row ** 2,
                                                             row ** 2)).mean()
    return total / len(rows)


def naive_values(score, clip, how, area, variant, iterations, sigma):
    """One mask of one clip, by torch's own optimiser, sorting and unfolded weights: the grid after every iteration."""
    recipe, size = ENERGIES[how], tuple(clip.shape[2:])
    values = torch.ones(clip.shape[1], *(math.ceil(n / 7) for n in size), requires_grad=True)
    optimiser = torch.optim.SGD([values], lr=0.05, momentum=0.9, dampening=0.9)
    weight, history = AREA_WEIGHT, []
    for i in range(iterations):
        padded = unfolded_mask(values, size, 7, sigma)
        mask = padded[:, sigma:sigma + size[0], sigma:sigma + size[1]]
        losses = []
        if variant != "delete":
            losses.append(-score((clip * mask)[None]))  # fading is linear, whatever the number of levels
        if variant != "preserve":
            losses.append(-torch.log(1 - score((clip * (1 - mask))[None]).exp()))
        wanted = torch.tensor([area])
        rows = padded.flatten(1) if recipe.per_frame else padded.flatten()[None]
        energy = recipe.score_weight * sum(losses) / len(losses) + weight * fair_penalty(rows, wanted.double().item())
        if i >= recipe.smooth_start:
            energy = energy + recipe.smooth_weight * roughness(padded[None], wanted)
        optimiser.zero_grad()
        energy.sum().backward()
        optimiser.step()
        values.data.clamp_(0, 1)
        weight *= recipe.area_growth
        history.append(values.detach().clone())
    return torch.stack(history)


@pytest.mark.parametrize("how", ENERGIES)
def test_batched_masks_are_those_of_a_naive_optimisation(how, monkeypatch):
    recipe = ENERGIES[how]
    monkeypatch.setitem(ENERGIES, how, dataclasses.replace(recipe, smooth_start=4))
    toy, clips, areas = Toy(), torch.stack([toy_clip(0), toy_clip(1)]), (0.05, 0.3)
    found = extremal_masks(toy.log_prob, clips, how=how, areas=areas, variants=("preserve", "delete", "dual"),
                           perturbation="fade", iterations=8, step=7, sigma=4, every=1, patience=None,
                           tolerance=None)
    assert found.mask_history.shape[:4] == (8, 2, 2, 3) and found.losses.shape == (8, 2, 2, 3)
    for clip, area, variant in ((0, 0, 0), (1, 1, 1), (0, 1, 2)):
        slow = naive_values(toy.log_prob, clips[clip], how, areas[area], ("preserve", "delete", "dual")[variant], 8, 4)
        torch.testing.assert_close(found.mask_history[:, clip, area, variant], slow, atol=5e-3, rtol=1e-3)


WIDE = (slice(2, 5), slice(8, 20), slice(12, 27))  # a region of a clip on which areas are fine
# the region is .06 of the padded clip and .13 of its frames, and shorter than an ellipsoid
ENOUGH = {"2d_ep": 0.15, "3d_ep": 0.1, "step": 0.2}


def wide_region():
    inside = torch.zeros(7, 28, 35, dtype=torch.bool)
    inside[WIDE] = True
    return inside


@pytest.fixture(scope="module")
def optimised():
    """Masks of all areas for a score that only the brightness of a region decides."""
    clip = 0.2 * torch.randn(3, 7, 28, 35, generator=torch.Generator().manual_seed(0))
    clip[:, wide_region()] += 1

    def score(clips, _):
        return F.logsigmoid(8 * (clips[(slice(None), slice(None), *WIDE)].mean((1, 2, 3, 4)) - 0.5))
    with pytest.MonkeyPatch.context() as patch:  # the smooth term joins before the area is closed in on
        patch.setitem(ENERGIES, "step", dataclasses.replace(ENERGIES["step"], smooth_start=30))
        return {how: extremal_masks(score, clip[None], how=how, perturbation="fade", step=3, sigma=2, iterations=120,
                                    patience=None, every=119) for how in ENERGIES}


@pytest.mark.parametrize("how", ENERGIES)
def test_masks_have_their_areas(how, optimised):
    assert optimised[how].areas[0, :, 0].tolist() == pytest.approx(list(AREAS), abs=0.02)
    assert optimised[how].masks.min() >= 0 and optimised[how].masks.max() <= 1


@pytest.mark.parametrize("how", ENERGIES)
def test_masks_cover_the_region(how, optimised):
    mask, inside = optimised[how].masks[0, AREAS.index(ENOUGH[how]), 0], wide_region()
    assert mask[inside].mean() > 0.7 and mask[inside].mean() > 3 * mask[~inside].mean()


def test_step_finds_the_region_with_the_published_start_of_its_smoothness():
    torch.manual_seed(0)
    found = extremal_masks(Toy().log_prob, toy_clip()[None], how="step", areas=(0.05, 0.1, 0.2), sigma=4, step=7,
                           perturbation="fade", iterations=130)
    for mask in found.masks[0, :, 0]:
        assert mask[INSIDE].mean() > 2.5 * mask[~INSIDE].mean()


def test_the_published_energy_alone_pays_for_any_area():
    """The score outweighs an area that is too small for it; that is what the tolerance is for."""
    clip = wide_region().expand(1, 3, -1, -1, -1).float()
    found = extremal_masks(lambda clips, _: -(clips - clip)[:, :, wide_region()].square().mean((1, 2)), clip,
                           areas=(0.01,), perturbation="fade", step=3, sigma=2, iterations=120, patience=None,
                           tolerance=None)
    assert found.areas.item() > 0.04


@pytest.mark.slow
@pytest.mark.parametrize("how", ENERGIES)
def test_masks_of_a_real_trunk_have_their_areas(how):
    """Of a 3D-ResNet that reads noise, whose score no small area keeps."""
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125).eval().requires_grad_(False)
    head = torch.nn.Linear(trunk.out_channels, 5).requires_grad_(False)
    head.weight *= 20
    found = extremal_masks(lambda clips, _: head(trunk(clips).mean((2, 3, 4))).log_softmax(-1)[:, 0],
                           torch.randn(1, 3, 8, 32, 32), how=how, areas=(0.02, 0.2), variants=("preserve", "delete"),
                           iterations=240)
    for i, area in enumerate((0.02, 0.2)):
        assert found.areas[0, i].tolist() == pytest.approx([area] * 2, abs=0.02)


@pytest.mark.slow
def test_masks_of_the_published_scale():
    """16 frames of 112 pixels, in fewer iterations than published."""
    region = (slice(4, 12), slice(30, 70), slice(50, 90))
    clip = 0.2 * torch.randn(3, 16, 112, 112, generator=torch.Generator().manual_seed(0))
    clip[(slice(None), *region)] += 1
    inside = torch.zeros(16, 112, 112, dtype=torch.bool)
    inside[region] = True

    def score(clips, _):
        return F.logsigmoid(8 * (clips[(slice(None), slice(None), *region)].mean((1, 2, 3, 4)) - 0.5))
    for how in ("3d_ep", "step"):
        found = extremal_masks(score, clip[None], how=how, areas=(0.1,), perturbation="fade", iterations=450)
        mask = found.masks[0, 0, 0]
        assert found.areas.item() == pytest.approx(0.1, abs=0.02)
        assert mask[inside].mean() > 0.8 and mask[inside].mean() > 5 * mask[~inside].mean()


def test_only_a_mask_over_the_clip_can_keep_to_the_frames_that_matter(optimised):
    masks = {how: found.masks[0, AREAS.index(0.1), 0] for how, found in optimised.items()}
    share = {how: float(mask[WIDE[0]].sum() / mask.sum()) for how, mask in masks.items()}
    assert share["3d_ep"] > 0.85
    assert share["2d_ep"] < 0.7


def test_step_is_smoother_by_its_own_measure(optimised):
    operator, areas = SmoothMask((28, 35), step=3, sigma=2), torch.tensor(AREAS)
    rough = {how: roughness(operator(optimised[how].mask_history[-1][0, :, 0])[1], areas) for how in ("3d_ep", "step")}
    assert (rough["step"] < rough["3d_ep"]).all()


def test_a_mask_is_finished_when_its_energy_falls_no_more():
    found = extremal_masks(lambda clips, _: clips.sum((1, 2, 3, 4)) * 0 - 1, toy_clip()[None], areas=(0.2,), sigma=4,
                           step=7, perturbation="fade", iterations=400, patience=5)
    assert found.iterations.item() == len(found.losses) < 400 and not found.interrupted


def test_ctrl_c_gives_the_best_mask_so_far():
    toy, calls = Toy(), []

    def score(clips, which):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return toy.log_prob(clips)

    found = extremal_masks(score, toy_clip()[None], areas=(0.1,), sigma=4, perturbation="fade", iterations=500)
    assert found.interrupted and len(found.losses) == len(found.area_history) == 39
    assert found.areas.item() < 0.6 and found.masks.isfinite().all()


@pytest.mark.parametrize("score", ["log_prob", "activation"])
def test_scores_that_are_not_finite_are_said(score):
    clips = toy_clip()[None].repeat(2, 1, 1, 1, 1)
    clips[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite scores, and that of clip 1"):
        extremal_masks(lambda clips, _: clips.mean((1, 2, 3, 4)) - 1, clips, areas=(0.1, 0.2), sigma=4, score=score)


def test_ctrl_c_before_the_first_iteration():
    def score(clips, which):
        raise KeyboardInterrupt

    found = extremal_masks(score, toy_clip()[None], areas=(0.1,), sigma=4)
    assert found.interrupted and len(found.losses) == len(found.mask_history) == 0 and found.masks.mean() > 0.9


def test_clips_are_told_apart():
    """Each clip's rows come with its number: one is asked for its region, the other for a constant."""
    toy = Toy()
    asked = []

    def score(clips, which):
        asked.append(which)
        return torch.where(which == 0, toy.log_prob(clips), torch.full((len(clips),), -1.0))

    found = extremal_masks(score, torch.stack([toy_clip(), toy_clip()]), areas=(0.1,), sigma=4, perturbation="fade",
                           variants=("preserve", "dual"), iterations=30, tolerance=None)
    assert sorted(set(asked[0].tolist())) == [0, 1] and len(asked[0]) == 6
    assert found.masks[0, 0, 0][INSIDE].mean() > 2 * found.masks[1, 0, 0][INSIDE].mean()


def test_an_activation_is_a_share_of_the_highest():
    found = extremal_masks(lambda clips, _: clips.mean((1, 2, 3, 4)) * 0 + math.log(1e4) / 2, toy_clip()[None],
                           areas=(0.1,), variants=("preserve", "delete"), score="activation", sigma=4, iterations=1,
                           perturbation="fade")
    torch.testing.assert_close(found.losses[0, 0, 0], torch.full((2,), math.log(2)))


@pytest.mark.parametrize(("options", "message"), [
    ({"areas": (0.1, 1.0)}, "between 0 and 1"), ({"areas": (0.0,)}, "between 0 and 1"), ({"areas": ()}, "area"),
    ({"variants": ("keep",)}, "preserve"), ({"perturbation": "noise"}, "blur"), ({"score": "logit"}, "log_prob"),
    ({"how": "4d_ep"}, "2d_ep")])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        extremal_masks(Toy().log_prob, toy_clip()[None], **options)


def test_the_published_energy_has_no_tolerance_and_its_own_rate():
    toy, clips = Toy(), toy_clip()[None]
    how = {"areas": (0.1,), "iterations": 12, "patience": 4, "sigma": 4, "perturbation": "fade"}
    published, spelt, ours = (extremal_masks(lambda clips, _: toy.log_prob(clips), clips, **how, **more).masks
                              for more in ({"published_energy": True}, {"tolerance": None, "rate": 0.05}, {}))
    assert torch.equal(published, spelt) and not torch.equal(published, ours)
    with pytest.raises(TypeError, match="tolerence"):
        extremal_masks(lambda clips, _: toy.log_prob(clips), clips, tolerence=0.1)


def test_step_needs_frames_for_its_ellipsoid():
    with pytest.raises(ValueError, match="7 frames"):
        extremal_masks(Toy().log_prob, toy_clip()[None, :, :4], how="step")


@pytest.mark.parametrize("size", [(7, 4, 40), (7, 9, 9)])
def test_step_needs_pixels_for_its_ellipsoids(size):
    with pytest.raises(ValueError, match="two ellipsoids"):
        extremal_masks(lambda clips, _: clips.mean((1, 2, 3, 4)), torch.ones(1, 3, *size), how="step", iterations=1)
