"""Prototypes: learned patches that are compared with every patch of a clip."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPSILON = 1e-4  # of the logarithmic similarity
# Prototypes compared at a time: on a CPU what that takes is about as much as a trunk's features; on a GPU, which has
# the memory, few large operations take less time than many small ones.
AT_ONCE = {"cpu": 128, "cuda": 2048}
OWN_PATCH = 1.0347e-4  # squared distance up to which a patch is the prototype's own: there the gradient vanishes


def unit(x: Tensor, dim: int) -> Tensor:
    """Vectors along `dim` scaled to length 1, with a finite gradient at 0."""
    return x * (x.square().sum(dim, keepdim=True) + 1e-12).rsqrt()


class UnitLevels(nn.Module):
    """The last step of a neck with channels for each level: each level's vector in every cell gets length 1."""

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.n_levels = n_levels

    def forward(self, features: Tensor) -> Tensor:
        """(B, L C, t, h, w) -> the same, in float32 whatever autocast says."""
        with torch.autocast(features.device.type, enabled=False):
            return unit(features.float().unflatten(1, (self.n_levels, -1)), 2).flatten(1, 2)


class PrototypeLayer(nn.Module):
    """P prototypes of C channels, held level by level, each belonging to one node of the class tree.

    Distances are squared L2, in float32 whatever autocast says: the similarity is steepest where they vanish.

    Args:
        level_sizes: number of nodes of each level, leaves first.
        per_node: prototypes of each node: a number, or one for each of the K nodes.
        channels: C.
        by_level: the features have C channels for each level, unit vectors as `UnitLevels` gives them; a prototype is
            compared, as a unit vector, with those of its level. Distances are then 0 .. 4.
        scale: s of the similarity exp(-d / s); None for log((d + 1) / (d + 1e-4)).
    """

    def __init__(self, level_sizes: list[int], *, per_node: int | Sequence[int] = 10, channels: int = 128,
                 by_level: bool = False, scale: float | None = None) -> None:
        super().__init__()
        n_nodes = sum(level_sizes)
        counts = torch.as_tensor(per_node).expand(n_nodes)
        self.by_level, self.scale = by_level, scale
        self.per_node = int(counts.max())  # the most prototypes that a node has
        self.prototypes = nn.Parameter(torch.rand(int(counts.sum()), channels))
        if by_level:
            nn.init.normal_(self.prototypes)
        self.register_buffer("counts", counts.clone(), persistent=False)  # (K,) prototypes of each node
        self.register_buffer("node_of", torch.arange(n_nodes).repeat_interleave(counts), persistent=False)
        starts = torch.tensor([0, *level_sizes]).cumsum(0).tolist()
        self.node_levels = tuple(range(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True))  # L ranges of nodes
        level_of = torch.arange(len(level_sizes)).repeat_interleave(torch.tensor(level_sizes))  # (K,)
        # (P,) which of the features' S = L or 1 groups of C channels a prototype is compared with
        self.register_buffer("group_of", level_of[self.node_of] if by_level else torch.zeros_like(self.node_of),
                             persistent=False)
        self.n_groups = len(level_sizes) if by_level else 1
        self.counts: Tensor
        self.node_of: Tensor
        self.group_of: Tensor

    def level(self, level: int) -> slice:
        """The prototypes of a level."""
        nodes = self.node_levels[level]
        return slice(int(self.counts[:nodes.start].sum()), int(self.counts[:nodes.stop].sum()))

    @property
    def points(self) -> Tensor:
        """(P, C) what patches are compared with: the prototypes, or by level the unit vectors along them."""
        return unit(self.prototypes, 1) if self.by_level else self.prototypes

    def similarity(self, distances: Tensor) -> Tensor:
        """Similarity of squared distances, highest for the same patch and towards 0 for one that is nothing like it.

        exp(-d / s): 1 for the same patch; or log((d + 1) / (d + 1e-4)): 9.2 (Chen et al., NeurIPS 2019).
        """
        if self.scale is not None:
            return torch.exp(-distances / self.scale)
        return torch.log((distances + 1) / (distances + EPSILON))

    @property
    def highest(self) -> float:
        """The similarity of the same patch."""
        return float(self.similarity(torch.zeros(())))

    def groups(self, features: Tensor) -> Tensor:
        """(B, S C, t, h, w) features -> (B, S, C, N) float32, N = t h w."""
        return features.float().flatten(2).unflatten(1, (self.n_groups, -1))

    def search(self, features: Tensor, which: slice = slice(None)) -> Tensor:
        """Squared distances up to a constant per prototype, by one matrix product: they rank patches, no more.

        The expanded form is off by about 1e-5 near zero, so `distance` recomputes the nearest patch; no gradient.

        Args:
            features: (B, S C, t, h, w). which: n of the prototypes.
        Returns:
            (B, n, t h w) float32.
        """
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            x = features.detach().flatten(2).float()  # (B, S C, N)
            points, groups = self.points[which].float(), self.group_of[which]
            if self.by_level:  # a row for each prototype, zero but in the channels of its level: (n, S C)
                rows = points.new_zeros(len(points), self.n_groups, points.shape[1])
                points = rows.scatter(1, groups[:, None, None].expand(-1, 1, points.shape[1]), points[:, None])
                return torch.matmul(-2 * points.flatten(1), x)  # unit vectors: their squares are constant
            return torch.baddbmm(x.square().sum(1, keepdim=True), points.expand(x.shape[0], -1, -1), x, alpha=-2)

    def distance(self, features: Tensor, cells: Tensor) -> Tensor:
        """Exact squared distances of every prototype to one chosen cell of every clip.

        Args:
            features: (B, S C, t, h, w).
            cells: (B, P) int64 flat positions.
        Returns:
            (B, P) float32, differentiable (once) in the features and the prototypes.
        """
        with torch.autocast(features.device.type, enabled=False):
            x = self.groups(features).transpose(2, 3)  # (B, S, N, C)
            rows = self.group_of * x.shape[2] + cells  # (B, P), of the cells of all groups
            x, points = x.flatten(1, 2), self.points  # (B, S N, C), (P, C)
            if torch.is_grad_enabled() and (x.requires_grad or points.requires_grad):
                return ChosenDistance.apply(x, points, rows)
            return chosen_distance(x, points, rows)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest patch of each clip for each prototype.

        Args:
            features: (B, S C, t, h, w).
        Returns:
            nearest: (B, P) float32 squared L2; cells: (B, P) int64 flat positions of those patches.
        """
        return self.nearest(features)[0]

    def nearest(self, features: Tensor, masks: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        """The nearest of all patches, and the nearest of those in each mask, by one search.

        Args:
            features: (B, S C, t, h, w).
            masks: each (B, t h w) bool, with a cell in every clip.
        Returns:
            what `forward` returns, for all patches and then for each mask.
        """
        positions = []  # of each block of prototypes: the nearest of all patches, then of each mask's
        for which in blocks(self.prototypes):
            near = self.search(features, which)  # (B, n, N)
            masked = (near.masked_fill(~mask[:, None], torch.inf).argmin(-1) for mask in masks)
            positions.append([near.argmin(-1), *masked])
        cells = [torch.cat(parts, 1) for parts in zip(*positions, strict=True)]
        return [(self.distance(features, nearest), nearest) for nearest in cells]

    def maps(self, features: Tensor, which: Tensor) -> Tensor:
        """Exact squared distances of some prototypes to every patch.

        Args:
            features: (B, S C, t, h, w).
            which: (n,) int64 prototypes.
        Returns:
            (B, n, t, h, w) float32.
        """
        x, points = self.groups(features), self.points[which]  # (B, S, C, N), (n, C)
        if self.by_level:
            distances = (x[:, self.group_of[which]] - points[:, :, None]).square().sum(2)  # (B, n, N)
        else:
            x = x[:, 0].transpose(1, 2)  # (B, N, C)
            chosen = points.expand(x.shape[0], -1, -1)
            distances = torch.cdist(chosen, x, compute_mode="donot_use_mm_for_euclid_dist").square()
        return distances.unflatten(2, features.shape[2:])


def blocks(prototypes: Tensor) -> Iterator[slice]:
    """The (P, C) prototypes, AT_ONCE of them at a time."""
    n = AT_ONCE.get(prototypes.device.type, AT_ONCE["cpu"])
    return (slice(first, first + n) for first in range(0, len(prototypes), n))


def differences(x: Tensor, prototypes: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Chosen patches minus their prototypes.

    Args:
        x: (B, N, C) features; prototypes: (n, C); cells: (B, n) int64.
    Returns:
        (B, n, C), and (B n,) rows of the patches in the features of all clips.
    """
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    rows = (first + cells).flatten()
    patches = x.flatten(0, 1).index_select(0, rows).view(*cells.shape, -1)
    return patches.sub_(prototypes), rows


