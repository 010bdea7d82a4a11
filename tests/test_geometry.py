"""Where a cell lies in the clip and in the source video: centres, upsampling, boxes, and the way back."""

import numpy as np
import pytest
import torch

from datasets.sampling import EvenClips
from datasets.transforms import EvalTransform
from models.geometry import box_of, box_to_source, cell_centre, points_to_source, upsample
from models.i3d import I3D

GRIDS = [((4, 4, 4), (4, 32, 32), (16, 112, 112)), ((2, 4, 3), (4, 8, 16), (7, 32, 40)),
         ((1, 1, 1), (16, 9, 8), (16, 9, 8)), ((3, 5, 2), (1, 1, 1), (3, 5, 2))]


@pytest.mark.parametrize(("grid", "stride", "size"), GRIDS)
def test_the_peak_stands_at_the_centre_of_the_best_cell(grid, stride, size):
    torch.manual_seed(0)
    n = grid[0] * grid[1] * grid[2]
    maps = torch.rand(n, *grid)
    maps.view(n, n).fill_diagonal_(2)  # map i is best in cell i
    heat = upsample(maps, size, stride)
    assert heat.shape == (n, *size)
    centres = cell_centre(torch.arange(n), grid, stride, size)
    for i, centre in enumerate(centres.tolist()):
        cell = [int(j) for j in torch.unravel_index(torch.tensor(i), grid)]
        assert centre == [min(c * s, length - 1) for c, s, length in zip(cell, stride, size, strict=True)]
        assert heat[i][tuple(centre)] == heat[i].max() == 2
        assert [int(j) for j in torch.unravel_index(heat[i].argmax(), size)] == centre


def test_upsampling_is_linear_between_the_centres():
    maps = torch.rand(2, 3, 2, 3, 2, dtype=torch.float64)
    size, stride = (7, 9, 5), (4, 3, 2)
    heat = upsample(maps, size, stride)
    assert heat.shape == (2, 3, *size)

    def between(values, at):  # along the last axis
        at = min(at, values.shape[-1] - 1)
        low = min(int(at), values.shape[-1] - 2)
        return values[..., low] * (1 - (at - low)) + values[..., low + 1] * (at - low)

    for t, y, x in np.ndindex(*size):
        expected = between(between(between(maps, x / stride[2]), y / stride[1]), t / stride[0])
        torch.testing.assert_close(heat[..., t, y, x], expected)


def test_upsampling_keeps_a_constant_and_one_cell():
    assert torch.equal(upsample(torch.full((1, 1, 1), 3.0), (5, 6, 7), (5, 6, 7)), torch.full((5, 6, 7), 3.0))


def test_offsets_reach_what_is_drawn():
    """Heat and centre agree, and both know the offset: 5 frames, 23 rows and columns for the first cell of I3D."""
    with torch.device("meta"):
        trunk = I3D()
    assert (trunk.stride, trunk.offset) == ((8, 32, 32), (5, 23, 23))
    maps = torch.zeros(2, 2, 2)
    maps[1, 0, 1] = 1
    heat = upsample(maps, (16, 64, 64), trunk.stride, trunk.offset)
    centre = cell_centre(torch.tensor(5), (2, 2, 2), trunk.stride, (16, 64, 64), trunk.offset)
    assert centre.tolist() == [13, 23, 55] and heat[13, 23, 55] == 1
    assert heat[12, 23, 55] < 1 and heat[13, 24, 55] < 1 and heat[13, 23, 54] < 1


def test_the_box_is_around_the_blob_that_holds_the_peak():
    heat = torch.zeros(10, 20, 30)  # 5 % are 300 voxels
    heat[1:4, 2:7, 3:9] = 5  # 90 voxels
    heat[6:9, 10:16, 20:26] = 4  # 108 voxels, far away and less hot
    heat[2, 3, 4] = 6
    heat += 1e-3 * torch.arange(heat.numel()).view(heat.shape).flip(2) / heat.numel()  # the rest is no plateau
    assert box_of(heat, 1 - 198 / 6000) == (1, 2, 3, 4, 7, 9)
    heat[7, 11, 21] = 7
    assert box_of(heat, 1 - 198 / 6000) == (6, 10, 20, 9, 16, 26)


