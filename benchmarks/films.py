"""Video files to measure on: made ones, or those of a folder, and all forms of storage; itself no benchmark."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from datasets import READERS
from datasets.folders import Walk, previews
from datasets.reading import VIDEO_EXTENSIONS, JpegFolder
from datasets.reading.hdf5 import NAME
from datasets.video import Video
from util_scripts.storing import pack, write_frame_folder, write_hdf5_file

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
    files: list[Path] = []
    for below, _, names in Walk(folder):
        films = [name for name in names if Path(name).suffix.lower() in VIDEO_EXTENSIONS]
        left_out = previews(films)
        files += [below / name for name in films if name not in left_out]
    if not files:
        raise FileNotFoundError(f"{folder}: no video file in it; give a folder of videos")
    return sorted(files)


def storage(files: list[Path], folder: Path, size: int) -> dict[str, list[Video]]:
    """The same videos as files, as frame folders, as HDF5 files and packed."""
    videos: dict[str, list[Video]] = {kind: [] for kind in READERS}
    for i, file in enumerate(files):
        write_frame_folder(file, folder / "jpg" / f"v{i}", size=size, fps=None)
        n = JpegFolder().info(folder / "jpg" / f"v{i}").n_frames
        write_hdf5_file(folder / "jpg" / f"v{i}", folder / "hdf5" / NAME.format(f"v{i}"))
        for kind, path in (("video", file), ("jpg", folder / "jpg" / f"v{i}"), ("packed", folder / "packed" / f"v{i}"),
                           ("hdf5", folder / "hdf5" / NAME.format(f"v{i}"))):
            videos[kind].append(Video(f"v{i}", path, 0, "training", n, (0, n)))
    pack(folder / "jpg", folder / "packed", shard_bytes=10**9)
    return videos
