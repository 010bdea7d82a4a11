"""Why one node and not another: what every prototype adds to the difference of their log-probabilities, and where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.match import Box, LevelMatch
from hierarchy.tree import Hierarchy
from models.contributions import credits
from models.geometry import box_of, cell_centre, upsample
from models.hipe import HIPE, HIPEOutput

SHOWN = 6  # prototypes of a contrast that are listed at most
LEAST = 0.01  # nats, a hundredth of the odds, below which only the loudest prototype of either side is listed


@dataclass(frozen=True)
class Voice:
    """A prototype in a contrast.

    nats: that it adds to log p(node) - log p(rival). similarity: 0..1. box: in the clip; peak: frame, y, x.
    """

    prototype: int
    node: int
    nats: float
    similarity: float
    box: Box
    peak: tuple[int, int, int]


@dataclass(frozen=True)
class Contrast:
    """A node and a rival of its level: difference = start + nats of the voices + rest.

    difference: log p(node) - log p(rival), nats. start: the same without any prototype. rest: of prototypes that are
    not listed.
    """

    node: int
    rival: int
    difference: float
    start: float
    voices: list[Voice]
    rest: float


def rivals_of(log_probs: Tensor, hierarchy: Hierarchy, node: int, *, n: int, also: Sequence[int] = ()) -> list[int]:
    """The other nodes of a level that a node is compared with: the most probable ones, and those asked for.

    Args:
        log_probs: (K,). n: how many of the most probable.
        also: leaves whose nodes of this level are compared as well.
    """
    level = int(hierarchy.level_of[node])
    others = sorted((other for other in hierarchy.levels[level] if other != node), key=lambda i: -float(log_probs[i]))
    asked = [hierarchy.path_ids(leaf)[level] for leaf in also]
    return list(dict.fromkeys([*others[:n], *(other for other in asked if other != node)]))


def contrasts(model: HIPE, output: HIPEOutput, size: tuple[int, int, int], levels: Sequence[LevelMatch],
              rivals: Mapping[int, Sequence[int]]) -> dict[int, list[Contrast]]:
    """The contrasts of a clip's predicted nodes.

    Prototypes of both sides lie where their similarity is highest, whatever the heat of the cards, so that they can be
    compared. The loudest prototype of either side is always among the voices.

    Args:
        output: of the clip (B = 1). size: (T, H, W) of the clip.
        rivals: by level, nodes of it.
    Returns:
        by level, a contrast a rival.
    """
    layer, activations = model.prototype_layer, output.activations[0]
    nodes = list(dict.fromkeys(node for level in levels for node in (level.node, *rivals[level.level])))
    found, start = credits(model.score, activations, torch.tensor(nodes, device=activations.device))
    found, start = found.cpu(), start.cpu()
    place = {node: i for i, node in enumerate(nodes)}
    places: dict[int, tuple[Box, tuple[int, int, int]]] = {}
    result: dict[int, list[Contrast]] = {}

    def loudest(node: int, nats: Tensor) -> int:
        """Of a node's own prototypes the one that adds most, of equals the most similar one."""
        mine = (layer.node_of == node).nonzero()[:, 0].tolist()
        return max(mine, key=lambda p: (abs(float(nats[p])), float(activations[p])))

    for level in levels:
        result[level.level] = []
        for rival in rivals[level.level]:
            own, other = place[level.node], place[rival]
            nats, none = found[own] - found[other], float(start[own] - start[other])
            first = [p for p in nats.abs().argsort(descending=True, stable=True)[:SHOWN].tolist()
                     if abs(float(nats[p])) >= LEAST]
            first = list(dict.fromkeys([*first, loudest(level.node, nats), loudest(rival, nats)]))
            for p in first:
                if p not in places:
                    places[p] = _where(model, output, size, p)
            voices = [Voice(p, int(layer.node_of[p]), float(nats[p]), float(activations[p]) / layer.highest, *places[p])
                      for p in sorted(first, key=lambda p: -float(nats[p]))]
            listed = sum(voice.nats for voice in voices)
            whole = none + float(nats.sum())
            result[level.level].append(Contrast(level.node, rival, whole, none, voices, whole - none - listed))
    return result


@torch.no_grad()
def _where(model: HIPE, output: HIPEOutput, size: tuple[int, int, int],
           prototype: int) -> tuple[Box, tuple[int, int, int]]:
    """The box and the peak of a prototype's similarity, in the clip."""
    layer, stride = model.prototype_layer, tuple(model.trunk.stride)
    which = torch.tensor([prototype], device=output.features.device)
    maps = layer.similarity(layer.maps(output.features, which))[0, 0]  # (t, h, w)
    box = box_of(upsample(maps, size, stride, model.offset))
    peak = cell_centre(output.cells[0, prototype], tuple(maps.shape), stride, size, model.offset)
    return box, tuple(peak.tolist())
