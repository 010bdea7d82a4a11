"""Extremal perturbations of clips: which smooth mask of a given area keeps, or kills, the score (2d_ep, 3d_ep, step).

Fong et al., ICCV 2019, for clips by Li et al., WACV 2021. All masks of a call (clips x areas x variants) are optimised
together, each on its own: no mask depends on the others in its batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from attribution.masks import ELLIPSOID, PERTURBATIONS, Degradations, SmoothMask, area_penalty, roughness

AREAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)  # as published, shares of the clip
VARIANTS = ("preserve", "delete", "dual")  # keep only what the mask covers, cover it, or both with one mask
SCORES = ("log_prob", "activation")
SIGMA = 0.1025  # of a frame's longer side: 11 pixels of 112, 23 of 224
STEP = 0.64  # of sigma, and at most 7 pixels
TOP_ACTIVATION = math.log(1e4)  # logarithmic similarity of a prototype and a patch that are equal
MARGIN = 1e-6  # probabilities stay this far inside 0 .. 1
FALLS = 1e-3  # relative; an energy that falls by less than that counts as one that does not
TOLERANCE = 0.015  # by which a mask may miss its area before that counts for more than the score
MISSED = 1e4  # the energy by which masks are compared grows by that for an area of 1 beyond the tolerance
CLOSING = 0.25  # share of the iterations that is left to the area of masks which miss theirs; in these
AIMING = 16.0  # the area that the penalty gets moves by that times the miss, and ...
PRESSURE = 1e3  # ... where it cannot move further, the area counts by up to so much more
PUBLISHED_GRID = 16 ** 3  # points of the grid of 16 frames of 112 pixels


@dataclass(frozen=True)
class Energy:
    """What sets 2d_ep, 3d_ep and step apart."""

    per_frame: bool  # whether each frame has the area, or the whole clip
    score_weight: float
    area_growth: float = 1.0  # of the area's weight, an iteration
    smooth_weight: float = 0.0
    smooth_start: int = 100  # iterations before the smoothness term joins


ENERGIES = {"2d_ep": Energy(True, 100.0), "3d_ep": Energy(False, 100.0),
           "step": Energy(False, 1.0, area_growth=1.0008668, smooth_weight=300.0)}
AREA_WEIGHT = 300.0
RATE = 0.05


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


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How masks are optimised.

    Args:
        how: "2d_ep" (the area in every frame), "3d_ep" (over the clip) or "step" (the same, smooth in space and time).
        areas: shares of the padded mask, 0..1.
        variants: "preserve", "delete", or "dual", whose one mask does both.
        score: what the score is: "log_prob", or "activation" of a prototype, 0 .. highest.
        highest: the activation of a patch that is the prototype's own.
        perturbation: "blur" or "fade".
        iterations: at most.
        patience: a mask is finished when its energy has not fallen for so many iterations; None for never.
        tolerance: where the energy has settled on a mask that misses its area by more (or in the last quarter of the
            iterations), the penalty gets another area, and at last weighs more, until it does not; None for the
            published energy alone, in which a score can pay for any area.
        step, sigma: of the mask (see `SmoothMask`); by default 7 and 11 pixels for frames of 112, 7 and 23 for 224, as
            published, and in proportion for others.
        rate, momentum: of gradient descent; the momentum is dampened by as much. The rate is .05 by default, and for
            clips of more grid points than 16 frames of 112 pixels have in proportion: a point's share of the energy,
            and with it its gradient, falls with their number.
        published_energy: no tolerance and the published rate, whatever these two say.
        every: iterations between two masks of the history.
        progress: show a bar.
    """

    how: str = "3d_ep"
    areas: Sequence[float] = AREAS
    variants: Sequence[str] = ("preserve",)
    score: str = "log_prob"
    highest: float = TOP_ACTIVATION
    perturbation: str = "blur"
    iterations: int = 2000
    patience: int | None = 200
    tolerance: float | None = TOLERANCE
    step: int | None = None
    sigma: float | None = None
    rate: float | None = None
    momentum: float = 0.9
    published_energy: bool = False
    every: int = 50
    progress: bool = False

    def check(self, clips: Tensor) -> None:
        """Raise ValueError for an unknown name, an area outside (0, 1), or clips with too few frames."""
        names = [("method", self.how, ENERGIES), ("perturbation", self.perturbation, PERTURBATIONS),
                 ("score", self.score, SCORES), *(("variant", variant, VARIANTS) for variant in self.variants)]
        for what, value, known in names:
            if value not in known:
                raise ValueError(f"{what} {value}: choose one of {', '.join(known)}")
        wrong = [area for area in self.areas if not 0 < area < 1]
        if wrong or not self.areas:
            raise ValueError(f"an area is a share between 0 and 1, not {wrong[0] if wrong else 'missing'}")
        if ENERGIES[self.how].smooth_weight and clips.shape[2] < ELLIPSOID[0]:
            raise ValueError(f"{self.how} needs clips of at least {ELLIPSOID[0]} frames, not {clips.shape[2]}; "
                             "use 3d_ep")


