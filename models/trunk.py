"""What a trunk is: the base class of all of them, what each class states of itself, and what they are built from."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stride = tuple[int, int, int]  # (t, h, w), and what else is stated along the three axes
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Option:
    """An argument of a trunk's constructor, and the flag that sets it; the same flag is the same Option in all trunks.

    Attributes:
        flag: without dashes; of a truth value it turns the default over.
        default: of the constructor, and by its type that of the flag.
        help: one line. choices: the values there are; () for any.
        least: bound of numbers, which is included unless `above`. odd: odd numbers alone.
    """

    flag: str
    default: str | int | float
    help: str
    choices: tuple[str, ...] = ()
    least: float = 1
    above: bool = False
    odd: bool = False

    @property
    def unset(self) -> str | int | float:
        """What the flag is when nobody gives it."""
        return False if isinstance(self.default, bool) else self.default

    def value(self, flag: str | int | float) -> str | int | float:
        """What a flag's value means to the constructor."""
        return bool(flag) != self.default if isinstance(self.default, bool) else flag


def own_name(key: str) -> str:
    """The naming of a layout whose keys are the trunk's own."""
    return key


@dataclass(frozen=True)
class Layout:
    """How published files of weights look: what they are recognised by, and what else their publisher chose.

    Attributes:
        name: in messages, such as "Hara's ResNets".
        signs: patterns; of a file in this layout each matches the beginning of one of its keys. Together they should
            match no other trunk's files.
        flat: whether its kernels are 2D, where 3D ones with the same keys are another layout, or the reverse; None
            where it does not matter.
        naming: from a key of the trunk to the key in the file.
        containers: where the state dict is, of a file that is a dict of more.
        heads: names of classifiers, which are dropped; the usual one first.
        normalisation: of the clips that the weights saw, a key of datasets.transforms.NORMALISATIONS.
        uncounted: the same of files without the counters of batch-norms (from before PyTorch 0.4.1), where it differs.
        absent: patterns that match no key of such a file, where `signs` alone would match others' files, too.
        between: names of what stands in the published head between the features and its classifier (see Trunk.pooler).
        licence: of the weights that their publishers offer, in words.
    """

    name: str
    signs: tuple[str, ...]
    flat: bool | None = None
    naming: Callable[[str], str] = own_name
    containers: tuple[str, ...] = ("state_dict",)
    heads: tuple[str, ...] = ("fc",)
    normalisation: str = "kinetics"
    uncounted: str | None = None
    absent: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    licence: str = ""

    def is_of(self, state: State) -> bool:
        """Whether a state dict, without the prefix of data-parallel training, is in this layout."""
        flat = max((value.dim() for value in state.values()), default=0) == 4
        return (self.flat in (None, flat) and all(any(re.match(sign, key) for key in state) for sign in self.signs)
                and not any(re.match(sign, key) for key in state for sign in self.absent))

    def normalisation_of(self, state: State) -> str:
        """Under which normalisation weights in this layout saw their clips."""
        counted = any(key.endswith("num_batches_tracked") for key in state)
        return self.normalisation if counted or self.uncounted is None else self.uncounted

    def rename(self, state: State, keys: Iterable[str]) -> dict[str, Tensor]:
        """Give tensors the trunk's own names, `keys`; what the trunk does not have keeps its name."""
        own = {self.naming(key): key for key in keys}
        return {own.get(key, key): value for key, value in state.items()}


