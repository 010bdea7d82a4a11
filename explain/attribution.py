"""What attribution methods explain, a model (Subject) and windows of videos (Window), and the heat that they give."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from attribution import METHODS
from attribution.feature_pyramid import FeaturePyramid, feature_pyramid
from attribution.perturbation import extremal_masks
from datasets.transforms import normalise
from datasets.video import Video, VideoClips
from evaluation.recognition import pool_windows
from explain.heat import heat_of
from hierarchy.tree import Hierarchy

AREA_MISS = 0.02  # difference between an area and the one asked for that is reported
SECOND = "second"  # the most probable other node, of --against
WINDOWS_KEPT = 64  # of a video whose features are kept until its surest window is known, a megabyte or two each
FEATURES_KEPT = 2 ** 28  # bytes of the features of surest windows: of I3D those of some 160 videos
BACKWARD = 1.8  # of the time of a forward pass without gradients: what a pass back to the voxels adds (I3D on a CPU)


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
    credit: str = ""  # where the weights are from, and their licences
    logits: Callable[[Tensor], Tensor] | None = None  # (B, 3, T, H, W) -> (B, K0), of a linear head before the softmax

    def normalised(self, clips: Tensor) -> Tensor:
        """Clips (..., 3, T, H, W) uint8 as the model takes them, on its device."""
        return normalise(clips.to(self.device), self.normalisation)


@dataclass(frozen=True)
class Question:
    """What is explained of every video.

    Args:
        target: "predicted", "true", or the name of a class.
        level: the ancestor of that class so many levels up.
        prototype: the activation of this prototype instead.
        against: why the target rather than this class, or its ancestor on the target's level; "second" for the most
            probable other node of that level, which also stands in where the target itself is named; "" for the
            target alone.
    """

    target: str = "predicted"
    level: int = 0
    prototype: int | None = None
    against: str = ""

    @property
    def score(self) -> str:
        """What the score is, as perturbations call it."""
        return "log_prob" if self.prototype is None else "activation"

    @property
    def label(self) -> str:
        """How folders of results are called; empty for the class."""
        if self.prototype is not None:
            return f"prototype{self.prototype}"
        against = f"against_{self.against}" if self.against else ""
        return "_".join(filter(None, (f"level{self.level}" if self.level else "", against)))

    def check(self, subject: Subject, videos: Sequence[Video]) -> None:
        """Raise ValueError where a true class is asked for and not known, or a class is not in the tree."""
        if self.target == "true" and self.prototype is None:
            unknown = [video for video in videos if video.label < 0]
            if unknown:
                raise ValueError(f"--target true: the true class of {len(unknown)} of {len(videos)} videos is not "
                                 f"known, as of {unknown[0].path}; leave the flag out, or name their folders by "
                                 "classes")
        elif self.target != "predicted" and self.prototype is None:
            subject.hierarchy.label(self.target)
        if self.against not in ("", SECOND):
            subject.hierarchy.label(self.against)

    def rival_of(self, subject: Subject, target: int, probs: Tensor) -> int | None:
        """The node that the target is explained against.

        Args:
            target: node. probs: (K,) of the video.
        Raises:
            ValueError: where its level has no other node.
        """
        if not self.against:
            return None
        tree = subject.hierarchy
        if self.against != SECOND:
            rival = tree.path_ids(tree.label(self.against))[self.level]
            if rival != target:
                return rival
        others = [node for node in tree.levels[self.level] if node != target]
        if not others:
            raise ValueError(f"--against {self.against}: {tree.full_name(target)} is the only node of its level; give "
                             "another --level")
        return max(others, key=lambda node: float(probs[node]))

    def target_of(self, subject: Subject, video: Video, leaf: int) -> tuple[int, str]:
        """The node or prototype that is explained of a video, and its name.

        Args:
            leaf: predicted of the video.
        """
        tree = subject.hierarchy
        if self.prototype is not None:
            return self.prototype, f"prototype {self.prototype} of {tree.full_name(subject.node_of[self.prototype])}"
        if self.target == "true":
            leaf = video.label
        elif self.target != "predicted":
            leaf = tree.label(self.target)
        node = tree.path_ids(leaf)[self.level]
        return node, tree.full_name(node)


@dataclass(frozen=True)
class Window:
    """A window of a video that is explained; its pixels are read when they are asked for, for those of many videos are
    too many to keep."""

    video: Video
    clips: VideoClips  # of all videos
    item: int  # place of the window among them
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) in the video's own pixels
    log_probs: Tensor  # (K,) of the window
    probs: Tensor  # (K,) of the video, from all its windows
    n_windows: int  # of the video
    frames_seen: int  # in these windows
    n_frames: int  # of the video
    target: int  # node or prototype
    title: str  # the target's name, and of a contrast the other's
    rival: int | None = None  # node that the target is explained against
    features: Tensor | None = None  # (C, t, h, w) of the trunk

    @property
    def size(self) -> tuple[int, int, int]:
        """T, H, W."""
        return len(self.frames), self.clips.transform.size, self.clips.transform.size

    @property
    def pixels(self) -> Tensor:
        """The clip (3, T, H, W) uint8.

        Raises:
            ValueError: where the video can no longer be read.
        """
        item = self.clips[self.item]
        if not item["valid"]:
            raise ValueError(f"{self.video.path}: can no longer be read; put it back, and start again")
        return item["clip"]


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


@dataclass(frozen=True)
class WindowOutput:
    """What a model gives for a window."""

    item: int  # place among the windows of all videos
    frames: Tensor  # (T,) in the video
    crop: Tensor  # (4,) in the video's own pixels
    log_probs: Tensor  # (K,)
    features: Tensor | None  # (C, t, h, w) of the trunk; None where it has none, or they are too many to keep


@dataclass(frozen=True)
class Prediction:
    """What a model says of a video."""

    video: int  # place among the videos
    surest: WindowOutput
    probs: Tensor  # (K,) of the video
    leaf: int  # the most probable class
    n_windows: int
    frames_seen: int  # in these windows


def find_windows(subject: Subject, clips: VideoClips, *, batch_size: int,
                 power: float) -> tuple[list[Prediction], float]:
    """Predict every video that can be read from its windows, with a progress bar.

    Args:
        batch_size: windows at a time. power: of `VideoPool`, by which windows come to a prediction.
    Returns:
        the predictions, and the seconds that the model takes for a clip.
    Raises:
        ValueError: where a log-probability is not finite.
    """
    predictions, seconds = [], []
    video, windows, left = -1, [], FEATURES_KEPT

    def finish() -> None:
        nonlocal left
        if windows:
            of_windows = torch.stack([window.log_probs for window in windows])  # (n, K)
            probs, leaf, best = pool_windows(of_windows, subject.hierarchy.membership, power)
            surest = windows[best]
            if surest.features is not None:
                left -= surest.features.nbytes
                surest = surest if left >= 0 else replace(surest, features=None)
            frames_seen = len(torch.cat([window.frames for window in windows]).unique())
            predictions.append(Prediction(video, surest, probs, leaf, len(windows), frames_seen))

    with tqdm(total=len(clips), desc="windows", unit="window", leave=False, disable=None) as bar:
        for first in range(0, len(clips), batch_size):
            items = [clips[i] for i in range(first, min(first + batch_size, len(clips)))]
            items, n = [item for item in items if item["valid"]], len(items)
            start = time.perf_counter()
            for item, values, features in _outputs(subject, items):
                if item["video"] != video:
                    finish()
                    video, windows = item["video"], []
                kept = features if left > 0 and len(windows) < WINDOWS_KEPT else None
                windows.append(WindowOutput(item["item"], item["frames"], item["crop"], values, kept))
            seconds += [(time.perf_counter() - start) / len(items)] if items else []
            bar.update(n)
    finish()
    # the first batch is slower than the others
    return predictions, statistics.median(seconds[1:] or seconds or [0.0])


@torch.no_grad()
def _outputs(subject: Subject, items: Sequence[dict]) -> Iterator[tuple[dict, Tensor, Tensor | None]]:
    """Clips with the log-probabilities that a model gives them, and with the features of its trunk."""
    if not items:
        return
    seen: list[Tensor] = []
    hook = subject.trunk.register_forward_hook(lambda _, __, features: seen.append(features))
    try:
        log_probs = subject.log_probs(subject.normalised(torch.stack([item["clip"] for item in items]))).cpu()
    finally:
        hook.remove()
    if not log_probs.isfinite().all():
        raise ValueError(f"{subject.source}: gives log-probabilities that are not finite; the weights hold NaN or "
                         "infinity, or belong to another trunk")
    features = [maps.clone() for maps in seen[0].cpu()] if len(seen) == 1 else [None] * len(items)
    yield from zip(items, log_probs, features, strict=True)


@contextmanager
def remembered(trunk: nn.Module, features: Tensor | None, device: torch.device) -> Iterator[None]:
    """Let a trunk answer with the features (C, t, h, w) of the one clip that it is given; None: as ever."""
    if features is None:
        yield
        return
    trunk.forward = lambda _: features[None].to(device, copy=True)  # who asks may ask for its gradient
    try:
        yield
    finally:
        del trunk.forward


def windows_to_explain(clips: VideoClips, subject: Subject, question: Question,
                       predictions: Sequence[Prediction]) -> list[Window]:
    """The surest window of every predicted video."""
    windows = []
    for of in predictions:
        video, surest = clips.videos[of.video], of.surest
        target, title = question.target_of(subject, video, of.leaf)
        rival = question.rival_of(subject, target, of.probs)
        if rival is not None:
            title = f"{title} rather than {subject.hierarchy.full_name(rival)}"
        windows.append(Window(video, clips, surest.item, surest.frames, surest.crop, surest.log_probs, of.probs,
                              of.n_windows, of.frames_seen, clips.n_frames(of.video), target, title, rival,
                              surest.features))
    return windows


def expected_seconds(method: str, options: Mapping[str, object], windows: Sequence[Window], seconds: float) -> float:
    """How long a method will take, at most.

    Args:
        options: that the method declares. seconds: of the model for a clip, without a gradient.
    """
    passes = METHODS[method].passes(options)
    n = sum(window.features is None for window in windows) if METHODS[method].of_features else len(windows)
    return n * seconds * (passes.forward + (1 + BACKWARD) * passes.gradients)


def attribute(method: str, subject: Subject, question: Question, windows: Sequence[Window], *,
              options: Mapping[str, object], batch_size: int) -> Iterator[Attribution]:
    """Windows as one method finishes them.

    Args:
        options: that the method declares. batch_size: clips whose masks are optimised together.
    """
    targets = torch.tensor([window.target for window in windows], device=subject.device)
    rivals = torch.tensor([window.target if window.rival is None else window.rival for window in windows],
                          device=subject.device)
    outputs = subject.log_probs if question.prototype is None else subject.activations

    def score(clips: Tensor, which: Tensor) -> Tensor:  # (n, 3, T, H, W), places (n,) -> (n,)
        values = outputs(clips)
        own = values.gather(1, targets[which][:, None])[:, 0]
        if not question.against:
            return own
        difference = own - values.gather(1, rivals[which][:, None])[:, 0]
        # some methods need a probability: that of the target where there is nothing but the two
        return logsigmoid(difference) if "score" in METHODS[method].needs else difference

    of_logits = METHODS[method].of_logits and question.prototype is None and subject.logits is not None

    if METHODS[method].optimises:
        known = {"score": question.score, "highest": subject.highest} | METHODS[method].checked(options)
        for first in range(0, len(windows), batch_size):
            clips = subject.normalised(torch.stack([window.pixels for window in windows[first:first + batch_size]]))

            def score_some(clips: Tensor, which: Tensor, first: int = first) -> Tensor:
                return score(clips, which + first)

            yield from _masks(method, score_some, clips, first, known)
        return
    for i, window in enumerate(windows):
        def score_one(clips: Tensor, i: int = i, target: int = window.target,
                      rival: int | None = window.rival) -> Tensor:
            if of_logits and target < subject.hierarchy.n_leaves:  # ancestors have none
                logits = subject.logits(clips)
                return logits[:, target] if rival is None else logits[:, target] - logits[:, rival]
            return score(clips, torch.full((len(clips),), i, device=clips.device))

        clip = subject.normalised(window.pixels)
        if method == "class_feature_pyramid":  # its files hold the whole pyramid
            weights = None if subject.head is None else subject.head[window.target]
            checked = METHODS[method].checked(options)
            level = checked.pop("level", 0)
            pyramid = feature_pyramid(score_one, clip, layer=subject.trunk, class_weights=weights,
                                      head_weights=subject.head, **checked)
            yield Attribution(i, pyramid.tube(level, window.size), pyramid)
        else:
            with remembered(subject.trunk, window.features if METHODS[method].of_features else None, subject.device):
                heat = heat_of(method, score_one, clip, trunk=subject.trunk, score=question.score,
                               highest=subject.highest, options=options)
            yield Attribution(i, heat)


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
