"""HIPE: a trunk, a neck, prototypes of every node of the class tree, and a score that decides by them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hierarchy.tree import Hierarchy
from models.prototypes import PrototypeLayer, UnitLevels
from models.score import Score, node_log_probs


class Standardise(nn.Module):
    """Features minus a mean, over a deviation, by channel: fixed numbers, 0 and 1 until `fit` is called."""

    mean: Tensor
    deviation: Tensor
    elementwise = True  # every output is of one input, to which attribution leads it back

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def fit(self, means: Tensor) -> None:
        """Take both from the clips' mean features (N, C'); a channel that never changes keeps its scale."""
        deviation = means.std(0, correction=0) if len(means) > 1 else torch.zeros_like(means[0])
        self.mean.copy_(means.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C', t, h, w) -> the same, in float32 whatever autocast says."""
        with torch.autocast(features.device.type, enabled=False):
            shape = (-1, *[1] * (features.dim() - 2))
            return (features.float() - self.mean.view(shape)) / self.deviation.view(shape)


def _shared_neck(between: type[nn.Module], last: type[nn.Module]) -> Callable[[int, int, int, int], nn.Sequential]:
    """C channels that the prototypes of all levels share."""
    def neck(trunk_channels: int, channels: int, n_levels: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv3d(trunk_channels, channels, 1), between(), nn.Conv3d(channels, channels, 1),
                             last())
    return neck


def _levels_neck(trunk_channels: int, channels: int, n_levels: int, hidden: int) -> nn.Sequential:
    """Each level its own C channels, made from the same hidden ones by one convolution."""
    return nn.Sequential(Standardise(trunk_channels), nn.Conv3d(trunk_channels, hidden, 1), nn.ReLU(),
                         nn.Conv3d(hidden, channels * n_levels, 1), UnitLevels(n_levels))


# By name: (channels of the trunk, C, L, hidden channels) -> (B, C', t, h, w) to (B, C or L C, t, h, w)
NECKS = {"levels": _levels_neck, "sigmoid": _shared_neck(nn.ReLU, nn.Sigmoid),
         "leaky": _shared_neck(nn.LeakyReLU, nn.LeakyReLU)}


@dataclass
class HIPEOutput:
    """Predictions for B clips, and the prototype activations that they are made of."""

    log_probs: Tensor  # (B, K), consistent: a node's probability is the sum of its leaves'
    evidence: Tensor  # (B, K) nats of each node, which log_probs are made of; in embedding space tangents (B, D)
    activations: Tensor  # (B, P), similarity of the nearest patch, 0 .. prototype_layer.highest
    distances: Tensor  # (B, P), squared L2 of the nearest patch
    cells: Tensor  # (B, P), flat position of that patch in (t, h, w)
    features: Tensor  # (B, C or L C, t, h, w), the neck's output
    masked: tuple[Tensor, ...] = ()  # each (B, P), squared L2 of the nearest patch in one of the masks given


