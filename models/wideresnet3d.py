"""Wide 3D residual networks (Zagoruyko and Komodakis, BMVC 2016) with the parameter names of Hara et al."""

import torch
from torch import Tensor, nn

from models.resnet3d import Bottleneck, ResNet3D
from models.trunk import Option, State


class StemOfItsWeights(ResNet3D):
    """A ResNet3D wider than its stem, whose stem takes the width of the weights that are loaded into it.

    Hara's paper and first weights have 64 channels in the stem, the later code as many as layer1 has planes: both fit.
    """

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.register_load_state_dict_pre_hook(self._prepare)

    @staticmethod
    def _prepare(trunk: nn.Module, state: dict[str, Tensor], prefix: str, *_) -> None:
        trunk.fit_stem({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})

    def fit_stem(self, state: State) -> None:
        """Rebuild the stem, and what reads it, where a state dict of this trunk has another width there."""
        weight = state.get("conv1.weight")
        if weight is None or weight.dim() == 0 or weight.shape[0] == self.conv1.out_channels:
            return
        first = self.layer1[0]
        readers = [(first, "conv1")] + ([] if self.shortcut == "A" else [(first.downsample, "0")])
        with torch.device(self.conv1.weight.device):
            width = weight.shape[0]
            self._make_stem(width, self.conv1.kernel_size[0], self.conv1.stride)
            for parent, name in readers:
                old = getattr(parent, name)
                setattr(parent, name, nn.Conv3d(width, old.out_channels, 1, stride=old.stride, bias=False))


class WideBottleneck(Bottleneck):
    """A bottleneck that is twice as wide at its ends as in its middle: (B, C, t, h, w) -> (B, 2 planes, t', h', w')."""

    expansion = 2


class WideResNet3D(StemOfItsWeights):
    """ResNet3D of wide bottlenecks.

    Args:
        k: multiplies the channel counts of the stages; the rest as in ResNet3D.
    """

    depths = (50, 101, 152, 200)
    default_depth = 50
    options = {**ResNet3D.options,
               "k": Option("wide_resnet_k", 2, "multiplies the channels of wideresnet's stages (default: 2)")}
    small = {"depth": 50, "widen_factor": 0.125}
    kind = "wide"
    blocks = (WideBottleneck, WideBottleneck)
    torchvision_names = {50: "wide_resnet50_2", 101: "wide_resnet101_2"}  # both of k = 2

    def __init__(self, depth: int = 50, *, k: int = 2, **options) -> None:
        self.planes = tuple(k * n for n in ResNet3D.planes)
        super().__init__(depth, **options)

    @classmethod
    def widths_of(cls, state: State, stem: Tensor | None) -> dict[str, object]:
        first, widen = state.get("layer1.0.conv2.weight"), None if stem is None else stem.shape[0] / 64
        if first is None or not widen:
            return super().widths_of(state, stem)
        if first.shape[0] == stem.shape[0] and first.shape[0] % 64 == 0:
            widen = 1.0  # Hara's later code has a stem as wide as layer1's planes, which tells nothing of the factor
        return {"k": round(first.shape[0] / 64 / widen), "widen_factor": widen}
