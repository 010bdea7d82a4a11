"""Extremal perturbations of clips: which smooth mask of a given area keeps, or kills, the score (2d_ep, 3d_ep, step).

Fong et al., ICCV 2019, for clips by Li et al., WACV 2021. All masks of a call (clips x areas x variants) are optimised
together, each on its own: no mask depends on the others in its batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from tqdm import tqdm

AREAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)  # as published, shares of the clip
VARIANTS = ("preserve", "delete", "dual")  # keep only what the mask covers, cover it, or both with one mask
PERTURBATIONS = ("blur", "fade")
SCORES = ("log_prob", "activation")
SIGMA = 0.1025  # of a frame's longer side: 11 pixels of 112, 23 of 224
STEP = 0.64  # of sigma, and at most 7 pixels
COLDNESS = 20.0  # of the softmax by which neighbouring grid points are pooled
TOP_ACTIVATION = math.log(1e4)  # logarithmic similarity of a prototype and a patch that are equal
MARGIN = 1e-6  # probabilities stay this far inside 0 .. 1
TIE = 1e-5  # values of a mask that differ by no more are equal: float32 rounds e^20 by as much
FALLS = 1e-3  # relative; an energy that falls by less than that counts as one that does not
TOLERANCE = 0.015  # by which a mask may miss its area before that counts for more than the score
MISSED = 1e4  # the energy by which masks are compared grows by that for an area of 1 beyond the tolerance
CLOSING = 0.25  # share of the iterations that is left to the area of masks which miss theirs; in these
AIMING = 16.0  # the area that the penalty is told moves by that times the miss, and ...
PRESSURE = 1e3  # ... where it cannot move further, the area counts by up to so much more
PUBLISHED_GRID = 16 ** 3  # points of the grid of 16 frames of 112 pixels


@dataclass(frozen=True)
class Recipe:
    """What sets 2d_ep, 3d_ep and step apart."""

    per_frame: bool  # whether each frame has the area, or the whole clip
    score_weight: float
    area_growth: float = 1.0  # of the area's weight, an iteration
    smooth_weight: float = 0.0
    smooth_start: int = 100  # iterations before the smoothness term joins


RECIPES = {"2d_ep": Recipe(True, 100.0), "3d_ep": Recipe(False, 100.0),
           "step": Recipe(False, 1.0, area_growth=1.0008668, smooth_weight=300.0)}
AREA_WEIGHT = 300.0
RATE = 0.05
ELLIPSOID = (7, 11, 11)  # frames, pixels, pixels


class _SmoothMax(torch.autograd.Function):
    """Pool what every grid point around a pixel, times its weight there, to a soft maximum: sum x e^20x / sum e^20x.

    Pixels at the same phase of the grid's step share their weights. So pixels are kept phase by phase, and the
    neighbours' terms are summed as they come: of (2 r + 1)^2 unfolded copies of the mask none is ever stored.
    """

    @staticmethod
    def forward(ctx, grid: Tensor, weights: Tensor) -> Tensor:
        """(M, a, b) padded grids, (k, k, p) weights at p phases -> (p, M, a - k + 1, b - k + 1)."""
        k = len(weights)
        total = grid.new_zeros(weights.shape[2], len(grid), grid.shape[1] - k + 1, grid.shape[2] - k + 1)
        pooled = torch.zeros_like(total)
        for neighbour, weight in _neighbours(grid, weights):
            terms = weight * neighbour  # (p, M, a', b')
            powers = (COLDNESS * terms).exp_()
            total += powers
            pooled.addcmul_(powers, terms)
        pooled /= total
        ctx.save_for_backward(grid, weights, pooled, total)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        grid, weights, pooled, total = ctx.saved_tensors
        scale, offset = gradient / total, 1 - COLDNESS * pooled
        result = torch.zeros_like(grid)
        pieces = _neighbours(result, weights)
        for (neighbour, weight), (piece, _) in zip(_neighbours(grid, weights), pieces, strict=True):
            exponents = COLDNESS * weight * neighbour
            slopes = (exponents + offset).mul_(exponents.exp_()).mul_(scale)  # (p, M, a', b')
            piece.add_((weight.flatten() @ slopes.flatten(1)).view_as(piece))
        return result, None


def _neighbours(grid: Tensor, weights: Tensor):
    """Every shift of the grid, (M, a', b') views, with its weights (p, 1, 1, 1)."""
    k = len(weights)
    rows, columns = grid.shape[1] - k + 1, grid.shape[2] - k + 1
    for y in range(k):
        for x in range(k):
            yield grid[:, y:y + rows, x:x + columns], weights[y, x, :, None, None, None]


class SmoothMask:
    """From a coarse grid of values to a smooth mask: the soft maximum over the grid's points of value x kernel.

    The kernel of a point at distance z sigma is exp(-2 max(z - 1/2, 0)^2). The area penalty acts on a mask that is
    wider than the frame by sigma on all sides (and what completes a step), where points inside reach over the border.

    Args:
        size: (H, W) of the frames.
        step: pixels from one grid point to the next.
        sigma: pixels.
    """

    def __init__(self, size: tuple[int, int], *, step: int = 7, sigma: float = 11, device: torch.device | None = None,
                 dtype: torch.dtype = torch.float32) -> None:
        self.size, self.step, self.margin = size, step, round(sigma)
        self.grid = tuple(math.ceil(n / step) for n in size)
        radius = 1 + math.ceil(sigma / step)
        # as published, but wide enough for a small sigma, too
        least = math.ceil(((self.margin - 1) / step + 1) / 2)
        wider = max(math.ceil(2 * sigma / step) - math.ceil(sigma / step), least)
        self.padding = radius + wider
        self.cells = tuple(n + 2 * wider for n in self.grid)
        self.padded = tuple(step * n - step + 1 for n in self.cells)
        # of neighbour i, seen from the first pixel of a cell, along one axis
        start = step * (torch.arange(2 * radius + 1, dtype=torch.float64) - self.padding) + sigma
        away = (torch.arange(step) - start[:, None]).square()  # (k, step)
        distance = (away[:, None, :, None] + away[None, :, None, :]).sqrt() / sigma  # (k, k, step, step)
        kernel = torch.exp(-2 * (distance - 0.5).clamp(min=0).square())
        self.weights = kernel.flatten(2).to(device, dtype)  # (k, k, step step)

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(..., gh, gw) in 0..1 -> the mask (..., H, W), and the padded one (..., H', W') that the area counts on."""
        grid = F.pad(values.flatten(0, -3), (self.padding,) * 4)  # (M, a, b)
        pooled = _SmoothMax.apply(grid, self.weights)  # (p, M, a', b')
        blocks = pooled.unflatten(0, (self.step, self.step)).permute(2, 3, 0, 4, 1)  # (M, a', step, b', step)
        whole = blocks.flatten(3, 4).flatten(1, 2)[:, :self.padded[0], :self.padded[1]]
        whole = whole.unflatten(0, values.shape[:-2])
        top, (height, width) = self.margin, self.size
        return whole[..., top:top + height, top:top + width], whole


