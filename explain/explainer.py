"""Explain videos: find the window, match the prototypes, write the numbers, the pictures and the pages."""

import hashlib
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
from evaluation.unseen import unseen_entries
from explain import pages, render
from explain.contrast import Voice, contrasts, rivals_of
from explain.evidence import Evidence, kept_activation
from explain.heat import prototype_heat
from explain.match import LevelMatch, Match, PushRecordLike, Source, match_output, source_of
from explain.names import file_name
from explain.narration import ALTERNATIVES, UPSAMPLE, Narrator, SeenWindow
from explain.pictures import Painter, read_region
from explain.what_if import what_if
from hierarchy.tree import Hierarchy
from machine.cores import cores
from machine.shared_memory import fitting
from models.hipe import HIPE, HIPEOutput


@torch.no_grad()
def _windows(model: HIPE, clips: VideoClips, batch_size: int, n_jobs: int) -> Iterator[tuple[int, list[SeenWindow]]]:
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
                windows.append(SeenWindow(single, batch["frames"][i].clone(), batch["crop"][i].clone(),
                                          int(batch["item"][i])))
    if current is not None:
        yield current, windows


def _as_weights(clips: Tensor) -> Tensor:
    """Clips in the memory order of the trunk's weights, which is faster."""
    return clips.contiguous(memory_format=torch.channels_last_3d)


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


@dataclass(frozen=True)
class Explained:
    """What a model says of a video, and why."""

    video: Video
    window: SeenWindow  # the one that shows the prediction best
    probs: Tensor  # (K,) of the whole video
    matches: list[LevelMatch]  # by level, as asked for
    voices: list[Voice]  # prototypes of the contrasts
    sources: dict[int, Source | None]  # where they come from
    times: FrameTimes | None  # of the video's frames; None where they cannot be read
    content: dict  # of explanation.json


