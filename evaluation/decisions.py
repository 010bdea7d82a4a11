"""How much the prototypes of one clip decide, and how similar they are to it, level by level."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.contributions import evidence_shares, most_telling
from models.hipe import HIPE

TOP = 3  # prototypes silenced together
LEAST = 1e-6  # nats: the least total evidence that shares are taken of


class Spread(Protocol):
    """How near training videos come to a prototype, as a push record holds it (see training/push.py)."""

    def closer_than(self, prototype: int, distance: float) -> tuple[float, int] | None: ...
    def typical(self, prototype: int, distance: float) -> tuple[float, int] | None: ...


@torch.no_grad()
def decision_measures(model: HIPE, activations: Tensor, distances: Tensor, path: Sequence[int], *,
                      truth: Sequence[int] | None = None, record: Spread | None = None,
                      levels: Sequence[int] | None = None) -> list[dict[str, float]]:
    """Measure what each level's prototypes contribute to the decision for the nodes of a path.

    Args:
        activations, distances: (P,) of one clip.
        path: (L,) nodes that are explained, from the leaf up. truth: the same of the true class, where it is known.
        record: of the push, for closer_than and typical. levels: by default all.
    Returns:
        for each of the levels, by name:
        own_evidence, ancestors_evidence, descendants_evidence, elsewhere_evidence, total_evidence: nats, see
        `models.contributions.evidence_shares`; off_path: descendants' and all others' over the total, absolute, where
        there is a total; own_needed: own_evidence / ln(siblings), where there are two or more;
        silenced: nats that the most contributing prototype adds to log p(node); silenced_needed: over ln(siblings);
        silenced_three: nats of the three most contributing ones together; flips, flips_three: 1 where without it, or
        without them, another node of the level is more probable; where the node is the most probable one with them;
        similarity: of that prototype, 0..1; closer_than, typical: shares of training videos;
        nearest_own: 1 where the nearest of all prototypes of the level is one of the true node.
    """
    layer, score = model.prototype_layer, model.score
    exact = activations.double()
    whole = score(exact[None])[0][0]  # (K,)
    evidence = torch.zeros_like(activations) if score.weights is None else score.weights * activations  # (P,)
    result = []
    for level in range(len(path)) if levels is None else levels:
        node = path[level]
        shares = evidence_shares(score, activations, node)
        siblings = int((score.parent == score.parent[node]).sum())
        needed = math.log(siblings) if siblings > 1 else math.nan
        gains = score.silenced(activations, torch.tensor([node], device=activations.device))[0]  # (P,)
        own = (layer.node_of == node).nonzero()[:, 0]
        order = own[most_telling(gains[own], evidence[own])]
        variants = exact.repeat(3, 1)  # (3, P): without the first, without the first three, with all
        variants[0, order[:1]], variants[1, order[:TOP]] = 0, 0
        without = score(variants)[0]  # (3, K)
        nodes = layer.node_levels[level]
        predicted = without[:, nodes.start:nodes.stop].argmax(1) + nodes.start  # (3,)
        first, off = int(order[0]), abs(shares["descendants"] + shares["elsewhere"])
        values = {f"{name}_evidence": value for name, value in shares.items()} | {
            "off_path": off / abs(shares["total"]) if abs(shares["total"]) > LEAST else math.nan,
            "own_needed": shares["own"] / needed,
            "silenced": float(gains[first]), "silenced_needed": float(gains[first]) / needed,
            "silenced_three": float(whole[node] - without[1, node]),
            "similarity": float(activations[first]) / layer.highest}
        if predicted[2] == node:  # else another node is the most probable one anyway
            values |= {"flips": float(predicted[0] != node), "flips_three": float(predicted[1] != node)}
        for name in ("closer_than", "typical") if record is not None else ():
            if (share := getattr(record, name)(first, float(distances[first]))) is not None:
                values[name] = share[0]
        if truth is not None:
            own_level = layer.level(level)
            nearest = layer.node_of[own_level][distances[own_level].argmin()]
            values["nearest_own"] = float(nearest == truth[level])
        result.append({name: value for name, value in values.items() if not math.isnan(value)})
    return result
