"""Class feature pyramids (Stergiou et al., ICCV workshops 2019): which channels of which layers lead to a score."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribution.trace import Conv, Grid, Trace, watched

THETA = 0.6
DEPTH = 4


@dataclass(frozen=True)
class Layer:
    """What a pyramid holds of one layer: the class's own features first, then convolutions."""

    name: str
    depth: int  # convolutions from the score to this one; 0: the features that the score reads
    channels: Tensor  # (n,) int64, the chosen ones, those first that most is led through (the sum of shares)
    strength: Tensor  # (n,) in theta .. 1; below theta where a class has no weight that reaches it
    n_channels: int
    weights: Tensor  # (n,) by which those channels count: the class's, below it their strength
    response: Tensor  # (n_channels, t, h, w)
    grid: Grid

    @property
    def tubes(self) -> Tensor:
        """The chosen channels' weighted responses, not negative: (n, t, h, w)."""
        chosen = self.response[self.channels.to(self.response.device)].float()
        return (self.weights.view(-1, 1, 1, 1) * chosen).clamp(min=0)

    def tube(self, size: tuple[int, int, int]) -> Tensor:
        """All chosen channels together over a clip of `size`: (T, H, W)."""
        return spread(self.tubes.sum(0, keepdim=True), size, self.grid)[0]

    def kernel_tubes(self, size: tuple[int, int, int], which: slice | list[int] = slice(None)) -> Tensor:
        """Each of some chosen channels over a clip of `size`: (n, T, H, W)."""
        return spread(self.tubes[which], size, self.grid)


@dataclass(frozen=True)
class FeaturePyramid:
    """The channels that lead to a score, from the features that it reads down to shallow layers."""

    layers: list[Layer]
    links: list["_Link"]
    place: dict[int | None, int]  # of convolutions among the layers
    theta: float

    @property
    def edges(self) -> Tensor:
        """(n, 4) int64: layer and channel, and the layer and channel below that lead to it."""
        return self._edges[0]

    @property
    def shares(self) -> Tensor:
        """(n,) of those edges, theta .. 1."""
        return self._edges[1]

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor]:
        # a channel of a residual network's sum comes from all that was added to it: only who asks pays for each of them
        rows, shares = [], []
        for reader, sources, outputs, inputs, share in self.links:
            for number, index in sources.items():
                below, real = index[inputs], index[inputs] >= 0
                rows.append(torch.stack((torch.full_like(outputs, self.place[reader]), outputs,
                                         torch.full_like(outputs, self.place.get(number, 0)), below))[:, real])
                shares.append(share[real])
        return torch.cat(rows, 1).T.cpu(), torch.cat(shares).cpu()  # a layer not reached has no edge

    def tube(self, level: int, size: tuple[int, int, int]) -> Tensor:
        """The tube (T, H, W) of a layer over a clip of `size`; 0 for the features that the score reads.

        Raises:
            ValueError: for a layer that the pyramid does not have.
        """
        if level >= len(self.layers):
            raise ValueError(f"the pyramid has {len(self.layers)} layers, and no layer {level}; raise depth")
        return self.layers[level].tube(size)

    def graph(self) -> dict:
        """The dependency graph in plain types, as docs/FORMATS.md has it."""
        return {"theta": self.theta,
                "layers": [{"name": layer.name, "depth": layer.depth, "n_channels": layer.n_channels,
                            "stride": list(layer.grid.stride), "offset": list(layer.grid.offset),
                            "channels": layer.channels.tolist(),
                            "strength": [round(value, 6) for value in layer.strength.tolist()]}
                           for layer in self.layers],
                "edges": [[*edge, round(share, 6)]
                          for edge, share in zip(self.edges.tolist(), self.shares.tolist(), strict=True)]}


def spread(maps: Tensor, size: tuple[int, int, int], grid: Grid) -> Tensor:
    """Maps over cells to the clip, linearly between the centres of the cells: (n, t, h, w) -> (n, T, H, W)."""
    places = []
    for length, cells, stride, offset in zip(size, maps.shape[1:], grid.stride, grid.offset, strict=True):
        at = (torch.arange(length, device=maps.device, dtype=maps.dtype) - offset) / stride
        places.append(2 * at / max(cells - 1, 1) - 1)  # as grid_sample counts: -1 the first cell, 1 the last
    where = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], -1)  # (T, H, W, 3): x, y, t
    return F.grid_sample(maps[None], where[None], padding_mode="border", align_corners=True)[0]


