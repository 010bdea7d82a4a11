"""The training videos that come nearest to each prototype, and their patches."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.geometry import upsample
from models.hipe import HIPE
from training.distributed import World
from training.features import valid_clips


class Nearest:
    """The n nearest videos to each of P prototypes, with the nearest patch of each: rows (P, n, ...), nearest first.

    Of two clips at the same distance the earlier one comes first; an infinite distance marks an empty place.
    """

    def __init__(self, group_of: Tensor, n: int) -> None:
        self.n, self.group_of, n_prototypes, device = n, group_of, len(group_of), group_of.device
        self.rows = {"distance": torch.full((n_prototypes, n), torch.inf, device=device),
                     "video": torch.full((n_prototypes, n), -1, device=device)}

    def add(self, distances: Tensor, cells: Tensor, features: Tensor, batch: dict, first: int) -> None:
        """Add a batch.

        Args:
            distances, cells: (B, P), distances infinite for clips outside a prototype's node. features: (B, S, C, N).
            first: row of the batch's first clip among the stored features.
        """
        which = (distances < self.rows["distance"][:, -1]).any(0).nonzero()[:, 0]  # (c,): prototypes with a nearer clip
        places = {name: batch[name].to(distances.device) for name in ("video", "item", "frames", "crop")}
        videos = torch.cat([self.rows["video"][which], places["video"].expand(len(which), -1)], 1)  # (c, n + B)
        near = torch.cat([self.rows["distance"][which], distances.T[which]], 1)
        near, order = near.masked_fill(not_nearest(near, videos), torch.inf).sort(dim=1, stable=True)
        near, order = near[:, :self.n], order[:, :self.n]
        clip, line = (order - self.n).clamp(min=0), torch.arange(len(which), device=order.device)[:, None]
        cell = cells[clip, which[:, None]]
        rows = {name: values[clip] for name, values in places.items()} | {
            "distance": near, "cell": cell, "feature_row": clip + first,
            "patch": features[clip, self.group_of[which, None], :, cell].float()}  # (c, n, C)
        for name, values in rows.items():
            if name not in self.rows:
                self.rows[name] = values.new_zeros(*self.rows["distance"].shape, *values.shape[2:])
            older = (order < self.n).view(*order.shape, *[1] * (values.dim() - 2))
            before = self.rows[name][which][line, order.clamp(max=self.n - 1)]
            self.rows[name][which] = torch.where(older, before, values) if name != "distance" else values

    def choose(self, world: World, node_of: Tensor, *, repeats: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Choose one patch for each prototype among those of all processes.

        Args:
            node_of: (P,). repeats: whether prototypes of a node may share a patch.
        Returns:
            (P,) bool, whether the patch is of this process's clips; and where it is, its rows (P, ...).
        """
        rows = {name: world.stack(self.rows[name]).transpose(0, 1).flatten(1, 2).cpu()  # (P, size n, ...)
                for name in ("distance", "item", "video", "cell", "frames")}
        distance, item = rows["distance"].numpy(), rows["item"].numpy()
        prototype, slot = np.nonzero(np.isfinite(distance))
        order = np.lexsort((prototype, item[prototype, slot], distance[prototype, slot]))
        node, chosen = node_of.tolist(), [-1] * len(distance)
        taken, seen = set(), set()
        for p, i in zip(prototype[order].tolist(), slot[order].tolist(), strict=True):
            video = int(rows["video"][p, i])
            if chosen[p] >= 0 or (p, video) in seen:  # another process has a nearer clip of the video
                continue
            patch = (node[p], video, int(rows["cell"][p, i]), *rows["frames"][p, i].tolist())
            if repeats or patch not in taken:
                chosen[p] = i
                taken.add(patch)
            seen.add((p, video))
        nearest = np.lexsort((item, distance), axis=1)[:, 0]  # of a node with fewer videos than prototypes
        pick = torch.tensor([int(nearest[p]) if i < 0 else i for p, i in enumerate(chosen)],
                            device=self.rows["distance"].device)
        line = torch.arange(len(pick), device=pick.device)
        return pick // self.n == world.rank, {name: own[line, pick % self.n] for name, own in self.rows.items()}


