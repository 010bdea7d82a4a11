"""The push: every prototype becomes the nearest training patch of its node, each a different one, and is recorded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from evaluation.typicality import share_farther
from hierarchy.tree import Hierarchy
from models.geometry import box_of, box_to_source, cell_centre, points_to_source, upsample
from models.hipe import HIPE
from training.distributed import World
from training.features import KeptFeatures, Shelf, size_of_clips, trunk_features, valid_clips
from training.nearest import Nearest
from training.precision import Precision


@dataclass
class PushRecord:
    """The training patch of every prototype, as data from which pictures are drawn later without the model.

    A prototype that no clip matched keeps its value; its video is None and its other entries are 0.
    """

    epoch: int
    video: list[str | None]  # (P,) names; None for unmatched
    frames: Tensor  # (P, T) int64, the clip's frames in its video
    crop: Tensor  # (P, 4) float32: y0, x0, y1, x1 of the clip in the video's own pixels
    cell: Tensor  # (P,) int64, flat position of the patch in (t, h, w)
    distance: Tensor  # (P,) float32, squared L2 from the prototype to the patch before the push
    maps: Tensor  # (P, t, h, w) float32, similarity of the pushed prototype to all patches of its clip
    clip_size: tuple[int, int, int]  # (T, H, W)
    stride: tuple[int, int, int]  # of the trunk
    offset: tuple[int, int, int] = (0, 0, 0)  # of the trunk: the centre of its first cell
    stands_for: list[list[int]] | None = None  # (P',) numbers before merging: each with those merged into it
    spread: dict[str, Tensor] | None = None  # of training videos' distances, see evaluation.typicality
    earlier: Tensor | None = None  # (P,) int64, numbers in the checkpoint before pruning

    def heat(self, prototype: int) -> Tensor:
        """Similarity to a prototype over its own clip: (T, H, W)."""
        return upsample(self.maps[prototype], self.clip_size, self.stride, self.offset)

    def clip_box(self, prototype: int) -> tuple[int, ...]:
        """(t0, y0, x0, t1, y1, x1) of the patch in its clip."""
        boxes = self.__dict__.setdefault("_boxes", {})  # cached, since a few prototypes explain many videos
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

    def closer_than(self, prototype: int, distance: float) -> tuple[float, int] | None:
        """The share of other nodes' training videos that are farther than a squared distance, and their number."""
        return None if self.spread is None else share_farther(self.spread, "others", prototype, distance)

    def typical(self, prototype: int, distance: float) -> tuple[float, int] | None:
        """As `closer_than`, among the other training videos of its own node."""
        return None if self.spread is None else share_farther(self.spread, "own", prototype, distance)

    def duplicates(self, node_of: Tensor) -> int:
        """The number of prototypes whose patch another prototype of their node has already; node_of (P,)."""
        patches = [(node, video, cell, *frames) for node, video, cell, frames
                   in zip(node_of.tolist(), self.video, self.cell.tolist(), self.frames.tolist(), strict=True)
                   if video is not None]
        return len(patches) - len(set(patches))

    def only(self, keep: Tensor) -> "PushRecord":
        """The record of some of the prototypes: keep (P,) bool."""
        video = [video for video, stays in zip(self.video, keep.tolist(), strict=True) if stays]
        rows = {name: getattr(self, name)[keep] for name in ("frames", "crop", "cell", "distance", "maps")}
        if self.earlier is not None:
            rows["earlier"] = self.earlier[keep]
        if self.stands_for is not None:
            rows["stands_for"] = [group for group, stays in zip(self.stands_for, keep.tolist(), strict=True) if stays]
        if self.spread is not None:
            rows["spread"] = {name: values[keep] for name, values in self.spread.items()}
        return replace(self, video=video, **rows)

    def to_dict(self) -> dict:
        """Plain types and tensors, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict) -> "PushRecord":
        """The record that `to_dict` gave.

        Raises:
            TypeError, ValueError: where an entry is missing, or is not of as many prototypes as there are.
        """
        places = {name: tuple(values[name]) for name in ("clip_size", "stride", "offset") if name in values}
        record = cls(**{**values, **places})
        for name, n_axes in (("frames", 2), ("crop", 2), ("cell", 1), ("distance", 1), ("maps", 4)):
            value = getattr(record, name)
            if not isinstance(value, Tensor) or value.dim() != n_axes or len(value) != len(record.video):
                raise ValueError(f"{name} of the push record is not of its {len(record.video)} prototypes")
        for name in ("clip_size", "stride", "offset"):
            if len(place := getattr(record, name)) != 3 or not all(isinstance(length, int) for length in place):
                raise ValueError(f"{name} of the push record is not three lengths")
        return record

    def rows(self, hierarchy: Hierarchy, node_of: Tensor) -> list[dict]:
        """One plain dict per prototype, for prototypes.json; peak and box in the video's own frames and pixels."""
        rows = []
        for p, video in enumerate(self.video):
            row = {"prototype": p, "node": list(hierarchy.path(int(node_of[p]))), "video": video}
            if video is not None:
                row |= {"frames": [int(self.frames[p].min()), int(self.frames[p].max()) + 1],
                        "cell": [int(i) for i in torch.unravel_index(self.cell[p], self.maps.shape[1:])],
                        "peak": self.peak(p).tolist(), "box": list(self.box(p)),
                        "distance": round(float(self.distance[p]), 6)}
            if self.stands_for is not None:
                row["stands_for"] = self.stands_for[p]
            if self.earlier is not None:
                row["earlier"] = int(self.earlier[p])
            rows.append(row)
        return rows


