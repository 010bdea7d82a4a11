"""Puts explanations into the words and numbers of explanation.json: source frames, source pixels, names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.reading import FrameTimes, Reader
from datasets.video import Video
from explain.contrast import Contrast, Voice
from explain.evidence import Evidence
from explain.match import LevelMatch, Match, Source
from hierarchy.tree import Hierarchy
from models.geometry import box_to_source, points_to_source
from models.hipe import HIPEOutput

UPSAMPLE = "upsample"  # the heat that is similarity itself
ALTERNATIVES = 4  # nodes of a level named beside the predicted one


@dataclass(frozen=True)
class SeenWindow:
    """A clip that the model has seen."""

    output: HIPEOutput  # B = 1
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) y0, x0, y1, x1 in the video's own pixels
    item: int  # of the dataset


class Narrator:
    """Puts explanations into words and numbers.

    Args:
        size: (T, H, W) of the clips. source_videos: training videos by name. source_reader: of these.
        model_id: by which explanations of the same model know each other. heat: the method of prototypes' heat.
    """

    def __init__(self, hierarchy: Hierarchy, size: tuple[int, int, int], source_videos: Mapping[str, Video],
                 source_reader: Reader, model_id: str, heat: str) -> None:
        self.hierarchy, self.size, self.model_id, self.heat = hierarchy, size, model_id, heat
        self.source_videos, self.source_reader = source_videos, source_reader
        self._source_times: dict[str, FrameTimes | None] = {}

    def video(self, video: Video, times: FrameTimes | None, window: SeenWindow, probs: Tensor, leaf: int,
              levels: Sequence[LevelMatch], evidence: Mapping[int, Evidence],
              measures: Sequence[Mapping[str, float]], unseen: Mapping[str, object],
              contrast: Mapping[int, Sequence[Contrast]], sources: Mapping[int, Source | None]) -> dict:
        """All of explanation.json; `probs` (K,) are the probabilities of the whole video, `evidence` and `sources` by
        prototype, `measures` of `decision_measures` by level, `unseen` of `unseen_entries`, `contrast` by level."""
        tree, path = self.hierarchy, self.hierarchy.path_ids(leaf)
        first, last = int(window.frames.min()), int(window.frames.max()) + 1
        return {
            "video": video.name,
            "window": [first, last],
            "seconds": _seconds(first, last, times),
            "prediction": [tree.full_name(node) for node in path],
            "path_scores": [_rounded(probs[node]) for node in path],
            "truth": tree.full_name(video.label) if video.label >= 0 else None,
            **unseen,
            "levels": [self._level(level, window, times, evidence) | {
                "decision": _decision(measured),
                "contrast": [self._contrast(one, window, times, sources) for one in contrast[level.level]]}
                       for level, measured in zip(levels, measures, strict=True)],
            "n_levels": tree.n_levels,
            "crop": [_rounded(edge, 3) for edge in window.crop],
            "fps": None if times is None else _rounded(times.fps, 3),
            "model": self.model_id,
            "heat": self.heat,
        }

    def _level(self, level: LevelMatch, window: SeenWindow, times: FrameTimes | None,
               evidence: Mapping[int, Evidence]) -> dict:
        tree = self.hierarchy
        nodes = torch.tensor(tree.levels[level.level])
        probability = window.output.log_probs[0].double().exp().cpu()
        others = nodes[probability[nodes].argsort(descending=True)].tolist()
        others.remove(level.node)
        return {
            "level": level.level,
            "node": tree.full_name(level.node),
            "probability": _rounded(level.probability),
            "prototypes": [self._prototype(match, level.probability, window, times, evidence[match.prototype])
                           for match in level.matches],
            "alternatives": [{"node": tree.full_name(node), "probability": _rounded(probability[node])}
                             for node in others[:ALTERNATIVES]],
            "n_nodes": len(nodes),
            "siblings": self._siblings(level.node),
            "shares": {group: _rounded(value) for group, value in level.shares.items()},
        }

    def _contrast(self, contrast: Contrast, window: SeenWindow, times: FrameTimes | None,
                  sources: Mapping[int, Source | None]) -> dict:
        """Rounded so that start, nats and rest still sum to the difference."""
        difference, start = _rounded(contrast.difference), _rounded(contrast.start)
        voices = [self._voice(voice, window, times, sources[voice.prototype]) for voice in contrast.voices]
        return {
            "node": self.hierarchy.full_name(contrast.rival),
            "probability": _rounded(window.output.log_probs[0, contrast.rival].double().exp()),
            "difference": difference,
            "start": start,
            "prototypes": voices,
            "rest": _rounded(difference - start - sum(voice["nats"] for voice in voices)),
        }

    def _voice(self, voice: Voice, window: SeenWindow, times: FrameTimes | None, source: Source | None) -> dict:
        size = self.size[1:]
        box = box_to_source(voice.box, window.frames, window.crop, size)
        return {
            "prototype": voice.prototype,
            "node": self.hierarchy.full_name(voice.node),
            "nats": _rounded(voice.nats),
            "similarity": _rounded(voice.similarity),
            "peak": points_to_source(torch.tensor(voice.peak), window.frames, window.crop, size).tolist(),
            "box": list(box),
            "seconds": _seconds(box[0], box[3], times),
            "source": self._source(source),
        }

    def _siblings(self, node: int) -> int:
        """How many nodes lie below a node's parent, itself among them."""
        above = self.hierarchy.path(node)[1:]
        return sum(self.hierarchy.path(other)[1:] == above
                   for other in self.hierarchy.levels[int(self.hierarchy.level_of[node])])

    def _prototype(self, match: Match, probability: float, window: SeenWindow, times: FrameTimes | None,
                   evidence: Evidence) -> dict:
        size = self.size[1:]
        box = box_to_source(match.box, window.frames, window.crop, size)
        return {
            "prototype": match.prototype,
            "node": self.hierarchy.full_name(match.node),
            "path": list(self.hierarchy.path(match.node)),
            "similarity": _rounded(match.similarity),
            "activation": _rounded(match.activation),
            **_shares("closer_than", match.closer_than),
            **_shares("typical", match.typical),
            "weight": None if match.weight is None else _rounded(match.weight),
            "evidence": None if match.evidence is None else _rounded(match.evidence),
            "stands_by": match.stands_by,
            "stands_for": match.stands_for,
            "contribution": _rounded(match.contribution),
            "probability_without": _rounded(probability * math.exp(-match.contribution)),
            "peak": points_to_source(torch.tensor(match.peak), window.frames, window.crop, size).tolist(),
            "box": list(box),
            "seconds": _seconds(box[0], box[3], times),
            "box_test": {"box_only": _rounded(evidence.box_only, 4), "box_hidden": _rounded(evidence.box_hidden, 4),
                         "holds": evidence.holds},
            "hangs_on": {trait: _rounded(share, 4) for trait, share in evidence.hangs_on.items()},
            "source": self._source(match.source),
            "heat": UPSAMPLE if match.by_similarity else self.heat,
        }

    def _source(self, source: Source | None) -> dict | None:
        if source is None:
            return None
        times = self._times(source.video)
        return {"video": source.video, "frames": [int(source.frames.min()), int(source.frames.max()) + 1],
                "box": list(source.box), "seconds": _seconds(source.box[0], source.box[3], times)}

    def _times(self, name: str) -> FrameTimes | None:
        """Of a training video; None where it cannot be read, which its picture's place will say."""
        if name not in self._source_times:
            try:
                self._source_times[name] = self.source_reader.times(self.source_videos[name].path)
            except (KeyError, OSError, ValueError):
                self._source_times[name] = None
        return self._source_times[name]


def _rounded(value: float | Tensor, digits: int = 6) -> float:
    return round(float(value), digits)


def _shares(name: str, share: tuple[float, int] | None) -> dict:
    """A share of training videos and how many stand behind it."""
    value, count = share or (None, 0)
    return {name: None if value is None else _rounded(value), f"{name}_videos": count}


def _decision(measures: Mapping[str, float]) -> dict:
    """What becomes of a level's answer without its first prototypes, and whose prototype is the nearest."""
    asked = {name: measures.get(name) for name in ("flips", "flips_three", "nearest_own")}
    return {"silenced_three": _rounded(measures["silenced_three"]),
            **{name: None if value is None else bool(value) for name, value in asked.items()}}


def _seconds(first: int, last: int, times: FrameTimes | None) -> list[float] | None:
    return None if times is None else [_rounded(end, 3) for end in times.seconds_of(first, last)]
