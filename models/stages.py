"""The parts of a trunk in their order: freezing those before fine-tuning begins, and the feature maps of each."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

CLASSIFIERS = ("fc", "classifier")  # published names that freeze the whole trunk


def stages(trunk: nn.Module) -> dict[str, nn.Module]:
    """The parts of a trunk that hold parameters, by their published names, first to last; of a list of blocks each
    block is one, such as encoder.layer.3."""
    parts = _holding(trunk)
    # DenseNet and others keep everything in one `features`
    if len(parts) == 1:
        return stages(next(iter(parts.values())))
    return {of: block for name, part in parts.items() for of, block in _blocks(name, part).items()}


def _holding(module: nn.Module) -> dict[str, nn.Module]:
    """The children that hold parameters."""
    return {name: part for name, part in module.named_children() if next(part.parameters(), None) is not None}


def _blocks(name: str, part: nn.Module) -> dict[str, nn.Module]:
    """A part by its name, or the blocks of one that is a list, or holds nothing but a list."""
    inside = _holding(part)
    if isinstance(part, nn.ModuleList):
        return {f"{name}.{i}": block for i, block in inside.items()}
    if len(inside) == 1 and isinstance(next(iter(inside.values())), nn.ModuleList):
        (inner, blocks), = inside.items()
        return _blocks(f"{name}.{inner}", blocks)
    return {name: part}


def stages_before(trunk: nn.Module, begin: str | None) -> list[nn.Module]:
    """The parts that are not trained when fine-tuning begins at a part of the trunk (Hara et al.'s --ft_begin_module).

    Args:
        begin: name of the part, or of a list of blocks, whose first it means; that of the published classifier freezes
            the whole trunk, None freezes nothing.
    Raises:
        ValueError: listing the parts, where `begin` is none of them.
    """
    if not begin:
        return []
    parts = stages(trunk)
    if begin in CLASSIFIERS:
        return list(parts.values())
    first = next((i for i, name in enumerate(parts) if f"{name}.".startswith(f"{begin}.")), None)
    if first is None:
        raise ValueError(f"--ft_begin_module {begin}: the trunk has no such part; choose one of {', '.join(parts)}, or "
                         "fc to train nothing of it")
    return list(parts.values())[:first]


def freeze(parts: Sequence[nn.Module], *, statistics: bool) -> None:
    """Exclude parts of a trunk from training; with `statistics` their batch-norms use fixed running statistics."""
    for part in parts:
        part.requires_grad_(False)
        for module in part.modules():
            if statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def stage_maps(trunk: nn.Module, clips: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A trunk's features, and the feature maps of each of its parts.

    A trunk that is trained on classes discards what does not separate them; the maps of its earlier parts keep it.

    Args:
        clips: (B, 3, T, H, W). A trunk with its own method `stage_maps` may take another input instead of clips.
    Returns:
        features (B, C', t, h, w), and the maps (B, C_i, t, h, w) of every part whose output has time, height and width,
        averaged onto the same cells; the features are the last of them.
    """
    if hasattr(trunk, "stage_maps"):
        return trunk.stage_maps(clips)
    maps: list[Tensor] = []
    hooks = [part.register_forward_hook(lambda _part, _inputs, output: maps.append(output))
             for part in stages(trunk).values()]
    try:
        features = trunk(clips)
    finally:
        for hook in hooks:
            hook.remove()
    grid, size = features.shape[2:], clips.shape[2:]
    finer = [output for output in maps if isinstance(output, Tensor) and output.dim() == 5 and len(output) == len(clips)
             and all(n <= m <= most for n, m, most in zip(grid, output.shape[2:], size, strict=True))]
    pooled = [F.adaptive_avg_pool3d(output.float(), grid) for output in finer if output is not features]
    return features, [*pooled, features]
