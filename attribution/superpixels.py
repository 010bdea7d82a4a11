"""Heat of space-time superpixels, by the linear model that explains the score best where some of them are blurred: LIME
and KernelSHAP, by captum."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attribution.gradients import at_a_time
from attribution.occlusion import occluded, signed_heat

SMALL = (16, 28, 28)  # frames and pixels at which superpixels are found
ROUNDS = 10  # of k-means
COLOUR = 0.5  # weight of a difference of one standard deviation in colour, of one over the whole clip in place 1
PARTS, SAMPLES = 60, 500
REGULARISATION = 0.001  # of LIME's linear model, as captum has it
Score = Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B,)


def superpixels(clip: Tensor, n: int) -> Tensor:
    """Parts of a clip that are alike in colour, and together in space and time: k-means from a regular grid of centres.

    After SLIC (Achanta et al., PAMI 2012) in three dimensions; a part may fall into pieces.

    Args:
        clip: (3, T, H, W). n: parts, about: as many as the nearest regular grid has.
    Returns:
        (T, H, W) int64, from 0 without gaps.
    """
    from sklearn.cluster import KMeans  # takes seconds

    small = [min(a, b) for a, b in zip(SMALL, clip.shape[1:], strict=True)]
    colours = F.adaptive_avg_pool3d(clip.float(), small).cpu()  # (3, t, h, w)
    colours = COLOUR * colours / colours.std().clamp(min=1e-6)
    places = torch.stack(torch.meshgrid(*((torch.arange(size) + 0.5) / size for size in small), indexing="ij"))
    points = torch.cat((places * n ** (1 / 3), colours)).flatten(1).T.numpy()  # (t h w, 6): cells of a side of 1
    sides = [max(1, min(size, round(n ** (1 / 3)))) for size in small]
    sides[1] = sides[2] = max(1, min(small[1], small[2], round((n / sides[0]) ** 0.5)))
    centres = torch.stack(torch.meshgrid(*(((torch.arange(k) + 0.5) / k * size).long()
                                           for k, size in zip(sides, small, strict=True)), indexing="ij"))
    starts = points[np.ravel_multi_index(centres.flatten(1).numpy(), small)]
    labels = KMeans(len(starts), init=starts, n_init=1, max_iter=ROUNDS).fit_predict(points)
    parts = torch.from_numpy(np.unique(labels, return_inverse=True)[1]).view(1, 1, *small)
    return F.interpolate(parts.double(), clip.shape[1:], mode="nearest")[0, 0].long().to(clip.device)


def kernel_shap(score_fn: Score, clip: Tensor, *, polarity: str = "positive", perturbation: str = "blur",
                parts: int = PARTS, samples: int = SAMPLES, seed: int = 0, batch_size: int | None = None) -> Tensor:
    """Shapley values of superpixels, from samples of them (Lundberg and Lee, NeurIPS 2017).

    Args:
        score_fn: (B, 3, T, H, W) -> (B,).
        clip: (3, T, H, W).
        polarity: "positive" for parts that speak for the score, "negative" for those against it, or "both".
        perturbation: what is shown of parts that are left out, "blur" or "fade".
        parts: superpixels, about.
        samples: clips with some of them left out.
        seed: of the samples; the random state of the caller is left as it was.
        batch_size: samples at a time; by default as `at_a_time`.
    Returns:
        (T, H, W), not negative, constant in each part.
    """
    from captum.attr import KernelShap  # takes seconds

    method = KernelShap(score_fn)
    return _linear(method, score_fn, clip, polarity, perturbation, parts=parts, samples=samples, seed=seed,
                   batch_size=batch_size)


def lime(score_fn: Score, clip: Tensor, *, polarity: str = "positive", perturbation: str = "blur", parts: int = PARTS,
         samples: int = SAMPLES, seed: int = 0, batch_size: int | None = None) -> Tensor:
    """Weights of superpixels in a sparse linear model of the score near the clip (Ribeiro et al., KDD 2016).

    Arguments and result as `kernel_shap`.
    """
    from captum._utils.models.linear_model import SkLearnLasso
    from captum.attr import Lime  # takes seconds

    method = Lime(score_fn, interpretable_model=SkLearnLasso(alpha=REGULARISATION))
    return _linear(method, score_fn, clip, polarity, perturbation, parts=parts, samples=samples, seed=seed,
                   batch_size=batch_size)


@torch.no_grad()
def _linear(method: object, score_fn: Score, clip: Tensor, polarity: str, perturbation: str, *, parts: int,
            samples: int, seed: int, batch_size: int | None) -> Tensor:
    """The weights that one of captum's methods finds for superpixels, as heat."""
    mask, base = superpixels(clip, parts), occluded(clip, perturbation)
    if mask.max() == 0:  # of a single pixel, whose share is all of the score
        return signed_heat((score_fn(clip[None]) - score_fn(base[None])).expand(clip.shape[1:]).clone(), polarity)
    with torch.random.fork_rng(devices=[clip.device] if clip.is_cuda else []):
        torch.manual_seed(seed)
        values = method.attribute(
            clip[None], baselines=base[None], feature_mask=mask[None, None], n_samples=samples,
            perturbations_per_eval=batch_size or at_a_time(clip[0].numel()))
    return signed_heat(values[0, 0], polarity)
