"""Does a card's box hold what its prototype matches? The clip is shown again, with the box alone, and without it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

BLUR = 1 / 6  # standard deviation of what hides, as a share of the frame's height

Box = tuple[int, ...]  # (t0, y0, x0, t1, y1, x1), half-open, in the clip's frames and pixels


@dataclass(frozen=True)
class Evidence:
    """What is left of a prototype's activation, as shares of that in the whole clip; above 1 where it grows."""

    box_only: float  # where all but the box is hidden
    box_hidden: float  # where the box is hidden

    @property
    def holds(self) -> bool:
        """Whether the box alone keeps more of the match than all that is around it."""
        return self.box_only > self.box_hidden


def hidden(clip: Tensor) -> Tensor:
    """What stands in for hidden parts: the clip (3, T, H, W) under a strong blur, frame by frame.

    A blur leaves brightness, colour and light as they are, so that no edge appears that was not there; a box of one
    colour would be a shape of its own.
    """
    sigma = BLUR * clip.shape[-2]
    reach = [2 * min(round(3 * sigma), side - 1) + 1 for side in clip.shape[:-3:-1]]  # columns, rows
    return gaussian_blur(clip, kernel_size=reach, sigma=[sigma, sigma])


def box_masks(boxes: Sequence[Box], size: tuple[int, int, int], device: torch.device | None = None) -> Tensor:
    """(n, T, H, W) bool, true inside each of n boxes."""
    edges = torch.tensor(boxes, device=device)  # (n, 6)
    inside = [(at >= edges[:, i, None]) & (at < edges[:, i + 3, None])  # (n, T), (n, H), (n, W)
              for i, at in enumerate(torch.arange(side, device=device) for side in size)]
    return inside[0][:, :, None, None] & inside[1][:, None, :, None] & inside[2][:, None, None, :]


@torch.no_grad()
def kept_activation(activations: Callable[[Tensor], Tensor], clip: Tensor, boxes: Sequence[Box], which: Sequence[int],
                    *, batch_size: int = 8) -> list[Evidence]:
    """How much of prototypes' activations survives where only their boxes are visible, and where those are hidden.

    Boxes that several prototypes share are shown once. What is hidden is blurred (see `hidden`).

    Args:
        activations: (B, 3, T, H, W) -> (B, P), positive.
        clip: (3, T, H, W).
        boxes: n of them, in the clip. which: n prototypes, 0 .. P - 1.
        batch_size: clips at a time.
    Returns:
        one Evidence for each of the n.
    """
    different = list(dict.fromkeys(boxes))
    place = torch.tensor([different.index(box) for box in boxes])
    inside = box_masks(different, tuple(clip.shape[1:]), clip.device)[:, None]  # (m, 1, T, H, W)
    instead = hidden(clip)
    visible = torch.cat((torch.ones_like(inside[:1]), inside, ~inside))  # (1 + 2m, 1, T, H, W)
    left = torch.cat([activations(torch.where(some, clip, instead)) for some in visible.split(batch_size)]).cpu()
    whole, only, without = left.split((1, len(different), len(different)))
    which = torch.tensor(which)
    shares = torch.stack((only[place, which], without[place, which]), 1) / whole[0, which, None]  # (n, 2)
    return [Evidence(*pair) for pair in shares.double().tolist()]
