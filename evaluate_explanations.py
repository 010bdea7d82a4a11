"""How good are the explanations: prototypes of every level and attribution methods on the same model and clips, measured.

Writes explanations/ beside the checkpoint: measures.csv, measures.md, measures.html and, clip by clip, rows.jsonl, from
which a call that was interrupted goes on.
"""

import argparse
import hashlib
import json
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from attribution import METHODS, options_of, parse_options
from attribution.feature_pyramid import refusal
from attribution.perturbation import extremal_masks
from datasets import READERS
from datasets.annotation import subset_of
from datasets.groups import hold_out
from datasets.transforms import normalise
from datasets.video import Video, VideoClips, whole_videos
from evaluation.decisions import decision_measures
from evaluation.faithfulness import (
    STEPS,
    box_share,
    deletion,
    greedy_set,
    insertion,
    kept_and_hidden,
    moved_box,
    nearness,
    noisy,
    random_set,
    recompressed,
    same_place,
)
from evaluation.localisation import Tube, chance, on_event, placed, read_truth, read_ways, truth_mask
from evaluation.prototypes import CONSISTENT, consistency, covered_parts, duplicates, purity, sharing, ways_covered
from evaluation.recognition import pool_windows
from evaluation.summary import summarise, write_tables
from explain import fingerprint, write_report
from explain.heat import heat_of
from explain.match import OWN_PATCH, LevelMatch, match_output
from hierarchy.tree import Hierarchy
from models.geometry import box_of, cell_centre, points_to_source
from models.hipe import HIPE, HIPEOutput
from models.prototypes import PrototypeLayer
from options.errors import user_errors
from options.flags import device_flags, parse_given
from run.choosing import choose, stored_flags
from run.data import even_clips, make_loader, make_reader, read_videos, window_clips, window_power
from run.methods import options_flag
from run.model import choose_device, model_of
from run.paths import under_root
from training.checkpoint import load_checkpoint, write_whole
from training.features import KeptFeatures, Shelf, valid_clips
from training.push import PushRecord

HEADS = ("prototypes", "softmax")
OWN = ("prototypes", "top_prototype")  # a level's map, and the map of the prototype that contributes most
HEAT_OF = "_by_"  # top_prototype_by_grad_cam: the same prototype, its heat by that method
BASELINES = ("random", "centre")
DISTURBANCES = ("noise", "jpeg", "jitter")
AREA = 0.1  # of a perturbation's mask
REGION = 72 / 224  # of a frame's side: the square around a prototype's peak that covers parts, as published
BOX_SHARE = 0.95  # percentile above which a voxel belongs to a box
TRUTHS = ("truth.json", "boxes.json")


@dataclass(frozen=True)
class Settings:
    """What a measured number depends on, besides the clip, the explanation and the level."""

    checkpoint: str  # path
    digest: str  # of the checkpoint's weights
    head: str
    steps: int  # of insertion and deletion
    iterations: int  # of a perturbation
    inference_stride: int
    seed: int
    truth: str  # digest of its file, "none" without one
    window_power: float = 1.0  # by which windows come to the predicted class, 1 for the mean
    options: str = ""  # of attribution methods, as --options sets them
    edition: int = 3  # of what is measured: the third tells what prototypes have to do with the decision

    def told(self) -> dict:
        """As the first line of rows.jsonl has it."""
        return {name: value for name, value in vars(self).items()
                if name != "checkpoint" and not (name == "options" and not value)}


@dataclass(frozen=True)
class Truth:
    """What is known of videos, by their names."""

    tubes: dict[str, list[Tube]]  # where and when the event is to be seen
    ways: dict[str, int]  # in which of several ways a video shows its class


@dataclass
class Scene:
    """The window of a video that is explained."""

    video: Video
    pixels: Tensor  # (3, T, H, W) uint8
    clip: Tensor  # the same, normalised, on the device
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) in the video's own pixels
    leaf: int  # predicted of the whole video
    disturbed: dict[str, Tensor]  # normalised clips by the name of what was done to them
    shift: int  # frames by which the jittered clip is later


