"""The table of a checkpoint: every explanation at every level that is wanted, measured, summarised and written."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from attribution import METHODS, parse_options
from attribution.feature_pyramid import refusal
from attribution.lrp import refusal as no_rules
from attribution.rollout import refusal as no_rollout
from datasets.video import VideoClips
from evaluation.faithfulness import STEPS
from evaluation.measures import editions
from evaluation.summary import summarise, write_tables
from explain import fingerprint
from judging.heats import BASELINES, HEADS
from judging.judge import EVENT, HEAT_OF, OWN, Load, Settings, is_optimised
from judging.prototypes import Loader, prototype_rows
from judging.rows import Rows, stored_prototypes
from judging.scenes import Truth


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is measured.

    head: "prototypes" explains HIPE's own predictions; "softmax" those of the trunk epochs' pooled head, which has no
        prototypes.
    methods: attribution methods of attribution.METHODS, None for all that the trunk serves; random and centre are
        always measured.
    levels: of the prototypes and of the baselines, None for all. method_levels: of the attribution methods.
    heats: attribution methods by which the first prototype's heat is made, too, as cards have it.
    prototypes: False leaves out the table of prototypes as such (purity, sharing, ...).
    measures: of explanations, by their names in MEASURES; None for all. event: measure the event, too, as if it were an
        explanation.
    steps: of insertion and deletion. iterations: of a perturbation at most.
    options: of attribution methods, METHOD.NAME=VALUE each. smooth: heat of nodes that is scattered over voxels, as
        that of prototypes always is.
    seed: of random heat, noise and resampling.

    Raises:
        ValueError: for a head or a method that there is not, or one that heat of a prototype cannot be made by.
    """

    head: str = "prototypes"
    methods: Sequence[str] | None = None
    levels: Sequence[int] | None = None
    method_levels: Sequence[int] = (0,)
    heats: Sequence[str] = ()
    prototypes: bool = True
    measures: Sequence[str] | None = None
    event: bool = False
    steps: int = STEPS
    iterations: int = 2000
    options: Sequence[str] = ()
    smooth: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if unable := [method for method in self.heats if method in BASELINES or is_optimised(method)]:
            raise ValueError(f"--heats {unable[0]}: cannot be made of a prototype here; choose gradients, grad_cam or "
                             "class_feature_pyramid")
        for method in (*(self.methods or ()), *self.heats):
            if method not in METHODS:
                raise ValueError(f"{method}: choose one of {', '.join(METHODS)}")
        parse_options(self.options, [*(METHODS if self.methods is None else self.methods), *self.heats])
        for name in self.measures or ():
            if name not in editions("explanations"):
                raise ValueError(f"{name}: no measure of explanations; choose among "
                                 f"{', '.join(editions('explanations'))}")
        if self.head not in HEADS:
            raise ValueError(f"{self.head}: choose one of {', '.join(HEADS)}")

    def explanations(self, n_levels: int, methods: Sequence[str], *, with_truth: bool) -> list[tuple[str, int]]:
        """Every explanation and its level, in the order of the tables.

        Args:
            n_levels: of the class tree. methods: attribution methods. with_truth: whether the event is known.
        """
        levels = list(range(n_levels)) if self.levels is None else list(dict.fromkeys(self.levels))
        own = (*OWN, *(f"top_prototype{HEAT_OF}{method}" for method in dict.fromkeys(self.heats)))
        always = (*(own if self.head == "prototypes" else ()), *BASELINES, *(("chance",) if with_truth else ()),
                  *((EVENT,) if with_truth and self.event else ()))
        return [*((name, level) for level in levels for name in always),
                *((name, level) for level in dict.fromkeys(self.method_levels) for name in dict.fromkeys(methods)
                  if name not in BASELINES)]


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What is measured on.

    windows: all windows of the videos whose explanations are measured. truth: of all videos. training: the clips that
    prototypes are pushed to. test: a clip of each video that prototypes have not seen. subset: the name of these in
    prototypes.json. These three are of models with prototypes alone.
    """

    windows: VideoClips
    truth: Truth
    training: VideoClips | None = None
    test: VideoClips | None = None
    subset: str = ""


def measure(load: Load, wanted: Wanted, footage: Footage, settings: Settings, folder: Path, *, name: str,
            device: torch.device, loader: Loader, n_threads: int, batch_size: int, overwrite: bool,
            progress: bool) -> pd.DataFrame:
    """Measure explanations and prototypes, and write the tables.

    Args:
        load: of the model; worker processes call it, too. settings: of the numbers. folder: to write, which exists.
        name: of the checkpoint, for titles. loader: makes loaders of clips.
        n_threads, batch_size: as of `Rows.measure`. overwrite: measure again what is stored.
    Returns:
        the table of `evaluation.summary.summarise`.
    Raises:
        ValueError: naming what is wrong and the remedy.
    """
    windows, (model, tree, record) = footage.windows, load()
    size = (windows.sampler.duration, windows.transform.size, windows.transform.size)
    truth = Truth(footage.truth.of(windows.videos).tubes, footage.truth.ways)
    explanations = wanted.explanations(tree.n_levels, served(model.eval().trunk, size, wanted.methods),
                                       with_truth=bool(truth.tubes))
    stored = Rows(folder / "rows.jsonl", settings, overwrite, wanted.measures)
    stored.measure(load, windows, truth, device, explanations, n_threads=n_threads, batch_size=batch_size,
                   progress=progress)
    names, order = {video.name for video in windows.videos}, {one: i for i, one in enumerate(explanations)}
    rows = [{**row, "table": "explanations"} for row in stored.rows
            if row["video"] in names and (row["explanation"], row["level"]) in order]
    if not rows:
        raise ValueError(f"none of the {len(names)} videos can be read; check --video_path and --root_path")
    rows.sort(key=lambda row: (order[row["explanation"], row["level"]], row["video"]))
    videos = {row["video"] for row in rows}
    if wanted.prototypes and wanted.head == "prototypes":
        own = stored_prototypes(folder / "prototypes.json", settings, footage.subset, overwrite, lambda: prototype_rows(
            model.to(device).eval().requires_grad_(False), tree, record, footage.training, footage.test,
            footage.truth, loader=loader, seed=wanted.seed, progress=progress))
        rows += [{**row, "table": "prototypes"} for row in own]
    frame = summarise(rows, seed=wanted.seed)
    of_model = f", model {fingerprint(model)}" if wanted.head == "prototypes" else ""
    write_tables(frame, folder, f"Explanations of {name}, {wanted.head}, {len(videos)} videos{of_model}")
    return frame


def served(trunk: nn.Module, size: tuple[int, int, int], methods: Sequence[str] | None) -> list[str]:
    """The attribution methods to measure: those asked for, or all but those that the trunk does not serve.

    Args:
        size: (T, H, W) of a clip.
    Raises:
        ValueError: for one asked for that the trunk does not serve.
    """
    chosen = list(METHODS if methods is None else methods)
    reasons = {"class_feature_pyramid": lambda: refusal(trunk, torch.zeros(3, *size)), "lrp": lambda: no_rules(trunk),
               "rollout": lambda: no_rollout(trunk)}
    for method in [method for method in reasons if method in chosen]:
        if reason := reasons[method]():
            if methods is not None:
                raise ValueError(f"--methods {method}: {reason}")
            print(f"{method} is left out: {reason}", file=sys.stderr)
            chosen.remove(method)
    return chosen
