"""Small videos and folders of frames for the tests, and where real clips are looked for."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

REAL = Path(__file__).parents[2] / "shared" / "data"


def real_clips(name: str) -> Path:
    """The folder of real clips of this name; the test is skipped where there is none."""
    if not (REAL / name).is_dir():
        pytest.skip(f"no real clips at {REAL / name}")
    return REAL / name


def shades(n: int, height: int = 24, width: int = 32) -> np.ndarray:
    """(n, H, W, 3) uint8 frames that tell their own number: frame i is 5 i + 10, brighter by 40 on the right."""
    frames = np.repeat(10 + 5 * np.arange(n, dtype=np.uint8), height * width * 3).reshape(n, height, width, 3)
    frames[:, :, width // 2:] += 40
    return frames


def number_of(frames: np.ndarray) -> list[int]:
    """The numbers of frames that `shades` made, whatever a codec did to them."""
    left = np.asarray(frames)[:, :, :np.shape(frames)[2] // 2 - 2]
    return np.rint((left.mean((1, 2, 3)) - 10) / 5).astype(int).tolist()


def write_video(path: Path, frames: np.ndarray, *, fps: int = 25, rotation: int = 0, codec: str = "mpeg4") -> Path:
    """A video file of (T, H, W, 3) frames; the container follows from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"qmin": "1", "qmax": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate, stream.codec_context.thread_count = "yuv420p", 4_000_000, 1
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, frames: np.ndarray, *, info: dict | None = None) -> Path:
    """A folder of JPEG frames, with an info.json where `info` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"image_{i:05d}.jpg", quality=95)
    if info is not None:
        (folder / "info.json").write_text(json.dumps(info))
    return folder
