"""Where the nodes of the class tree lie in hyperbolic space, and how a clip is scored by its distance to the classes.

Every point is kept as its tangent vector u at the origin of the Poincare ball of curvature -c, the point itself being
``exp0(u)``: float32 ball coordinates clip everything beyond radius 6, tangent vectors clip nothing. The radius, that is
the distance to the origin, is 2 |u|.
"""

import math
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hierarchy.tree import Hierarchy, normalise

# Nodes that the published UCF-101 embedding spells its own way. It also has "X sports" and "X interaction" for X.
ALIASES = {
    "Basketball Pitch": "BaseballPitch",
    "Basketball Shooting": "Basketball",
    "Billiards Shot": "Billiards",
    "Gymnatics": "Gymnastics",
    "Mixing Batter": "Mixing",
    "Precussion": "Percussion",
    "Salsa Spins": "SalsaSpin",
    "Walking with a dog": "WalkingWithDog",
}
_PUBLISHED = {normalise(ours): normalise(published) for published, ours in ALIASES.items()}

_ZERO = 1e-12  # |u| below this counts as zero; its square is still a normal float32
_DIRECT = 30.0  # where exp(2 x) still fits into float32: beyond it asinh(exp(x)) equals x + log 2 anyway
_BALL_LIMIT = 1 - 1e-5  # radius 12.2, as geoopt's float64 ball
_MAX_RADIUS = 30.0  # at c = 1; not far beyond it float64 has no digits left, in the ball or for an angle


def distance(u: Tensor, w: Tensor, c: float) -> Tensor:
    """Hyperbolic distance between ``exp0(u)`` and ``exp0(w)``, from tangent vectors at the origin.

    Args:
        u: (..., B, D), w: (..., K, D), any floating type; computed in float32, in float64 if either is float64, and
            never in autocast's type.
        c: minus the curvature, > 0.
    Returns:
        (..., B, K) >= 0, in the unit in which ``exp0(u)`` is 2 |u| from the origin. The gradient is finite for |u| up
        to 1e4, at u = 0 and u = w too.

    d = 2/sqrt(c) asinh sqrt(sinh^2((r1 - r2)/2) + sinh(r1) sinh(r2) q) with r = 2 sqrt(c) |u| and
    q = |u/|u| - w/|w||^2 / 4, whose terms are here divided by exp(|r1 - r2|) so that none of them overflows.
    """
    with torch.autocast(u.device.type, enabled=False):
        u, w = _same_precision(u, w)
        u_norm, w_norm = _norm(u), _norm(w)  # (..., B, 1), (..., K, 1)
        q = _euclidean(u / u_norm, w / w_norm).square() / 4  # (..., B, K)
        r1, r2 = 2 * math.sqrt(c) * u_norm, 2 * math.sqrt(c) * w_norm.mT  # (..., B, 1), (..., 1, K)

        # sinh^2((r1-r2)/2) = e^gap/4 (1 - e^-gap)^2;  sinh r1 sinh r2 = e^gap/4 e^(2 low) (1 - e^-2r1) (1 - e^-2r2)
        gap, low = (r1 - r2).abs(), torch.minimum(r1, r2)
        same = q < torch.finfo(q.dtype).tiny
        exponent = (q.masked_fill(same, 1).log() + 2 * low).masked_fill(same, -math.inf)  # of q e^(2 low), and ...
        shift = exponent.detach().clamp_min(0)  # ... what must be taken out of it so that it does not overflow
        radial = torch.expm1(-gap).square() * torch.exp(-shift)
        angular = torch.exp(exponent - shift) * torch.expm1(-2 * r1) * torch.expm1(-2 * r2)
        terms = (radial + angular).clamp_min(torch.finfo(q.dtype).tiny)  # sqrt and log have no gradient at 0

        half = (gap + shift) / 2  # asinh(e^half sqrt(terms) / 2)
        direct = torch.asinh(half.clamp_max(_DIRECT).exp() * terms.sqrt() / 2)
        return 2 / math.sqrt(c) * torch.where(half < _DIRECT, direct, half + terms.log() / 2)


