"""TSM (Lin, Gan and Han, ICCV 2019): a 2D network whose blocks first shift some channels in time.

Parameter names are the published `base_model.` followed by torchvision's, with `.net` under a shift.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.resnet3d import IMAGES
from models.trunk import Layout, Stride, Trunk


class Shift(nn.Module):
    """A 2D layer before which an eighth of the channels comes from the next frame, and an eighth from the last one.

    What comes from outside the clip is zero. (B T, C, h, w) -> (B T, C', h', w'), the frames of a clip side by side.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.frames = 1

    def forward(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // 8
        clips = x.unflatten(0, (-1, self.frames))  # (B, T, C, h, w)
        nothing = torch.zeros_like(clips[:, :1, :fold])
        following = torch.cat((clips[:, 1:, :fold], nothing), 1)
        preceding = torch.cat((nothing, clips[:, :-1, fold:2 * fold]), 1)
        return self.net(torch.cat((following, preceding, clips[:, :, 2 * fold:]), 2).flatten(0, 1))


HEADS = ("new_fc", "base_model.fc", "base_model.classifier")


def unshifted(key: str) -> str:
    """A key as in torchvision's network for images, which knows no shift."""
    return key.removeprefix("base_model.").replace(".net.", ".")


def flat_blocks(key: str) -> str:
    """A key of MobileNetV2 as in TSM's code, where a block is one flat list and not lists within a list.

    Its layers are 0 1 2 expansion, 3 4 5 depthwise, 6 7 projection; the first block, without expansion, 0 1 2, 3 4.
    """
    parts = re.fullmatch(r"(.*features\.(\d+)\.conv\.)(\d)\.(.*)", key)
    if parts is None:
        return key
    block, number, layer, rest = parts[1], int(parts[2]), int(parts[3]), parts[4]
    lists = 1 if number == 1 else 2  # of convolution, batch-norm and ReLU
    if layer < lists:
        place, _, rest = rest.partition(".")
        return f"{block}{3 * layer + int(place)}.{rest}"
    return f"{block}{2 * lists + layer}.{rest}"


class TSM(Trunk):
    """A 2D network with shifts, run on the frames of a clip; it was published for clips of 8 frames, far apart.

    Every frame gives a cell in time. `frame_maps` is a subclass's: (B T, 3, H, W) frames -> (B T, C, h, w), what
    the 2D network gives before its pooling.
    """

    stride: Stride = (1, 32, 32)
    clip = (8, 224)
    frame_stride = 8

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, out_channels, T, h, w)."""
        for module in self.modules():
            if isinstance(module, Shift):
                module.frames = clips.shape[2]
        maps = self.frame_maps(clips.transpose(1, 2).flatten(0, 1))  # (B T, C, h, w)
        return maps.unflatten(0, (clips.shape[0], clips.shape[2])).transpose(1, 2)


class TSMResNet50(TSM):
    """TSM on ResNet-50: every block shifts in its residual branch."""

    out_channels = 2048
    layouts = (Layout("TSM on ResNet", (r"base_model\.layer1\.0\.conv1\.net\.weight",), heads=HEADS,
                      normalisation="imagenet"),
               replace(IMAGES, naming=unshifted))
    heavy = True
    torchvision_name = "resnet50"

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50  # here, for it takes a second to import
        network = resnet50(weights=None)
        del network.fc
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                block.conv1 = Shift(block.conv1)
        self.base_model = network

    def frame_maps(self, frames: Tensor) -> Tensor:
        network = self.base_model
        x = network.maxpool(network.relu(network.bn1(network.conv1(frames))))
        return network.layer4(network.layer3(network.layer2(network.layer1(x))))


class TSMMobileNetV2(TSM):
    """TSM on MobileNetV2: every block with a shortcut shifts before its expansion."""

    out_channels = 1280
    layouts = (
        # with TSM's flat blocks, and with lists
        Layout("TSM on MobileNetV2", (r"base_model\.features\.1\.conv\.3\.",), naming=flat_blocks, heads=HEADS,
               normalisation="imagenet"),
        Layout("TSM on MobileNetV2", (r"base_model\.features\.1\.conv\.0\.0\.",), heads=HEADS,
               normalisation="imagenet"),
        Layout("2D MobileNetV2", (r"features\.18\.0\.weight", r"features\.1\.conv\.0\.0\."), naming=unshifted,
               heads=("classifier.1",), normalisation="imagenet"),
        Layout("2D MobileNetV2", (r"features\.18\.0\.weight", r"features\.1\.conv\.3\."),
               naming=lambda key: unshifted(flat_blocks(key)), heads=("classifier",), normalisation="imagenet"))
    torchvision_name = "mobilenet_v2"

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2  # here, for it takes a second to import
        from torchvision.models.mobilenetv2 import InvertedResidual
        network = mobilenet_v2(weights=None)
        del network.classifier
        for block in network.features:
            if isinstance(block, InvertedResidual) and block.use_res_connect:
                block.conv[0][0] = Shift(block.conv[0][0])
        self.base_model = network

    def frame_maps(self, frames: Tensor) -> Tensor:
        return self.base_model.features(frames)
