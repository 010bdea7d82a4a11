"""Does a card's box hold what its prototype matches? The clip is shown again, with the box alone, and without it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.faithfulness import blurred

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

    Boxes that several prototypes share are shown once. What is hidden is blurred.

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
    instead = blurred(clip)
    visible = torch.cat((torch.ones_like(inside[:1]), inside, ~inside))  # (1 + 2m, 1, T, H, W)
    left = torch.cat([activations(torch.where(some, clip, instead)) for some in visible.split(batch_size)]).cpu()
    whole, only, without = left.split((1, len(different), len(different)))
    which = torch.tensor(which)
    shares = torch.stack((only[place, which], without[place, which]), 1) / whole[0, which, None].clamp(min=1e-12)
    return [Evidence(*pair) for pair in shares.double().tolist()]
