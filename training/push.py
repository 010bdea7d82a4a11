"""Push: every prototype becomes the nearest training patch of its node, each another one; which one is written down."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hierarchy.tree import Hierarchy
from models.geometry import box_of, box_to_source, cell_centre, points_to_source, upsample
from models.hipe import HIPE
from training.distributed import World
from training.features import KeptFeatures, Shelf, valid_clips
from training.precision import Precision


@dataclass
class PushRecord:
    """Where every prototype comes from: data only; pictures are made from it later, without the model.

    A prototype that no clip matched has video None, zeros elsewhere, and keeps its value.
    """

    epoch: int
    video: list[str | None]  # (P,) names
    frames: Tensor  # (P, T) int64, the clip's frames in its video
    crop: Tensor  # (P, 4) float32: y0, x0, y1, x1 of the shown region in the video's own pixels
    cell: Tensor  # (P,) int64, flat position of the patch in (t, h, w)
    distance: Tensor  # (P,) float32, squared L2 from the prototype to the patch before the push
    maps: Tensor  # (P, t, h, w) float32, similarity of the pushed prototype to all patches of its clip
    clip_size: tuple[int, int, int]  # (T, H, W)
    stride: tuple[int, int, int]  # of the trunk
    offset: tuple[int, int, int] = (0, 0, 0)  # of the trunk: the centre of its first cell

    def heat(self, prototype: int) -> Tensor:
        """Similarity to the prototype over its own clip: (T, H, W)."""
        return upsample(self.maps[prototype], self.clip_size, self.stride, self.offset)

    def clip_box(self, prototype: int) -> tuple[int, ...]:
        """(t0, y0, x0, t1, y1, x1) of the patch in its clip."""
        boxes = self.__dict__.setdefault("_boxes", {})  # the same few prototypes explain many videos
        if prototype not in boxes:
            boxes[prototype] = box_of(self.heat(prototype))
        return boxes[prototype]

    def box(self, prototype: int) -> tuple[int, ...]:
        """(t0, y0, x0, t1, y1, x1) of the patch in its video's own frames and pixels."""
        return box_to_source(self.clip_box(prototype), self.frames[prototype], self.crop[prototype], self.clip_size[1:])

    def peak(self, prototype: int) -> Tensor:
        """(3,) int64 frame, y, x of the patch's centre in its video's own frames and pixels."""
        centre = cell_centre(self.cell[prototype], tuple(self.maps.shape[1:]), self.stride, self.clip_size, self.offset)
        return points_to_source(centre, self.frames[prototype], self.crop[prototype], self.clip_size[1:])

    def duplicates(self, node_of: Tensor) -> int:
        """How many prototypes are the very patch that another prototype of their node is; node_of (P,)."""
        patches = [(node, video, cell, *frames) for node, video, cell, frames
                   in zip(node_of.tolist(), self.video, self.cell.tolist(), self.frames.tolist(), strict=True)
                   if video is not None]
        return len(patches) - len(set(patches))

    def only(self, keep: Tensor) -> "PushRecord":
        """The record of some of the prototypes: keep (P,) bool."""
        video = [video for video, stays in zip(self.video, keep.tolist(), strict=True) if stays]
        rows = {name: getattr(self, name)[keep] for name in ("frames", "crop", "cell", "distance", "maps")}
        return replace(self, video=video, **rows)

    def to_dict(self) -> dict:
        """Plain types and tensors, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict) -> "PushRecord":
        places = {name: tuple(values[name]) for name in ("clip_size", "stride", "offset") if name in values}
        return cls(**{**values, **places})

    def rows(self, hierarchy: Hierarchy, node_of: Tensor) -> list[dict]:
        """One plain dict a prototype, for prototypes.json; peak and box in the video's own frames and pixels."""
        rows = []
        for p, video in enumerate(self.video):
            row = {"prototype": p, "node": list(hierarchy.path(int(node_of[p]))), "video": video}
            if video is not None:
                row |= {"frames": [int(self.frames[p].min()), int(self.frames[p].max()) + 1],
                        "cell": [int(i) for i in torch.unravel_index(self.cell[p], self.maps.shape[1:])],
                        "peak": self.peak(p).tolist(), "box": list(self.box(p)),
                        "distance": round(float(self.distance[p]), 6)}
            rows.append(row)
        return rows


