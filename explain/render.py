"""Pictures from arrays: heat and boxes on clips, patches, contact sheets, animated WebP and GIF.

Pixels are uint8 (T, H, W, 3) RGB. Heat maps and boxes refer to the clip that the model saw, which shows the same region
at another size; the functions scale them to the picture.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.reading import FrameTimes

Pixels = np.ndarray  # (T, H, W, 3) uint8 RGB
Box = tuple[int, ...]  # (t0, y0, x0, t1, y1, x1), half-open
Seconds = float | list[float]  # that each frame is shown, one number where all are alike

READABLE = 160  # pixels of height below which a picture is enlarged
WIDEST = 640  # maximal width of an enlarged picture in pixels
LARGEST = 256  # pixels of height above which a video is shrunk
DEFAULT_FPS = 25.0
WEBP_EDGE, GIF_EDGE = (1 << 14) - 1, (1 << 16) - 1  # pixels of height or width, by the formats
BOX_COLOUR = (255, 214, 10)
HEAT_ALPHA = 0.75  # opacity of the hottest spot

# Inferno (Smith and van der Walt, CC0) at nine even steps: perceptually uniform, and readable without colour vision
_INFERNO = np.array([(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51),
                     (249, 140, 10), (249, 201, 50), (252, 255, 164)], dtype=np.float32)
_PALETTE = np.stack([np.interp(np.linspace(0, 8, 256), np.arange(9), channel) for channel in _INFERNO.T], -1)


def enlargement(height: float, largest: int = LARGEST) -> float:
    """The factor for a picture of some height: a whole number for small pictures, below 1 for large ones."""
    return float(-(-READABLE // height)) if height < READABLE else min(1.0, largest / height)


def resize(pixels: Pixels, size: tuple[int, int], region: tuple[float, float, float, float] | None = None) -> Pixels:
    """Resize a region of every frame, bicubic.

    Args:
        pixels: (T, H, W, 3).
        size: (H', W').
        region: y0, x0, y1, x1 in (fractions of) pixels; None for the whole frame.
    Returns:
        (T, H', W', 3).
    """
    height, width = pixels.shape[1:3]
    if region is None and size == (height, width):
        return pixels
    top, left, bottom, right = region or (0, 0, height, width)
    inside = (max(0, left), max(0, top), min(width, right), min(height, bottom))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC, box=inside))
                     for frame in pixels])


def readable(pixels: Pixels) -> Pixels:
    """Enlarge small pictures by a whole factor, up to the width WIDEST."""
    _, height, width, _ = pixels.shape
    factor = min(int(enlargement(height)), WIDEST // width)
    return resize(pixels, (height * factor, width * factor)) if factor > 1 else pixels


def overlay(pixels: Pixels, heat: Tensor) -> Pixels:
    """Draw heat over a clip; colour and opacity both grow from the smallest to the largest value of the map.

    Args:
        pixels: (T, H', W', 3).
        heat: (T, H, W), any range; a constant map leaves the clip unchanged.
    Returns:
        (T, H', W', 3).
    """
    heat = heat.detach().cpu().float()
    low, high = heat.amin(), heat.amax()
    if high <= low:
        return pixels
    scaled = F.interpolate(((heat - low) / (high - low))[:, None], pixels.shape[1:3], mode="bilinear",
                           align_corners=False)[:, 0].numpy()  # (T, H', W')
    alpha = HEAT_ALPHA * scaled[..., None] ** 1.5  # the clip stays visible under medium heat
    colours = _PALETTE[(scaled * 255).round().astype(np.uint8)]  # (T, H', W', 3)
    return (pixels * (1 - alpha) + colours * alpha).round().astype(np.uint8)


def scale_box(box: Box, clip_size: tuple[int, int], size: tuple[int, int]) -> Box:
    """Scale a box from clip pixels to pixels of a picture of the same region; it keeps at least one pixel.

    Args:
        box: in the clip. clip_size: (H, W) of the clip. size: (H', W') of the picture.
    """
    t0, y0, x0, t1, y1, x1 = box
    (height, width), down, right = size, size[0] / clip_size[0], size[1] / clip_size[1]
    top, left = min(int(y0 * down), height - 1), min(int(x0 * right), width - 1)
    return t0, top, left, t1, max(top + 1, round(y1 * down)), max(left + 1, round(x1 * right))


def draw_box(pixels: Pixels, box: Box, clip_size: tuple[int, int]) -> Pixels:
    """Draw a box, dark outside and bright inside, on the frames that it spans.

    Args:
        pixels: (T, H', W', 3).
        box: in the frames and pixels of a clip of `clip_size` (H, W).
    """
    t0, top, left, t1, bottom, right = scale_box(box, clip_size, pixels.shape[1:3])
    line = max(1, pixels.shape[1] // 80)
    drawn = pixels.copy()
    for inset, width, colour in ((0, line + 1, (20, 20, 20)), (1, line, BOX_COLOUR)):
        y0, x0, y1, x1 = top + inset, left + inset, bottom - inset, right - inset
        for edge in ((slice(y0, y0 + width), slice(x0, x1)), (slice(max(y1 - width, y0), y1), slice(x0, x1)),
                     (slice(y0, y1), slice(x0, x0 + width)), (slice(y0, y1), slice(max(x1 - width, x0), x1))):
            drawn[t0:t1, edge[0], edge[1]] = colour
    return drawn


def crop_box(pixels: Pixels, box: Box, clip_size: tuple[int, int]) -> Pixels:
    """The pixels in a box, over its frames: (t1 - t0, height, width, 3)."""
    t0, top, left, t1, bottom, right = scale_box(box, clip_size, pixels.shape[1:3])
    return pixels[t0:t1, top:bottom, left:right]


def contact_sheet(pixels: Pixels, *, columns: int = 4, rows: int = 2, gap: int = 4) -> Pixels:
    """Evenly spaced frames side by side, in reading order: (1, H', W', 3), on grey, for light and dark pages."""
    chosen = np.linspace(0, len(pixels) - 1, columns * rows).round().astype(int).tolist()
    _, height, width, _ = pixels.shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, dtype=np.uint8)
    for i, frame in enumerate(chosen):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top:top + height, left:left + width] = pixels[frame]
    return sheet[None]


def side_by_side(clips: Sequence[Pixels], height: int = 160, gap: int = 6) -> Pixels:
    """Clips next to each other on white, as long as the first one; shorter ones repeat.

    Args:
        clips: (T_i, H_i, W_i, 3) each. height: of the result in pixels.
    Returns:
        (T_0, height, W, 3).
    """
    fitted = []
    for clip in clips:
        _, own, width, _ = clip.shape
        scaled = resize(clip, (height, max(1, round(width * height / own))))
        repeated = scaled[np.arange(len(clips[0])) % len(scaled)]
        fitted += [repeated, np.full((len(clips[0]), height, gap, 3), 255, dtype=np.uint8)]
    return np.concatenate(fitted[:-1], 2)


def seconds_per_frame(frames: Tensor, times: FrameTimes | None) -> Seconds:
    """Seconds per frame with which a clip plays at the video's own speed.

    Args:
        frames: (T,) frame indices in the video; a looped short clip jumps back.
        times: of the video's frames; None for 25 a second.
    """
    return (times or FrameTimes(0, DEFAULT_FPS)).step(frames)


def part_of(seconds: Seconds, first: int, last: int, every: int = 1) -> Seconds:
    """The seconds of each frame of a half-open part of a clip, of which every so many frames are shown."""
    if isinstance(seconds, float):
        return every * seconds
    return [sum(seconds[i:min(i + every, last)]) for i in range(first, last, every)]


def _durations(n: int, seconds: Seconds, unit: int) -> list[int]:
    """Milliseconds of each of n frames in multiples of a unit, rounded so that their sum is exact."""
    starts = np.arange(n + 1) * seconds if isinstance(seconds, float) else np.cumsum([0.0, *seconds])
    ends = np.round(starts * 1000 / unit) * unit
    return np.diff(ends).astype(int).tolist()


def within(pixels: Pixels, edge: int) -> Pixels:
    """Shrink pictures of which an edge is longer than a format allows, as a sheet of 600 frames is."""
    height, width = pixels.shape[1:3]
    scale = edge / max(height, width)
    return pixels if scale >= 1 else resize(pixels, (max(1, int(height * scale)), max(1, int(width * scale))))


def gif(pixels: Pixels, seconds: Seconds) -> bytes:
    """An animated GIF that loops; each frame has its own 256 colours by octree, the fastest method (3 ms, not 170).

    Args:
        pixels: (T, H, W, 3). seconds: of each frame (players slow down below .02).
    """
    images = [Image.fromarray(frame).quantize(256, method=Image.Quantize.FASTOCTREE)
              for frame in within(pixels, GIF_EDGE)]
    durations = [max(20, d) for d in _durations(len(images), seconds, 10)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def webp(pixels: Pixels, seconds: Seconds = 0.04, quality: int = 75) -> bytes:
    """A WebP that loops, or a still for a single frame.

    Args:
        pixels: (T, H, W, 3). seconds: of each frame. quality: 0 .. 100.
    """
    images = [Image.fromarray(frame) for frame in within(pixels, WEBP_EDGE)]
    buffer = io.BytesIO()
    if len(images) == 1:
        images[0].save(buffer, "WEBP", quality=quality, method=2)
    else:
        images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], quality=quality, method=0,
                       duration=_durations(len(images), seconds, 1), loop=0)
    return buffer.getvalue()


def jpeg(pixels: Pixels, height: int, quality: int = 80) -> bytes:
    """The first frame of (T, H, W, 3) as a JPEG of some pixels of height.

    Args:
        quality: 0 .. 100.
    """
    _, own, width, _ = pixels.shape
    buffer = io.BytesIO()
    Image.fromarray(resize(pixels[:1], (height, max(1, round(width * height / own))))[0]).save(
        buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def png(pixels: Pixels) -> bytes:
    """The first frame of (T, H, W, 3) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "PNG")
    return buffer.getvalue()
