"""The masks of extremal perturbations: made from a grid, applied to clips, and penalised for area and roughness."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PERTURBATIONS = ("blur", "fade")
COLDNESS = 20.0  # of the softmax by which neighbouring grid points are pooled
TIE = 1e-5  # values of a mask that differ by no more are equal: float32 rounds e^20 by as much
ELLIPSOID = (7, 11, 11)  # frames, pixels, pixels


class _SmoothMax(torch.autograd.Function):
    """Pool what every grid point around a pixel, times its weight there, to a soft maximum: sum x e^20x / sum e^20x.

    Pixels at the same phase of the grid's step share their weights. So pixels are stored phase by phase, and the
    neighbours' terms are summed as they come: of (2 r + 1)^2 unfolded copies of the mask none is ever stored.
    """

    @staticmethod
    def forward(ctx, grid: Tensor, weights: Tensor) -> Tensor:
        """(M, a, b) padded grids, (k, k, p) weights at p phases -> (p, M, a - k + 1, b - k + 1)."""
        k = len(weights)
        total = grid.new_zeros(weights.shape[2], len(grid), grid.shape[1] - k + 1, grid.shape[2] - k + 1)
        pooled = torch.zeros_like(total)
        for neighbour, weight in _neighbours(grid, weights):
            terms = weight * neighbour  # (p, M, a', b')
            powers = (COLDNESS * terms).exp_()
            total += powers
            pooled.addcmul_(powers, terms)
        pooled /= total
        ctx.save_for_backward(grid, weights, pooled, total)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        grid, weights, pooled, total = ctx.saved_tensors
        scale, offset = gradient / total, 1 - COLDNESS * pooled
        result = torch.zeros_like(grid)
        pieces = _neighbours(result, weights)
        for (neighbour, weight), (piece, _) in zip(_neighbours(grid, weights), pieces, strict=True):
            exponents = COLDNESS * weight * neighbour
            slopes = (exponents + offset).mul_(exponents.exp_()).mul_(scale)  # (p, M, a', b')
            piece.add_((weight.flatten() @ slopes.flatten(1)).view_as(piece))
        return result, None


def _neighbours(grid: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Every shift of the grid, (M, a', b') views, with its weights (p, 1, 1, 1)."""
    k = len(weights)
    rows, columns = grid.shape[1] - k + 1, grid.shape[2] - k + 1
    for y in range(k):
        for x in range(k):
            yield grid[:, y:y + rows, x:x + columns], weights[y, x, :, None, None, None]