def centre_blob(size: tuple[int, int, int]) -> Tensor:
    """Heat that looks at the middle of every clip: (T, H, W), a Gaussian as wide as a quarter of the clip."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in size]
    return torch.einsum("t,h,w->thw", *axes)


def peak_of(heat: Tensor) -> Tensor:
    """(3,) frame, y, x of the hottest voxel, the first of equals."""
    return torch.stack(torch.unravel_index(heat.argmax().cpu(), heat.shape))


def disturbed(clips: VideoClips, item: dict, seed: int) -> tuple[dict[str, Tensor], int] | None:
    """What noise, JPEG and a frame's shift make of a clip.

    Args:
        item: of `clips`. seed: of the noise.
    Returns:
        clips (3, T, H, W) uint8 by DISTURBANCES, and by how many frames that of the shift is later: 1, or -1 where the
        next frame is missing or damaged; None where the one before is, too.
    """
    pixels, frames, path = item["clip"], item["frames"], clips.videos.path(int(item["video"]))
    for shift in (1, -1):
        if shift == 1 and int(frames.max()) + 1 >= clips.reader.info(path).n_frames:
            continue
        try:
            moved = clips.transform(clips.reader.frames(path, (frames + shift).clamp(min=0)))[0]
        except ValueError:  # the clip itself can be read
            continue
        return {"noise": noisy(pixels, seed), "jpeg": recompressed(pixels), "jitter": moved}, shift
    warnings.warn(f"left out: {path}: the frames before and behind the clip are damaged", RuntimeWarning, stacklevel=2)
    return None


def moved_back(shift: int, stride: int) -> Tensor:
    """(3,) to add to a place in a clip that begins `shift` frames later, whose frames are a stride apart, for the same
    place in the clip that begins at 0."""
    return torch.tensor([shift / stride, 0, 0])


class DisturbedClips(Dataset):
    """Clips of an evaluation dataset with what `disturbed` makes of them, in its order as (3, 3, T, H, W)."""

    def __init__(self, clips: VideoClips, seed: int) -> None:
        self.clips, self.seed = clips, seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> dict:
        item = self.clips[i]
        found = disturbed(self.clips, item, self.seed) if item["valid"] else None
        if found is None:
            return item | {"disturbed": torch.stack([item["clip"]] * len(DISTURBANCES)), "shift": 0, "valid": False}
        return item | {"disturbed": torch.stack([found[0][name] for name in DISTURBANCES]), "shift": found[1]}


class Judge:
    """Explains clips in every way asked for, and measures how good each explanation is.

    Args:
        settings: as they stand in rows.jsonl. clips: all windows of the videos. truth: of these, and the ways of the
        training videos. device: where to compute.
    """

    def __init__(self, settings: Settings, clips: VideoClips, truth: Truth, device: torch.device) -> None:
        self.settings, self.clips, self.truth, self.device = settings, clips, truth, device
        model, self.tree, self.record = model_of(load_checkpoint(settings.checkpoint), settings.checkpoint)
        self.model: HIPE = model.to(device).eval().requires_grad_(False)
        self.size = (clips.sampler.duration, clips.transform.size, clips.transform.size)

    def log_probs(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, K) of the head that is judged."""
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        if self.settings.head == "softmax":
            return self.model.node_log_probs(self.model.pooled_log_probs(self.model.trunk(clips)))
        return self.model(clips).log_probs

    @cached_property
    def class_weights(self) -> Tensor:
        """(K, C') of the softmax head; an ancestor's are the mean of its classes'."""
        member = self.model.membership
        return member @ self.model.pooled_head.weight / member.sum(1, keepdim=True)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalise(pixels.to(self.device), self.clips.normalisation)

    def _seed(self, *words: object) -> int:
        return zlib.crc32(" ".join(map(str, (self.settings.seed, *words))).encode())

    @torch.no_grad()
    def scene(self, v: int) -> Scene | None:
        """The surest window of a video's prediction, and the same window disturbed; None where these cannot be read."""
        items = [self.clips[i] for i in np.flatnonzero(self.clips.item_video == v).tolist()]
        items = [item for item in items if item["valid"]]
        if not items:
            return None
        found = torch.cat([self.log_probs(self._normalised(torch.stack([item["clip"] for item in some]))).cpu()
                           for some in (items[i:i + 16] for i in range(0, len(items), 16))])
        _, leaf, best = pool_windows(found, self.tree.membership, self.settings.window_power)
        item, video = items[best], self.clips.videos[v]
        pixels = item["clip"]
        changed_by = disturbed(self.clips, item, self._seed(video.name))
        if changed_by is None:
            return None
        changed, shift = changed_by
        return Scene(video, pixels, self._normalised(pixels), item["frames"], item["crop"], leaf,
                     {name: self._normalised(clip) for name, clip in changed.items()}, shift)

    # --- explanations

    @torch.no_grad()
    def outputs(self, scene: Scene) -> dict[str, HIPEOutput]:
        """What the model says of a scene's clip, "", and of the disturbed ones by what was done to them."""
        return {name: self.model(clip[None].contiguous(memory_format=torch.channels_last_3d))
                for name, clip in (("", scene.clip), *scene.disturbed.items())}

    def matches(self, output: HIPEOutput, leaf: int, levels: Sequence[int]) -> dict[int, LevelMatch]:
        """All prototypes of the nodes above a leaf, by level."""
        found = match_output(self.model, output, self.size, levels, self.model.prototype_layer.per_node, leaf=leaf)
        return {one.level: one for one in found}

    @cached_property
    def own_patch(self) -> float:
        """The activation from which on a patch is a prototype's own."""
        return float(self.model.prototype_layer.similarity(torch.tensor(OWN_PATCH)))

    def heats(self, name: str, clips: Sequence[Tensor], nodes: Sequence[int], seeds: Sequence[int],
              prototypes: Sequence[int] | None = None) -> list[Tensor]:
        """Heat (T, H, W) of clips by an attribution method or a baseline, each for a node, or for a prototype."""
        if name == "centre":
            return [centre_blob(self.size)] * len(clips)
        if name == "random":
            return [METHODS["random"](None, clip, seed=seed) for clip, seed in zip(clips, seeds, strict=True)]
        targets = torch.tensor(nodes, device=self.device)
        common = {"seed": self.settings.seed, "areas": (AREA,), "iterations": self.settings.iterations}
        options = options_of(name, **common) | parse_options(self.settings.options.split(), METHODS).get(name, {})
        if METHODS[name].optimises:
            found = extremal_masks(lambda some, which: self.log_probs(some).gather(1, targets[which][:, None])[:, 0],
                                   torch.stack(list(clips)), how=name, **options)
            if found.interrupted:
                raise KeyboardInterrupt
            return list(found.masks.mean((1, 2)))
        trunk = self.model.trunk
        if prototypes is not None:
            return [heat_of(name, lambda some, p=p: self.model(some).activations[:, p], clip, trunk=trunk,
                            score="activation", highest=self.model.prototype_layer.highest, smooth=True,
                            options=options)
                    for clip, p in zip(clips, prototypes, strict=True)]
        return [heat_of(name, lambda some, node=node: self.log_probs(some)[:, node], clip, trunk=trunk,
                        class_weights=self.class_weights[node] if self.settings.head == "softmax" else None,
                        options=options)
                for clip, node in zip(clips, nodes, strict=True)]

    # --- measures

    def rows(self, videos: Sequence[int], wanted: Sequence[tuple[str, int]],
             done: set[tuple[str, str, int]]) -> list[dict]:
        """Measure explanations of some videos.

        Args:
            videos: by their number in `clips`. wanted: explanations and levels. done: (video, explanation, level) that
                need not be measured again.
        Returns:
            a row each, as in rows.jsonl.
        """
        todo = [v for v in videos
                if any((self.clips.videos[v].name, *one) not in done for one in wanted)]
        scenes = [scene for scene in map(self.scene, todo) if scene is not None]
        levels = sorted({level for _, level in wanted})
        seen = [self.outputs(scene) for scene in scenes] if self.settings.head == "prototypes" else [{}] * len(scenes)
        own = [{name: self.matches(output, scene.leaf, levels) for name, output in outputs.items()}
               for scene, outputs in zip(scenes, seen, strict=True)]
        rows = []
        for explanation, level in wanted:
            some = [i for i, scene in enumerate(scenes) if (scene.video.name, explanation, level) not in done]
            if not some:
                continue
            chosen = [scenes[i] for i in some]
            nodes = [self.tree.path_ids(scene.leaf)[level] for scene in chosen]
            before = self._maps(explanation, level, chosen, nodes, [own[i] for i in some], "")
            after = {} if explanation in METHODS and METHODS[explanation].optimises else {
                what: self._maps(explanation, level, chosen, nodes, [own[i] for i in some], what)
                for what in DISTURBANCES}
            for j, (i, scene) in enumerate(zip(some, chosen, strict=True)):
                match = own[i][""][level] if own[i] else None
                measures = {} if explanation == "chance" else self._faithful(explanation, scene, nodes[j], before[j], match)
                measures |= self._placed(explanation, scene, level, before[j])
                measures |= self._stable(scene, before[j], {what: maps[j] for what, maps in after.items()})
                if match is not None and explanation in ("prototypes", "random"):
                    size = self._set_size(explanation, scene, nodes[j], seen[i][""].activations[0])
                    measures |= {"set_size": size} if size else {}  # where there is no evidence, no set is small
                if match is not None and explanation == "prototypes":
                    measures |= self._decisions(scene, level, seen[i][""])
                    measures |= self._same_way(scene, match) if level == 0 else {}
                rows.append({"video": scene.video.name, "explanation": explanation, "level": level,
                             "node": self.tree.full_name(nodes[j]),
                             "right": self._right(scene, level),
                             "measures": {name: round(value, 6) for name, value in measures.items()}})
        return rows

    def _right(self, scene: Scene, level: int) -> bool:
        tree, label = self.tree, scene.video.label
        return label >= 0 and tree.path_ids(label)[level] == tree.path_ids(scene.leaf)[level]

    def _maps(self, explanation: str, level: int, scenes: Sequence[Scene], nodes: Sequence[int],
              own: Sequence[dict[str, dict[int, LevelMatch]]], what: str) -> list[Tensor | None]:
        """Heat of clips as they are, or disturbed."""
        if explanation == "chance":
            return [None] * len(scenes)
        if explanation == "prototypes":
            return [matches[what][level].heat for matches in own]
        first = [matches[""][level].matches[0] if matches else None for matches in own]
        if explanation.startswith("top_prototype"):
            similar = [next(match for match in matches[what][level].matches if match.prototype == best.prototype)
                       for matches, best in zip(own, first, strict=True)]
        if explanation == "top_prototype":
            return [match.heat for match in similar]
        clips = [scene.disturbed[what] if what else scene.clip for scene in scenes]
        seeds = [self._seed(scene.video.name, level, what) for scene in scenes]
        name, _, method = explanation.partition(HEAT_OF)
        found = self.heats(method or name, clips, nodes, seeds, [best.prototype for best in first] if method else None)
        found = [heat.detach().float().cpu() for heat in found]
        if not method:
            return found
        return [match.heat if match.activation >= self.own_patch or heat.amax() <= heat.amin() else heat  # as on cards
                for heat, match in zip(found, similar, strict=True)]

    def _faithful(self, explanation: str, scene: Scene, node: int, heat: Tensor, match: LevelMatch | None) -> dict:
        def probability(clips: Tensor) -> Tensor:
            return self.log_probs(clips)[:, node].exp()

        box = self._box(explanation, scene, heat, match)
        how = {"steps": self.settings.steps, "seed": self._seed(scene.video.name)}
        whole, only, hidden = kept_and_hidden(probability, scene.clip, box)
        found = {"insertion": insertion(probability, scene.clip, heat, **how),
                 "deletion": deletion(probability, scene.clip, heat, **how),
                 "box_only": only / max(whole, 1e-12), "box_hidden": hidden / max(whole, 1e-12),
                 "box_volume": box_share(box, self.size)}
        if match is not None and (explanation in BASELINES or explanation.startswith("top_prototype")):
            prototype = match.matches[0].prototype
            whole, only, hidden = kept_and_hidden(lambda clips: self.model(clips).activations[:, prototype],
                                                  scene.clip, box)
            found |= {"activation_box_only": only / max(whole, 1e-12),
                      "activation_box_hidden": hidden / max(whole, 1e-12)}
        return found

    def _box(self, explanation: str, scene: Scene, heat: Tensor, match: LevelMatch | None) -> tuple[int, ...]:
        """The box of an explanation; a baseline has one of the same shape as the first prototype's, or else a box that
        holds as much as boxes are made of."""
        if explanation not in BASELINES:
            return box_of(heat, BOX_SHARE)
        if match is not None:
            shape = match.matches[0].box
        else:
            edge = (1 - BOX_SHARE) ** (1 / 3)
            shape = (0, 0, 0, *(max(round(edge * n), 1) for n in self.size))
        rng = np.random.default_rng(self._seed(scene.video.name, "box")) if explanation == "random" else None
        return moved_box(shape, self.size, rng)

    def _placed(self, explanation: str, scene: Scene, level: int, heat: Tensor | None) -> dict:
        """Held against the truth, where there is one and the prediction is right."""
        tubes = self.truth.tubes.get(scene.video.name)
        if not tubes or not self._right(scene, level):
            return {}
        strict, swept = (truth_mask(tubes, scene.frames.numpy(), scene.crop.numpy(), self.size[1:], strict=strict)
                         for strict in (True, False))
        return chance(strict, swept) if heat is None else placed(heat, strict, swept)

    def _stable(self, scene: Scene, heat: Tensor | None, disturbed: dict[str, Tensor | None]) -> dict:
        if heat is None:
            return {}
        tolerance, peak = nearness(self.size), peak_of(heat)
        back = moved_back(scene.shift, self.clips.sampler.stride)
        return {f"stable_{what}": float(same_place(peak, peak_of(other) + (back if what == "jitter" else 0), tolerance))
                for what, other in disturbed.items()}

    @torch.no_grad()
    def _set_size(self, explanation: str, scene: Scene, node: int, activations: Tensor) -> float:
        exact = activations.double()

        def value(masks: Tensor) -> Tensor:
            return self.model.score(exact * masks.to(exact.device))[0][:, node].cpu()

        if explanation == "prototypes":
            return float(len(greedy_set(len(exact), value)))
        return float(random_set(len(exact), value, np.random.default_rng(self._seed(scene.video.name, "set"))))

    def _decisions(self, scene: Scene, level: int, output: HIPEOutput) -> dict[str, float]:
        """What the prototypes of a level have to do with the decision."""
        label = scene.video.label
        truth = self.tree.path_ids(label) if label >= 0 else None
        return decision_measures(self.model, output.activations[0], output.distances[0],
                                 self.tree.path_ids(scene.leaf), truth=truth, record=self.record,
                                 levels=[level])[0]

    def _same_way(self, scene: Scene, match: LevelMatch) -> dict[str, float]:
        """Whether the first class prototype shows the way of the video; never where the class is wrong."""
        ways, source = self.truth.ways, self.record.video[match.matches[0].prototype]
        if scene.video.name not in ways or source not in ways:
            return {}
        return {"same_way": float(self._right(scene, 0) and ways[source] == ways[scene.video.name])}


