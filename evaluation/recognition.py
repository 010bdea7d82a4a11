"""How good the recognition is: accuracy level by level, severity of mistakes, probabilities of whole videos.

The prediction is the most probable leaf; its ancestors are the predicted nodes. Only `level_argmax_accuracy` departs
from that, which is why it has a name of its own. Node ids, `ancestors` and `levels` are those of a `Hierarchy`.
"""

import torch
from torch import Tensor


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


class VideoMean:
    """Mean of the clips' probabilities over each video, and each node's best clip, as clips stream by.

    Memory is a few numbers a video and node, however many clips there are.

    Args:
        n_videos, n_nodes: how many there are.
    Attributes:
        count: (n_videos,) int64, the clips seen of each video.
        best: (n_videos, K) int64, the item of the clip that gave each node the highest probability; of equal ones the
            earliest batch's, and in a batch the lowest; -1 for a video without clips.
    """

    def __init__(self, n_videos: int, n_nodes: int) -> None:
        self.count = torch.zeros(n_videos, dtype=torch.int64)
        self.best = torch.full((n_videos, n_nodes), -1)
        self._sum = torch.zeros(n_videos, n_nodes, dtype=torch.float64)
        self._highest = torch.full((n_videos, n_nodes), -torch.inf)

    def add(self, videos: Tensor, probs: Tensor, items: Tensor) -> None:
        """Take in a batch of clips: the videos (B,) they are of, their probabilities (B, K), their items (B,)."""
        probs = probs.detach().float().cpu()
        self.count.index_add_(0, videos, torch.ones_like(videos))
        self._sum.index_add_(0, videos, probs.double())
        some, local = videos.unique(return_inverse=True)  # (n,), (B,)
        local = local[:, None].expand_as(probs)  # (B, K)
        top = probs.new_full((len(some), probs.shape[1]), -torch.inf).scatter_reduce(0, local, probs, "amax")  # (n, K)
        never = torch.iinfo(torch.int64).max
        candidates = items[:, None].expand_as(probs).masked_fill(probs < top.gather(0, local), never)  # (B, K)
        first = torch.full_like(top, never, dtype=torch.int64)
        first = first.scatter_reduce(0, local, candidates, "amin")  # (n, K)
        better = top > self._highest[some]
        self.best[some] = torch.where(better, first, self.best[some])
        self._highest[some] = torch.maximum(top, self._highest[some])

    def merge(self, other: "VideoMean") -> None:
        """Take in what another one saw of other clips, whose items settle ties: the lowest is the best clip."""
        self.count += other.count
        self._sum += other._sum
        tied = (other._highest == self._highest) & (other.best < self.best)
        self.best = torch.where((other._highest > self._highest) | tied, other.best, self.best)
        self._highest = torch.maximum(self._highest, other._highest)

    @property
    def seen(self) -> Tensor:
        """(n_videos,) bool: the videos of which there was a clip."""
        return self.count > 0

    @property
    def mean(self) -> Tensor:
        """(n_videos, K) float64; zeros for a video without clips."""
        return self._sum / self.count.clamp(min=1)[:, None]