class SmoothMask:
    """From a coarse grid of values to a smooth mask: the soft maximum over the grid's points of value x kernel.

    The kernel of a point at distance z sigma is exp(-2 max(z - 1/2, 0)^2). The area penalty acts on a mask that is
    wider than the frame by sigma on all sides (and what completes a step), where points inside reach over the border.

    Args:
        size: (H, W) of the frames.
        step: pixels from one grid point to the next.
        sigma: pixels.
    """

    def __init__(self, size: tuple[int, int], *, step: int = 7, sigma: float = 11, device: torch.device | None = None,
                 dtype: torch.dtype = torch.float32) -> None:
        self.size, self.step, self.margin = size, step, round(sigma)
        self.grid = tuple(math.ceil(n / step) for n in size)
        radius = 1 + math.ceil(sigma / step)
        # as published, but wide enough for a small sigma, too
        least = math.ceil(((self.margin - 1) / step + 1) / 2)
        wider = max(math.ceil(2 * sigma / step) - math.ceil(sigma / step), least)
        self.padding = radius + wider
        self.cells = tuple(n + 2 * wider for n in self.grid)
        self.padded = tuple(step * n - step + 1 for n in self.cells)
        # of neighbour i, seen from the first pixel of a cell, along one axis
        start = step * (torch.arange(2 * radius + 1, dtype=torch.float64) - self.padding) + sigma
        away = (torch.arange(step) - start[:, None]).square()  # (k, step)
        distance = (away[:, None, :, None] + away[None, :, None, :]).sqrt() / sigma  # (k, k, step, step)
        kernel = torch.exp(-2 * (distance - 0.5).clamp(min=0).square())
        self.weights = kernel.flatten(2).to(device, dtype)  # (k, k, step step)

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(..., gh, gw) in 0..1 -> the mask (..., H, W), and the padded one (..., H', W') that the area counts on."""
        grid = F.pad(values.flatten(0, -3), (self.padding,) * 4)  # (M, a, b)
        pooled = _SmoothMax.apply(grid, self.weights)  # (p, M, a', b')
        blocks = pooled.unflatten(0, (self.step, self.step)).permute(2, 3, 0, 4, 1)  # (M, a', step, b', step)
        whole = blocks.flatten(3, 4).flatten(1, 2)[:, :self.padded[0], :self.padded[1]]
        whole = whole.unflatten(0, values.shape[:-2])
        top, (height, width) = self.margin, self.size
        return whole[..., top:top + height, top:top + width], whole


class Degradations:
    """Clips degraded by several degrees, between which a mask interpolates linearly: 1 leaves a voxel as it is.

    Args:
        clips: (B, 3, T, H, W).
        kind: "blur" (frame by frame) or "fade" (towards 0, the mean colour).
        levels: how many.
        strongest: standard deviation of the strongest blur in pixels.
    """

    def __init__(self, clips: Tensor, *, kind: str = "blur", levels: int = 8, strongest: float = 20.0) -> None:
        shares = torch.linspace(0, 1, levels).tolist()
        fade = kind == "fade"
        stages = [clips * share if fade else blurred(clips, (1 - share) * strongest) for share in shares]
        self.levels = torch.stack(stages)  # (levels, B, 3, T, H, W)
        self._place = torch.arange(clips.numel(), device=clips.device).view(clips.shape)

    def __call__(self, masks: Tensor, clip_of: Tensor) -> Tensor:
        """Masks (n, T, H, W) in 0..1 and the clips (n,) int64 that they are for -> (n, 3, T, H, W)."""
        level = masks * (len(self.levels) - 1)
        below = level.detach().floor().clamp(max=len(self.levels) - 2)
        size = self._place.numel()
        index = self._place[clip_of] + size * below.long()[:, None]  # (n, 3, T, H, W)
        clearer = self.levels.take(index + size)
        return torch.lerp(self.levels.take(index), clearer, (level - below)[:, None].expand_as(clearer))


def blurred(clips: Tensor, sigma: float) -> Tensor:
    """Clips under a Gaussian blur of every frame, which repeats the frame's border.

    Args:
        clips: (..., H, W). sigma: standard deviation in pixels; 0 changes nothing.
    """
    if sigma == 0:
        return clips
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1, device=clips.device).square() / (2 * sigma ** 2))
    kernel = (kernel / kernel.sum()).to(clips.dtype).view(1, 1, -1)
    for axis in (-1, -2):
        lines = clips.movedim(axis, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (radius, radius), mode="replicate")
        clips = F.conv1d(padded, kernel).view(lines.shape).movedim(-1, axis)
    return clips


@torch.no_grad()
def _step_function(rows: Tensor, zeros: Tensor) -> Tensor:
    """Which values of each row ought to be 1, when all but the largest ought to be 0.

    No sort is needed, only the value where the step stands. Values that are equal to it, up to rounding, share what is
    left of the ones, which is what sorting in random order comes to on average.

    Args:
        rows: (n, rows, N). zeros: (n,) int64, how many of a row ought to be 0.
    Returns:
        like rows, in 0 .. 1.
    """
    edge = rows.new_empty(rows.shape[:2])
    for k in zeros.unique().tolist():  # one for each area
        edge[zeros == k] = rows[zeros == k].kthvalue(k + 1).values
    edge = edge[..., None]
    above, equal = rows > edge + TIE, (rows - edge).abs() <= TIE
    left = (rows.shape[-1] - zeros)[:, None, None] - above.sum(-1, keepdim=True)
    return above + equal * (left / equal.sum(-1, keepdim=True)).to(rows.dtype)


def area_penalty(masks: Tensor, areas: Tensor) -> Tensor:
    """How far sorted masks are from steps: mean squared distance to 0 of all but the largest values, to 1 of those.

    Args:
        masks: (n, ..., N), each of whose rows of N voxels has the area.
        areas: (n,) shares.
    Returns:
        (n,), the mean over rows.
    """
    rows = masks.flatten(1, -2) if masks.dim() > 2 else masks[:, None]  # (n, rows, N)
    n = rows.shape[-1]
    ones = _step_function(rows, (n * (1 - areas.double())).long().clamp(0, n - 1))
    return (rows.square() - 2 * ones * rows + ones).mean((1, 2))


def roughness(masks: Tensor, areas: Tensor) -> Tensor:
    """How far masks are from being made of ellipsoids of 7 frames x 11 x 11 pixels: the smoothness term of step.

    Means over ellipsoids on every frame and every 11 pixels: as many as fit into the area ought to be full, all others
    empty.

    Args:
        masks: (n, T, H', W'), padded ones.
        areas: (n,) shares.
    Returns:
        (n,): mean squared distance to 1 of the fullest, plus that to 0 of the others.
    """
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n, device=masks.device) for n in ELLIPSOID), indexing="ij")
    kernel = (sum(axis.square() for axis in axes) <= 1 + 1e-6).to(masks.dtype)
    long, high, wide = ELLIPSOID
    rows, columns = masks.shape[2] // high, masks.shape[3] // wide
    tiles = masks[:, :, :rows * high, :columns * wide].unflatten(3, (columns, wide)).unflatten(2, (rows, high))
    slices = torch.einsum("ntryck,dyk->dntrc", tiles, kernel / kernel.sum())  # each ellipsoid's share of each frame
    n_starts = masks.shape[1] - long + 1
    means = sum(shares[:, i:i + n_starts] for i, shares in enumerate(slices)).flatten(1)
    n, volume = means.shape[1], int(math.prod(ELLIPSOID) * 0.5236)  # of an ellipsoid in its box: pi / 6
    full = torch.ceil(areas.double() * masks[0].numel() / volume).long().clamp(max=n - 1)  # (n,)
    ones = _step_function(means[:, None], n - full)[:, 0]
    return ((means - 1).square() * ones).sum(1) / full + (means.square() * (1 - ones)).sum(1) / (n - full)
