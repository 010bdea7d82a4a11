"""Does a card's box hold what its prototype matches, and what does the match hang on? The clip is shown again, with the
box alone, without it, and with the box changed."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluation.faithfulness import blurred
from evaluation.likeness import TRAITS, changed, hangs_on

# Traits that cards tell of, a passage through the model each.
ON_CARDS = ("motion", "direction", "shape", "colour", "texture")
Box = tuple[int, ...]  # (t0, y0, x0, t1, y1, x1), half-open, in the clip's frames and pixels


@dataclass(frozen=True)
class Evidence:
    """What is left of a prototype's activation, as shares of that in the whole clip; above 1 where it grows."""

    box_only: float  # where all but the box is hidden
    box_hidden: float  # where the box is hidden
    hangs_on: Mapping[str, float] = field(default_factory=dict)  # by trait, the share 0..1 that goes with it in the box

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
                    *, normalisation: str, batch_size: int = 8) -> list[Evidence]:
    """How much of prototypes' activations survives with only their boxes visible, with these hidden, and with what they
    show changed.

    Boxes that several prototypes share are shown once. What is hidden is blurred.

    Args:
        activations: (B, 3, T, H, W) -> (B, P), positive.
        clip: (3, T, H, W).
        boxes: n of them, in the clip. which: n prototypes, 0 .. P - 1.
        normalisation: of NORMALISATIONS, of the clip.
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
    whole = whole[0, which].clamp(min=1e-12)  # (n,)
    shares = torch.stack((only[place, which], without[place, which]), 1) / whole[:, None]
    others = (changed(clip, box, TRAITS[trait], normalisation=normalisation) for trait in ON_CARDS for box in different)
    after = torch.cat([activations(torch.stack(some)).cpu() for some in _batches(others, batch_size)])
    after = after.unflatten(0, (len(ON_CARDS), len(different)))[:, place, which] / whole  # (traits, n)
    names = [TRAITS[trait] for trait in ON_CARDS]
    return [Evidence(*pair, hangs_on(dict(zip(names, left, strict=True))))
            for pair, left in zip(shares.double().tolist(), after.T.double().tolist(), strict=True)]


def _batches(clips: Iterator[Tensor], n: int) -> Iterator[list[Tensor]]:
    while some := list(itertools.islice(clips, n)):
        yield some
