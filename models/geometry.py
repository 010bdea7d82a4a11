"""Where a feature cell lies in the clip and in the source video: the one place that knows."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SMOOTH = 0.03  # of a frame's longer side: standard deviation of what smooths voxel-wise heat


def cell_centre(cells: Tensor, grid: tuple[int, int, int], stride: tuple[int, int, int],
                size: tuple[int, int, int], offset: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    """Centres of feature cells in the clip.

    Cells of padded strided convolutions are centred at `stride * index`, not in the middle of a tile; those of other
    layers `offset` behind.

    Args:
        cells: (...) int64 flat positions on the grid, in the order time, height, width.
        grid, stride, size: (t, h, w) of the grid, of the trunk's stride, (T, H, W) of the clip.
        offset: of the trunk, the centre of its first cell in frames and pixels.
    Returns:
        (..., 3) int64: frame, y, x, inside the clip.
    """
    _, h, w = grid
    index = torch.stack((cells // (h * w), cells // w % h, cells % w), -1)  # (..., 3)
    centre = index * torch.tensor(stride, device=cells.device) + torch.tensor(offset, device=cells.device)
    return torch.minimum(centre, torch.tensor(size, device=cells.device) - 1)


def _interpolation(length: int, cells: int, stride: int, offset: float, device: torch.device,
                   dtype: torch.dtype) -> Tensor:
    """(length, cells) weights of linear interpolation between cells centred at stride * i + offset, constant beyond the
    ends."""
    at = ((torch.arange(length, device=device, dtype=dtype) - offset) / stride).clamp(0, cells - 1)
    return (1 - (at[:, None] - torch.arange(cells, device=device, dtype=dtype)).abs()).clamp(min=0)


def upsample(maps: Tensor, size: tuple[int, int, int], stride: tuple[int, int, int],
             offset: tuple[float, float, float] = (0, 0, 0)) -> Tensor:
    """Upsample maps over feature cells to the clip, linearly between the true centres of the cells.

    Args:
        maps: (..., t, h, w).
        size: (T, H, W).
        stride, offset: of the trunk, in frames and pixels, as in `cell_centre`.
    Returns:
        (..., T, H, W); its maximum stands at the centre of the best cell.
    """
    along = [_interpolation(size[i], maps.shape[i - 3], stride[i], offset[i], maps.device, maps.dtype)
             for i in range(3)]
    return torch.einsum("...thw,Tt,Hh,Ww->...THW", maps, *along)


def smoothed(heat: Tensor) -> Tensor:
    """Make heat of places of what is scattered over single voxels, as gradients are: (T, H, W) -> (T, H, W).

    By a Gaussian over .03 of a frame's longer side and, in time, over one frame (standard deviations); borders are not
    darker. On the CPU, without a gradient.
    """
    sigma = (1.0, *[SMOOTH * max(heat.shape[1:])] * 2)
    values, radius = heat.detach().cpu().numpy(), [max(1, round(2.5 * width)) for width in sigma]
    total, weight = (ndimage.gaussian_filter(array, sigma, mode="constant", radius=radius)
                     for array in (values, np.ones_like(values)))
    return torch.from_numpy(total / weight)


def box_of(heat: Tensor, share: float = 0.95) -> tuple[int, int, int, int, int, int]:
    """The box around a heat map's peak, in space and time.

    Args:
        heat: (T, H, W).
        share: percentile (0..1) above which a voxel belongs to the region; the region is the connected part that
            holds the peak, so that a second spot far away does not stretch the box over what lies between.
    Returns:
        (t0, y0, x0, t1, y1, x1), half-open.
    """
    values = heat.detach().cpu().numpy()
    level = np.quantile(values, share)
    # more than `share` of a map can stand at its lowest value: only a map that is flat throughout is all region
    parts, _ = ndimage.label(values > level if values.max() > level else values >= level)
    peak = parts[np.unravel_index(values.argmax(), values.shape)]
    spans = ndimage.find_objects((parts == peak).astype(np.int8))[0]
    return tuple(s.start for s in spans) + tuple(s.stop for s in spans)


def points_to_source(points: Tensor, frames: Tensor, crop: Tensor, size: tuple[int, int]) -> Tensor:
    """Carry points of a clip to the source video.

    Args:
        points: (..., 3) frame, y, x in the clip.
        frames: (T,) int64 index in the source of each of the clip's frames.
        crop: (4,) y0, x0, y1, x1, the region of the source that the clip shows, in the source's pixels.
        size: (H, W) of the clip.
    Returns:
        (..., 3) int64 frame, y, x in the source: the pixel under the centre of the clip's pixel.
    """
    crop = crop.double()
    scale = (crop[2:] - crop[:2]) / torch.tensor(size, dtype=torch.float64)
    place = (crop[:2] + (points[..., 1:].double() + 0.5) * scale).floor().long()
    return torch.cat((frames[points[..., 0]][..., None], place), -1)


def box_to_source(box: tuple[int, ...], frames: Tensor, crop: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
    """Carry a half-open box of a clip to the source video.

    A looped short clip visits frames twice: the box then spans every frame it touches.

    Args:
        box: (t0, y0, x0, t1, y1, x1) in the clip; frames, crop, size as in `points_to_source`.
    Returns:
        (t0, y0, x0, t1, y1, x1), half-open, in the source's frames and pixels.
    """
    t0, y0, x0, t1, y1, x1 = box
    visited = frames[t0:t1]
    top, left, bottom, right = crop.double().tolist()
    height, width = (bottom - top) / size[0], (right - left) / size[1]
    # whole pixels that the box touches; a thousandth of one is rounding
    return (int(visited.min()), int(np.floor(top + y0 * height + 1e-3)), int(np.floor(left + x0 * width + 1e-3)),
            int(visited.max()) + 1, int(np.ceil(top + y1 * height - 1e-3)), int(np.ceil(left + x1 * width - 1e-3)))
