"""3D ResNeXt (Xie et al., CVPR 2017) with the parameter names of Hara et al. (CVPR 2018)."""

from torch import Tensor, nn

from models.resnet3d import Bottleneck, ResNet3D, conv
from models.trunk import Option, State, Stride
from models.wideresnet3d import StemOfItsWeights


class ResNeXtBottleneck(Bottleneck):
    """A bottleneck with a grouped 3x3x3 convolution: (B, C, t, h, w) -> (B, 2 planes, t', h', w')."""

    expansion = 2

    def __init__(self, in_channels: int, planes: int, stride: Stride, downsample: nn.Module | None,
                 cardinality: int) -> None:
        super().__init__(in_channels, planes, stride, downsample)
        middle = cardinality * planes // 32
        self.conv1 = conv(1, in_channels, middle)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = nn.Conv3d(middle, middle, 3, stride=stride, padding=1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm3d(middle)
        self.conv3 = conv(1, middle, planes * self.expansion)


class ResNeXt3D(StemOfItsWeights):
    """ResNet3D of grouped bottlenecks.

    Args:
        cardinality: groups of their 3x3x3 convolutions; the rest as in ResNet3D.
    Raises:
        ValueError: where an argument is outside its range, or the groups do not divide a convolution's channels.
    """

    depths = (50, 101, 152, 200)
    default_depth = 50
    options = {**ResNet3D.options,
               "cardinality": Option("resnext_cardinality", 32, "groups of resnext's convolutions (default: 32)")}
    small = {"depth": 50, "widen_factor": 0.25, "cardinality": 4}
    kind = "grouped"
    blocks = (ResNeXtBottleneck, ResNeXtBottleneck)
    planes = (128, 256, 512, 1024)
    torchvision_names = {50: "resnext50_32x4d"}

    def __init__(self, depth: int = 50, *, cardinality: int = 32, **options) -> None:
        self.cardinality = cardinality
        for planes in self.planes:
            middle = cardinality * int(planes * options.get("widen_factor", 1.0)) // 32
            if middle < 1 or middle % cardinality:
                raise ValueError(f"--resnext_cardinality {cardinality} does not divide the {middle} channels of a "
                                 "grouped convolution; it does where --resnet_widen_factor is a multiple of .25")
        super().__init__(depth, **options)

    def _block(self, kind: type[nn.Module], in_channels: int, planes: int, stride: Stride,
               downsample: nn.Module | None) -> nn.Module:
        return kind(in_channels, planes, stride, downsample, self.cardinality)

    @classmethod
    def widths_of(cls, state: State, stem: Tensor | None) -> dict[str, object]:
        middle = state.get("layer2.0.conv2.weight")
        if middle is None:
            return super().widths_of(state, stem)
        return {"cardinality": middle.shape[0] // middle.shape[1]}
