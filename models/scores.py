"""Scores: from the prototypes' activations to log-probabilities of all nodes, and what each prototype adds to them.

A score of the tree decides at every branching by itself: a node's evidence, in nats, is what its own prototypes say,
and siblings share their parent's probability by a softmax over it. A score in embedding space has one linear layer from
all prototypes to a tangent vector, whose distances to the classes are the scores of the leaves.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierarchy.embeddings import ClassEmbeddings
from hierarchy.hyperbolic import distance, seen_from
from hierarchy.tree import Hierarchy
from models.score import CHUNK, Score, log_softmax_within, node_log_probs

# what a tree score's values are made by, and pages compute again
FORMULA = ("weights", "_voices", "_pooled", "forward", "along", "among_siblings")


def _before_softplus(weights: Tensor) -> Tensor:
    """The omega whose softplus is a weight above 0: (P,) -> (P,)."""
    return weights + torch.log(-torch.expm1(-weights))


class TreeScore(Score):
    """A softmax over the siblings at every branching, of the evidence that their own prototypes give.

    e_n = max over the prototypes of a class of w_p a_p, for a node above the classes their sum, w_p = softplus(omega_p)
    log p(n | parent) = e_n - log sum over siblings m of exp e_m; log p(n) is the sum along the path to the top

    A clip that shows one of several ways of doing something is like one prototype of its class, and unlike the others:
    under a sum all of them would get that clip's gradient, and become alike.

    A subclass may decide otherwise among siblings, by `among_siblings`, or make other evidence of the voices w_p a_p,
    by `_pooled`. What is known of the formula above is then not said of it: `formula` is None, and after `_pooled`
    `takes_largest` is False.

    Args:
        start: weight w of every prototype to start with.
    """

    options = ("start",)

    def __init__(self, hierarchy: Hierarchy, node_of: Tensor, *, start: float = 1.5) -> None:
        super().__init__(hierarchy, node_of)
        self.omega = nn.Parameter(_before_softplus(torch.full((len(node_of),), start)))
        self.n_max = int((node_of < hierarchy.n_leaves).sum())  # prototypes of classes, which stand first

    @property
    def last(self) -> list[nn.Parameter]:
        return [self.omega]

    @property
    def weights(self) -> Tensor:
        return F.softplus(self.omega)

    @property
    def takes_largest(self) -> bool:
        """Whether a class's evidence is the largest of its voices, and that of nodes above the classes their sum.

        `silenced`, `standing_by` and `unevenness` rely on it; a subclass whose own `_pooled` does the same says True.
        """
        return self.inherits(TreeScore, "_voices", "_pooled", "forward")

    def _voices(self, activations: Tensor) -> Tensor:
        """w_p a_p: (B, P), in float32, or float64 if the activations are."""
        activations = activations.to(torch.promote_types(activations.dtype, torch.float32))
        return F.softplus(self.omega.to(activations.dtype)) * activations

    def _pooled(self, voices: Tensor) -> Tensor:
        """(B, P) -> (B, K): max or sum over each node's prototypes, 0 for a node without any."""
        index = self.node_of.expand_as(voices)
        pooled = voices.new_zeros(voices.shape[0], self.n_nodes)  # not len(): an exported model takes any number
        pooled = pooled.scatter_reduce(1, index[:, :self.n_max], voices[:, :self.n_max], "amax")
        return pooled.scatter_add(1, index[:, self.n_max:], voices[:, self.n_max:])

    def forward(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P) activations -> log-probabilities and evidence of all nodes, (B, K) each."""
        with torch.autocast(activations.device.type, enabled=False):
            evidence = self._pooled(self._voices(activations))
            return self.along(evidence), evidence

    def along(self, evidence: Tensor) -> Tensor:
        """(B, K) evidence of the nodes -> (B, K) log-probabilities, consistent along the tree."""
        conditional = F.pad(self.among_siblings(evidence), (0, 1))  # (B, K + 1), the last one certain
        return conditional[:, self.paths].sum(-1)

    def among_siblings(self, evidence: Tensor) -> Tensor:
        """(B, K) evidence -> (B, K) log p(node | its parent)."""
        return log_softmax_within(evidence, self.parent, self.n_nodes + 1)

    def unevenness(self) -> Tensor | None:
        """() mean squared deviation of omega among a class's prototypes: where it is 0 the nearest of them speaks."""
        if not self.takes_largest:
            return super().unevenness()
        omega, index = self.omega[:self.n_max], self.node_of[:self.n_max]
        count = torch.bincount(index, minlength=self.n_nodes).clamp(min=1)
        mean = omega.new_zeros(self.n_nodes).scatter_add(0, index, omega) / count
        return (omega - mean[index]).square().mean()

    def standing_by(self, activations: Tensor) -> Tensor:
        if not self.takes_largest:
            return super().standing_by(activations)
        voices = self._voices(activations)
        pooled = self._pooled(voices[None])[0]
        place = torch.arange(len(voices), device=voices.device)
        speaks = voices == pooled[self.node_of]
        first = place.new_full((self.n_nodes,), len(voices)).scatter_reduce(
            0, self.node_of, place.masked_fill(~speaks, len(voices)), "amin")
        return (place < self.n_max) & (place != first[self.node_of])

    @torch.no_grad()
    def silenced(self, activations: Tensor, nodes: Tensor) -> Tensor:
        """(P,), (n,) -> (n, P); silencing a prototype changes its own node's evidence and no other's."""
        if not (self.takes_largest and self.inherits(TreeScore, "standing_by")):
            return super().silenced(activations, nodes)
        activations = activations.double()
        voices, stands_by = self._voices(activations), self.standing_by(activations)
        evidence = self._pooled(voices[None])  # (1, K)
        seconds = self._pooled(voices.masked_fill(~stands_by, 0)[None])[0, self.node_of]  # (P,), for a class's first
        of_class = torch.arange(len(voices), device=voices.device) < self.n_max
        without = torch.where(of_class, torch.where(stands_by, evidence[0, self.node_of], seconds),
                              (evidence[0, self.node_of] - voices).clamp(min=0))  # (P,) what is left of the node's
        whole = self.along(evidence)[:, nodes]  # (1, n)
        rest = torch.cat([
            self.along(evidence.expand(len(some), -1).scatter(1, some[:, None], left[:, None]))[:, nodes]
            for some, left in zip(self.node_of.split(CHUNK), without.split(CHUNK), strict=True)])  # (P, n)
        return (whole - rest).T

    @torch.no_grad()
    def absorb(self, into: Tensor) -> None:
        """Give kept prototypes the weight of those merged into them: the larger one at a class, else the sum.

        Args:
            into: (P,) int64, the kept prototype of the same node that each becomes; a kept one becomes itself.
        """
        weights, classes = self.weights, torch.arange(len(into), device=into.device) < self.n_max
        largest = torch.zeros_like(weights).scatter_reduce(0, into, weights, "amax")
        total = torch.where(classes, largest, torch.zeros_like(weights).scatter_add(0, into, weights))
        gains = (into == torch.arange(len(into), device=into.device)) & (total != weights)
        self.omega.copy_(torch.where(gains, _before_softplus(total), self.omega))  # all others stay, to the bit

    def formula(self) -> dict | None:
        return {"name": "tree"} if self.inherits(TreeScore, *FORMULA) else None


