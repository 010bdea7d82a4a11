"""I3D, the inflated Inception-v1 (Carreira and Zisserman, CVPR 2017), with the names of the common PyTorch port."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from models.trunk import Layout, Stride, Trunk, five_strides, he_init, offset_of, product

# channels of the branches of each block: 1x1x1; 1x1x1 and 3x3x3; 1x1x1 and 3x3x3; 1x1x1 after the pooling
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64), "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64), "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128), "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128)}

# a block's convolutions: ours, in the original network, and in the other PyTorch port
BRANCHES = {"b0": ("Branch_0/Conv3d_0a_1x1", "branch_0"), "b1a": ("Branch_1/Conv3d_0a_1x1", "branch_1.0"),
            "b1b": ("Branch_1/Conv3d_0b_3x3", "branch_1.1"), "b2a": ("Branch_2/Conv3d_0a_1x1", "branch_2.0"),
            "b2b": ("Branch_2/Conv3d_0b_3x3", "branch_2.1"), "b3b": ("Branch_3/Conv3d_0b_1x1", "branch_3.1")}


def port_name(key: str) -> str:
    """The name of a tensor in the port whose names are in lower case, from ours (hassony2's kinetics_i3d_pytorch)."""
    layer, *inner, part, tensor = key.split(".")
    branch = [BRANCHES[name][1] for name in inner]
    return ".".join([layer[0].lower() + layer[1:], *branch, {"bn": "batch3d"}.get(part, part), tensor])


def from_flax(arrays: Mapping) -> dict[str, Tensor]:
    """The state dict of I3D with its head, from flax's nested dicts of arrays.

    Kernels (t, h, w, in, out) become (out, in, t, h, w). Its batch-norms have no scale, which is a weight of 1.
    """
    ours = {original: name for name, (original, _) in BRANCHES.items()}

    def units(tree: Mapping) -> dict[str, Mapping]:
        inner = {"Conv_0", "BatchNorm_0"}
        return {name if branch is None else f"{name}.{ours[branch]}": unit for name, content in tree.items()
                for branch, unit in ([(None, content)] if inner & set(content) else content.items())}

    state, statistics = {}, units(arrays["batch_stats"])
    for name, unit in units(arrays["params"]).items():
        kernel = torch.from_numpy(unit["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2).contiguous()
        if "BatchNorm_0" not in unit:
            state |= {"logits.conv3d.weight": kernel, "logits.conv3d.bias": torch.from_numpy(unit["Conv_0"]["bias"])}
            continue
        seen = statistics[name]["BatchNorm_0"]
        state |= {f"{name}.conv3d.weight": kernel, f"{name}.bn.weight": torch.ones(len(kernel)),
                  f"{name}.bn.bias": torch.from_numpy(unit["BatchNorm_0"]["bias"]).flatten(),
                  f"{name}.bn.running_mean": torch.from_numpy(seen["mean"]).flatten(),
                  f"{name}.bn.running_var": torch.from_numpy(seen["var"]).flatten()}
    return state


def pad_same(x: Tensor, kernel: Stride, stride: Stride) -> Tensor:
    """Pad with zeros as TensorFlow's SAME does, so that ceil(size / stride) cells come out; an odd cell goes behind."""
    pads = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # F.pad begins with the last axis
        pad = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads += [pad // 2, pad - pad // 2]
    return F.pad(x, pads)


def is_even(kernel: Stride, stride: Stride) -> bool:
    """Whether SAME padding adds as much in front as behind whatever the size, which a layer does without a copy.

    That is so where the stride is 1 and the kernel odd along every axis.
    """
    return all(s == 1 and k % 2 == 1 for k, s in zip(kernel, stride, strict=True))


def shifted_maxima(x: Tensor, kernel: Stride, stride: Stride, padding: Stride) -> Tensor:
    """max_pool3d, axis after axis, as the maximum of shifted views: equal, in a tenth to a third of the CPU time."""
    if any(padding):
        x = F.pad(x, [cells for pad in reversed(padding) for cells in (pad, pad)], value=-math.inf)
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        span = (x.shape[axis] - k) // s * s + 1
        views = (x.narrow(axis, first, span)[(slice(None),) * axis + (slice(None, None, s),)] for first in range(k))
        x = functools.reduce(torch.maximum, views)
    return x


class SamePool(nn.MaxPool3d):
    """Max-pooling under SAME padding: (B, C, t, h, w) -> (B, C, t', h', w').

    Whether the padding counts only matters where all that is pooled is negative; here nothing is.
    """

    def __init__(self, kernel: Stride, stride: Stride) -> None:
        self.even = is_even(kernel, stride)
        super().__init__(kernel, stride=stride, padding=tuple(k // 2 if self.even else 0 for k in kernel))

    def forward(self, x: Tensor) -> Tensor:
        if not self.even:
            x = pad_same(x, self.kernel_size, self.stride)
        # a serving runtime has its own max-pool, and what watches operations knows this one
        watched = torch.compiler.is_compiling() or torch.jit.is_tracing() or _get_current_dispatch_mode() is not None
        needs_gradient = x.requires_grad and torch.is_grad_enabled()  # which goes to the first of equal values
        if x.device.type != "cpu" or watched or needs_gradient:
            return super().forward(x)
        return shifted_maxima(x, self.kernel_size, self.stride, self.padding)


class Unit(nn.Module):
    """Convolution under SAME padding, batch-norm and ReLU: (B, C, t, h, w) -> (B, out_channels, t', h', w')."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: Stride = (1, 1, 1)) -> None:
        super().__init__()
        self.even = is_even((kernel,) * 3, stride)
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, bias=False,
                                padding=kernel // 2 if self.even else 0)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        if not self.even:
            x = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return self.bn(self.conv3d(x)).relu()


class Mixed(nn.Module):
    """An Inception block of four branches: (B, C, t, h, w) -> (B, sum of the branches' channels, t, h, w)."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = Unit(in_channels, b0, 1)
        self.b1a = Unit(in_channels, b1a, 1)
        self.b1b = Unit(b1a, b1b, 3)
        self.b2a = Unit(in_channels, b2a, 1)
        self.b2b = Unit(b2a, b2b, 3)
        self.b3a = SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(in_channels, b3b, 1)
        self.out_channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))), 1)


class I3D(Trunk):
    """The convolutional part of I3D, up to Mixed_5c.

    Args:
        temporal_strides, spatial_strides: of the first convolution and the four max-pools; no weight depends on them.
    Raises:
        ValueError: where they are not five each.
    """

    strides = ((2, 1, 1, 2, 2), (2, 2, 2, 2, 2))
    places = ("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "MaxPool3d_3a_3x3", "MaxPool3d_4a_3x3", "MaxPool3d_5a_2x2")
    clip = (64, 224)
    layouts = (Layout("the PyTorch port of I3D", (r"Conv3d_1a_7x7\.conv3d\.weight",),
                      heads=("logits.conv3d", "logits"), normalisation="i3d"),
               Layout("the PyTorch port of I3D in lower case", (r"conv3d_1a_7x7\.conv3d\.weight",), naming=port_name,
                      heads=("conv3d_0c_1x1.conv3d",), normalisation="i3d"))
    head_window = (2, 7, 7)

    def __init__(self, *, temporal_strides: Sequence[int] = strides[0],
                 spatial_strides: Sequence[int] = strides[1]) -> None:
        super().__init__()
        strides = five_strides(temporal_strides, spatial_strides)
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, strides[0])
        self.MaxPool3d_2a_3x3 = SamePool((1, 3, 3), strides[1])
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        channels = 192
        pools = {"Mixed_3b": ("MaxPool3d_3a_3x3", (1, 3, 3), strides[2]),
                 "Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3), strides[3]),
                 "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2), strides[4])}
        for name, branches in MIXED.items():
            if name in pools:
                pool, kernel, stride = pools[name]
                self.add_module(pool, SamePool(kernel, stride))
            block = Mixed(channels, branches)
            self.add_module(name, block)
            channels = block.out_channels
        self.out_channels = channels
        self.stride: Stride = product(strides)
        layers = [(layer.conv3d.kernel_size, layer.conv3d.stride) if isinstance(layer, Unit)
                  else (layer.kernel_size, layer.stride) for layer in self.children() if not isinstance(layer, Mixed)]
        front = [tuple(max(k - s, 0) // 2 for k, s in zip(*layer, strict=True)) for layer in layers]
        self.offset = offset_of([(kernel, pad, stride) for (kernel, stride), pad in zip(layers, front, strict=True)])
        he_init(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 1024, t, h, w)."""
        x = clips
        for layer in self.children():  # they stand in the order of the network
            x = layer(x)
        return x