@torch.no_grad()
def push(model: HIPE, loader: Iterable[dict], *, names: Sequence[str], device: torch.device, epoch: int = 0,
         n_clips: int, budget: int = 2 << 30, folder: Path | None = None, progress: bool = False,
         world: World | None = None, precision: Precision | None = None,
         repeats: bool = False) -> tuple[PushRecord, KeptFeatures]:
    """Project every prototype onto the nearest patch among the clips under its node, in one pass in eval mode.

    Where several prototypes of a node are nearest to one patch, the nearest of them takes it, and each of the others
    the nearest patch of the next video, and so on; only where the node has too few videos are they the same. The
    earliest clip wins ties. Costs an evaluation pass; what follows (tuning, pictures) is somebody else's.

    Args:
        loader: batches of un-augmented training clips in a fixed order, as `VideoClips` makes them: this process's
            share of them in `world`.
        names: video names by the batches' `video` index.
        n_clips: how many clips the loader holds at most.
        budget: bytes of features kept in memory; more go to a file in `folder`.
        precision: of trunk and neck (default: float32).
        repeats: let prototypes of a node take the same patch, as published.
    Returns:
        the record, and the features of this loader's clips for tuning.
    Raises:
        ValueError: where not one clip can be read.
    """
    world, precision = world or World(), precision or Precision(device)
    layer = model.prototype_layer
    level = model.level_of[layer.node_of]  # (P,)
    n_prototypes, channels = layer.prototypes.shape
    found = _Nearest(n_prototypes, 1 if repeats else layer.per_node, device)
    grid = clip_size = None
    shelf = Shelf(n_clips, budget, folder)
    model.eval()
    for batch in valid_clips(loader, device, "push" if progress else None):
        with precision.in_inference():
            output = model(batch["clip"])
        grid, clip_size = output.features.shape[2:], tuple(batch["clip"].shape[2:])
        owned = model.ancestors[batch["label"]][:, level] == layer.node_of  # (B, P)
        found.add(output.distances.masked_fill(~owned, torch.inf), output.cells, output.features, batch, shelf.used)
        shelf.add(output.features, batch["label"])
    if grid is None:
        raise ValueError("push: not one training clip could be read; run util_scripts.generate_video_jpgs again")
    mine, best = found.choose(world, layer.node_of, repeats=repeats)
    row = {name: world.merge(values, mine) for name, values in best.items()}
    cell, matched = row["cell"], row["distance"] < torch.inf
    patches = torch.where(matched[:, None], row["patch"], layer.prototypes)
    layer.prototypes.copy_(patches)

    maps = torch.zeros(n_prototypes, *grid)
    kept = shelf.kept()
    for chosen in (matched & mine).nonzero().squeeze(1).cpu().split(256):
        own = kept.features[best["kept_at"].cpu()[chosen]].to(device).float()  # (n, C, t, h, w)
        distances = (own - patches[chosen.to(device)][:, :, None, None, None]).square().sum(1)  # (n, t, h, w)
        # the patch itself is at distance 0; half precision would say 1e-5
        distances.flatten(1).scatter_(1, cell[chosen.to(device)][:, None], 0.0)
        maps[chosen] = layer.similarity(distances).cpu()
    maps = world.merge(maps, mine)
    at = {name: row[name].masked_fill(~matched.view(-1, *[1] * (row[name].dim() - 1)), 0).cpu()
          for name in ("frames", "crop", "cell", "distance")}
    video = [names[v] if known else None for v, known in zip(row["video"].tolist(), matched.tolist(), strict=True)]
    record = PushRecord(epoch=epoch, video=video, maps=maps, clip_size=clip_size, stride=tuple(model.trunk.stride),
                        offset=model.offset, **at)
    return record, kept


