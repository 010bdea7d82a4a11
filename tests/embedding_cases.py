"""Trees and points of the Poincare ball that several tests of hierarchy/ use."""

import math
from pathlib import Path

import torch
from torch import Tensor

from hierarchy import Hierarchy

ROOT = Path(__file__).resolve().parents[1]
CURVATURES = [1e-3, 0.1, 1.0, 3.0]
UCF101 = Hierarchy.from_csv(ROOT / "UCF-101_hierarchy.csv")
SMALL = Hierarchy.from_rows(
    [["a", "P", "X"], ["b", "P", "X"], ["c", "Q", "X"], ["d", "Other", "Y"], ["e", "Other", "X"]]
)


def directions(n: int, dim: int, seed: int) -> Tensor:
    """(n, dim) float64, unit."""
    vectors = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-1, keepdim=True)


def points(n: int, dim: int, seed: int, *, c: float, radius: float) -> Tensor:
    """(n, dim) float64 tangent vectors, up to ``radius`` / sqrt(c) from the origin, some of them very near it."""
    share = torch.rand(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** 2
    return directions(n, dim, seed + 1) * share * radius / (2 * math.sqrt(c))
