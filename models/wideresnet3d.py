"""Wide 3D residual networks (Zagoruyko and Komodakis, BMVC 2016) with the parameter names of Hara et al."""

import torch
from torch import Tensor, nn

from models.resnet3d import Bottleneck, ResNet3D


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

    def fit_stem(self, state: dict[str, Tensor]) -> None:
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
    options = (*ResNet3D.options, "k")
    blocks = (WideBottleneck, WideBottleneck)
    torchvision_names = {50: "wide_resnet50_2", 101: "wide_resnet101_2"}  # both of k = 2

    def __init__(self, depth: int = 50, *, k: int = 2, **options) -> None:
        self.planes = tuple(k * n for n in ResNet3D.planes)
        super().__init__(depth, **options)
