"""A model whose answers are known: its only channel is the brightness around a cell. And videos with a bright spot."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets.reading import FrameTimes, VideoInfo
from hierarchy.embeddings import fit_embeddings
from hierarchy.tree import Hierarchy
from models.geometry import box_of, box_to_source, upsample
from models.hipe import HIPE
from models.resnet3d import ResNet3D
from models.score import Score
from models.scores import EmbeddedScore, HyperbolicTreeScore, TreeScore

ROWS = [["Run", "Legs", "Body"], ["Jump", "Legs", "Body"], ["Wave", "Arms", "Body"], ["Clap", "Arms", "Body"],
        ["Saw", "Tool", "Thing"], ["Drum", "Music", "Thing"]]
STRIDE = (2, 4, 8)  # different along each axis, as everything here, so that nothing can be transposed unnoticed


class Brightness(nn.Module):
    """A strided, padded mean over 3 x 5 x 9 voxels of all colours: (B, 3, T, H, W) -> (B, 1, t, h, w)."""

    out_channels, stride = 1, STRIDE

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 1, (3, 5, 9), STRIDE, (1, 2, 4), bias=False)
        nn.init.constant_(self.conv.weight, 1 / (3 * 3 * 5 * 9))

    def forward(self, clips: Tensor) -> Tensor:
        return self.conv(clips)


def embedded(tree: Hierarchy, *, dim: int = 8, **options) -> Callable[[Hierarchy, Tensor], Score]:
    """A score by hyperbolic distance to freshly placed classes."""
    return partial(EmbeddedScore, points=fit_embeddings(tree, dim=dim, edge=1.5), **options)


def tree_score(tree: Hierarchy, name: str) -> Callable[[Hierarchy, Tensor], Score]:
    """The tree score of that name; siblings of the hyperbolic one lie where they were freshly placed."""
    if name == "tree":
        return TreeScore
    return partial(HyperbolicTreeScore, points=fit_embeddings(tree, dim=8, edge=1.5), c=1.3)


def tiny_hipe(*, per_node: int = 3, seed: int = 0, score: str = "hyperbolic") -> tuple[HIPE, Hierarchy]:
    """An untrained model on brightness itself; each node's first prototype is the brightest spot there can be."""
    torch.manual_seed(seed)
    tree = Hierarchy.from_rows(ROWS)
    made = embedded(tree) if score == "hyperbolic" else tree_score(tree, score)
    model = HIPE(Brightness(), tree, made, channels=1, per_node=per_node)
    model.neck = nn.Identity()
    with torch.no_grad():
        model.prototype_layer.prototypes.uniform_(-2, 3)
        model.prototype_layer.prototypes[::per_node] = 2.3
        for weight in model.score.last:
            weight += (0.05 if score == "hyperbolic" else 0.5) * torch.randn_like(weight)
    return model.eval(), tree


@dataclass
class Spot:
    """Where and when a video is bright: half-open, in its own frames and pixels."""

    frames: tuple[int, int]
    y: tuple[int, int]
    x: tuple[int, int]

    def paint(self, pixels: np.ndarray) -> np.ndarray:
        pixels[slice(*self.frames), slice(*self.y), slice(*self.x)] = 255
        return pixels

    def holds(self, frame: float, y: float, x: float) -> bool:
        pairs = zip((self.frames, self.y, self.x), (frame, y, x), strict=True)
        return all(first <= at < last for (first, last), at in pairs)


