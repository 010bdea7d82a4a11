"""Pictures are honest: what is bright lies under the heat, inside the box and inside the crop, in its own frames."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tiny import MemoryReader, Spot, tiny_hipe

from datasets.reading import FrameTimes
from datasets.transforms import EvalTransform, normalise
from explain import render
from explain.match import match
from explain.pictures import read_region
from models.geometry import box_to_source, points_to_source

T = 8
SPOTS = [Spot((0, 4), (6, 32), (60, 92)), Spot((4, 8), (66, 94), (40, 74)), Spot((2, 6), (36, 60), (88, 118))]


def explained(spot):
    """Match a video of 12 frames of 96 x 160 with a spot, of which the clip shows the middle 96 x 96 at 48 x 48."""
    video = spot.paint(np.random.default_rng(0).integers(20, 60, size=(12, 96, 160, 3), dtype=np.uint8))
    reader = MemoryReader({"v": video})
    frames = torch.arange(T)
    clip, crop, _ = EvalTransform(48)(reader.frames("v", frames))
    model, _ = tiny_hipe()
    brightest = next(one for one in match(model, normalise(clip), [0], leaf=0)[0].matches if one.prototype == 0)
    return brightest, read_region(reader, "v", frames, crop), frames, crop


@pytest.mark.parametrize("spot", SPOTS)
def test_a_spot_lies_under_the_heat_inside_the_box_and_inside_the_crop(spot):
    found, pixels, frames, crop = explained(spot)
    assert pixels.shape == (T, 192, 192, 3)  # 96 pixels, doubled
    inside = np.zeros(pixels.shape[:3], dtype=bool)  # where the picture shows the spot
    inside[slice(*spot.frames), 2 * spot.y[0]:2 * spot.y[1], 2 * (spot.x[0] - 32):2 * (spot.x[1] - 32)] = True
    assert (pixels[inside] > 200).mean() > 0.9 and (pixels[~inside] < 70).mean() > 0.97  # it does show it there

    # in the source video's own frames and pixels
    assert spot.holds(*points_to_source(torch.tensor(found.peak), frames, crop, (48, 48)).tolist())
    box = box_to_source(found.box, frames, crop, (48, 48))
    centre = [(a + b) / 2 for a, b in (spot.frames, spot.y, spot.x)]
    assert all(first <= at < last for first, at, last in zip(box[:3], centre, box[3:], strict=True))

    # the picture changes most where the spot is: seen on a grey copy, so that only the heat tells
    change = np.abs(render.overlay(np.full_like(pixels, 128), found.heat).astype(int) - 128).sum(-1)
    assert inside[np.unravel_index(change.argmax(), change.shape)]
    assert change[inside].mean() > 4 * change[~inside].mean()

    # the box's lines frame the spot, on frames of the spot
    drawn = (render.draw_box(pixels, found.box, (48, 48)) == render.BOX_COLOUR).all(-1)
    assert {int(t) for t in drawn.any((1, 2)).nonzero()[0]} == set(range(found.box[0], found.box[3]))
    middle = sum(spot.frames) // 2
    rows, columns = drawn[middle].any(1).nonzero()[0], drawn[middle].any(0).nonzero()[0]
    assert rows[0] < spot.y[0] + spot.y[1] < rows[-1]
    assert columns[0] < spot.x[0] + spot.x[1] - 64 < columns[-1]

    patch = render.crop_box(pixels, found.box, (48, 48))
    assert len(patch) == found.box[3] - found.box[0]
    assert patch.mean() > 2 * pixels.mean() and patch.size < pixels.size / 4
    assert (patch[sum(spot.frames) // 2 - found.box[0]] > 200).any()


def test_heat_grows_in_colour_and_opacity():
    pixels = np.full((2, 6, 10, 3), 90, dtype=np.uint8)
    heat = torch.linspace(0, 1, 10).expand(2, 6, 10)
    shown = render.overlay(pixels, heat).astype(int)
    assert (shown[:, :, 0] == 90).all()  # the coldest is clear
    assert (np.diff(np.abs(shown - 90).sum(-1), axis=2) >= 0).all()
    np.testing.assert_array_equal(shown, render.overlay(pixels, 7 * heat - 3))  # any range
    np.testing.assert_array_equal(render.overlay(pixels, torch.full((2, 6, 10), 4.2)), pixels)  # no contrast, no heat


def test_a_box_changes_nothing_else():
    pixels = np.random.default_rng(0).integers(256, size=(6, 40, 60, 3), dtype=np.uint8)
    kept = pixels.copy()
    drawn = render.draw_box(pixels, (2, 5, 10, 4, 15, 25), (20, 30))  # twice as large in the picture
    np.testing.assert_array_equal(pixels, kept)
    changed = (drawn != pixels).any(-1)
    assert changed[2:4].any((1, 2)).all() and not changed[[0, 1, 4, 5]].any()
    rows, columns = changed[2].any(1).nonzero()[0], changed[2].any(0).nonzero()[0]
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (10, 30, 20, 50)
    assert not changed[:, 14:26, 24:46].any()
    np.testing.assert_array_equal(render.crop_box(pixels, (2, 5, 10, 4, 15, 25), (20, 30)), pixels[2:4, 10:30, 20:50])


def test_a_box_keeps_a_pixel_at_the_very_edge():
    pixels = np.zeros((2, 10, 10, 3), dtype=np.uint8)
    assert render.crop_box(pixels, (1, 39, 39, 2, 40, 40), (40, 40)).shape == (1, 1, 1, 3)
    render.draw_box(pixels, (1, 39, 39, 2, 40, 40), (40, 40))


def moving_square(n=6):
    """A white square that goes down and to the right on a grey ground of 30 x 44."""
    pixels = np.full((n, 30, 44, 3), 100, dtype=np.uint8)
    for i in range(n):
        pixels[i, 3 + 2 * i:9 + 2 * i, 4 + 5 * i:12 + 5 * i] = (240, 20, 30)
    return pixels


@pytest.mark.parametrize("encode", [render.gif, render.webp])
@pytest.mark.parametrize("fps", [10, 25, 29.97])
def test_animations_keep_every_frame_and_the_time(encode, fps):
    pixels = moving_square()
    with Image.open(io.BytesIO(encode(pixels, 1 / fps))) as image:
        assert image.info["loop"] == 0 and image.n_frames == len(pixels)
        frames, milliseconds = [], 0
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
            milliseconds += frame.info["duration"]
    assert milliseconds == pytest.approx(1000 * len(pixels) / fps, abs=6)
    for shown, expected in zip(frames, pixels, strict=True):
        assert shown.shape == expected.shape
        assert np.abs(shown - expected).mean() < 6


def test_a_gif_of_a_still_scene_lasts_as_long():
    """Pillow merges equal frames."""
    with Image.open(io.BytesIO(render.gif(np.full((8, 20, 30, 3), 77, dtype=np.uint8), 0.04))) as image:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) in (0, 320)


def test_stills_are_what_they_show():
    pixels = moving_square()
    with Image.open(io.BytesIO(render.png(pixels[2:]))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels[2])
    with Image.open(io.BytesIO(render.webp(pixels[2:3]))) as image:
        assert getattr(image, "n_frames", 1) == 1
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels[2]).mean() < 6


def test_contact_sheet_reads_like_a_page():
    pixels = np.stack([np.full((5, 7, 3), i, dtype=np.uint8) for i in range(16)])
    sheet = render.contact_sheet(pixels, gap=2)
    assert sheet.shape == (1, 12, 34, 3)
    assert sheet[0, [0, 7]][:, [0, 9, 18, 27], 0].tolist() == [[0, 2, 4, 6], [9, 11, 13, 15]]


@pytest.mark.parametrize(("frames", "fps", "seconds"), [
    (range(10, 26), 25, 0.04), (range(0, 32, 2), 25, 0.08), ([0, 1, 2, 0, 1, 2, 0, 1], 10, 0.1), (range(8), None, 0.04),
    ([3] * 8, 50, 0.02)])
def test_clips_play_at_the_speed_of_their_video(frames, fps, seconds):
    assert render.seconds_per_frame(torch.tensor(list(frames)), fps and FrameTimes(99, fps)) == pytest.approx(seconds)


@pytest.mark.parametrize(("height", "factor"), [(64, 3), (72, 3), (112, 2), (159, 2), (160, 1), (240, 1), (512, 0.5)])
def test_tiny_pictures_grow_by_whole_factors(height, factor):
    assert render.enlargement(height) == factor


def test_a_region_is_cut_alike_from_frames_stored_smaller():
    """The crop is in the video's own pixels, the reader has a third of them."""
    spot = Spot((1, 3), (30, 60), (90, 120))
    video = spot.paint(np.zeros((4, 96, 180, 3), dtype=np.uint8))
    crop = torch.tensor([0.0, 42, 96, 138])
    full, third = (read_region(MemoryReader({"v": video}, shrink=shrink), "v", torch.arange(4), crop)
                   for shrink in (1, 3))
    assert full.shape == (4, 192, 192, 3) and third.shape == (4, 160, 160, 3)  # 32 pixels, five times
    for pixels in (full, third):
        lit = pixels.mean(-1) > 128
        assert lit.any((1, 2)).tolist() == [False, True, True, False]
        scale = pixels.shape[1] / 96
        rows, columns = lit[1].any(1).nonzero()[0] / scale, lit[1].any(0).nonzero()[0] / scale + 42
        assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((30, 60, 90, 120), abs=1.2)


def test_side_by_side_keeps_order_and_length():
    red, blue = np.zeros((6, 20, 30, 3), np.uint8), np.zeros((4, 40, 20, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, np.arange(4)[:, None, None] * 50
    card = render.side_by_side([red, blue], height=40, gap=5)
    assert card.shape == (6, 40, 60 + 5 + 20, 3)
    assert (card[:, :, :60, 0] == 200).all()
    assert (card[:, :, 60:65] == 255).all()
    assert card[:, 20, 75, 2].tolist() == [0, 50, 100, 150, 0, 50]  # the shorter clip starts over
