"""Embeddings of the class tree in hyperbolic space: fit or find them, and score clips by the distance to classes.

Points are tangent vectors at the origin of the Poincare ball of curvature -c (hierarchy.hyperbolic).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hierarchy.construction import construct
from hierarchy.files import load_embeddings, read_embeddings, save_embeddings
from hierarchy.hyperbolic import distance, euclidean, norm, same_precision, to_ball
from hierarchy.tree import Hierarchy


def _euclidean(u: Tensor, w: Tensor, c: float) -> Tensor:
    """2 |u - w| for all pairs, the limit of the hyperbolic distance as c goes to 0."""
    return 2 * euclidean(*same_precision(u, w))


def _cosine(u: Tensor, w: Tensor, c: float) -> Tensor:
    """1 - cos angle(u, w) for all pairs."""
    u, w = same_precision(u, w)
    return euclidean(u / norm(u), w / norm(w)).square() / 2


def _negative_product(u: Tensor, w: Tensor, c: float) -> Tensor:
    """Minus the inner product of all pairs: with one-hot leaves the score is that of a linear head."""
    u, w = same_precision(u, w)
    return -u @ w.mT


DISTANCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {  # the score is the negative distance
    "hyperbolic": distance,
    "euclidean": _euclidean,
    "cosine": _cosine,
    "linear": _negative_product,
}

_DISTINCT = 1e-12  # smallest distance of two leaves that are not the same


class ClassEmbeddings(nn.Module):
    """Scores of the leaf classes: minus the distance between the clip's point and the class's, over the temperature.

    Buffers: ``points`` (K, D) float32, the tangent vectors at the origin of all nodes, and ``temperature`` (), the
    initial temperature T. A learnable T is the buffer times exp of the parameter ``log_factor`` ().
    ``closest``: the smallest distance of two leaves in float32, in the precision of the points given, and the two
    leaves.
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
        learn_temperature: bool = False,
        score: str = "hyperbolic",
    ):
        """The default temperature is T = (smallest distance of two leaves) / ln(100 K0).

        A clip on the point of its leaf then has p >= .99. T = 1 for a single class, and where two leaves are the same.

        Args:
            points: (K, D) tangent vectors at the origin. n_leaves: K0. c: minus the curvature, > 0.
            temperature: > 0; None for the default. score: a key of DISTANCES.
        Raises:
            ValueError: where an argument is out of its range.
        """
        super().__init__()
        if score not in DISTANCES:
            raise ValueError(f"unknown score {score!r}; choose from {', '.join(DISTANCES)}")
        if not (0 < c < math.inf and (temperature is None or 0 < temperature < math.inf)):
            raise ValueError(f"the curvature ({c}) and the temperature ({temperature}) must be positive and finite")
        self.n_leaves, self.c, self.score = n_leaves, c, score
        self.register_buffer("points", points.detach().clone().float())
        nearest, *pair = self._closest(self.points[:n_leaves].double())
        exact = self._closest(points.detach()[pair].double())[0]  # before the rounding to float32
        self.closest = (nearest, exact, *pair)
        if temperature is None:
            temperature = nearest / math.log(100 * n_leaves) if _DISTINCT <= nearest < math.inf else 1.0
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.log_factor = nn.Parameter(torch.zeros(())) if learn_temperature else None

    def check(self, names: Sequence[str]) -> None:
        """Check that a clip on the point of its leaf has the highest score for that leaf, at any temperature.

        Warns where float32 changes the smallest distance by more than a tenth.

        Args:
            names: of the classes, (K0,) or more.
        Raises:
            ValueError: where two leaves are the same in float32, or where another leaf has the higher linear score.
        """
        nearest, exact, first, second = self.closest
        if self.n_leaves == 1:
            return
        if nearest < _DISTINCT:
            remedy = "fit some with a shorter --edge or more --dim"
            if self.score == "linear":
                remedy = ("it needs one-hot classes: write them with python -m util_scripts.fit_embeddings --method "
                          "one_hot and give them as --emb_file, or choose another --score")
            raise ValueError(f"classes {names[first]} and {names[second]} have the same {self.score} score by "
                             f"their embeddings; {remedy}")
        if not math.isclose(nearest, exact, rel_tol=0.1):
            warnings.warn(
                f"classes {names[first]} and {names[second]} are so far from the origin that float32 changes "
                "their distance by more than a tenth; fit embeddings with a shorter --edge or more --dim",
                stacklevel=3,
            )

    def _closest(self, leaves: Tensor, chunk: int = 256) -> tuple[float, int, int]:
        """The smallest excess of a leaf's distance to another leaf over that to itself, and the two leaves."""
        closest = []
        for first, part in enumerate(leaves.split(chunk)):
            rows = torch.arange(len(part))
            apart = DISTANCES[self.score](part, leaves, self.c)
            apart -= apart[rows, rows + first * chunk, None].clone()
            apart[rows, rows + first * chunk] = math.inf
            nearest, other = apart.min(-1)
            row = int(nearest.argmin())
            closest.append((float(nearest[row]), row + first * chunk, int(other[row])))
        return min(closest)

    @property
    def in_ball(self) -> Tensor:
        """The points of the nodes in the Poincare ball, (K, D)."""
        return to_ball(self.points, self.c)

    @property
    def T(self) -> Tensor:
        """The temperature, () > 0."""
        return self.temperature if self.log_factor is None else self.temperature * self.log_factor.exp()

    def forward(self, v: Tensor) -> Tensor:
        """Score tangent vectors: v (B, D) -> (B, K0), in float32, or in float64 if v is, also under autocast."""
        with torch.autocast(v.device.type, enabled=False):
            return -DISTANCES[self.score](v, self.points[: self.n_leaves], self.c) / self.T

    def extra_repr(self) -> str:
        return f"{self.n_leaves} classes, {self.score}, c={self.c}, temperature={self.T.item():.3g}"


