"""What attribution methods explain, a model (Subject) and windows of videos (Window), and the heat that they give."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attribution import METHODS
from attribution.feature_pyramid import FeaturePyramid, feature_pyramid
from attribution.perturbation import extremal_masks
from datasets.transforms import normalise
from datasets.video import Video, VideoClips
from evaluation.recognition import pool_windows
from explain.heat import heat_of
from hierarchy.tree import Hierarchy

AREA_MISS = 0.02  # difference between an area and the one asked for that is reported


@dataclass(frozen=True)
class Subject:
    """A model that is explained, as far as attribution sees it."""

    name: str
    source: str  # file or name of the weights
    hierarchy: Hierarchy
    trunk: nn.Module
    log_probs: Callable[[Tensor], Tensor]  # (B, 3, T, H, W) -> (B, K)
    normalisation: str  # of the clips
    device: torch.device
    activations: Callable[[Tensor], Tensor] | None = None  # (B, 3, T, H, W) -> (B, P), of a HIPE model
    node_of: Sequence[int] = ()  # of prototypes
    head: Tensor | None = None  # (K0 or K, C) class weights of a pooled linear head
    highest: float = 1.0  # activation of a prototype's own patch


@dataclass(frozen=True)
class Question:
    """What is explained of every video.

    Args:
        target: "predicted", "true", or the name of a class.
        level: the ancestor of that class so many levels up.
        prototype: the activation of this prototype instead.
    """

    target: str = "predicted"
    level: int = 0
    prototype: int | None = None

    @property
    def score(self) -> str:
        """What the score is, as perturbations call it."""
        return "log_prob" if self.prototype is None else "activation"

    @property
    def label(self) -> str:
        """How folders of results are called; empty for the class."""
        if self.prototype is not None:
            return f"prototype{self.prototype}"
        return f"level{self.level}" if self.level else ""

    def target_of(self, subject: Subject, video: Video, leaf: int) -> tuple[int, str]:
        """The node or prototype that is explained of a video, and its name.

        Args:
            leaf: predicted of the video.
        Raises:
            ValueError: where the true class is asked for and not known, or a class is not in the tree.
        """
        tree = subject.hierarchy
        if self.prototype is not None:
            return self.prototype, f"prototype {self.prototype} of {tree.full_name(subject.node_of[self.prototype])}"
        if self.target == "true":
            if video.label < 0:
                raise ValueError(f"{video.path}: its true class is not known; leave out --target true")
            leaf = video.label
        elif self.target != "predicted":
            leaf = tree.label(self.target)
        node = tree.path_ids(leaf)[self.level]
        return node, tree.full_name(node)


@dataclass(frozen=True)
class Window:
    """A window of a video that is explained."""

    video: Video
    clip: Tensor  # (3, T, H, W) normalised
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) in the video's own pixels
    log_probs: Tensor  # (K,) of the window
    target: int  # node or prototype
    title: str  # the target's name


@dataclass(frozen=True)
class Attribution:
    """What a method tells of a clip."""

    place: int  # of the clip among those explained
    heat: Tensor  # (T, H, W)
    pyramid: FeaturePyramid | None = None
    lines: Sequence[tuple[str, bool]] = ()  # for the margin of the sheet, and whether each stands out

    @property
    def missed(self) -> bool:
        """Whether a mask misses the area that was asked for."""
        return any(strong for _, strong in self.lines)


@torch.no_grad()
def find_windows(subject: Subject, clips: VideoClips, *, batch_size: int,
                 power: float) -> list[tuple[int, dict, Tensor, int]]:
    """Of every video its index, the surest window of its prediction, that window's log-probabilities, and the leaf.

    Args:
        batch_size: windows at a time. power: of `VideoPool`, by which windows come to a prediction.
    Raises:
        ValueError: where a log-probability is not finite.
    """
    by_video: dict[int, list[tuple[int, Tensor]]] = {}
    for first in range(0, len(clips), batch_size):
        places = range(first, min(first + batch_size, len(clips)))
        items = [clips[i] for i in places]
        pixels = torch.stack([item["clip"] for item in items]).to(subject.device)
        log_probs = subject.log_probs(normalise(pixels, subject.normalisation))
        if not log_probs.isfinite().all():
            raise ValueError(f"{subject.source}: gives log-probabilities that are not finite; the weights hold NaN or "
                             "infinity, or belong to another trunk")
        for i, item, values in zip(places, items, log_probs.cpu(), strict=True):
            if item["valid"]:
                by_video.setdefault(item["video"], []).append((i, values))
    chosen = []
    for video, windows in by_video.items():
        of_windows = torch.stack([values for _, values in windows])  # (n, K)
        _, leaf, best = pool_windows(of_windows, subject.hierarchy.membership, power)
        i, log_probs = windows[best]
        chosen.append((video, clips[i], log_probs, leaf))  # read again: the windows of all videos are too many to keep
    return chosen


def windows_to_explain(subject: Subject, clips: VideoClips, question: Question, *, batch_size: int,
                       power: float) -> list[Window]:
    """The surest window of every video that can be read; arguments and errors as `find_windows`."""
    windows = []
    for index, item, log_probs, leaf in find_windows(subject, clips, batch_size=batch_size, power=power):
        video = clips.videos[index]
        clip = normalise(item["clip"].to(subject.device), subject.normalisation)
        windows.append(Window(video, clip, item["frames"], item["crop"], log_probs,
                              *question.target_of(subject, video, leaf)))
    return windows


def attribute(method: str, subject: Subject, question: Question, windows: Sequence[Window], *,
              options: Mapping[str, object], batch_size: int) -> Iterator[Attribution]:
    """Windows as one method finishes them.

    Args:
        options: that the method declares. batch_size: clips whose masks are optimised together.
    """
    targets = torch.tensor([window.target for window in windows], device=subject.device)
    outputs = subject.log_probs if question.prototype is None else subject.activations

    def score(clips: Tensor, which: Tensor) -> Tensor:  # (n, 3, T, H, W), places (n,) -> (n,)
        return outputs(clips).gather(1, targets[which][:, None])[:, 0]

    if METHODS[method].optimises:
        known = {"score": question.score, "highest": subject.highest} | METHODS[method].checked(options)
        for first in range(0, len(windows), batch_size):
            clips = torch.stack([window.clip for window in windows[first:first + batch_size]])

            def score_some(clips: Tensor, which: Tensor, first: int = first) -> Tensor:
                return score(clips, which + first)

            yield from _masks(method, score_some, clips, first, known)
        return
    for i, window in enumerate(windows):
        def score_one(clips: Tensor, i: int = i) -> Tensor:
            return score(clips, torch.full((len(clips),), i, device=clips.device))

        if method == "class_feature_pyramid":  # its files hold the whole pyramid
            weights = None if subject.head is None else subject.head[window.target]
            checked = METHODS[method].checked(options)
            level = checked.pop("level", 0)
            pyramid = feature_pyramid(score_one, window.clip, layer=subject.trunk, class_weights=weights,
                                      head_weights=subject.head, **checked)
            yield Attribution(i, pyramid.tube(level, tuple(window.clip.shape[1:])), pyramid)
        else:
            yield Attribution(i, heat_of(method, score_one, window.clip, trunk=subject.trunk, score=question.score,
                                         highest=subject.highest, options=options))


def _masks(how: str, score: Callable[[Tensor, Tensor], Tensor], clips: Tensor, first: int,
           options: Mapping[str, object]) -> Iterator[Attribution]:
    """A batch of clips (n, 3, T, H, W), the first of them at place `first`, by one optimisation."""
    extremal = extremal_masks(score, clips, how=how, progress=True, **options)
    if extremal.interrupted:
        print(f"{how}: interrupted; these are the best masks after {len(extremal.losses)} iterations", file=sys.stderr)
    variants = options.get("variants", ("preserve",))
    for i in range(len(clips)):
        lines = []
        for v, variant in enumerate(variants):
            areas = extremal.areas[i, :, v]
            off = (areas - areas.new_tensor(options["areas"])).abs()
            for area, asked, miss in zip(areas.tolist(), options["areas"], off.tolist(), strict=True):
                text = f"area {area:.2f}, asked for {asked:g}" + (": not reached" if miss > AREA_MISS else "")
                lines.append((f"{variant}: {text}" if len(variants) > 1 else text,
                              miss > AREA_MISS and not extremal.interrupted))
        stopped = ", interrupted" if extremal.interrupted else ""
        lines.append((f"{int(extremal.iterations[i].max())} iterations{stopped}", False))
        yield Attribution(first + i, extremal.masks[i].mean((0, 1)), None, lines)