def _same_precision(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(u.dtype, w.dtype), torch.float32)
    return u.to(dtype), w.to(dtype)


def _norm(u: Tensor) -> Tensor:
    """|u| (..., 1), kept off zero, which leaves the gradient of the distance at u = 0 finite and right."""
    return torch.linalg.vector_norm(u, dim=-1, keepdim=True).clamp_min(_ZERO)


def _euclidean(u: Tensor, w: Tensor) -> Tensor:
    """|u - w| for all pairs, by subtraction: the expanded square loses what is near zero."""
    return torch.cdist(u, w, compute_mode="donot_use_mm_for_euclid_dist")


def _straight(u: Tensor, w: Tensor, c: float) -> Tensor:
    """2 |u - w| for all pairs, what the hyperbolic distance tends to as c goes to 0."""
    return 2 * _euclidean(*_same_precision(u, w))


def _turn(u: Tensor, w: Tensor, c: float) -> Tensor:
    """1 - cos angle(u, w) for all pairs."""
    u, w = _same_precision(u, w)
    return _euclidean(u / _norm(u), w / _norm(w)).square() / 2


SCORES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {  # distances, of which the score is the negative
    "hyperbolic": distance,
    "euclidean": _straight,
    "cosine": _turn,
}


class ClassEmbeddings(nn.Module):
    """Scores of the leaf classes: minus the distance from the clip's point to theirs, over the temperature.

    Buffers: ``points`` (K, D) float32, the tangent vectors at the origin of all nodes, and ``temperature`` ().
    """

    points: Tensor
    temperature: Tensor

    def __init__(
        self,
        points: Tensor,
        n_leaves: int,
        *,
        c: float = 1.0,
        temperature: float | None = None,
        score: str = "hyperbolic",
    ):
        """Keep the points; without a temperature take T = (smallest distance of two leaves)/ln(100 K0).

        With it a clip on its leaf's own point gets p >= .99. A single class has T = 1.
        Raises ``ValueError`` where no T could do that, as two leaves are the same to float32, and where an argument is
        out of its range.
        """
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"unknown score {score!r}; choose from {', '.join(SCORES)}")
        if not (c > 0 and (temperature is None or temperature > 0)):
            raise ValueError(f"the curvature ({c}) and the temperature ({temperature}) must be positive")
        self.n_leaves, self.c, self.score = n_leaves, c, score
        self.register_buffer("points", points.detach().clone().float())
        self.register_buffer("temperature", torch.tensor(float(temperature or self._default_temperature())))

    def _default_temperature(self) -> float:
        leaves = self.points[: self.n_leaves].double()
        if len(leaves) == 1:
            return 1.0
        apart = SCORES[self.score](leaves, leaves, self.c).fill_diagonal_(math.inf)  # (K0, K0)
        nearest = float(apart.min())
        if nearest < 1e-12:
            first, second = divmod(int(apart.argmin()), len(leaves))
            raise ValueError(
                f"classes {first} and {second} cannot be told apart by their embeddings; fit some with a shorter "
                "--edge or more --dim"
            )
        return nearest / math.log(100 * len(leaves))

    def forward(self, v: Tensor) -> Tensor:
        """Score tangent vectors: v (B, D) -> (B, K0) <= 0, in float32, or float64 if v is, whatever autocast says."""
        with torch.autocast(v.device.type, enabled=False):
            return -SCORES[self.score](v, self.points[: self.n_leaves], self.c) / self.temperature

    def extra_repr(self) -> str:
        return f"{self.n_leaves} classes, {self.score}, c={self.c}, temperature={float(self.temperature):.3g}"


