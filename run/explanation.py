"""What a HIPE model says of a video and why, as an object: levels, prototypes, what if, measures, pages."""

import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import Tensor

from explain import what_if, wording
from explain.cells import explanation_cell, outcome_cell
from explain.explainer import Explained, Explainer
from explain.match import LevelMatch, Match
from explain.names import file_name
from explain.pages import PAGE, percent
from hierarchy.names import Names
from hierarchy.tree import Hierarchy
from run.measuring import Measuring, measured_explanations

MEASURED = ("prototypes", "top_prototype", "random")  # explanations that are measured where nothing else is asked for
CHANGED = 8  # nodes of a table of what if, beside those of both paths
VISIBLE = 0.0005  # change of a probability that a table shows, as pages do


@dataclass(frozen=True)
class Prototype:
    """A prototype's match, as a card shows it.

    similarity: 0..1. typical, closer_than: shares of training videos that are less like the prototype, of its own node
    and of others; None where not known. contribution: nats that it adds to its node's log-probability.
    probability_without: of the node, without it. box: t0, y0, x0, t1, y1, x1, half-open, peak: frame, y, x; both in the
    video's own frames and pixels. frames: that the box spans. source: of the prototype: video, frames and box, None
    where it comes from no video. heat: (T, H, W) over the clip. sentences: of the card. content: all numbers of the
    card, as in explanation.json.
    """

    prototype: int
    node: str
    similarity: float
    typical: float | None
    closer_than: float | None
    contribution: float
    probability_without: float
    box: tuple[int, ...]
    peak: tuple[int, ...]
    frames: range
    source: dict | None
    heat: Tensor = field(repr=False)
    sentences: list[str] = field(repr=False)
    content: dict = field(repr=False)

    @classmethod
    def of(cls, match: Match, entry: dict, level: dict) -> "Prototype":
        """Of a match and its entry in a level of explanation.json."""
        same = ("prototype", "node", "similarity", "typical", "closer_than", "contribution", "probability_without",
                "source")
        return cls(**{name: entry[name] for name in same}, box=tuple(entry["box"]), peak=tuple(entry["peak"]),
                   frames=range(entry["box"][0], entry["box"][3]), heat=match.heat,
                   sentences=wording.sentences(entry, level), content=entry)


@dataclass(frozen=True)
class Level:
    """What a model says at one level of the tree, and the prototypes that speak for it.

    level: 0 for the class. node, probability: predicted, in the window. prototypes: most contributing first.
    alternatives: the most probable others. heat: (T, H, W), all prototypes of the node together. content: as in
    explanation.json.
    """

    level: int
    node: str
    probability: float
    prototypes: list[Prototype]
    alternatives: dict[str, float]
    heat: Tensor = field(repr=False)
    content: dict = field(repr=False)

    @classmethod
    def of(cls, match: LevelMatch, content: dict) -> "Level":
        """Of a level's matches and its part of explanation.json."""
        prototypes = [Prototype.of(one, entry, content)
                      for one, entry in zip(match.matches, content["prototypes"], strict=True)]
        others = {other["node"]: other["probability"] for other in content["alternatives"]}
        return cls(match.level, content["node"], content["probability"], prototypes, others, match.heat, content)


@dataclass(frozen=True)
class WhatIf:
    """The probabilities of a window's nodes with all prototypes and without some.

    silenced: the prototypes that were switched off. before, after: by node. prediction: the most probable class now and
    its ancestors.
    """

    silenced: list[int]
    before: dict[str, float] = field(repr=False)
    after: dict[str, float] = field(repr=False)
    prediction: list[str]
    path: list[str] = field(repr=False)  # of the prediction with all prototypes

    @property
    def change(self) -> dict[str, float]:
        """By node, the probability that it gains; most changed first."""
        gains = {node: self.after[node] - value for node, value in self.before.items()}
        return dict(sorted(gains.items(), key=lambda item: -abs(item[1])))

    def _repr_html_(self) -> str:
        changed = [node for node, gain in self.change.items() if abs(gain) >= VISIBLE][:CHANGED]
        shown = list(dict.fromkeys([*self.path, *self.prediction, *changed]))
        rows = [{"node": node, "before": self.before[node], "after": self.after[node],
                 "chosen": node in self.prediction} for node in shown]
        n = len(self.silenced)
        return outcome_cell(f"Without {n} prototype{'s' * (n != 1)}: {' / '.join(self.prediction)}", rows)


