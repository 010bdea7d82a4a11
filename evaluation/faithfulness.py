"""Does the model look where an explanation says? Clips ruined step by step, boxes kept and hidden, small disturbances.

A score function takes clips (B, 3, T, H, W) to (B,); heat is (T, H, W), hotter is more important; boxes are
(t0, y0, x0, t1, y1, x1), half-open, in the clip.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Score = Callable[[Tensor], Tensor]
Box = tuple[int, int, int, int, int, int]

STEPS = 128
GRID = (8, 8, 8)  # blocks along time, height and width that voxels are pooled to
BLUR = 1 / 6  # of a frame's longer side: standard deviation


def blurred(clip: Tensor) -> Tensor:
    """A clip (3, T, H, W) of which only a strong blur is left, frame by frame.

    Brightness, colour and light stay as they are, so that no edge appears that was not there; a box of one colour would
    be a shape of its own.
    """
    sigma = BLUR * max(clip.shape[2:])
    width = min(2 * round(2.5 * sigma) + 1, 2 * min(clip.shape[2:]) - 1)  # odd, and no wider than padding can be
    # one axis after the other: the same to rounding, and a tenth of the work
    frames = gaussian_blur(clip.transpose(0, 1), [width, 1], [sigma, sigma])
    return gaussian_blur(frames, [1, width], [sigma, sigma]).transpose(0, 1)


def faded(clip: Tensor) -> Tensor:
    """The mean colour everywhere, which is 0 in a normalised clip."""
    return torch.zeros_like(clip)


def block_ranks(heat: Tensor, grid: tuple[int, int, int] = GRID, seed: int = 0) -> Tensor:
    """When a voxel's turn comes, hottest first: heat is pooled to blocks, and equal blocks come in random order.

    Returns:
        (T, H, W) float32, 0 for the first block .. 1 - 1/n for the last of n.
    """
    n = [min(cells, size) for cells, size in zip(grid, heat.shape, strict=True)]
    which = [torch.arange(size) * cells // size for cells, size in zip(n, heat.shape, strict=True)]
    block = (which[0][:, None, None] * n[1] + which[1][:, None]) * n[2] + which[2]  # (T, H, W)
    flat, total = block.flatten(), n[0] * n[1] * n[2]
    values = heat.detach().double().cpu().flatten()
    means = torch.bincount(flat, values, total) / torch.bincount(flat, minlength=total)
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    order = shuffled[means[shuffled].argsort(descending=True, stable=True)]
    ranks = torch.empty(total).index_copy_(0, order, torch.arange(total) / total)
    return ranks[block]


@torch.no_grad()
def transition(score_fn: Score, first: Tensor, last: Tensor, heat: Tensor, *, steps: int = STEPS,
               grid: tuple[int, int, int] = GRID, batch_size: int = 32, seed: int = 0) -> Tensor:
    """Scores of a clip that turns into another one, the hottest blocks first.

    Args:
        first, last: (3, T, H, W). heat: (T, H, W). steps: from the first to the last.
        grid: blocks along time, height and width. seed: of the order of equal blocks.
    Returns:
        (steps + 1,) on the CPU.
    """
    ranks = block_ranks(heat, grid, seed).to(first.device)
    scores = []
    for shares in (torch.arange(steps + 1, device=first.device) / steps).split(batch_size):
        turned = ranks < shares[:, None, None, None]  # (b, T, H, W)
        scores.append(score_fn(torch.where(turned[:, None], last, first)).float().cpu())
    return torch.cat(scores)


def insertion(score_fn: Score, clip: Tensor, heat: Tensor, **how: object) -> float:
    """Mean score while a blurred clip gets sharp, the hottest first (Petsiuk et al., BMVC 2018); higher is better."""
    return _mean(transition(score_fn, blurred(clip), clip, heat, **how))


def deletion(score_fn: Score, clip: Tensor, heat: Tensor, **how: object) -> float:
    """Mean score while a clip fades to its mean colour, the hottest first; lower is better."""
    return _mean(transition(score_fn, clip, faded(clip), heat, **how))


def _mean(curve: Tensor) -> float:
    return float(torch.trapezoid(curve.double()) / (len(curve) - 1))


@torch.no_grad()
def kept_and_hidden(score_fn: Score, clip: Tensor, box: Box) -> tuple[float, float, float]:
    """Scores of a clip, of the clip where only a box is sharp, and of the clip where only the box is blurred."""
    inside = torch.zeros(clip.shape[1:], dtype=torch.bool, device=clip.device)
    inside[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = True
    ruin = blurred(clip)
    return tuple(score_fn(torch.stack([clip, torch.where(inside, clip, ruin), torch.where(inside, ruin, clip)]))
                 .float().tolist())


def box_share(box: Box, size: tuple[int, int, int]) -> float:
    """Share of a clip's voxels that a box holds."""
    return float(np.prod([(b - a) / n for a, b, n in zip(box[:3], box[3:], size, strict=True)]))


