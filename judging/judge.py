"""The judge: explains scenes in every way asked for, and applies the measures to each explanation."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attribution import METHODS
from datasets.transforms import normalise
from datasets.video import VideoClips
from evaluation.localisation import truth_mask
from evaluation.measures import MEASURES
from evaluation.recognition import pool_windows
from evaluation.subjects import BOX_SHARE, Decision, ExplainedClip
from explain.match import OWN_PATCH, LevelMatch, match_output
from hierarchy.tree import Hierarchy
from judging.heats import BASELINES, Heats
from judging.randomised import Forgetful
from judging.scenes import DISTURBANCES, Scene, Truth, disturbed, moved_back
from judging.trunk_model import TrunkModel
from models.hipe import HIPE, HIPEOutput
from training.push import PushRecord

OWN = ("prototypes", "top_prototype")  # a level's map, and the map of the prototype that contributes most
EVENT = "event"  # the event itself, where it is known, as if an explanation had shown exactly that
RANDOMISED = "random weights"  # the same clip, explained on a model of shuffled weights
HEAT_OF = "_by_"  # top_prototype_by_grad_cam: the same prototype, its heat by that method

# the model, its tree and the record of its push
Load = Callable[[], tuple[HIPE | TrunkModel, Hierarchy, PushRecord | None]]
Key = tuple[str, str, int]  # a video's name, an explanation and a level


@dataclass(frozen=True)
class Settings:
    """What a measured number depends on, besides the clip, the explanation, the level and the measure's edition."""

    digest: str  # of the checkpoint's weights
    head: str
    steps: int  # of insertion and deletion
    iterations: int  # of a perturbation
    inference_stride: int | None  # frames from one window to the next, None where `windows` alone tells
    seed: int
    truth: str  # digest of its file, "none" without one
    window_power: float = 1.0  # by which windows come to the predicted class, 1 for the mean
    options: str = ""  # of attribution methods, as --options takes them
    smooth: bool = False  # heat of attribution methods that is scattered over voxels
    windows: str = ""  # that are looked at of a video, "" for all that are inference_stride apart

    def stored(self) -> dict:
        """As files have them: options, smoothing and windows where there are any."""
        rare = ("options", "smooth", "windows")
        return {name: value for name, value in vars(self).items() if name not in rare or value}


def is_optimised(explanation: str) -> bool:
    """Whether a clip's heat is found by optimisation, which takes too long for disturbed clips as well."""
    return explanation in METHODS and METHODS[explanation].optimises


def method_edition(explanation: str) -> int:
    """Of an attribution method; what is none has but one."""
    return METHODS[explanation].edition if explanation in METHODS else 1


def offers(explanation: str, *, with_prototypes: bool) -> set[str]:
    """The needs of measures, of `evaluation.measures.NEEDS`, that an explanation meets.

    Args:
        with_prototypes: whether the head that is explained has prototypes.
    """
    if explanation == "chance":
        return {"truth"}
    if explanation == EVENT:
        return {"heat", "box", "truth"}
    needs = {"heat", "box", "truth"} | (set() if is_optimised(explanation) else {"disturbed clips", RANDOMISED})
    if with_prototypes and (explanation in BASELINES or explanation.startswith("top_prototype")):
        needs |= {"first prototype"}
    if with_prototypes and explanation in ("prototypes", "random"):
        needs |= {"prototype order"}
    return needs | {"level of prototypes", "ways"} if explanation == "prototypes" else needs