class Pyramid:
    """A clip at several degrees of ruin, between which a mask chooses, linearly: 1 leaves a voxel as it is.

    Args:
        clips: (B, 3, T, H, W).
        kind: "blur" (frame by frame) or "fade" (towards 0, the mean colour).
        levels: how many.
        strongest: standard deviation of the strongest blur in pixels.
    """

    def __init__(self, clips: Tensor, *, kind: str = "blur", levels: int = 8, strongest: float = 20.0) -> None:
        kept = torch.linspace(0, 1, levels).tolist()
        fade = kind == "fade"
        stages = [clips * share if fade else _blurred(clips, (1 - share) * strongest) for share in kept]
        self.levels = torch.stack(stages)  # (levels, B, 3, T, H, W)
        self._place = torch.arange(clips.numel(), device=clips.device).view(clips.shape)

    def __call__(self, masks: Tensor, clip_of: Tensor) -> Tensor:
        """Masks (n, T, H, W) in 0..1 and the clips (n,) int64 that they are for -> (n, 3, T, H, W)."""
        level = masks * (len(self.levels) - 1)
        below = level.detach().floor().clamp(max=len(self.levels) - 2)
        size = self._place.numel()
        index = self._place[clip_of] + size * below.long()[:, None]  # (n, 3, T, H, W)
        clearer = self.levels.take(index + size)
        return torch.lerp(self.levels.take(index), clearer, (level - below)[:, None].expand_as(clearer))


