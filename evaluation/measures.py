"""MEASURES: what explanations and prototypes are judged by, a function and an entry each.

To add a measure, write a function of an `ExplainedClip` (a number, or None where it has no meaning) or of a
`PrototypeSet` (a number for each prototype, nan where it has none) and an entry in MEASURES: tables, the report and the
list for docs/MEASURES.md follow. A measure whose values change needs the next edition: stored values of an earlier
edition are measured again, and nothing else is.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from evaluation import faithfulness, localisation, prototypes, usual
from evaluation.likeness import LOSSES, TRAITS
from evaluation.measure import ARROWS, NEEDS, Measure
from evaluation.subjects import ExplainedClip, PrototypeSet

__all__ = ["ARROWS", "MEASURES", "NEEDS", "Measure", "editions", "listing"]

LEAST = 1e-12  # a score that shares are taken of is taken for no less


# --- of an explanation


def insertion(of: ExplainedClip) -> float:
    """Faithfulness: see `evaluation.faithfulness.insertion`."""
    return faithfulness.insertion(of.probability, of.clip, of.heat, steps=of.steps, seed=of.seed)


def deletion(of: ExplainedClip) -> float:
    """Faithfulness: see `evaluation.faithfulness.deletion`."""
    return of.deletion


def box_only(of: ExplainedClip) -> float:
    """Share of the probability that the box alone keeps."""
    whole, only, _ = of.box_probabilities
    return only / max(whole, LEAST)


def box_hidden(of: ExplainedClip) -> float:
    """Share of the probability that the clip keeps without the box."""
    whole, _, hidden = of.box_probabilities
    return hidden / max(whole, LEAST)


def activation_box_only(of: ExplainedClip) -> float:
    """Share of the first prototype's activation that the box alone keeps."""
    whole, only, _ = of.box_activations
    return only / max(whole, LEAST)


def activation_box_hidden(of: ExplainedClip) -> float:
    """Share of the first prototype's activation that the clip keeps without the box."""
    whole, _, hidden = of.box_activations
    return hidden / max(whole, LEAST)


def hangs_on(of: ExplainedClip, trait: str) -> float:
    """One of the values of `evaluation.likeness.hangs_on`."""
    return of.hangs_on[trait]


def activation_hangs_on(of: ExplainedClip, trait: str) -> float:
    """The same of the first prototype's activation."""
    return of.activation_hangs_on[trait]


def box_volume(of: ExplainedClip) -> float:
    """Share of the clip that the box holds."""
    return faithfulness.box_share(of.box, of.size)


def location(of: ExplainedClip, name: str) -> float | None:
    """One of the values of `evaluation.localisation.placed`."""
    return of.location.get(name)


def overlap(of: ExplainedClip, name: str) -> float | None:
    """One of the values of `evaluation.localisation.overlap`."""
    return of.overlap.get(name)


def stable(of: ExplainedClip, disturbance: str) -> float:
    """Whether the hottest voxel stays where it is, or moves along with what it is on."""
    back = of.moved_back if disturbance == "jitter" else 0
    peak, other = faithfulness.peak_of(of.heat), faithfulness.peak_of(of.disturbed[disturbance])
    return float(faithfulness.same_place(peak, other + back, faithfulness.nearness(of.size)))


def set_size(of: ExplainedClip) -> float | None:
    """How many prototypes keep 90 % of the evidence; None where there is no evidence."""
    n, value = len(of.decision.activations), of.decision.log_prob
    size = (len(faithfulness.greedy_set(n, value)) if of.random_order is None
            else faithfulness.random_set(n, value, of.random_order))
    return float(size) if size else None


def decision(of: ExplainedClip, name: str) -> float | None:
    """One of the values of `evaluation.decisions.decision_measures`."""
    return of.decision.measures.get(name)


def same_way(of: ExplainedClip) -> float | None:
    """Whether the first class prototype shows the way of the video; never where the class is wrong."""
    if of.decision.level != 0 or of.way is None or of.decision.source_way is None:
        return None
    return float(of.decision.right and of.decision.source_way == of.way)


# --- of prototypes


def mean_stability(of: PrototypeSet, disturbance: str) -> Tensor:
    """How often the peak stays where it is."""
    return _of_each(of.stayed[disturbance], np.mean)


