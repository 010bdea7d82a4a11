"""Pre-activation 3D residual networks (He et al., ECCV 2016) with the parameter names of Hara et al. (CVPR 2018)."""

from torch import Tensor, nn

from models.resnet3d import HARA, ResNet3D, conv
from models.trunk import Stride


class PreActBasicBlock(nn.Module):
    """Batch-norm and ReLU before each of two 3x3x3 convolutions: (B, C, t, h, w) -> (B, planes, t', h', w')."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm3d(in_channels)
        self.conv1 = conv(3, in_channels, planes, stride)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv2 = conv(3, planes, planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.conv1(self.relu(self.bn1(x)))
        return self.conv2(self.relu(self.bn2(out))) + shortcut


class PreActBottleneck(nn.Module):
    """Batch-norm and ReLU before 1x1x1, 3x3x3 and 1x1x1 convolutions: (B, C, t, h, w) -> (B, 4 planes, t', h', w')."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm3d(in_channels)
        self.conv1 = conv(1, in_channels, planes)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv2 = conv(3, planes, planes, stride)
        self.bn3 = nn.BatchNorm3d(planes)
        self.conv3 = conv(1, planes, planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        return self.conv3(self.relu(self.bn3(out))) + shortcut


class PreActResNet3D(ResNet3D):
    """ResNet3D of pre-activation blocks; as published, neither batch-norm nor ReLU follows the last one."""

    blocks = (PreActBasicBlock, PreActBottleneck)
    kind = "preactivated"
    layouts = (HARA,)
    torchvision_names = {}
