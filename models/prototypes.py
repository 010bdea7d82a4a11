"""Prototypes: learned patches that are compared with every patch of a clip."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-4


class PrototypeLayer(nn.Module):
    """P prototypes of C channels, held level by level, each belonging to one node of the class tree.

    Distances are squared L2, in float32 whatever autocast says: the similarity is steepest where they vanish.

    Args:
        level_sizes: number of nodes of each level, leaves first.
        per_node: prototypes of each node.
        channels: C.
    """

    def __init__(self, level_sizes: list[int], *, per_node: int = 10, channels: int = 128) -> None:
        super().__init__()
        n_nodes = sum(level_sizes)
        self.prototypes = nn.Parameter(torch.rand(n_nodes * per_node, channels))
        self.register_buffer("node_of", torch.arange(n_nodes).repeat_interleave(per_node), persistent=False)
        starts = torch.tensor([0, *level_sizes]).cumsum(0).tolist()
        self.node_levels = tuple(range(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True))  # L ranges of nodes
        self.per_node = per_node
        self.node_of: Tensor

    def level(self, level: int) -> slice:
        """The prototypes of a level."""
        nodes = self.node_levels[level]
        return slice(nodes.start * self.per_node, nodes.stop * self.per_node)

    @staticmethod
    def similarity(distances: Tensor) -> Tensor:
        """log((d + 1) / (d + 1e-4)) of squared distances: 9.2 for the same patch, towards 0 for one that is nothing
        like the prototype (Chen et al., NeurIPS 2019)."""
        return torch.log((distances + 1) / (distances + EPSILON))

    def search(self, features: Tensor) -> Tensor:
        """Squared distances up to a constant per prototype, by one matrix product: good for finding, not for using.

        The expanded form is off by about 1e-5 near zero, so `distance` recomputes what was found; no gradient.

        Args:
            features: (B, C, t, h, w).
        Returns:
            (B, P, t h w) float32.
        """
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            x = features.detach().flatten(2).float()  # (B, C, N)
            prototypes = self.prototypes.float().expand(x.shape[0], -1, -1)  # (B, P, C)
            return torch.baddbmm(x.square().sum(1, keepdim=True), prototypes, x, alpha=-2)

    def distance(self, features: Tensor, cells: Tensor) -> Tensor:
        """Exact squared distances of every prototype to one chosen cell of every clip.

        Args:
            features: (B, C, t, h, w).
            cells: (B, P) int64 flat positions.
        Returns:
            (B, P) float32, differentiable in the features and the prototypes.
        """
        with torch.autocast(features.device.type, enabled=False):
            x = features.float().flatten(2).transpose(1, 2)  # (B, N, C)
            first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
            patches = x.flatten(0, 1).index_select(0, (first + cells).flatten()).view(*cells.shape, -1)  # (B, P, C)
            return (patches - self.prototypes).square().sum(-1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest patch of each clip for each prototype.

        Args:
            features: (B, C, t, h, w).
        Returns:
            nearest: (B, P) float32 squared L2; cells: (B, P) int64 flat positions of those patches.
        """
        return self.nearest(features)[0]

    def nearest(self, features: Tensor, masks: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        """The nearest of all patches, and the nearest of those in each mask, by one search.

        Args:
            features: (B, C, t, h, w).
            masks: each (B, t h w) bool, with a cell in every clip.
        Returns:
            what `forward` returns, for all patches and then for each mask.
        """
        found = self.search(features)  # (B, P, N)
        cells = [found.argmin(-1), *(found.masked_fill(~mask[:, None], torch.inf).argmin(-1) for mask in masks)]
        return [(self.distance(features, chosen), chosen) for chosen in cells]

    def maps(self, features: Tensor, which: Tensor) -> Tensor:
        """Exact squared distances of some prototypes to every patch.

        Args:
            features: (B, C, t, h, w).
            which: (n,) int64 prototypes.
        Returns:
            (B, n, t, h, w) float32.
        """
        x = features.float().flatten(2).transpose(1, 2)  # (B, N, C)
        chosen = self.prototypes[which].expand(x.shape[0], -1, -1)  # (B, n, C)
        distances = torch.cdist(chosen, x, compute_mode="donot_use_mm_for_euclid_dist").square()
        return distances.unflatten(2, features.shape[2:])
