"""Is heat a property of what the model learned? Its rank correlation with heat of models that learned less and less."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from evaluation.usual import rank_correlation
from judging.judge import RANDOMISED, Judge
from judging.randomised import Forgetful, cascade
from judging.scenes import Scene

NOISE = "noise"  # heat of the same clip that is drawn at random
Shown = dict[tuple[str, int], list[Tensor | None]]  # heat of scenes by explanation and level


def shown(judge: Judge, scenes: Sequence[Scene], wanted: Sequence[tuple[str, int]], what: str = "") -> Shown:
    """Heat of scenes by explanations at levels, for the nodes that the scenes were predicted to be.

    Args:
        wanted: explanations and levels. what: "" for the model as it is, RANDOMISED for one that forgot; random heat
            is another for each.
    """
    levels = sorted({level for _, level in wanted})
    with_prototypes = judge.settings.head == "prototypes"
    own = [judge.outputs(scene, levels, random=what == RANDOMISED)[1] if with_prototypes else {} for scene in scenes]
    return {(explanation, level): judge.maps(explanation, level, scenes,
                                             [judge.tree.path_ids(scene.leaf)[level] for scene in scenes], own, what)
            for explanation, level in wanted}


def sanity_rows(judge: Judge, videos: Sequence[int], wanted: Sequence[tuple[str, int]],
                others: Mapping[str, Judge]) -> Iterator[dict]:
    """Rank correlations of the heat of some videos with heat of models that know less.

    The weights are randomised from the head down, part by part, each with all parts before it (cascading
    randomisation, Adebayo et al., NeurIPS 2018).

    Args:
        judge: of the model. wanted: explanations and levels. others: judges of other models by name, of the same
            classes and clips, as one that was trained on shuffled labels.
    Yields:
        rows of video, explanation, level, step and correlation: against noise, after each part, against others; none
        where either heat is the same everywhere.
    """
    scenes = [scene for scene in map(judge.scene, videos) if scene is not None]
    before = shown(judge, scenes, wanted)
    yield from _rows(scenes, before, shown(judge, scenes, [("random", 0)], NOISE)["random", 0], NOISE)
    parts, whole = cascade(judge.model), judge.forgetful
    try:
        for i, part in enumerate(parts):
            judge.forgetful = Forgetful(judge.model, judge.size, seed=whole.seed, parts=parts[:i + 1])
            yield from _rows(scenes, before, shown(judge, scenes, wanted, RANDOMISED), part.name)
    finally:
        judge.forgetful = whole
    for name, other in others.items():
        yield from _rows(scenes, before, shown(other, scenes, wanted), name)


def _rows(scenes: Sequence[Scene], before: Shown, after: Shown | Sequence[Tensor | None], step: str) -> Iterator[dict]:
    """A row for each scene, explanation and level; `after` by explanation and level, or the same for all."""
    for (explanation, level), heats in before.items():
        changed = after[explanation, level] if isinstance(after, dict) else after
        for scene, heat, other in zip(scenes, heats, changed, strict=True):
            value = None if heat is None or other is None else rank_correlation(heat, other)
            if value is not None:
                yield {"video": scene.video.name, "explanation": explanation, "level": level, "step": step,
                       "correlation": value}
