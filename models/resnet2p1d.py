"""R(2+1)D (Tran et al., CVPR 2018), convolutions split into space and time, with the names of Hara et al."""

from torch import Tensor, nn

from models.resnet3d import ResNet3D, Stride, conv


def middle_channels(in_channels: int, out_channels: int, t_size: int, size: int) -> int:
    """Channels between a 1 x size x size and a t_size x 1 x 1 convolution that hold together as many weights as one of
    t_size x size x size (section 3.5 of the paper)."""
    return t_size * size * size * in_channels * out_channels // (size * size * in_channels + t_size * out_channels)


def spatial(in_channels: int, out_channels: int, stride: Stride = (1, 1, 1), size: int = 3) -> nn.Conv3d:
    """The half of a split convolution that sees one frame; it takes the stride in space."""
    return nn.Conv3d(in_channels, out_channels, (1, size, size), stride=(1, *stride[1:]),
                     padding=(0, size // 2, size // 2), bias=False)


def temporal(in_channels: int, out_channels: int, stride: Stride = (1, 1, 1), size: int = 3) -> nn.Conv3d:
    """The half of a split convolution that sees one place; it takes the stride in time."""
    return nn.Conv3d(in_channels, out_channels, (size, 1, 1), stride=(stride[0], 1, 1), padding=(size // 2, 0, 0),
                     bias=False)


class SplitBasicBlock(nn.Module):
    """Two split convolutions and a shortcut: (B, C, t, h, w) -> (B, planes, t', h', w')."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        middle1, middle2 = (middle_channels(n, planes, 3, 3) for n in (in_channels, planes))
        self.conv1_s = spatial(in_channels, middle1, stride)
        self.bn1_s = nn.BatchNorm3d(middle1)
        self.conv1_t = temporal(middle1, planes, stride)
        self.bn1_t = nn.BatchNorm3d(planes)
        self.conv2_s = spatial(planes, middle2)
        self.bn2_s = nn.BatchNorm3d(middle2)
        self.conv2_t = temporal(middle2, planes)
        self.bn2_t = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1_s(self.conv1_s(x)))
        out = self.relu(self.bn1_t(self.conv1_t(out)))
        out = self.relu(self.bn2_s(self.conv2_s(out)))
        return self.relu(self.bn2_t(self.conv2_t(out)) + shortcut)


class SplitBottleneck(nn.Module):
    """A bottleneck whose middle convolution is split: (B, C, t, h, w) -> (B, 4 planes, t', h', w')."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        middle = middle_channels(planes, planes, 3, 3)
        self.conv1 = conv(1, in_channels, planes)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2_s = spatial(planes, middle, stride)
        self.bn2_s = nn.BatchNorm3d(middle)
        self.conv2_t = temporal(middle, planes, stride)
        self.bn2_t = nn.BatchNorm3d(planes)
        self.conv3 = conv(1, planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2_s(self.conv2_s(out)))
        out = self.relu(self.bn2_t(self.conv2_t(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNet2Plus1D(ResNet3D):
    """ResNet3D of split convolutions, the stem included."""

    blocks = (SplitBasicBlock, SplitBottleneck)
    torchvision_names = {}

    def _make_stem(self, channels: int, t_size: int, stride: Stride) -> None:
        middle = middle_channels(3, channels, t_size, 7)
        self.conv1_s = spatial(3, middle, stride, size=7)
        self.bn1_s = nn.BatchNorm3d(middle)
        self.conv1_t = temporal(middle, channels, stride, size=t_size)
        self.bn1_t = nn.BatchNorm3d(channels)

    def _stem(self, clips: Tensor) -> Tensor:
        out = self.relu(self.bn1_s(self.conv1_s(clips)))
        return self.relu(self.bn1_t(self.conv1_t(out)))
