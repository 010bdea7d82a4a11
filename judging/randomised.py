"""A model that forgets what it learned, by which heat is tested: does it depend on that?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from judging.trunk_model import TrunkModel
from models.hipe import HIPE

CLIPS = 4  # of noise, on which batch-norms take their statistics
COARSER = (2, 8, 8)  # frames and pixels from one independent value of that noise to the next


@dataclass
class Part:
    """Layers of a model that are randomised together.

    weights: all that they learned. norms: their batch-norms.
    """

    name: str
    weights: list[Tensor] = field(default_factory=list)
    norms: list[nn.Module] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, *modules: nn.Module) -> "Part":
        """The part that some modules are."""
        return cls(name, [weight for module in modules for weight in module.parameters()],
                   [norm for module in modules for norm in batch_norms(module)])


class Forgetful:
    """A model that for a while has the weights of `randomise`.

    Args:
        model, size, seed, parts: as in `randomise`.
    """

    def __init__(self, model: HIPE | TrunkModel, size: tuple[int, int, int], *, seed: int,
                 parts: Sequence[Part] | None = None) -> None:
        self.model, self.size, self.seed, self.parts = model, size, seed, parts
        self._shuffled: list[Tensor] | None = None

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """In here the model knows nothing; afterwards it is as it was."""
        state = weights_of(self.model) + list(self.model.buffers())
        learned = [tensor.detach().clone() for tensor in state]
        try:
            if self._shuffled is None:
                randomise(self.model, self.size, seed=self.seed, parts=self.parts)
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


def cascade(model: HIPE | TrunkModel) -> list[Part]:
    """The parts of a model from the head down: head, neck, and the trunk's own layers, its last ones first."""
    layers = _layers(model.trunk)
    if isinstance(model, HIPE):
        layers = [Part.of("head", model.score, model.prototype_layer, model.pooled_head), Part.of("neck", model.neck),
                  *layers]
    else:
        layers.insert(0, Part("head"))
    known = {id(weight) for part in layers for weight in part.weights}
    lost = [weight for weight in weights_of(model) if id(weight) not in known]
    (layers[-1] if isinstance(model, HIPE) else layers[0]).weights.extend(lost)
    return layers


def _layers(trunk: nn.Module) -> list[Part]:
    """The layers of a trunk that have weights, the last ones first; those of the one module that holds them all."""
    layers = [(name, layer) for name, layer in trunk.named_children() if any(True for _ in layer.parameters())]
    if len(layers) == 1:
        return _layers(layers[0][1]) or [Part.of(*layers[0])]
    return [Part.of(name, layer) for name, layer in layers[::-1]]


@torch.no_grad()
def randomise(model: HIPE | TrunkModel, size: tuple[int, int, int], *, seed: int,
              parts: Sequence[Part] | None = None) -> None:
    """Shuffle the values of every weight, in place, and let batch-norms take new statistics of smooth noise.

    After the randomisation of parameters in "Sanity checks for saliency maps" (Adebayo et al., NeurIPS 2018); shuffled
    weights keep their scale.

    Args:
        size: (T, H, W) of a clip. seed: of all that is random.
        parts: that are randomised, None for all; what comes out of a weight does not depend on the others.
    """
    generator, weights = torch.Generator().manual_seed(seed), weights_of(model)
    chosen = None if parts is None else {id(weight) for part in parts for weight in part.weights}
    for weight in weights:
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        if chosen is None or id(weight) in chosen:
            weight.copy_(weight.flatten()[order].view_as(weight))
    noise = torch.randn(CLIPS, 3, *(-(-n // step) for n, step in zip(size, COARSER, strict=True)), generator=generator)
    norms = batch_norms(model) if parts is None else [norm for part in parts for norm in part.norms]
    _renormalise(model, F.interpolate(noise, size, mode="trilinear").to(weights[0]), norms)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch-norms in a module that keep statistics."""
    return [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)
            and norm.track_running_stats]


def _renormalise(model: nn.Module, clips: Tensor, norms: Sequence[nn.Module]) -> None:
    """Let some of a model's batch-norms take the statistics of clips (B, 3, T, H, W)."""
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over passes
        norm.train()
    model(clips)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
