"""Measures of explanations by their usual names, as surveys and toolkits have them: how concentrated heat is, what the
score makes of it, and how much it changes under disturbances."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from evaluation import faithfulness
from evaluation.subjects import ExplainedClip

BOXES = 32  # random boxes of infidelity
SIDES = (0.2, 0.6)  # of a box, shares of the clip's
STILL = ("noise", "jpeg")  # disturbances under which nothing moves
LEAST = 1e-12


def _shares(heat: Tensor) -> Tensor:
    """Heat as shares of its sum (T H W,), float64; equal ones where there is none."""
    values = heat.detach().double().flatten().clamp(min=0)
    total = values.sum()
    return values / total if total > 0 else torch.full_like(values, 1 / len(values))


def sparseness(of: ExplainedClip) -> float:
    """Gini index of the heat (Chalasani et al., ICML 2020): 0 for equal heat, 1 - 1/n for that of one of n voxels."""
    shares = _shares(of.heat).sort().values
    n = len(shares)
    weights = (n - torch.arange(n, dtype=torch.float64) - 0.5) / n
    return float(1 - 2 * (shares * weights).sum())


def complexity(of: ExplainedClip) -> float:
    """Entropy in nats of the heat's shares (Bhatt et al., IJCAI 2020): ln n for equal heat, 0 for that of one voxel."""
    return float(torch.special.entr(_shares(of.heat)).sum())


def abpc(of: ExplainedClip) -> float:
    """Mean distance of two curves of the score: the clip fades with the coldest blocks first, and with the hottest.

    Area between perturbation curves (Schulz et al., ICLR 2020), least relevant first minus most relevant first: 0 for
    heat that knows nothing, below 0 for inverted heat.
    """
    coldest_first = faithfulness.deletion(of.probability, of.clip, -of.heat, steps=of.steps, seed=of.seed)
    return coldest_first - of.deletion


@torch.no_grad()
def _masked(of: ExplainedClip) -> tuple[float, float]:
    """The score of the clip, and of the clip times its heat in 0..1."""
    heat = of.heat.to(of.clip)
    span = heat.amax() - heat.amin()
    mask = (heat - heat.amin()) / span if span > 0 else torch.ones_like(heat)
    whole, masked = of.probability(torch.stack((of.clip, of.clip * mask))).tolist()
    return whole, masked


def average_drop(of: ExplainedClip) -> float:
    """Share of the score that is lost when the clip fades where it is cold (Chattopadhay et al., WACV 2018)."""
    whole, masked = _masked(of)
    return max(whole - masked, 0.0) / max(whole, LEAST)


def increase(of: ExplainedClip) -> float:
    """Whether the score is higher when the clip fades where it is cold (Chattopadhay et al., WACV 2018)."""
    whole, masked = _masked(of)
    return float(masked > whole)


def at_a_time(size: tuple[int, int, int]) -> int:
    """How many changed clips go through the network together: fewer of large clips."""
    return max(1, min(BOXES, 2 ** 23 // math.prod(size)))


@torch.no_grad()
def infidelity(of: ExplainedClip) -> float:
    """Share of the score's squared changes, as random boxes fade, that the heat inside them does not explain.

    Infidelity (Yeh et al., NeurIPS 2019) under boxes, of heat times the best factor, which is not negative, over that
    of no heat: 0 for the terms of a linear score, 1 for heat that explains nothing.
    """
    rng, size = np.random.default_rng(of.seed), of.size
    heat = of.heat.detach().double().cpu()
    changes, sums = [], []
    for first in range(0, BOXES, at_a_time(size)):
        clips = [of.clip]
        for _ in range(min(at_a_time(size), BOXES - first)):
            spans = [max(1, round(n * rng.uniform(*SIDES))) for n in size]
            starts = [int(rng.integers(n - span + 1)) for n, span in zip(size, spans, strict=True)]
            box = tuple(slice(start, start + span) for start, span in zip(starts, spans, strict=True))
            faded = of.clip.clone()
            faded[(slice(None), *box)] = 0
            clips.append(faded)
            sums.append(float(heat[box].sum()))
        whole, *others = of.probability(torch.stack(clips)).tolist()
        changes += [whole - other for other in others]
    change, within = np.array(changes), np.array(sums)
    factor = max(0.0, float(within @ change) / max(float(within @ within), LEAST))
    return float(np.square(factor * within - change).sum() / max(float(change @ change), LEAST))


def _change(of: ExplainedClip, disturbance: str) -> float:
    """Norm of the heat's change under a disturbance, over the heat's."""
    heat, other = of.heat.double(), of.disturbed[disturbance].double()
    return float((other - heat).norm() / heat.norm().clamp(min=LEAST))


def max_sensitivity(of: ExplainedClip) -> float:
    """The largest change of the heat, over its norm, where nothing moves (Yeh et al., NeurIPS 2019)."""
    return max(_change(of, disturbance) for disturbance in STILL)


def lipschitz(of: ExplainedClip) -> float:
    """The largest ratio of the heat's change to the clip's, each over its norm, under the same disturbances.

    Local Lipschitz estimate (Alvarez-Melis and Jaakkola, 2018) from samples.
    """
    norm = float(of.clip.double().norm())
    return max(_change(of, disturbance) * norm / max(of.moved_by[disturbance], LEAST) for disturbance in STILL)


def rank_correlation(heat: Tensor, other: Tensor) -> float | None:
    """Rank correlation of the heat (T, H, W) of two explanations, over blocks; None where one is flat."""
    grid = tuple(min(n, cells) for n, cells in zip(heat.shape, faithfulness.GRID, strict=True))
    blocks = [F.adaptive_avg_pool3d(one[None].double().cpu(), grid).flatten() for one in (heat, other)]
    if any(block.amax() - block.amin() <= LEAST for block in blocks):
        return None
    return float(spearmanr(*(block.numpy() for block in blocks)).statistic)


def randomised(of: ExplainedClip) -> float | None:
    """Rank correlation of the heat with that of the same model under shuffled weights.

    After Adebayo et al. (NeurIPS 2018): heat that hardly changes tells of the clip, and not of what the model learned.
    """
    return rank_correlation(of.heat, of.random_heat)
