"""The baseline without which no attribution method means anything: heat that knows nothing."""

from collections.abc import Callable

import torch
from torch import Tensor


def random_heat(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, seed: int = 0) -> Tensor:
    """Independent uniform noise.

    Args:
        score_fn: not asked.
        clip: (3, T, H, W).
        seed: the same seed gives the same heat for clips of the same size.
    Returns:
        (T, H, W) in [0, 1).
    """
    return torch.rand(clip.shape[1:], generator=torch.Generator().manual_seed(seed))