class HyperbolicTreeScore(TreeScore):
    """As `TreeScore`, with siblings told apart in hyperbolic space, where they lie as seen from their parent.

    x_n = log0((-m) + n) for a child n of m, from the class embedding, the root at the origin (+: Moebius addition);
    t_m = sum over the children of e_n x_n / |x_n|;
    log p(n | m) = log softmax over n of -d_H(exp0(t_m), exp0(x_n)) / T_m, T_m = (least sibling distance) / ln(100
    children).

    Args:
        points: (K, D) tangent vectors of the nodes at the origin. c: minus the curvature.
        start: weight w of every prototype to start with.
    Raises:
        ValueError: naming siblings that lie in one place, or one that lies on its parent.
    """

    options = ("points", "c", "start")

    def __init__(self, hierarchy: Hierarchy, node_of: Tensor, *, points: Tensor, c: float = 1.0,
                 start: float = 1.5) -> None:
        super().__init__(hierarchy, node_of, start=start)
        self.c = c
        above = F.pad(points.double(), (0, 0, 0, 1))[self.parent]  # (K, D), the root at the origin
        seen = seen_from(above, points.double(), c)  # (K, D)
        groups = [(self.parent == parent).nonzero()[:, 0] for parent in self.parent.unique()]  # M of them
        most = max(map(len, groups))
        children = torch.full((len(groups), most), self.n_nodes)  # (M, n), K where there is none
        slots = torch.zeros(self.n_nodes, dtype=torch.int64)  # (K,) where a node stands among all slots
        vectors = torch.zeros(len(groups), most, min(most, seen.shape[1]), dtype=torch.float64)  # (M, n, r)
        temperatures = torch.ones(len(groups), dtype=torch.float64)
        for row, family in enumerate(groups):
            children[row, :len(family)] = family
            slots[family] = row * most + torch.arange(len(family))
            # distances and angles are all that counts: as few dimensions as there are children hold them
            triangle = torch.linalg.qr(seen[family].T).R.T  # (n', r')
            vectors[row, :len(family), :triangle.shape[1]] = triangle
            if len(family) > 1:
                temperatures[row] = self._nearest(hierarchy, family, seen[family]) / math.log(100 * len(family))
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)  # (M, n, 1)
        # in float64, so that a page that computes by `formula` comes to the same numbers
        for name, values in (("families", children), ("slots", slots), ("places", vectors),
                             ("directions", vectors / lengths.clamp(min=1e-12)), ("temperatures", temperatures)):
            self.register_buffer(name, values, persistent=False)

    def _nearest(self, hierarchy: Hierarchy, family: Tensor, seen: Tensor) -> float:
        """The least distance between two siblings."""
        if not bool((torch.linalg.vector_norm(seen, dim=-1) > 1e-6).all()):
            raise ValueError(f"the embedding puts {hierarchy.full_name(int(family[0]))} or a sibling of it onto its "
                             "parent, so that --score tree_hyperbolic cannot tell them apart; fit another, or choose "
                             "--score tree")
        apart = distance(seen, seen, self.c).fill_diagonal_(math.inf)
        if not float(apart.min()) > 1e-6:
            one, other = (hierarchy.full_name(int(family[i])) for i in divmod(int(apart.argmin()), len(family)))
            raise ValueError(f"the embedding puts {one} and {other} into one place, so that --score tree_hyperbolic "
                             "cannot tell them apart; fit another, or choose --score tree")
        return float(apart.min())

    def among_siblings(self, evidence: Tensor) -> Tensor:
        given = F.pad(evidence, (0, 1))[:, self.families]  # (B, M, n)
        way = torch.einsum("bmn,mnr->mbr", given, self.directions.to(given.dtype))
        apart = distance(way, self.places.to(given.dtype), self.c)  # (M, B, n)
        scores = -apart / self.temperatures.to(given.dtype)[:, None, None]
        scores = scores.masked_fill((self.families == self.n_nodes)[:, None], -torch.inf).log_softmax(-1)
        return scores.transpose(0, 1).flatten(1)[:, self.slots]

    def formula(self) -> dict | None:
        if not self.inherits(HyperbolicTreeScore, *FORMULA):
            return None
        branchings = []
        for children, places, temperature in zip(self.families, self.places, self.temperatures.tolist(), strict=True):
            own = children < self.n_nodes
            places = places[own]
            lengths = torch.linalg.vector_norm(places, dim=-1)
            directions = places / lengths[:, None].clamp(min=1e-12)
            branchings.append({"children": children[own].tolist(), "lengths": lengths.tolist(),
                               "cosines": (directions @ directions.T).tolist(), "temperature": temperature})
        return {"name": "tree_hyperbolic", "c": self.c, "branchings": branchings}