class Trunk(nn.Module):
    """A network for clips without pooling over the grid and without classifier, and what a class states of it.

    `forward` maps normalised clips (B, 3, T, H, W) to features (B, out_channels, t, h, w). A subclass and a line in
    `TRUNKS` (models/__init__.py) are all that a new trunk takes: flags, weights, tests and the table of trunks read the
    rest from here.

    Attributes:
        out_channels: of the features.
        stride: frames, rows and columns from one cell to the next.
        offset: frame, row and column of the centre of the first cell, rounded down; 0 where layers that subsample are
            padded to both sides alike.
        rounding: "up" where the last cell of an axis may be a part (padded layers), "down" where it is left out.
        clip: frames, and pixels high and wide, that its weights were published for.
        frame_stride: frames from one frame of such a clip to the next, of videos of 25 to 30 frames a second.
        depths: numbers of layers that the constructor takes as `depth`, () for a network of one size; default_depth:
            the constructor's default.
        options: further arguments of the constructor that flags set.
        strides: defaults of the constructor's `temporal_strides` and `spatial_strides`, five each; None where the
            strides cannot be changed. No weight may depend on them.
        places: of which parts these five are, None for one that has to be 1.
        layouts: in which its weights are published, the usual one first.
        head_window: cells (t, h, w) that the published head averages at every place of the grid, before the mean over
            these places; None where it reads the mean over the grid.
        torchvision_name: of the network whose weights torchvision fetches by name, None without; torchvision_names: the
            same by depth, where it depends on it.
        small: arguments of the constructor that make a network for tests.
        heavy: whether it is large even so; `make test` then leaves it to smaller relatives and `make test-all`.
        on_hub: whether its weights are folders of the Hugging Face hub, with the network's sizes in config.json.
    """

    out_channels: int
    stride: Stride
    offset: Stride = (0, 0, 0)
    rounding: str = "up"
    clip: tuple[int, int] = (16, 112)
    frame_stride: int = 1
    depths: tuple[int, ...] = ()
    default_depth: int | None = None
    options: Mapping[str, Option] = {}
    strides: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    places: tuple[str | None, ...] = ("conv1", "max-pool", "layer2", "layer3", "layer4")
    layouts: tuple[Layout, ...] = ()
    head_window: Stride | None = None
    torchvision_name: str | None = None
    torchvision_names: Mapping[int, str] = {}
    small: Mapping[str, object] = {}
    heavy: bool = False
    on_hub: bool = False

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips: (B, 3, T, H, W) normalised -> (B, out_channels, t, h, w)."""
        raise NotImplementedError

    def cells(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid (t, h, w) of the features of a clip of `size` (T, H, W)."""
        rounded = math.ceil if self.rounding == "up" else math.floor
        return tuple(rounded(length / stride) for length, stride in zip(size, self.stride, strict=True))

    def pooled(self, features: Tensor) -> Tensor:
        """What the published head reads of features: (B, C, t, h, w) -> (B, C); HIPE's own head reads the plain mean.

        A window that is larger than the grid is as large as the grid. The mean over windows is a mean over cells,
        each weighted by the number of windows that it lies in, which is deterministic on every device.
        """
        cells = tuple(features.shape[2:])
        window = [min(pair) for pair in zip(cells, self.head_window or cells, strict=True)]
        if window == list(cells):
            return features.mean((2, 3, 4))
        weights = [F.avg_pool1d(torch.eye(n, dtype=features.dtype, device=features.device), k, 1).mean(1)
                   for n, k in zip(cells, window, strict=True)]
        return torch.einsum("bcthw,t,h,w->bc", features, *weights)

    def pooler(self, between: State) -> nn.Module | None:
        """What the published head does to features (B, C, t, h, w) before its classifier, where that has weights.

        Args:
            between: tensors of a file under the names in Layout.between; none of a file without.
        Returns:
            a module -> (B, C); None where it is `pooled`.
        """
        return None

    def fit_stem(self, state: State) -> None:
        """Take from weights, in the trunk's own names, what sizes they alone decide; by default none."""

    @classmethod
    def is_of(cls, state: State) -> bool:
        """Whether weights in one of `layouts` are of this network, for networks that share a layout."""
        return True

    @classmethod
    def arguments_of(cls, state: State) -> dict[str, object]:
        """The constructor's arguments that make a trunk of a state dict's shapes, as far as these tell them.

        They say why weights do not fit. A depth that there is not may be given in words.
        """
        return {}


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