def _check_ellipsoids(how: str, n_frames: int, padded: tuple[int, int]) -> None:
    long, high, wide = ELLIPSOID
    if ENERGIES[how].smooth_weight and (n_frames - long + 1) * (padded[0] // high) * (padded[1] // wide) < 2:
        raise ValueError(f"{how} needs clips with room for two ellipsoids of {long} frames of {high} x {wide} pixels; "
                         "give larger ones, or use 3d_ep")


def extremal_masks(score_fn: Callable[[Tensor, Tensor], Tensor], clips: Tensor, **options: object) -> Extremal:
    """Optimise masks of clips, all together: clips x areas x variants.

    Args:
        score_fn: (n, 3, T, H, W), clip indices (n,) -> (n,); it must not care what else is in the batch.
        clips: (B, 3, T, H, W).
        options: the fields of `Optimisation`.
    Returns:
        Extremal, of each mask the iteration with the lowest energy under the area weight of the last, of those that
        keep to the tolerance. Ctrl-C ends the optimisation and gives the best masks so far.
    Raises:
        TypeError: for an option that `Optimisation` does not have.
        ValueError: for an unknown name, an area outside (0, 1), clips too small for step's ellipsoids, or scores that
            are not finite from the start.
    """
    settings = Optimisation(**options)
    settings.check(clips)
    how, areas, variants = settings.how, settings.areas, settings.variants
    iterations, patience = settings.iterations, settings.patience
    tolerance, rate = (None, RATE) if settings.published_energy else (settings.tolerance, settings.rate)
    terms, clips = ENERGIES[how], clips.detach()
    n_frames, *size = clips.shape[2:]
    sigma = settings.sigma or max(1, round(SIGMA * max(size)))
    step = settings.step or max(1, min(7, round(STEP * sigma)))
    operator = SmoothMask(tuple(size), step=step, sigma=sigma, device=clips.device, dtype=clips.dtype)
    _check_ellipsoids(how, n_frames, operator.padded)
    degraded = Degradations(clips, kind=settings.perturbation)

    shape = (len(clips), len(areas), len(variants))
    clip_of, area_of, variant_of = (axis.flatten() for axis in torch.meshgrid(
        *(torch.arange(n, device=clips.device) for n in shape), indexing="ij"))
    wanted = torch.tensor(areas, device=clips.device, dtype=clips.dtype)[area_of]  # (n,)
    preserving, deleting = (torch.tensor([variant in names for variant in variants], device=clips.device)[variant_of]
                     for names in (("preserve", "dual"), ("delete", "dual")))
    best = _Best(clips.new_ones(len(wanted), n_frames, *operator.grid))
    values, speed = best.values.clone(), None
    rate = rate or RATE * max(1.0, values[0].numel() / PUBLISHED_GRID)
    # of masks that miss their area: how much more it counts for them, and which area the penalty gets
    pressure, aimed, closing = torch.ones_like(wanted), wanted.clone(), max(1.0, CLOSING * iterations)
    active = torch.arange(len(wanted), device=clips.device)
    losses, reached, snapshots = [], [], []
    last_weight = AREA_WEIGHT * terms.area_growth ** (iterations - 1)
    interrupted = False
    bar = tqdm(range(iterations), desc=how, unit="it", disable=not settings.progress, leave=False)
    try:
        for i in bar:
            smooth = terms.smooth_weight if i >= terms.smooth_start else 0.0
            if terms.smooth_weight and i == terms.smooth_start:
                best.forget()  # what was best without the new term need not be
            values.requires_grad_(True)
            with torch.enable_grad():
                mask, padded = operator(values)  # (n, T, H, W), (n, T, H', W')
                items = torch.arange(len(active), device=clips.device)
                rows = torch.cat((items[preserving[active]], items[deleting[active]]))
                inverse = torch.arange(len(rows), device=clips.device) >= preserving[active].sum()
                shown = torch.where(inverse[:, None, None, None], 1 - mask[rows], mask[rows])
                scores = score_fn(degraded(shown, clip_of[active][rows]), clip_of[active][rows])
                loss = _score_loss(scores, inverse, settings.score, settings.highest)
                loss = torch.zeros_like(wanted[active]).index_add(0, rows, loss)
                loss = loss / (preserving[active].int() + deleting[active].int())
                if i == 0 and not loss.isfinite().all():
                    wrong = int(clip_of[~loss.isfinite()][0])
                    raise ValueError(f"{how} needs finite scores, and that of clip {wrong} is not; look for NaN in the "
                                     "weights or the clip")
                area = area_penalty(padded.flatten(2) if terms.per_frame else padded.flatten(1), aimed[active])
                rough = smooth * roughness(padded, wanted[active]) if smooth else 0.0
                data = terms.score_weight * loss + rough
                energy = data + AREA_WEIGHT * terms.area_growth ** i * pressure[active] * area
                gradient, = torch.autograd.grad(energy.sum(), values)
            with torch.no_grad():
                reach = padded.detach().mean((1, 2, 3))
                off = reach - wanted[active]
                missed = (off.abs() - (math.inf if tolerance is None else tolerance)).clamp(min=0)
                best.see(active, values.detach(), (data + last_weight * area).detach() + MISSED * missed, i)
                losses.append(_scattered(loss.detach(), active, len(wanted)))
                reached.append(_scattered(reach, active, len(wanted)))
                settled = i - best.improved[active] >= (patience or 2 * iterations) / 2
                due = (missed > 0) & (settled | (i >= iterations - closing))
                aimed[active[due]] = (aimed[active[due]] - AIMING / closing * off[due]).clamp(0, 1)
                due &= (aimed[active] <= 0) | (aimed[active] >= 1)
                pressure[active[due]] = (pressure[active[due]] * PRESSURE ** (1 / closing)).clamp(max=PRESSURE)
                speed = gradient if speed is None else settings.momentum * speed + (1 - settings.momentum) * gradient
                values = (values - rate * speed).clamp(0, 1)
                if i % settings.every == 0:
                    snapshots.append(best.values.index_copy(0, active, values))
                going = i - best.improved[active] < (patience or iterations + 1)
                if not going.all() and (not terms.smooth_weight or smooth):
                    active, values, speed = active[going], values[going], speed[going]
                    if len(active) == 0:
                        break
            if settings.progress and i % 10 == 0:
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
    """The values of lowest energy of every mask, and the iteration of the last marked fall."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.improved = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        self.last = torch.full_like(self.improved, -1)
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
        self.improved[which[fell]] = iteration
        self.last[which] = iteration


def _scattered(values: Tensor, which: Tensor, n: int) -> Tensor:
    return values.new_full((n,), torch.nan).index_copy_(0, which, values)


def extremal_perturbation(score_fn: Callable[[Tensor], Tensor], clip: Tensor, **options: object) -> Tensor:
    """The mean of a clip's extremal masks: the smaller the area that a voxel still belongs to, the hotter.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), a log-probability or, with score="activation", a prototype's activation.
        clip: (3, T, H, W).
        options: the fields of `Optimisation`.
    Returns:
        (T, H, W) in 0 .. 1.
    """
    extremal = extremal_masks(lambda clips, _: score_fn(clips), clip[None], **options)
    return extremal.masks[0].mean((0, 1))
