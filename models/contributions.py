"""What a score's decision about a node is put down to: whose evidence it comes from, and which prototypes say most."""

import itertools

import torch
from torch import Tensor

from models.score import GROUPS, Score

# Orders in which the GROUPS arrive, the last two of them one behind the other.
_ORDERS = [order for order in itertools.permutations(range(4)) if abs(order.index(2) - order.index(3)) == 1]


def most_telling(gains: Tensor, evidence: Tensor) -> Tensor:
    """The order in which a node's prototypes (n,) are told: what contributes most first, of equals the loudest.

    Args:
        gains: nats that each adds, see `Score.silenced`. evidence: weight times activation of each.
    """
    order = evidence.argsort(descending=True, stable=True)
    return order[gains[order].argsort(descending=True, stable=True)]


@torch.no_grad()
def evidence_shares(score: Score, activations: Tensor, node: int) -> dict[str, float]:
    """Which prototypes the evidence for a node comes from: its own, its ancestors', its descendants', all others'.

    The exact values of these groups whatever the order in which they arrive (Shapley, 1953), descendants and all others
    arriving together (Owen, 1977): they sum to log p(node) - log p(node | no prototype).

    Args:
        activations: (P,) of one clip.
    Returns:
        nats by the names of GROUPS, and their sum "total".
    """
    groups = torch.stack(list(score.groups(node).values())).double()  # (4, P)
    coalitions = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64, device=groups.device)] * 4)
    values = score(coalitions @ groups * activations.double())[0][:, node].view(2, 2, 2, 2)
    shares = dict.fromkeys(GROUPS, 0.0)
    for order in _ORDERS:
        there = [0, 0, 0, 0]
        for group in order:
            before = values[tuple(there)]
            there[group] = 1
            shares[GROUPS[group]] += float(values[tuple(there)] - before) / len(_ORDERS)
    return {**shares, "total": float(values[1, 1, 1, 1] - values[0, 0, 0, 0])}