def not_nearest(distances: Tensor, videos: Tensor) -> Tensor:
    """Whether a row has a nearer clip of the same video, or an earlier one at the same distance: -> (c, m) bool."""
    order = distances.sort(dim=1, stable=True).indices
    sorted_videos = videos.gather(1, order)
    again = (sorted_videos[:, :, None] == sorted_videos[:, None, :]).tril(-1).any(2)
    return torch.empty_like(again).scatter_(1, order, again)

@torch.no_grad()
def nearest_patches(model: HIPE, loader: Iterable[dict], *, n: int,
                    device: torch.device) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """The n training videos nearest to every prototype, whatever their class, and those nearest below each child of an
    ancestor.

    Args:
        loader: batches of un-augmented training clips in a fixed order, as `VideoClips` makes them.
    Returns:
        rows (P, n, ...), nearest first, of `distance` (infinite where there is none), `video`, `item`, `cell`, `frames`
        and `crop`; and for the first child, the second and so on of each prototype's node the same of clips below it.
    Raises:
        ValueError: where no clip can be read.
    """
    layer, level_of, ancestors = model.prototype_layer, model.level_of, model.ancestors
    level = level_of[layer.node_of]  # (P,)
    child = child_of(ancestors, layer.node_of, level)  # (P, K0)
    of_all = Nearest(layer.group_of, n)
    of_children = [Nearest(layer.group_of, n) for _ in range(int(child.max()) + 1)]
    first = 0
    for batch in valid_clips(loader, device, "training clips"):
        output = model(batch["clip"])
        features, children = layer.groups(output.features), child[:, batch["label"]].T  # (B, P)
        of_all.add(output.distances, output.cells, features, batch, first)
        for j, nearest in enumerate(of_children):
            nearest.add(output.distances.masked_fill(children != j, torch.inf), output.cells, features, batch, first)
        first += len(batch["label"])
    if not first:
        raise ValueError("not one training clip can be read; run util_scripts.generate_video_jpgs again")
    return of_all.rows, [nearest.rows for nearest in of_children]


def child_of(ancestors: Tensor, node_of: Tensor, level: Tensor) -> Tensor:
    """(P, K0): below which child of a prototype's node a leaf lies, counted from 0 in the order of the nodes; -1 where
    it lies below none, or where the node is a class.

    Args:
        ancestors: (K0, L). node_of, level: (P,).
    """
    below = ancestors[:, (level - 1).clamp(min=0)].T  # (P, K0): each leaf's node one level under the prototype's
    inside = (node_of[:, None] == ancestors[:, level].T) & (level > 0)[:, None]
    rank = torch.zeros(int(ancestors.max()) + 1, dtype=torch.int64, device=ancestors.device)  # (K,) among siblings
    for upper in range(1, ancestors.shape[1]):
        pairs = torch.unique(ancestors[:, [upper, upper - 1]], dim=0)  # by parent, then by child
        parents, children = pairs.T.contiguous()
        rank[children] = torch.arange(len(parents), device=rank.device) - torch.searchsorted(parents, parents)
    return torch.where(inside, rank[below], -1)


@torch.no_grad()
def patch_heats(model: HIPE, clip: Tensor, prototypes: Sequence[int]) -> list[Tensor]:
    """Similarity (T, H, W) of some prototypes to a clip (3, T, H, W), normalised."""
    layer, features = model.prototype_layer, model(clip[None]).features
    which = torch.tensor(prototypes, device=clip.device)
    own = layer.groups(features)[0, layer.group_of[which]]  # (n, C, N)
    distances = (own - layer.points[which][:, :, None]).square().sum(1)
    maps = layer.similarity(distances).unflatten(1, features.shape[2:]).cpu()
    return [upsample(cells, tuple(clip.shape[1:]), tuple(model.trunk.stride), model.offset) for cells in maps]