_judge: Judge | None = None  # of a worker process


def _begin(*made_of: object) -> None:
    global _judge
    torch.set_num_threads(1)
    _judge = Judge(*made_of)


def _work(job: tuple) -> list[dict]:
    return _judge.rows(*job)


def _measured(settings: Settings, clips: VideoClips, truth: Truth, device: torch.device, jobs: list[tuple],
              n_threads: int) -> Iterator[list[dict]]:
    """The rows of every job, in this process or in several."""
    if n_threads < 2:
        judge = Judge(settings, clips, truth, device)
        yield from (judge.rows(*job) for job in jobs)
        return
    with ProcessPoolExecutor(n_threads, get_context("spawn"), _begin, (settings, clips, truth, device)) as pool:
        yield from (done.result() for done in as_completed([pool.submit(_work, job) for job in jobs]))


# --- prototypes as such


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
        found = {}
        for name, layer in self.layers.items():
            best = torch.full((n_videos, len(layer.node_of)), -torch.inf)
            for features, videos in zip(kept.features.split(64), kept.videos.split(64), strict=True):
                similar = layer.similarity(layer(features.to(layer.prototypes.device).float())[0]).cpu()
                best = best.scatter_reduce(0, videos[:, None].expand_as(similar), similar, "amax")
            found[name] = best
        return found


