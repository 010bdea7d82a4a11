"""Explain videos: find the window, match the prototypes, write the numbers, the pictures and the pages."""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.reading import FrameTimes, Reader
from datasets.transforms import normalise
from datasets.video import Video, VideoClips
from evaluation.decisions import decision_measures
from evaluation.recognition import pool_windows
from explain import pages, render
from explain.contrast import Contrast, Voice, contrasts, rivals_of
from explain.evidence import Evidence, kept_activation
from explain.heat import prototype_heat
from explain.match import LevelMatch, Match, PushRecordLike, Source, match_output, source_of
from explain.names import file_name
from explain.pictures import Painter, read_region
from explain.what_if import what_if
from hierarchy.tree import Hierarchy
from machine.cores import cores
from machine.shared_memory import fitting
from models.geometry import box_to_source, points_to_source
from models.hipe import HIPE, HIPEOutput

UPSAMPLE = "upsample"  # the heat that is similarity itself
ALTERNATIVES = 4  # nodes of a level named beside the predicted one


@dataclass(frozen=True)
class _Window:
    """A clip that the model has seen."""

    output: HIPEOutput  # B = 1
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) y0, x0, y1, x1 in the video's own pixels
    item: int  # of the dataset


@torch.no_grad()
def _windows(model: HIPE, clips: VideoClips, batch_size: int, n_jobs: int) -> Iterator[tuple[int, list[_Window]]]:
    """Video by video, its index and its windows; no window where the video cannot be read."""
    device = model.device
    current, windows = None, []
    n_jobs, ahead = fitting(min(n_jobs, cores()), batch_size * clips.clip_bytes)
    for batch in DataLoader(clips, batch_size=batch_size, num_workers=n_jobs, prefetch_factor=ahead or None):
        output = model(normalise(_as_weights(batch["clip"].to(device)), clips.normalisation))
        for i, video in enumerate(batch["video"].tolist()):
            if video != current:
                if current is not None:
                    yield current, windows
                current, windows = video, []
            if batch["valid"][i]:
                single = HIPEOutput(**{name: value[i:i + 1] for name, value in vars(output).items()})
                # a tensor of a loader process is an open file for as long as it is kept
                windows.append(_Window(single, batch["frames"][i].clone(), batch["crop"][i].clone(),
                                       int(batch["item"][i])))
    if current is not None:
        yield current, windows


def _as_weights(clips: Tensor) -> Tensor:
    """Clips in the memory order of the trunk's weights, which is faster."""
    return clips.contiguous(memory_format=torch.channels_last_3d)