class HIPE(nn.Module):
    """Classify clips by comparing their patches with prototypes of classes and of their ancestors.

    No clip's output depends on the others in its batch (in eval mode).

    Args:
        trunk: a network (B, 3, T, H, W) -> (B, trunk.out_channels, t, h, w).
        hierarchy: the class tree of K nodes in L levels.
        score: of the tree and the (P,) nodes of the prototypes, as in models.scores.
        channels: C, of the prototypes. hidden: of the neck with channels for each level.
        per_node: prototypes of each node: a number, or one for each of the K nodes.
        neck: "levels" (C unit channels for each level), "sigmoid" (ProtoPNet) or "leaky" (the released HIPE code).
        scale: s of the similarity exp(-d / s); None for the logarithmic one.
    Attributes:
        normalisation: mean and deviation of its clips, by name (see datasets/transforms.py).
        head_given: whether the pooled head came with the trunk's weights.
    Raises:
        ValueError: what the score raises.
    """

    def __init__(self, trunk: nn.Module, hierarchy: Hierarchy, score: Callable[[Hierarchy, Tensor], Score], *,
                 channels: int = 128, hidden: int = 128, per_node: int | Sequence[int] = 10, neck: str = "sigmoid",
                 scale: float | None = None) -> None:
        super().__init__()
        self.normalisation = "kinetics"
        self.head_given = False
        self.trunk = trunk
        self.neck = NECKS[neck](trunk.out_channels, channels, hierarchy.n_levels, hidden)
        self.prototype_layer = PrototypeLayer([len(level) for level in hierarchy.levels], per_node=per_node,
                                              channels=channels, by_level=neck == "levels", scale=scale)
        self.hierarchy, self.make_score = hierarchy, score
        self.score = score(hierarchy, self.prototype_layer.node_of)
        self.pooled_head = nn.Linear(trunk.out_channels, hierarchy.n_leaves)
        self.register_buffer("ancestors", hierarchy.ancestors.clone(), persistent=False)  # (K0, L)
        self.register_buffer("membership", hierarchy.membership.clone(), persistent=False)  # (K, K0)
        self.register_buffer("level_of", hierarchy.level_of.clone(), persistent=False)  # (K,)
        for layer in self.neck:
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.score.initialise()

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.prototype_layer.prototypes.device

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
        log_probs, evidence = self.score(activations)
        return HIPEOutput(log_probs, evidence, activations, distances, cells, features,
                          tuple(nearest for nearest, _ in masked))

    @torch.no_grad()
    def keep(self, which: Tensor) -> None:
        """Remove all prototypes but some: which (P,) bool, those that stay, at least one of every node.

        The prototype layer and the score are replaced by new modules.
        """
        layer, score = self.prototype_layer, self.score
        which = which.to(layer.node_of.device)
        counts = torch.bincount(layer.node_of[which], minlength=len(layer.counts))
        smaller = PrototypeLayer([len(nodes) for nodes in layer.node_levels], per_node=counts.tolist(),
                                 channels=layer.prototypes.shape[1], by_level=layer.by_level, scale=layer.scale)
        smaller.prototypes.copy_(layer.prototypes[which])
        self.prototype_layer = smaller.to(layer.prototypes.device)
        self.score = self.make_score(self.hierarchy, smaller.node_of.cpu()).to(layer.prototypes.device)
        for name, value in score.state_dict().items():  # one dimension of each weight counts prototypes
            own = self.score.state_dict()[name]
            own.copy_(value if own.shape == value.shape else value[..., which])

    def node_log_probs(self, scores: Tensor) -> Tensor:
        """(B, K0) scores of the leaves -> (B, K) log-probabilities of all nodes, consistent along the tree."""
        return node_log_probs(scores, self.ancestors, len(self.level_of))

    def pooled_log_probs(self, trunk_features: Tensor) -> Tensor:
        """The softmax head of the trunk epochs: (B, C', t, h, w) -> (B, K0) log-probabilities of the leaves."""
        return self.pooled_head(trunk_features.mean((2, 3, 4))).log_softmax(-1)

    def softmax_log_probs(self, clips: Tensor) -> Tensor:
        """The softmax head's word on clips: (B, 3, T, H, W), normalised -> (B, K) log-probabilities of all nodes."""
        return self.node_log_probs(self.pooled_log_probs(self.trunk(clips)))

    @property
    def softmax_weights(self) -> Tensor:
        """(K, C') of the softmax head; an ancestor's are the mean of its classes'."""
        return self.membership @ self.pooled_head.weight / self.membership.sum(1, keepdim=True)

    def class_map(self, trunk_features: Tensor, labels: Tensor) -> Tensor:
        """Class activation maps of the pooled head: its class weights at every cell (Zhou et al., CVPR 2016).

        Args:
            trunk_features: (B, C', t, h, w).
            labels: (B,) int64, the leaf of each clip's map.
        Returns:
            (B, t, h, w).
        """
        return torch.einsum("bc,bcthw->bthw", self.pooled_head.weight[labels], trunk_features)