def prototype_rows(model: HIPE, tree: Hierarchy, record: PushRecord, training: VideoClips, test: VideoClips,
                   truth: Truth, *, batch_size: int, n_threads: int, seed: int, progress: bool = True) -> list[dict]:
    """Measure the prototypes themselves, beside random patches of any video and patches in the middle of clips.

    Args:
        training: the un-augmented clips that prototypes are pushed to. test: a clip of each video that they have not
            seen.
    Returns:
        a row each set and prototype: explanation (prototypes, random, centre), level, prototype, measures.
    """
    device, layer = model.device, model.prototype_layer

    def of_neck(clips: VideoClips) -> KeptFeatures:
        loader = make_loader(clips, n_threads=n_threads, device=device, batch_size=batch_size)
        shelf = Shelf(len(clips), 2 << 30, None)
        with torch.no_grad():
            for batch in valid_clips(loader, device, "prototypes" if progress else None):
                shelf.add(model.neck(model.trunk(batch["clip"])), batch)
        if not shelf.used:
            raise ValueError("not one video can be read; check --video_path, or give --no_prototypes")
        return shelf.kept()

    kept, unseen = of_neck(training), of_neck(test)
    labels, of_test = (torch.from_numpy(clips.videos.labels) for clips in (training, test))
    node_of, ancestors, level_of = layer.node_of.cpu(), tree.ancestors, tree.level_of
    sets = {"prototypes": layer.prototypes.detach(), **_baselines(kept, labels, tree, layer, seed, device)}
    patches = Patches(model, sets)
    best, on_test = patches.best(kept, len(labels)), patches.best(unseen, len(of_test))
    read, told = (found["prototypes"].isfinite().all(1) & (known >= 0)
                  for found, known in ((best, labels), (on_test, of_test)))
    steady = _steady(patches, test, truth.tubes, tree, seed=seed, n_threads=n_threads, batch_size=batch_size,
                     progress=progress)
    names = [video.name for video in training.videos]
    of_record = {"self_similarity": _self_similarity(model, record, training),
                 "on_event": on_event(record, truth.tubes),
                 "ways_covered": ways_covered(record.video, node_of, dict(zip(names, labels.tolist(), strict=True)),
                                              truth.ways)}
    rows = []
    for name, activations in best.items():
        measures = {
            "purity": purity(activations[read], labels[read], node_of, tree.membership),
            "duplicates": duplicates(patches.layers[name].points.cpu(), node_of).double(),
            "sharing": sharing(on_test[name][told], of_test[told], node_of, ancestors, level_of), **steady[name]}
        if name == "prototypes":
            measures |= of_record
        rows += [{"explanation": name, "level": int(level_of[node_of[p]]), "prototype": p,
                  "measures": {what: round(float(values[p]), 6) for what, values in measures.items()
                               if torch.isfinite(values[p])}} for p in range(len(node_of))]
    return rows


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


