"""What an entry of MEASURES states of a measure, and what a measure may need."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from evaluation.subjects import ExplainedClip, PrototypeSet

ARROWS = {1: "↑", -1: "↓", 0: ""}  # by direction


@dataclass(frozen=True)
class Measure:
    """One entry of MEASURES.

    edition: which version of the measure this is; stored values of another edition are not used.
    direction: 1 more is better, -1 less, 0 neither. meaning: a phrase for tables. needs: what an explanation or a set
    of prototypes must have, of NEEDS. of_clip, of_prototypes: the function; None where a table does not have it.
    """

    edition: int
    direction: int
    meaning: str
    needs: frozenset[str] | set[str]
    of_clip: Callable[[ExplainedClip], float | None] | None = None
    of_prototypes: Callable[[PrototypeSet], Tensor] | None = None


NEEDS = {
    "heat": "heat over the clip; `chance` has none",
    "box": "the box of the hottest voxels; `random` and `centre` have one of the first prototype's shape",
    "disturbed clips": "the same explanation of the clip under noise, as JPEG and a frame later, left out for "
                       "perturbations, which are slow; of prototypes, their peaks on such clips",
    "random weights": "the same explanation of the clip by a model of shuffled weights, left out for perturbations",
    "truth": "where and when the event is (`--truth`); of explanations, a prediction that is right, or whose truth is "
             "not known, too",
    "ways": "in which of several ways a video shows its class (`--truth`)",
    "first prototype": "the first prototype of the level: `top_prototype`, its other heats, `random` and `centre`",
    "prototype order": "prototypes that are taken one after the other: `prototypes`, and `random` in random order",
    "level of prototypes": "all prototypes of a level: `prototypes`",
    "push record": "prototypes that are patches of known training videos: `prototypes`",
}
