"""How good the recognition is: accuracy level by level, severity of mistakes, probabilities of whole videos.

The prediction is the most probable leaf; its ancestors are the predicted nodes. Only `level_argmax_accuracy` departs
from that, which is why it has a name of its own. Node ids, `ancestors` and `levels` are those of a `Hierarchy`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.calibration import (
    TINY,
    RiskCurve,
    calibration_error,
    climb,
    fit_temperature,
    information,
    tempered,
)
from hierarchy.tree import Hierarchy, level_name

ROOT = "Root"


def accuracy_per_level(predicted: Tensor, labels: Tensor, ancestors: Tensor) -> Tensor:
    """Share of predictions whose ancestor at each level is the label's.

    Args:
        predicted: (N,) int64 leaf ids, or (N, k) for top-k, where any of the k may be right; -1 is no prediction.
        labels: (N,) int64 leaf ids.
        ancestors: (K0, L) int64.
    Returns:
        (L,) float64 in 0..1: class, sibling, cousin accuracy and so on up.
    """
    guesses = predicted.reshape(len(labels), -1)  # (N, k)
    right = (ancestors[guesses.clamp(min=0)] == ancestors[labels][:, None]) & (guesses >= 0)[..., None]  # (N, k, L)
    return right.any(1).double().mean(0)


def topk(log_probs: Tensor, labels: Tensor, k: int) -> float:
    """Share of clips whose label is among the k most probable leaves: log_probs (N, K0), labels (N,)."""
    best = log_probs.topk(min(k, log_probs.shape[1]), dim=1).indices  # (N, k)
    return (best == labels[:, None]).any(1).double().mean().item()


def level_argmax_accuracy(log_probs: Tensor, labels: Tensor, ancestors: Tensor,
                          levels: tuple[range, ...]) -> Tensor:
    """Accuracy of each level's own most probable node, which need not lie above the predicted leaf.

    Args:
        log_probs: (N, K) over the nodes of all levels.
        labels: (N,) int64 leaf ids.
        ancestors: (K0, L) int64.
        levels: L ranges of node ids.
    Returns:
        (L,) float64 in 0..1.
    """
    best = torch.stack([log_probs[:, level.start:level.stop].argmax(1) + level.start for level in levels], 1)  # (N, L)
    return (best == ancestors[labels]).double().mean(0)


def mistake_severity(predicted: Tensor, labels: Tensor, ancestors: Tensor) -> float:
    """Mean height, over the errors, of the lowest node above both prediction and label (Bertinetto et al., CVPR 2020).

    Args:
        predicted, labels: (N,) int64 leaf ids.
        ancestors: (K0, L) int64.
    Returns:
        1 (all mistakes among siblings) .. L (only the root in common); 0 where there is no error.
    """
    heights = (ancestors[predicted] != ancestors[labels]).sum(1)  # (N,), 0 where right
    wrong = heights[heights > 0].double()
    return wrong.mean().item() if len(wrong) else 0.0


def hierarchical_scores(levels: Tensor, predicted: Tensor, labels: Tensor, ancestors: Tensor) -> dict[str, float]:
    """Hierarchical precision, recall and F (Kiritchenko et al., 2006): answer and truth as sets of nodes, with all that
    lies above them, the root left out.

    Args:
        levels: (N,) int64 of the answers, 0 for the predicted leaf itself, L for the root.
        predicted, labels: (N,) int64 leaf ids. ancestors: (K0, L) int64.
    Returns:
        precision, recall and f, sums over all N sets; a precision of nothing answered is 1.
    """
    n_levels = ancestors.shape[1]
    answered = torch.arange(n_levels) >= levels[:, None]  # (N, L)
    common = float((answered & (ancestors[predicted] == ancestors[labels])).sum())
    precision = common / float(answered.sum()) if answered.any() else 1.0
    recall = common / max(labels.numel() * n_levels, 1)
    both = precision + recall
    return {"precision": precision, "recall": recall, "f": 2 * precision * recall / both if both else 0.0}


@dataclass(frozen=True)
class Believed:
    """How far a model's probabilities are believed: fitted on videos that were held out, or not at all."""

    temperature: float = 1.0
    threshold: float = 0.9
    target_accuracy: float = 0.9
    calibrated: bool = False

    @classmethod
    def uncalibrated(cls, target_accuracy: float) -> "Believed":
        """Probabilities as they come, and the target itself as the threshold: right if they are honest."""
        return cls(threshold=target_accuracy, target_accuracy=target_accuracy)

    @classmethod
    def fitted(cls, probs: Tensor, labels: Tensor, hierarchy: Hierarchy, target_accuracy: float) -> "Believed":
        """The temperature, then the threshold of back-off, chosen on held-out videos: probs (N, K0), labels (N,)."""
        temperature = fit_temperature(probs, labels)
        curve = _curve(tempered(probs, temperature), labels, hierarchy)
        return cls(temperature, curve.threshold_for(target_accuracy), target_accuracy, True)

    def answers(self, probs: Tensor, hierarchy: Hierarchy) -> list[dict]:
        """The node that back-off returns for each of (N, K0) leaf probabilities: name, level and probability.

        Where not even the top of the path passes, the answer is the root, one level above the top.
        """
        predicted, path = _path(tempered(probs, self.temperature), hierarchy)
        rows = []
        for leaf, level, values in zip(predicted.tolist(), climb(path, self.threshold).tolist(), path.tolist(),
                                       strict=True):
            known = level < hierarchy.n_levels
            rows.append({"node": hierarchy.full_name(hierarchy.path_ids(leaf)[level]) if known else ROOT,
                         "level": level, "probability": min(values[level], 1.0) if known else 1.0})
        return rows


