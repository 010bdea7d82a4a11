"""The data with which a page computes the model's probabilities, so that readers can switch prototypes off."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hierarchy.tree import Hierarchy
from models.hipe import HIPE, HIPEOutput

FILE = "what_if.json"


class Sources(Protocol):
    """The training video that each prototype comes from."""

    video: list[str | None]  # (P,), None where no clip matched


def what_if(model: HIPE, output: HIPEOutput, hierarchy: Hierarchy, *, record: Sources | None = None,
            checkpoint: str = "") -> dict | None:
    """The formula of a model's score and its inputs for one clip, in plain types.

    Args:
        output: of the clip (B = 1).
        record: the sources of the prototypes, if they were pushed.
        checkpoint: the file, as on a command line.
    Returns:
        "formula" (see `Score.formula`), "checkpoint", "n_leaves", "highest" (the activation of an identical patch),
        "nodes" (K of "name", "level", "parent", null at the top) and "prototypes" (P of "node", "activation", "weight",
        "video"); numbers have nine digits, which distinguish float32 values. None for a score without a formula.
    """
    formula, weights = model.score.formula(), model.score.weights
    if formula is None or weights is None:
        return None
    videos = [None] * len(weights) if record is None else record.video
    return {
        "formula": formula,
        "checkpoint": checkpoint,
        "n_leaves": hierarchy.n_leaves,
        "highest": model.prototype_layer.highest,
        "nodes": [{"name": hierarchy.full_name(node), "level": int(hierarchy.level_of[node]),
                   "parent": parent if parent < len(hierarchy) else None}
                  for node, parent in enumerate(model.score.parent.tolist())],
        "prototypes": [{"node": node, "activation": activation, "weight": weight, "video": video}
                       for node, activation, weight, video in zip(
                           model.prototype_layer.node_of.tolist(), _short(output.activations[0]), _short(weights),
                           videos, strict=True)],
    }


@torch.no_grad()
def probabilities(model: HIPE, output: HIPEOutput, silent: Sequence[int] = ()) -> Tensor:
    """(K,) float64 probabilities of a clip's nodes without some prototypes: what pages compute by the formula, by the
    score itself.

    Args:
        output: of the clip (B = 1). silent: prototypes whose activation is taken for 0.
    """
    activations = output.activations[0].double().clone()  # (P,)
    activations[list(silent)] = 0
    return model.score(activations[None])[0][0].exp().cpu()


def in_columns(data: dict) -> dict:
    """The result of `what_if` with a list for each key of the prototypes, which takes half the bytes."""
    rows = data["prototypes"]
    return {**data, "prototypes": {key: [row[key] for row in rows]
                                   for key in ("node", "activation", "weight", "video")}}


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.9g}") for value in values.tolist()]
