"""3D residual networks with the parameter names of Hara et al. (CVPR 2018), whose Kinetics weights load unchanged."""

import re
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.trunk import Layout, Option, State, Stride, Trunk, five_strides, he_init, product


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


def table_key(table: Mapping[int, tuple[int, ...]], counts: tuple[int, ...]) -> int | str:
    """The depth with these numbers of blocks, or the numbers where no depth has them."""
    return next((depth for depth, blocks in table.items() if blocks == counts), " ".join(map(str, counts)) + " blocks")


SHORTCUT = Option("resnet_shortcut", "B", "A: zero padding, B: convolution (default: B)", choices=("A", "B"))
WIDEN = Option("resnet_widen_factor", 1.0, "multiplies the trunk's channels (default: 1)", least=0, above=True)
CONV1_T_SIZE = Option("conv1_t_size", 7, "frames that conv1 sees, odd (default: 7)", odd=True)
MAX_POOL = Option("no_max_pool", True, "stem without max-pool; strides 1 in second place")
# All of Hara et al.'s residual networks, and torchvision's for images, have these names. A network whose stem is a
# Sequential (stem.0.weight) is another, even if its blocks are named alike.
SIGNS = (r"(conv1|bn1)\.weight", r"layer1\.0\.conv1\.weight")
HARA = Layout("Hara's ResNets", SIGNS, flat=False, uncounted="activitynet")
IMAGES = Layout("2D ResNets", SIGNS, flat=True, normalisation="imagenet")


def kind_of(state: State) -> str:
    """Of which kind the blocks are that have these shapes: "plain", "preactivated", "grouped" or "wide"."""
    conv1, bn1 = state.get("layer2.0.conv1.weight"), state.get("layer2.0.bn1.weight")
    conv2, conv3 = state.get("layer2.0.conv2.weight"), state.get("layer2.0.conv3.weight")
    if conv1 is not None and bn1 is not None and bn1.shape[0] == conv1.shape[1] != conv1.shape[0]:
        return "preactivated"
    if conv2 is None or conv3 is None:
        return "plain"
    if conv2.shape[0] != conv2.shape[1]:
        return "grouped"
    return "wide" if conv3.shape[0] == 2 * conv2.shape[0] else "plain"


class ResNet3D(Trunk):
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
    default_depth = 18
    options: Mapping[str, Option] = {"shortcut": SHORTCUT, "widen_factor": WIDEN, "conv1_t_size": CONV1_T_SIZE,
                                     "max_pool": MAX_POOL}
    strides = ((1, 2, 2, 1, 1), (2, 2, 2, 2, 2))
    layouts: tuple[Layout, ...] = (HARA, IMAGES)
    small: Mapping[str, object] = {"depth": 10, "widen_factor": 0.125}
    kind = "plain"  # of its blocks, by `kind_of`
    blocks: tuple[type[nn.Module], type[nn.Module]] = (BasicBlock, Bottleneck)
    planes = (64, 128, 256, 512)
    # torchvision's 2D networks whose ImageNet weights fit when they are inflated
    torchvision_names: Mapping[int, str] = {18: "resnet18", 34: "resnet34", 50: "resnet50", 101: "resnet101",
                                            152: "resnet152"}

    def __init__(self, depth: int = 18, *, temporal_strides: Sequence[int] = strides[0],
                 spatial_strides: Sequence[int] = strides[1], shortcut: str = "B", widen_factor: float = 1.0,
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

    @classmethod
    def is_of(cls, state: State) -> bool:
        return kind_of(state) == cls.kind

    @classmethod
    def arguments_of(cls, state: State) -> dict[str, object]:
        blocks = {tuple(map(int, place)) for place in re.findall(r"\blayer(\d)\.(\d+)\.", " ".join(state))}
        counts = tuple(sum(layer == i for layer, _ in blocks) for i in (1, 2, 3, 4))
        deep = "layer1.0.conv3.weight" in state
        stem = state.get("conv1.weight", state.get("conv1_t.weight"))
        return {"depth": table_key({depth: n for depth, n in DEPTHS.items() if (depth >= 50) == deep}, counts),
                "shortcut": "B" if "layer2.0.downsample.0.weight" in state else "A",
                **({} if stem is None or stem.dim() < 5 else {"conv1_t_size": stem.shape[2]}),
                **cls.widths_of(state, stem)}

    @classmethod
    def widths_of(cls, state: State, stem: Tensor | None) -> dict[str, object]:
        """The arguments among these on which numbers of channels depend; stem: the weights of the first convolution."""
        return {} if stem is None else {"widen_factor": stem.shape[0] / 64}