def _path(probs: Tensor, hierarchy: Hierarchy) -> tuple[Tensor, Tensor]:
    """(N, K0) leaf probabilities -> the predicted leaves (N,), and the probabilities of their paths (N, L)."""
    nodes = probs.double() @ hierarchy.membership.double().T  # (N, K)
    predicted = probs.argmax(1)
    return predicted, nodes.gather(1, hierarchy.ancestors[predicted])


def _curve(probs: Tensor, labels: Tensor, hierarchy: Hierarchy) -> RiskCurve:
    predicted, path = _path(probs, hierarchy)
    informative = information(hierarchy.membership.sum(1), hierarchy.n_leaves)  # (K,)
    above = hierarchy.ancestors[predicted]  # (N, L)
    return RiskCurve(path, above == hierarchy.ancestors[labels], informative[above])


def recognition_metrics(probs: Tensor, labels: Tensor, names: Sequence[str], hierarchy: Hierarchy, *,
                        believed: Believed) -> dict:
    """Everything that metrics.json holds about recognition.

    Args:
        probs: (N, K0) of N >= 1 videos, pooled over their clips. labels: (N,) leaves. names: (N,) of the videos.
        believed: temperature, threshold and where they come from.
    Returns:
        plain numbers, names and lists, without NaN; see docs/FORMATS.md.
    """
    tree, ancestors = hierarchy, hierarchy.ancestors
    cool = tempered(probs, believed.temperature)
    five = probs.topk(min(5, tree.n_leaves), dim=1).indices
    per_level = accuracy_per_level(probs.argmax(1), labels, ancestors).tolist()
    in_five = accuracy_per_level(five, labels, ancestors).tolist()
    predicted, path = _path(probs, tree)
    cool_predicted, cool_path = _path(cool, tree)
    right = ancestors[predicted] == ancestors[labels]  # (N, L)
    cool_right = ancestors[cool_predicted] == ancestors[labels]
    truth, cool_truth = ((some.double() @ tree.membership.double().T).gather(1, ancestors[labels]).clamp(min=TINY)
                         for some in (probs, cool))
    levels = []
    for level in range(tree.n_levels):
        error, reliability = calibration_error(path[:, level], right[:, level])
        cool_error, cool_reliability = calibration_error(cool_path[:, level], cool_right[:, level])
        levels.append({
            "level": level, "name": level_name(level), "n_nodes": len(tree.levels[level]),
            "accuracy": per_level[level], "top5": in_five[level], "nll": _nll(truth[:, level]), "ece": error,
            "nll_calibrated": _nll(cool_truth[:, level]), "ece_calibrated": cool_error, "reliability": reliability,
            "reliability_calibrated": cool_reliability})
    curve = _curve(cool, labels, tree)
    answer = climb(cool_path, believed.threshold)  # (N,)
    answered = torch.cat([cool_right, torch.ones(len(labels), 1, dtype=torch.bool)], 1).gather(1, answer[:, None])
    informative = torch.cat([information(tree.membership.sum(1), tree.n_leaves)[ancestors[cool_predicted]],
                             torch.zeros(len(labels), 1, dtype=torch.float64)], 1).gather(1, answer[:, None])
    return {
        "calibrated": believed.calibrated, "temperature": believed.temperature,
        "target_accuracy": believed.target_accuracy, "threshold": believed.threshold, "levels": levels,
        "severity": None if right[:, 0].all() else mistake_severity(predicted, labels, ancestors),
        "hierarchical": hierarchical_scores(torch.zeros_like(labels), predicted, labels, ancestors),
        "backoff": {"accuracy": float(answered.double().mean()), "coverage_leaf": float((answer == 0).double().mean()),
                    "information": float(informative.mean()), "area": curve.area,
                    "hierarchical": hierarchical_scores(answer, cool_predicted, labels, ancestors),
                    "answers": torch.bincount(answer, minlength=tree.n_levels + 1).tolist(), "curve": curve.points()},
        "nodes": _nodes(right, labels, tree), "confusion": _confusion(predicted, labels, tree),
        "mistakes": _mistakes(predicted, path[:, 0], labels, names, tree)}


