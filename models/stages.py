"""The parts of a trunk, in their order: what is frozen when fine-tuning begins in its middle, and what each makes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

HEADS = ("fc", "classifier")


def stages(trunk: nn.Module) -> dict[str, nn.Module]:
    """The parts of a trunk that hold parameters, by their published names, first to last."""
    parts = {name: part for name, part in trunk.named_children() if next(part.parameters(), None) is not None}
    # DenseNet and others keep everything in one `features`
    return stages(next(iter(parts.values()))) if len(parts) == 1 else parts


def stages_before(trunk: nn.Module, begin: str | None) -> list[nn.Module]:
    """What stays as it is when fine-tuning begins at a part of the trunk (Hara et al.'s --ft_begin_module).

    Args:
        begin: the name of the part; of the published classifier, which freezes the whole trunk; or None for nothing.
    Raises:
        ValueError: naming the parts there are, where it is none of them.
    """
    if not begin:
        return []
    parts = stages(trunk)
    if begin in HEADS:
        return list(parts.values())
    if begin not in parts:
        raise ValueError(f"--ft_begin_module {begin}: the trunk has no such part; choose one of {', '.join(parts)}, or "
                         "fc to train nothing of it")
    return list(parts.values())[:list(parts).index(begin)]


def freeze(parts: Sequence[nn.Module], *, statistics: bool) -> None:
    """Take parts of a trunk out of training; with `statistics`, their batch-norms use and keep what they know."""
    for part in parts:
        part.requires_grad_(False)
        for module in part.modules():
            if statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def stage_maps(trunk: nn.Module, clips: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A trunk's features, and what each of its parts makes of the clips on the way to them.

    A trunk that is trained on classes forgets what its classes do not need; its earlier parts still tell it.

    Args:
        clips: (B, 3, T, H, W). The trunk may have a method of this name itself, for what it was given instead of clips.
    Returns:
        (B, C', t, h, w), and of every part that makes maps over time, height and width (B, C_i, t, h, w), averaged onto
        the same cells; the features are the last of them.
    """
    if hasattr(trunk, "stage_maps"):
        return trunk.stage_maps(clips)
    maps: list[Tensor] = []
    hooks = [part.register_forward_hook(lambda _part, _given, made: maps.append(made))
             for part in stages(trunk).values()]
    try:
        features = trunk(clips)
    finally:
        for hook in hooks:
            hook.remove()
    grid, size = features.shape[2:], clips.shape[2:]
    finer = [made for made in maps if isinstance(made, Tensor) and made.dim() == 5 and len(made) == len(clips)
             and all(n <= m <= most for n, m, most in zip(grid, made.shape[2:], size, strict=True))]
    return features, [*(F.adaptive_avg_pool3d(made.float(), grid) for made in finer if made is not features), features]
