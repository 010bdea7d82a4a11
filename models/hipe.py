"""HIPE: a trunk, a neck, prototypes of every node of the class tree, and scores in hyperbolic space."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hierarchy.embeddings import ClassEmbeddings
from hierarchy.tree import Hierarchy
from models.prototypes import PrototypeLayer

NECKS = {"sigmoid": (nn.ReLU, nn.Sigmoid), "leaky": (nn.LeakyReLU, nn.LeakyReLU)}  # between its layers, and last


@dataclass
class HIPEOutput:
    """What the model says of B clips, and why."""

    log_probs: Tensor  # (B, K), consistent: a node's probability is the sum of its leaves'
    tangent: Tensor  # (B, D), the last layer's output: a tangent vector at the ball's origin
    activations: Tensor  # (B, P), similarity of the nearest patch, 0 .. 9.2
    distances: Tensor  # (B, P), squared L2 of the nearest patch
    cells: Tensor  # (B, P), its flat position in (t, h, w)
    features: Tensor  # (B, C, t, h, w), the neck's output
    masked: tuple[Tensor, ...] = ()  # each (B, P), squared L2 of the nearest patch in one of the masks given


class HIPE(nn.Module):
    """Classify clips by comparing their patches with prototypes of classes and of their ancestors.

    No clip's output depends on the others in its batch (in eval mode).

    Args:
        trunk: a network (B, 3, T, H, W) -> (B, trunk.out_channels, t, h, w).
        hierarchy: the class tree of K nodes in L levels.
        embeddings: (B, D) tangent vectors -> (B, K0) scores.
        channels: C, of the neck and the prototypes.
        per_node: prototypes of each node: a number, or one for each of the K nodes.
        neck: "sigmoid" (ProtoPNet) or "leaky" (the released HIPE code).
        last_scale: the last layer starts with each prototype pulling towards its own node by this multiple of the
            node's tangent vector; None for a random start.
    Raises:
        ValueError: naming two classes that the embeddings' score cannot tell apart.
    """

    def __init__(self, trunk: nn.Module, hierarchy: Hierarchy, embeddings: ClassEmbeddings, *, channels: int = 128,
                 per_node: int | Sequence[int] = 10, neck: str = "sigmoid",
                 last_scale: float | None = 0.1) -> None:
        super().__init__()
        embeddings.check(hierarchy.names)
        self.trunk = trunk
        between, last = NECKS[neck]
        self.neck = nn.Sequential(nn.Conv3d(trunk.out_channels, channels, 1), between(),
                                  nn.Conv3d(channels, channels, 1), last())
        self.prototype_layer = PrototypeLayer([len(level) for level in hierarchy.levels], per_node=per_node,
                                              channels=channels)
        self.embeddings = embeddings
        n_prototypes = len(self.prototype_layer.prototypes)
        self.last_layer = nn.Linear(n_prototypes, embeddings.points.shape[1], bias=False)
        self.pooled_head = nn.Linear(trunk.out_channels, hierarchy.n_leaves)
        self.register_buffer("ancestors", hierarchy.ancestors.clone(), persistent=False)  # (K0, L)
        self.register_buffer("membership", hierarchy.membership.clone(), persistent=False)  # (K, K0)
        self.register_buffer("level_of", hierarchy.level_of.clone(), persistent=False)  # (K,)
        for conv in (self.neck[0], self.neck[2]):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        if last_scale is None:
            nn.init.kaiming_normal_(self.last_layer.weight)
        else:
            with torch.no_grad():
                own = embeddings.points[self.prototype_layer.node_of]  # (P, D)
                self.last_layer.weight.copy_(last_scale * own.T)

    @property
    def offset(self) -> tuple[int, int, int]:
        """Frame, y, x of the centre of the trunk's first cell; 0 where all its strided layers are padded evenly."""
        return tuple(getattr(self.trunk, "offset", (0, 0, 0)))

    def forward(self, clips: Tensor) -> HIPEOutput:
        """(B, 3, T, H, W) normalised clips -> HIPEOutput."""
        return self.head(self.trunk(clips))

    def head(self, trunk_features: Tensor, masks: Sequence[Tensor] = ()) -> HIPEOutput:
        """(B, C', t, h, w) features of the trunk, and masks (B, t h w) of their cells -> HIPEOutput."""
        features = self.neck(trunk_features)
        (distances, cells), *masked = self.prototype_layer.nearest(features, masks)
        activations = self.prototype_layer.similarity(distances)
        log_probs, tangent = self.classify(activations)
        return HIPEOutput(log_probs, tangent, activations, distances, cells, features,
                          tuple(nearest for nearest, _ in masked))

    def classify(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all nodes from the prototypes' activations.

        Args:
            activations: (B, P) float32.
        Returns:
            log_probs (B, K) and the tangent vectors (B, D).
        """
        with torch.autocast(activations.device.type, enabled=False):
            tangent = self.last_layer(activations.float())  # (B, D)
            return self.node_log_probs(self.embeddings(tangent)), tangent

    def node_log_probs(self, scores: Tensor) -> Tensor:
        """Softmax over the leaves, and for every node the logarithm of the sum over its leaves.

        Args:
            scores: (B, K0).
        Returns:
            (B, K) log-probabilities, consistent along the tree.
        """
        leaves = scores.log_softmax(-1)
        node = self.ancestors.flatten().expand(scores.shape[0], -1)  # (B, K0 L)
        terms = leaves[:, :, None].expand(-1, -1, self.ancestors.shape[1]).flatten(1)  # (B, K0 L)
        # log-sum-exp per node, around each node's own largest leaf, so that no probability underflows to log 0
        top = terms.new_full((scores.shape[0], len(self.level_of)), -torch.inf)
        top = top.scatter_reduce(1, node, terms.detach(), "amax")  # (B, K)
        total = torch.zeros_like(top).scatter_add(1, node, (terms - top.gather(1, node)).exp())
        return total.log() + top

    def pooled_log_probs(self, trunk_features: Tensor) -> Tensor:
        """The softmax head of the trunk epochs: (B, C', t, h, w) -> (B, K0) log-probabilities of the leaves."""
        return self.pooled_head(trunk_features.mean((2, 3, 4))).log_softmax(-1)

    def class_map(self, trunk_features: Tensor, labels: Tensor) -> Tensor:
        """Where the pooled head sees a class: its class weights applied to every cell (Zhou et al., CVPR 2016).

        Args:
            trunk_features: (B, C', t, h, w).
            labels: (B,) int64, the leaf whose map is wanted of each clip.
        Returns:
            (B, t, h, w).
        """
        return torch.einsum("bc,bcthw->bthw", self.pooled_head.weight[labels], trunk_features)