def _nll(truth: Tensor) -> float:
    return float(-truth.log().mean())


def _nodes(right: Tensor, labels: Tensor, tree: Hierarchy) -> list[dict]:
    """Of every node, the number of videos below it, and the share of them that is predicted below it."""
    above = tree.ancestors[labels].flatten()
    count = torch.bincount(above, minlength=len(tree)).tolist()
    hits = torch.bincount(above, right.double().flatten(), minlength=len(tree)).tolist()
    return [{"node": tree.full_name(node), "path": list(tree.path(node)), "level": int(tree.level_of[node]),
             "n_videos": count[node], "accuracy": hits[node] / count[node] if count[node] else None}
            for node in range(len(tree))]


def _confusion(predicted: Tensor, labels: Tensor, tree: Hierarchy) -> dict:
    """Videos by the top-level nodes of truth (rows) and prediction (columns)."""
    top = tree.levels[-1]
    pairs = (tree.ancestors[labels, -1] - top.start) * len(top) + tree.ancestors[predicted, -1] - top.start
    counts = torch.bincount(pairs, minlength=len(top) ** 2).view(len(top), len(top))
    return {"nodes": [tree.full_name(node) for node in top], "counts": counts.tolist()}


def _mistakes(predicted: Tensor, probability: Tensor, labels: Tensor, names: Sequence[str], tree: Hierarchy) -> list:
    """The wrong predictions: those that meet the truth highest up first, of these the surest."""
    height = (tree.ancestors[predicted] != tree.ancestors[labels]).sum(1)  # (N,)
    rows = [{"video": names[i], "truth": tree.full_name(int(labels[i])),
             "prediction": tree.full_name(int(predicted[i])), "probability": float(probability[i]),
             "height": int(height[i])} for i in height.nonzero()[:, 0].tolist()]
    return sorted(rows, key=lambda row: (-row["height"], -row["probability"], row["video"]))


