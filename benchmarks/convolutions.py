"""Other ways to compute the 3D convolutions of trunks, each equal to PyTorch's own; itself no benchmark.

Every way takes input (B, I, T, H, W), weight (O, I, t, h, w), and stride and padding of time, height and width; it
returns (B, O, T', H', W') in the memory format of channels last.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Three = tuple[int, int, int]
MULTIPLE = 8  # channels that matrix units of half precision want


@dataclass(frozen=True)
class Kind:
    """A convolution by its shapes: weight (O, I, t, h, w), input (B, I, T, H, W), stride and padding."""

    weight: tuple[int, ...]
    size: tuple[int, ...]
    stride: Three
    padding: Three

    @property
    def out(self) -> tuple[int, ...]:
        """(B, O, T', H', W')."""
        grid = [(n + 2 * p - k) // s + 1 for n, k, s, p in
                zip(self.size[2:], self.weight[2:], self.stride, self.padding, strict=True)]
        return (self.size[0], self.weight[0], *grid)

    @property
    def flops(self) -> float:
        """Of the forward pass; each of the two gradients needs as many."""
        out = torch.Size(self.out)
        return 2.0 * out.numel() * torch.Size(self.weight[1:]).numel()

    def bytes(self, width: int) -> float:
        """That a pass must read and write at least, with `width` bytes a number."""
        return float(width * sum(torch.Size(size).numel() for size in (self.weight, self.size, self.out)))

    def __str__(self) -> str:
        o, i, *kernel = self.weight
        return (f"{i} to {o}, {'x'.join(map(str, kernel))} / {'x'.join(map(str, self.stride))}, "
                f"on {'x'.join(map(str, self.size[2:]))}")


def kinds_of(trunk: nn.Module, clips: Tensor) -> dict[Kind, list[nn.Conv3d]]:
    """The convolutions of a trunk without groups, by their shapes, for a batch of clips (B, 3, T, H, W)."""
    kinds: dict[Kind, list[nn.Conv3d]] = {}

    def note(module: nn.Conv3d, inputs: tuple[Tensor, ...]) -> None:
        if module.groups == 1 and module.dilation == (1, 1, 1) and not isinstance(module.padding, str):
            kind = Kind(tuple(module.weight.shape), (len(clips), *inputs[0].shape[1:]), module.stride, module.padding)
            kinds.setdefault(kind, []).append(module)

    hooks = [module.register_forward_pre_hook(note) for module in trunk.modules() if isinstance(module, nn.Conv3d)]
    with torch.no_grad():
        trunk(clips[:1])
    for hook in hooks:
        hook.remove()
    return kinds


def direct(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """PyTorch's own."""
    return F.conv3d(x, weight, stride=stride, padding=padding)


def channels_padded(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """Input channels filled up to a multiple of eight by zeros."""
    more = -x.shape[1] % MULTIPLE
    return F.conv3d(F.pad(x, (0, 0) * 3 + (0, more)).contiguous(memory_format=torch.channels_last_3d),
                    F.pad(weight, (0, 0) * 3 + (0, more)), stride=stride, padding=padding)


def product(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """A matrix product over channels, for kernels of one voxel."""
    t, h, w = stride
    return F.linear(x[:, :, ::t, ::h, ::w].permute(0, 2, 3, 4, 1), weight.flatten(1)).permute(0, 4, 1, 2, 3)


def in_planes(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """A 2D convolution over frames whose channels are those of all frames that the kernel sees."""
    (o, _, kt, kh, kw), (t, h, w), (pt, ph, pw) = weight.shape, stride, padding
    frames = F.pad(x, (0, 0, 0, 0, pt, pt)).unfold(2, kt, t).permute(0, 2, 5, 1, 3, 4)  # (B, T', kt, I, H, W)
    b, grid = frames.shape[:2]
    planes = frames.reshape(b * grid, -1, *frames.shape[4:]).contiguous(memory_format=torch.channels_last)
    kernel = weight.transpose(1, 2).reshape(o, -1, kh, kw).contiguous(memory_format=torch.channels_last)
    return F.conv2d(planes, kernel, stride=(h, w), padding=(ph, pw)).unflatten(0, (b, grid)).transpose(1, 2)


def summed_over_frames(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """The sum of a 2D convolution for each frame that the kernel sees."""
    (_, _, kt, _, _), (t, h, w), (pt, ph, pw) = weight.shape, stride, padding
    frames = F.pad(x, (0, 0, 0, 0, pt, pt)).transpose(1, 2)  # (B, T, I, H, W)
    b, grid = len(x), (x.shape[2] + 2 * pt - kt) // t + 1
    total = None
    for i in range(kt):
        seen = frames[:, i:i + (grid - 1) * t + 1:t].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        part = F.conv2d(seen, weight[:, :, i], stride=(h, w), padding=(ph, pw))
        total = part if total is None else total + part
    return total.unflatten(0, (b, grid)).transpose(1, 2)


def folded(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> tuple[Tensor, Tensor, Three, Three]:
    """The same convolution of stride one in space: 2 x 2 pixels become channels, for a stride of two in space.

    A kernel of k pixels becomes one of ceil((k + 1) / 2) cells; with a zero in front it begins at an even pixel of the
    padded input.
    """
    (_, _, _, ph, pw), kernel, out = (0, 0, *padding), weight.shape[3:], Kind(
        tuple(weight.shape), tuple(x.shape), stride, padding).out[3:]
    cells = [(k + 2) // 2 for k in kernel]
    weight = F.pad(weight, (1, 2 * cells[1] - kernel[1] - 1, 1, 2 * cells[0] - kernel[0] - 1))
    ends = [2 * (n + c - 1) - p - 1 - size for n, c, p, size in
            zip(out, cells, (ph, pw), x.shape[3:], strict=True)]  # a negative pad takes away what no cell sees
    x = F.pad(x, (pw + 1, ends[1], ph + 1, ends[0]))
    x, weight = (F.pixel_unshuffle(each.transpose(1, 2), 2).transpose(1, 2) for each in (x, weight))
    return x, weight, (stride[0], 1, 1), (padding[0], 0, 0)


def pixels_to_channels(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """2 x 2 pixels as channels, for strides of two."""
    x, weight, stride, padding = folded(x, weight, stride, padding)
    return channels_padded(x, weight, stride, padding)


def pixels_to_channels_in_planes(x: Tensor, weight: Tensor, stride: Three, padding: Three) -> Tensor:
    """2 x 2 pixels and all frames that the kernel sees as channels, for strides of two."""
    return in_planes(*folded(x, weight, stride, padding))


Compute = Callable[[Tensor, Tensor, Three, Three], Tensor]
# name -> how, and of which kinds it may be asked
WAYS: dict[str, tuple[Compute, Callable[[Kind], bool]]] = {
    "direct": (direct, lambda kind: True),
    "channels padded": (channels_padded, lambda kind: kind.weight[1] % MULTIPLE > 0),
    "matrix product": (product, lambda kind: kind.weight[2:] == (1, 1, 1) and not any(kind.padding)),
    "in planes": (in_planes, lambda kind: kind.weight[2:] != (1, 1, 1)),
    "summed over frames": (summed_over_frames, lambda kind: kind.weight[2] > 1 and kind.weight[1] >= MULTIPLE),
    "pixels as channels": (pixels_to_channels, lambda kind: kind.stride[1:] == (2, 2) and max(kind.weight[3:]) > 1),
    "pixels as channels, in planes": (pixels_to_channels_in_planes,
                                      lambda kind: kind.stride[1:] == (2, 2) and max(kind.weight[3:]) > 1),
}


def use(kinds: dict[Kind, list[nn.Conv3d]], chosen: dict[Kind, str]) -> None:
    """Let the modules of each kind compute by the way that is chosen for it."""
    for kind, modules in kinds.items():
        compute, _ = WAYS[chosen.get(kind, "direct")]
        for module in modules:
            module._conv_forward = _forward(compute, module)


def _forward(compute: Compute, module: nn.Conv3d) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = compute(x, weight, module.stride, module.padding)
        return out if bias is None else out + bias.view(-1, 1, 1, 1)
    return forward


def fitting(kind: Kind) -> list[str]:
    """Names of the ways that may be asked of a kind."""
    return [name for name, (_, fits) in WAYS.items() if fits(kind)]


def all_pairs(kinds: dict[Kind, list[nn.Conv3d]]) -> list[tuple[Kind, str]]:
    """Every kind with every way that fits."""
    return list(itertools.chain.from_iterable(((kind, name) for name in fitting(kind)) for kind in kinds))
