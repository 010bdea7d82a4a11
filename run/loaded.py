"""`load`: a HIPE checkpoint, or a trunk with a head, as an object that explains videos, for notebooks and scripts."""

import argparse
import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from attribution import METHODS
from attribution.gradients import at_a_time
from datasets.reading import Reader
from datasets.video import Video, whole_videos
from explain import ExplanationSettings, Sources
from explain.attribution import Question, Subject, attribute, find_windows, windows_to_explain
from explain.attribution_files import unusual_options
from explain.explainer import Explainer
from explain.narration import UPSAMPLE
from judging.judge import Load
from models import TRUNKS
from models.published import PUBLISHED
from options.flags import main_parser, model_flags, parse_main
from options.methods import usual_options
from options.parsing import check_values
from options.trunks import TRUNK_FLAGS
from run.attributing import (
    GRID_METHODS,
    clips_of,
    contrast_refusal,
    grid_refusal,
    names_of_weights,
    pyramid_refusal,
    trunk_refusals,
    warn_of_short,
)
from run.checkpoint_model import CheckpointModel, own_video
from run.choosing import named
from run.data import window_power
from run.explanation import Explanation
from run.heat_map import HeatMap
from run.judging_trunk import model_of_trunk
from run.measuring import Measuring
from run.model import check_size, choose_device
from run.subjects import PublishedTrunk, check_question, clip_of, of_trunk_epochs, subject_of, trunk_subject
from training.checkpoint import load_checkpoint, newest_whole

MOVES = ("root_path", "video_path", "annotation_path", "file_type", "inference_stride")  # of a checkpoint's data


class LoadedModel(ABC):
    """What checkpoints and trunks with a head share: classes, predictions, and attribution.

    Attributes:
        name: of the trunk, or of the checkpoint's file. hierarchy: the class tree.
    """

    _head = "softmax"  # whose predictions are measured

    def __init__(self, name: str, subject: Subject, args: argparse.Namespace, checkpoint: dict | None) -> None:
        self.name, self.hierarchy = name, subject.hierarchy
        self._subject, self._args, self._checkpoint = subject, args, checkpoint
        self._form = clip_of(args, checkpoint, subject.trunk)

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.hierarchy.names[:self.hierarchy.n_leaves])

    def attribute(self, video: str | Path, method: str = "grad_cam", *, target: str = "predicted", level: int = 0,
                  prototype: int | None = None, against: str = "", windows: int | None = None,
                  options: Mapping[str, object] | None = None, **more: object) -> HeatMap:
        """Heat of a video by an attribution method, as local_attribution.py makes it.

        Args:
            video: a file, or a folder of frames; of a checkpoint also the name of a video of its data.
            method: of attribution.METHODS. more: options that it declares, such as steps=50. options: the same by name,
                for one that is called as an argument here, such as level of class_feature_pyramid.
            target: predicted, true, or the name of a class. level: its ancestor so many levels up. prototype: the
                activation of this prototype instead. against: why the target rather than this class; second: the
                runner-up.
            windows: of the video at most, 0 for all (default: of a checkpoint all, of a trunk as many as show a quarter
                of the video, 8 at most).
        Raises:
            ValueError, FileNotFoundError: for a video that cannot be read, a method, an option, a class or a prototype
                that there is not, or a method that this model cannot be explained by.
        """
        subject, question = self._subject, Question(target, level, prototype, against)
        given = {**(options or {}), **more}
        chosen = options_of_method(method, given)
        self._check(question)
        if method in GRID_METHODS and (reason := grid_refusal(subject, self.name)):
            raise ValueError(f"{method} {reason}")
        if reason := trunk_refusals(subject).get(method):
            raise ValueError(f"{method} {reason}")
        if method == "class_feature_pyramid" and (reason := contrast_refusal(question)):
            raise ValueError(f"{method} {reason}")
        of_video, reader = self._find(video)
        question.check(subject, [of_video])
        args = argparse.Namespace(**vars(self._args) | {"windows": windows})
        clips = clips_of(args, self._form, subject, [of_video], reader, checkpoint=self._checkpoint)
        warn_of_short(clips, reader)
        size = self._form.size
        predictions, _ = find_windows(subject, clips, batch_size=at_a_time(self._form.duration * size * size),
                                      power=self._form.power)
        if not predictions:
            raise ValueError(f"{of_video.path}: cannot be read; give another video")
        window, = windows_to_explain(clips, subject, question, predictions)
        if method == "class_feature_pyramid" and (reason := pyramid_refusal(subject, window)):
            raise ValueError(f"{method} {reason}")
        result = next(iter(attribute(method, subject, question, [window], options=chosen, batch_size=1)))
        tree, leaf = self.hierarchy, predictions[0].leaf
        if target == "true":
            leaf = of_video.label
        elif target != "predicted":
            leaf = tree.label(target)
        measuring = Measuring(self._load_for_judging(), tree, self._head, clips, self._form.power, subject.device)
        return HeatMap(subject, question, window, result, method=method, notes=unusual_options(chosen, list(given)),
                       leaf=leaf, measuring=measuring)

    @abstractmethod
    def _check(self, question: Question) -> None:
        """Raise ValueError for a level or a prototype that there is not."""

    @abstractmethod
    def _load_for_judging(self) -> Load:
        """The model as measures take it."""

    def _find(self, video: str | Path) -> tuple[Video, Reader]:
        """A video and what reads it.

        Raises:
            FileNotFoundError, ValueError: where there is none, or it cannot be read.
        """
        if not Path(video).expanduser().exists():
            raise FileNotFoundError(f"{video}: no such video file, nor folder of frames; check the path")
        return own_video(Path(video))