@torch.no_grad()
def push(model: HIPE, loader: Iterable[dict], *, names: Sequence[str], device: torch.device, epoch: int = 0,
         n_clips: int, budget: int = 2 << 30, folder: Path | None = None, progress: bool = False,
         world: World | None = None, precision: Precision | None = None,
         repeats: bool = False) -> tuple[PushRecord, KeptFeatures]:
    """Replace every prototype by the nearest patch among the clips of its node, in one evaluation pass.

    Where one patch is the nearest to several prototypes of a node, the nearest of them takes it, and the others take
    the nearest patch of the next video, and so on; they only share a patch where the node has too few videos. The
    earliest clip wins ties.

    Args:
        loader: batches of un-augmented training clips in a fixed order, as `VideoClips` makes them, or of their stored
            features: this process's share of them in `world`.
        names: video names by the batches' `video` index.
        n_clips: maximal number of clips of the loader.
        budget: bytes of features in memory; more are stored in a file in `folder`.
        precision: of trunk and neck (default: float32).
        repeats: let prototypes of a node take the same patch, as published.
    Returns:
        the record, and the features of this loader's clips for tuning.
    Raises:
        ValueError: where no clip can be read.
    """
    world, precision = world or World(), precision or Precision(device)
    layer = model.prototype_layer
    level = model.level_of[layer.node_of]  # (P,)
    n_prototypes, channels = layer.prototypes.shape
    nearest = Nearest(layer.group_of, 1 if repeats else layer.per_node)
    grid = clip_size = None
    shelf = Shelf(n_clips, budget, folder)
    model.eval()
    for batch in valid_clips(loader, device, "push" if progress else None):
        with precision.in_inference():
            output = model.head(trunk_features(model.trunk, batch))
        grid, clip_size = output.features.shape[2:], size_of_clips(batch)
        owned = model.ancestors[batch["label"]][:, level] == layer.node_of  # (B, P)
        nearest.add(output.distances.masked_fill(~owned, torch.inf), output.cells, layer.groups(output.features), batch,
                    shelf.used)
        shelf.add(output.features, batch)
    if grid is None:
        raise ValueError("push: not one training clip could be read; run util_scripts.generate_video_jpgs again")
    mine, best = nearest.choose(world, layer.node_of, repeats=repeats)
    row = {name: world.merge(values, mine) for name, values in best.items()}
    cell, matched = row["cell"], row["distance"] < torch.inf
    patches = torch.where(matched[:, None], row["patch"], layer.prototypes)
    layer.prototypes.copy_(patches)

    maps = torch.zeros(n_prototypes, *grid)
    kept = shelf.kept()
    for some in (matched & mine).nonzero().squeeze(1).cpu().split(256):
        own = layer.groups(kept.features[best["feature_row"].cpu()[some]].to(device))  # (n, S, C, N)
        own = own[torch.arange(len(own), device=device), layer.group_of[some.to(device)]]  # (n, C, N)
        distances = (own - patches[some.to(device)][:, :, None]).square().sum(1).unflatten(1, grid)  # (n, t, h, w)
        # the distance of the patch itself, which half precision would put at 1e-5
        distances.flatten(1).scatter_(1, cell[some.to(device)][:, None], 0.0)
        maps[some] = layer.similarity(distances).cpu()
    maps = world.merge(maps, mine)
    places = {name: row[name].masked_fill(~matched.view(-1, *[1] * (row[name].dim() - 1)), 0).cpu()
          for name in ("frames", "crop", "cell", "distance")}
    video = [names[v] if hit else None for v, hit in zip(row["video"].tolist(), matched.tolist(), strict=True)]
    record = PushRecord(epoch=epoch, video=video, maps=maps, clip_size=clip_size, stride=tuple(model.trunk.stride),
                        offset=model.offset, **places)
    return record, kept