def fit_embeddings(
    hierarchy: Hierarchy, *, dim: int = 300, c: float = 1.0, edge: float = 3.0, seed: int = 0
) -> Tensor:
    """Place the tree: the root at the origin, the children of a node at distance ``edge`` evenly around it.

    Seen from a node, its children and its parent lie in the directions of a regular simplex. Where ``dim`` allows it
    (K0 or more) every family turns into dimensions of its own, elsewhere into random ones, and families larger than
    ``dim`` are spread by repulsion. Families of leaves are thus nearest, then cousins, then strangers, with distances
    close to ``edge`` times those in the tree, the closer the longer the edge (Sarkar, Graph Drawing 2011).

    Returns (K, dim) float64, tangent vectors at the origin. Raises ``ValueError`` for ``dim`` < 2, for c, edge <= 0 and
    for edges so long that float64 could not hold the leaves.
    """
    if not (dim >= 2 and c > 0 and edge > 0):
        raise ValueError(f"an embedding needs dim >= 2, c > 0 and edge > 0, not dim {dim}, c {c} and edge {edge}")
    step = math.sqrt(c) * edge  # in the space of curvature -1
    if step * hierarchy.n_levels > _MAX_RADIUS:
        longest = _MAX_RADIUS / math.sqrt(c) / hierarchy.n_levels
        raise ValueError(
            f"edges of length {edge:g} put the classes out of float64's reach; use --edge {longest:.4g} at most"
        )
    generator = torch.Generator().manual_seed(seed)
    radius = torch.zeros(len(hierarchy) + 1, dtype=torch.float64)  # the last one is the root
    direction = torch.zeros(len(hierarchy) + 1, dim, dtype=torch.float64)  # unit, from the origin
    # Axes of its own are also where a family far out, seen under a tiny angle, survives the rounding to float32.
    fresh = torch.eye(dim, dtype=torch.float64) if hierarchy.n_leaves <= dim else None

    families = [(-1, -1, tuple(hierarchy.levels[-1]))]
    for level in reversed(hierarchy.levels[1:]):
        for node in level:
            families.append((node, (*hierarchy.path_ids(node), -1)[1], hierarchy.children(node)))
    for node, parent, children in families:  # every node after its parent
        known = direction[:0]
        if node != -1:
            known = _translate(radius[node], -direction[node], radius[parent], direction[parent, None])[1]
        if fresh is None:
            axes = torch.randn(len(children), dim, dtype=torch.float64, generator=generator)
        else:
            n_axes = max(len(children) - 1, 1 - len(known))
            axes, fresh = fresh[:n_axes], fresh[n_axes:]
        away = _fan(len(children), known, axes)
        radius[list(children)], direction[list(children)] = _translate(radius[node], direction[node], step, away)
    return (radius[:-1, None] / (2 * math.sqrt(c))) * direction[:-1]


def _translate(r: Tensor, u: Tensor, step: Tensor | float, a: Tensor) -> tuple[Tensor, Tensor]:
    """Where one arrives from the point at radius r and direction u (dim,) after a step along a (n, dim).

    Directions at a point are those at the origin, carried along the radius: the gyrovector sum, but in polar form,
    where nothing rounds to the ball's border. Unit curvature; returns radius (n,) and unit direction (n, dim).
    """
    step, turned = torch.as_tensor(step, dtype=a.dtype), a + u
    opening = turned.square().sum(-1, keepdim=True) / 2  # 1 + cos angle(u, a), exact when a points straight back
    along = torch.sinh(r - step) + torch.cosh(r) * torch.sinh(step) * opening
    point = along * u + torch.sinh(step) * (turned - opening * u)  # the space part in the Lorentz model
    length = torch.linalg.vector_norm(point, dim=-1)
    return torch.asinh(length), point / length[:, None]


def _fan(n: int, known: Tensor, axes: Tensor) -> Tensor:
    """(n, dim) unit directions as far as possible from each other and from the ``known`` ones (0 or 1, dim).

    With these they make a regular simplex in the span of ``axes`` (n - 1 of them or more, 1 when there are neither
    known ones nor siblings), or, where the space has too few dimensions for one, are spread by repulsion.
    """
    n_axes = max(n - 1, 1 - len(known))
    if len(known) + n_axes > axes.shape[1]:
        return _repel(known, axes)
    frame = torch.linalg.qr(torch.cat([known, axes[:n_axes]]).T).Q.T  # orthonormal, the known one first
    if n_axes == n:  # an only child of the root
        return frame
    around = _simplex(n) @ frame[len(known) :]
    return math.sqrt(1 - 1 / n**2) * around - known / n if len(known) else around