def moved_box(box: Box, size: tuple[int, int, int], rng: np.random.Generator | None = None) -> Box:
    """A box of the same shape in a random place, or without a generator in the middle of the clip."""
    spans = [b - a for a, b in zip(box[:3], box[3:], strict=True)]
    starts = [(n - span) // 2 if rng is None else int(rng.integers(n - span + 1))
              for n, span in zip(size, spans, strict=True)]
    return (*starts, *(start + span for start, span in zip(starts, spans, strict=True)))


def noisy(clip: Tensor, seed: int, spread: float = 8.0) -> Tensor:
    """A uint8 clip (3, T, H, W) under Gaussian noise of a standard deviation of `spread` grey levels."""
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed)) * spread
    return (clip.float() + noise).round().clamp(0, 255).to(torch.uint8)


def recompressed(clip: Tensor, quality: int = 50) -> Tensor:
    """A uint8 clip (3, T, H, W) whose frames were saved as JPEG once more."""
    frames = []
    for frame in clip.permute(1, 2, 3, 0).numpy():
        memory = io.BytesIO()
        Image.fromarray(frame).save(memory, "jpeg", quality=quality)
        frames.append(np.asarray(Image.open(memory)))
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()


def nearness(size: tuple[int, int, int]) -> Tensor:
    """(3,) how far a peak may move in a clip (T, H, W) and be where it was: the same for models of all strides."""
    return torch.tensor([size[0] / 4, size[1] / 8, size[2] / 8])


def same_place(peak: Tensor, other: Tensor, tolerance: Tensor) -> Tensor:
    """Whether peaks (..., 3) stayed where they were, up to a tolerance (3,) in time, height and width: (...) bool."""
    return ((peak - other).abs() <= tolerance).all(-1)


def peak_of(heat: Tensor) -> Tensor:
    """(3,) frame, y, x of the hottest voxel, the first of equals."""
    return torch.stack(torch.unravel_index(heat.argmax().cpu(), heat.shape))


@torch.no_grad()
def greedy_set(n: int, value: Callable[[Tensor], Tensor], share: float = 0.9) -> list[int]:
    """The prototypes that keep a share of the evidence, taken greedily, each time the one that adds most.

    Args:
        n: P, of the prototypes.
        value: (m, P) masks, 1 for a prototype that is there and 0 for one that is not -> (m,) log-probability of the
            node that is explained.
        share: of value(all) - value(none).
    Returns:
        their numbers, in the order in which they were taken; none where there is no evidence.
    """
    whole, nothing = value(torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand(2, n)).tolist()
    wanted, reached = nothing + share * (whole - nothing), nothing
    taken: list[int] = []
    there, each = torch.zeros(n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    while whole > nothing and reached < wanted and len(taken) < n:
        gains = value(there + each).index_fill(0, torch.tensor(taken, dtype=torch.int64), -torch.inf)
        best = int(gains.argmax())
        there, reached = there + each[best], float(gains[best])
        taken.append(best)
    return taken


@torch.no_grad()
def random_set(n: int, value: Callable[[Tensor], Tensor], rng: np.random.Generator, share: float = 0.9) -> int:
    """How many prototypes keep the share when they are taken in random order; arguments as `greedy_set`.

    0 where there is no evidence.
    """
    place = torch.from_numpy(np.argsort(rng.permutation(n)))  # (P,) when the turn of each comes
    values = value((place < torch.arange(n + 1)[:, None]).double())
    if values[-1] <= values[0]:
        return 0
    return int((values >= values[0] + share * (values[-1] - values[0]) - 1e-9).long().argmax())
