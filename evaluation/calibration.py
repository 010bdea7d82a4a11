"""Temperature, which makes probabilities honest, and back-off to an ancestor where the class is uncertain.

A video's path is its most probable leaf and that leaf's ancestors, whose probabilities only grow on the way up.
Back-off climbs it until the probability reaches a threshold; beyond the top stands the root, whose probability is 1
and which holds no information.
"""

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

BINS = 15
COLDEST, HOTTEST = 0.01, 20.0  # temperatures searched
TINY = 1e-12  # the least probability that a logarithm is taken of


def tempered(probs: Tensor, temperature: float) -> Tensor:
    """Leaf probabilities (N, K0) at another temperature: softmax(log p / temperature).

    What is scaled is pooled over a video's clips (pool, then calibrate: Rahaman and Thiery, NeurIPS 2021).
    """
    return (probs.double().clamp(min=TINY).log() / temperature).softmax(-1)


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """The temperature under which the true leaves are most probable (Guo et al., ICML 2017).

    One more video is added, whose class is as uncertain as the model says: where few videos are all right,
    probabilities of 1 would fit them best, and no others.

    Args:
        probs: (N, K0) of videos that nothing was trained on; labels: (N,) leaves.
    Returns:
        0.01 .. 20; 1 where there are no videos, or where no other does any better.
    """
    if not len(labels):
        return 1.0
    scores = probs.double().clamp(min=TINY).log()
    targets = scores.softmax(-1) / len(labels)  # (N, K0): the added video, a share of it from every other
    targets.scatter_add_(1, labels[:, None], torch.ones_like(targets[:, :1]))

    def loss(coldness: float) -> float:  # convex in 1 / temperature
        return -float((targets * (scores * coldness).log_softmax(-1)).sum() / (len(labels) + 1))

    best = minimize_scalar(loss, bounds=(1 / HOTTEST, 1 / COLDEST), method="bounded")
    return 1 / float(best.x) if best.fun < loss(1.0) - 1e-9 else 1.0


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> tuple[float, list[dict]]:
    """Expected calibration error (Naeini et al., AAAI 2015): the mean gap between confidence and accuracy.

    Args:
        confidence: (N,) 0..1; right: (N,) bool. bins: of equal width.
    Returns:
        the error 0..1, and per bin that holds something its mean confidence, accuracy and count.
    """
    which = (confidence.double() * bins).long().clamp(0, bins - 1)  # (N,)
    count = torch.bincount(which, minlength=bins)
    sums = torch.stack([torch.bincount(which, values.double(), minlength=bins) for values in (confidence, right)])
    means = sums / count.clamp(min=1)  # (2, bins)
    error = float(((means[0] - means[1]).abs() * count).sum() / max(len(confidence), 1))
    rows = [{"confidence": float(means[0, i]), "accuracy": float(means[1, i]), "count": int(count[i])}
            for i in count.nonzero()[:, 0].tolist()]
    return error, rows


def climb(path_probs: Tensor, threshold: float) -> Tensor:
    """The level that back-off comes to: the lowest on the path whose probability reaches the threshold.

    Args:
        path_probs: (N, L) of the most probable leaf and its ancestors.
    Returns:
        (N,) int64, 0 .. L; L is the root.
    """
    return (path_probs < threshold).sum(1)


def information(n_leaves: Tensor, total: int) -> Tensor:
    """Information of a node, 1 for a leaf and 0 for the root: 1 - log n / log K0 for a node above n of K0 leaves."""
    if total < 2:
        return torch.zeros_like(n_leaves, dtype=torch.float64)
    return 1 - n_leaves.double().log() / math.log(total)


class RiskCurve:
    """Risk, coverage and information of back-off at every threshold that makes a difference.

    Args:
        path_probs: (N, L). right: (N, L) bool, whether the path's node is above the truth; the root always is.
        informative: (N, L) of each node on the path, 0..1; of the root it is 0.
    Attributes:
        thresholds: (M,) ascending, 0 first and last one that only the root reaches.
        risk, coverage, information: (M,) float64: the share of wrong answers, of answers that are a leaf, and the mean
            information of the answers.
    """

    def __init__(self, path_probs: Tensor, right: Tensor, informative: Tensor) -> None:
        probs, n = path_probs.double(), max(len(path_probs), 1)
        beyond = torch.zeros(len(probs), 1, dtype=torch.float64)
        wrong, info = torch.cat([(~right).double(), beyond], 1), torch.cat([informative.double(), beyond], 1)
        # above its probability, a node gives way to the one above it
        change = torch.stack([wrong.diff(dim=1), info.diff(dim=1),
                              torch.zeros_like(probs).index_fill_(1, torch.tensor([0]), -1.0)], -1)  # (N, L, 3)
        at, order = probs.cummax(1).values.flatten().sort()
        start = torch.stack([wrong[:, 0].sum(), info[:, 0].sum(), torch.tensor(float(len(probs)), dtype=torch.float64)])
        sums = start + torch.cat([torch.zeros(1, 3, dtype=torch.float64), change.flatten(0, 1)[order].cumsum(0)])
        distinct, counts = at.unique_consecutive(return_counts=True)
        # at a threshold only what is below it has given way
        passed = torch.cat([torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)[:len(distinct)],
                            counts.cumsum(0)])
        last = torch.nextafter(distinct[-1:], torch.tensor(2.0, dtype=torch.float64))
        self.thresholds = torch.cat([torch.zeros(1, dtype=torch.float64), distinct, last])
        self.risk, self.information, self.coverage = (sums[passed] / n).clamp(min=0).unbind(1)
        self.n = len(probs)

    @property
    def area(self) -> float:
        """Area under risk against information, 0 best: integrated over all thresholds by the trapezoidal rule."""
        return float(-torch.trapezoid(self.risk, self.information))

    def threshold_for(self, accuracy: float) -> float:
        """The lowest threshold whose answers to videos like these are right at least so often, in expectation.

        Conformal risk control (Angelopoulos et al., ICLR 2024): climbing never makes a right answer wrong, so with n
        videos to choose on (n risk + 1) / (n + 1) has to be at most 1 - accuracy.

        Returns:
            0 .. 1; a little above 1, which only the root reaches, where no lower one is accurate enough, or where there
            are too few videos to guarantee anything.
        """
        good = (self.n * self.risk + 1) / (self.n + 1) <= 1 - accuracy + 1e-12
        return float(self.thresholds[good.long().argmax()]) if good.any() else math.nextafter(1.0, 2.0)

    def points(self, n: int = 101) -> list[dict]:
        """The curve at n thresholds evenly spaced from 0 to 1, as plain numbers."""
        grid = torch.linspace(0, 1, n, dtype=torch.float64)
        at = torch.searchsorted(self.thresholds, grid).clamp(max=len(self.thresholds) - 1)
        return [{"threshold": round(float(t), 6), "risk": float(self.risk[i]), "coverage": float(self.coverage[i]),
                 "information": float(self.information[i])} for t, i in zip(grid, at.tolist(), strict=True)]