def _min_max(values: Tensor) -> Tensor:
    """Each row from 0 to 1; rows of equal values, as depthwise kernels have them, are 1."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return torch.where(high > low, (values - low) / (high - low).clamp(min=1e-30), torch.ones_like(values))


def _head_shares(weights: Tensor, head: Tensor | None) -> Tensor:
    """The first step's shares: a class's weights (C,) from 0 to 1 over the whole head (K, C), as in the authors' code.

    Without a head, over the weights themselves.
    """
    if head is None:
        return _min_max(weights)
    low, high = head.min(), head.max()
    return (weights - low) / (high - low) if high > low else torch.ones_like(weights)


def _chosen(shares: Tensor, theta: float, top_n: int | None) -> Tensor:
    """Which of each row reach theta, no more than the top_n highest: bool like `shares`."""
    enough = shares >= theta
    if top_n is not None and top_n < shares.shape[-1]:
        rank = shares.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        enough &= rank < top_n
    return enough


def _shares(conv: Conv, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """How much of some output channels each input channel of theirs makes up, min-max over those.

    Args:
        outputs: (n,) int64 channels.
    Returns:
        (n, C_in / groups) in 0 .. 1, and the input channels (n, C_in / groups) that they belong to.
    """
    width = conv.kernel.shape[1]
    group = outputs // (len(conv.kernel) // conv.groups)
    products = conv.kernel[outputs] * conv.pooled.view(conv.groups, width)[group]
    total = products.sum(1, keepdim=True)
    inputs = group[:, None] * width + torch.arange(width, device=outputs.device)
    return _min_max(products / torch.where(total == 0, torch.ones_like(total), total)), inputs


def feature_pyramid(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module,
                    class_weights: Tensor | None = None, head_weights: Tensor | None = None, theta: float = THETA,
                    depth: int = DEPTH, top_n: int | None = None) -> FeaturePyramid:
    """Find the channels that lead to a score, from the features it reads down through the convolutions.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs `layer` once, on the clips themselves.
        clip: (3, T, H, W).
        layer: the module whose (B, C, t, h, w) output the score is made of.
        class_weights: (C,) of a linear head; by default the score's gradient with respect to the pooled features.
        head_weights: (K, C) of all classes of that head, over which the class's shares are min-max.
        theta: least share (0..1) of a channel that is followed; of a class none of whose weights reaches it, the
            channel of the highest one is.
        depth: convolutions to go down.
        top_n: at most so many channels of each channel.
    Raises:
        ValueError: where the features come from no convolution, or a value is outside its range.
    """
    if not 0 <= theta <= 1 or depth < 1 or (top_n is not None and top_n < 1):
        raise ValueError(f"theta is a share between 0 and 1, depth and top_n at least 1, not {theta}, {depth}, {top_n}")
    seen: list[tuple[Trace, Tensor, Tensor]] = []
    with watched(layer, seen), torch.enable_grad():
        score = score_fn(clip[None]).sum()
    if len(seen) != 1 or seen[0][1].dim() != 5:
        raise ValueError("class_feature_pyramid needs a layer that the score runs once and whose output is "
                         "(B, C, t, h, w); use another method")
    trace, features, leaf = seen[0]
    origins = trace.origins(features)
    if not origins:
        raise ValueError("class_feature_pyramid needs features that come out of convolutions, and these do not; use "
                         "grad_cam, a gradient or a perturbation")
    if class_weights is None:
        class_weights = torch.autograd.grad(score, leaf)[0].sum((0, 2, 3, 4))
    with torch.no_grad():
        weights = class_weights.detach().float()
        shares = _head_shares(weights, None if head_weights is None else head_weights.detach().float())
        top = _chosen(shares, theta, top_n)
        if not top.any():
            top[shares.argmax()] = True
        links = _walk(trace.convs, origins, shares, top, theta, depth, top_n)
        ordered = shares.argsort(descending=True, stable=True)
        own = ordered[top[ordered]]
        first = Layer("features", 0, own.cpu(), shares[own].cpu(), len(shares), weights[own], features[0],
                      trace.grid(features))
        return _assemble(trace.convs, first, links, theta)


def refusal(layer: nn.Module, clip: Tensor) -> str | None:
    """Why a module has no feature pyramid; None where it has one. Args as in `feature_pyramid`."""
    try:
        feature_pyramid(lambda clips: layer(clips).flatten(1).sum(1), clip, layer=layer, depth=1)
    except ValueError as error:
        return str(error)
    return None


_Link = tuple[int | None, dict[int, Tensor], Tensor, Tensor, Tensor]  # a convolution (None: the features), where its
# input channels come from, which channels (n,) of it lead to which (n,) of those, and their shares (n,)


def _walk(convs: list[Conv], origins: dict[int, Tensor], shares: Tensor, top: Tensor, theta: float, depth: int,
          top_n: int | None) -> list[_Link]:
    """Down from the features: every convolution after all that read it, so that each is gone through once."""
    links: list[_Link] = []

    def hand_down(reader: int | None, sources: dict[int, Tensor], outputs: Tensor, inputs: Tensor, share: Tensor,
                  distance: Tensor) -> None:
        links.append((reader, sources, outputs, inputs, share))
        width = len(next(iter(sources.values())))
        nearest = share.new_full((width,), math.inf).scatter_reduce_(0, inputs, distance, "amin")
        strongest = share.new_zeros(width).scatter_reduce_(0, inputs, share, "amax")
        total = share.new_zeros(width).scatter_add_(0, inputs, share)
        for number, index in sources.items():
            real = index >= 0
            convs[number].distance.scatter_reduce_(0, index[real], nearest[real], "amin")
            convs[number].strength.scatter_reduce_(0, index[real], strongest[real], "amax")
            convs[number].total.scatter_add_(0, index[real], total[real])

    channels = top.nonzero()[:, 0]
    hand_down(None, origins, channels, channels, shares[channels], torch.ones_like(shares[channels]))
    for number in range(len(convs) - 1, -1, -1):
        conv = convs[number]
        outputs = (conv.distance < depth).nonzero()[:, 0]
        if len(outputs) and conv.sources:
            share, inputs = _shares(conv, outputs)
            rows, columns = _chosen(share, theta, top_n).nonzero(as_tuple=True)
            hand_down(number, conv.sources, outputs[rows], inputs[rows, columns], share[rows, columns],
                      conv.distance[outputs[rows]] + 1)
    return links


def _assemble(convs: list[Conv], first: Layer, links: list[_Link], theta: float) -> FeaturePyramid:
    """Layers from the features down."""
    layers = [first]
    reached = [number for number, conv in enumerate(convs) if bool(conv.distance.isfinite().any())]
    reached.sort(key=lambda number: (float(convs[number].distance.min()), -number))
    for number in reached:
        conv = convs[number]
        ordered = conv.total.argsort(descending=True, stable=True)
        own = ordered[conv.distance[ordered].isfinite()]
        # frames of a network that sees them one by one stand in place of the batch
        response = conv.response[0] if conv.response.dim() == 5 else conv.response.movedim(0, 1)
        layers.append(Layer(conv.name, int(conv.distance.min()), own.cpu(), conv.strength[own].cpu(),
                            len(conv.kernel), conv.strength[own], response, conv.grid))
    place = {None: 0} | {number: i for i, number in enumerate(reached, 1)}
    return FeaturePyramid(layers, links, place, theta)


def class_feature_pyramid(score_fn: Callable[[Tensor], Tensor], clip: Tensor, *, layer: nn.Module,
                          class_weights: Tensor | None = None, head_weights: Tensor | None = None,
                          theta: float = THETA, depth: int = DEPTH, top_n: int | None = None,
                          level: int = 0) -> Tensor:
    """The tube of one layer of the pyramid: the channels that lead to the score, over the clip.

    Args:
        score_fn, clip, layer, class_weights, head_weights, theta, depth, top_n: see `feature_pyramid`.
        level: which of its layers, 0 for the features that the score reads.
    Returns:
        (T, H, W), not negative.
    """
    pyramid = feature_pyramid(score_fn, clip, layer=layer, class_weights=class_weights,
                              head_weights=head_weights, theta=theta, depth=depth, top_n=top_n)
    return pyramid.tube(level, tuple(clip.shape[1:]))
