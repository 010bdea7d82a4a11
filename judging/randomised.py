"""A model that forgets what it learned, by which heat is tested: does it depend on that?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from judging.trunk_model import TrunkModel
from models.hipe import HIPE

CLIPS = 4  # of noise, on which batch-norms take their statistics
COARSER = (2, 8, 8)  # frames and pixels from one independent value of that noise to the next


class Forgetful:
    """A model that for a while has the weights of `randomise`.

    Args:
        model, size, seed: as in `randomise`.
    """

    def __init__(self, model: HIPE | TrunkModel, size: tuple[int, int, int], *, seed: int) -> None:
        self.model, self.size, self.seed = model, size, seed
        self._shuffled: list[Tensor] | None = None

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """In here the model knows nothing; afterwards it is as it was."""
        state = weights_of(self.model) + list(self.model.buffers())
        learned = [tensor.detach().clone() for tensor in state]
        try:
            if self._shuffled is None:
                randomise(self.model, self.size, seed=self.seed)
                self._shuffled = [tensor.detach().clone() for tensor in state]
            else:
                _fill(state, self._shuffled)
            yield
        finally:
            _fill(state, learned)


@torch.no_grad()
def _fill(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def weights_of(model: HIPE | TrunkModel) -> list[Tensor]:
    """All that a model learned; a published head stands beside its trunk's parameters."""
    weights: list[Tensor] = list(model.parameters())
    if isinstance(model, TrunkModel) and all(model.softmax_weights is not weight for weight in weights):
        weights.append(model.softmax_weights)
    return weights


@torch.no_grad()
def randomise(model: HIPE | TrunkModel, size: tuple[int, int, int], *, seed: int) -> None:
    """Shuffle the values of every weight, in place, and let batch-norms take new statistics of smooth noise.

    After the randomisation of parameters in "Sanity checks for saliency maps" (Adebayo et al., NeurIPS 2018); shuffled
    weights keep their scale.

    Args:
        size: (T, H, W) of a clip. seed: of all that is random.
    """
    generator, weights = torch.Generator().manual_seed(seed), weights_of(model)
    for weight in weights:
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    noise = torch.randn(CLIPS, 3, *(-(-n // step) for n, step in zip(size, COARSER, strict=True)), generator=generator)
    _renormalise(model, F.interpolate(noise, size, mode="trilinear").to(weights[0]))


def _renormalise(model: nn.Module, clips: Tensor) -> None:
    """Let batch-norms take the statistics of clips (B, 3, T, H, W)."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
             and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over passes
        norm.train()
    model(clips)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
