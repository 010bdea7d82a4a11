"""MF-Net, the multi-fiber network (Chen et al., ECCV 2018), with the names of its published weights."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from models.trunk import Layout, Stride, Trunk, five_strides, he_init, product

FIBERS = 16
UNITS = (3, 4, 6, 3)  # of conv2, conv3, conv4 and conv5
SIGNS = (r"conv2\.B01\.conv_i1\.conv\.weight",)


class Preactivated(nn.Module):
    """Batch-norm, ReLU and convolution: (B, C, t, h, w) -> (B, out_channels, t', h', w')."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Stride = (1, 1, 1), stride: Stride = (1, 1, 1),
                 groups: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm3d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride=stride,
                              padding=tuple(size // 2 for size in kernel), groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(self.bn(x)))


class Unit(nn.Module):
    """A multi-fiber unit: the multiplexer lets the fibers exchange what they know, then each goes its own way.

    (B, C, t, h, w) -> (B, width, t', h', w'). The first unit of a stage has a convolution in its shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: Stride, first: bool) -> None:
        super().__init__()
        self.conv_i1 = Preactivated(in_channels, width // 4)
        self.conv_i2 = Preactivated(width // 4, in_channels)
        self.conv_m1 = Preactivated(in_channels, width, (3, 3, 3), stride, groups=FIBERS)
        if first:
            self.conv_m2 = Preactivated(width, width)
            self.conv_w1 = Preactivated(in_channels, width, stride=stride)
        else:
            self.conv_m2 = Preactivated(width, width, (1, 3, 3), groups=FIBERS)
            self.conv_w1 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mixed = x + self.conv_i2(self.conv_i1(x))
        return self.conv_m2(self.conv_m1(mixed)) + self.conv_w1(x)


class MFNet(Trunk):
    """The convolutional part of MF-Net, its last batch-norm and ReLU included.

    Args:
        temporal_strides, spatial_strides: of the max-pool, conv2, conv3, conv4 and conv5, after conv1, which has 1 in
            time and 2 in space; no weight depends on them.
    Raises:
        ValueError: where they are not five each.
    """

    strides = ((1, 2, 1, 1, 1), (2, 1, 2, 2, 2))
    places = ("max-pool", "conv2", "conv3", "conv4", "conv5")
    clip = (16, 224)
    layouts = (Layout("MF-Net", SIGNS, flat=False, heads=("classifier",), normalisation="mfnet"),
               Layout("2D MF-Net", SIGNS, flat=True, heads=("classifier",), normalisation="mfnet"))

    def __init__(self, *, temporal_strides: Sequence[int] = strides[0],
                 spatial_strides: Sequence[int] = strides[1]) -> None:
        super().__init__()
        pool, *strides = five_strides(temporal_strides, spatial_strides)
        self.conv1 = nn.Sequential(OrderedDict(
            conv=nn.Conv3d(3, 16, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2), bias=False),
            bn=nn.BatchNorm3d(16), relu=nn.ReLU(inplace=True)))
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=pool, padding=(0, 1, 1))
        channels = 16
        for i, (stride, count) in enumerate(zip(strides, UNITS, strict=True)):
            width = 96 * 2 ** i
            units = OrderedDict(B01=Unit(channels, width, stride, first=True))
            units |= {f"B{j:02}": Unit(width, width, (1, 1, 1), first=False) for j in range(2, count + 1)}
            self.add_module(f"conv{i + 2}", nn.Sequential(units))
            channels = width
        self.tail = nn.Sequential(OrderedDict(bn=nn.BatchNorm3d(channels), relu=nn.ReLU(inplace=True)))
        self.out_channels = channels
        self.stride: Stride = product([(1, 2, 2), pool, *strides])
        he_init(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 768, t, h, w)."""
        x = self.maxpool(self.conv1(clips))
        return self.tail(self.conv5(self.conv4(self.conv3(self.conv2(x)))))