class _Narrator:
    """Puts explanations into the words and numbers of explanation.json: source frames, source pixels, names."""

    def __init__(self, hierarchy: Hierarchy, size: tuple[int, int, int], source_videos: Mapping[str, Video],
                 source_reader: Reader, model_id: str, heat: str) -> None:
        self.hierarchy, self.size, self.model_id, self.heat = hierarchy, size, model_id, heat
        self.source_videos, self.source_reader = source_videos, source_reader
        self._source_times: dict[str, FrameTimes | None] = {}

    def video(self, video: Video, times: FrameTimes | None, window: _Window, probs: Tensor, leaf: int,
              levels: Sequence[LevelMatch], evidence: Mapping[int, Evidence], measures: Sequence[Mapping[str, float]],
              contrast: Mapping[int, Sequence[Contrast]], sources: Mapping[int, Source | None]) -> dict:
        """All of explanation.json; `probs` (K,) are the probabilities of the whole video, `evidence` and `sources` by
        prototype, `measures` of `decision_measures` by level, `contrast` by level."""
        tree, path = self.hierarchy, self.hierarchy.path_ids(leaf)
        first, last = int(window.frames.min()), int(window.frames.max()) + 1
        return {
            "video": video.name,
            "window": [first, last],
            "seconds": _seconds(first, last, times),
            "prediction": [tree.full_name(node) for node in path],
            "path_scores": [_rounded(probs[node]) for node in path],
            "truth": tree.full_name(video.label) if video.label >= 0 else None,
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

    def _level(self, level: LevelMatch, window: _Window, times: FrameTimes | None,
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

    def _contrast(self, contrast: Contrast, window: _Window, times: FrameTimes | None,
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

    def _voice(self, voice: Voice, window: _Window, times: FrameTimes | None, source: Source | None) -> dict:
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

    def _prototype(self, match: Match, probability: float, window: _Window, times: FrameTimes | None,
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


def fingerprint(model: HIPE) -> str:
    """Eight letters by which explanations of the same model know each other."""
    weights = (model.prototype_layer.prototypes, *model.score.last)
    return hashlib.sha256(b"".join(weight.detach().cpu().numpy().tobytes() for weight in weights)).hexdigest()[:8]


@dataclass(frozen=True)
class Sources:
    """Where prototypes come from.

    Args:
        record: of the push; None where nothing was pushed yet.
        videos: training videos by name.
        reader: of those; None for the reader of the clips that are explained.
    """

    record: PushRecordLike | None = None
    videos: Mapping[str, Video] = field(default_factory=dict)
    reader: Reader | None = None


@dataclass(frozen=True, kw_only=True)
class ExplanationSettings:
    """How videos are explained.

    Args:
        k: prototypes a level.
        heat: the attribution method (see attribution/) that explains each prototype's activation, or "upsample" for
            the similarity of the cells.
        heat_options: of that method.
        pictures: False writes explanation.json alone.
        batch_size: windows at a time. n_jobs: processes that load them.
        progress: show a bar.
        power: of `VideoPool`, by which windows come to a prediction; 1 for the mean.
        checkpoint: the model's file, which pages name in commands.
        against: leaves that the prediction is compared with, beside the most probable other nodes and the true one.
    """

    k: int = 3
    heat: str = UPSAMPLE
    heat_options: Mapping[str, object] = field(default_factory=dict)
    pictures: bool = True
    batch_size: int = 8
    n_jobs: int = 0
    progress: bool = True
    power: float = 1.0
    checkpoint: str = "save_200.pth"
    against: Sequence[int] = ()


def explain_videos(model: HIPE, clips: VideoClips, *, hierarchy: Hierarchy, levels: Sequence[int], out: Path,
                   beside: Path | None = None, sources: Sources | None = None,
                   settings: ExplanationSettings | None = None) -> list[dict]:
    """Explain every video of a dataset, each in a folder of its own under `out`.

    A folder holds `explanation.json` and, with pictures, GIFs, `index.html`, `what_if.json` where the score has a
    formula, and, where `beside` explains the same window at other levels, `story.html` of all levels; `out` gets an
    `index.html` of all its videos. What an earlier run with other results left in a video's folder is removed.

    Args:
        model: in eval mode, on its device.
        clips: the videos' windows (SlidingWindows, EvalTransform), as for inference.
        levels: which to explain, 0 for the classes.
        beside: where other levels of the same videos are explained, if anywhere.
    Returns:
        the contents of each explanation.json; a video that cannot be read has none.
    Raises:
        ValueError: for a level that the tree does not have, or where no video could be read.
    """
    sources, settings = sources or Sources(), settings or ExplanationSettings()
    wrong = [level for level in levels if not 0 <= level < hierarchy.n_levels]
    if wrong or not levels:
        raise ValueError(f"level {wrong} is not in the class tree; it has the levels 0 to {hierarchy.n_levels - 1}")
    record, source_reader = sources.record, sources.reader or clips.reader
    out.mkdir(parents=True, exist_ok=True)
    size = (clips.sampler.duration, clips.transform.size, clips.transform.size)
    narrator = _Narrator(hierarchy, size, sources.videos, source_reader, fingerprint(model), settings.heat)
    painter = Painter(sources.videos, source_reader, size[1:])
    explanations, skipped = [], []
    videos = tqdm(_windows(model, clips, settings.batch_size, settings.n_jobs), desc="explaining", unit="video",
                  total=len(clips.videos), disable=not settings.progress)
    for index, windows in videos:
        video = clips.videos[index]
        if not windows:
            skipped.append(video.name)
            continue
        log_probs = torch.cat([window.output.log_probs for window in windows]).cpu()  # (N, K)
        probs, leaf, best = pool_windows(log_probs, hierarchy.membership, settings.power)
        window = windows[best]
        pixels = clips[window.item]["clip"].to(model.device)  # (3, T, H, W)
        clip = normalise(pixels, clips.normalisation)
        heat = None if settings.heat == UPSAMPLE else partial(prototype_heat, settings.heat, model, clip,
                                                              options=settings.heat_options)
        matches = match_output(model, window.output, size, levels, settings.k, record=record, leaf=leaf, heat_of=heat)
        evidence = _evidence(model, clip, [match for level in matches for match in level.matches],
                             clips.normalisation, settings.batch_size)
        try:
            times = clips.reader.times(video.path)
        except ValueError:  # this window could be read, though not the whole video
            times = None
        truth = hierarchy.path_ids(video.label) if video.label >= 0 else None
        measures = decision_measures(model, window.output.activations[0], window.output.distances[0],
                                     hierarchy.path_ids(leaf), truth=truth, levels=[level.level for level in matches])
        asked = [*settings.against, *([video.label] if truth is not None else ())]
        rivals = {level.level: rivals_of(window.output.log_probs[0], hierarchy, level.node, n=ALTERNATIVES, also=asked)
                  for level in matches}
        contrast = contrasts(model, window.output, size, matches, rivals)
        voices = {voice.prototype: voice for some in contrast.values() for one in some for voice in one.voices}
        of_voices = {prototype: source_of(record, prototype) for prototype in voices}
        explanation = narrator.video(video, times, window, probs, leaf, matches, evidence, measures, contrast,
                                     of_voices)
        explanations.append(explanation)

        folder = out / file_name(video.name)
        pages.start_folder(folder, explanation)
        if settings.pictures:
            pixels = read_region(clips.reader, video.path, window.frames, window.crop)
            painter.paint(folder, pixels, render.seconds_per_frame(window.frames, times), matches)
            painter.paint_voices(folder, pixels, list(voices.values()), of_voices)
            pages.write_what_if(folder, what_if(model, window.output, hierarchy, record=record,
                                                checkpoint=settings.checkpoint))
            pages.write_pages(folder, beside and beside / folder.name)
    if not explanations:
        raise ValueError(f"none of the {len(clips.videos)} videos can be read; check --root_path and --video_path")
    if settings.pictures:
        pages.write_overviews(out, beside, narrator.model_id)
    _warn("videos could not be read and are not explained", skipped)
    _warn("training videos could not be read; the cards of their prototypes say so", painter.missing)
    return explanations


def _evidence(model: HIPE, clip: Tensor, matches: Sequence[Match], normalisation: str,
              batch_size: int) -> dict[int, Evidence]:
    """By prototype, what is left of its activation with its box alone, without it, and with the box changed."""
    evidence = kept_activation(lambda clips: model(_as_weights(clips)).activations, clip,
                               [match.box for match in matches], [match.prototype for match in matches],
                               normalisation=normalisation, batch_size=batch_size)
    return {match.prototype: held for match, held in zip(matches, evidence, strict=True)}


def _warn(what: str, names: Sequence[str] | set[str]) -> None:
    if names:
        print(f"warning: {len(names)} {what} (first: {min(names)})", file=sys.stderr)
