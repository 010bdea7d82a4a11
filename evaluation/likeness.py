"""What a match hangs on: what is left of a score when, inside a box, frames stand still, run backwards or are shuffled,
and when colour, brightness, texture or shape are taken away.

Clips are (3, T, H, W), normalised; boxes are (t0, y0, x0, t1, y1, x1), half-open, in the clip.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from datasets.transforms import NORMALISATIONS
from evaluation.faithfulness import Box, Score

LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in a grey of the same brightness (ITU-R BT.601)
DARKER = 0.6  # of a pixel's brightness
FINE = 1 / 40  # of a frame's longer side: standard deviation of the blur that takes texture, and leaves outlines
BENDS = 10  # of a frame's longer side: so many places that move independently when outlines are bent
BENT = 1 / 16  # of that side: the standard deviation by which they move


def still(region: Tensor, rng: np.random.Generator) -> Tensor:
    """The middle frame of (3, t, h, w) in all frames."""
    middle = region.shape[1] // 2
    return region[:, middle:middle + 1].expand_as(region)


def backwards(region: Tensor, rng: np.random.Generator) -> Tensor:
    """The frames in reversed order."""
    return region.flip(1)


def shuffled(region: Tensor, rng: np.random.Generator) -> Tensor:
    """The frames in random order."""
    return region[:, torch.from_numpy(rng.permutation(region.shape[1])).to(region.device)]


def _in_pixels(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A change of pixel values 0..1 as one of normalised values."""
    def of_normalised(region: Tensor, rng: np.random.Generator, normalisation: str) -> Tensor:
        mean, std = (torch.tensor(values, device=region.device).view(3, 1, 1, 1)
                     for values in NORMALISATIONS[normalisation])
        return (change(region * std + mean) - mean) / std
    return of_normalised


def _grey(pixels: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=pixels.device).view(3, 1, 1, 1)
    return (weights * pixels).sum(0, keepdim=True).expand_as(pixels)


def _bent(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, T, H, W) with bent outlines: all frames alike are pulled about smoothly, which keeps colours and motion."""
    height, width = clip.shape[2:]
    side = max(height, width)
    knots = [max(2, round(BENDS * n / side) + 1) for n in (height, width)]
    pulls = torch.from_numpy(rng.standard_normal((1, 2, *knots))).to(clip) * BENT * side  # x, y in pixels
    pulls = F.interpolate(pulls, (height, width), mode="bilinear", align_corners=True)[0]
    y, x = torch.meshgrid(*(torch.arange(n).to(clip) for n in (height, width)), indexing="ij")
    at = torch.stack(((x + pulls[0] + 0.5) * 2 / width - 1, (y + pulls[1] + 0.5) * 2 / height - 1), -1)  # (H, W, 2)
    return F.grid_sample(clip.transpose(0, 1), at.expand(clip.shape[1], -1, -1, -1), padding_mode="reflection",
                         align_corners=False).transpose(0, 1)


IN_TIME = {"still": still, "backwards": backwards, "shuffled": shuffled}
IN_COLOUR = {"grey": _in_pixels(_grey), "darker": _in_pixels(lambda pixels: DARKER * pixels)}
CHANGES = (*IN_TIME, *IN_COLOUR, "smooth", "bent")
# What a match hangs on, in a word, and the change that takes it away.
TRAITS = {"motion": "still", "direction": "backwards", "order": "shuffled", "colour": "grey", "brightness": "darker",
          "texture": "smooth", "shape": "bent"}
# What happens to the box under each, after "the box".
LOSSES = {"motion": "stands still", "direction": "runs backwards", "order": "shows its frames in random order",
          "colour": "turns grey", "brightness": "gets darker", "texture": "is smoothed",
          "shape": "has its outlines bent"}


def changed(clip: Tensor, box: Box, what: str, *, normalisation: str, seed: int = 0) -> Tensor:
    """A clip in which the inside of a box is changed: one of CHANGES.

    Args:
        normalisation: of NORMALISATIONS, of the clip. seed: of random order.
    """
    at = (slice(None), *(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True)))
    rng, result = np.random.default_rng(seed), clip.clone()
    if what in IN_TIME:
        result[at] = IN_TIME[what](clip[at], rng)
    elif what in IN_COLOUR:
        result[at] = IN_COLOUR[what](clip[at], rng, normalisation)
    elif what == "bent":
        result[at] = _bent(clip, rng)[at]
    else:  # of the whole frames, so that no edge is blurred against its own reflection
        sigma = FINE * max(clip.shape[2:])
        width = min(2 * round(2.5 * sigma) + 1, 2 * min(clip.shape[2:]) - 1)
        result[at] = gaussian_blur(clip.transpose(0, 1), [width, width], [sigma, sigma]).transpose(0, 1)[at]
    return result


@torch.no_grad()
def left(score_fn: Score, clip: Tensor, box: Box, *, normalisation: str, seed: int = 0, batch_size: int = 8,
         changes: Sequence[str] = CHANGES) -> dict[str, float]:
    """By change, the share of a score, which is positive, that is left; above 1 where the score grows."""
    clips = [clip, *(changed(clip, box, what, normalisation=normalisation, seed=seed) for what in changes)]
    scores = torch.cat([score_fn(torch.stack(clips[i:i + batch_size])).double().cpu()
                        for i in range(0, len(clips), batch_size)])
    return dict(zip(changes, (scores[1:] / scores[0].clamp(min=1e-12)).tolist(), strict=True))


def hangs_on(shares: Mapping[str, float]) -> dict[str, float]:
    """By trait, the share 0..1 of a score that goes with it; `shares` as `left` has them."""
    return {trait: min(max(1 - shares[what], 0.0), 1.0) for trait, what in TRAITS.items() if what in shares}
