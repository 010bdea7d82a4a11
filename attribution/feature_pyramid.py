"""Class feature pyramids (Stergiou et al., ICCV workshops 2019): which channels of which layers lead to a score.

The convolutions and how data flows between them are found by running the module once and watching what it computes,
so that groups, depthwise kernels, residual sums, concatenated branches and channel shuffles need no code of their own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

THETA = 0.6
DEPTH = 4

# Operations that mix channels other than by a convolution: what they give comes from no channel in particular
_MIXING = {"mm", "addmm", "bmm", "baddbmm", "dot", "mv", "linear"}
# Operations that only move values; run on the channels' numbers instead, they tell where each channel went
_MOVING = {"view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "select", "unbind",
           "stack", "expand", "repeat", "flip", "index_select", "index", "_reshape_alias"}
_ALONG_CHANNELS = {"cat": 1, "slice": 1, "split": 2, "split_with_sizes": 2, "narrow": 1}  # place of the argument dim
_POOLING = {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}


@dataclass(frozen=True)
class Grid:
    """Where the cells of a tensor's last axes lie in the clip: along each, the first one's centre and from one to the
    next, in frames and pixels."""

    stride: tuple[int, ...] = (1, 1, 1)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)

    def windows(self, kernel: Sequence[int], stride: Sequence[int], front: Sequence[int]) -> "Grid":
        """The grid of windows over the last axes: their length and step in cells, and the cells of padding in front."""
        n = len(kernel)
        centre = [at + step * ((length - 1) / 2 - pad) for at, step, length, pad in
                  zip(self.offset[-n:], self.stride[-n:], kernel, front, strict=True)]
        steps = [a * b for a, b in zip(self.stride[-n:], stride, strict=True)]
        return Grid((*self.stride[:-n], *steps), (*self.offset[:-n], *centre))


def _per_axis(values: int | Sequence[int], n: int) -> list[int]:
    """An argument of a convolution or pool for each of n axes, as it stands for all of them or for each."""
    values = [values] if isinstance(values, int) else list(values)
    return values * n if len(values) == 1 else values


@dataclass
class _Conv:
    """A convolution that was seen at work on one clip."""

    name: str
    kernel: Tensor  # (C_out, C_in / groups), mean over the kernel's cells
    groups: int
    pooled: Tensor  # (C_in,), mean of what it read over all cells
    sources: dict[int, Tensor]  # of an earlier convolution: for each of the C_in channels, which of its own; -1: none
    grid: Grid  # of its output
    response: Tensor  # what it gave, after the normalisation and activation that follow it alone
    distance: Tensor = field(init=False)  # (C_out,) convolutions up to the score, through chosen channels; inf: none
    strength: Tensor = field(init=False)  # (C_out,) the largest share with which a channel was chosen
    total: Tensor = field(init=False)  # (C_out,) the sum of those shares

    def __post_init__(self) -> None:
        self.distance = self.kernel.new_full((len(self.kernel),), math.inf)
        self.strength, self.total = self.kernel.new_zeros(2, len(self.kernel))


@dataclass
class _Known:
    """Where a tensor's channels come from: a number for each place of the tensor, or fewer that broadcast to it."""

    origins: dict[int, Tensor]
    grid: Grid


