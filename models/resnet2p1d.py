"""R(2+1)D (Tran et al., CVPR 2018), convolutions split into space and time, with the names of Hara et al."""

from torch import Tensor, nn

from models.resnet3d import Block, ResNet3D, conv
from models.trunk import Layout, State, Stride


def middle_channels(in_channels: int, out_channels: int, t_size: int, size: int) -> int:
    """Channels between a 1 x size x size and a t_size x 1 x 1 convolution that hold together as many weights as one of
    t_size x size x size (section 3.5 of the paper)."""
    return t_size * size * size * in_channels * out_channels // (size * size * in_channels + t_size * out_channels)


def add_split(network: nn.Module, number: int, in_channels: int, out_channels: int, stride: Stride = (1, 1, 1), *,
              t_size: int = 3, size: int = 3) -> None:
    """Give a network a split convolution with its batch-norms: conv1_s, bn1_s in a frame, conv1_t, bn1_t at a place."""
    middle, (st, sh, sw) = middle_channels(in_channels, out_channels, t_size, size), stride
    layers = {
        f"conv{number}_s": nn.Conv3d(in_channels, middle, (1, size, size), stride=(1, sh, sw),
                                     padding=(0, size // 2, size // 2), bias=False),
        f"bn{number}_s": nn.BatchNorm3d(middle),
        f"conv{number}_t": nn.Conv3d(middle, out_channels, (t_size, 1, 1), stride=(st, 1, 1),
                                     padding=(t_size // 2, 0, 0), bias=False),
        f"bn{number}_t": nn.BatchNorm3d(out_channels)}
    for name, layer in layers.items():
        network.add_module(name, layer)


def split(network: nn.Module, number: int, x: Tensor) -> Tensor:
    """A split convolution with its batch-norms, a ReLU between the halves: (B, C, t, h, w) -> (B, C', t', h', w')."""
    conv_s, bn_s, conv_t, bn_t = (getattr(network, f"{layer}{number}_{half}") for half in "st"
                                  for layer in ("conv", "bn"))
    return bn_t(conv_t(bn_s(conv_s(x)).relu_()))


class SplitBasicBlock(Block):
    """Two split convolutions and a shortcut: (B, C, t, h, w) -> (B, planes, t', h', w')."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        add_split(self, 1, in_channels, planes, stride)
        add_split(self, 2, planes, planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        return split(self, 2, self.relu(split(self, 1, x)))


class SplitBottleneck(Block):
    """A bottleneck whose middle convolution is split: (B, C, t, h, w) -> (B, 4 planes, t', h', w')."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(1, in_channels, planes)
        self.bn1 = nn.BatchNorm3d(planes)
        add_split(self, 2, planes, planes, stride)
        self.conv3 = conv(1, planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.relu(split(self, 2, out))))


class ResNet2Plus1D(ResNet3D):
    """ResNet3D of split convolutions, the stem included."""

    blocks = (SplitBasicBlock, SplitBottleneck)
    layouts = (Layout("Hara's R(2+1)D", (r"conv1_s\.weight",), uncounted="activitynet"),)
    torchvision_names = {}

    @classmethod
    def is_of(cls, state: State) -> bool:
        return True

    def _make_stem(self, channels: int, t_size: int, stride: Stride) -> None:
        add_split(self, 1, 3, channels, stride, t_size=t_size, size=7)

    def _stem(self, clips: Tensor) -> Tensor:
        return self.relu(split(self, 1, clips))
