"""Patch embeddings, convolutions whose kernel equals their stride, as matrix products, which GPUs run on tensor cores
in half precision, where their convolutions of so large a stride are slow."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


def patch_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution gives whose stride is its kernel, without padding, as one matrix product.

    Args:
        x: (B, C, ...) with as many further axes as the kernel; what does not fill a patch at the end of an axis is left
            out. weight: (D, C, ...). bias: (D,).
    Returns:
        (B, D, ...), channels last in memory.
    """
    kernel = weight.shape[2:]
    for axis, size in enumerate(kernel):
        cells = x.shape[2 + 2 * axis] // size
        x = x.narrow(2 + 2 * axis, 0, cells * size).unflatten(2 + 2 * axis, (cells, size))
    n = len(kernel)
    cells, inside = [2 + 2 * axis for axis in range(n)], [3 + 2 * axis for axis in range(n)]
    # channels last within a patch, as clips and kernels lie in memory
    patches = x.permute(0, *cells, *inside, 1).flatten(1 + n)
    return F.linear(patches, weight.movedim(1, -1).flatten(1), bias).movedim(-1, 1)


def _stays(x: Tensor) -> bool:
    """Whether a convolution is run as such: by a CPU, whose is as fast, and where operations are watched, which knows
    convolutions."""
    return x.device.type == "cpu" or _get_current_dispatch_mode() is not None


class Patches3D(nn.Conv3d):
    """A convolution over space and time that takes patches apart: (B, C, T, H, W) -> (B, D, t, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        if _stays(input):
            return super().forward(input)
        return patch_product(input, self.weight, self.bias)


class Patches2D(nn.Conv2d):
    """The same of images: (B, C, H, W) -> (B, D, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        if _stays(input):
            return super().forward(input)
        return patch_product(input, self.weight, self.bias)


def as_product(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Let a patch embedding compute as a matrix product; its parameters and their names stay.

    Raises:
        ValueError: where it is none.
    """
    if tuple(conv.kernel_size) != tuple(conv.stride) or any(conv.padding) or conv.groups != 1 or any(
            gap != 1 for gap in conv.dilation):
        raise ValueError(f"{conv}: its patches overlap, or leave something out, so that it is no matrix product")
    conv.__class__ = Patches3D if isinstance(conv, nn.Conv3d) else Patches2D
