"""Attention rollout (Abnar and Zuidema, ACL 2020): which places of a clip the attention of a transformer leads back
to."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESIDUAL = 0.5  # as published


def refusal(layer: nn.Module) -> str | None:
    """Why there is no attention rollout of a module; None where there is."""
    if hasattr(layer, "attention"):
        return None
    return ("needs a transformer that attends over the whole clip, such as videomae, vjepa2, vivit or timesformer; "
            "this trunk is none: choose another method")


def rollout(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module,
            upsample: Callable[[Tensor], Tensor] | None = None, residual: float = RESIDUAL) -> Tensor:
    """The mean attention of the heads of all layers multiplied, from the tokens that the score reads to the clip.

    With attention A_l (mean of the heads) of layer l and the share r of what passes beside it, the heat of L layers is
    v (r I + (1 - r) A_L) ... (r I + (1 - r) A_1). The paper's v is the class token. Here it is what the score reads:
    tokens in proportion to the norm of its gradient there, which is the class token of heads that read it, all cells
    alike of heads that read their mean, and the nearest cell of a prototype. Of attention divided into time and space
    both are layers, and its class token, which time leaves out, passes there as it is. What a class token holds in the
    end is left out. The heat does not depend on the score but by v.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs `layer` once.
        clip: (3, T, H, W).
        layer: a transformer with `attention()`, a context in which it tells of a pass: `runs`, the `tokens` that leave
            it (1, N, C), the `layers()` that carry weights of tokens (N,) back, and the `cells` (t, h, w) of weights.
        upsample: (t, h, w) -> (T, H, W); by default trilinear.
        residual: r, 0..1.
    Returns:
        (T, H, W), not negative, which sums to 1 over the cells where no token is a class token.
    Raises:
        ValueError: where the layer tells of no attention, or runs other than once.
    """
    if reason := refusal(layer):
        raise ValueError(f"rollout {reason}")
    with torch.enable_grad(), layer.attention() as seen:
        score = score_fn(clip[None]).sum()
    if seen.runs != 1:
        raise ValueError(f"rollout explains a trunk that runs once, and this one ran {seen.runs} times")
    gradient, = torch.autograd.grad(score, seen.tokens)
    weights = gradient[0].float().norm(dim=-1)  # (N,)
    if not weights.sum() > 0:  # a score that is flat here reads all alike
        weights = torch.ones_like(weights)
    weights = weights / weights.sum()
    with torch.no_grad():
        for back in reversed(seen.layers()):
            weights = residual * weights + (1 - residual) * back(weights)
        heat = seen.cells(weights)
        if upsample is None:
            return F.interpolate(heat[None, None], clip.shape[1:], mode="trilinear")[0, 0]
        return upsample(heat)
