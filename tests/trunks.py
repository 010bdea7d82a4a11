"""Small trunks for tests, and the names of all."""

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from models import TRUNKS, Trunk
from models.resnet3d import ResNet3D

CPU = torch.device("cpu")
BUILDABLE = {name: trunk for name, trunk in TRUNKS.items()  # those whose library is here
             if not trunk.on_hub or importlib.util.find_spec("transformers") is not None}
ALL_DEPTHS = [pytest.param(name, depth, marks=[pytest.mark.slow] * (i > 0)) for name, trunk in TRUNKS.items()
              for i, depth in enumerate(trunk.depths or (None,))]
PUBLISHED = {"temporal_strides": (1, 2, 2, 2, 2), "spatial_strides": (2, 2, 2, 2, 2)}
HARA = {name: trunk for name, trunk in TRUNKS.items() if issubclass(trunk, ResNet3D)}


def light(names) -> list:
    """The names, the heavy ones among them as slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] * TRUNKS[name].heavy) for name in names]


def shuffle(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that are nobody's default, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for values, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                                      (module.weight.data, 0.5, 1.5), (module.bias.data, -0.3, 0.3)):
                values.uniform_(low, high, generator=generator)
    return network.eval()


def small(name: str, **options) -> Trunk:
    torch.manual_seed(0)
    return shuffle(TRUNKS[name](**{**TRUNKS[name].small, **options}))


@torch.no_grad()
def damp(trunk: nn.Module) -> nn.Module:
    """Make blocks add little to what they are given, as training does: through fifty it would grow past all bounds."""
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight *= 0.3
    return trunk


def on_meta(name: str, depth: int | None = None, **options) -> Trunk:
    """Shapes only, nothing is computed."""
    with torch.device("meta"):
        return TRUNKS[name](**({} if depth is None else {"depth": depth}), **options)


def clips(batch: int = 1, size: tuple[int, int, int] = (8, 32, 32)) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and theirs.abs().max() > 0
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def save(tmp_path, content):
    torch.save(content, tmp_path / "kinetics.pth")
    return tmp_path / "kinetics.pth"