FIT_METHODS = ("constructive", "losses", "both")
MAX_NUMBERS = 2**28  # entries of an embedding: 2 GB, and fitting and saving need several copies
CURVATURES = (1e-12, 1e12)  # beyond them squares of distances exceed the range of float32


def fit_embeddings(
    hierarchy: Hierarchy,
    *,
    dim: int = 300,
    c: float = 1.0,
    edge: float = 3.0,
    seed: int = 0,
    method: str = "constructive",
    epochs: int = 300,
    progress: bool = False,
) -> Tensor:
    """Place the nodes of a tree: ``constructive`` (hierarchy.construction), ``losses`` (hierarchy.learning), or both.

    Args:
        dim: >= 2; c: minus the curvature, 1e-12 to 1e12; edge: hyperbolic length of an edge.
        seed: of the construction in few dimensions, and of the losses' start and samples.
        epochs: of the losses. progress: show their progress bar. The constructive method uses neither.
    Returns:
        (K, dim) float64, tangent vectors at the origin.
    Raises:
        ValueError: for an argument out of its range, for edges too long for float64, and for an embedding above 2 GB.
    """
    if method not in FIT_METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(FIT_METHODS)}")
    if not (dim >= 2 and edge > 0 and epochs >= 0):
        raise ValueError(
            f"an embedding needs dim >= 2, edge > 0 and epochs >= 0, not dim {dim}, edge {edge} and epochs {epochs}"
        )
    _check_curvature(c, edge)
    if len(hierarchy) * dim > MAX_NUMBERS:
        raise ValueError(
            f"--dim {dim} (of main.py --emb_dim): {len(hierarchy)} points of so many dimensions would take "
            f"{8e-9 * len(hierarchy) * dim:.3g} GB; {max(2, hierarchy.n_leaves)} dimensions are enough for this tree"
        )
    if method == "losses":
        generator = torch.Generator().manual_seed(seed)
        start = 1e-2 * torch.randn(len(hierarchy), dim, dtype=torch.float64, generator=generator) / math.sqrt(c * dim)
    else:
        start = construct(hierarchy, dim=dim, c=c, edge=edge, seed=seed)
    if method == "constructive":
        return start
    from hierarchy.learning import learn  # geoopt is slow to import
    return learn(start, hierarchy, c=c, edge=edge, epochs=epochs, seed=seed, progress=progress)


def _check_curvature(c: float, edge: float) -> None:
    least, most = CURVATURES
    if not least <= c <= most:
        raise ValueError(f"--c {c:g}: an embedding needs c > 0, from {least:g} to {most:g}")
    if not math.sqrt(c) * edge >= math.sqrt(least):
        raise ValueError(f"--edge {edge:g}: edges so short have no digits left; use {math.sqrt(least / c):g} or more")


def one_hot(hierarchy: Hierarchy, *, c: float = 1.0, edge: float = 3.0) -> Tensor:
    """Classes on axes of their own, ancestors the mean of their classes: with ``linear`` scores a plain linear head.

    They are as long as the constructed classes of this edge are on average, so that the last layer starts alike.

    Returns:
        (K, K0) float64, tangent vectors at the origin.
    Raises:
        ValueError: as fit_embeddings.
    """
    constructed = fit_embeddings(hierarchy, dim=max(2, hierarchy.n_leaves), c=c, edge=edge)
    length = torch.linalg.vector_norm(constructed[: hierarchy.n_leaves], dim=-1).mean()
    classes = hierarchy.membership.double()  # (K, K0)
    return length * classes / classes.sum(-1, keepdim=True)


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
    """The embedding to use: ``emb_file``; else ``shipped``, else ``cache``, where they fit this tree; else a new fit.

    A shipped or cached file fits when it has exactly the tree's nodes (and rows, if the file has them) and the
    requested dim, c and edge. A new fit is written to ``cache``. None stands for no file.

    Returns:
        the points (K, D) float64 as tangent vectors at the origin, and c; for ``emb_file`` that of the file.
    Raises:
        FileNotFoundError, ValueError: as load_embeddings for ``emb_file``, fit_embeddings and save_embeddings.
    """
    if emb_file is not None:
        return load_embeddings(emb_file, hierarchy)
    for path in (shipped, cache):
        if path is not None and _fits(Path(path), hierarchy, dim=dim, c=c, edge=edge):
            return load_embeddings(path, hierarchy)
    points = fit_embeddings(hierarchy, dim=dim, c=c, edge=edge)
    if cache is not None:
        save_embeddings(cache, points, hierarchy, c=c, edge=edge)
    return points, c


def _fits(path: Path, hierarchy: Hierarchy, *, dim: int, c: float, edge: float) -> bool:
    try:
        content = read_embeddings(path)
    except (FileNotFoundError, ValueError):  # a damaged cache is replaced without an error
        return False
    return (
        sorted(content["objects"]) == sorted(hierarchy.full_name(node) for node in range(len(hierarchy)))
        and sorted(content.get("rows", hierarchy.rows)) == sorted(hierarchy.rows)
        and content["embeddings"].shape[1] == dim
        and math.isclose(content["c"], c)
        and math.isclose(content.get("edge", edge), edge)
    )
