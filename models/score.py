"""What all scores have in common, and log-probabilities of nodes from scores of leaves or of siblings."""

import torch
from torch import Tensor, nn

from hierarchy.tree import Hierarchy

CHUNK = 1024  # clips scored at once where every prototype is silenced in turn: bounds the memory
GROUPS = ("own", "ancestors", "descendants", "elsewhere")  # whose prototypes a node's evidence comes from


def node_log_probs(scores: Tensor, ancestors: Tensor, n_nodes: int) -> Tensor:
    """Softmax over the leaves, and for every node the logarithm of the sum over its leaves.

    Args:
        scores: (B, K0). ancestors: (K0, L). n_nodes: K.
    Returns:
        (B, K) log-probabilities, consistent along the tree.
    """
    leaves = scores.log_softmax(-1)
    node = ancestors.flatten().expand(scores.shape[0], -1)  # (B, K0 L)
    terms = leaves[:, :, None].expand(-1, -1, ancestors.shape[1]).flatten(1)  # (B, K0 L)
    # log-sum-exp per node, around each node's own largest leaf, so that no probability underflows to log 0
    top = terms.new_full((scores.shape[0], n_nodes), -torch.inf)
    top = top.scatter_reduce(1, node, terms.detach(), "amax")  # (B, K)
    total = torch.zeros_like(top).scatter_add(1, node, (terms - top.gather(1, node)).exp())
    return total.log() + top


def log_softmax_within(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Log-softmax of every column over the columns of its group: values (B, K), group (K,) int64 -> (B, K)."""
    index = group.expand_as(values)
    top = values.new_full((values.shape[0], n_groups), -torch.inf).scatter_reduce(1, index, values.detach(), "amax")
    centred = values - top.gather(1, index)
    return centred - torch.zeros_like(top).scatter_add(1, index, centred.exp()).log().gather(1, index)


class Score(nn.Module):
    """What all scores have in common.

    A score is a module (B, P) activations -> log-probabilities (B, K) and what they are made of, float32, or float64 if
    the activations are. It has `last`, the parameters that the tuning after a push trains. All else here holds for any
    score; a subclass overrides what it knows better of itself.

    Args:
        hierarchy: of K nodes. node_of: (P,) the node of each prototype.
    Attributes:
        options: names of further arguments of the constructor.
    """

    options: tuple[str, ...] = ()
    node_of: Tensor
    ancestors: Tensor  # (K0, L)
    paths: Tensor  # (K, L), each node and what lies above it, K in place of what lies below

    def __init__(self, hierarchy: Hierarchy, node_of: Tensor) -> None:
        super().__init__()
        n_nodes, level = len(hierarchy), torch.arange(hierarchy.n_levels)
        paths = hierarchy.ancestors[hierarchy.membership.argmax(1)]  # (K, L)
        paths = paths.masked_fill(level < hierarchy.level_of[:, None], n_nodes)
        parent = torch.cat([paths, paths.new_full((n_nodes, 1), n_nodes)], 1)
        parent = parent.gather(1, hierarchy.level_of[:, None] + 1)[:, 0]
        for name, values in (("node_of", node_of.clone()), ("ancestors", hierarchy.ancestors.clone()), ("paths", paths),
                             ("parent", parent)):  # (K,), K for the root
            self.register_buffer(name, values, persistent=False)

    @property
    def n_nodes(self) -> int:
        """K."""
        return len(self.paths)

    def inherits(self, whose: type["Score"], *names: str) -> bool:
        """Whether these methods are that class's: a subclass that overrides one may compute something else."""
        return all(getattr(type(self), name) is getattr(whose, name) for name in names)

    def initialise(self) -> None:
        """Draw or set what the score starts with, after all other parts of the model."""

    @property
    def columns(self) -> Tensor | None:
        """(D, P) what each prototype adds to a linear layer's output, for penalties on it; None without one."""
        return None

    @property
    def weights(self) -> Tensor | None:
        """(P,) >= 0, nats of evidence for activation 1; None where no single number says it."""
        return None

    def unevenness(self) -> Tensor | None:
        """() how far the weights of prototypes differ of which only the loudest speaks; None where all speak."""
        return None

    def standing_by(self, activations: Tensor) -> Tensor:
        """Which prototypes a node could do without, since another of its own says more: (P,) -> (P,) bool."""
        return torch.zeros_like(activations, dtype=torch.bool)

    @torch.no_grad()
    def silenced(self, activations: Tensor, nodes: Tensor) -> Tensor:
        """What each prototype j adds: log p(node) - log p(node | a_j = 0), exactly, by scoring the clip without it.

        Args:
            activations: (P,) of one clip. nodes: (n,) int64.
        Returns:
            (n, P) float64, nats, negative where a prototype speaks against the node.
        """
        activations = activations.double()
        whole = self(activations[None])[0][:, nodes]  # (1, n)
        without = torch.cat([
            self(activations.expand(len(some), -1).scatter(1, some[:, None], 0))[0][:, nodes]
            for some in torch.arange(len(activations), device=activations.device).split(CHUNK)])  # (P, n)
        return (whole - without).T

    def groups(self, node: int) -> dict[str, Tensor]:
        """Whose each prototype is, as a node sees it: (P,) bool masks by the names of GROUPS."""
        above = self.paths[node]
        own = self.node_of == node
        over = torch.isin(self.node_of, above[above != node])
        below = (self.paths[self.node_of] == node).any(1) & ~own
        return dict(zip(GROUPS, (own, over, below, ~(own | over | below)), strict=True))

    def formula(self) -> dict | None:
        """What a page needs to compute the score by itself, beside tree, weights and activations; None: it cannot."""
        return None