def purity(of: PrototypeSet) -> Tensor:
    """See `evaluation.prototypes.purity`."""
    return prototypes.purity(of.activations, of.labels, of.node_of, of.membership)


def duplicates(of: PrototypeSet) -> Tensor:
    """See `evaluation.prototypes.duplicates`."""
    return prototypes.duplicates(of.points, of.node_of).double()


def sharing(of: PrototypeSet) -> Tensor:
    """See `evaluation.prototypes.sharing`."""
    return prototypes.sharing(of.test_activations, of.test_labels, of.node_of, of.ancestors, of.level_of)


def consistency(of: PrototypeSet) -> Tensor:
    """See `evaluation.prototypes.consistency`."""
    return _of_each(of.covered, prototypes.consistency)


def consistent(of: PrototypeSet) -> Tensor:
    """Whether the consistency is at least .8."""
    score = consistency(of)
    return torch.where(score.isnan(), score, (score >= prototypes.CONSISTENT).double())


def self_similarity(of: PrototypeSet) -> Tensor:
    """Similarity to the patch that a prototype was pushed to."""
    return of.own_similarity


def on_event(of: PrototypeSet) -> Tensor:
    """See `evaluation.localisation.on_event`."""
    return localisation.on_event(of.record, of.tubes)


def box_in_event(of: PrototypeSet, name: str) -> Tensor:
    """One of the values of `evaluation.localisation.box_in_event`."""
    return of.box_in_event[name]


def ways_covered(of: PrototypeSet) -> Tensor:
    """See `evaluation.prototypes.ways_covered`."""
    return prototypes.ways_covered(of.record.video, of.node_of, of.leaves, of.ways)


def _of_each(values: Sequence[Sequence], summary: Callable[[Sequence], float]) -> Tensor:
    """(P,) float64: a summary of what there is of each prototype, nan where there is nothing."""
    return torch.tensor([summary(some) if some else torch.nan for some in values], dtype=torch.float64)


# --- the registry, in the order of the tables