class Explanation:
    """What a HIPE model says of a video, and why; a notebook shows it in short.

    Attributes:
        content: all numbers, as in explanation.json. video: its name. prediction: the class and its ancestors, from the
            whole video. probabilities: of these. truth: the class, None where it is not known. levels: from the class
            up. frames: (T,) of the window that is explained. window: the same half-open.
    """

    def __init__(self, explainer: Explainer, explained: Explained, measuring: Measuring) -> None:
        self._explainer, self._explained, self._measuring = explainer, explained, measuring
        self.content = explained.content
        self.video: str = self.content["video"]
        self.prediction: list[str] = self.content["prediction"]
        self.probabilities: list[float] = self.content["path_scores"]
        self.truth: str | None = self.content["truth"]
        self.window: tuple[int, int] = tuple(self.content["window"])
        self.frames: Tensor = explained.window.frames
        self.levels = [Level.of(match, content)
                       for match, content in zip(explained.matches, self.content["levels"], strict=True)]

    def __repr__(self) -> str:
        levels = "; ".join(f"{level.node} {level.probability:.3f}, prototypes "
                           f"{', '.join(str(one.prototype) for one in level.prototypes)}" for level in self.levels)
        return f"<Explanation of {self.video}: {self.prediction[0]} {percent(self.probabilities[0])}; {levels}>"

    def _repr_html_(self) -> str:
        return explanation_cell(self._explainer, self._explained)

    def what_if(self, *silenced: int | str) -> WhatIf:
        """The probabilities of the window's nodes without some prototypes, exactly: as its page computes them.

        Args:
            silenced: numbers of prototypes, and names of nodes, whose prototypes are all switched off.
        Raises:
            ValueError: for a prototype or a node that there is not.
        """
        model, tree = self._explainer.model, self._explainer.hierarchy
        output, node_of = self._explained.window.output, self._explainer.model.prototype_layer.node_of
        silent: set[int] = set()
        for one in silenced:
            if isinstance(one, str):
                silent |= set((node_of == node_named(tree, one)).nonzero()[:, 0].tolist())
            elif 0 <= one < len(node_of):
                silent.add(int(one))
            else:
                raise ValueError(f"prototype {one} is not in this model; it has the prototypes 0 to {len(node_of) - 1}")
        names = [tree.full_name(node) for node in range(len(tree))]
        before, after = (what_if.probabilities(model, output, some) for some in ((), sorted(silent)))
        paths = [[names[node] for node in tree.path_ids(int(values[:tree.n_leaves].argmax()))]
                 for values in (after, before)]
        return WhatIf(sorted(silent), dict(zip(names, before.tolist(), strict=True)),
                      dict(zip(names, after.tolist(), strict=True)), *paths)

    def measure(self, *measures: str, of: Sequence[str] = MEASURED, level: int = 0, truth: str | Path | None = None,
                **settings: object) -> pd.DataFrame:
        """How good explanations of this video are, by the numbers that evaluate_explanations.py writes for it.

        Args:
            measures: of evaluation.measures.MEASURES (default: insertion and deletion).
            of: explanations: prototypes, top_prototype, top_prototype_by_METHOD, attribution methods, and the baselines
                random and centre.
            level: of the tree. truth: truth.json or boxes.json, for measures that need the event.
            settings: steps (128), iterations (2000), seed (1), options and smooth, as the flags.
        Returns:
            a row for each explanation, a column for each measure; NaN where an explanation lacks what a measure needs.
        Raises:
            ValueError: for a measure, an explanation or a level that there is not.
        """
        return measured_explanations(self._measuring, measures, of=of, level=level, truth=truth, settings=settings)

    def save(self, folder: str | Path) -> Path:
        """Write the pages, pictures and numbers that local_analysis.py writes, below a folder.

        Returns:
            the video's page; the overview of all videos in the folder is beside its folder.
        """
        out = Path(folder).expanduser().resolve()
        out.mkdir(parents=True, exist_ok=True)
        self._explainer.write(self._explained, out)
        self._explainer.write_overview(out)
        return out / file_name(self.video) / PAGE

    def show(self) -> Path:
        """Write the pages to a new temporary folder, and open the video's in the browser.

        Returns:
            the page.
        """
        page = self.save(tempfile.mkdtemp(prefix="hipe_"))
        webbrowser.open(page.as_uri())
        return page


def node_named(tree: Hierarchy, name: str) -> int:
    """The node of a name, or of a full name with its path; case, blanks and punctuation do not count.

    Raises:
        ValueError: with the nearest names, where no node has it, and for a name that several have.
    """
    nodes: Mapping[str, int] = {tree.full_name(node): node for node in range(len(tree))}
    names = Names(nodes)
    node = names.find(name)
    if node is None:
        raise ValueError(f"node {name!r} is not in the class tree; the nearest names are "
                         f"{', '.join(names.nearest(name))}")
    return node
