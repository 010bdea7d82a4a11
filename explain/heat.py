"""Heat of a clip by an attribution method, on a model's trunk."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from attribution import METHODS
from models.geometry import smoothed, upsample


def heat_of(method: str, score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, trunk: nn.Module,
            score: str = "log_prob", highest: float = 1.0, class_weights: Tensor | None = None, smooth: bool = False,
            options: Mapping[str, object] | None = None) -> Tensor:
    """Heat by the method of that name in METHODS.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs the trunk.
        clip: (3, T, H, W) normalised, on the model's device.
        trunk: whose features, strides and offset the methods read.
        score: what the score is: "log_prob", or "activation" of a prototype, 0 .. highest.
        highest: the activation of a patch that is the prototype's own.
        class_weights: (C,) of the score's class, where a linear head reads the pooled features.
        smooth: smooth heat that is scattered over single voxels, so that its peak and box are of a place.
        options: that the method declares.
    Returns:
        (T, H, W) on the CPU.
    Raises:
        ValueError: for an option that the method does not declare, or a trunk that it cannot explain.
    """
    onto = partial(upsample, size=tuple(clip.shape[1:]), stride=tuple(trunk.stride),
                   offset=tuple(getattr(trunk, "offset", (0, 0, 0))))
    with torch.enable_grad():
        heat = METHODS[method](score_fn, clip, layer=trunk, upsample=onto, class_weights=class_weights, score=score,
                               highest=highest, **options or {})
    return smoothed(heat) if smooth and METHODS[method].voxelwise else heat.detach().cpu()