class HeadModel(LoadedModel):
    """A trunk with a classification head: it has no prototypes, and is explained by attribution methods.

    Args:
        name: of the trunk in TRUNKS. subject: the trunk with its head. args: of its clips.
    """

    def __init__(self, name: str, subject: PublishedTrunk, args: argparse.Namespace) -> None:
        super().__init__(name, subject, args, None)
        check_size(subject.trunk, (self._form.duration, self._form.size, self._form.size))

    def __repr__(self) -> str:
        return f"<{self.name} with {self._subject.source}: {len(self.classes)} classes>"

    def explain(self, video: str | Path, **_: object) -> Explanation:
        """A trunk has no prototypes to explain by.

        Raises:
            ValueError: always, naming what explains it.
        """
        raise ValueError(f"{self.name}: a trunk with a head has no prototypes, which only a HIPE checkpoint has; use "
                         f"attribute({str(video)!r}, 'grad_cam')")

    def _check(self, question: Question) -> None:
        if question.level or question.prototype is not None:
            raise ValueError("level and prototype need a HIPE checkpoint; leave them out")

    def _load_for_judging(self) -> Load:
        return lambda: model_of_trunk(lambda: self._subject)


class HipeModel(LoadedModel):
    """A HIPE checkpoint: it explains what it says of a video by prototypes, and by attribution methods.

    Args:
        opened: the checkpoint.
    Attributes:
        network: the PyTorch module. record: where prototypes come from; None where nothing was pushed yet. path: of the
            checkpoint.
    """

    def __init__(self, opened: CheckpointModel) -> None:
        args = argparse.Namespace(sample_size=None, sample_duration=None, sample_t_stride=None,
                                  inference_stride=opened.flags.inference_stride)
        super().__init__(opened.path.name, subject_of(opened.network, opened.checkpoint, opened.path), args,
                         opened.checkpoint)
        self._opened = opened
        self.network, self.record, self.path = opened.network, opened.record, opened.path
        self._head = "softmax" if of_trunk_epochs(opened.checkpoint) else "prototypes"

    def __repr__(self) -> str:
        return (f"<HIPE checkpoint {self.path.name}: {len(self.classes)} classes, {self.hierarchy.n_levels} levels, "
                f"{len(self.network.prototype_layer.node_of)} prototypes>")

    def explain(self, video: str | Path, *, levels: Sequence[int] | None = None, k: int = 3, heat: str = "grad",
                **options: object) -> Explanation:
        """What the model says of a video, and the prototypes that it says it by.

        Args:
            video: a file, a folder of frames, or the name of a video of the checkpoint's data.
            levels: of the tree, 0 for the class (default: all). k: prototypes of each predicted node.
            heat: of prototypes: an attribution method on their activation, or upsample, their similarity over the clip.
            options: that the method declares, such as steps=50.
        Raises:
            ValueError, FileNotFoundError: for a video that cannot be read, a level, a method or an option that there is
                not.
        """
        chosen = {}
        if heat != UPSAMPLE:
            chosen = METHODS[method_named(heat, UPSAMPLE)].checked(options)
        elif options:
            raise ValueError(f"{UPSAMPLE} has no option {min(options)}; it takes none")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        of_video, reader = self._find(video)
        self._opened.tell_unpushed()
        settings = ExplanationSettings(k=k, heat=heat, heat_options=chosen, progress=False,
                                       power=window_power(self._opened.flags), checkpoint=str(self.path))
        clips = self._opened.windows([of_video], reader)
        explainer = Explainer(self.network, clips, hierarchy=self.hierarchy,
                              levels=range(self.hierarchy.n_levels) if levels is None else levels,
                              sources=self._data[1], settings=settings)
        explained = next(iter(explainer), None)
        if explained is None:
            raise ValueError(f"{of_video.path}: cannot be read; give another video")
        return Explanation(explainer, explained, Measuring(
            self._load_for_judging(), self.hierarchy, "prototypes", clips, settings.power, self.network.device))

    @cached_property
    def _data(self) -> tuple[Sequence[Video], Sources]:
        """The videos of the checkpoint's data, and as sources of prototypes; none, and a line on stderr, where they are
        not here any more."""
        videos = self._opened.videos(required=False)
        return videos, self._opened.sources(videos)

    def _find(self, video: str | Path) -> tuple[Video, Reader]:
        if Path(video).expanduser().exists():
            return own_video(Path(video))
        videos, sources = self._data
        if not videos:
            return super()._find(video)
        of_data, = named(whole_videos(videos), [str(video)],
                         f"a video file here, nor a video of the data of {self.path}")
        return of_data, sources.reader

    def _check(self, question: Question) -> None:
        check_question(self.network, self._opened.checkpoint, self.path, level=question.level,
                       prototype=question.prototype)

    def _load_for_judging(self) -> Load:
        return lambda: (self.network, self.hierarchy, self.record)


