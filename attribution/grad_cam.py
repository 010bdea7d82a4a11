"""Grad-CAM (Selvaraju et al., ICCV 2017) over the cells of any layer, and two of its kind: Grad-CAM++ and HiResCAM."""

from collections.abc import Callable

import torch
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
    return _upsampled(heat[0, 0], clip, upsample)


def hires_cam(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module,
              upsample: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Where a layer's channels, each times its gradient there, speak for the score (HiResCAM, Draelos and Carin, 2020).

    Under a linear head of the mean features this is what each cell adds to the logit. Arguments and result as
    `grad_cam`.
    """
    from captum.attr import LayerGradientXActivation  # takes seconds

    products = LayerGradientXActivation(score_fn, layer).attribute(clip[None])  # (1, C, t, h, w)
    return _upsampled(products[0].sum(0).clamp(min=0), clip, upsample)


def grad_cam_pp(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module,
                upsample: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Grad-CAM whose channels weigh by their positive gradients, which count for more where few cells are active.

    Grad-CAM++ (Chattopadhay et al., WACV 2018), its weights written for the exponential of the score: of gradients g
    and features a, alpha = g^2 / (2 g^2 + g^3 sum(a)), and a channel weighs sum(alpha relu(g)). Arguments and result as
    `grad_cam`.
    """
    features: list[Tensor] = []

    def keep(_: nn.Module, __: tuple, maps: Tensor) -> Tensor:
        features.append(maps.detach().requires_grad_())  # nothing below the layer needs a gradient
        return features[-1]

    hook = layer.register_forward_hook(keep)
    try:
        score = score_fn(clip[None])
    finally:
        hook.remove()
    if len(features) != 1:
        raise ValueError(f"grad_cam++ explains a layer that runs once, and this one ran {len(features)} times")
    gradient, = torch.autograd.grad(score.sum(), features[0])  # (1, C, t, h, w)
    square, sums = gradient.square(), features[0].detach().sum((2, 3, 4), keepdim=True)
    below = 2 * square + square * gradient * sums
    alpha = torch.where(below.abs() > 0, square / below, 0.0)
    weights = (alpha * gradient.clamp(min=0)).sum((2, 3, 4), keepdim=True)
    return _upsampled((weights * features[0].detach()).sum((0, 1)).clamp(min=0), clip, upsample)


def _upsampled(heat: Tensor, clip: Tensor, upsample: Callable[[Tensor], Tensor] | None) -> Tensor:
    """From cells (t, h, w) to the clip's voxels (T, H, W)."""
    if upsample is None:
        return F.interpolate(heat.detach()[None, None], clip.shape[1:], mode="trilinear")[0, 0]
    return upsample(heat.detach())