def _blurred(clips: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of every frame; beyond its border a frame goes on as it ends."""
    if sigma == 0:
        return clips
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1, device=clips.device).square() / (2 * sigma ** 2))
    kernel = (kernel / kernel.sum()).to(clips.dtype).view(1, 1, -1)
    for axis in (-1, -2):
        lines = clips.movedim(axis, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (radius, radius), mode="replicate")
        clips = F.conv1d(padded, kernel).view(lines.shape).movedim(-1, axis)
    return clips


@torch.no_grad()
def _step(rows: Tensor, zeros: Tensor) -> Tensor:
    """Which values of each row ought to be 1, when all but the largest ought to be 0.

    No sort is needed, only the value where the step stands. Values that are equal to it, up to rounding, share what is
    left of the ones, which is what sorting in random order comes to on average.

    Args:
        rows: (n, rows, N). zeros: (n,) int64, how many of a row ought to be 0.
    Returns:
        like rows, in 0 .. 1.
    """
    edge = rows.new_empty(rows.shape[:2])
    for k in zeros.unique().tolist():  # one for each area
        edge[zeros == k] = rows[zeros == k].kthvalue(k + 1).values
    edge = edge[..., None]
    above, equal = rows > edge + TIE, (rows - edge).abs() <= TIE
    left = (rows.shape[-1] - zeros)[:, None, None] - above.sum(-1, keepdim=True)
    return above + equal * (left / equal.sum(-1, keepdim=True)).to(rows.dtype)


def area_penalty(masks: Tensor, areas: Tensor) -> Tensor:
    """How far sorted masks are from steps: mean squared distance to 0 of all but the largest values, to 1 of those.

    Args:
        masks: (n, ..., N), each of whose rows of N voxels has the area.
        areas: (n,) shares.
    Returns:
        (n,), the mean over rows.
    """
    rows = masks.flatten(1, -2) if masks.dim() > 2 else masks[:, None]  # (n, rows, N)
    n = rows.shape[-1]
    ones = _step(rows, (n * (1 - areas.double())).long().clamp(0, n - 1))
    return (rows.square() - 2 * ones * rows + ones).mean((1, 2))


def roughness(masks: Tensor, areas: Tensor) -> Tensor:
    """How far masks are from being made of ellipsoids of 7 frames x 11 x 11 pixels: the smoothness term of step.

    Means over ellipsoids on every frame and every 11 pixels: as many as fit into the area ought to be full, all others
    empty.

    Args:
        masks: (n, T, H', W'), padded ones.
        areas: (n,) shares.
    Returns:
        (n,): mean squared distance to 1 of the fullest, plus that to 0 of the others.
    """
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n, device=masks.device) for n in ELLIPSOID), indexing="ij")
    kernel = (sum(axis.square() for axis in axes) <= 1 + 1e-6).to(masks.dtype)
    long, high, wide = ELLIPSOID
    rows, columns = masks.shape[2] // high, masks.shape[3] // wide
    tiles = masks[:, :, :rows * high, :columns * wide].unflatten(3, (columns, wide)).unflatten(2, (rows, high))
    slices = torch.einsum("ntryck,dyk->dntrc", tiles, kernel / kernel.sum())  # each ellipsoid's share of each frame
    n_starts = masks.shape[1] - long + 1
    means = sum(one[:, i:i + n_starts] for i, one in enumerate(slices)).flatten(1)
    n, volume = means.shape[1], int(math.prod(ELLIPSOID) * 0.5236)  # of an ellipsoid in its box: pi / 6
    full = torch.ceil(areas.double() * masks[0].numel() / volume).long().clamp(max=n - 1)  # (n,)
    ones = _step(means[:, None], n - full)[:, 0]
    return ((means - 1).square() * ones).sum(1) / full + (means.square() * (1 - ones)).sum(1) / (n - full)


@dataclass(frozen=True)
class Extremal:
    """Optimised masks of B clips, A areas and V variants, and how they came about.

    Histories have a row an iteration, and nan where a mask was finished already.
    """

    masks: Tensor  # (B, A, V, T, H, W) in 0 .. 1
    areas: Tensor  # (B, A, V), reached by the padded masks
    losses: Tensor  # (iterations, B, A, V), of the score: -log p to preserve, -log(1 - p) to delete
    area_history: Tensor  # (iterations, B, A, V)
    mask_history: Tensor  # (iterations / every, B, A, V, T, gh, gw), values on the grid
    iterations: Tensor  # (B, A, V) until the mask's energy fell no more
    interrupted: bool  # by Ctrl-C: the masks are the best until then


def _score_loss(scores: Tensor, inverse: Tensor, score: str, highest: float) -> Tensor:
    """-log p, or -log(1 - p) where the mask was to delete: (n,)."""
    if score == "activation":
        log_p = (scores / highest).clamp(MARGIN, 1 - MARGIN).log()
    else:
        log_p = scores.clamp(max=math.log1p(-MARGIN))
    return torch.where(inverse, -torch.log(-torch.expm1(log_p)), -log_p)


def _check(how: str, clips: Tensor, areas: Sequence[float], variants: Sequence[str], perturbation: str,
           score: str) -> None:
    for what, value, known in (("method", how, RECIPES), ("perturbation", perturbation, PERTURBATIONS),
                               ("score", score, SCORES), *(("variant", one, VARIANTS) for one in variants)):
        if value not in known:
            raise ValueError(f"{what} {value}: choose one of {', '.join(known)}")
    wrong = [area for area in areas if not 0 < area < 1]
    if wrong or not areas:
        raise ValueError(f"an area is a share between 0 and 1, not {wrong[0] if wrong else 'missing'}")
    if RECIPES[how].smooth_weight and clips.shape[2] < ELLIPSOID[0]:
        raise ValueError(f"{how} needs clips of at least {ELLIPSOID[0]} frames, not {clips.shape[2]}; use 3d_ep")


def _check_ellipsoids(how: str, n_frames: int, padded: tuple[int, int]) -> None:
    long, high, wide = ELLIPSOID
    if RECIPES[how].smooth_weight and (n_frames - long + 1) * (padded[0] // high) * (padded[1] // wide) < 2:
        raise ValueError(f"{how} needs clips with room for two ellipsoids of {long} frames of {high} x {wide} pixels; "
                         "give larger ones, or use 3d_ep")


def extremal_masks(score_fn: Callable[[Tensor], Tensor], clips: Tensor, *, how: str = "3d_ep",
                   areas: Sequence[float] = AREAS, variants: Sequence[str] = ("preserve",), score: str = "log_prob",
                   highest: float = TOP_ACTIVATION, perturbation: str = "blur", iterations: int = 2000,
                   patience: int | None = 200, tolerance: float | None = TOLERANCE, step: int | None = None,
                   sigma: float | None = None, rate: float | None = None, momentum: float = 0.9, every: int = 50,
                   progress: bool = False) -> Extremal:
    """Optimise masks of clips, all together: clips x areas x variants.

    Args:
        score_fn: (n, 3, T, H, W), clip indices (n,) -> (n,); it must not care what else is in the batch.
        clips: (B, 3, T, H, W).
        how: "2d_ep" (the area in every frame), "3d_ep" (over the clip) or "step" (the same, smooth in space and time).
        areas: shares of the padded mask, 0..1.
        variants: "preserve", "delete", or "dual", whose one mask does both.
        score: what score_fn gives: "log_prob", or "activation" of a prototype, 0 .. highest.
        highest: the activation of a patch that is the prototype's own.
        perturbation: "blur" or "fade".
        iterations: at most.
        patience: a mask is finished when its energy has not fallen for so many iterations; None for never.
        tolerance: where the energy has settled on a mask that misses its area by more (or in the last quarter of the
            iterations), the penalty is told another area, and at last weighs more, until it does not; None for the
            published energy alone, in which a score can pay for any area.
        step, sigma: of the mask (see `SmoothMask`); by default 7 and 11 pixels for frames of 112, 7 and 23 for 224, as
            published, and in proportion for others.
        rate, momentum: of gradient descent; the momentum is dampened by as much. The rate is .05 by default, and for
            clips of more grid points than 16 frames of 112 pixels have in proportion: a point's share of the energy,
            and with it its gradient, falls with their number.
        every: iterations between two masks of the history.
        progress: show a bar.
    Returns:
        Extremal, of each mask the iteration with the lowest energy under the area weight of the last, of those that
        keep to the tolerance. Ctrl-C ends the optimisation and gives the best masks so far.
    Raises:
        ValueError: for an unknown name, an area outside (0, 1), clips too small for step's ellipsoids, or scores that
            are not finite from the start.
    """
    _check(how, clips, areas, variants, perturbation, score)
    recipe, clips = RECIPES[how], clips.detach()
    n_frames, *size = clips.shape[2:]
    sigma = sigma or max(1, round(SIGMA * max(size)))
    step = step or max(1, min(7, round(STEP * sigma)))
    operator = SmoothMask(tuple(size), step=step, sigma=sigma, device=clips.device, dtype=clips.dtype)
    _check_ellipsoids(how, n_frames, operator.padded)
    pyramid = Pyramid(clips, kind=perturbation)

    shape = (len(clips), len(areas), len(variants))
    clip_of, area_of, variant_of = (axis.flatten() for axis in torch.meshgrid(
        *(torch.arange(n, device=clips.device) for n in shape), indexing="ij"))
    wanted = torch.tensor(areas, device=clips.device, dtype=clips.dtype)[area_of]  # (n,)
    kept, deleted = (torch.tensor([variant in names for variant in variants], device=clips.device)[variant_of]
                     for names in (("preserve", "dual"), ("delete", "dual")))
    best = _Best(clips.new_ones(len(wanted), n_frames, *operator.grid))
    values, speed = best.values.clone(), None
    rate = rate or RATE * max(1.0, values[0].numel() / PUBLISHED_GRID)
    # of masks that miss their area: how much more it counts for them, and which one the penalty is told
    pressure, aimed, closing = torch.ones_like(wanted), wanted.clone(), max(1.0, CLOSING * iterations)
    active = torch.arange(len(wanted), device=clips.device)
    losses, reached, snapshots = [], [], []
    last_weight = AREA_WEIGHT * recipe.area_growth ** (iterations - 1)
    interrupted = False
    bar = tqdm(range(iterations), desc=how, unit="it", disable=not progress, leave=False)
    try:
        for i in bar:
            smooth = recipe.smooth_weight if i >= recipe.smooth_start else 0.0
            if recipe.smooth_weight and i == recipe.smooth_start:
                best.forget()  # what was best without the new term need not be
            values.requires_grad_(True)
            with torch.enable_grad():
                mask, padded = operator(values)  # (n, T, H, W), (n, T, H', W')
                items = torch.arange(len(active), device=clips.device)
                rows = torch.cat((items[kept[active]], items[deleted[active]]))
                inverse = torch.arange(len(rows), device=clips.device) >= kept[active].sum()
                shown = torch.where(inverse[:, None, None, None], 1 - mask[rows], mask[rows])
                scores = score_fn(pyramid(shown, clip_of[active][rows]), clip_of[active][rows])
                loss = torch.zeros_like(wanted[active]).index_add(0, rows, _score_loss(scores, inverse, score, highest))
                loss = loss / (kept[active].int() + deleted[active].int())
                if i == 0 and not loss.isfinite().all():
                    wrong = int(clip_of[~loss.isfinite()][0])
                    raise ValueError(f"{how} needs finite scores, and that of clip {wrong} is not; look for NaN in the "
                                     "weights or the clip")
                area = area_penalty(padded.flatten(2) if recipe.per_frame else padded.flatten(1), aimed[active])
                rough = smooth * roughness(padded, wanted[active]) if smooth else 0.0
                data = recipe.score_weight * loss + rough
                energy = data + AREA_WEIGHT * recipe.area_growth ** i * pressure[active] * area
                gradient, = torch.autograd.grad(energy.sum(), values)
            with torch.no_grad():
                reach = padded.detach().mean((1, 2, 3))
                off = reach - wanted[active]
                missed = (off.abs() - (math.inf if tolerance is None else tolerance)).clamp(min=0)
                best.see(active, values.detach(), (data + last_weight * area).detach() + MISSED * missed, i)
                losses.append(_scattered(loss.detach(), active, len(wanted)))
                reached.append(_scattered(reach, active, len(wanted)))
                settled = i - best.found[active] >= (patience or 2 * iterations) / 2
                due = (missed > 0) & (settled | (i >= iterations - closing))
                aimed[active[due]] = (aimed[active[due]] - AIMING / closing * off[due]).clamp(0, 1)
                due &= (aimed[active] <= 0) | (aimed[active] >= 1)
                pressure[active[due]] = (pressure[active[due]] * PRESSURE ** (1 / closing)).clamp(max=PRESSURE)
                speed = gradient if speed is None else momentum * speed + (1 - momentum) * gradient
                values = (values - rate * speed).clamp(0, 1)
                if i % every == 0:
                    snapshots.append(best.values.index_copy(0, active, values))
                going = i - best.found[active] < (patience or iterations + 1)
                if not going.all() and (not recipe.smooth_weight or smooth):
                    active, values, speed = active[going], values[going], speed[going]
                    if len(active) == 0:
                        break
            if progress and i % 10 == 0:
                bar.set_postfix(loss=f"{float(loss.detach().mean()):.3f}", area=f"{float(reached[-1].nanmean()):.3f}")
    except KeyboardInterrupt:
        interrupted = True
    bar.close()
    with torch.no_grad():
        masks, padded = operator(best.values)
    return Extremal(masks.unflatten(0, shape), padded.mean((1, 2, 3)).view(shape),
                    _stacked(losses[:len(reached)], shape, best.energy), _stacked(reached, shape, best.energy),
                    _stacked(snapshots, shape, best.values), (best.last + 1).view(shape), interrupted)


def _stacked(rows: list[Tensor], shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """(n, ...) rows -> (rows, B, A, V, ...), also of none."""
    return (torch.stack(rows) if rows else like.new_empty(0, *like.shape)).unflatten(1, shape)


class _Best:
    """The values of lowest energy of every mask, and when they were found."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.found = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        self.last = torch.full_like(self.found, -1)
        self.energy = torch.full((len(values),), torch.inf, device=values.device, dtype=values.dtype)
        self._mark = self.energy.clone()  # the energy that a fall is counted from

    def forget(self) -> None:
        self.energy.fill_(torch.inf)
        self._mark.fill_(torch.inf)

    def see(self, which: Tensor, values: Tensor, energy: Tensor, iteration: int) -> None:
        better = energy < self.energy[which]
        self.energy[which[better]] = energy[better]
        self.values[which[better]] = values[better]
        fell = energy < self._mark[which] * (1 - FALLS)
        self._mark[which[fell]] = energy[fell]
        self.found[which[fell]] = iteration
        self.last[which] = iteration


def _scattered(values: Tensor, which: Tensor, n: int) -> Tensor:
    return values.new_full((n,), torch.nan).index_copy_(0, which, values)


def extremal_perturbation(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, how: str = "3d_ep",
                          areas: Sequence[float] = AREAS, variants: Sequence[str] = ("preserve",),
                          score: str = "log_prob", highest: float = TOP_ACTIVATION, perturbation: str = "blur",
                          iterations: int = 2000, patience: int | None = 200, step: int | None = None,
                          sigma: float | None = None, progress: bool = False, **_others: object) -> Tensor:
    """The mean of a clip's extremal masks: the smaller the area that a voxel still belongs to, the hotter.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), a log-probability or, with score="activation", a prototype's activation.
        clip: (3, T, H, W).
        how, areas, variants, score, highest, perturbation, iterations, patience, step, sigma, progress: see
            `extremal_masks`.
        _others: options of other methods, so that one call serves them all.
    Returns:
        (T, H, W) in 0 .. 1.
    """
    found = extremal_masks(lambda clips, _: score_fn(clips), clip[None], how=how, areas=areas, variants=variants,
                           score=score, highest=highest, perturbation=perturbation, iterations=iterations,
                           patience=patience, step=step, sigma=sigma, progress=progress)
    return found.masks[0].mean((0, 1))