def method_named(method: str, *others: str) -> str:
    """The attribution method of a name.

    Args:
        others: what else is allowed.
    Raises:
        ValueError: with the nearest names, where there is none.
    """
    if method not in METHODS:
        known = [*others, *METHODS]
        near = ", ".join(difflib.get_close_matches(method, known, n=3, cutoff=0))
        raise ValueError(f"{method}: no attribution method; the nearest names are {near}")
    return method


def options_of_method(method: str, options: dict[str, object]) -> dict[str, object]:
    """All options that local_attribution.py runs a method with, of which some are given.

    Raises:
        ValueError: for a method or an option that there is not, or a value outside its range.
    """
    given = METHODS[method_named(method)].checked(options)
    return usual_options(method) | given


def load(source: str | Path, *, weights: str | Path | None = None, classes: Sequence[str] | str | Path | None = None,
         device: str | None = None, **flags: object) -> HipeModel | HeadModel:
    """A HIPE checkpoint, or a trunk with a head, ready to explain videos.

    load("results/save_30.pth"), load("results"), load("i3d"), load("r3d_18", weights="KINETICS400_V1").

    Args:
        source: a checkpoint of main.py, a results folder, whose newest checkpoint is taken, or the name of a trunk.
        weights: of a trunk: a published name or a file (default: the published ones, where the trunk has them).
        classes: of a trunk: its class names, or a JSON file of them (default: those of published weights).
        device: cpu, cuda, cuda:1 (default: a GPU where there is one).
        flags: of a checkpoint those of local_analysis.py that tell where its data has moved: root_path, video_path,
            annotation_path, file_type, and inference_stride. Of a trunk main.py's flags of the model, such as
            model_depth=50, and sample_size, sample_duration, sample_t_stride, inference_stride and pretrain_dataset.
    Raises:
        FileNotFoundError, ValueError: in one sentence, where there is no such file, it is something else or damaged, or
            flags do not fit.
    """
    path = Path(source).expanduser()
    if weights is None and classes is None and path.exists():
        return _load_checkpoint(path.resolve(), device, flags)
    name = str(source)
    if name not in TRUNKS:
        if weights is not None or classes is not None:
            raise ValueError(f"{name}: weights and classes are of a trunk, and this is none; trunks are "
                             f"{', '.join(TRUNKS)}")
        near = ", ".join(difflib.get_close_matches(name, TRUNKS, n=3, cutoff=0))
        raise FileNotFoundError(f"{name}: no such checkpoint file, and no trunk of this name; check the path, or give "
                                f"a trunk such as {near}")
    return _load_trunk(name, weights, classes, device, flags)


