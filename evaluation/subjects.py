"""What a measure reads: one explanation of one clip (`ExplainedClip`), or a set of prototypes (`PrototypeSet`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from evaluation.decisions import Spread, decision_measures
from evaluation.faithfulness import Box, Score, deletion, kept_and_hidden, moved_box
from evaluation.likeness import hangs_on, left
from evaluation.localisation import Pushed, Tube, box_in_event, chance, overlap, placed, truth_mask
from models.geometry import box_of
from models.hipe import HIPE

BOX_SHARE = 0.95  # percentile of the heat above which a voxel belongs to a box


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The prototypes of one level and one clip, and the node that they decide for.

    activations, distances: (P,) of the clip. path: (L,) the explained nodes, from the leaf up. true_path: those of the
    true class, None where it is not known. level: that is explained. first: the prototype that contributes most.
    source_way: in which way the first prototype's video shows its class, None where it is not known.
    """

    model: HIPE
    record: Spread | None
    activations: Tensor
    distances: Tensor
    path: Sequence[int]
    true_path: Sequence[int] | None
    level: int
    first: int
    source_way: int | None = None

    @cached_property
    def measures(self) -> dict[str, float]:
        """`evaluation.decisions.decision_measures` of the level."""
        return decision_measures(self.model, self.activations, self.distances, self.path, truth=self.true_path,
                                 record=self.record, levels=[self.level])[0]

    @property
    def right(self) -> bool:
        """Whether the explained node is the true one."""
        return self.true_path is not None and self.true_path[self.level] == self.path[self.level]

    @torch.no_grad()
    def log_prob(self, masks: Tensor) -> Tensor:
        """(m, P) masks, 1 for a prototype that is there -> (m,) log-probability of the explained node, float64."""
        exact = self.activations.double()
        return self.model.score(exact * masks.to(exact.device))[0][:, self.path[self.level]].cpu()

    def activation(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B,) activation of the first prototype."""
        return self.model(clips).activations[:, self.first]


@dataclass(kw_only=True)
class ExplainedClip:
    """One explanation of one clip.

    clip: (3, T, H, W), normalised. probability: (B, 3, T, H, W) -> (B,) of the explained node.
    steps, seed: of insertion and deletion.
    heat: (T, H, W); None stands for heat that knows nothing.
    disturbed: heat of the disturbed clips, by the name of the disturbance. moved_by: norm of what each changes in
        `clip`. moved_back: (3,) to add to a place in the clip that begins a frame later or earlier, for the same place
        in `clip`.
    random_heat: (T, H, W) by the same method of a model whose weights are shuffled.
    normalisation: of NORMALISATIONS, of the clip.
    baseline_box: of a baseline, the shape of its box and the generator of its place, None for the middle.
    tubes: where the event is, None where it is not known or the prediction is known to be wrong. frames: (T,) of the
        clip in its video. crop: (4,) y0, x0, y1, x1 of the video's pixels that the clip shows.
    decision: of a head with prototypes. random_order: of a baseline, the generator of the order in which prototypes
        are taken. way: in which the video shows its class, None where it is not known.
    """

    clip: Tensor
    probability: Score
    steps: int
    seed: int
    heat: Tensor | None
    disturbed: Mapping[str, Tensor] = field(default_factory=dict)
    moved_by: Mapping[str, float] = field(default_factory=dict)
    random_heat: Tensor | None = None
    normalisation: str = "kinetics"
    moved_back: Tensor | None = None
    baseline_box: tuple[Box, np.random.Generator | None] | None = None
    tubes: Sequence[Tube] | None = None
    frames: Tensor | None = None
    crop: Tensor | None = None
    decision: Decision | None = None
    random_order: np.random.Generator | None = None
    way: int | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """T, H, W."""
        return tuple(self.clip.shape[1:])

    @cached_property
    def box(self) -> Box:
        """The box of the hottest voxels; of a baseline, the shape it was given, in its place."""
        if self.baseline_box is None:
            return box_of(self.heat, BOX_SHARE)
        shape, generator = self.baseline_box
        return moved_box(shape, self.size, generator)

    @cached_property
    def deletion(self) -> float:
        """`evaluation.faithfulness.deletion` of the heat."""
        return deletion(self.probability, self.clip, self.heat, steps=self.steps, seed=self.seed)

    @cached_property
    def box_probabilities(self) -> tuple[float, float, float]:
        """Probability of the clip, of its box alone, and of the clip without it."""
        return kept_and_hidden(self.probability, self.clip, self.box)

    @cached_property
    def box_activations(self) -> tuple[float, float, float]:
        """Activation of the first prototype by the clip, by its box alone, and by the clip without it."""
        return kept_and_hidden(self.decision.activation, self.clip, self.box)

    @cached_property
    def hangs_on(self) -> dict[str, float]:
        """`evaluation.likeness.hangs_on` of the probability, of changes inside the box."""
        return self._hangs_on(self.probability)

    @cached_property
    def activation_hangs_on(self) -> dict[str, float]:
        """The same of the first prototype's activation."""
        return self._hangs_on(self.decision.activation)

    def _hangs_on(self, score: Score) -> dict[str, float]:
        return hangs_on(left(score, self.clip, self.box, normalisation=self.normalisation, seed=self.seed))

    @cached_property
    def location(self) -> dict[str, float]:
        """`evaluation.localisation.placed`, or what noise comes to; empty where the event is not in the clip."""
        if not self.tubes:
            return {}
        masks = [self._truth_mask(strict) for strict in (True, False)]
        return chance(*masks) if self.heat is None else placed(self.heat, *masks)

    @cached_property
    def overlap(self) -> dict[str, float]:
        """`evaluation.localisation.overlap` of the box; empty where the event is not in the clip."""
        return overlap(self.box, self._truth_mask(True)) if self.tubes else {}

    def _truth_mask(self, strict: bool) -> Tensor:
        return truth_mask(self.tubes, self.frames.numpy(), self.crop.numpy(), self.size[1:], strict=strict)


@dataclass(frozen=True, kw_only=True)
class PrototypeSet:
    """P prototypes over the videos of training and over others.

    points: (P, C). node_of: (P,). membership (K, K0), ancestors (K0, L), level_of (K,): of the class tree.
    activations: (N, P) highest of each training video. labels: (N,) leaves. test_activations, test_labels: the same of
        videos that were not trained on.
    stayed: by disturbance and prototype, over clips of its node, whether its peak stays. covered: by prototype, over
        such clips with a known event, (5,) bool of the parts around its peak.
    record, own_similarity, tubes, ways, leaves: of the model's own prototypes alone. The record of the push; (P,)
        similarity to their own patch, read again, of the highest there is; the event and the way of videos, where
        they are known; the leaf of every training video; by name.
    """

    points: Tensor
    node_of: Tensor
    membership: Tensor
    ancestors: Tensor
    level_of: Tensor
    activations: Tensor
    labels: Tensor
    test_activations: Tensor
    test_labels: Tensor
    stayed: Mapping[str, Sequence[Sequence[bool]]]
    covered: Sequence[Sequence[np.ndarray]]
    record: Pushed | None = None
    own_similarity: Tensor | None = None
    tubes: Mapping[str, list[Tube]] = field(default_factory=dict)
    ways: Mapping[str, int] = field(default_factory=dict)
    leaves: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def box_in_event(self) -> dict[str, Tensor]:
        """`evaluation.localisation.box_in_event` of the model's own prototypes."""
        return box_in_event(self.record, self.tubes)