class EmbeddedScore(Score):
    """Leaves scored by the distance of a linear layer's tangent vector to theirs; ancestors are sums over leaves.

    Args:
        points: (K, D) tangent vectors of the nodes. c: minus the curvature.
        temperature: of the scores; None for one by which a clip on its leaf gets .99.
        learn_temperature: whether it is trained.
        last_scale: the last layer starts with each prototype pulling towards its own node by this multiple of the
            node's tangent vector; None for a random start.
    Raises:
        ValueError: naming two classes that the score cannot tell apart.
    """

    options = ("points", "c", "temperature", "learn_temperature", "last_scale")
    distance = "hyperbolic"

    def __init__(self, hierarchy: Hierarchy, node_of: Tensor, *, points: Tensor, c: float = 1.0,
                 temperature: float | None = None, learn_temperature: bool = False,
                 last_scale: float | None = 0.1) -> None:
        super().__init__(hierarchy, node_of)
        self.embeddings = ClassEmbeddings(points, hierarchy.n_leaves, c=c, temperature=temperature,
                                          score=self.distance, learn_temperature=learn_temperature)
        self.embeddings.check(hierarchy.names)
        self.last_layer = nn.Linear(len(node_of), points.shape[1], bias=False)
        self.last_scale = last_scale

    def initialise(self) -> None:
        if self.last_scale is None:
            nn.init.kaiming_normal_(self.last_layer.weight)
        else:
            with torch.no_grad():
                self.last_layer.weight.copy_(self.last_scale * self.embeddings.points[self.node_of].T)

    @property
    def last(self) -> list[nn.Parameter]:
        return [self.last_layer.weight]

    @property
    def columns(self) -> Tensor:
        return self.last_layer.weight

    def forward(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P) activations -> log-probabilities of all nodes (B, K) and the tangent vectors (B, D)."""
        with torch.autocast(activations.device.type, enabled=False):
            activations = activations.to(torch.promote_types(activations.dtype, torch.float32))
            tangent = F.linear(activations, self.last_layer.weight.to(activations.dtype))  # (B, D)
            return self.log_probs(tangent), tangent

    def log_probs(self, tangent: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        return node_log_probs(self.embeddings(tangent), self.ancestors, self.n_nodes)

    @torch.no_grad()
    def silenced(self, activations: Tensor, nodes: Tensor) -> Tensor:
        """(P,), (n,) -> (n, P); the last layer is linear, so silencing a prototype subtracts its column."""
        if not self.inherits(EmbeddedScore, "forward"):
            return super().silenced(activations, nodes)
        weight, activations = self.last_layer.weight.double(), activations.double()
        tangent = weight @ activations  # (D,)
        rest = tangent - activations[:, None] * weight.T  # (P, D)
        without = torch.cat([self.log_probs(some) for some in rest.split(CHUNK)])
        return (self.log_probs(tangent[None])[:, nodes] - without[:, nodes]).T


class EuclideanScore(EmbeddedScore):
    """Twice the straight distance of tangent vectors."""

    distance = "euclidean"


class CosineScore(EmbeddedScore):
    """One minus the cosine of the angle between tangent vectors."""

    distance = "cosine"


class LinearScore(EmbeddedScore):
    """Minus the inner product: with one-hot classes a plain linear head."""

    distance = "linear"


SCORES: dict[str, type[Score]] = {
    "tree": TreeScore,
    "tree_hyperbolic": HyperbolicTreeScore,
    "hyperbolic": EmbeddedScore,
    "euclidean": EuclideanScore,
    "cosine": CosineScore,
    "linear": LinearScore,
}
