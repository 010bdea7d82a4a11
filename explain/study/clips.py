"""The moving pictures of a study: small ones, from the WebP files that explanations have."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from explain import render

FRAMES = 16  # of a picture at most; of longer ones every second, third, ... is shown
HEIGHT, WIDTH = 160, 240  # pixels at most
QUALITY = 55


@dataclass(frozen=True)
class Moving:
    """A moving picture: pixels (T, H, W, 3) and the seconds of each frame."""

    pixels: render.Pixels
    seconds: list[float]

    @staticmethod
    def read(path: Path) -> "Moving":
        """From a WebP file.

        Raises:
            ValueError: naming the file, where it is no picture.
        """
        try:
            with Image.open(path) as image:
                frames, seconds = [], []
                for frame in ImageSequence.Iterator(image):
                    frames.append(np.asarray(frame.convert("RGB")))
                    seconds.append(frame.info.get("duration", 40) / 1000)
        except OSError as error:
            raise ValueError(f"{path}: not a picture ({error}); run local_analysis.py again") from error
        return Moving(np.stack(frames), seconds)

    def boxed(self, box: Sequence[int]) -> "Moving":
        """With a box (t0, y0, x0, t1, y1, x1) in its own frames and pixels."""
        return Moving(render.draw_box(self.pixels, tuple(box), self.pixels.shape[1:3]), self.seconds)

    def cut(self, box: Sequence[int]) -> "Moving":
        """What is in a box."""
        return Moving(render.crop_box(self.pixels, tuple(box), self.pixels.shape[1:3]), self.seconds[box[0]:box[3]])

    def place(self, box: Sequence[int], window: Sequence[int], crop: Sequence[float]) -> tuple[int, ...]:
        """A box of an explanation in the frames and pixels of the picture of its clip.

        Args:
            box: in the video's frames and pixels. window: [first, last] frame of the clip. crop: its region.
        """
        _, height, width, _ = self.pixels.shape
        starts = np.cumsum([0.0, *self.seconds[:-1]])  # equal frames were stored once, so that places are told by time
        last_frame = max(1, window[1] - 1 - window[0])

        def shown(frame: int) -> int:
            time = min(1.0, max(0.0, (frame - window[0]) / last_frame)) * starts[-1]
            return int(np.searchsorted(starts, time + 1e-3, side="right")) - 1

        first, last = shown(box[0]), shown(box[3] - 1) + 1
        down, right = height / (crop[2] - crop[0]), width / (crop[3] - crop[1])
        top = min(height - 1, max(0, round((box[1] - crop[0]) * down)))
        left = min(width - 1, max(0, round((box[2] - crop[1]) * right)))
        return (first, top, left, last, min(height, max(top + 1, round((box[4] - crop[0]) * down))),
                min(width, max(left + 1, round((box[5] - crop[1]) * right))))

    def frame(self, at: int) -> render.Pixels:
        """One frame: (1, H, W, 3)."""
        at = min(at, len(self.pixels) - 1)
        return self.pixels[at:at + 1]

    def encoded(self, still: render.Pixels) -> dict[str, str]:
        """The picture and the still (1, H, W, 3) that can replace it, small, as data URIs."""
        every = -(-len(self.pixels) // FRAMES)
        seconds = [sum(self.seconds[i:i + every]) for i in range(0, len(self.pixels), every)]
        return {"moving": _uri(render.webp(_fitted(self.pixels[::every]), seconds, QUALITY)),
                "still": _uri(render.webp(_fitted(still), quality=QUALITY))}


def _fitted(pixels: render.Pixels) -> render.Pixels:
    """As large as fits into HEIGHT and WIDTH: patches are enlarged."""
    _, height, width, _ = pixels.shape
    scale = min(HEIGHT / height, WIDTH / width)
    return render.resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"
