"""Video files to measure on: made ones, or those of a folder; itself no benchmark."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from datasets.reading import VIDEO_EXTENSIONS

N_FRAMES, FPS, HEIGHT, WIDTH = 120, 25, 240, 320


def made_videos(folder: Path, n: int) -> list[Path]:
    """MPEG-4 files with drifting smooth noise."""
    rng, files = np.random.default_rng(1), []
    folder.mkdir()
    for v in range(n):
        noise = Image.fromarray(rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)).resize((WIDTH + 96, HEIGHT + 80))
        files.append(folder / f"video_{v}.avi")
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream("mpeg4", rate=FPS, options={"g": "12", "qmin": "2", "qmax": "4"})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for i in range(N_FRAMES):
                crop = np.asarray(noise.crop((i % 80, i % 80, i % 80 + WIDTH, i % 80 + HEIGHT)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
            container.mux(stream.encode())
    return files


def found_videos(folder: Path) -> list[Path]:
    """The video files of a folder, at any depth; FileNotFoundError where there is none."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in VIDEO_EXTENSIONS)
    if not files:
        raise FileNotFoundError(f"{folder}: no video file in it; give a folder of videos")
    return files


