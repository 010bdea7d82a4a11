"""Every measure of MEASURES that has a better and a worse side: a perfect explanation, an inverted and random ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_hipe
from torch.nn.functional import one_hot

from evaluation.decisions import decision_measures
from evaluation.localisation import Tube
from evaluation.measures import MEASURES
from evaluation.subjects import ExplainedClip, PrototypeSet
from hierarchy.tree import Hierarchy

KINDS = ("perfect", "inverted", "random")
DRAWS = 6  # random explanations, whose values are averaged
SIZE = (8, 16, 16)
AT = (slice(1, 4), slice(2, 8), slice(2, 8))  # where the event is that makes the class
EVENT = Tube(1, np.array([[2.0, 2, 6, 6]] * 3))
MODEL, OF_MODEL = tiny_hipe(score="tree")
TREE = Hierarchy.from_rows([["a", "P", "X"], ["b", "P", "X"], ["c", "Q", "Y"], ["d", "Q", "Y"]])
# A draw of random heat or weights is like no other, as it should be: here random is as good as perfect.
NEAR_PERFECT = {"randomised": 0.15}
# Nats of a decision: what prototypes of others take away, own ones can give back, so that random ones may add more.
OF_DECISIONS = ("own_evidence", "total_evidence", "off_path", "own_needed", "silenced", "silenced_needed",
                "silenced_three", "flips", "flips_three")
# What is asked is how concentrated heat is, or of its box, which is small where noise has its peak: an inverted map has
# no reason to be worse than noise, and both are worse than a perfect one.
OF_EXTENT = ("sparseness", "complexity", "box_only", "box_hidden", "activation_box_only", "activation_box_hidden",
             "box_iou", "box_iou_space", "box_iou_time")


def inside(clips):
    """0..1: how bright the place of the event is; what is beside it takes a little away."""
    bright = clips[(slice(None), slice(None), *AT)].mean((1, 2, 3, 4))
    return (bright - 0.1 * (clips.mean((1, 2, 3, 4)) - bright * 3 / 8 * 36 / 256)).clamp(0, 1)


def heat_of(kind, seed=0):
    """In the event alone, the hotter the farther from it, or anywhere."""
    if kind == "random":
        return torch.rand(SIZE, generator=torch.Generator().manual_seed(seed))
    if kind == "perfect":
        heat = torch.zeros(SIZE)
        heat[AT] = 1
        return heat
    far = [((torch.arange(n) - span.start).clamp(min=0) / n) ** 2 for n, span in zip(SIZE, AT, strict=True)]
    heat = far[0][:, None, None] + far[1][:, None] + far[2]
    heat[AT] = 0
    return heat


def evidence_of(kind, seed):
    """How the prototypes of a clip of the first class fire, and what `decision_measures` makes of it."""
    layer, path = MODEL.prototype_layer, OF_MODEL.path_ids(0)
    own = torch.isin(layer.node_of, torch.tensor(path)).float()
    generator = torch.Generator().manual_seed(seed)
    activations = {"perfect": own, "inverted": 1 - own,
                   "random": torch.rand(len(own), generator=generator)}[kind] * 3
    distances = 4 - activations
    record = SimpleNamespace(closer_than=lambda p, d: (1 - d / 4, 9), typical=lambda p, d: None)
    measures = decision_measures(MODEL, activations, distances, path, truth=path, record=record)[0]
    return SimpleNamespace(activations=activations, measures=measures, activation=inside, level=0, right=True)


def explained(kind, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    clip = torch.rand(3, *SIZE, generator=generator) * 0.3
    clip[(slice(None), *AT)] = 0.9
    heat = heat_of(kind, seed)
    other = {"perfect": heat, "inverted": 1 - heat, "random": heat_of("random", 50 + seed)}[kind]
    decision = evidence_of(kind, seed)
    n = len(decision.activations)
    weights = {"perfect": torch.eye(n)[0], "inverted": torch.full((n,), 1 / n),
               "random": torch.rand(n, generator=generator)}[kind].double()
    decision.log_prob = lambda masks: 5 * (masks.double() @ weights) / weights.sum() - 6
    decision.source_way = {"perfect": 0, "inverted": 1, "random": seed % 3}[kind]
    return ExplainedClip(
        clip=clip, probability=inside, steps=16, seed=3, heat=heat, disturbed=dict.fromkeys(("noise", "jpeg", "jitter"),
                                                                                          other),
        moved_by={"noise": 1.0, "jpeg": 1.0}, moved_back=torch.zeros(3), tubes=[EVENT], frames=torch.arange(SIZE[0]),
        crop=torch.tensor([0.0, 0, *SIZE[1:]]), decision=decision, way=0,
        random_heat=heat if kind == "inverted" else heat_of("random", 70 + seed))


def prototypes(kind, seed=0):
    """Two prototypes a node, one video of each class in each of two ways and many more."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    node_of = torch.arange(len(TREE)).repeat_interleave(2)
    labels, n = torch.arange(4).repeat(20), len(node_of)
    below = TREE.membership[node_of][:, labels].T.float()  # (80, P)
    fires = {"perfect": below, "inverted": 1 - below, "random": torch.zeros_like(below)}[kind]
    fires = fires + 0.01 * torch.rand(fires.shape, generator=generator)
    points = torch.rand(n, 5, generator=generator)
    if kind == "inverted":
        points[1::2] = points[::2]
    elif kind == "random":
        points[1] = points[0]  # now and then
    stays = {"perfect": [True] * 4, "inverted": [False] * 4, "random": (rng.random(4) < 0.5).tolist()}[kind]
    parts = {"perfect": [one_hot(torch.tensor(1), 5).bool().numpy()] * 5, "inverted": [np.zeros(5, dtype=bool)] * 5,
             "random": list(rng.random((5, 5)) < 0.3)}[kind]
    leaves = {f"v{leaf}{way}": leaf for leaf in range(4) for way in (0, 1)}
    first = [int(TREE.membership[node].nonzero()[0]) for node in node_of.tolist()]
    ways = {"perfect": [p % 2 for p in range(n)], "inverted": [0] * n, "random": rng.integers(2, size=n).tolist()}[kind]
    boxes = {"perfect": [(1, 2, 2, 4, 8, 8)] * n, "inverted": [(5, 10, 10, 8, 16, 16)] * n, "random": [
        (t, y, x, t + 3, y + 6, x + 6) for t, y, x in rng.integers((0, 0, 0), (6, 11, 11), size=(n, 3)).tolist()]}[kind]
    record = SimpleNamespace(
        video=[f"v{leaf}{way}" for leaf, way in zip(first, ways, strict=True)], stride=(2, 2, 2), clip_size=SIZE,
        frames=torch.arange(SIZE[0]).expand(n, -1), crop=torch.tensor([0.0, 0, *SIZE[1:]]).expand(n, -1),
        box=boxes.__getitem__, peak=lambda p: torch.tensor([(boxes[p][i] + boxes[p][i + 3]) // 2 for i in range(3)]))
    return PrototypeSet(
        points=points, node_of=node_of, membership=TREE.membership, ancestors=TREE.ancestors, level_of=TREE.level_of,
        activations=fires, labels=labels, test_activations=fires, test_labels=labels,
        stayed=dict.fromkeys(("noise", "jpeg", "jitter"), [stays] * n), covered=[parts] * n, record=record,
        own_similarity={"perfect": torch.ones(n), "inverted": torch.zeros(n),
                        "random": torch.rand(n, generator=generator)}[kind].double(),
        tubes={video: [EVENT] for video in leaves}, ways={video: int(video[-1]) for video in leaves}, leaves=leaves)


def values_of(name, kind):
    """Of a measure's two functions, the mean over draws; nan where it has no meaning."""
    measure, draws = MEASURES[name], range(DRAWS if kind == "random" else 1)
    found = {}
    if measure.of_clip is not None:
        values = [measure.of_clip(explained(kind, seed)) for seed in draws]
        found["clip"] = np.mean([value for value in values if value is not None] or [np.nan])
    if measure.of_prototypes is not None:
        found["prototypes"] = np.mean([float(measure.of_prototypes(prototypes(kind, seed)).nanmean())
                                       for seed in draws])
    return found


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if measure.direction])
def test_perfect_is_best_and_inverted_is_worst(name):
    sign, values = MEASURES[name].direction, {kind: values_of(name, kind) for kind in KINDS}
    for of in values["perfect"]:
        best, worst, anything = (sign * values[kind][of] for kind in KINDS)
        assert np.isfinite(best) and np.isfinite(anything)
        if np.isnan(worst):  # a node that is not the most probable one cannot be turned over
            assert name in ("flips", "flips_three")
            continue
        assert best > worst, values
        if name in OF_DECISIONS:
            continue
        assert name not in OF_EXTENT or best > anything, values
        assert best >= anything - NEAR_PERFECT.get(name, 1e-9), values
        assert name in OF_EXTENT or anything >= worst - 1e-9, values


def test_measures_without_a_better_side_only_describe():
    """And none is left out by mistake."""
    described = {name for name, measure in MEASURES.items() if not measure.direction}
    assert all(name.startswith(("hangs_on_", "activation_hangs_on_")) or name.endswith(("_evidence", "_chance"))
               or name in ("box_volume", "typical") for name in described)
