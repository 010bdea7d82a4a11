"""Quantiles of how near training videos come to each prototype, with which a clip's similarity to it is compared.

A prototype's spread are quantiles of the squared distances between it and the nearest patch of every training video,
of the videos of its own node and of those of other nodes of its level.
"""

import torch
from torch import Tensor

# Shares of the videos at which distances are kept: dense where it is decided whether a likeness is special, among other
# nodes' videos at the nearest of them, among its own at the farthest.
OTHERS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
OWN = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)


def distance_spread(distances: Tensor, labels: Tensor, sources: Tensor, node_of: Tensor,
                    ancestors: Tensor, level_of: Tensor) -> dict[str, Tensor]:
    """The spread of P prototypes over V training videos.

    Args:
        distances: (V, P) squared distance of each video's nearest patch, infinite for a video without clips.
        labels: (V,) leaves. sources: (P,) int64, the video a prototype comes from, which is not counted; -1 for none.
        node_of: (P,). ancestors: (K0, L). level_of: (K,).
    Returns:
        "others" and "own" (P, 11) float16, distances at the shares OTHERS and OWN, infinite without videos;
        "n_others" and "n_own" (P,) int32, of how many videos.
    """
    level = level_of[node_of]  # (P,)
    of_node = ancestors[labels][:, level] == node_of  # (V, P)
    seen = distances.isfinite() & (torch.arange(len(labels))[:, None] != sources)
    spread = {}
    for name, which, shares in (("others", seen & ~of_node, OTHERS), ("own", seen & of_node, OWN)):
        count = which.sum(0)  # (P,)
        ordered = distances.masked_fill(~which, torch.inf).sort(0).values  # (V, P), the videos that count first
        place = torch.tensor(shares)[:, None] * (count - 1).clamp(min=0)  # (Q, P), as numpy's linear quantiles
        low, high = ordered.gather(0, place.floor().long()), ordered.gather(0, place.ceil().long())
        quantiles = torch.where(low == high, low, low + (place % 1) * (high - low))
        spread[name], spread[f"n_{name}"] = quantiles.T.half().contiguous(), count.int()
    return spread


def share_farther(spread: dict[str, Tensor], whose: str, prototype: int, distance: float) -> tuple[float, int] | None:
    """The share of videos, "others" or "own", that come less near to a prototype than a squared distance.

    Returns:
        the share 0 .. 1, linear between the quantiles, and how many videos stand behind it; None without any.
    """
    count, quantiles = int(spread[f"n_{whose}"][prototype]), spread[whose][prototype].double()
    if not count:
        return None
    shares = torch.tensor(OTHERS if whose == "others" else OWN, dtype=torch.float64)
    nearer = int((quantiles <= distance).sum())  # quantiles at or below the distance
    if nearer == 0:
        return 1.0, count
    if nearer == len(shares):
        return 0.0, count
    low, high = quantiles[nearer - 1], quantiles[nearer]
    part = (distance - low) / (high - low)
    return float(1 - (shares[nearer - 1] + part * (shares[nearer] - shares[nearer - 1]))), count