class _Trace(TorchDispatchMode):
    """Watches every operation on tensors that descend from the clip."""

    def __init__(self, module: nn.Module, clip: Tensor) -> None:
        super().__init__()
        self.convs: list[_Conv] = []
        self._names = {id(parameter): name.rpartition(".")[0] for name, parameter in module.named_parameters()}
        self._known = WeakIdKeyDictionary()
        self._tail = WeakIdKeyDictionary()  # the tensor that is, so far, a convolution's response
        self._known[clip] = _Known({}, Grid())

    def __torch_dispatch__(self, func, types, given=(), named=None):
        named = named or {}
        name = func.overloadpacket.__name__
        inputs = [value for value in tree_flatten((given, named))[0] if isinstance(value, Tensor)]
        known = [value for value in inputs if value in self._known]
        if name.endswith("_") and known and inputs[0] in self._tail and len(known) > 1:
            conv = self._tail.pop(inputs[0])  # another tensor is about to be added in its place
            self.convs[conv].response = inputs[0].clone()
        output = func(*given, **named)
        if known:
            if name == "convolution" and not given[6]:
                self._convolution(given, output)
            else:
                self._follow(func, name.removesuffix("_"), given, named, known, output)
        return output

    def origins(self, tensor: Tensor) -> dict[int, Tensor]:
        """(C,) channel numbers of every convolution that a (B, C, ...) tensor comes from."""
        known = self._known.get(tensor)
        found = {} if known is None else known.origins
        return {conv: index.flatten() for conv, index in found.items()
                if index.numel() == tensor.shape[1] and index.dim() > 1 and index.shape[1] == tensor.shape[1]}

    def grid(self, tensor: Tensor) -> Grid:
        """Where a tensor's cells lie in the clip."""
        return self._known[tensor].grid

    def _convolution(self, given: tuple, output: Tensor) -> None:
        x, weight, groups = given[0], given[1], given[8]
        name = self._names.get(id(weight)) or f"convolution {len(self.convs)}"
        cells = [axis for axis in range(x.dim()) if axis != 1]
        stride, padding, dilation = (_per_axis(value, x.dim() - 2) for value in given[3:6])
        reach = [(length - 1) * gap + 1 for length, gap in zip(weight.shape[2:], dilation, strict=True)]
        grid = self.grid(x).windows(reach, stride, padding)
        self.convs.append(_Conv(name, weight.flatten(2).mean(2).float(), groups, x.mean(cells).float(),
                                self.origins(x), grid, output))
        here = torch.arange(output.shape[1], device=output.device).view(1, -1, *[1] * (output.dim() - 2))
        self._known[output] = _Known({len(self.convs) - 1: here}, grid)
        self._tail[output] = len(self.convs) - 1

    def _grid(self, name: str, given: tuple, x: Tensor, output: Tensor) -> Grid:
        """Where the cells of an output lie, from those of x."""
        before, n = self.grid(x), x.dim() - 2
        if name in _MOVING or output.dim() != x.dim() or n not in (2, 3):
            return before
        if name in _POOLING:
            kernel = _per_axis(given[1], n)
            stride = _per_axis(given[2], n) if len(given) > 2 and given[2] else kernel
            return before.windows(kernel, stride, _per_axis(given[3] if len(given) > 3 else 0, n))
        if name == "constant_pad_nd":
            front = [*given[1][::2], *[0] * n][:n][::-1]  # told from the last axis on
            return before.windows([1] * n, [1] * n, front)
        if name == "slice" and len(given) > 4:
            along = [given[4] if axis == given[1] % x.dim() else 1 for axis in range(2, x.dim())]
            return before.windows([1] * n, along, [0] * n)
        if name in _ALONG_CHANNELS:
            return before
        # anything else that makes less of more, as pooling to a given size does
        ratios = [max(1, round(a / b)) if b else 1 for a, b in zip(x.shape[2:], output.shape[2:], strict=True)]
        return before.windows(ratios, ratios, [0] * n)

    def _follow(self, func, name: str, given: tuple, named: dict, known: list[Tensor], output: object) -> None:
        outputs = list(output) if isinstance(output, list | tuple) else [output]
        if name in _MIXING or not isinstance(outputs[0], Tensor):
            return
        sources = sorted({conv for value in known for conv in self._known[value].origins})
        if name in _MOVING or name in _ALONG_CHANNELS or name == "constant_pad_nd":
            moved = {conv: self._moved(func, name, given, named, conv, len(outputs)) for conv in sources}
        else:
            moved = {conv: [self._kept(value, outputs[0], conv) for value in known] for conv in sources}
            moved = {conv: [next((index for index in found if index is not None), None)]
                     for conv, found in moved.items()}
            outputs = outputs[:1]
        widest = max(known, key=Tensor.numel)
        tail = self._tail.get(known[0])
        for i, one in enumerate(outputs):
            origins = {conv: found[i] for conv, found in moved.items() if found[i] is not None}
            self._known[one] = _Known(origins, self._grid(name, given, widest, one))
            if tail is not None and len(known) == 1 and one.shape == known[0].shape:
                self.convs[tail].response = one
                self._tail[one] = tail

    def _kept(self, value: Tensor, output: Tensor, conv: int) -> Tensor | None:
        """Channel numbers after an operation that leaves channels where they are."""
        index = self._known[value].origins.get(conv)
        if index is None or output.dim() < 2:
            return None
        if output.dim() == value.dim() and all(n in (1, m) for n, m in zip(index.shape, output.shape, strict=True)):
            return index
        if index.dim() > 1 and index.numel() == index.shape[1] == output.shape[1]:  # pooled away
            return index.flatten().view(1, -1, *[1] * (output.dim() - 2))
        return None

    def _moved(self, func, name: str, given: tuple, named: dict, conv: int, n_outputs: int) -> list[Tensor]:
        """Channel numbers after an operation that moves values: what it makes of the numbers themselves."""
        def numbers(value: object, full: bool) -> object:
            if not isinstance(value, Tensor):
                return value
            index = self._known[value].origins.get(conv) if value in self._known else None
            if index is None:
                if value.dtype in (torch.int64, torch.bool) and value not in self._known:
                    return value  # an index to move by
                index = torch.full((1, *value.shape[1:2], *[1] * (value.dim() - 2)), -1, device=value.device)
            return index.expand(value.shape).contiguous() if full else index

        if name in _ALONG_CHANNELS:
            place = _ALONG_CHANNELS[name]
            first = given[0][0] if name == "cat" else given[0]
            axis = named.get("dim", given[place] if len(given) > place else 0) % first.dim()
            thin = [self._thin(value) for value in (given[0] if name == "cat" else [first])]
            if axis == 1 and all(thin):
                full = False
            elif all(thin):  # along time or space: all stays where it is
                kept = [self._known[value].origins[conv] for value in (given[0] if name == "cat" else [first])
                        if value in self._known and conv in self._known[value].origins]
                return kept[:1] * n_outputs
            else:
                full = True
        elif name == "constant_pad_nd":
            pads, index = list(given[1]), self._known[given[0]].origins[conv]
            if not self._thin(given[0]):  # the channels are another axis than the second
                return [_thinned(F.pad(index.expand(given[0].shape), pads, value=-1))]
            channel = pads[2 * (given[0].dim() - 2):2 * (given[0].dim() - 1)]
            return [F.pad(index, [0, 0] * (given[0].dim() - 2) + channel, value=-1)] if channel else [index]
        else:
            full = True
        found = func(*tree_map(lambda value: numbers(value, full), given), **named)
        found = list(found) if isinstance(found, list | tuple) else [found]
        return [_thinned(index) for index in found]

    def _thin(self, value: Tensor) -> bool:
        """Whether a tensor's channels are its second axis."""
        known = self._known.get(value)
        return known is None or all(index.numel() == index.shape[1] for index in known.origins.values())


