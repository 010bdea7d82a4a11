"""How the channels of a module's features come about: its convolutions, watched at work on one clip.

The convolutions and how data flows between them are found by running the module once and watching what it computes,
so that groups, depthwise kernels, residual sums, concatenated branches and channel shuffles need no code of their own.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

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
class Conv:
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


class Trace(TorchDispatchMode):
    """Watches every operation on tensors that descend from the clip."""

    def __init__(self, module: nn.Module, clip: Tensor) -> None:
        super().__init__()
        self.convs: list[Conv] = []
        self._names = {id(parameter): name.rpartition(".")[0] for name, parameter in module.named_parameters()}
        self._known = WeakIdKeyDictionary()
        self._tail = WeakIdKeyDictionary()  # the tensor that is, so far, a convolution's response
        self._known[clip] = _Known({}, Grid())

    def __torch_dispatch__(self, func, types, operands=(), keywords=None):
        keywords = keywords or {}
        name = func.overloadpacket.__name__
        inputs = [value for value in tree_flatten((operands, keywords))[0] if isinstance(value, Tensor)]
        known = [value for value in inputs if value in self._known]
        if name.endswith("_") and known and inputs[0] in self._tail and len(known) > 1:
            conv = self._tail.pop(inputs[0])  # another tensor is about to be added in its place
            self.convs[conv].response = inputs[0].clone()
        output = func(*operands, **keywords)
        if known:
            if name == "convolution" and not operands[6]:
                self._convolution(operands, output)
            else:
                self._follow(func, name.removesuffix("_"), operands, keywords, known, output)
        return output

    def origins(self, tensor: Tensor) -> dict[int, Tensor]:
        """(C,) channel numbers of every convolution that a (B, C, ...) tensor comes from."""
        known = self._known.get(tensor)
        origins = {} if known is None else known.origins
        return {conv: index.flatten() for conv, index in origins.items()
                if index.numel() == tensor.shape[1] and index.dim() > 1 and index.shape[1] == tensor.shape[1]}

    def grid(self, tensor: Tensor) -> Grid:
        """Where a tensor's cells lie in the clip."""
        return self._known[tensor].grid

    def _convolution(self, operands: tuple, output: Tensor) -> None:
        x, weight, groups = operands[0], operands[1], operands[8]
        name = self._names.get(id(weight)) or f"convolution {len(self.convs)}"
        cells = [axis for axis in range(x.dim()) if axis != 1]
        stride, padding, dilation = (_per_axis(value, x.dim() - 2) for value in operands[3:6])
        reach = [(length - 1) * gap + 1 for length, gap in zip(weight.shape[2:], dilation, strict=True)]
        grid = self.grid(x).windows(reach, stride, padding)
        self.convs.append(Conv(name, weight.flatten(2).mean(2).float(), groups, x.mean(cells).float(),
                                self.origins(x), grid, output))
        here = torch.arange(output.shape[1], device=output.device).view(1, -1, *[1] * (output.dim() - 2))
        self._known[output] = _Known({len(self.convs) - 1: here}, grid)
        self._tail[output] = len(self.convs) - 1

    def _grid(self, name: str, operands: tuple, x: Tensor, output: Tensor) -> Grid:
        """Where the cells of an output lie, from those of x."""
        before, n = self.grid(x), x.dim() - 2
        if name in _MOVING or output.dim() != x.dim() or n not in (2, 3):
            return before
        if name in _POOLING:
            kernel = _per_axis(operands[1], n)
            stride = _per_axis(operands[2], n) if len(operands) > 2 and operands[2] else kernel
            return before.windows(kernel, stride, _per_axis(operands[3] if len(operands) > 3 else 0, n))
        if name == "constant_pad_nd":
            front = [*operands[1][::2], *[0] * n][:n][::-1]  # listed from the last axis on
            return before.windows([1] * n, [1] * n, front)
        if name == "slice" and len(operands) > 4:
            along = [operands[4] if axis == operands[1] % x.dim() else 1 for axis in range(2, x.dim())]
            return before.windows([1] * n, along, [0] * n)
        if name in _ALONG_CHANNELS:
            return before
        # anything else that makes less of more, as pooling to a operands size does
        ratios = [max(1, round(a / b)) if b else 1 for a, b in zip(x.shape[2:], output.shape[2:], strict=True)]
        return before.windows(ratios, ratios, [0] * n)

    def _follow(self, func, name: str, operands: tuple, keywords: dict, known: list[Tensor], output: object) -> None:
        outputs = list(output) if isinstance(output, list | tuple) else [output]
        if name in _MIXING or not isinstance(outputs[0], Tensor):
            return
        sources = sorted({conv for value in known for conv in self._known[value].origins})
        if name in _MOVING or name in _ALONG_CHANNELS or name == "constant_pad_nd":
            moved = {conv: self._moved(func, name, operands, keywords, conv, len(outputs)) for conv in sources}
        else:
            moved = {conv: [self._unmoved(value, outputs[0], conv) for value in known] for conv in sources}
            moved = {conv: [next((index for index in indices if index is not None), None)]
                     for conv, indices in moved.items()}
            outputs = outputs[:1]
        widest = max(known, key=Tensor.numel)
        tail = self._tail.get(known[0])
        for i, result in enumerate(outputs):
            origins = {conv: indices[i] for conv, indices in moved.items() if indices[i] is not None}
            self._known[result] = _Known(origins, self._grid(name, operands, widest, result))
            if tail is not None and len(known) == 1 and result.shape == known[0].shape:
                self.convs[tail].response = result
                self._tail[result] = tail

    def _unmoved(self, value: Tensor, output: Tensor, conv: int) -> Tensor | None:
        """Channel numbers after an operation that leaves channels where they are."""
        index = self._known[value].origins.get(conv)
        if index is None or output.dim() < 2:
            return None
        if output.dim() == value.dim() and all(n in (1, m) for n, m in zip(index.shape, output.shape, strict=True)):
            return index
        if index.dim() > 1 and index.numel() == index.shape[1] == output.shape[1]:  # pooled away
            return index.flatten().view(1, -1, *[1] * (output.dim() - 2))
        return None

    def _moved(self, func, name: str, operands: tuple, keywords: dict, conv: int, n_outputs: int) -> list[Tensor]:
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
            first = operands[0][0] if name == "cat" else operands[0]
            axis = keywords.get("dim", operands[place] if len(operands) > place else 0) % first.dim()
            thin = [self._thin(value) for value in (operands[0] if name == "cat" else [first])]
            if axis == 1 and all(thin):
                full = False
            elif all(thin):  # along time or space: all stays where it is
                origins = [self._known[value].origins[conv] for value in (operands[0] if name == "cat" else [first])
                        if value in self._known and conv in self._known[value].origins]
                return origins[:1] * n_outputs
            else:
                full = True
        elif name == "constant_pad_nd":
            pads, index = list(operands[1]), self._known[operands[0]].origins[conv]
            if not self._thin(operands[0]):  # the channels are another axis than the second
                return [_thinned(F.pad(index.expand(operands[0].shape), pads, value=-1))]
            channel = pads[2 * (operands[0].dim() - 2):2 * (operands[0].dim() - 1)]
            return [F.pad(index, [0, 0] * (operands[0].dim() - 2) + channel, value=-1)] if channel else [index]
        else:
            full = True
        moved = func(*tree_map(lambda value: numbers(value, full), operands), **keywords)
        moved = list(moved) if isinstance(moved, list | tuple) else [moved]
        return [_thinned(index) for index in moved]

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
def watched(module: nn.Module, seen: list) -> Iterator[None]:
    """Trace a module's forward pass, without gradients; its output becomes a leaf to differentiate by."""
    own = module.__dict__.get("forward")
    forward = module.forward

    def traced(clip: Tensor) -> Tensor:
        with torch.no_grad(), Trace(module, clip) as trace:
            features = forward(clip)
        leaf = features.detach().clone().requires_grad_()
        seen.append((trace, features, leaf))
        return leaf

    module.forward = traced
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
