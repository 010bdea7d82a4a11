"""From a checkpoint to the table of its explanations: the videos, the truth and the settings that judging needs."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import pandas as pd
from torch import Tensor

from datasets import DATASETS
from datasets.annotation import subset_of
from datasets.groups import hold_out
from datasets.video import whole_videos
from hierarchy.tree import Hierarchy
from judging.judge import Settings
from judging.scenes import Truth, load_truth, truth_beside
from judging.table import Footage, Wanted, measure
from models.hipe import HIPE
from run.checkpoint_model import CheckpointModel
from run.choosing import choose
from run.data import even_clips, make_loader, make_reader, read_videos, window_clips, window_power
from run.model import choose_device, model_of
from training.checkpoint import load_checkpoint
from training.push import PushRecord

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which videos are explained, and where they lie if not where the checkpoint says.

    n_videos: spread over the classes, 0 for all. videos: by name instead. subset: train, val or test (default: val,
    else train). root_path .. inference_stride: as the flags of local_analysis.py.
    """

    n_videos: int = 24
    videos: Sequence[str] | None = None
    subset: str | None = None
    root_path: str | None = None
    video_path: str | None = None
    annotation_path: str | None = None
    file_type: str | None = None
    inference_stride: int | None = None


@dataclass
class Once(Generic[T]):
    """A function without arguments that is called once in a process; another process that gets it calls it anew.

    Attributes:
        load: the function, which can be pickled. content: what it returned; None where it was not called yet.
    """

    load: Callable[[], T]
    content: T | None = None

    def __call__(self) -> T:
        if self.content is None:
            self.content = self.load()
        return self.content

    def __getstate__(self) -> dict:
        return {"load": self.load, "content": None}


def folder_of(checkpoint: Path, head: str) -> Path:
    """Where the tables of a checkpoint's head go, and where the report looks for them."""
    return checkpoint.parent / ("explanations" if head == "prototypes" else "explanations_softmax")


def explanation_table(checkpoint: str | Path, wanted: Wanted, data: Data, *, out: str | Path | None = None,
                      truth: str | Path | None = None, device: str | None = None, no_cuda: bool = False,
                      n_threads: int = 0, batch_size: int = 4, overwrite: bool = False,
                      progress: bool = True) -> pd.DataFrame:
    """Measure the explanations of a checkpoint and return the table; also writes it (see docs/FORMATS.md).

    Args:
        checkpoint: of main.py; one of a run that has pushed, or trunk.pth for the softmax head.
        out: folder to write (default: `folder_of` the checkpoint).
        truth: truth.json or boxes.json (default: the one beside the annotation file, if there is one).
        device: to insist on; no_cuda: leave a GPU alone.
        n_threads: processes, 0 for this one. batch_size: clips whose perturbations are found together.
        overwrite: measure again what is in `out`.
    Returns:
        a row each of table ("explanations" over clips, "prototypes" over prototypes), explanation ("prototypes": a
        level's map, "top_prototype": its first prototype, an attribution method, "random", "centre", "chance": what
        random heat comes to exactly), level and measure (see evaluation.measures.MEASURES), with mean, low, high (95 %
        bootstrap interval) and n.
    Raises:
        ValueError, FileNotFoundError: naming what is wrong and the remedy.
    """
    path = Path(checkpoint)
    content = load_checkpoint(path)
    where = choose_device(device, no_cuda)
    opened = CheckpointModel(path, content, where, root_path=data.root_path, video_path=data.video_path,
                             annotation_path=data.annotation_path, file_type=data.file_type,
                             inference_stride=data.inference_stride)
    model, tree, record = opened.network, opened.hierarchy, opened.record
    _check(path, content, wanted, model, record)
    stored = opened.flags.replaced(memory_gb=0.0)
    videos = hold_out(read_videos(stored, tree), content.get("held_out", ()), DATASETS[stored.dataset])
    chosen = choose(whole_videos(videos), names=data.videos, subset=data.subset, n=data.n_videos)
    reader = make_reader(stored)
    file = Path(truth) if truth is not None else truth_beside(Path(stored.annotation_path))
    known = load_truth(file).of(videos)
    # a truth of training videos alone still tells of prototypes
    tell_truth(file, known.of(chosen), len(chosen), insisted=truth is not None and not known.tubes,
               place="beside the annotation")
    settings = settings_of(wanted, digest_of(content["model"]), step=stored.inference_stride, truth=file,
                           power=window_power(stored))
    folder = Path(out) if out else folder_of(path, wanted.head)
    folder.mkdir(parents=True, exist_ok=True)
    subset, seen = data.subset or "val", {"normalisation": model.normalisation}
    training, test = ([video for video in videos if video.subset == name] for name in ("training", subset_of(subset)))
    footage = Footage(
        windows=window_clips(stored, chosen, reader, stored.inference_stride, **seen),
        training=even_clips(stored, training, reader, stored.push_clips, **seen),
        test=even_clips(stored, test or chosen, reader, 1, **seen), subset=subset, truth=known)
    load = Once(partial(load_model, path), (model, tree, record))
    return measure(load, wanted, footage, settings, folder, name=f"{path.parent.name}/{path.name}",
                   device=where, loader=partial(make_loader, n_threads=n_threads, batch_size=16), n_threads=n_threads,
                   batch_size=batch_size, overwrite=overwrite, progress=progress)


