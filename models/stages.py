"""The parts of a trunk, in their order: what is frozen when fine-tuning begins in its middle."""

from collections.abc import Sequence

from torch import nn

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
