"""The constructive embedding of the class tree: Sarkar's, generalised to any number of dimensions."""

import math

import torch
from torch import Tensor

from hierarchy.tree import Hierarchy

MAX_RADIUS = 30.0  # at c = 1; soon beyond it float64 cannot represent points of the ball or angles


def construct(
    hierarchy: Hierarchy, *, dim: int = 300, c: float = 1.0, edge: float = 3.0, seed: int = 0
) -> Tensor:
    """Place the tree: the root at the origin, the children of a node at distance ``edge`` evenly around it.

    Seen from a node, its children and its parent lie in the directions of a regular simplex. With ``dim`` >= K0 every
    family uses dimensions of its own, otherwise random ones, and families larger than ``dim`` are spread by repulsion.
    Siblings are thus nearest, then cousins, then strangers; distances are close to ``edge`` times those in the tree,
    the closer the longer the edge (Sarkar, Graph Drawing 2011).

    Returns:
        (K, dim) float64, tangent vectors at the origin.
    Raises:
        ValueError: for ``dim`` < 2, for c or edge <= 0, and for edges so long that float64 cannot represent the leaves.
    """
    if not (dim >= 2 and c > 0 and edge > 0):
        raise ValueError(f"an embedding needs dim >= 2, c > 0 and edge > 0, not dim {dim}, c {c} and edge {edge}")
    step = math.sqrt(c) * edge  # in the space of curvature -1
    if step * hierarchy.n_levels > MAX_RADIUS:
        longest = MAX_RADIUS / math.sqrt(c) / hierarchy.n_levels
        raise ValueError(
            f"edges of length {edge:g} put the classes beyond the range of float64; use --edge {longest:.4g} at most"
        )
    generator = torch.Generator().manual_seed(seed)
    radius = torch.zeros(len(hierarchy) + 1, dtype=torch.float64)  # the last one is the root
    direction = torch.zeros(len(hierarchy) + 1, dim, dtype=torch.float64)  # unit, from the origin
    # A distant family spans a tiny angle, which survives the rounding to float32 on axes of its own.
    n_leaves = hierarchy.n_leaves  # the number of axes that all families need together
    free_axes = torch.eye(n_leaves, dim, dtype=torch.float64) if n_leaves <= dim else None

    families = [(-1, -1, tuple(hierarchy.levels[-1]))]
    for level in reversed(hierarchy.levels[1:]):
        for node in level:
            families.append((node, (*hierarchy.path_ids(node), -1)[1], hierarchy.children(node)))
    for node, parent, children in families:  # every node after its parent
        upward = direction[:0]
        if node != -1:
            upward = _translate(radius[node], -direction[node], radius[parent], direction[parent, None])[1]
        if free_axes is None:
            axes = torch.randn(len(children), dim, dtype=torch.float64, generator=generator)
        else:
            n_axes = max(len(children) - 1, 1 - len(upward))
            axes, free_axes = free_axes[:n_axes], free_axes[n_axes:]
        away = _fan(len(children), upward, axes)
        radius[list(children)], direction[list(children)] = _translate(radius[node], direction[node], step, away)
    return (radius[:-1, None] / (2 * math.sqrt(c))) * direction[:-1]


def _translate(r: Tensor, u: Tensor, step: Tensor | float, a: Tensor) -> tuple[Tensor, Tensor]:
    """The points reached from radius r and direction u (dim,) by a step along directions a (n, dim).

    Directions at a point are directions at the origin transported along the radius. This is the gyrovector sum, in
    polar form, so that no point is rounded to the ball's border. At unit curvature; returns radius (n,) and unit
    direction (n, dim).
    """
    step, turned = torch.as_tensor(step, dtype=a.dtype), a + u
    opening = turned.square().sum(-1, keepdim=True) / 2  # 1 + cos angle(u, a), exact when a points straight back
    along = torch.sinh(r - step) + torch.cosh(r) * torch.sinh(step) * opening
    point = along * u + torch.sinh(step) * (turned - opening * u)  # the space part in the Lorentz model
    length = torch.linalg.vector_norm(point, dim=-1)
    return torch.asinh(length), point / length[:, None]


def _fan(n: int, known: Tensor, axes: Tensor) -> Tensor:
    """(n, dim) unit directions as far as possible from each other and from the ``known`` ones (0 or 1, dim).

    Together with these they form a regular simplex in the span of ``axes`` (at least n - 1; 1 without known directions
    and siblings). Where the space has too few dimensions for a simplex, they are spread by repulsion.
    """
    n_axes = max(n - 1, 1 - len(known))
    if len(known) + n_axes > axes.shape[1]:
        return _repel(known, axes)
    frame = torch.linalg.qr(torch.cat([known, axes[:n_axes]]).T).Q.T  # orthonormal, the known direction first
    if n_axes == n:  # an only child of the root
        return frame
    around = _simplex(n) @ frame[len(known) :]
    return math.sqrt(1 - 1 / n**2) * around - known / n if len(known) else around


def _simplex(n: int) -> Tensor:
    """(n, n - 1) corners of a regular simplex around the origin, of norm 1 (0 for n = 1), by Helmert's basis."""
    k = torch.arange(1, n, dtype=torch.float64)
    basis = torch.ones(n, n - 1, dtype=torch.float64).triu()
    basis[1:] -= torch.diag(k)
    return basis / (k * (k + 1)).sqrt() * math.sqrt(n / max(n - 1, 1))


def _repel(known: Tensor, start: Tensor, steps: int = 100) -> Tensor:
    """Spread directions on the sphere: each moves away from a mean of the others, weighted to the near."""
    away = start
    for step in range(steps):
        progress = step / steps
        away = away / torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        others = torch.cat([away, known])
        cosines = away @ others.T
        cosines.fill_diagonal_(-math.inf)
        weight = torch.softmax(4 * 25**progress * cosines, dim=-1)  # sharpness 4 to 100, steps .5 to .01
        away = away - 0.5 * 0.02**progress * weight @ others
    return away / torch.linalg.vector_norm(away, dim=-1, keepdim=True)
