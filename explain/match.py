"""Which prototypes make the model say what it says of a clip: where, when, and how much each matters."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.geometry import box_of, cell_centre, upsample
from models.hipe import HIPE, HIPEOutput

CHUNK = 1024  # tangent vectors scored at once: bounds the memory of (CHUNK, D) x (K0, D) distances
OWN_PATCH = 8.5  # a similarity from which on a patch is the prototype's own: distance and gradient vanish there
GROUPS = ("own", "ancestors", "elsewhere")

Box = tuple[int, int, int, int, int, int]


class PushRecordLike(Protocol):
    """Where every prototype was found in the training set, as far as explanations read it (see training/push.py)."""

    video: list[str | None]  # (P,), None where no clip matched
    frames: Tensor  # (P, T) frame indices in the video
    crop: Tensor  # (P, 4) y0, x0, y1, x1 of the clip, in the video's own pixels

    def heat(self, prototype: int) -> Tensor: ...  # (T, H, W) similarity over its own clip
    def clip_box(self, prototype: int) -> tuple[int, ...]: ...  # in the clip's frames and pixels
    def box(self, prototype: int) -> tuple[int, ...]: ...  # in the video's own frames and pixels


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
    similarity: float  # of the clip's nearest patch, 0 .. 9.2
    contribution: float  # log p(node) - log p(node without this prototype), nats
    heat: Tensor  # (T, H, W) similarity, upsampled to the clip, or what an attribution method found
    peak: tuple[int, int, int]  # frame, y, x in the clip: the centre of the nearest patch, or of such heat its maximum
    box: Box  # around the peak, in the clip's frames and pixels
    source: Source | None  # None where no training clip matched
    by_similarity: bool = True  # what the heat is


@dataclass(frozen=True)
class LevelMatch:
    """The predicted node of one level, and the prototypes that speak for it."""

    level: int
    node: int
    probability: float
    matches: list[Match]  # of the node's prototypes, most contributing first
    heat: Tensor  # (T, H, W), the sum over the node's prototypes of positive contribution x similarity
    shares: dict[str, float]  # see `shares`


@torch.no_grad()
def _log_probs(model: HIPE, tangents: Tensor) -> Tensor:
    """(n, D) float64 tangent vectors -> (n, K) log-probabilities."""
    return torch.cat([model.node_log_probs(model.embeddings(chunk)) for chunk in tangents.split(CHUNK)])


@torch.no_grad()
def contributions(model: HIPE, activations: Tensor, nodes: Tensor) -> Tensor:
    """How much every prototype adds to the log-probability of some nodes: log p(node) - log p(node | a_j = 0).

    Exact, for all prototypes at once: the last layer is linear, so silencing a prototype subtracts its column.

    Args:
        activations: (P,) of one clip.
        nodes: (n,) int64.
    Returns:
        (n, P) float64, in nats; negative where a prototype speaks against the node.
    """
    weight = model.last_layer.weight.double()  # (D, P)
    activations = activations.double()
    tangent = weight @ activations  # (D,)
    silenced = tangent - activations[:, None] * weight.T  # (P, D)
    return (_log_probs(model, tangent[None])[:, nodes] - _log_probs(model, silenced)[:, nodes]).T


@torch.no_grad()
def shares(model: HIPE, activations: Tensor, node: int) -> dict[str, float]:
    """Which prototypes the evidence for a node comes from: its own, its ancestors', or those of all other nodes.

    The exact Shapley values of the three groups, whose order of arrival must not matter (Shapley, 1953): they sum to
    log p(node) - log p(node | no prototype).

    Args:
        activations: (P,) of one clip.
        node: node id.
    Returns:
        "own", "ancestors", "elsewhere" and their sum "total", in nats.
    """
    owner = model.prototype_layer.node_of
    path = model.ancestors[model.membership[node].argmax()]  # (L,) of one leaf below the node
    above = path[model.level_of[path] > model.level_of[node]]
    own, over = owner == node, torch.isin(owner, above)
    groups = torch.stack((own, over, ~(own | over))).double()  # (3, P)
    pulls = (groups * activations.double()) @ model.last_layer.weight.double().T  # (3, D)

    coalitions = list(itertools.product((0, 1), repeat=3))
    tangents = torch.tensor(coalitions, dtype=torch.float64, device=pulls.device) @ pulls  # (8, D)
    values = dict(zip(coalitions, _log_probs(model, tangents)[:, node].tolist(), strict=True))
    result = dict.fromkeys(GROUPS, 0.0)
    for coalition in coalitions:
        others = sum(coalition)
        for i, group in enumerate(GROUPS):
            if not coalition[i]:
                joined = coalition[:i] + (1,) + coalition[i + 1:]
                weight = math.factorial(others) * math.factorial(2 - others) / math.factorial(3)
                result[group] += weight * (values[joined] - values[coalition])
    result["total"] = values[1, 1, 1] - values[0, 0, 0]
    return result


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
        heat_of: from a prototype to another heat (T, H, W) than its similarity, whose peak and box are then given,
            but for heat that is flat and patches that are the prototype's own; the levels' maps stay the sums of
            similarity.
    """
    layer, stride = model.prototype_layer, tuple(model.trunk.stride)
    grid = tuple(output.features.shape[2:])
    if leaf is None:
        leaf = int(output.log_probs[0, :len(model.ancestors)].argmax())
    nodes = model.ancestors[leaf, list(levels)]  # (n,)
    contribution = contributions(model, output.activations[0], nodes)  # (n, P)
    centres = cell_centre(output.cells[0], grid, stride, size, model.offset)  # (P, 3)

    result = []
    for level, node, gains in zip(levels, nodes.tolist(), contribution, strict=True):
        which = (layer.node_of == node).nonzero()[:, 0]
        maps = layer.similarity(layer.maps(output.features, which))[0]  # (n', t, h, w)
        gains = gains[which]
        matches = []
        for i in gains.argsort(descending=True, stable=True)[:k].tolist():
            j = int(which[i])
            similarity = float(output.activations[0, j])
            found = heat_of(j) if heat_of is not None and similarity < OWN_PATCH else None
            if found is None or found.amax() <= found.amin():
                found, heat, peak = None, upsample(maps[i], size, stride, model.offset).cpu(), centres[j]
            else:
                heat, peak = found, torch.stack(torch.unravel_index(found.argmax(), found.shape))
            matches.append(Match(j, node, similarity, float(gains[i]), heat, tuple(peak.tolist()), box_of(heat),
                                 source_of(record, j), found is None))
        together = torch.einsum("n,nthw->thw", gains.clamp(min=0).to(maps.dtype), maps)
        result.append(LevelMatch(level, node, float(output.log_probs[0, node].exp()), matches,
                                 upsample(together, size, stride, model.offset).cpu(),
                                 shares(model, output.activations[0], node)))
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