def _thinned(index: Tensor) -> Tensor:
    """The same numbers with one place for each channel, where the second axis tells all."""
    if index.dim() < 2 or index.numel() == 0:
        return index
    first = index[(slice(0, 1), slice(None), *[slice(0, 1)] * (index.dim() - 2))]
    return first.contiguous() if bool((index == first).all()) else index


@contextmanager
def _watched(module: nn.Module, seen: list) -> Iterator[None]:
    """Trace a module's forward pass, without gradients; its output becomes a leaf to differentiate by."""
    own = module.__dict__.get("forward")
    forward = module.forward

    def watched(clip: Tensor) -> Tensor:
        with torch.no_grad(), _Trace(module, clip) as trace:
            features = forward(clip)
        leaf = features.detach().clone().requires_grad_()
        seen.append((trace, features, leaf))
        return leaf

    module.forward = watched
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@dataclass(frozen=True)
class Layer:
    """What a pyramid holds of one layer: the class's own features first, then convolutions."""

    name: str
    depth: int  # convolutions from the score to this one; 0: the features that the score reads
    channels: Tensor  # (n,) int64, the chosen ones, those first that most is led through (the sum of shares)
    strength: Tensor  # (n,) in theta .. 1
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


def _chosen(shares: Tensor, theta: float, top_n: int | None) -> Tensor:
    """Which of each row reach theta, no more than the top_n highest: bool like `shares`."""
    enough = shares >= theta
    if top_n is not None and top_n < shares.shape[-1]:
        rank = shares.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        enough &= rank < top_n
    return enough


