"""Limits of libraries that large clips reach: voxels of a quantile, edges of a picture."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from explain import render
from explain.attribution_page import drawn, heat_sheet


def test_the_heat_of_a_large_clip_is_drawn():
    """72 frames of 512 x 512 pixels: more than the 2^24 voxels that torch.quantile takes."""
    heat = torch.linspace(0, 1, 72 * 512 * 512).view(72, 512, 512)
    heat[0, 0, 0] = 50.0
    assert heat.numel() > 1 << 24
    shown = drawn(heat)
    assert shown.shape == heat.shape and 0.99 < float(shown.max()) < 1.01


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


@pytest.mark.parametrize(("height", "width"), [(16, 16_383), (8, 40_000), (40_000, 8), (2, 70_000)])
def test_pictures_with_a_long_edge(height, width):
    pixels = np.zeros((1, height, width, 3), dtype=np.uint8)
    pixels[:, :, width // 2:] = 255
    for encode, edge in ((render.webp, 16_383), (lambda p: render.gif(p, 0.04), 65_535)):
        image = opened(encode(pixels))
        assert max(image.size) == min(edge, max(height, width))
        row = np.asarray(image.convert("L"))[0]
        assert height > width or (row[:len(row) // 3].max() < 9 and row[-len(row) // 3:].min() > 246)
    assert opened(render.png(pixels)).size == (width, height)


def test_the_sheet_of_a_clip_of_many_frames():
    pixels = np.zeros((640, 8, 8, 3), dtype=np.uint8)
    sheet = heat_sheet(pixels, pixels, [("a long clip", True)])
    assert sheet.shape[1] > 16_383
    assert max(opened(render.webp(sheet)).size) == 16_383