class VideoPool:
    """Probabilities of whole videos from those of their clips, and each node's best clip, as clips stream by.

    p(leaf | video) = sum over clips of p(leaf | clip)^power / the same sum over all leaves, and an ancestor's
    probability is the sum over its leaves; power 1 is the mean over the clips. Clips without the event are rightly
    unsure, and count the less the higher the power. Memory is a few numbers a video and node, however many clips there
    are.

    Args:
        n_videos: how many there are.
        membership: (K, K0), 1 where a leaf lies below a node or is the node, else 0; nodes from 0 are the leaves.
        power: above 0, finite.
        n_prototypes: P of the model, to keep their distances; 0 to keep none.
    Attributes:
        count: (n_videos,) int64, the clips seen of each video.
        nearest: (n_videos, P), the smallest squared distance of a video's clips from each prototype; infinite without.
        best: (n_videos, K) int64, the item of the clip that gave each node the highest probability; of equal ones the
            earliest batch's, and in a batch the lowest; -1 for a video without clips.
    """

    def __init__(self, n_videos: int, membership: Tensor, power: float = 1.0, n_prototypes: int = 0) -> None:
        n_nodes, n_leaves = membership.shape
        self.power = power
        self.nearest = torch.full((n_videos, n_prototypes), torch.inf)
        self.count = torch.zeros(n_videos, dtype=torch.int64)
        self.best = torch.full((n_videos, n_nodes), -1)
        self._membership = membership.detach().double().cpu()
        self._sum = torch.zeros(n_videos, n_nodes if power == 1 else n_leaves, dtype=torch.float64)
        self._highest = torch.full((n_videos, n_nodes), -torch.inf)

    def add(self, videos: Tensor, probs: Tensor, items: Tensor, distances: Tensor | None = None) -> None:
        """Take in a batch of clips: the videos (B,) they are of, their probabilities (B, K), their items (B,), and
        their distances (B, P) from the prototypes, where these are kept."""
        if distances is not None:
            distances = distances.detach().float().cpu()
            self.nearest.scatter_reduce_(0, videos[:, None].expand_as(distances), distances, "amin")
        probs = probs.detach().float().cpu()
        self.count.index_add_(0, videos, torch.ones_like(videos))
        some, places = videos.unique(return_inverse=True)  # (n,), (B,)
        local = places[:, None].expand_as(probs)  # (B, K)
        top = probs.new_full((len(some), probs.shape[1]), -torch.inf).scatter_reduce(0, local, probs, "amax")  # (n, K)
        never = torch.iinfo(torch.int64).max
        candidates = items[:, None].expand_as(probs).masked_fill(probs < top.gather(0, local), never)  # (B, K)
        first = torch.full_like(top, never, dtype=torch.int64)
        first = first.scatter_reduce(0, local, candidates, "amin")  # (n, K)
        before = self._highest[some]
        self.best[some] = torch.where(top > before, first, self.best[some])
        self._highest[some] = highest = torch.maximum(top, before)
        unit = self._unit(highest)
        self._sum[some] *= (self._unit(before) / unit) ** self.power
        self._sum.index_add_(0, videos, (probs[:, :self._sum.shape[1]].double() / unit[places]) ** self.power)

    def merge(self, other: "VideoPool") -> None:
        """Add the clips of another pool; of equally good clips, the one of the lowest item is the best."""
        self.count += other.count
        self.nearest = torch.minimum(self.nearest, other.nearest)
        tied = (other._highest == self._highest) & (other.best < self.best)
        self.best = torch.where((other._highest > self._highest) | tied, other.best, self.best)
        highest = torch.maximum(other._highest, self._highest)
        unit = self._unit(highest)
        self._sum = (self._sum * (self._unit(self._highest) / unit) ** self.power
                     + other._sum * (other._unit(other._highest) / unit) ** self.power)
        self._highest = highest

    def _unit(self, highest: Tensor) -> Tensor:
        """(n, K) -> (n, 1): the highest probability of a leaf, the unit in which powers are summed, lest all vanish."""
        if self.power == 1:
            return torch.ones(len(highest), 1, dtype=torch.float64)
        leaves = highest[:, :self._membership.shape[1]]
        return leaves.amax(1, keepdim=True).double().clamp(min=torch.finfo(torch.float32).tiny)

    @property
    def seen(self) -> Tensor:
        """(n_videos,) bool: the videos of which there was a clip."""
        return self.count > 0

    @property
    def probs(self) -> Tensor:
        """(n_videos, K) float64; zeros for a video without clips."""
        if self.power == 1:
            return self._sum / self.count.clamp(min=1)[:, None]
        total = self._sum.sum(1, keepdim=True)  # at least 1, of the most probable leaf, where there was a clip
        return self._sum / total.clamp(min=torch.finfo(total.dtype).tiny) @ self._membership.T


def pool_windows(log_probs: Tensor, membership: Tensor, power: float) -> tuple[Tensor, int, int]:
    """Predict a video from its windows, and choose the window that shows the prediction best.

    Args:
        log_probs: (N, K) of the video's N >= 1 windows. membership, power: as of a `VideoPool`.
    Returns:
        the video's probabilities (K,) float64, its most probable leaf, and the window that gives that leaf the highest
        probability, the first of equals.
    """
    pool = VideoPool(1, membership, power)
    pool.add(torch.zeros(len(log_probs), dtype=torch.int64), log_probs.exp(), torch.arange(len(log_probs)))
    probs = pool.probs[0]
    leaf = int(probs[:membership.shape[1]].argmax())
    return probs, leaf, int(pool.best[0, leaf])
