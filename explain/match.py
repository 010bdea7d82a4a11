"""Which prototypes make the model say what it says of a clip: where, when, and how much each matters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.contributions import evidence_shares, most_telling
from models.geometry import box_of, cell_centre, upsample
from models.hipe import HIPE, HIPEOutput
from models.prototypes import OWN_PATCH

Box = tuple[int, int, int, int, int, int]


class PushRecordLike(Protocol):
    """Where every prototype lies in the training set, as far as explanations read it (see training/push.py)."""

    video: list[str | None]  # (P,), None where no clip matched
    frames: Tensor  # (P, T) frame indices in the video
    crop: Tensor  # (P, 4) y0, x0, y1, x1 of the clip, in the video's own pixels
    spread: dict[str, Tensor] | None  # of training videos' distances, see evaluation.typicality

    def heat(self, prototype: int) -> Tensor: ...  # (T, H, W) similarity over its own clip
    def clip_box(self, prototype: int) -> tuple[int, ...]: ...  # in the clip's frames and pixels
    def box(self, prototype: int) -> tuple[int, ...]: ...  # in the video's own frames and pixels
    # The share of other nodes' training videos, or of its own node's, that come less near to a prototype than a squared
    # distance, and of how many videos; None where that is not known.
    def closer_than(self, prototype: int, distance: float) -> tuple[float, int] | None: ...
    def typical(self, prototype: int, distance: float) -> tuple[float, int] | None: ...


@dataclass(frozen=True)
class Source:
    """The place in a training video that a prototype was pushed to."""

    video: str
    frames: Tensor  # (T,) int64 frame indices of the clip
    crop: Tensor  # (4,) y0, x0, y1, x1 of the clip, in the video's own pixels
    box: Box  # of the patch, in the video's own frames and pixels
    clip_box: Box  # of the patch, in the clip's frames and pixels
    peak_frame: int  # the clip's frame at the patch's centre


@dataclass(frozen=True)
class Match:
    """One prototype, and what it sees in a clip."""

    prototype: int
    node: int
    activation: float  # similarity of the clip's nearest patch, as the score gets it
    similarity: float  # the share that is of the highest there is, 0 .. 1
    contribution: float  # log p(node) - log p(node without this prototype), nats
    heat: Tensor  # (T, H, W) similarity, upsampled to the clip, or by an attribution method
    peak: tuple[int, int, int]  # frame, y, x in the clip: the centre of the nearest patch, or of such heat its maximum
    box: Box  # around the peak, in the clip's frames and pixels
    source: Source | None  # None where no training clip matched
    by_similarity: bool = True  # what the heat is
    weight: float | None = None  # nats for activation 1; None where the score has no such number
    evidence: float | None = None  # weight x activation, nats
    stands_by: bool = False  # whether the node does not count it, since another prototype says more
    closer_than: tuple[float, int] | None = None  # share of other nodes' training videos that are less alike, of n
    typical: tuple[float, int] | None = None  # the same of its own node's
    stands_for: int = 1  # prototypes that were merged into this one, itself among them


@dataclass(frozen=True)
class LevelMatch:
    """The predicted node of one level, and the prototypes that speak for it."""

    level: int
    node: int
    probability: float
    matches: list[Match]  # of the node's prototypes, most contributing first
    heat: Tensor  # (T, H, W), the sum over the node's prototypes of positive contribution x similarity
    shares: dict[str, float]  # see `evidence_shares`


def source_of(record: PushRecordLike | None, prototype: int) -> Source | None:
    """Where a prototype comes from; None where no training clip matched it, or where nothing was pushed yet."""
    if record is None or record.video[prototype] is None:
        return None
    return Source(record.video[prototype], record.frames[prototype], record.crop[prototype], record.box(prototype),
                  record.clip_box(prototype), int(record.heat(prototype).amax((1, 2)).argmax()))


@torch.no_grad()
def match_output(model: HIPE, output: HIPEOutput, size: tuple[int, int, int], levels: Sequence[int], k: int = 3, *,
                 record: PushRecordLike | None = None, leaf: int | None = None,
                 heat_of: Callable[[int], Tensor] | None = None) -> list[LevelMatch]:
    """`match`, for a clip that the model has already seen.

    Args:
        output: of that one clip (B = 1).
        size: (T, H, W) of the clip.
        levels, k, record, leaf: as in `match`.
        heat_of: from a prototype to another heat (T, H, W) than its similarity, whose peak and box the matches
            then have, except for flat heat and patches that are the prototype's own; the levels' maps stay the sums
            of similarity.
    """
    layer, stride = model.prototype_layer, tuple(model.trunk.stride)
    grid = tuple(output.features.shape[2:])
    if leaf is None:
        leaf = int(output.log_probs[0, :len(model.ancestors)].argmax())
    nodes = model.ancestors[leaf, list(levels)]  # (n,)
    activations, distances = output.activations[0], output.distances[0]
    contribution = model.score.silenced(activations, nodes)  # (n, P)
    centres = cell_centre(output.cells[0], grid, stride, size, model.offset)  # (P, 3)
    weights, stands_by = model.score.weights, model.score.standing_by(activations)
    evidence = torch.zeros_like(activations) if weights is None else weights * activations

    result = []
    for level, node, gains in zip(levels, nodes.tolist(), contribution, strict=True):
        which = (layer.node_of == node).nonzero()[:, 0]
        maps = layer.similarity(layer.maps(output.features, which))[0]  # (n', t, h, w)
        gains = gains[which]
        matches = []
        for i in most_telling(gains, evidence[which])[:k].tolist():
            j = int(which[i])
            heat = heat_of(j) if heat_of is not None and float(distances[j]) > OWN_PATCH else None
            by_similarity = heat is None or bool(heat.amax() <= heat.amin())
            if by_similarity:
                heat, peak = upsample(maps[i], size, stride, model.offset).cpu(), centres[j]
            else:
                peak = torch.stack(torch.unravel_index(heat.argmax(), heat.shape))
            known = {} if record is None else {
                "closer_than": record.closer_than(j, float(distances[j])),
                "typical": record.typical(j, float(distances[j])),
                "stands_for": 1 if record.stands_for is None else len(record.stands_for[j])}
            if weights is not None:
                known |= {"weight": float(weights[j]), "evidence": float(evidence[j]), "stands_by": bool(stands_by[j])}
            matches.append(Match(j, node, float(activations[j]), float(activations[j]) / layer.highest,
                                 float(gains[i]), heat, tuple(peak.tolist()), box_of(heat), source_of(record, j),
                                 by_similarity, **known))
        together = torch.einsum("n,nthw->thw", gains.clamp(min=0).to(maps.dtype), maps)
        result.append(LevelMatch(level, node, float(output.log_probs[0, node].exp()), matches,
                                 upsample(together, size, stride, model.offset).cpu(),
                                 evidence_shares(model.score, activations, node)))
    return result


@torch.no_grad()
def match(model: HIPE, clip: Tensor, levels: Sequence[int], k: int = 3, *, record: PushRecordLike | None = None,
          leaf: int | None = None) -> list[LevelMatch]:
    """The prototypes that speak most for what the model predicts at some levels of the tree.

    The prediction is the most probable leaf; its ancestors are the predicted nodes.

    Args:
        model: in eval mode.
        clip: (3, T, H, W) normalised.
        levels: 0 for the leaf, then upwards.
        k: how many prototypes of each predicted node, matched or not.
        record: where the prototypes come from, if they were pushed.
        leaf: explain this leaf and its ancestors instead of the clip's own prediction.
    Returns:
        One LevelMatch a level, in the order of `levels`.
    """
    return match_output(model, model(clip[None]), tuple(clip.shape[1:]), levels, k, record=record, leaf=leaf)