def _simplex(n: int) -> Tensor:
    """(n, n - 1) corners of a regular simplex around the origin, of norm 1 (0 for n = 1): Helmert's basis."""
    k = torch.arange(1, n, dtype=torch.float64)
    basis = torch.ones(n, n - 1, dtype=torch.float64).triu()
    basis[1:] -= torch.diag(k)
    return basis / (k * (k + 1)).sqrt() * math.sqrt(n / max(n - 1, 1))


def _repel(known: Tensor, start: Tensor, steps: int = 100) -> Tensor:
    """Spread directions on the sphere: each leaves the mean of the others, in which the nearest count ever more."""
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


def evaluate_embedding(points: Tensor, hierarchy: Hierarchy, *, c: float) -> dict[str, float]:
    """How well distances between nodes follow the tree.

    Args:
        points: (K, D) tangent vectors at the origin; computed in float64.
    Returns:
        ``mAP``: mean average precision of finding a node's parent and children among its nearest neighbours, 1 where
        every node is nearest to its own (nodes without any, in a tree of one level, do not count);
        ``mean_distortion``: mean of |s d/d_tree - 1| over pairs of nodes, with the scale s that makes it smallest;
        ``worst_distortion``: largest d/d_tree over smallest, >= 1. The tree's distances go through the root where
        nothing else joins two nodes (Sala et al., ICML 2018).
    """
    n_nodes = len(hierarchy)
    apart = distance(points.double(), points.double(), c)  # (K, K)
    in_tree = _tree_distances(hierarchy)
    precision = []
    for node in range(n_nodes):
        near = (in_tree[node] == 1).nonzero().flatten()
        others = torch.arange(n_nodes) != node
        within = apart[node, others] <= apart[node, near, None]  # (neighbours, K - 1)
        hits = apart[node, near] <= apart[node, near, None]
        if len(near):
            precision.append(float((hits.sum(-1) / within.sum(-1)).mean()))

    first, second = torch.triu_indices(n_nodes, n_nodes, offset=1)
    ratio = apart[first, second] / in_tree[first, second]
    if not len(ratio):
        return {"mAP": 1.0, "mean_distortion": 0.0, "worst_distortion": 1.0}
    return {
        "mAP": sum(precision) / len(precision) if precision else 1.0,
        "mean_distortion": _mean_distortion(ratio),
        "worst_distortion": float(ratio.max() / ratio.min()),
    }


def _tree_distances(hierarchy: Hierarchy) -> Tensor:
    """(K, K) edges between nodes, through the root."""
    above = torch.zeros(len(hierarchy), len(hierarchy))
    for node in range(len(hierarchy)):
        above[node, list(hierarchy.path_ids(node))] = 1
    depth = above.sum(-1)
    return depth[:, None] + depth - 2 * above @ above.T


def _mean_distortion(ratio: Tensor) -> float:
    """Smallest mean of |s ratio - 1| over s: a weighted median, for |s r - 1| = r |s - 1/r|."""
    ratio = ratio.sort(descending=True).values  # 1/r ascending
    total = ratio.cumsum(0)
    middle = int(torch.searchsorted(total, total[-1] / 2))
    return float((ratio / ratio[middle] - 1).abs().mean())


