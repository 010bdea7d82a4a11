"""Embedding files in the published form, with any order and spelling of the tree's nodes."""

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hierarchy.hyperbolic import from_ball, to_ball
from hierarchy.names import normalise
from hierarchy.tree import Hierarchy
from machine.writing import write_whole

# Nodes that the published UCF-101 embedding spells differently. It also has "X sports" and "X interaction" for X.
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

_BALL_LIMIT = 1 - 1e-5  # radius 12.2, as in geoopt's float64 ball


def save_embeddings(
    path: str | Path, points: Tensor, hierarchy: Hierarchy, *, c: float, edge: float | None = None
) -> None:
    """Write the published form, ``{"objects": names, "embeddings": (K, D)}`` in the ball, as float64.

    The file also holds ``c``, the tree's ``rows`` and, if given, the ``edge`` of the fit, by which find_embeddings
    decides whether the file fits a run; and the ``tangents`` (K, D), to which points in the ball come back only nearly.
    ``objects`` are full paths where a name is not unique. The file is written atomically.

    Args:
        points: (K, D) tangent vectors at the origin.
    Raises:
        ValueError: for points so far out (radius about 33 at c = 1) that float64 ball coordinates cannot hold them.
        OSError: naming the file, where it cannot be written; an old one is then unchanged.
    """
    path, points = Path(path), points.detach().cpu().double()
    in_ball = to_ball(points, c)
    if not torch.allclose(from_ball(in_ball, c), points, rtol=1e-3):
        radius = 2 * float(torch.linalg.vector_norm(points, dim=-1).max())
        raise ValueError(
            f"{path}: points at radius {radius:.0f} do not fit into the ball of curvature -{c:g}; use a shorter --edge"
        )
    content = {
        "objects": [hierarchy.full_name(node) for node in range(len(hierarchy))],
        "embeddings": in_ball,
        "c": float(c),
        "rows": hierarchy.rows,
        "tangents": points,
    }
    write_whole(path, lambda file: torch.save(content if edge is None else content | {"edge": float(edge)}, file))


def load_embeddings(path: str | Path, hierarchy: Hierarchy) -> tuple[Tensor, float]:
    """Read a published or saved embedding, with any order and spelling of the tree's nodes.

    Names are compared without case, spaces and punctuation, and by aliases. Inner nodes that the file lacks get the
    mean of their leaves' tangent vectors, and points at or beyond the border of the ball are moved to radius 12.2 (at
    c = 1); both cause a warning. The curvature is the file's ``c``, else 1.

    Returns:
        the points (K, D) float64 as tangent vectors at the origin, and c.
    Raises:
        FileNotFoundError, ValueError: naming the file, where it is missing, has another form or lacks a class.
    """
    path = Path(path)
    content = read_embeddings(path)
    c = content["c"]
    row_of = _match(content["objects"], hierarchy)
    missing = [hierarchy.full_name(leaf) for leaf in hierarchy.levels[0] if leaf not in row_of]
    if missing:
        raise ValueError(
            f"{path}: no embedding for {len(missing)} of {hierarchy.n_leaves} classes ({_first(missing)}); the file "
            "belongs to another class tree"
        )

    in_ball = content["embeddings"]
    norm = math.sqrt(c) * torch.linalg.vector_norm(in_ball, dim=-1, keepdim=True)  # (N, 1), 1 is the border
    if (norm >= 1).any():
        outside = norm > _BALL_LIMIT  # points next to the border, too, which would otherwise end up farther out
        warnings.warn(
            f"{path}: {int(outside.sum())} of {len(norm)} points lie at or beyond the border of the ball of curvature "
            f"-{c:g} (at up to {float(norm.max()):.6g} of its radius) and were moved back into it",
            stacklevel=2,
        )
        in_ball = torch.where(outside, in_ball / norm * _BALL_LIMIT, in_ball)

    tangent, exact = from_ball(in_ball, c), content.get("tangents")
    if isinstance(exact, Tensor) and exact.shape == in_ball.shape and torch.equal(to_ball(exact, c), in_ball):
        tangent = exact
    points = tangent.new_zeros(len(hierarchy), tangent.shape[1])
    points[list(row_of)] = tangent[list(row_of.values())]
    absent = [node for node in range(len(hierarchy)) if node not in row_of]
    for node in absent:
        points[node] = points[hierarchy.leaves_below(node)].mean(0)
    if absent:
        names = [hierarchy.full_name(node) for node in absent]
        warnings.warn(
            f"{path}: no embedding for {len(absent)} inner nodes ({_first(names)}); they get the mean of their classes",
            stacklevel=2,
        )
    return points, c


def read_embeddings(path: Path) -> dict:
    """The validated content of a file: ``objects`` N names, ``embeddings`` (N, D) float64, ``c`` > 0, all finite."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        objects, embeddings = content["objects"], torch.as_tensor(content["embeddings"], dtype=torch.float64)
        c = float(content.get("c", 1.0))
        if not isinstance(objects, list | tuple):
            raise TypeError
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such embedding file; create one with python -m util_scripts.fit_embeddings"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError):
        form = '{"objects": names, "embeddings": (K, D) tensor}'
        raise ValueError(f"{path}: not an embedding file; save {form} with torch.save") from None
    if embeddings.ndim != 2 or len(objects) != len(embeddings) or embeddings.shape[1] < 1:
        raise ValueError(f"{path}: {len(objects)} names, but embeddings of shape {tuple(embeddings.shape)}")
    if not embeddings.isfinite().all() or not 0 < c < math.inf:
        raise ValueError(f"{path}: its embeddings must be finite and its c, {c:g}, above 0 and finite; fit them again")
    return content | {"objects": [str(name) for name in objects], "embeddings": embeddings, "c": c}


def _match(objects: list[str], hierarchy: Hierarchy) -> dict[int, int]:
    """Node id -> row of the file, each row used once; names match before aliases, classes before their ancestors."""
    free: dict[str, int] = {}
    for row, name in enumerate(objects):
        free.setdefault(normalise(name), row)
    row_of: dict[int, int] = {}

    def assign(nodes: range, spelling: Callable[[int], str | None]) -> None:
        for node in nodes:
            if node not in row_of and (key := spelling(node)) in free:
                row_of[node] = free.pop(key)

    keys = [normalise(name) for name in hierarchy.names]
    everywhere, leaves = range(len(hierarchy)), hierarchy.levels[0]
    assign(everywhere, lambda node: normalise(hierarchy.full_name(node)))
    assign(leaves, lambda leaf: keys[leaf])  # a class may share its name with an ancestor, but with no other class
    assign(everywhere, lambda node: _PUBLISHED.get(keys[node]))
    stems = {_stem(key): key for key in free}
    assign(everywhere[len(leaves) :], lambda node: stems.get(_stem(keys[node])))
    return row_of


def _stem(key: str) -> str:
    """The X of "X sports" and "X interaction"."""
    return key.removesuffix("sports").removesuffix("interaction") or key


def _first(names: list[str], n: int = 5) -> str:
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")