def test_the_box_holds_a_twentieth_of_the_clip_by_default():
    heat = torch.zeros(10, 10, 10)
    heat[4:6, 5:10, 0:5] = torch.rand(2, 5, 5) + 1  # 50 of 1000 voxels
    assert box_of(heat) == (4, 5, 0, 6, 10, 5)


def test_the_box_always_holds_the_peak():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        heat = upsample(torch.rand(2, 4, 4, generator=generator), (8, 16, 16), (4, 4, 4))
        peak = torch.unravel_index(heat.argmax(), heat.shape)
        t0, y0, x0, t1, y1, x1 = box_of(heat)
        assert t0 <= peak[0] < t1 and y0 <= peak[1] < y1 and x0 <= peak[2] < x1
        outside = heat.clone()
        outside[t0:t1, y0:y1, x0:x1] = -1
        assert outside.max() <= heat.max()


def test_the_box_of_a_flat_map_is_the_clip():
    assert box_of(torch.zeros(3, 4, 5)) == (0, 0, 0, 3, 4, 5)


def test_points_in_source_pixels():
    frames = torch.tensor([10, 12, 14, 16])
    crop = torch.tensor([20.0, 40, 120, 90])  # 100 high, 50 wide, shown on 50 x 50
    points = torch.tensor([[0, 0, 0], [3, 49, 49], [1, 25, 10]])
    assert points_to_source(points, frames, crop, (50, 50)).tolist() == [[10, 21, 40], [16, 119, 89], [12, 71, 50]]
    assert points_to_source(points[2], frames, crop, (50, 50)).tolist() == [12, 71, 50]


def test_boxes_in_source_pixels():
    frames = torch.tensor([10, 12, 14, 16])
    crop = torch.tensor([20.0, 40, 120, 90])
    assert box_to_source((0, 0, 0, 4, 50, 50), frames, crop, (50, 50)) == (10, 20, 40, 17, 120, 90)
    assert box_to_source((1, 10, 11, 2, 20, 21), frames, crop, (50, 50)) == (12, 40, 51, 13, 60, 61)
    assert box_to_source((1, 10, 11, 3, 20, 21), frames, crop, (50, 50))[::3] == (12, 15)


def test_boxes_of_looped_clips_span_the_frames_they_touch():
    frames = EvenClips(8, 1)(3, 0)
    assert frames.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    crop = torch.tensor([0.0, 0, 8, 8])
    assert box_to_source((2, 0, 0, 4, 8, 8), frames, crop, (8, 8))[::3] == (0, 3)
    assert box_to_source((4, 0, 0, 6, 8, 8), frames, crop, (8, 8))[::3] == (1, 3)
    assert points_to_source(torch.tensor([7, 0, 0]), frames, crop, (8, 8)).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(48, 80), (90, 50), (64, 64), (31, 33)])
def test_a_bright_spot_comes_back_to_where_it_was(height, width):
    """Through the transform that evaluation and push use, at any shape of the source."""
    y, x = height // 2 - 5, width // 2 + 3
    pixels = torch.zeros(4, height, width, 3, dtype=torch.uint8)
    pixels[2, y:y + 6, x:x + 6] = 255
    clip, crop, _ = EvalTransform(32)(pixels)
    peak = torch.stack(torch.unravel_index(clip.sum(0).argmax(), clip.shape[1:]))
    frames = torch.tensor([7, 8, 9, 10])
    frame, at_y, at_x = points_to_source(peak, frames, crop, (32, 32)).tolist()
    assert frame == 9 and y <= at_y < y + 6 and x <= at_x < x + 6
    bright = (clip[0] > 128).nonzero()
    low, high = bright.min(0).values.tolist(), (bright.max(0).values + 1).tolist()
    box = box_to_source((*low, *high), frames, crop, (32, 32))
    assert box[0] == 9 and box[3] == 10
    for side, expected in zip(box[1:3] + box[4:6], (y, x, y + 6, x + 6), strict=True):
        assert abs(side - expected) <= max(height, width) / 32


@pytest.mark.parametrize("side", [72, 116, 225, 240, 246, 450])
def test_a_box_of_the_whole_clip_is_the_whole_crop(side):
    frames = torch.arange(16)
    assert box_to_source((0, 0, 0, 16, 112, 112), frames, torch.tensor([0.0, 3.0, side, side + 3.0]),
                         (112, 112)) == (0, 0, 3, 16, side, side + 3)