def chosen_distance(x: Tensor, prototypes: Tensor, cells: Tensor) -> Tensor:
    """(B, N, C) features, (P, C) prototypes, (B, P) int64 cells -> (B, P) squared distances, without gradient."""
    return torch.cat([differences(x, prototypes[which], cells[:, which])[0].square_().sum(-1)
                      for which in blocks(prototypes)], 1)


class ChosenDistance(torch.autograd.Function):
    """`chosen_distance` with its gradient, which gathers the patches again instead of storing (B, P, C)."""

    @staticmethod
    def forward(ctx, x: Tensor, prototypes: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(x, prototypes, cells)
        return chosen_distance(x, prototypes, cells)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, prototypes, cells = ctx.saved_tensors
        needs = ctx.needs_input_grad
        of_x = x.new_zeros(x.shape[0] * x.shape[1], x.shape[2]) if needs[0] else None
        of_prototypes = torch.empty_like(prototypes) if needs[1] else None
        for which in blocks(prototypes):
            slopes, rows = differences(x, prototypes[which], cells[:, which])
            slopes.mul_(2 * gradient[:, which, None])  # (B, n, C)
            if needs[0]:
                of_x.index_add_(0, rows, slopes.flatten(0, 1))
            if needs[1]:
                of_prototypes[which] = -slopes.sum(0)
        return None if of_x is None else of_x.view_as(x), of_prototypes, None
