"""Layer-wise relevance propagation (Bach et al., PLOS ONE 2015) through the convolutions of a trunk.

captum's own LRP knows neither sums of residual networks, which it counts double, nor what is padded, pooled or
normalised in three dimensions, nor tensors that a rectifier and a convolution both read. Here every layer computes what
it computes, and its gradient is replaced by its rule, so that gradient times input is the relevance, and sums,
paddings, concatenations and poolings are divided by their gradients (Montavon et al., 2019, section 10.3.2). Where a
plain stack of layers allows both, the two agree.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

from attribution.gradients import _heat

LINEAR = (_ConvNd, nn.Linear)
# Layers of which every output is of one input, to which its relevance goes; a module may say so of itself.
ELEMENTWISE = (nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Hardswish, nn.SiLU, nn.GELU, nn.ELU, nn.Sigmoid, nn.Tanh)
# Layers whose gradient is their rule.
BY_GRADIENT = (nn.ReLU, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten, _AvgPoolNd,
               _AdaptiveAvgPoolNd, _MaxPoolNd, _BatchNorm, nn.Sequential, nn.ModuleList)


def _elementwise(module: nn.Module) -> bool:
    return isinstance(module, ELEMENTWISE) or getattr(module, "elementwise", False)


def refusal(layer: nn.Module) -> str | None:
    """Why relevance cannot be propagated through a module; None where it can."""
    for module in layer.modules():
        if isinstance(module, (*LINEAR, *BY_GRADIENT)) or _elementwise(module):
            continue
        own = any(True for _ in module.parameters(recurse=False)) or (
            type(module).__module__.startswith("torch.nn.modules.") and not any(True for _ in module.children()))
        if own or isinstance(module, nn.MultiheadAttention):
            return (f"has no rule for {type(module).__name__}, of which this trunk is made; choose another method, or "
                    "a trunk of convolutions such as resnet or i3d")
    return None


def _swapped(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a module computes with another weight and bias."""
    old = dict(module._parameters)
    module._parameters.update(weight=weight, bias=bias)
    try:
        return type(module).forward(module, x)
    finally:
        module._parameters.update(old)


def _with_rule(computed: Tensor, parts: Tensor) -> Tensor:
    """What was computed, with the gradient of its parts, scaled so that parts and values have the same relevance."""
    ratio = torch.where(parts.abs() > 1e-12, computed / parts, 0.0).detach()
    return parts * ratio + (computed - parts * ratio).detach()


def _positive(module: nn.Module, x: Tensor, norm: _BatchNorm | None) -> Tensor:
    """The alpha-1-beta-0 rule: relevance goes where what is added is positive, in proportion to it.

    Args:
        norm: the normalisation behind the layer, which is one linear layer with it.
    """
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    if norm is not None:
        scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
        shift = (0 if bias is None else bias) - norm.running_mean
        weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        bias = shift * scale + (0 if norm.bias is None else norm.bias.detach())
    with torch.no_grad():
        computed = _swapped(module, x, weight, bias)
    parts = _swapped(module, x.clamp(min=0), weight.clamp(min=0), None)
    if bool((x.detach() < 0).any()):
        parts = parts + _swapped(module, x.clamp(max=0), weight.clamp(max=0), None)
    return _with_rule(computed, parts)


def _norms(layer: nn.Module, run: Callable[[], object]) -> dict[nn.Module, _BatchNorm]:
    """The convolutions whose output goes straight into a normalisation, which one run shows."""
    pairs, last = {}, []

    def after(module: nn.Module, _: tuple, output: Tensor) -> None:
        last[:] = [module, output]

    def before(norm: nn.Module, inputs: tuple) -> None:
        if last and inputs[0] is last[1]:
            pairs[last[0]] = norm
        last.clear()

    hooks = [module.register_forward_hook(after) for module in layer.modules() if isinstance(module, _ConvNd)]
    hooks += [module.register_forward_pre_hook(before) for module in layer.modules() if isinstance(module, _BatchNorm)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


@contextmanager
def _rules(layer: nn.Module, norms: dict[nn.Module, _BatchNorm]) -> Iterator[None]:
    """Let the layers of a module pass relevance back in place of gradients."""
    paired, changed = set(norms.values()), []

    def rule(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
        if isinstance(module, LINEAR):
            return lambda x: _positive(module, x, norms.get(module))
        if module in paired:
            return lambda x: x
        if _elementwise(module):
            return lambda x: _with_rule(type(module).forward(module, x.detach().clone()), x)  # some work in place
        return None

    try:
        for module in layer.modules():
            if (forward := rule(module)) is not None and "forward" not in vars(module):
                module.forward = forward
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def relevance(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module) -> Tensor:
    """The relevance of every voxel: (3, T, H, W), of either sign.

    Through `layer` relevance goes by the alpha-1-beta-0 rule, which needs no biases and conserves it; a normalisation
    is part of the convolution before it. Where there is none, and through what the score adds to `layer`, relevance
    goes by the gradient: the epsilon rule, of which biases take their share.
    """
    if any(module.training for module in layer.modules() if isinstance(module, _BatchNorm)):
        raise ValueError("lrp explains a network in eval mode, and its normalisations are in training")
    with torch.no_grad():
        norms = _norms(layer, lambda: score_fn(clip[None]))
    with torch.enable_grad(), _rules(layer, norms):
        leaf = clip.detach()[None].requires_grad_()
        gradient, = torch.autograd.grad(score_fn(leaf).sum(), leaf)
    return (gradient * leaf).detach()[0]


def lrp(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module, polarity: str = "positive") -> Tensor:
    """Layer-wise relevance propagation: the score divided among the voxels, layer by layer.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs `layer`.
        clip: (3, T, H, W).
        layer: the network that relevance is propagated through, made of convolutions.
        polarity: "positive" for what speaks for the score, "negative" for what speaks against it, or "both".
    Returns:
        (T, H, W), not negative: the sum over colours.
    Raises:
        ValueError: for a layer that has no rule, or a polarity of another name.
    """
    if reason := refusal(layer):
        raise ValueError(f"lrp {reason}")
    return _heat(relevance(score_fn, clip, layer=layer)[None], polarity)
