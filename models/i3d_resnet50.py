"""ResNet-50 inflated to three dimensions, which keeps every frame; names as in torchvision's ResNet-50."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.resnet3d import HARA, IMAGES, kind_of
from models.trunk import State, Stride, Trunk, five_strides, he_init, product


def inflate(module: nn.Module) -> nn.Module:
    """The 3D counterpart of a 2D layer, untrained; what is wider than a pixel gets three frames, stride 1, padding 1.

    Layers without a spatial extent come back as they are, containers with all their layers inflated.
    """
    if isinstance(module, nn.Conv2d):
        wide = module.kernel_size != (1, 1)
        return nn.Conv3d(module.in_channels, module.out_channels, (3 if wide else 1, *module.kernel_size),
                         stride=(1, *module.stride), padding=(int(wide), *module.padding), bias=module.bias is not None)
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm3d(module.num_features, eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.MaxPool2d):
        return nn.MaxPool3d((1, module.kernel_size, module.kernel_size), stride=(1, module.stride, module.stride),
                            padding=(0, module.padding, module.padding))
    for name, child in module.named_children():
        setattr(module, name, inflate(child))
    return module


class I3DResNet50(Trunk):
    """Inflated ResNet-50 (Carreira and Zisserman, CVPR 2017) without temporal strides: T frames give T cells in time.

    16 x 224 x 224 pixels give 16 x 7 x 7 cells.
    Args:
        temporal_strides, spatial_strides: of conv1, max-pool, layer2, layer3 and layer4; no weight depends on them.
    Raises:
        ValueError: where they are not five each.
    """

    strides = ((1, 1, 1, 1, 1), (2, 2, 2, 2, 2))
    out_channels = 2048
    clip = (16, 224)
    layouts = (IMAGES, HARA)
    heavy = True
    torchvision_name = "resnet50"

    def __init__(self, *, temporal_strides: Sequence[int] = strides[0],
                 spatial_strides: Sequence[int] = strides[1]) -> None:
        super().__init__()
        strides = five_strides(temporal_strides, spatial_strides)
        from torchvision.models import resnet50  # here, for it takes a second to import
        network = resnet50(weights=None)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, inflate(getattr(network, name)))
        self.conv1.stride, self.maxpool.stride = strides[:2]
        for stage, stride in zip((self.layer2, self.layer3, self.layer4), strides[2:], strict=True):
            stage[0].conv2.stride = stage[0].downsample[0].stride = stride
        self.stride: Stride = product(strides)
        he_init(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, 2048, t, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clips))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    @classmethod
    def is_of(cls, state: State) -> bool:
        return kind_of(state) == "plain"
