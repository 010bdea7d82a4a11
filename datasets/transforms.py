"""From a clip's frames to what the network sees: one small class for training, one for evaluation.

Both keep uint8, so that the loader moves a quarter of the bytes; `normalise` runs on the device, after collation, and
mirrors there what training is to see mirrored.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

# Mean and standard deviation of Kinetics in RGB, 0..1, as Hara et al.'s weights of 2019 on know them.
MEAN = (0.4345, 0.4051, 0.3775)
STD = (0.2768, 0.2713, 0.2737)
# By whom weights were published: the mean and standard deviation, 0..1, under which they saw their clips.
NORMALISATIONS = {
    "kinetics": (MEAN, STD),
    # the first release of Hara et al.: less ActivityNet's mean, in the range of bytes
    "activitynet": ((114.7748 / 255, 107.7354 / 255, 99.4750 / 255), (1 / 255,) * 3),
    "torchvision": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "mvit": ((0.45,) * 3, (0.225,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "i3d": ((0.5,) * 3, (0.5,) * 3),  # -1..1
    "vivit": ((0.75,) * 3, (0.25,) * 3),  # -3..1: its processor maps to -1..1, and then takes .5 off and divides by .5
    "mfnet": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)}


def normalise(clips: Tensor, kind: str = "kinetics", flip: Tensor | None = None) -> Tensor:
    """(..., 3, T, H, W) uint8 RGB to float32, less a mean and by a standard deviation of `NORMALISATIONS`.

    Args:
        flip: (...) bool, on the clips' device: which of them are mirrored; None for none.
    """
    if flip is not None:  # while a pixel is a byte
        clips = torch.where(flip[..., None, None, None, None], clips.flip(-1), clips)
    scale, shift = _scale_and_shift(kind, clips.device)
    return clips.float().mul_(scale).sub_(shift)


@functools.lru_cache
def _scale_and_shift(kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """What `normalise` multiplies by and subtracts, on the device once: a copy a batch would wait for the GPU."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1, 1) for values in NORMALISATIONS[kind])
    return 1 / (255 * std), mean / std


def _cut(frames: Tensor, y: int, x: int, h: int, w: int, size: int, *, antialias: bool) -> Tensor:
    """Cut a region out of (T, H, W, 3) frames and resize it bilinearly: (T, 3, size, size).

    Cutting first costs a fraction of resizing whole frames; channels-last uint8 is torch's fastest path.
    """
    region = frames[:, y:y + h, x:x + w].permute(0, 3, 1, 2)
    if (h, w) == (size, size):
        return region
    return interpolate(region, (size, size), mode="bilinear", antialias=antialias and max(h, w) > size)


def _clip(cut: Tensor) -> Tensor:
    return cut.transpose(0, 1).contiguous()  # (3, T, size, size)


class EvalTransform:
    """Short side to `size`, centre crop: what evaluation, push and explanation see.

    Args:
        size: height and width of the clip in pixels.
        antialias: smooth where a region shrinks.
    """

    def __init__(self, size: int, *, antialias: bool = True) -> None:
        self.size, self.antialias = size, antialias

    def __call__(self, frames: Tensor, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor, bool]:
        """Transform a clip.

        Args:
            frames: (T, H, W, 3) uint8.
            rng: not used.
        Returns:
            clip (3, T, size, size) uint8; crop (4,) float32: y0, x0, y1, x1 of the shown region in pixels of the
            frames; flip: whether the clip is to be mirrored, False.
        """
        height, width = frames.shape[1:3]
        side = min(height, width)
        y, x = (height - side) // 2, (width - side) // 2
        clip = _clip(_cut(frames, y, x, side, side, self.size, antialias=self.antialias))
        return clip, torch.tensor((y, x, y + side, x + side), dtype=torch.float32), False


class TrainTransform:
    """Random resized crop and horizontal flip, the same for all frames of a clip: what training sees.

    Args:
        size: height and width of the clip in pixels.
        scales: range of the crop's area as a share (0..1] of the frame's.
        ratio: range of the crop's width by its height, drawn log-uniformly.
        flip: whether half of the clips are to be mirrored.
        crop: "random", or "center" for the centre crop of evaluation.
        jitter: strength (0..1) of a random change of contrast, brightness and tint; 0 for none.
        antialias: as in `EvalTransform`.
    Raises:
        ValueError: a crop of another name, or an empty range.
    """

    def __init__(self, size: int, *, scales: tuple[float, float] = (0.25, 1.0),
                 ratio: tuple[float, float] = (3 / 4, 4 / 3), flip: bool = True, crop: str = "random",
                 jitter: float = 0.0, antialias: bool = True) -> None:
        if crop not in ("random", "center"):
            raise ValueError(f"the training crop is random or center, not {crop}")
        if not (0 < scales[0] <= scales[1] <= 1 and 0 < ratio[0] <= ratio[1]):
            raise ValueError(f"a crop needs areas within (0, 1] and ratios above 0 in order, got {scales} and {ratio}")
        if not 0 <= jitter <= 1:
            raise ValueError(f"the jitter of colours is between 0 and 1, not {jitter}")
        self.size, self.scales, self.flip, self.crop, self.jitter = size, scales, flip, crop, jitter
        self.antialias = antialias
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
        self._center = EvalTransform(size, antialias=antialias)

    def _region(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """A random region y, x, h, w; the largest centred one of an allowed shape if ten tries do not fit the frame."""
        for _ in range(10):
            area, ratio = height * width * rng.uniform(*self.scales), math.exp(rng.uniform(*self.log_ratio))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        ratio = min(max(width / height, math.exp(self.log_ratio[0])), math.exp(self.log_ratio[1]))
        h, w = max(round(min(height, width / ratio)), 1), max(round(min(width, height * ratio)), 1)
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, bool]:
        """Transform a clip; arguments and returns as `EvalTransform`, drawn from `rng`. `normalise` mirrors it."""
        if self.crop == "center":
            clip, crop, _ = self._center(frames)
        else:
            y, x, h, w = self._region(*frames.shape[1:3], rng)
            clip = _clip(_cut(frames, y, x, h, w, self.size, antialias=self.antialias))
            crop = torch.tensor((y, x, y + h, x + w), dtype=torch.float32)
        flip = self.flip and bool(rng.random() < 0.5)
        return (self._recolour(clip, rng) if self.jitter else clip), crop, flip

    def _recolour(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        """Contrast around the middle grey, then brightness and tint, the same for all frames: (3, T, H, W) uint8."""
        contrast = 1 + self.jitter * rng.uniform(-1, 1)
        shift = 64 * self.jitter * (rng.uniform(-1, 1) + rng.uniform(-0.5, 0.5, size=3))  # (3,)
        shift = torch.tensor(shift + 127.5 * (1 - contrast), dtype=torch.float32).view(3, 1, 1, 1)
        return clip.float().mul_(contrast).add_(shift).clamp_(0, 255).to(torch.uint8)
