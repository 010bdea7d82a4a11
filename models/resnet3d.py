"""3D residual networks with the parameter names of Hara et al. (CVPR 2018), whose Kinetics weights load unchanged."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Stride = tuple[int, int, int]


def _conv(kernel: int, in_channels: int, out_channels: int, stride: Stride = (1, 1, 1)) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


class ZeroPadShortcut(nn.Module):
    """Shortcut A: subsample, and fill the new channels with zeros; it holds no parameters.

    (B, C, t, h, w) -> (B, out_channels, t', h', w').
    """

    def __init__(self, out_channels: int, stride: Stride) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        st, sh, sw = self.stride
        return F.pad(x[:, :, ::st, ::sh, ::sw], (0, 0, 0, 0, 0, 0, 0, self.out_channels - x.shape[1]))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut: (B, C, t, h, w) -> (B, planes, t', h', w')."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(3, in_channels, planes, stride)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = _conv(3, planes, planes)
        self.bn2 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and a shortcut: (B, C, t, h, w) -> (B, 4 planes, t', h', w')."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(1, in_channels, planes)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = _conv(3, planes, planes, stride)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = _conv(1, planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet3D(nn.Module):
    """The convolutional part of a 3D-ResNet: no pooling over the grid and no classifier.

    Args:
        depth: a key of `DEPTHS`.
        temporal_strides, spatial_strides: of conv1, max-pool, layer2, layer3 and layer4; no weight depends on them.
            The published network has 1 2 2 2 2 and 2 2 2 2 2, which leaves one temporal cell for 16 frames.
        shortcut: "A" (zero padding) or "B" (1x1x1 convolution).
        widen_factor: multiplies all channel counts (64 128 256 512).
        conv1_t_size: frames that conv1 sees, odd.
        max_pool: whether the stem has its max-pool.
    Raises:
        ValueError: where an argument is outside its range.
    """

    def __init__(self, depth: int = 18, *, temporal_strides: Sequence[int] = (1, 2, 2, 1, 1),
                 spatial_strides: Sequence[int] = (2, 2, 2, 2, 2), shortcut: str = "B", widen_factor: float = 1.0,
                 conv1_t_size: int = 7, max_pool: bool = True) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"no 3D-ResNet of depth {depth}; choose one of {sorted(DEPTHS)}")
        if conv1_t_size % 2 == 0:
            raise ValueError(f"conv1_t_size must be odd so that conv1 keeps its centre, not {conv1_t_size}")
        if len(temporal_strides) != 5 or len(spatial_strides) != 5:
            raise ValueError("strides are five integers: conv1, max-pool, layer2, layer3, layer4")
        strides = [(t, s, s) for t, s in zip(temporal_strides, spatial_strides, strict=True)]
        if not max_pool:
            strides[1] = (1, 1, 1)
        block, counts = DEPTHS[depth]
        planes = [int(n * widen_factor) for n in (64, 128, 256, 512)]
        if planes[0] < 1:
            raise ValueError(f"a widen_factor of {widen_factor} leaves conv1 without channels; take at least 1/64")
        self.shortcut = shortcut
        self.conv1 = nn.Conv3d(3, planes[0], (conv1_t_size, 7, 7), stride=strides[0],
                               padding=(conv1_t_size // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=strides[1], padding=1) if max_pool else nn.Identity()
        self._channels = planes[0]
        self.layer1 = self._stage(block, planes[0], counts[0], (1, 1, 1))
        self.layer2 = self._stage(block, planes[1], counts[1], strides[2])
        self.layer3 = self._stage(block, planes[2], counts[2], strides[3])
        self.layer4 = self._stage(block, planes[3], counts[3], strides[4])
        self.out_channels = self._channels
        self.stride: Stride = tuple(math.prod(along) for along in zip(*strides, strict=True))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], planes: int, count: int,
               stride: Stride) -> nn.Sequential:
        downsample: nn.Module | None = None
        out_channels = planes * block.expansion
        if stride != (1, 1, 1) or self._channels != out_channels:
            if self.shortcut == "A":
                downsample = ZeroPadShortcut(out_channels, stride)
            else:
                downsample = nn.Sequential(_conv(1, self._channels, out_channels, stride), nn.BatchNorm3d(out_channels))
        blocks = [block(self._channels, planes, stride, downsample)]
        blocks += [block(out_channels, planes, (1, 1, 1), None) for _ in range(count - 1)]
        self._channels = out_channels
        return nn.Sequential(*blocks)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, out_channels, t, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clips))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))