class Explainer:
    """Explains the videos of a dataset one after the other.

    Args:
        model: in eval mode, on its device.
        clips: the videos' windows (SlidingWindows, EvalTransform), as for inference.
        levels: which to explain, 0 for the classes.
    Attributes:
        skipped: names of the videos that could not be read, as far as it came.
    Raises:
        ValueError: for a level that the tree does not have.
    """

    def __init__(self, model: HIPE, clips: VideoClips, *, hierarchy: Hierarchy, levels: Sequence[int],
                 sources: Sources | None = None, settings: ExplanationSettings | None = None) -> None:
        self.model, self.clips, self.hierarchy, self.levels = model, clips, hierarchy, list(levels)
        self.sources, self.settings = sources or Sources(), settings or ExplanationSettings()
        wrong = [level for level in self.levels if not 0 <= level < hierarchy.n_levels]
        if wrong or not self.levels:
            raise ValueError(f"level {wrong} is not in the class tree; it has the levels 0 to {hierarchy.n_levels - 1}")
        self.size = (clips.sampler.duration, clips.transform.size, clips.transform.size)
        source_reader = self.sources.reader or clips.reader
        self.narrator = Narrator(hierarchy, self.size, self.sources.videos, source_reader, fingerprint(model),
                                 self.settings.heat)
        self.painter = Painter(self.sources.videos, source_reader, self.size[1:])
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Explained]:
        """Every video that can be read, explained."""
        self.skipped.clear()
        for index, windows in _windows(self.model, self.clips, self.settings.batch_size, self.settings.n_jobs):
            video = self.clips.videos[index]
            if windows:
                yield self._explained(video, windows)
            else:
                self.skipped.append(video.name)

    def _explained(self, video: Video, windows: Sequence[SeenWindow]) -> Explained:
        model, hierarchy, settings, clips = self.model, self.hierarchy, self.settings, self.clips
        log_probs = torch.cat([window.output.log_probs for window in windows]).cpu()  # (N, K)
        probs, leaf, best = pool_windows(log_probs, hierarchy.membership, settings.power)
        window = windows[best]
        pixels = clips[window.item]["clip"].to(model.device)  # (3, T, H, W)
        clip = normalise(pixels, clips.normalisation)
        heat = None if settings.heat == UPSAMPLE else partial(prototype_heat, settings.heat, model, clip,
                                                              options=settings.heat_options)
        matches = match_output(model, window.output, self.size, self.levels, settings.k, record=self.sources.record,
                               leaf=leaf, heat_of=heat)
        evidence = _evidence(model, clip, [match for level in matches for match in level.matches],
                             clips.normalisation, settings.batch_size)
        try:
            times = clips.reader.times(video.path)
        except ValueError:  # this window could be read, though not the whole video
            times = None
        truth = hierarchy.path_ids(video.label) if video.label >= 0 else None
        measures = decision_measures(model, window.output.activations[0], window.output.distances[0],
                                     hierarchy.path_ids(leaf), truth=truth, levels=[level.level for level in matches])
        nearest = torch.cat([one.output.distances for one in windows]).amin(0, keepdim=True)
        record = self.sources.record
        unseen, = unseen_entries(nearest, hierarchy.ancestors[[leaf]], None if record is None else record.spread,
                                 model.prototype_layer.node_of, hierarchy.levels)
        asked = [*settings.against, *([video.label] if truth is not None else ())]
        rivals = {level.level: rivals_of(window.output.log_probs[0], hierarchy, level.node, n=ALTERNATIVES, also=asked)
                  for level in matches}
        contrast = contrasts(model, window.output, self.size, matches, rivals)
        voices = {voice.prototype: voice for some in contrast.values() for one in some for voice in one.voices}
        sources = {prototype: source_of(record, prototype) for prototype in voices}
        content = self.narrator.video(video, times, window, probs, leaf, matches, evidence, measures, unseen, contrast,
                                      sources)
        return Explained(video, window, probs, matches, list(voices.values()), sources, times, content)

    def pixels_of(self, explained: Explained) -> render.Pixels:
        """The region of a video that its window shows, scaled for display: (T, H', W', 3)."""
        return read_region(self.clips.reader, explained.video.path, explained.window.frames, explained.window.crop)

    def what_if_of(self, explained: Explained) -> dict | None:
        """What a page computes with, see `what_if`."""
        return what_if(self.model, explained.window.output, self.hierarchy, record=self.sources.record,
                       checkpoint=self.settings.checkpoint)

    def write(self, explained: Explained, out: Path, beside: Path | None = None) -> Path:
        """Write a video's folder below `out`, as `explain_videos`.

        Returns:
            the folder.
        """
        folder = out / file_name(explained.video.name)
        pages.start_folder(folder, explained.content)
        if self.settings.pictures:
            seconds = render.seconds_per_frame(explained.window.frames, explained.times)
            pixels = self.pixels_of(explained)
            self.painter.paint(folder, pixels, seconds, explained.matches)
            self.painter.paint_voices(folder, pixels, explained.voices, explained.sources)
            pages.write_what_if(folder, self.what_if_of(explained))
            pages.write_pages(folder, beside and beside / folder.name)
        return folder

    def write_overview(self, out: Path, beside: Path | None = None) -> None:
        """Write the page that lists the videos of `out`."""
        pages.write_overviews(out, beside, self.narrator.model_id)


def explain_videos(model: HIPE, clips: VideoClips, *, hierarchy: Hierarchy, levels: Sequence[int], out: Path,
                   beside: Path | None = None, sources: Sources | None = None,
                   settings: ExplanationSettings | None = None) -> list[dict]:
    """Explain every video of a dataset, each in a folder of its own under `out`.

    A folder holds `explanation.json` and, with pictures, GIFs, `index.html`, `what_if.json` where the score has a
    formula, and, where `beside` explains the same window at other levels, `story.html` of all levels; `out` gets an
    `index.html` of all its videos. What an earlier run with other results left in a video's folder is removed.

    Args:
        model, clips, hierarchy, levels, sources, settings: as of an `Explainer`.
        beside: where other levels of the same videos are explained, if anywhere.
    Returns:
        the contents of each explanation.json; a video that cannot be read has none.
    Raises:
        ValueError: for a level that the tree does not have, or where no video could be read.
    """
    explainer = Explainer(model, clips, hierarchy=hierarchy, levels=levels, sources=sources, settings=settings)
    out.mkdir(parents=True, exist_ok=True)
    explanations = []
    with tqdm(desc="explaining", unit="video", total=len(clips.videos),
              disable=not explainer.settings.progress) as bar:
        for explained in explainer:
            explanations.append(explained.content)
            explainer.write(explained, out, beside)
            bar.update(len(explanations) + len(explainer.skipped) - bar.n)
    if not explanations:
        raise ValueError(f"none of the {len(clips.videos)} videos can be read; check --root_path and --video_path")
    if explainer.settings.pictures:
        explainer.write_overview(out, beside)
    _warn("videos could not be read and are not explained", explainer.skipped)
    _warn("training videos could not be read; the cards of their prototypes say so", explainer.painter.missing)
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