def _steady(patches: Patches, test: VideoClips, tubes: dict[str, list[Tube]], tree: Hierarchy, *, seed: int,
            n_threads: int, batch_size: int, progress: bool) -> dict[str, dict[str, Tensor]]:
    """Consistency and stability (after Huang et al., ICCV 2023) over clips of the prototypes' own nodes.

    Clips are disturbed as they are for explanations. Consistency asks which parts of an object a square around the peak
    covers. Parts are not annotated here: they are places in the event's box.
    """
    model, device = patches.model, patches.model.device
    size, stride = (test.sampler.duration, test.transform.size, test.transform.size), tuple(model.trunk.stride)
    tolerance = nearness(size)
    loader = make_loader(DisturbedClips(test, seed), n_threads=n_threads, device=torch.device("cpu"),
                               batch_size=batch_size)
    stayed = {name: {what: [[] for _ in layer.node_of] for what in DISTURBANCES}
              for name, layer in patches.layers.items()}
    covered = {name: [[] for _ in layer.node_of] for name, layer in patches.layers.items()}
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
            which = torch.isin(next(iter(patches.layers.values())).node_of.cpu(),
                               tree.ancestors[video.label]).nonzero()[:, 0]
            for name, layer in patches.layers.items():
                maps = layer.similarity(layer.maps(features, which.to(device))).cpu()  # (4, n, t, h, w)
                peaks = cell_centre(maps.flatten(2).argmax(-1), grid, stride, size, model.offset)  # (4, n, 3)
                same = same_place(peaks[:1], peaks[1:] + back, tolerance)  # (3, n)
                for what, row in zip(DISTURBANCES, same.tolist(), strict=True):
                    for p, value in zip(which.tolist(), row, strict=True):
                        stayed[name][what][p].append(value)
                if video.name not in tubes:
                    continue
                at = points_to_source(peaks[0], batch["frames"][i], batch["crop"][i], size[1:])  # (n, 3)
                edge = REGION / 2 * float(batch["crop"][i][2] - batch["crop"][i][0])
                for p, (frame, y, x) in zip(which.tolist(), at.tolist(), strict=True):
                    parts = covered_parts(tubes[video.name], frame, (y - edge, x - edge, y + edge, x + edge))
                    covered[name][p].append(np.zeros(5, dtype=bool) if parts is None else parts)
    result = {}
    for name in patches.layers:
        score = torch.tensor([consistency(parts) if parts else torch.nan for parts in covered[name]],
                             dtype=torch.float64)
        known = torch.where(score.isnan(), score, (score >= CONSISTENT).double())
        result[name] = {"consistency": score, "consistent": known} | {
            f"stable_{what}": torch.tensor([np.mean(values) if values else torch.nan for values in lists],
                                           dtype=torch.float64) for what, lists in stayed[name].items()}
    return result


@torch.no_grad()
def _self_similarity(model: HIPE, record: PushRecord, training: VideoClips) -> Tensor:
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
        except ValueError:  # told of already
            continue
        clip = normalise(training.transform(pictures)[0][None].to(device), training.normalisation)
        which = torch.tensor(prototypes, device=device)
        maps = layer.maps(model.neck(model.trunk(clip)), which)[0].flatten(1)  # (n, t h w)
        distance = maps.gather(1, record.cell[prototypes].to(device)[:, None])[:, 0]
        result[prototypes] = (layer.similarity(distance) / layer.highest).double().cpu()
    return result


