"""Measures of explanations of one video, by the judge that evaluate_explanations.py uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from attribution import METHODS
from datasets.video import VideoClips
from evaluation.measures import editions
from hierarchy.tree import Hierarchy
from judging.heats import BASELINES
from judging.judge import HEAT_OF, OWN, Judge, Load
from judging.scenes import load_truth
from judging.table import Wanted
from run.judging import settings_of

USUAL = ("insertion", "deletion")  # measures where no other is asked for


@dataclass(frozen=True)
class Measuring:
    """What measuring needs of a model and one video.

    load: of the model. head: prototypes or softmax. clips: all windows of the one video. power: by which they come to a
    prediction.
    """

    load: Load
    hierarchy: Hierarchy
    head: str
    clips: VideoClips
    power: float
    device: torch.device

    def judge(self, measures: Sequence[str], level: int, truth: str | Path | None,
              settings: Mapping[str, object]) -> tuple[Judge, list[str]]:
        """The judge of this video, and the names of the measures.

        Args:
            settings: of `Wanted`.
        Raises:
            ValueError: for a measure, a level or a setting that there is not.
        """
        allowed = {"steps", "iterations", "seed", "options", "smooth"} & {one.name for one in fields(Wanted)}
        if wrong := sorted(set(settings) - allowed):
            raise ValueError(f"measure takes no {wrong[0]}; it takes {', '.join(sorted(allowed))}")
        if not 0 <= level < self.hierarchy.n_levels:
            raise ValueError(f"level {level} is not in the class tree; it has the levels 0 to "
                             f"{self.hierarchy.n_levels - 1}")
        wanted = Wanted(head=self.head, measures=list(measures) or list(USUAL), levels=[level], **settings)
        file = None if truth is None else Path(truth).expanduser().resolve()
        names = [name for name in editions("explanations") if name in wanted.measures]
        known = settings_of(wanted, "", step=getattr(self.clips.sampler, "step", None), truth=file, power=self.power)
        return Judge(known, self.load, self.clips, load_truth(file).of(self.clips.videos), self.device), names


def measured_explanations(measuring: Measuring, measures: Sequence[str], *, of: Sequence[str], level: int,
                          truth: str | Path | None, settings: Mapping[str, object]) -> pd.DataFrame:
    """Measure explanations of a video that the judge makes itself.

    Args:
        measures: names of MEASURES, none for USUAL. of: explanations. level, truth, settings: as of `Measuring.judge`.
    Returns:
        a row for each explanation, a column for each measure.
    Raises:
        ValueError: as `Measuring.judge`, and for an explanation that there is not.
    """
    known = list(dict.fromkeys([*BASELINES, *METHODS]))
    if measuring.head == "prototypes":
        known = [*OWN, *known, *(f"top_prototype{HEAT_OF}{name}" for name, method in METHODS.items()
                                 if not method.optimises and name not in BASELINES)]
    if wrong := [name for name in of if name not in known]:
        raise ValueError(f"{wrong[0]}: no explanation that can be measured; choose among {', '.join(known)}")
    if measuring.head == "prototypes" and measuring.load()[2] is None:
        raise ValueError("nothing was pushed yet, so there are no prototypes to judge; load a later checkpoint")
    judge, names = measuring.judge(measures, level, truth, settings)
    video = measuring.clips.videos[0].name
    rows = {row["explanation"]: row["measures"]
            for row in judge.rows([0], {(video, name, level): names for name in of})}
    if not rows:
        raise ValueError(f"{video}: the frames around its window cannot be read, on which explanations are measured")
    return _table({name: rows[name] for name in of}, names)


def measured_heat(measuring: Measuring, measures: Sequence[str], heat: Tensor, *, method: str, level: int, item: dict,
                  leaf: int, truth: str | Path | None, settings: Mapping[str, object]) -> pd.DataFrame:
    """Measure heat that is there already, beside random heat.

    Args:
        heat: (T, H, W) by a method, for the node of `level` above `leaf`. item: of the clips, the window.
        Others and raises: as `measured_explanations`.
    """
    judge, names = measuring.judge(measures, level, truth, settings)
    scene = judge.scene_at(item, leaf)
    if scene is None:
        raise ValueError(f"{measuring.clips.videos[0].name}: the frames around its window cannot be read")
    of: dict[str, Callable[[], Tensor]] = {method: lambda: heat,
                                           "random": lambda: judge.baseline("random", scene, level)}
    return _table({name: judge.measured(scene, name, level, make(), names) for name, make in of.items()}, names)


def _table(rows: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([{name: values.get(name, float("nan")) for name in names} for values in rows.values()],
                        index=pd.Index(list(rows), name="explanation"), columns=list(names))
