"""3D DenseNets (Huang et al., CVPR 2017) with the parameter names of Hara et al. (CVPR 2018)."""

import re
from collections import Counter, OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.resnet3d import CONV1_T_SIZE, MAX_POOL, WIDEN, conv, table_key
from models.trunk import Layout, State, Stride, Trunk, five_strides, he_init, offset_of, own_name, product

DEPTHS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}


class DenseLayer(nn.Sequential):
    """A bottleneck whose output is appended to its input: (B, C, t, h, w) -> (B, C + growth, t, h, w)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__(OrderedDict(
            norm1=nn.BatchNorm3d(in_channels), relu1=nn.ReLU(inplace=True), conv1=conv(1, in_channels, 4 * growth),
            norm2=nn.BatchNorm3d(4 * growth), relu2=nn.ReLU(inplace=True), conv2=conv(3, 4 * growth, growth)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, super().forward(x)), 1)


class Transition(nn.Sequential):
    """Half the channels, and a mean over tiles of a stride: (B, C, t, h, w) -> (B, C / 2, t', h', w')."""

    def __init__(self, in_channels: int, stride: Stride) -> None:
        super().__init__(OrderedDict(
            norm=nn.BatchNorm3d(in_channels), relu=nn.ReLU(inplace=True), conv=conv(1, in_channels, in_channels // 2),
            pool=nn.AvgPool3d(stride, stride=stride)))


def numbered_from_0(key: str) -> str:
    """A key with the stem's layers numbered as in torchvision and in Hara's first release."""
    return re.sub(r"^features\.(conv|norm)1\.", r"features.\g<1>0.", key)


def with_dots(key: str) -> str:
    """The same with the layers of a block named as in torchvision's files and in Hara's first release (norm.1)."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", numbered_from_0(key))


def _layouts() -> tuple[Layout, ...]:
    """Those of each publisher, with each naming of keys."""
    publishers = ({"name": "Hara's DenseNets", "flat": False, "uncounted": "activitynet"},
                  {"name": "2D DenseNets", "flat": True, "normalisation": "imagenet"})
    namings = ((own_name, "1", "1"), (with_dots, "0", r"\.1"), (numbered_from_0, "0", "1"))
    block = r"features\.denseblock1\.denselayer1\.norm"
    return tuple(Layout(signs=(rf"features\.(conv|norm){stem}\.", rf"{block}{layer}\."), naming=naming,
                        heads=("classifier",), **published)
                 for published in publishers for naming, stem, layer in namings)


class DenseNet3D(Trunk):
    """The convolutional part of a 3D-DenseNet, its last batch-norm and ReLU included.

    Grids are rounded down, since the transitions pool without padding.
    Args:
        depth: one of `depths`.
        temporal_strides, spatial_strides: of conv1, max-pool and the three transitions; no weight depends on them. The
            published network has 1 2 2 2 2 and 2 2 2 2 2.
        widen_factor: multiplies the growth rate (32) and the channels of conv1 (64).
        conv1_t_size: frames that conv1 sees, odd.
        max_pool: whether the stem has its max-pool.
    Raises:
        ValueError: where an argument is outside its range.
    """

    depths = tuple(DEPTHS)
    default_depth = 121
    options = {"widen_factor": WIDEN, "conv1_t_size": CONV1_T_SIZE, "max_pool": MAX_POOL}
    strides = ((1, 2, 2, 1, 1), (2, 2, 2, 2, 2))
    places = ("conv1", "max-pool", "transition1", "transition2", "transition3")
    rounding = "down"
    layouts = _layouts()
    torchvision_names = {depth: f"densenet{depth}" for depth in DEPTHS if depth != 264}
    small = {"depth": 121, "widen_factor": 0.125}

    def __init__(self, depth: int = 121, *, temporal_strides: Sequence[int] = strides[0],
                 spatial_strides: Sequence[int] = strides[1], widen_factor: float = 1.0, conv1_t_size: int = 7,
                 max_pool: bool = True) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"no 3D-DenseNet of depth {depth}; choose one of {sorted(DEPTHS)}")
        if conv1_t_size % 2 == 0:
            raise ValueError(f"conv1_t_size must be odd so that conv1 keeps its centre, not {conv1_t_size}")
        strides = five_strides(temporal_strides, spatial_strides)
        if not max_pool:
            strides[1] = (1, 1, 1)
        channels, growth = int(64 * widen_factor), int(32 * widen_factor)
        if growth < 1:
            raise ValueError(f"a widen_factor of {widen_factor} leaves layers without channels; take at least 1/32")
        self.features = nn.Sequential(OrderedDict(
            conv1=nn.Conv3d(3, channels, (conv1_t_size, 7, 7), stride=strides[0], padding=(conv1_t_size // 2, 3, 3),
                            bias=False),
            norm1=nn.BatchNorm3d(channels), relu1=nn.ReLU(inplace=True)))
        if max_pool:
            self.features.add_module("pool1", nn.MaxPool3d(3, stride=strides[1], padding=1))
        for i, count in enumerate(DEPTHS[depth], 1):
            layers = OrderedDict((f"denselayer{j + 1}", DenseLayer(channels + j * growth, growth))
                                 for j in range(count))
            self.features.add_module(f"denseblock{i}", nn.Sequential(layers))
            channels += count * growth
            if i < 4:
                self.features.add_module(f"transition{i}", Transition(channels, strides[i + 1]))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm3d(channels))
        self.out_channels = channels
        self.torchvision_name = self.torchvision_names.get(depth)  # its ImageNet weights fit when they are inflated
        self.stride: Stride = product(strides)
        padded = [((1, 1, 1), (0, 0, 0), stride) for stride in strides[:2]]
        self.offset = offset_of(padded + [(stride, (0, 0, 0), stride) for stride in strides[2:]])
        he_init(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, out_channels, t, h, w)."""
        return self.features(clips).relu()

    @classmethod
    def arguments_of(cls, state: State) -> dict[str, object]:
        counts = Counter(re.findall(r"denseblock(\d)\.denselayer\d+\.norm\.?1\.weight", " ".join(state)))
        stem = state.get("features.conv1.weight", state.get("features.conv0.weight"))
        return {"depth": table_key(DEPTHS, tuple(counts[i] for i in "1234")),
                **({} if stem is None else {"widen_factor": stem.shape[0] / 64}),
                **({} if stem is None or stem.dim() < 5 else {"conv1_t_size": stem.shape[2]})}