# --- all of it


def explanation_table(checkpoint: str | Path, *, out: str | Path | None = None, truth: str | Path | None = None,
                      head: str = "prototypes", methods: Sequence[str] | None = None,
                      levels: Sequence[int] | None = None, method_levels: Sequence[int] = (0,), n_videos: int = 24,
                      videos: Sequence[str] | None = None, subset: str | None = None, steps: int = STEPS,
                      iterations: int = 2000, heats: Sequence[str] = (), prototypes: bool = True, n_threads: int = 0, batch_size: int = 4,
                      device: str | None = None, no_cuda: bool = False, seed: int = 1, root_path: str | None = None,
                      video_path: str | None = None, annotation_path: str | None = None, file_type: str | None = None,
                      inference_stride: int | None = None, options: Sequence[str] = (), overwrite: bool = False,
                      progress: bool = True) -> pd.DataFrame:
    """Measure the explanations of a checkpoint and return the table; also writes it (see docs/FORMATS.md).

    Args:
        checkpoint: of main.py; one of a run that has pushed, or trunk.pth for head="softmax".
        out: folder to write (default: explanations/ beside the checkpoint; explanations_softmax/ for that head).
        truth: truth.json or boxes.json (default: the one beside the annotation file, if there is one).
        head: "prototypes" explains HIPE's own predictions; "softmax" those of the trunk epochs' pooled head, which has
            no prototypes.
        methods: attribution methods of attribution.METHODS (default: all that the trunk serves); random and centre are
            always measured.
        levels: of the prototypes and of the baselines (default: all).
        method_levels: of the attribution methods.
        n_videos: spread over the classes, 0 for all; videos: by name instead. subset: train, val or test (default: val).
        steps: of insertion and deletion. iterations: of a perturbation at most.
        heats: attribution methods by which the first prototype's heat is made, too, as cards have it (perturbations are
            not).
        prototypes: False leaves out the table of prototypes as such (purity, sharing, ...).
        n_threads: processes on the CPU, 0 for this one. batch_size: clips whose perturbations are found together.
        seed: of random heat, noise and resampling. root_path .. inference_stride: as the flags of local_analysis.py.
        options: of attribution methods, METHOD.NAME=VALUE each. overwrite: measure again what is in `out`.
    Returns:
        a row each of table ("explanations" over clips, "prototypes" over prototypes), explanation ("prototypes": a
        level's map, "top_prototype": its first prototype, an attribution method, "random", "centre", "chance": what
        random heat comes to exactly), level and measure (see evaluation.summary.MEASURES), with mean, low, high (95 %
        bootstrap interval) and n.
    Raises:
        ValueError, FileNotFoundError: naming what is wrong and the remedy.
    """
    path = Path(checkpoint)
    wrong = [method for method in (*(methods or ()), *heats) if method not in METHODS]
    if unable := [method for method in heats
                  if method in BASELINES or method in METHODS and METHODS[method].optimises]:
        raise ValueError(f"--heats {unable[0]}: cannot be made of a prototype here; choose gradients, grad_cam or "
                         "class_feature_pyramid")
    if wrong or head not in HEADS:
        raise ValueError(f"{wrong[0] if wrong else head}: choose one of {', '.join(METHODS if wrong else HEADS)}")
    content = load_checkpoint(path)
    where = choose_device(device, no_cuda)
    model, tree, record = model_of(content, path)
    if head == "prototypes" and record is None:
        raise ValueError(f"{path}: nothing was pushed yet, so there are no prototypes to judge; give a later checkpoint, "
                         "or --head softmax")
    if head == "softmax" and not (content["args"]["trunk_epochs"] or content["args"].get("head_given")):
        raise ValueError(f"{path}: trained without trunk epochs, so its softmax head knows nothing; leave --head away")
    for level in (*(levels or ()), *method_levels):
        if not 0 <= level < tree.n_levels:
            raise ValueError(f"level {level} is not in the class tree of {path}; it has the levels 0 to "
                             f"{tree.n_levels - 1}")
    given = {"root_path": root_path, "video_path": video_path, "annotation_path": annotation_path}
    call = argparse.Namespace(**given | {"root_path": root_path or "."}, file_type=file_type,
                              inference_stride=inference_stride)
    stored = stored_flags(content, call, {name for name, value in given.items() if value is not None})
    stored.memory_gb = 0.0
    known = hold_out(read_videos(stored, tree), content.get("held_out", ()))
    chosen = choose(whole_videos(known), names=videos, subset=subset, n=n_videos)
    reader = make_reader(stored)
    given_truth, truth = truth, _truth_file(truth, Path(stored.annotation_path))
    if truth is None:
        print("no truth.json or boxes.json beside the annotation (--truth): pointing and energy are not measured",
              file=sys.stderr)
    of_chosen, of_all = _read(truth, chosen), _read(truth, known)
    if truth is not None and not of_chosen.tubes:
        told = f"{truth}: has none of the {len(chosen)} videos"
        if given_truth is not None:
            raise ValueError(f"{told}; give the truth of these as --truth")
        print(f"{told}, so pointing and energy are not measured", file=sys.stderr)
    settings = Settings(str(path), _digest(content), head, steps, iterations, stored.inference_stride, seed,
                        hashlib.sha256(truth.read_bytes()).hexdigest()[:8] if truth else "none",
                        window_power(stored), " ".join(options))
    folder = Path(out) if out else path.parent / ("explanations" if head == "prototypes" else "explanations_softmax")
    folder.mkdir(parents=True, exist_ok=True)

    parse_options(options, [*(METHODS if methods is None else methods), *heats])
    methods = served(model.eval().trunk, (stored.sample_duration, stored.sample_size, stored.sample_size), methods)
    levels = list(range(tree.n_levels)) if levels is None else list(dict.fromkeys(levels))
    own = (*OWN, *(f"top_prototype{HEAT_OF}{method}" for method in dict.fromkeys(heats)))
    always = (*(own if head == "prototypes" else ()), *BASELINES, *(("chance",) if of_chosen.tubes else ()))
    wanted = [(name, level) for level in levels for name in always]
    wanted += [(name, level) for level in dict.fromkeys(method_levels) for name in dict.fromkeys(methods)
               if name not in BASELINES]
    clips = window_clips(stored, chosen, reader, stored.inference_stride)
    rows = Rows(folder / "rows.jsonl", settings, overwrite)
    rows.measure(clips, Truth(of_chosen.tubes, of_all.ways), where, wanted, n_threads=n_threads, batch_size=batch_size,
                 progress=progress)
    names = {video.name for video in chosen}
    found = [{**row, "table": "explanations"} for row in rows.rows
             if row["video"] in names and (row["explanation"], row["level"]) in set(wanted)]
    if not found:
        raise ValueError(f"none of the {len(chosen)} videos can be read; check --video_path and --root_path")
    order = {one: i for i, one in enumerate(wanted)}
    found.sort(key=lambda row: (order[row["explanation"], row["level"]], row["video"]))
    if prototypes and head == "prototypes":
        found += _prototypes(folder, settings, subset, overwrite, lambda: prototype_rows(
            model.to(where).eval().requires_grad_(False), tree, record,
            even_clips(stored, [video for video in known if video.subset == "training"], reader, stored.push_clips),
            even_clips(stored, [video for video in known if video.subset == subset_of(subset or "val")] or chosen,
                             reader, 1),
            of_all, batch_size=16, n_threads=n_threads, seed=seed, progress=progress))
    frame = summarise(found, seed=seed)
    of_model = f", model {fingerprint(model)}" if head == "prototypes" else ""
    write_tables(frame, folder, f"Explanations of {path.parent.name}/{path.name}, {head}, "
                                f"{len({row['video'] for row in found if 'video' in row})} videos{of_model}")
    return frame


