"""Heat from gradients of the score with respect to the voxels, by captum, which is imported when a method runs: that
takes seconds."""

from collections.abc import Callable

import torch
from torch import Tensor

POLARITIES: dict[str, Callable[[Tensor], Tensor]] = {  # the part of signed attributions that is heat
    "positive": lambda signed: signed.clamp(min=0), "negative": lambda signed: -signed.clamp(max=0),
    "both": torch.abs}
BATCH, LARGE = 4, 16 * 224 * 224  # copies of a clip at a time, of clips of so many voxels at most
STEPS = 25  # noisy copies of smooth_grad, points on the path of integrated_grad

Score = Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B,)


def _heat(signed: Tensor, polarity: str) -> Tensor:
    """(1, 3, T, H, W) attributions -> (T, H, W) heat, summed over colours, not negative."""
    if polarity not in POLARITIES:
        raise ValueError(f"polarity {polarity}: choose one of {', '.join(POLARITIES)}")
    return POLARITIES[polarity](signed.detach()[0]).sum(0)


def at_a_time(n_voxels: int) -> int:
    """How many clips of T x H x W = n_voxels go through a network together: 4, fewer of clips larger than LARGE, whose
    activations would fill the memory of a laptop."""
    return max(1, min(BATCH, BATCH * LARGE // n_voxels))


def _leaf(clip: Tensor) -> Tensor:
    return clip.detach()[None].requires_grad_()


def grad(score_fn: Score, clip: Tensor, *, polarity: str = "positive") -> Tensor:
    """The gradient of the score (Simonyan et al., ICLR workshop 2014): what would change it most.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,).
        clip: (3, T, H, W).
        polarity: "positive" for what speaks for the score, "negative" for what speaks against it, or "both".
    Returns:
        (T, H, W), not negative: the sum over colours.
    Raises:
        ValueError: for a polarity of another name.
    """
    from captum.attr import Saliency

    return _heat(Saliency(score_fn).attribute(_leaf(clip), abs=False), polarity)


def grad_input(score_fn: Score, clip: Tensor, *, polarity: str = "positive") -> Tensor:
    """The gradient times the clip: what a linear score would consist of. Arguments and result as `grad`."""
    from captum.attr import InputXGradient

    return _heat(InputXGradient(score_fn).attribute(_leaf(clip)), polarity)


def smooth_grad(score_fn: Score, clip: Tensor, *, polarity: str = "positive", steps: int = STEPS, noise: float = 0.15,
                seed: int = 0, batch_size: int | None = None) -> Tensor:
    """The gradient's mean over noisy copies of the clip (Smilkov et al., 2017).

    Args:
        score_fn, clip, polarity: as in `grad`.
        steps: how many copies.
        noise: standard deviation, as a share of the clip's range of values.
        seed: of the noise; the random state of the caller is left as it was.
        batch_size: copies at a time; by default as `at_a_time`.
    Returns:
        (T, H, W), not negative.
    """
    from captum.attr import NoiseTunnel, Saliency

    spread = float(noise * (clip.amax() - clip.amin()))
    devices = [clip.device] if clip.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        signed = NoiseTunnel(Saliency(score_fn)).attribute(
            _leaf(clip), nt_type="smoothgrad", nt_samples=steps, stdevs=spread, abs=False,
            nt_samples_batch_size=batch_size or at_a_time(clip[0].numel()))
    return _heat(signed, polarity)


def integrated_grad(score_fn: Score, clip: Tensor, *, polarity: str = "positive", steps: int = STEPS,
                    baseline: Tensor | None = None, batch_size: int | None = None) -> Tensor:
    """Gradients along the straight path from a baseline to the clip, times its length (Sundararajan et al., ICML 2017).

    Positive minus negative heat sums to score(clip) - score(baseline), as well as `steps` points tell.

    Args:
        score_fn, clip, polarity: as in `grad`.
        steps: points of the Gauss-Legendre rule.
        baseline: (3, T, H, W); by default zeros, the mean colour of a normalised clip.
        batch_size: points at a time; by default as `at_a_time`.
    Returns:
        (T, H, W), not negative.
    """
    from captum.attr import IntegratedGradients

    start = None if baseline is None else baseline[None]
    return _heat(IntegratedGradients(score_fn).attribute(
        _leaf(clip), baselines=start, n_steps=steps,
        internal_batch_size=batch_size or at_a_time(clip[0].numel())), polarity)