class _Nearest:
    """The n nearest videos to each of P prototypes, by the nearest patch of each: rows (P, n, ...), the nearest first.

    The earlier clip comes first where two are equally near; infinitely far stands for none.
    """

    def __init__(self, n_prototypes: int, n: int, device: torch.device) -> None:
        self.n = n
        self.rows = {"distance": torch.full((n_prototypes, n), torch.inf, device=device),
                     "video": torch.full((n_prototypes, n), -1, device=device)}

    def add(self, distances: Tensor, cells: Tensor, features: Tensor, batch: dict, first: int) -> None:
        """Take up a batch.

        Args:
            distances, cells: (B, P), infinite for clips that a prototype may not come to. features: (B, C, t, h, w).
            first: number of the batch's first clip among those kept.
        """
        which = (distances < self.rows["distance"][:, -1]).any(0).nonzero()[:, 0]  # (c,): prototypes that may gain
        given = {name: batch[name].to(distances.device) for name in ("video", "item", "frames", "crop")}
        videos = torch.cat([self.rows["video"][which], given["video"].expand(len(which), -1)], 1)  # (c, n + B)
        near = torch.cat([self.rows["distance"][which], distances.T[which]], 1)
        near, order = near.masked_fill(_not_nearest(near, videos), torch.inf).sort(dim=1, stable=True)
        near, order = near[:, :self.n], order[:, :self.n]
        clip, line = (order - self.n).clamp(min=0), torch.arange(len(which), device=order.device)[:, None]
        cell = cells[clip, which[:, None]]
        found = {name: values[clip] for name, values in given.items()} | {
            "distance": near, "cell": cell, "kept_at": clip + first,
            "patch": features.flatten(2)[clip, :, cell].float()}  # (c, n, C)
        for name, values in found.items():
            if name not in self.rows:
                self.rows[name] = values.new_zeros(*self.rows["distance"].shape, *values.shape[2:])
            known = (order < self.n).view(*order.shape, *[1] * (values.dim() - 2))
            before = self.rows[name][which][line, order.clamp(max=self.n - 1)]
            self.rows[name][which] = torch.where(known, before, values) if name != "distance" else values

    def choose(self, world: World, node_of: Tensor, *, repeats: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Give each prototype one of the patches that all processes have found for it.

        Args:
            node_of: (P,). repeats: whether prototypes of a node may have the same.
        Returns:
            (P,) bool, whose patch is this process's, and that patch's row (P, ...) for these.
        """
        told = {name: world.stack(self.rows[name]).transpose(0, 1).flatten(1, 2).cpu()  # (P, size n, ...)
                for name in ("distance", "item", "video", "cell", "frames")}
        distance, item = told["distance"].numpy(), told["item"].numpy()
        prototype, slot = np.nonzero(np.isfinite(distance))
        order = np.lexsort((prototype, item[prototype, slot], distance[prototype, slot]))
        node, chosen = node_of.tolist(), [-1] * len(distance)
        taken, passed = set(), set()
        for p, i in zip(prototype[order].tolist(), slot[order].tolist(), strict=True):
            video = int(told["video"][p, i])
            if chosen[p] >= 0 or (p, video) in passed:  # another process has a nearer clip of the video
                continue
            patch = (node[p], video, int(told["cell"][p, i]), *told["frames"][p, i].tolist())
            if repeats or patch not in taken:
                chosen[p] = i
                taken.add(patch)
            passed.add((p, video))
        nearest = np.lexsort((item, distance), axis=1)[:, 0]  # of a node with fewer videos than prototypes
        pick = torch.tensor([int(nearest[p]) if i < 0 else i for p, i in enumerate(chosen)],
                            device=self.rows["distance"].device)
        line = torch.arange(len(pick), device=pick.device)
        return pick // self.n == world.rank, {name: rows[line, pick % self.n] for name, rows in self.rows.items()}


def _not_nearest(distances: Tensor, videos: Tensor) -> Tensor:
    """Where a row has a nearer clip of the same video, or an earlier one as near: (c, m), (c, m) -> (c, m) bool."""
    order = distances.sort(dim=1, stable=True).indices
    sorted_videos = videos.gather(1, order)
    again = (sorted_videos[:, :, None] == sorted_videos[:, None, :]).tril(-1).any(2)
    return torch.empty_like(again).scatter_(1, order, again)


@torch.no_grad()
def start_prototypes(model: HIPE, loader: Iterable[dict], *, device: torch.device, generator: torch.Generator,
                     peaks: int = 3, sure: float = 0.5, mapped: bool = True, precision: Precision | None = None,
                     progress: bool = False) -> int:
    """Start each node's prototypes at patches where the pooled head sees the clips' classes.

    Sampled without replacement from the peaks of the class maps of the node's clips, over those whose true class this
    head gives a probability above `sure`. A node with too few of these takes the peaks of the clips it is surest of,
    then any patch of its clips, then keeps random values.

    Args:
        loader: batches of un-augmented training clips; generator: of the choice, on the CPU.
        peaks: candidate cells of each clip.
        mapped: False where the pooled head was not trained: any patch of the node's clips is then as good as another.
        precision: of the trunk (default: float32).
    Returns:
        how many prototypes were placed.
    Raises:
        ValueError: where not one clip can be read.
    """
    layer, precision = model.prototype_layer, precision or Precision(device)
    n_leaves, n_levels = model.ancestors.shape
    most = layer.per_node
    patches, leaves, merits = [], [], []  # a candidate's merit: 2 a sure peak, 1..2 another peak, below 1 any patch
    clips_of = torch.zeros(n_leaves, dtype=torch.int64)
    model.eval()
    for batch in valid_clips(loader, device, "start" if progress else None):
        with precision.in_inference():
            trunk = model.trunk(batch["clip"])
        trunk, label = trunk.float(), batch["label"].cpu()
        features = model.neck(trunk).flatten(2).transpose(1, 2)  # (B, N, C)
        draw = torch.rand(features.shape[:2], generator=generator)  # (B, N)
        n_peaks = min(peaks, features.shape[1]) if mapped else 0
        best = model.class_map(trunk, batch["label"]).flatten(1).topk(n_peaks).indices.cpu()  # (B, n)
        true = model.pooled_log_probs(trunk).gather(1, batch["label"][:, None]).exp().cpu()  # (B, 1)
        merit = torch.where(true > sure, 2.0, 1 + true).expand_as(best)  # (B, n)
        # patches off the peaks are needed only of classes with few clips
        n_others = max(min(most, features.shape[1]) - n_peaks, 0)
        others = draw.scatter(1, best, -1).topk(n_others)
        few = clips_of[label] * max(n_peaks, 1) < most  # (B,)
        clips_of += torch.bincount(label, minlength=n_leaves)
        for cells, value, which in ((best, merit, torch.ones_like(few)), (others.indices, others.values, few)):
            chosen = features[which.to(device)].gather(
                1, cells[which].to(device)[..., None].expand(-1, -1, features.shape[2]))  # (b, n, C)
            patches.append(chosen.flatten(0, 1).cpu())
            leaves.append(label[which, None].expand(-1, cells.shape[1]).flatten())
            merits.append(value[which].flatten())
    if not patches:
        raise ValueError("start: not one training clip can be read; run util_scripts.generate_video_jpgs again")
    nodes = model.ancestors.cpu()[torch.cat(leaves)].flatten()  # (M L,): a patch is a candidate at every level
    merit = torch.cat(merits).repeat_interleave(n_levels)
    # every level draws for itself, or ancestors would start at their classes' own patches
    draw = torch.rand(len(merit), generator=generator)
    merit = torch.where(merit >= 2, 2 + draw, torch.where(merit < 1, draw, merit))
    order = merit.argsort(descending=True, stable=True)
    order = order[nodes[order].argsort(stable=True)]  # by node, the best of each first
    count = torch.bincount(nodes, minlength=len(model.level_of))  # (K,) candidates of each node
    node_of = layer.node_of.cpu()
    first = (layer.counts.cumsum(0) - layer.counts).cpu()  # (K,) of each node's prototypes
    rank = torch.arange(len(node_of)) - first[node_of]  # (P,) place among the node's prototypes
    placed = rank < count[node_of]
    source = order[((count.cumsum(0) - count)[node_of] + rank)[placed]]
    layer.prototypes[placed.to(device)] = torch.cat(patches)[source // n_levels].to(device)
    return int(placed.sum())