def served(trunk: nn.Module, size: tuple[int, int, int], methods: Sequence[str] | None) -> list[str]:
    """The attribution methods to measure: those asked for, or all but what the trunk has no convolutions for.

    Args:
        size: (T, H, W) of a clip.
    Raises:
        ValueError: for one asked for that the trunk does not serve.
    """
    chosen, pyramid = list(METHODS if methods is None else methods), "class_feature_pyramid"
    if pyramid not in chosen:
        return chosen
    if reason := refusal(trunk, torch.zeros(3, *size)):
        if methods is not None:
            raise ValueError(f"--methods {pyramid}: {reason}")
        print(f"{pyramid} is left out: {reason}", file=sys.stderr)
        chosen.remove(pyramid)
    return chosen


def _digest(content: dict) -> str:
    """Eight letters of a checkpoint's weights."""
    found = hashlib.sha256()
    for name, value in sorted(content["model"].items()):
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:8]


def _truth_file(given: str | Path | None, annotation: Path) -> Path | None:
    """The file of the truth: the one given, else one beside the annotation, if there is one."""
    if given is not None:
        return Path(given)
    return next((path for path in map(annotation.with_name, TRUTHS) if path.is_file()), None)


def _read(truth: Path | None, videos: Sequence[Video]) -> Truth:
    """What a file says of some videos; nothing without a file."""
    if truth is None:
        return Truth({}, {})
    names = {video.name for video in videos}
    return Truth(*({name: value for name, value in told.items() if name in names}
                   for told in (read_truth(truth), read_ways(truth))))


def _prototypes(folder: Path, settings: Settings, subset: str | None, overwrite: bool,
                measure: Callable[[], list[dict]]) -> list[dict]:
    """The rows of the prototypes, kept beside those of the clips."""
    path = folder / "prototypes.json"
    told = {"digest": settings.digest, "seed": settings.seed, "truth": settings.truth, "subset": subset or "val",
            "disturbances": list(DISTURBANCES), "edition": settings.edition}
    content = {}
    if path.is_file() and not overwrite:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content = content if content["settings"] == told else {}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not what this script writes ({error}); --overwrite measures afresh") from error
    if not content:
        content = {"settings": told, "rows": measure()}
        write_whole(path, lambda file: file.write(json.dumps(content).encode()))
    return [{**row, "table": "prototypes"} for row in content["rows"]]