def save_embeddings(
    path: str | Path, points: Tensor, hierarchy: Hierarchy, *, c: float, edge: float | None = None
) -> None:
    """Write the published form, ``{"objects": names, "embeddings": (K, D)}`` in the ball, as float64.

    Beside it stand ``c``, the tree's ``rows`` and, when given, the ``edge`` it was fitted with: by these
    find_embeddings knows whether the file is what was asked for. ``points`` (K, D) are tangent vectors at the origin;
    ``objects`` are full paths where a name is not unique. The file is written beside its place and moved over it.

    Raises ``ValueError`` for points so far out (radius about 33 at c = 1) that float64 ball coordinates lose them.
    """
    path, points = Path(path), points.detach().cpu().double()
    in_ball = _to_ball(points, c)
    if not torch.allclose(_from_ball(in_ball, c), points, rtol=1e-3):
        radius = 2 * float(torch.linalg.vector_norm(points, dim=-1).max())
        raise ValueError(
            f"{path}: points at radius {radius:.0f} do not fit into the ball of curvature -{c:g}; use a shorter --edge"
        )
    content = {
        "objects": [hierarchy.full_name(node) for node in range(len(hierarchy))],
        "embeddings": in_ball,
        "c": float(c),
        "rows": hierarchy.rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(content if edge is None else content | {"edge": float(edge)}, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_embeddings(path: str | Path, hierarchy: Hierarchy) -> tuple[Tensor, float]:
    """Read a published or saved embedding, whatever its order and spelling of the tree's nodes.

    Names are compared without case, spaces and punctuation, and by aliases of the published spellings. Warned of are
    inner nodes that the file lacks, which get the mean of their leaves' tangent vectors, and points at or beyond the
    border of the ball, which are pulled back to radius 12.2 (at c = 1). The curvature is the file's ``c``, else 1.

    Returns the points (K, D) float64 as tangent vectors at the origin, and c. Raises ``FileNotFoundError``, and
    ``ValueError`` for a file of another form or one that lacks a class.
    """
    path = Path(path)
    content = _read(path)
    c = content["c"]
    found = _match(content["objects"], hierarchy)
    missing = [hierarchy.full_name(leaf) for leaf in hierarchy.levels[0] if leaf not in found]
    if missing:
        raise ValueError(
            f"{path}: no embedding for {len(missing)} of {hierarchy.n_leaves} classes ({_some(missing)}); the file "
            "belongs to another class tree"
        )

    in_ball = content["embeddings"]
    norm = math.sqrt(c) * torch.linalg.vector_norm(in_ball, dim=-1, keepdim=True)  # (N, 1), 1 is the border
    if (norm >= 1).any():
        outside = norm > _BALL_LIMIT  # those next to the border too, else they would end up beyond what was outside
        warnings.warn(
            f"{path}: {int(outside.sum())} of {len(norm)} points lie at or beyond the border of the ball of curvature "
            f"-{c:g} (at up to {float(norm.max()):.6g} of its radius) and were pulled back into it",
            stacklevel=2,
        )
        in_ball = torch.where(outside, in_ball / norm * _BALL_LIMIT, in_ball)

    tangent = _from_ball(in_ball, c)
    points = tangent.new_zeros(len(hierarchy), tangent.shape[1])
    points[list(found)] = tangent[list(found.values())]
    absent = [node for node in range(len(hierarchy)) if node not in found]
    for node in absent:
        points[node] = points[hierarchy.leaves_below(node)].mean(0)
    if absent:
        names = [hierarchy.full_name(node) for node in absent]
        warnings.warn(
            f"{path}: no embedding for {len(absent)} inner nodes ({_some(names)}); they get the mean of their classes'",
            stacklevel=2,
        )
    return points, c


def find_embeddings(
    hierarchy: Hierarchy,
    *,
    emb_file: str | Path | None,
    shipped: str | Path | None,
    cache: str | Path | None,
    dim: int,
    c: float,
    edge: float,
) -> tuple[Tensor, float]:
    """The embedding to use: ``emb_file``; else ``shipped``, else ``cache``, if made for this tree; else a new fit.

    A shipped or cached file counts as made for this tree when it has exactly its nodes (and rows, if it tells them) and
    the wanted dim, c and edge. A new fit is written to ``cache``. None skips a place.

    Returns the points (K, D) float64 as tangent vectors at the origin, and c, which is the file's own for ``emb_file``.
    Raises what load_embeddings raises for ``emb_file``, and what fit_embeddings and save_embeddings raise.
    """
    if emb_file is not None:
        return load_embeddings(emb_file, hierarchy)
    for path in (shipped, cache):
        if path is not None and _made_for(Path(path), hierarchy, dim=dim, c=c, edge=edge):
            return load_embeddings(path, hierarchy)
    points = fit_embeddings(hierarchy, dim=dim, c=c, edge=edge)
    if cache is not None:
        save_embeddings(cache, points, hierarchy, c=c, edge=edge)
    return points, c


def _made_for(path: Path, hierarchy: Hierarchy, *, dim: int, c: float, edge: float) -> bool:
    try:
        content = _read(path)
    except (FileNotFoundError, ValueError):  # a damaged cache is not worth an error: it is made anew
        return False
    return (
        sorted(content["objects"]) == sorted(hierarchy.full_name(node) for node in range(len(hierarchy)))
        and sorted(content.get("rows", hierarchy.rows)) == sorted(hierarchy.rows)
        and content["embeddings"].shape[1] == dim
        and math.isclose(content["c"], c)
        and math.isclose(content.get("edge", edge), edge)
    )


def _read(path: Path) -> dict:
    """The file's content, checked: ``objects`` N names, ``embeddings`` (N, D) float64 and finite, ``c`` > 0."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        objects, embeddings = content["objects"], torch.as_tensor(content["embeddings"], dtype=torch.float64)
        c = float(content.get("c", 1.0))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such embedding file; make one with python -m util_scripts.fit_embeddings"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError):
        form = '{"objects": names, "embeddings": (K, D) tensor}'
        raise ValueError(f"{path}: not an embedding file; save {form} with torch.save") from None
    if embeddings.ndim != 2 or len(objects) != len(embeddings):
        raise ValueError(f"{path}: {len(objects)} names, but embeddings of shape {tuple(embeddings.shape)}")
    if not embeddings.isfinite().all() or not c > 0:
        raise ValueError(f"{path}: the embeddings must be finite and c positive")
    return content | {"objects": [str(name) for name in objects], "embeddings": embeddings, "c": c}


def _match(objects: list[str], hierarchy: Hierarchy) -> dict[int, int]:
    """Node id -> row of the file; plain names choose before aliases, classes before their ancestors, no row twice."""
    free: dict[str, int] = {}
    for row, name in enumerate(objects):
        free.setdefault(normalise(name), row)
    found: dict[int, int] = {}

    def choose(nodes: range, spelling: Callable[[int], str | None]) -> None:
        for node in nodes:
            if node not in found and (key := spelling(node)) in free:
                found[node] = free.pop(key)

    keys = [normalise(name) for name in hierarchy.names]
    everywhere, leaves = range(len(hierarchy)), hierarchy.levels[0]
    choose(everywhere, lambda node: normalise(hierarchy.full_name(node)))
    choose(leaves, lambda leaf: keys[leaf])  # a class may share its name with an ancestor, but with no other class
    choose(everywhere, lambda node: _PUBLISHED.get(keys[node]))
    stems = {_stem(key): key for key in free}
    choose(everywhere[len(leaves) :], lambda node: stems.get(_stem(keys[node])))
    return found


def _stem(key: str) -> str:
    """The X of "X sports" and "X interaction"."""
    return key.removesuffix("sports").removesuffix("interaction") or key


def _to_ball(u: Tensor, c: float) -> Tensor:
    """exp0: tanh(sqrt(c) |u|) u / (sqrt(c) |u|)."""
    norm = math.sqrt(c) * _norm(u)
    return torch.tanh(norm) / norm * u


def _from_ball(x: Tensor, c: float) -> Tensor:
    """log0: artanh(sqrt(c) |x|) x / (sqrt(c) |x|)."""
    norm = math.sqrt(c) * _norm(x)
    return torch.atanh(norm) / norm * x


def _some(names: list[str], n: int = 5) -> str:
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")