class MemoryReader:
    """A reader of videos that are arrays; `shrink` stores them smaller than they claim to be."""

    def __init__(self, videos: dict[str, np.ndarray], *, fps: float | None = 10.0, shrink: int = 1) -> None:
        self.videos, self.fps, self.shrink = videos, fps, shrink

    def frames(self, path: Path, indices: Tensor | None = None) -> Tensor:
        pixels = self._pixels(path)
        stored = torch.from_numpy(pixels[:, self.shrink // 2::self.shrink, self.shrink // 2::self.shrink].copy())
        return stored if indices is None else stored[torch.as_tensor(indices)]

    def info(self, path: Path) -> VideoInfo:
        return VideoInfo(*self._pixels(path).shape[:3], self.fps)

    def times(self, path: Path) -> FrameTimes | None:
        return FrameTimes.of(self.info(path).n_frames, self.fps)

    def size(self, path: Path) -> tuple[int, int]:
        return self._pixels(path).shape[1:3]

    def _pixels(self, path: Path) -> np.ndarray:
        if str(path) not in self.videos:
            raise ValueError(f"{path}: no such video; it is not in memory")
        return self.videos[str(path)]


class Record:
    """A push record as explanations read it: prototypes that all come from one place, and some from nowhere."""

    def __init__(self, video: list[str | None], frames: Tensor, crop: Tensor, maps: Tensor,
                 size: tuple[int, int, int]) -> None:
        n, self.stands_for, self.spread = len(video), None, None
        self.video, self.frames, self.crop = video, frames.expand(n, -1), crop.expand(n, -1)
        self._heat = upsample(maps, size, STRIDE)

    def heat(self, prototype: int) -> Tensor:
        return self._heat

    def clip_box(self, prototype: int) -> tuple[int, ...]:
        return box_of(self._heat)

    def closer_than(self, prototype: int, distance: float) -> tuple[float, int] | None:
        return 0.75, 8

    def typical(self, prototype: int, distance: float) -> tuple[float, int] | None:
        return None

    def box(self, prototype: int) -> tuple[int, ...]:
        return box_to_source(self.clip_box(prototype), self.frames[prototype], self.crop[prototype],
                             self._heat.shape[1:])


def random_tree(seed: int, n_levels: int, n_leaves: int) -> Hierarchy:
    """A tree of any shape: some nodes have one child, some many."""
    rng = np.random.default_rng(seed)
    sizes = [n_leaves]
    for _ in range(n_levels - 1):
        sizes.append(int(rng.integers(1, max(2, sizes[-1]))))
    above = [rng.integers(size, size=n) for n, size in zip(sizes, sizes[1:], strict=False)]
    rows = []
    for leaf in range(n_leaves):
        ids = [leaf]
        for parents in above:
            ids.append(int(parents[ids[-1]]))
        rows.append([f"level {level} node {node}" for level, node in enumerate(ids)])
    return Hierarchy.from_rows(rows)


def small_hipe(tree: Hierarchy, *, per_node: int = 2, channels: int = 6, neck: str = "sigmoid", seed: int = 0) -> HIPE:
    """An untrained model on a real trunk of 8 to 64 channels, whose batch-norm statistics are nobody's default.

    8 x 32 x 32 pixels make 2 x 4 x 4 cells.
    """
    torch.manual_seed(seed)
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3, spatial_strides=(2, 2, 2, 1, 1))
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return HIPE(trunk, tree, embedded(tree, dim=max(8, tree.n_leaves)), channels=channels, per_node=per_node, neck=neck)


def levels_hipe(tree: Hierarchy, *, per_node: int | list[int] = 2, channels: int = 4, hidden: int = 6,
                score: Callable[[Hierarchy, Tensor], Score] = TreeScore, seed: int = 0) -> HIPE:
    """As `small_hipe`, deciding at every branching, by unit vectors of each level's own."""
    trunk = small_hipe(tree, seed=seed).trunk
    return HIPE(trunk, tree, score, channels=channels, hidden=hidden, per_node=per_node, neck="levels", scale=0.5)


def noise_batch(labels: list[int], *, first: int = 0, size: tuple[int, int, int] = (8, 32, 32), seed: int = 0) -> dict:
    """A batch as the loader makes it, of noise clips: clip i is of video i, counted from `first`."""
    generator = torch.Generator().manual_seed(seed * 1000 + first)
    n, (frames, height, width) = len(labels), size
    still = torch.randint(128, (n, 3, 1, height, width), generator=generator, dtype=torch.uint8)
    clip = still + torch.randint(128, (n, 3, frames, height, width), generator=generator, dtype=torch.uint8)
    items = torch.arange(first, first + n)
    return {"clip": clip, "label": torch.tensor(labels), "video": items.clone(), "item": items,
            "frames": torch.arange(frames) + 10 * items[:, None], "flip": torch.zeros(n, dtype=torch.bool),
            "crop": torch.tensor([0.0, 8, 64, 72]) + items[:, None], "valid": torch.ones(n, dtype=torch.bool)}


class Sampling(nn.Module):
    """Takes every fourth pixel of every second frame, so that equal clips have features that are equal to the bit."""

    out_channels, stride = 3, (2, 4, 4)

    def forward(self, clips):
        return clips[:, :, ::2, ::4, ::4]


def sampling_hipe(tree: Hierarchy, per_node: int = 2) -> HIPE:
    torch.manual_seed(0)
    model = HIPE(Sampling(), tree, embedded(tree), channels=3, per_node=per_node)
    model.neck = nn.Identity()
    return model