class Rows:
    """rows.jsonl: what was measured, a line each clip, explanation and level, behind a line of settings.

    Raises:
        ValueError: where the file holds numbers of other settings.
    """

    def __init__(self, path: Path, settings: Settings, overwrite: bool) -> None:
        self.path, self.settings, self.rows = path, settings, []
        lines = [] if overwrite or not path.is_file() else path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a killed call may have left half a line
        try:
            first, *self.rows = map(json.loads, whole) if whole else ({"settings": settings.told()},)
            first["settings"].setdefault("window_power", 1.0)  # of before it: the mean
            asked = {"options": "", **settings.told()}  # written where there are any
            differ = [name for name, value in asked.items()
                      if first["settings"].get(name, "" if name == "options" else None) != value]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not what this script writes ({error}); --overwrite measures afresh") from error
        if differ:
            raise ValueError(f"{path}: measured with another {differ[0]} ({first['settings'].get(differ[0])}, not "
                             f"{asked[differ[0]]}); --overwrite measures afresh, --out writes elsewhere")
        text = "".join(whole) or json.dumps(first) + "\n"
        write_whole(path, lambda file: file.write(text.encode()))

    def measure(self, clips: VideoClips, truth: Truth, device: torch.device, wanted: list[tuple[str, int]], *,
                n_threads: int, batch_size: int, progress: bool) -> None:
        """Measure what is wanted and missing, and write it down as it comes."""
        done = {(row["video"], row["explanation"], row["level"]) for row in self.rows}
        missing = [v for v, video in enumerate(clips.videos) if any((video.name, *one) not in done for one in wanted)]
        jobs = [(missing[i:i + batch_size], wanted, done) for i in range(0, len(missing), batch_size)]
        bar = tqdm(total=len(missing), desc="explanations", unit="video", disable=not progress or not jobs)
        with open(self.path, "a", encoding="utf-8") as file:
            for (some, *_), rows in zip(jobs, _measured(self.settings, clips, truth, device, jobs, n_threads),
                                        strict=True):
                self.rows += rows
                file.write("".join(json.dumps(row) + "\n" for row in rows))
                file.flush()
                bar.update(len(some))
        bar.close()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="evaluate_explanations.py", description=__doc__.splitlines()[0],
                                     allow_abbrev=False)
    parser.add_argument("--resume_path", required=True, help="checkpoint to judge; it carries all other flags")
    parser.add_argument("--head", default="prototypes", choices=HEADS, help="whose predictions are explained: HIPE's, or those of the softmax head of the trunk epochs (default: prototypes)")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), metavar="METHOD", help=f"attribution methods: {', '.join(METHODS)} (default: all that the trunk serves; random and centre always)")
    parser.add_argument("--levels", type=int, nargs="+", help="of prototypes and baselines (default: all)")
    parser.add_argument("--method_levels", type=int, nargs="+", default=[0], help="of attribution methods (default: 0, the class)")
    parser.add_argument("--heats", nargs="*", default=["grad"], choices=list(METHODS), metavar="METHOD", help="make the first prototype's heat by these methods, too, beside its similarity (default: grad, as cards have it)")
    options_flag(parser)
    parser.add_argument("--truth", help="truth.json or boxes.json: where and when the action is to be seen (default: the one beside the annotation)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--videos", nargs="+", metavar="NAME", help="videos by their names in the annotation")
    which.add_argument("--n_videos", type=int, default=24, help="how many, spread over the classes; 0 for all (default: 24)")
    parser.add_argument("--subset", choices=("train", "val", "test"), help="where to take them from (default: val, else train)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of insertion and deletion (default: {STEPS})")
    parser.add_argument("--iterations", type=int, default=2000, help="of a perturbation at most (default: 2000)")
    parser.add_argument("--no_prototypes", action="store_true", help="leave out the table of the prototypes as such")
    parser.add_argument("--out", help="folder to write (default: explanations beside the checkpoint)")
    parser.add_argument("--overwrite", action="store_true", help="measure again what is in --out")
    parser.add_argument("--root_path", help="folder that relative paths hang off, when the data has moved (default: .)")
    parser.add_argument("--video_path", help="folder of the videos, when it has moved")
    parser.add_argument("--annotation_path", help="annotation JSON, when it has moved")
    parser.add_argument("--file_type", choices=sorted(READERS), help="what is in --video_path (default: the checkpoint's)")
    parser.add_argument("--inference_stride", type=int, help="frames from one window to the next (default: the checkpoint's)")
    parser.add_argument("--batch_size", type=int, default=4, help="clips whose perturbations are found together (default: 4)")
    parser.add_argument("--n_threads", type=int, default=0, help="processes that share the clips (default: 0, this one)")
    parser.add_argument("--manual_seed", type=int, default=1, help="of random heat, noise and resampling (default: 1)")
    device_flags(parser)
    args, _ = parse_given(parser, argv)
    for name, least in (("n_videos", 0), ("steps", 1), ("iterations", 1), ("batch_size", 1), ("n_threads", 0),
                        ("manual_seed", 0), ("inference_stride", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    path, out, truth = (None if place is None else under_root(argparse.Namespace(root_path=args.root_path or "."), place)
                        for place in (args.resume_path, args.out, args.truth))
    kwargs = {name: value for name, value in vars(args).items()
              if name not in ("resume_path", "no_prototypes", "manual_seed", "out", "truth")}
    frame = explanation_table(path, out=out, truth=truth, prototypes=not args.no_prototypes, seed=args.manual_seed,
                              **kwargs)
    folder = out or path.parent / ("explanations" if args.head == "prototypes" else "explanations_softmax")
    print(f"{len(frame)} figures: {folder / 'measures.md'}")
    if folder.parent == path.parent:  # where the report looks for them
        print(f"report: {write_report(path.parent)}")


if __name__ == "__main__":
    with user_errors():
        main()
