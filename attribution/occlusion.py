"""Heat from what the score is worth when parts of the clip are blurred: occlusion, by captum, and RISE. They need no
gradient, only the score."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from attribution.gradients import POLARITIES, at_a_time
from attribution.masks import blurred

BLUR = 20.0  # standard deviation in pixels of what is occluded, as the strongest of perturbations
WINDOW = 0.25  # of a clip's length, height and width: the box of occlusion
CELLS = (4, 7, 7)  # of a random mask of RISE; 7 x 7 as published of images
Score = Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B,)


def occluded(clip: Tensor, perturbation: str) -> Tensor:
    """What is shown of a normalised clip (3, T, H, W) where it is occluded: "blur", or "fade" to the mean colour, 0."""
    return torch.zeros_like(clip) if perturbation == "fade" else blurred(clip, BLUR)


def signed_heat(values: Tensor, polarity: str) -> Tensor:
    """(T, H, W) of either sign -> that part of it, not negative."""
    return POLARITIES[polarity](values)


@torch.no_grad()
def occlusion(score_fn: Score, clip: Tensor, *, polarity: str = "positive", perturbation: str = "blur",
              window: float = WINDOW, batch_size: int | None = None) -> Tensor:
    """What the score loses under a box that slides over frames, rows and columns (Zeiler and Fergus, ECCV 2014).

    Args:
        score_fn: (B, 3, T, H, W) -> (B,).
        clip: (3, T, H, W).
        polarity: "positive" for parts whose loss lowers the score, "negative" for those that raise it, or "both".
        perturbation: what the box shows, "blur" or "fade".
        window: the box's length, height and width as a share of the clip's, 0..1; it moves by half of each.
        batch_size: boxes at a time; by default as `at_a_time`.
    Returns:
        (T, H, W), not negative: the mean over the boxes that hold a voxel.
    """
    from captum.attr import Occlusion  # takes seconds

    shape = [max(1, math.ceil(size * window)) for size in clip.shape[1:]]
    values = Occlusion(score_fn).attribute(
        clip[None], sliding_window_shapes=(3, *shape), strides=(3, *(max(1, size // 2) for size in shape)),
        baselines=occluded(clip, perturbation)[None], perturbations_per_eval=batch_size or at_a_time(clip[0].numel()))
    return signed_heat(values[0, 0], polarity)


def boxes_along(window: float) -> int:
    """How many boxes `occlusion` tries along an axis of many voxels, at most."""
    return 1 + math.ceil((1 - window) / (window / 2))


@torch.no_grad()
def rise(score_fn: Score, clip: Tensor, *, masks: int = 500, share: float = 0.5, perturbation: str = "blur",
         seed: int = 0, batch_size: int | None = None, score: str = "log_prob") -> Tensor:
    """The sum of random smooth masks, each weighted by the score of what it shows (Petsiuk et al., BMVC 2018).

    Weights are less their mean: in the published sum the places that happen to be shown most often are hot, too.

    Args:
        score_fn, clip, perturbation: as in `occlusion`.
        masks: how many.
        share: of the cells that a mask shows, 0..1.
        seed: of the masks; the random state of the caller is left as it was.
        batch_size: masks at a time; by default as `at_a_time`.
        score: "log_prob", whose exponential weighs the masks, or "activation".
    Returns:
        (T, H, W), not negative.
    """
    generator = torch.Generator().manual_seed(seed)
    size, base = clip.shape[1:], occluded(clip, perturbation)
    cells = [min(n, length) for n, length in zip(CELLS, size, strict=True)]
    steps = [math.ceil(length / n) for n, length in zip(cells, size, strict=True)]  # voxels a cell
    larger = [(n + 1) * step for n, step in zip(cells, steps, strict=True)]  # so that masks can be shifted by a cell
    batch, weights = batch_size or at_a_time(clip[0].numel()), []
    weighted, coverage = clip.new_zeros(size), clip.new_zeros(size)
    for first in range(0, masks, batch):
        n = min(batch, masks - first)
        grid = (torch.rand(n, 1, *(c + 1 for c in cells), generator=generator) < share).to(clip)
        shifts = [torch.randint(step, (n,), generator=generator).tolist() for step in steps]
        smooth = F.interpolate(grid, larger, mode="trilinear")[:, 0]  # (n, T', H', W')
        shown = torch.stack([mask[t:t + size[0], y:y + size[1], x:x + size[2]]
                             for mask, t, y, x in zip(smooth, *shifts, strict=True)])
        scores = score_fn(base + shown[:, None] * (clip - base))
        weights.append(scores.exp() if score == "log_prob" else scores)
        weighted += torch.einsum("n,nthw->thw", weights[-1], shown)
        coverage += shown.sum(0)
    return (weighted - torch.cat(weights).mean() * coverage).clamp(min=0) / masks
