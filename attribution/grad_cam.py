"""Grad-CAM (Selvaraju et al., ICCV 2017) over the cells of any layer."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def grad_cam(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module,
             upsample: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Where a layer's channels, each weighted by its mean gradient, speak for the score: the positive part.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs `layer`.
        clip: (3, T, H, W).
        layer: a module whose output is (B, C, t, h, w).
        upsample: (t, h, w) -> (T, H, W). One that knows where the layer's cells are centred lets the heat's peak stand
            at the centre of the best cell; the default, trilinear, takes them for tiles of the clip.
    Returns:
        (T, H, W), not negative; all zero where nothing speaks for the score.
    """
    from captum.attr import LayerGradCam  # takes seconds

    heat = LayerGradCam(score_fn, layer).attribute(clip[None], relu_attributions=True)  # (1, 1, t, h, w)
    if upsample is None:
        return F.interpolate(heat.detach(), clip.shape[1:], mode="trilinear")[0, 0]
    return upsample(heat[0, 0].detach())