def _shares(conv: _Conv, outputs: Tensor) -> tuple[Tensor, Tensor]:
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
                    class_weights: Tensor | None = None, theta: float = THETA, depth: int = DEPTH,
                    top_n: int | None = None) -> FeaturePyramid:
    """Find the channels that lead to a score, from the features it reads down through the convolutions.

    Args:
        score_fn: (B, 3, T, H, W) -> (B,), which runs `layer` once, on the clips themselves.
        clip: (3, T, H, W).
        layer: the module whose (B, C, t, h, w) output the score is made of.
        class_weights: (C,) of a linear head; by default the score's gradient with respect to the pooled features.
        theta: least share (0..1) of a channel that is followed.
        depth: convolutions to go down.
        top_n: at most so many channels of each channel.
    Raises:
        ValueError: where the features come from no convolution, or a value is outside its range.
    """
    if not 0 <= theta <= 1 or depth < 1 or (top_n is not None and top_n < 1):
        raise ValueError(f"theta is a share between 0 and 1, depth and top_n at least 1, not {theta}, {depth}, {top_n}")
    seen: list[tuple[_Trace, Tensor, Tensor]] = []
    with _watched(layer, seen), torch.enable_grad():
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
        shares = _min_max(weights)
        top = _chosen(shares, theta, top_n)
        links = _walk(trace.convs, origins, shares, top, theta, depth, top_n)
        ordered = shares.argsort(descending=True, stable=True)
        own = ordered[top[ordered]]
        first = Layer("features", 0, own.cpu(), shares[own].cpu(), len(shares), weights[own], features[0],
                      trace.grid(features))
        return _assemble(trace.convs, first, links, theta)


_Link = tuple[int | None, dict[int, Tensor], Tensor, Tensor, Tensor]  # a convolution (None: the features), where its
# input channels come from, which channels (n,) of it lead to which (n,) of those, and their shares (n,)


def _walk(convs: list[_Conv], origins: dict[int, Tensor], shares: Tensor, top: Tensor, theta: float, depth: int,
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


def _assemble(convs: list[_Conv], first: Layer, links: list[_Link], theta: float) -> FeaturePyramid:
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
                          class_weights: Tensor | None = None, theta: float = THETA, depth: int = DEPTH,
                          top_n: int | None = None, level: int = 0, **_others: object) -> Tensor:
    """The tube of one layer of the pyramid: the channels that lead to the score, over the clip.

    Args:
        score_fn, clip, layer, class_weights, theta, depth, top_n: see `feature_pyramid`.
        level: which of its layers, 0 for the features that the score reads.
        _others: options of other methods, so that one call serves them all.
    Returns:
        (T, H, W), not negative.
    """
    found = feature_pyramid(score_fn, clip, layer=layer, class_weights=class_weights, theta=theta, depth=depth,
                            top_n=top_n)
    if level >= len(found.layers):
        raise ValueError(f"the pyramid has {len(found.layers)} layers, and no layer {level}; raise depth")
    return found.layers[level].tube(tuple(clip.shape[1:]))