def load_model(path: Path) -> tuple[HIPE, Hierarchy, PushRecord | None]:
    """The model, the tree and the push record of a checkpoint file."""
    return model_of(load_checkpoint(path), path)


def _check(path: Path, content: dict, wanted: Wanted, model: HIPE, record: PushRecord | None) -> None:
    """Whether a checkpoint has the head and the levels that are wanted.

    Raises:
        ValueError: where it has not.
    """
    if wanted.head == "prototypes" and record is None:
        raise ValueError(f"{path}: nothing was pushed yet, so there are no prototypes to judge; give a later "
                         "checkpoint, or --head softmax")
    if wanted.head == "softmax" and not (content["args"]["trunk_epochs"] or model.head_given):
        raise ValueError(f"{path}: trained without trunk epochs, so its softmax head knows nothing; leave --head out")
    for level in (*(wanted.levels or ()), *wanted.method_levels):
        if not 0 <= level < model.hierarchy.n_levels:
            raise ValueError(f"level {level} is not in the class tree of {path}; it has the levels 0 to "
                             f"{model.hierarchy.n_levels - 1}")


def settings_of(wanted: Wanted, digest: str, *, step: int | None, truth: Path | None, power: float,
                windows: str = "") -> Settings:
    """What the measured numbers depend on.

    Args:
        digest: of the model. step: frames from one window to the next. truth: its file. power, windows: as of
            `Settings`.
    """
    return Settings(digest, wanted.head, wanted.steps, wanted.iterations, step, wanted.seed, digest_of_file(truth),
                    power, " ".join(wanted.options), wanted.smooth, windows)


def tell_truth(file: Path | None, truth: Truth, n_videos: int, *, insisted: bool, place: str) -> None:
    """Say where the truth of the videos is not known.

    Args:
        place: where a file would have been found without being named.
    Raises:
        ValueError: where it was insisted on.
    """
    if file is None:
        print(f"no truth.json or boxes.json {place} (--truth): pointing and energy are not measured", file=sys.stderr)
    elif not truth.tubes:
        sentence = f"{file}: has none of the {n_videos} videos"
        if insisted:
            raise ValueError(f"{sentence}; give the truth of these as --truth")
        print(f"{sentence}, so pointing and energy are not measured", file=sys.stderr)


def digest_of_file(file: Path | None) -> str:
    """Eight letters of a file's content, "none" without a file."""
    return "none" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Eight letters of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