class Judge:
    """Explains clips in every way asked for, and measures how good each explanation is.

    Args:
        settings: of the numbers. load: of the model to judge. clips: all windows of the videos. truth: of these, and
        the ways of the training videos. device: where to compute.
    """

    def __init__(self, settings: Settings, load: Load, clips: VideoClips, truth: Truth, device: torch.device) -> None:
        self.settings, self.clips, self.truth, self.device = settings, clips, truth, device
        model, self.tree, self.record = load()
        self.model = model.to(device).eval().requires_grad_(False)
        self.size = (clips.sampler.duration, clips.transform.size, clips.transform.size)
        self.heats = Heats(self.model, settings.head, self.size, iterations=settings.iterations, seed=settings.seed,
                           options=settings.options.split(), smooth=settings.smooth)
        self.forgetful = Forgetful(self.model, self.size, seed=self._seed(RANDOMISED))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalise(pixels.to(self.device), self.clips.normalisation)

    def _seed(self, *words: object) -> int:
        return zlib.crc32(" ".join(map(str, (self.settings.seed, *words))).encode())

    # --- scenes

    @torch.no_grad()
    def scene(self, v: int) -> Scene | None:
        """The surest window of a video's prediction, and the same window disturbed; None where these cannot be read.

        Raises:
            ValueError: where a log-probability is not finite.
        """
        items = [self.clips[i] for i in np.flatnonzero(self.clips.item_video == v).tolist()]
        items = [item for item in items if item["valid"]]
        if not items:
            return None
        log_probs = torch.cat([
            self.heats.log_probs(self._normalised(torch.stack([item["clip"] for item in some]))).cpu()
            for some in (items[i:i + 16] for i in range(0, len(items), 16))])
        video = self.clips.videos[v]
        if not log_probs.isfinite().all():
            raise ValueError(f"{video.path}: the model gives it log-probabilities that are not finite, for its weights "
                             "hold NaN or infinity, or belong to another trunk; give others")
        _, leaf, best = pool_windows(log_probs, self.tree.membership, self.settings.window_power)
        return self.scene_at(items[best], leaf)

    def scene_at(self, item: dict, leaf: int) -> Scene | None:
        """A window, as it is and disturbed; None where the frames around it cannot be read.

        Args:
            item: of `clips`. leaf: that is explained.
        """
        video = self.clips.videos[int(item["video"])]
        changed = disturbed(self.clips, item, self._seed(video.name))
        if changed is None:
            return None
        clips, shift = changed
        return Scene(video, self._normalised(item["clip"]), item["frames"], item["crop"], leaf,
                     {name: self._normalised(clip) for name, clip in clips.items()}, shift)

    @torch.no_grad()
    def outputs(self, scene: Scene, levels: Sequence[int], *,
                random: bool) -> tuple[dict[str, HIPEOutput], dict[str, dict[int, LevelMatch]]]:
        """What the model says of a scene's clip, "", and of the disturbed ones by what was done to them; on request
        also what one of shuffled weights says, prototypes included.

        Returns:
            the outputs, and of each the matches of the prototypes above the scene's leaf, by level.
        """
        clips = {"": scene.clip, **scene.disturbed, **({RANDOMISED: scene.clip} if random else {})}
        outputs, matches = {}, {}
        for name, clip in clips.items():
            with self.forgetful.forgotten() if name == RANDOMISED else nullcontext():
                outputs[name] = self._output(clip)
                matches[name] = self.matches(outputs[name], scene.leaf, levels)
        return outputs, matches

    def _output(self, clip: Tensor) -> HIPEOutput:
        return self.model(clip[None].contiguous(memory_format=torch.channels_last_3d))

    def matches(self, output: HIPEOutput, leaf: int, levels: Sequence[int]) -> dict[int, LevelMatch]:
        """All prototypes of the nodes above a leaf, by level."""
        matches = match_output(self.model, output, self.size, levels, self.model.prototype_layer.per_node, leaf=leaf)
        return {match.level: match for match in matches}

    @cached_property
    def own_patch(self) -> float:
        """The activation from which on a patch is a prototype's own."""
        return float(self.model.prototype_layer.similarity(torch.tensor(OWN_PATCH)))

    def right(self, scene: Scene, level: int) -> bool:
        """Whether the predicted node of a level is the true one."""
        tree, label = self.tree, scene.video.label
        return label >= 0 and tree.path_ids(label)[level] == tree.path_ids(scene.leaf)[level]

    # --- measures

    def rows(self, videos: Sequence[int], missing: Mapping[Key, Sequence[str]]) -> Iterator[dict]:
        """Measure explanations of some videos, one explanation after the other.

        Args:
            videos: by their number in `clips`. missing: names of the measures to apply, by video, explanation and
                level.
        Yields:
            a row for each of these, as in rows.jsonl; none for a video that cannot be read.
        """
        scenes = [scene for scene in map(self.scene, videos) if scene is not None]
        levels = sorted({level for _, _, level in missing})
        with_prototypes = self.settings.head == "prototypes"
        random = any(RANDOMISED in MEASURES[name].needs for names in missing.values() for name in names)
        both = [self.outputs(scene, levels, random=random) if with_prototypes else ({}, {}) for scene in scenes]
        seen, own = ([pair[i] for pair in both] for i in (0, 1))
        for explanation, level in dict.fromkeys((explanation, level) for _, explanation, level in missing):
            some = [i for i, scene in enumerate(scenes) if (scene.video.name, explanation, level) in missing]
            if not some:
                continue
            chosen, of_chosen = [scenes[i] for i in some], [own[i] for i in some]
            nodes = [self.tree.path_ids(scene.leaf)[level] for scene in chosen]
            met = offers(explanation, with_prototypes=with_prototypes)
            asked = [[name for name in missing[scene.video.name, explanation, level] if MEASURES[name].needs <= met]
                     for scene in chosen]
            needs = set().union(*(MEASURES[name].needs for names in asked for name in names))
            heats = self.maps(explanation, level, chosen, nodes, of_chosen, "",
                               wanted=bool(needs & {"heat", "box", "truth", "disturbed clips", RANDOMISED}))
            after = {what: self.maps(explanation, level, chosen, nodes, of_chosen, what)
                     for what in (*(DISTURBANCES if "disturbed clips" in needs else ()),
                                  *((RANDOMISED,) if RANDOMISED in needs else ()))}
            for j, (i, scene) in enumerate(zip(some, chosen, strict=True)):
                subject = self._subject(explanation, level, scene, heats[j],
                                        {what: maps[j] for what, maps in after.items()},
                                        own[i][""][level] if own[i] else None, seen[i].get(""))
                shown = heats[j] is not None or explanation != EVENT
                values = {name: MEASURES[name].of_clip(subject) for name in (asked[j] if shown else ())}
                yield {"video": scene.video.name, "explanation": explanation, "level": level,
                       **({"method": edition} if (edition := method_edition(explanation)) > 1 else {}),
                       "node": self.tree.full_name(nodes[j]), "right": self.right(scene, level),
                       "measures": {name: round(value, 6) for name, value in values.items() if value is not None}}

    def measured(self, scene: Scene, explanation: str, level: int, heat: Tensor,
                 names: Sequence[str]) -> dict[str, float]:
        """Measures of heat that somebody else made of a scene's clip.

        Args:
            explanation: what the heat is called. heat: (T, H, W) for the node of `level` above `scene.leaf`. names: of
                measures.
        Raises:
            ValueError: for a measure that needs more than the heat.
        """
        for name in names:
            if more := MEASURES[name].needs - {"heat", "box", "truth"}:
                raise ValueError(f"{name}: needs {min(more)}, and a single map has none; measure it with "
                                 "evaluate_explanations.py")
        subject = self._subject(explanation, level, scene, heat, {}, None, None)
        values = {name: MEASURES[name].of_clip(subject) for name in names}
        return {name: round(value, 6) for name, value in values.items() if value is not None}

    def baseline(self, name: str, scene: Scene, level: int) -> Tensor:
        """Heat (T, H, W) of a baseline, as tables have it."""
        return self.heats.of_nodes(name, [scene.clip], [0], [self._seed(scene.video.name, level, "")])[0]

    def maps(self, explanation: str, level: int, scenes: Sequence[Scene], nodes: Sequence[int],
             own: Sequence[dict[str, dict[int, LevelMatch]]], what: str, *,
             wanted: bool = True) -> list[Tensor | None]:
        """Heat of clips as they are, "", or disturbed; None where it knows nothing, or is not wanted."""
        if explanation == "chance" or not wanted:
            return [None] * len(scenes)
        if explanation == "prototypes":
            return [matches[what][level].heat for matches in own]
        if explanation == EVENT:
            return [self._event(scene) for scene in scenes]
        first = [matches[""][level].matches[0] if matches else None for matches in own]
        if explanation.startswith("top_prototype"):
            similar = [next(match for match in matches[what][level].matches if match.prototype == best.prototype)
                       for matches, best in zip(own, first, strict=True)]
        if explanation == "top_prototype":
            return [match.heat for match in similar]
        clips = [scene.disturbed.get(what, scene.clip) for scene in scenes]
        seeds = [self._seed(scene.video.name, level, what) for scene in scenes]
        name, _, method = explanation.partition(HEAT_OF)
        with self.forgetful.forgotten() if what == RANDOMISED else nullcontext():
            heats = (self.heats.of_prototypes(method, clips, [best.prototype for best in first]) if method
                     else self.heats.of_nodes(name, clips, nodes, seeds))
        heats = [heat.detach().float().cpu() for heat in heats]
        if not method:
            return heats
        return [match.heat if match.activation >= self.own_patch or heat.amax() <= heat.amin() else heat  # as on cards
                for heat, match in zip(heats, similar, strict=True)]

    def _subject(self, explanation: str, level: int, scene: Scene, heat: Tensor | None,
                 disturbed_heat: dict[str, Tensor], match: LevelMatch | None,
                 output: HIPEOutput | None) -> ExplainedClip:
        """What the measures read of one explanation of a scene's clip."""
        path, name, random = self.tree.path_ids(scene.leaf), scene.video.name, explanation == "random"
        tubes = self.truth.tubes.get(name)
        decision = None
        if match is not None:
            first = match.matches[0].prototype
            decision = Decision(
                model=self.model, record=self.record, activations=output.activations[0], distances=output.distances[0],
                path=path, true_path=self.tree.path_ids(scene.video.label) if scene.video.label >= 0 else None,
                level=level, first=first, source_way=self.truth.ways.get(self.record.video[first]))
        return ExplainedClip(
            clip=scene.clip, probability=lambda clips: self.heats.log_probs(clips)[:, path[level]].exp(),
            steps=self.settings.steps, seed=self._seed(name), heat=heat, disturbed=disturbed_heat,
            random_heat=disturbed_heat.get(RANDOMISED),
            moved_by={what: float((clip - scene.clip).norm()) for what, clip in scene.disturbed.items()},
            moved_back=moved_back(scene.shift, self.clips.sampler.stride),
            baseline_box=(self._shape(match), np.random.default_rng(self._seed(name, "box")) if random else None)
            if explanation in BASELINES else None,
            tubes=tubes if self.right(scene, level) or scene.video.label < 0 else None, frames=scene.frames,
            crop=scene.crop, decision=decision,
            random_order=np.random.default_rng(self._seed(name, "set")) if random else None,
            way=self.truth.ways.get(name), normalisation=self.clips.normalisation)

    def _event(self, scene: Scene) -> Tensor | None:
        """(T, H, W) 1 where the event is in a scene's clip, None where it is not there or not known."""
        tubes = self.truth.tubes.get(scene.video.name, [])
        mask = truth_mask(tubes, scene.frames.numpy(), scene.crop.numpy(), self.size[1:])
        return mask.float() if mask.any() else None

    def _shape(self, match: LevelMatch | None) -> tuple[int, ...]:
        """The shape of a baseline's box: the first prototype's, or else one that holds as much as boxes are made of."""
        if match is not None:
            return match.matches[0].box
        edge = (1 - BOX_SHARE) ** (1 / 3)
        return (0, 0, 0, *(max(round(edge * n), 1) for n in self.size))
