"""3D residual networks with the parameter names of Hara et al. (CVPR 2018), whose Kinetics weights load unchanged."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Stride = tuple[int, int, int]


def conv(kernel: int, in_channels: int, out_channels: int, stride: Stride = (1, 1, 1)) -> nn.Conv3d:
    """A cubic convolution without bias, padded so that it only subsamples by its stride."""
    return nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


class ZeroPadShortcut(nn.Module):
    """Shortcut A: subsample, and fill the new channels with zeros; it holds no parameters.

    (B, C, t, h, w) -> (B, out_channels, t', h', w'). Outputs are those of Hara's code, whose `.data` lets no
    gradient through this shortcut; here it flows, as the shortcut's definition has it.
    """

    def __init__(self, out_channels: int, stride: Stride) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        st, sh, sw = self.stride
        return F.pad(x[:, :, ::st, ::sh, ::sw], (0, 0, 0, 0, 0, 0, 0, self.out_channels - x.shape[1]))


class Block(nn.Module):
    """A ReLU of the sum of a shortcut and of a subclass's `residual`."""

    expansion: int
    relu: nn.Module
    downsample: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.residual(x) + shortcut)


class BasicBlock(Block):
    """Two 3x3x3 convolutions and a shortcut: (B, C, t, h, w) -> (B, planes, t', h', w')."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(3, in_channels, planes, stride)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = conv(3, planes, planes)
        self.bn2 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and a shortcut: (B, C, t, h, w) -> (B, 4 planes, t', h', w')."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(1, in_channels, planes)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = conv(3, planes, planes, stride)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = conv(1, planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))


# layers of the network -> blocks of each stage; from 50 on the blocks are bottlenecks
DEPTHS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
    200: (3, 24, 36, 3)}


def five_strides(temporal: Sequence[int], spatial: Sequence[int]) -> list[Stride]:
    """(t, h, w) strides of the five places where a trunk may subsample.

    Raises:
        ValueError: where they are not five each.
    """
    if len(temporal) != 5 or len(spatial) != 5:
        raise ValueError("strides are five integers, of conv1, max-pool, layer2, layer3, layer4 or their like")
    return [(t, s, s) for t, s in zip(temporal, spatial, strict=True)]


def product(strides: Sequence[Stride]) -> Stride:
    """The stride of a whole trunk: (t, h, w)."""
    return tuple(math.prod(along) for along in zip(*strides, strict=True))


def offset_of(layers: Sequence[tuple[Stride, Stride, Stride]]) -> Stride:
    """The centre of a trunk's first cell in frames and pixels, rounded down.

    Args:
        layers: kernel, padding in front and stride, each (t, h, w), of the layers that subsample or are padded
            unevenly, in their order.
    """
    centre, jump = [0.0, 0.0, 0.0], [1, 1, 1]
    for kernel, pad, stride in layers:
        for i in range(3):
            centre[i] += ((kernel[i] - 1) / 2 - pad[i]) * jump[i]
            jump[i] *= stride[i]
    return tuple(int(at) for at in centre)


def he_init(network: nn.Module) -> None:
    """Start every convolution as He et al. (ICCV 2015) do, by its fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet3D(nn.Module):
    """The convolutional part of a 3D-ResNet: no pooling over the grid and no classifier.

    Args:
        depth: one of `depths`.
        temporal_strides, spatial_strides: of conv1, max-pool, layer2, layer3 and layer4; no weight depends on them.
            The published network has 1 2 2 2 2 and 2 2 2 2 2, which leaves one temporal cell for 16 frames.
        shortcut: "A" (zero padding) or "B" (1x1x1 convolution).
        widen_factor: multiplies all channel counts (64 128 256 512).
        conv1_t_size: frames that conv1 sees, odd.
        max_pool: whether the stem has its max-pool.
    Raises:
        ValueError: where an argument is outside its range.
    """

    depths: tuple[int, ...] = tuple(DEPTHS)
    options = ("temporal_strides", "spatial_strides", "shortcut", "widen_factor", "conv1_t_size", "max_pool")
    strides = ((1, 2, 2, 1, 1), (2, 2, 2, 2, 2))
    blocks: tuple[type[nn.Module], type[nn.Module]] = (BasicBlock, Bottleneck)
    planes = (64, 128, 256, 512)
    # torchvision's 2D networks whose ImageNet weights fit when they are inflated
    torchvision_names = {18: "resnet18", 34: "resnet34", 50: "resnet50", 101: "resnet101", 152: "resnet152"}

    def __init__(self, depth: int = 18, *, temporal_strides: Sequence[int] = (1, 2, 2, 1, 1),
                 spatial_strides: Sequence[int] = (2, 2, 2, 2, 2), shortcut: str = "B", widen_factor: float = 1.0,
                 conv1_t_size: int = 7, max_pool: bool = True) -> None:
        super().__init__()
        if depth not in self.depths:
            raise ValueError(f"no {type(self).__name__} of depth {depth}; choose one of {sorted(self.depths)}")
        if conv1_t_size % 2 == 0:
            raise ValueError(f"conv1_t_size must be odd so that conv1 keeps its centre, not {conv1_t_size}")
        strides = five_strides(temporal_strides, spatial_strides)
        if not max_pool:
            strides[1] = (1, 1, 1)
        counts, block = DEPTHS[depth], self.blocks[depth >= 50]
        # the wider families keep the narrow stem of the paper and of its weights
        stem, *planes = (int(n * widen_factor) for n in (64, *self.planes))
        if stem < 1:
            raise ValueError(f"a widen_factor of {widen_factor} leaves conv1 without channels; take at least 1/64")
        self.shortcut, self.torchvision_name = shortcut, self.torchvision_names.get(depth)
        self._make_stem(stem, conv1_t_size, strides[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=strides[1], padding=1) if max_pool else nn.Identity()
        self._channels = stem
        self.layer1 = self._stage(block, planes[0], counts[0], (1, 1, 1))
        self.layer2 = self._stage(block, planes[1], counts[1], strides[2])
        self.layer3 = self._stage(block, planes[2], counts[2], strides[3])
        self.layer4 = self._stage(block, planes[3], counts[3], strides[4])
        self.out_channels = self._channels
        self.stride: Stride = product(strides)
        he_init(self)

    def _make_stem(self, channels: int, t_size: int, stride: Stride) -> None:
        self.conv1 = nn.Conv3d(3, channels, (t_size, 7, 7), stride=stride, padding=(t_size // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(channels)

    def _block(self, kind: type[nn.Module], in_channels: int, planes: int, stride: Stride,
               downsample: nn.Module | None) -> nn.Module:
        return kind(in_channels, planes, stride, downsample)

    def _stage(self, kind: type[nn.Module], planes: int, count: int, stride: Stride) -> nn.Sequential:
        downsample: nn.Module | None = None
        out_channels = planes * kind.expansion
        if stride != (1, 1, 1) or self._channels != out_channels:
            if self.shortcut == "A":
                downsample = ZeroPadShortcut(out_channels, stride)
            else:
                downsample = nn.Sequential(conv(1, self._channels, out_channels, stride), nn.BatchNorm3d(out_channels))
        blocks = [self._block(kind, self._channels, planes, stride, downsample)]
        blocks += [self._block(kind, out_channels, planes, (1, 1, 1), None) for _ in range(count - 1)]
        self._channels = out_channels
        return nn.Sequential(*blocks)

    def _stem(self, clips: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(clips)))

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, out_channels, t, h, w)."""
        x = self.maxpool(self._stem(clips))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))