MEASURES = {
    "insertion": Measure(
        4, 1, "probability while a blurred clip gets sharp, the hottest blocks first",
        {"heat"}, insertion),
    "deletion": Measure(
        3, -1, "probability while the clip fades, the hottest blocks first",
        {"heat"}, deletion),
    "abpc": Measure(
        1, 1, "probability while the clip fades, the coldest blocks first, less the same with the hottest first",
        {"heat"}, usual.abpc),
    "average_drop": Measure(
        1, -1, "share of the probability that is lost when the clip fades where it is cold",
        {"heat"}, usual.average_drop),
    "increase": Measure(
        1, 1, "the probability is higher when the clip fades where it is cold",
        {"heat"}, usual.increase),
    "infidelity": Measure(
        1, -1, "share of what random faded boxes change in the probability that the heat in them does not explain",
        {"heat"}, usual.infidelity),
    "sparseness": Measure(
        1, 1, "Gini index of the heat, 0 for equal heat",
        {"heat"}, usual.sparseness),
    "complexity": Measure(
        1, -1, "entropy of the heat in nats",
        {"heat"}, usual.complexity),
    "max_sensitivity": Measure(
        1, -1, "largest change of the heat, over its norm, under noise and JPEG",
        {"heat", "disturbed clips"}, usual.max_sensitivity),
    "lipschitz": Measure(
        1, -1, "the same over the change of the clip, over its norm",
        {"heat", "disturbed clips"}, usual.lipschitz),
    "randomised": Measure(
        2, -1, "rank correlation of the heat with that of the same model under shuffled weights",
        {"heat", "random weights"}, usual.randomised),
    "box_only": Measure(
        4, 1, "share of the probability that is left when only the box is sharp",
        {"box"}, box_only),
    "box_hidden": Measure(
        4, -1, "share of the probability that is left when only the box is blurred",
        {"box"}, box_hidden),
    "activation_box_only": Measure(
        4, 1, "share of the first prototype's activation left when only the box is sharp",
        {"box", "first prototype"}, activation_box_only),
    "activation_box_hidden": Measure(
        4, -1, "share of the first prototype's activation left when only the box is blurred",
        {"box", "first prototype"}, activation_box_hidden),
    "box_volume": Measure(
        3, 0, "share of the clip that the box holds",
        {"box"}, box_volume),
    **{f"hangs_on_{trait}": Measure(
        1, 0, f"share of the probability that is lost when the box {LOSSES[trait]}",
        {"box"}, partial(hangs_on, trait=trait)) for trait in TRAITS},
    **{f"activation_hangs_on_{trait}": Measure(
        1, 0, f"share of the first prototype's activation that is lost when the box {LOSSES[trait]}",
        {"box", "first prototype"}, partial(activation_hangs_on, trait=trait)) for trait in TRAITS},
    "pointing": Measure(
        3, 1, "hottest voxel in the frames of the event and the box it sweeps",
        {"truth"}, partial(location, name="pointing")),
    "pointing_strict": Measure(
        3, 1, "hottest voxel in the event's box of that very frame",
        {"truth"}, partial(location, name="pointing_strict")),
    "pointing_space": Measure(
        3, 1, "hottest voxel where the event passes at any time",
        {"truth"}, partial(location, name="pointing_space")),
    "pointing_time": Measure(
        3, 1, "hottest voxel in a frame of the event",
        {"truth"}, partial(location, name="pointing_time")),
    "energy": Measure(
        3, 1, "share of the heat in the event's box of every frame",
        {"truth"}, partial(location, name="energy")),
    "energy_space": Measure(
        3, 1, "share of the heat where the event passes",
        {"truth"}, partial(location, name="energy_space")),
    "energy_time": Measure(
        3, 1, "share of the heat in the frames of the event",
        {"truth"}, partial(location, name="energy_time")),
    "box_iou": Measure(
        1, 1, "intersection over union of the box with the event's boxes, in voxels",
        {"box", "truth"}, partial(overlap, name="iou")),
    "box_iou_space": Measure(
        1, 1, "the same of the box's rectangle with all places where the event passes",
        {"box", "truth"}, partial(overlap, name="iou_space")),
    "box_iou_time": Measure(
        1, 1, "the same of the box's frames with those of the event",
        {"box", "truth"}, partial(overlap, name="iou_time")),
    "stable_noise": Measure(
        3, 1, "peak within a quarter of the frames and an eighth of each side, under noise of 8 grey levels",
        {"disturbed clips"}, partial(stable, disturbance="noise"), partial(mean_stability, disturbance="noise")),
    "stable_jpeg": Measure(
        3, 1, "peak within a quarter of the frames and an eighth of each side, after JPEG of quality 50",
        {"disturbed clips"}, partial(stable, disturbance="jpeg"), partial(mean_stability, disturbance="jpeg")),
    "stable_jitter": Measure(
        3, 1, "peak within a quarter of the frames and an eighth of each side, one frame later",
        {"disturbed clips"}, partial(stable, disturbance="jitter"), partial(mean_stability, disturbance="jitter")),
    "set_size": Measure(
        3, -1, "prototypes that keep 90 % of the evidence, taken greedily (random: in random order)",
        {"prototype order"}, set_size),
    "own_evidence": Measure(
        3, 1, "nats that the node's own prototypes add to its log-probability",
        {"level of prototypes"}, partial(decision, name="own_evidence")),
    "ancestors_evidence": Measure(
        3, 0, "nats that its ancestors' prototypes add",
        {"level of prototypes"}, partial(decision, name="ancestors_evidence")),
    "descendants_evidence": Measure(
        3, 0, "nats that its descendants' prototypes add",
        {"level of prototypes"}, partial(decision, name="descendants_evidence")),
    "elsewhere_evidence": Measure(
        3, 0, "nats that all other prototypes add",
        {"level of prototypes"}, partial(decision, name="elsewhere_evidence")),
    "total_evidence": Measure(
        3, 1, "nats that all prototypes together add",
        {"level of prototypes"}, partial(decision, name="total_evidence")),
    "off_path": Measure(
        3, -1, "descendants' and all other prototypes' nats over the total, both without their sign",
        {"level of prototypes"}, partial(decision, name="off_path")),
    "own_needed": Measure(
        3, 1, "own nats over ln(siblings), which lift a node from chance to certainty",
        {"level of prototypes"}, partial(decision, name="own_needed")),
    "silenced": Measure(
        3, 1, "nats that the log-probability falls by without the first prototype",
        {"level of prototypes"}, partial(decision, name="silenced")),
    "silenced_needed": Measure(
        3, 1, "the same over ln(siblings)",
        {"level of prototypes"}, partial(decision, name="silenced_needed")),
    "silenced_three": Measure(
        3, 1, "nats that it falls by without the first three prototypes",
        {"level of prototypes"}, partial(decision, name="silenced_three")),
    "flips": Measure(
        3, 1, "where the node is the most probable of its level: another one is without the first prototype",
        {"level of prototypes"}, partial(decision, name="flips")),
    "flips_three": Measure(
        3, 1, "where the node is the most probable of its level: another one is without the first three",
        {"level of prototypes"}, partial(decision, name="flips_three")),
    "similarity": Measure(
        3, 1, "of the first prototype, 1 for the same patch",
        {"level of prototypes"}, partial(decision, name="similarity")),
    "closer_than": Measure(
        3, 1, "share of other nodes' training videos that are less like the first prototype than this clip",
        {"level of prototypes"}, partial(decision, name="closer_than")),
    "typical": Measure(
        3, 0, "share of its own node's training videos that are less like it than this clip",
        {"level of prototypes"}, partial(decision, name="typical")),
    "nearest_own": Measure(
        3, 1, "the nearest of all prototypes of the level is one of the true node",
        {"level of prototypes"}, partial(decision, name="nearest_own")),
    "same_way": Measure(
        3, 1, "the first class prototype comes from a video that shows the true class in the same way",
        {"level of prototypes", "ways"}, same_way),
    "purity": Measure(
        3, 1, "of the ten training videos with the nearest patches, those under the prototype's node",
        set(), of_prototypes=purity),
    "duplicates": Measure(
        3, -1, "prototypes that are the same as an earlier one of their node",
        set(), of_prototypes=duplicates),
    "sharing": Measure(
        3, 1, "an ancestor's prototype: its AUC for clips of the child it knows worst against other nodes'",
        set(), of_prototypes=sharing),
    "consistency": Measure(
        3, 1, "how often a square around the peak covers the part of the event that it covers most often",
        {"truth"}, of_prototypes=consistency),
    "consistent": Measure(
        3, 1, "prototypes whose consistency is at least .8",
        {"truth"}, of_prototypes=consistent),
    "self_similarity": Measure(
        3, 1, "similarity to the prototype's own training patch, of the highest there is",
        {"push record"}, of_prototypes=self_similarity),
    "on_event": Measure(
        3, 1, "the prototype's training patch lies on the event, or at most half a cell beside it",
        {"push record", "truth"}, of_prototypes=on_event),
    "box_meets_event": Measure(
        1, 1, "the prototype's box meets the event's box in any of its frames",
        {"push record", "truth"}, of_prototypes=partial(box_in_event, name="meets")),
    "box_meets_event_chance": Measure(
        1, 0, "the same of a box of its shape anywhere in its clip",
        {"push record", "truth"}, of_prototypes=partial(box_in_event, name="meets_chance")),
    "box_inside_event": Measure(
        1, 1, "share of the prototype's box inside the event's boxes",
        {"push record", "truth"}, of_prototypes=partial(box_in_event, name="inside")),
    "box_inside_event_chance": Measure(
        1, 0, "the same of a box of its shape anywhere in its clip",
        {"push record", "truth"}, of_prototypes=partial(box_in_event, name="inside_chance")),
    "ways_covered": Measure(
        3, 1, "of the ways in which a class is shown in training, those that its prototypes come from",
        {"push record", "ways"}, of_prototypes=ways_covered),
}


def editions(table: str) -> dict[str, int]:
    """The edition of every measure of a table, "explanations" or "prototypes"."""
    function = {"explanations": "of_clip", "prototypes": "of_prototypes"}[table]
    return {name: measure.edition for name, measure in MEASURES.items() if getattr(measure, function) is not None}


def listing() -> str:
    """Every measure as a Markdown table, and what its needs mean, as docs/MEASURES.md has them."""
    tables = {name: " and ".join(table for table in ("explanations", "prototypes") if name in editions(table))
              for name in MEASURES}
    lines = ["| measure | better | of | needs | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| `{name}` | {ARROWS[measure.direction]} | {tables[name]} | {', '.join(sorted(measure.needs))} | "
              f"{measure.meaning} |" for name, measure in MEASURES.items()]
    return "\n".join([*lines, "", *(f"- {need}: {meaning}" for need, meaning in NEEDS.items())]) + "\n"
