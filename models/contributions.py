"""What a score's decision about a node is put down to: whose evidence it comes from, and which prototypes say most."""

import itertools

import numpy as np
import torch
from torch import Tensor

from models.score import CHUNK, GROUPS, Score

# Orders in which the GROUPS arrive, the last two of them one behind the other.
_ORDERS = [order for order in itertools.permutations(range(4)) if abs(order.index(2) - order.index(3)) == 1]

POINTS = (32, 256)  # of the Gauss-Legendre rule; the second where the first misses
NEAR = 1e-6  # nats by which the parts may miss the whole, before what is missing is shared out
N_ORDERS = 8  # random orders in which prototypes arrive where a path misses, and as many reversed ones


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


def credits(score: Score, activations: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """What each prototype adds to the log-probabilities of nodes, so that the parts sum to the whole.

    The values of Aumann and Shapley (1974), which integrated gradients compute (Sundararajan et al., ICML 2017), along
    the path on which all activations grow together from nothing to those of the clip: C_kp = a_p times the integral
    over t in 0..1 of d log p_k / d a_p at t a. They are linear in the log-probabilities: a prototype adds C_kp - C_mp
    to log p_k - log p_m. Where a score jumps on the path, as that of an angle does at nothing, the mean over orders in
    which prototypes arrive one by one stands in, which sums to the whole as well.

    Args:
        activations: (P,) of one clip. nodes: (n,) int64.
    Returns:
        (n, P) float64, nats, and (n,) log p of the nodes without any prototype; both together sum to log p.
    """
    activations = activations.detach().double()
    with torch.no_grad():
        start, whole = score(torch.stack([torch.zeros_like(activations), activations]))[0][:, nodes]  # (n,) each
    for n_points in POINTS:
        found = _along_path(score, activations, nodes, n_points)
        missing = whole - start - found.sum(1)
        if bool((missing.abs() <= NEAR).all()):
            break
    else:
        missed = ~(missing.abs() <= NEAR)
        found[missed] = _in_orders(score, activations, nodes[missed])
        missing = whole - start - found.sum(1)
    size = found.abs()
    return found + missing[:, None] * size / size.sum(1, keepdim=True).clamp(min=1e-300), start


def _along_path(score: Score, activations: Tensor, nodes: Tensor, n_points: int) -> Tensor:
    """(n, P) integrals of the gradients of log p, by a Gauss-Legendre rule."""
    at, weights = (torch.from_numpy(values).to(activations) for values in np.polynomial.legendre.leggauss(n_points))
    with torch.enable_grad():
        path = ((at + 1) / 2)[:, None] * activations  # (points, P)
        path.requires_grad_()
        log_probs = score(path)[0][:, nodes] * (weights / 2)[:, None]
        gradients = [torch.autograd.grad(own.sum(), path, retain_graph=True)[0] for own in log_probs.unbind(1)]
    return torch.stack(gradients).sum(1) * activations


@torch.no_grad()
def _in_orders(score: Score, activations: Tensor, nodes: Tensor) -> Tensor:
    """(n, P) mean gains of log p as prototypes arrive, over random orders and their reversals."""
    generator, n_all = torch.Generator().manual_seed(0), len(activations)
    gains = activations.new_zeros(len(nodes), n_all)
    for _ in range(N_ORDERS):
        order = torch.randperm(n_all, generator=generator)
        for arriving in (order, order.flip(0)):
            rank = torch.empty_like(order).scatter(0, arriving, torch.arange(n_all)).to(activations.device)
            values = torch.cat([score(activations * (rank < some[:, None]))[0][:, nodes]
                                for some in torch.arange(n_all + 1, device=rank.device).split(CHUNK)])  # (P + 1, n)
            gains += values.diff(dim=0)[rank].T
    return gains * (activations != 0) / (2 * N_ORDERS)  # the same row twice may differ in its last digit
