"""Prototype relevance propagation (Gautam et al., Pattern Recognition 2023): a prototype's similarity, written so that
its gradient times its input divides it among the channels of the nearest patch, from where LRP leads it to the voxels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.hipe import HIPE

NEAR = 1e-4  # squared difference of a channel below which it counts as the same


def passed_through(model: HIPE) -> nn.Module:
    """The layers between a clip and the patches that prototypes are compared with."""
    return nn.ModuleList([model.trunk, model.neck]).train(model.training)


def similarity_of(model: HIPE, prototype: int) -> Callable[[Tensor], Tensor]:
    """A function with the values of a prototype's activation and gradients that divide it by channels x_i of the patch.

    The similarity s of unit vectors is divided in proportion to what a channel adds to their inner product where that
    is positive, s max(0, x_i p_i) / sum over j of max(0, x_j p_j), the length of x being a constant; of other vectors
    in proportion to how near channels come, 1 / ((x_i - p_i)^2 + 1e-4).

    Returns:
        (B, 3, T, H, W) -> (B,).
    """
    layer = model.prototype_layer
    below = model.neck[:-1] if layer.by_level else model.neck  # without its last step, `UnitLevels`
    point = layer.points[prototype].detach()  # (C,)

    def score(clips: Tensor) -> Tensor:
        raw = below(model.trunk(clips))
        with torch.no_grad():
            (distances, cells), = layer.nearest(model.neck[-1](raw) if layer.by_level else raw)
            similarity = layer.similarity(distances)[:, prototype]  # (B,)
        own = layer.groups(raw)[:, int(layer.group_of[prototype])]  # (B, C, N)
        x = own.gather(2, cells[:, prototype, None, None].expand(-1, own.shape[1], 1))[:, :, 0]  # (B, C)
        values = x.detach()
        shares = (values * point).clamp(min=0) if layer.by_level else 1 / ((values - point).square() + NEAR)
        shares = similarity[:, None] * shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
        slopes = torch.where(values.abs() > 1e-12, shares / values, 0.0)
        return similarity + ((x - values) * slopes).sum(1)

    return score
