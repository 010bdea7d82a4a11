"""Draws scenes: frames, and the boxes of the event's object."""

import numpy as np

from datasets.synthetic.scenes import Scene, Thing
from datasets.synthetic.shapes import SHAPES


def _film(background: np.ndarray, camera: np.ndarray, size: int) -> np.ndarray:
    """Film the background through the moving camera, by bilinear shifts; (T, size, size, 3)."""
    margin = (background.shape[0] - size) // 2
    frames = np.empty((len(camera), size, size, 3), dtype=np.float32)
    for frame, shift in zip(frames, margin - camera, strict=True):
        (y, x), (fy, fx) = np.floor(shift).astype(int), (shift % 1).astype(np.float32)
        part = background[y : y + size + 1, x : x + size + 1]
        rows = part[:-1] + fy * (part[1:] - part[:-1])
        frame[:] = rows[:, :-1] + fx * (rows[:, 1:] - rows[:, :-1])
    return frames


def _paint(frames: np.ndarray, thing: Thing, camera: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """Paint a thing over `frames` (T, H, W, 3), in place; edges are softened over one pixel.

    Returns:
        {frame: (x, y, width, height)} of all pixels that it may touch, where it is in the picture.
    """
    there = np.flatnonzero(thing.opacity)
    radius = thing.radius[there, None, None]  # (n, 1, 1)
    centre = (thing.centre + camera)[there]
    half = int(np.ceil(radius.max())) + 2
    corner = np.floor(centre).astype(int) - half  # (n, 2) of a square patch of pixels around the thing
    patch = np.arange(2 * half + 2)
    dy = (corner[:, :1] + patch - centre[:, :1])[:, :, None] / radius  # pixel i is centred at i
    dx = (corner[:, 1:] + patch - centre[:, 1:])[:, None, :] / radius
    cos, sin = np.cos(thing.angle[there, None, None]), np.sin(thing.angle[there, None, None])
    outline, mark = SHAPES[thing.shape](cos * dx + sin * dy, cos * dy - sin * dx)
    alpha = np.clip(0.5 - outline * radius, 0.0, 1.0)  # (n, S, S)
    rim = np.clip(-0.5 - outline * radius, 0.0, 1.0)[..., None]  # 0 on a darker edge one pixel wide
    share = np.clip(0.5 - mark * radius, 0.0, 1.0)[..., None]
    body, light = thing.colours
    shade = 1.0 - 0.15 * np.clip(dy, -1, 1)[..., None]  # lit from above
    colour = np.clip((body + share * (light - body)) * (0.55 + 0.45 * rim) * shade, 0.0, 1.0).astype(np.float32)
    cover = (alpha * thing.opacity[there, None, None]).astype(np.float32)[..., None]

    height, width = frames.shape[1:3]
    boxes = {}
    for i, t in enumerate(there):
        y0, x0 = np.maximum(corner[i], 0)
        y1, x1 = np.minimum(corner[i] + len(patch), (height, width))
        if y0 >= y1 or x0 >= x1:
            continue
        inner = (slice(y0 - corner[i, 0], y1 - corner[i, 0]), slice(x0 - corner[i, 1], x1 - corner[i, 1]))
        target = frames[t, y0:y1, x0:x1]
        target += cover[i][inner] * (colour[i][inner] - target)
        rows, columns = (np.flatnonzero(alpha[i][inner].any(axis)) for axis in (1, 0))
        if len(rows):
            (top, left), (bottom, right) = (y0 + rows[0], x0 + columns[0]), (y0 + rows[-1], x0 + columns[-1])
            boxes[int(t)] = (int(left), int(top), int(right - left) + 1, int(bottom - top) + 1)
    return boxes


def render(scene: Scene, *, with_event: bool = True) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Draw a scene.

    Returns:
        frames: (T, H, W, 3) uint8 RGB.
        boxes: (x, y, width, height) in pixels of the event's object in each of the event's frames, in order; outside of
            them the picture does not depend on the object. Empty without the event, which changes nothing else.
    """
    n_frames, size = len(scene.camera), scene.size
    frames = _film(scene.background, scene.camera, size)
    for thing in scene.others:
        _paint(frames, thing, scene.camera)
    boxes = _paint(frames, scene.event, scene.camera) if with_event else {}
    noise = np.random.default_rng(scene.noise_seed).standard_normal((n_frames, size, size, 1), dtype=np.float32)
    frames = np.clip(frames * scene.gain + 0.012 * noise, 0.0, 1.0) * 255.0 + 0.5
    return frames.astype(np.uint8), [boxes[t] for t in sorted(boxes)]
