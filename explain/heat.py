"""Heat of a clip by an attribution method, on a model's trunk."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from attribution import METHODS
from explain.relevance import passed_through, similarity_of
from models.geometry import smoothed, upsample
from models.hipe import HIPE


def heat_of(method: str, score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, trunk: nn.Module,
            smooth: bool = False, options: Mapping[str, object] | None = None, **context: object) -> Tensor:
    """Heat by the method of that name in METHODS.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs the trunk.
        clip: (3, T, H, W) normalised, on the model's device.
        trunk: whose features, strides and offset the methods read.
        smooth: smooth heat that is scattered over single voxels, so that its peak and box are of a place.
        options: that the method declares.
        context: what else of CONTEXT is known. score: what the score is, "log_prob" (the default), or "activation" of a
            prototype, 0 .. highest, which is that of a patch that is the prototype's own; class_weights: (C,) of
            the score's class and head_weights (K, C) of all, where a linear head reads the pooled features.
    Returns:
        (T, H, W) on the CPU.
    Raises:
        ValueError: for an option that the method does not declare, or a trunk that it cannot explain.
    """
    onto = partial(upsample, size=tuple(clip.shape[1:]), stride=tuple(trunk.stride),
                   offset=tuple(getattr(trunk, "offset", (0, 0, 0))))
    with torch.enable_grad():
        heat = METHODS[method](score_fn, clip, **{"layer": trunk, "upsample": onto, **context}, **options or {})
    return smoothed(heat) if smooth and METHODS[method].voxelwise else heat.detach().cpu()


def prototype_heat(method: str, model: HIPE, clip: Tensor, prototype: int, *,
                   options: Mapping[str, object] | None = None) -> Tensor:
    """Heat (T, H, W) of a prototype's activation in a clip (3, T, H, W), as on cards: smoothed where it is of single
    voxels. A method that passes relevance back begins with the similarity itself (see `explain.relevance`)."""
    known = {"score": "activation", "highest": model.prototype_layer.highest}
    if METHODS[method].propagates:
        return heat_of(method, similarity_of(model, prototype), clip, trunk=model.trunk, smooth=True, options=options,
                       layer=passed_through(model), **known)
    return heat_of(method, lambda clips: model(clips).activations[:, prototype], clip, trunk=model.trunk, smooth=True,
                   options=options, **known)
