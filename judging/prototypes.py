"""Prototypes as such: what they find in videos, beside patches that know nothing, and the measures of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.transforms import normalise
from datasets.video import VideoClips
from evaluation.faithfulness import nearness, same_place
from evaluation.localisation import Tube
from evaluation.measures import MEASURES, editions
from evaluation.prototypes import covered_parts
from evaluation.subjects import PrototypeSet
from hierarchy.tree import Hierarchy
from judging.scenes import DISTURBANCES, DisturbedClips, Truth, moved_back
from models.geometry import cell_centre, points_to_source
from models.hipe import HIPE
from models.prototypes import PrototypeLayer
from training.features import KeptFeatures, Shelf, valid_clips
from training.push import PushRecord

REGION = 72 / 224  # of a frame's side: the square around a prototype's peak that covers parts, as published

Loader = Callable[..., DataLoader]  # of a dataset, in its order; device=: where its batches go


class Patches:
    """What sets of prototypes find in videos, each set in place of the model's own.

    Args:
        model: on its device. sets: (P, C) prototypes by name.
    """

    def __init__(self, model: HIPE, sets: dict[str, Tensor]) -> None:
        own = model.prototype_layer
        self.model, self.layers = model, {}
        for name, prototypes in sets.items():
            layer = PrototypeLayer([len(level) for level in own.node_levels], per_node=own.counts.tolist(),
                                   channels=own.prototypes.shape[1], by_level=own.by_level, scale=own.scale)
            layer.prototypes.data = prototypes
            self.layers[name] = layer.to(prototypes.device).requires_grad_(False)

    @torch.no_grad()
    def best(self, kept: KeptFeatures, n_videos: int) -> dict[str, Tensor]:
        """Highest activation of every prototype in each video: (n_videos, P); -inf for a video without clips."""
        result = {}
        for name, layer in self.layers.items():
            best = torch.full((n_videos, len(layer.node_of)), -torch.inf)
            for features, videos in zip(kept.features.split(64), kept.videos.split(64), strict=True):
                similar = layer.similarity(layer(features.to(layer.prototypes.device).float())[0]).cpu()
                best = best.scatter_reduce(0, videos[:, None].expand_as(similar), similar, "amax")
            result[name] = best
        return result


def prototype_rows(model: HIPE, tree: Hierarchy, record: PushRecord, training: VideoClips, test: VideoClips,
                   truth: Truth, *, loader: Loader, seed: int, progress: bool = True) -> list[dict]:
    """Measure the prototypes themselves, beside random patches of any video and patches in the middle of clips.

    Args:
        model: on its device, in evaluation mode.
        training: the un-augmented clips that prototypes are pushed to. test: a clip of each video that they have not
            seen.
        loader: makes loaders of clips.
    Returns:
        a row each set and prototype: explanation (prototypes, random, centre), level, prototype, measures.
    """
    device, layer = model.device, model.prototype_layer
    kept, unseen = (_neck_features(model, loader(clips, device=device), len(clips), progress=progress)
                    for clips in (training, test))
    labels, test_labels = (torch.from_numpy(clips.videos.labels) for clips in (training, test))
    node_of, level_of = layer.node_of.cpu(), tree.level_of
    sets = {"prototypes": layer.prototypes.detach(), **_baselines(kept, labels, tree, layer, seed, device)}
    patches = Patches(model, sets)
    best, on_test = patches.best(kept, len(labels)), patches.best(unseen, len(test_labels))
    read, test_read = (activations["prototypes"].isfinite().all(1) & (known >= 0)
                       for activations, known in ((best, labels), (on_test, test_labels)))
    peaks = _peaks(patches, test, truth.tubes, tree, loader(DisturbedClips(test, seed), device=torch.device("cpu")),
                   progress=progress)
    names = [video.name for video in training.videos]
    of_record = {"record": record, "own_similarity": _own_similarity(model, record, training), "tubes": truth.tubes,
                 "ways": truth.ways, "leaves": dict(zip(names, labels.tolist(), strict=True))}
    rows = []
    for name, activations in best.items():
        own = name == "prototypes"
        subject = PrototypeSet(
            points=patches.layers[name].points.cpu(), node_of=node_of, membership=tree.membership,
            ancestors=tree.ancestors, level_of=level_of, activations=activations[read], labels=labels[read],
            test_activations=on_test[name][test_read], test_labels=test_labels[test_read],
            stayed=peaks[name].stayed, covered=peaks[name].covered, **(of_record if own else {}))
        measures = {what: MEASURES[what].of_prototypes(subject) for what in editions("prototypes")
                    if own or "push record" not in MEASURES[what].needs}
        rows += [{"explanation": name, "level": int(level_of[node_of[p]]), "prototype": p,
                  "measures": {what: round(float(values[p]), 6) for what, values in measures.items()
                               if torch.isfinite(values[p])}} for p in range(len(node_of))]
    return rows


@torch.no_grad()
def _neck_features(model: HIPE, loader: DataLoader, n_clips: int, *, progress: bool) -> KeptFeatures:
    """The neck's features of all clips that can be read.

    Raises:
        ValueError: where there are none.
    """
    shelf = Shelf(n_clips, 2 << 30, None)
    for batch in valid_clips(loader, model.device, "prototypes" if progress else None):
        shelf.add(model.neck(model.trunk(batch["clip"])), batch)
    if not shelf.used:
        raise ValueError("not one video can be read; check --video_path, or give --no_prototypes")
    return shelf.kept()


def _baselines(kept: KeptFeatures, labels: Tensor, tree: Hierarchy, layer: PrototypeLayer, seed: int,
               device: torch.device) -> dict[str, Tensor]:
    """(P, C) prototypes that know nothing: any patch of any clip; the middle of any clip of the node."""
    generator = torch.Generator().manual_seed(seed)
    node_of, group_of = layer.node_of.cpu(), layer.group_of.cpu()
    features = kept.features.flatten(2).unflatten(1, (layer.n_groups, -1))  # (N, S, C, n)
    middle = int(np.ravel_multi_index([n // 2 for n in kept.features.shape[2:]], kept.features.shape[2:]))
    clips = torch.randint(len(features), (len(node_of),), generator=generator)
    cells = torch.randint(features.shape[3], (len(node_of),), generator=generator)
    random = features[clips, group_of, :, cells]
    of_clip = labels[kept.videos]
    centre = torch.empty_like(random)
    for node in node_of.unique().tolist():
        which = (node_of == node).nonzero()[:, 0]
        own = torch.isin(of_clip, tree.leaves_below(node)).nonzero()[:, 0]
        own = own if len(own) else torch.arange(len(of_clip))
        chosen = own[torch.randint(len(own), (len(which),), generator=generator)]
        centre[which] = features[chosen, group_of[which], :, middle]
    return {"random": random.to(device).float(), "centre": centre.to(device).float()}


@dataclass
class Peaks:
    """Where the peaks of a set of prototypes are, over clips of the prototypes' own nodes.

    stayed: by disturbance and prototype, clip by clip, whether the peak stays. covered: by prototype, over the clips
    with a known event, (5,) bool of the parts of the event that a square around the peak covers.
    """

    stayed: dict[str, list[list[bool]]]
    covered: list[list[np.ndarray]]


def _peaks(patches: Patches, test: VideoClips, tubes: dict[str, Sequence[Tube]], tree: Hierarchy, loader: DataLoader,
           *, progress: bool) -> dict[str, Peaks]:
    """The peaks of every set of prototypes, for consistency and stability (after Huang et al., ICCV 2023).

    Clips are disturbed as they are for explanations. Consistency asks which parts of an object a square around the peak
    covers. Parts are not annotated here: they are places in the event's box.

    Args:
        loader: of `DisturbedClips` of `test`, in its order.
    """
    model, device = patches.model, patches.model.device
    size, stride = (test.sampler.duration, test.transform.size, test.transform.size), tuple(model.trunk.stride)
    tolerance = nearness(size)
    result = {name: Peaks({what: [[] for _ in layer.node_of] for what in DISTURBANCES}, [[] for _ in layer.node_of])
              for name, layer in patches.layers.items()}
    for batch in tqdm(loader, desc="stability", disable=not progress, leave=False):
        for i in batch["valid"].nonzero()[:, 0].tolist():
            video = test.videos[int(batch["video"][i])]
            if video.label < 0:
                continue
            clips = torch.cat([batch["clip"][i][None], batch["disturbed"][i]]).to(device)
            back = torch.stack([moved_back(int(batch["shift"][i]) * (what == "jitter"), test.sampler.stride)
                                for what in DISTURBANCES])[:, None]  # (3, 1, 3)
            with torch.no_grad():
                features = model.neck(model.trunk(normalise(clips, test.normalisation)))
            grid = tuple(features.shape[2:])
            which = torch.isin(model.prototype_layer.node_of.cpu(), tree.ancestors[video.label]).nonzero()[:, 0]
            for name, layer in patches.layers.items():
                maps = layer.similarity(layer.maps(features, which.to(device))).cpu()  # (4, n, t, h, w)
                peaks = cell_centre(maps.flatten(2).argmax(-1), grid, stride, size, model.offset)  # (4, n, 3)
                same = same_place(peaks[:1], peaks[1:] + back, tolerance)  # (3, n)
                for what, row in zip(DISTURBANCES, same.tolist(), strict=True):
                    for p, value in zip(which.tolist(), row, strict=True):
                        result[name].stayed[what][p].append(value)
                if video.name not in tubes:
                    continue
                at = points_to_source(peaks[0], batch["frames"][i], batch["crop"][i], size[1:])  # (n, 3)
                edge = REGION / 2 * float(batch["crop"][i][2] - batch["crop"][i][0])
                for p, (frame, y, x) in zip(which.tolist(), at.tolist(), strict=True):
                    parts = covered_parts(tubes[video.name], frame, (y - edge, x - edge, y + edge, x + edge))
                    result[name].covered[p].append(np.zeros(5, dtype=bool) if parts is None else parts)
    return result


@torch.no_grad()
def _own_similarity(model: HIPE, record: PushRecord, training: VideoClips) -> Tensor:
    """Similarity of each prototype to its own patch, read again from its video, of the highest there is: (P,)."""
    layer, device = model.prototype_layer, model.device
    result = torch.full((len(layer.node_of),), torch.nan, dtype=torch.float64)
    paths = {training.videos[v].name: training.videos.path(v) for v in range(len(training.videos))}
    clips: dict[tuple, list[int]] = {}
    for p, video in enumerate(record.video):
        if video in paths:
            clips.setdefault((video, *record.frames[p].tolist()), []).append(p)
    for (video, *frames), prototypes in clips.items():
        try:
            pictures = training.reader.frames(paths[video], torch.tensor(frames))
        except ValueError:  # warned of already
            continue
        clip = normalise(training.transform(pictures)[0][None].to(device), training.normalisation)
        which = torch.tensor(prototypes, device=device)
        maps = layer.maps(model.neck(model.trunk(clip)), which)[0].flatten(1)  # (n, t h w)
        distance = maps.gather(1, record.cell[prototypes].to(device)[:, None])[:, 0]
        result[prototypes] = (layer.similarity(distance) / layer.highest).double().cpu()
    return result