def _device(name: str | None) -> torch.device:
    """The device of a name, else a GPU where there is one."""
    return choose_device(name, no_cuda=name is None and not torch.cuda.is_available())


def _load_checkpoint(path: Path, device: str | None, flags: dict[str, object]) -> HipeModel:
    if wrong := sorted(set(flags) - set(MOVES)):
        raise ValueError(f"load takes no {wrong[0]} of a checkpoint, which carries its own flags; it takes "
                         f"{', '.join(MOVES)}")
    if path.is_dir():
        newest = newest_whole(path)
        if newest is None:
            raise FileNotFoundError(f"{path}: no checkpoint that can be read in it; give a results folder of main.py, "
                                    "or a checkpoint")
        path = newest
    checkpoint = load_checkpoint(path)
    return HipeModel(CheckpointModel(path, checkpoint, _device(device), **flags))


def _load_trunk(name: str, weights: str | Path | None, classes: Sequence[str] | str | Path | None,
                device: str | None, flags: dict[str, object]) -> HeadModel:
    published = [known for known, entry in PUBLISHED.items() if entry.trunk == name]
    if weights is None and not published:
        names = names_of_weights(TRUNKS[name])
        raise ValueError(f"{name}: this trunk comes without weights; give them as weights="
                         + (f"{' or '.join(map(repr, names))}, or a file" if names else "a file"))
    known = argparse.ArgumentParser()
    model_flags(known)
    allowed = {*(action.dest for action in known._actions), *TRUNK_FLAGS, "sample_size", "sample_duration",
               "sample_t_stride", "inference_stride", "pretrain_dataset"} - {"help", "model", "pretrain_path"}
    if wrong := sorted(set(flags) - allowed):
        near = ", ".join(difflib.get_close_matches(wrong[0], allowed, n=3, cutoff=0))
        raise ValueError(f"load takes no {wrong[0]} of a trunk; the nearest names are {near}")
    check_values(main_parser(), flags)
    defaults, _ = parse_main([])
    usual = {name: getattr(defaults, name) for name in allowed if hasattr(defaults, name)}
    usual |= {"sample_size": None, "sample_duration": None, "sample_t_stride": None, "inference_stride": None}
    args = argparse.Namespace(**usual | {"root_path": ".", "pretrain_dataset": ""} | flags)
    args.model, args.pretrain_path = name, str(weights or published[0])
    args.classes = classes if classes is None or isinstance(classes, str | Path) else list(classes)
    return HeadModel(name, trunk_subject(args, _device(device)), args)
