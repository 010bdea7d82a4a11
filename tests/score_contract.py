"""What every score promises: one function a promise, each of which takes the score's class."""

import json
import math
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from tiny import ROWS, levels_hipe
from torch import Tensor
from trainers import take, trainer, weights
from tree_scores import activations_of, counts_of, families

from explain.what_if import what_if
from hierarchy.embeddings import fit_embeddings
from hierarchy.tree import Hierarchy
from models.contributions import credits
from models.hipe import HIPE, HIPEOutput
from models.score import Score

TREE = Hierarchy.from_rows(ROWS)
KINDS = ("warm", "joint", "tune")


@cache
def points() -> Tensor:
    return fit_embeddings(TREE, dim=8, edge=1.5)


def made(kind: type[Score]) -> Callable[[Hierarchy, Tensor], Score]:
    """A score of TREE as a model makes it, with what it takes of the constructors' options."""
    options = {"points": points(), "c": 1.0, "start": 1.5, "last_scale": 0.1, "temperature": None,
               "learn_temperature": False}
    return partial(kind, **{name: options[name] for name in kind.options})


def model_of(kind: type[Score]) -> HIPE:
    """Another number of prototypes at every node, and another weight for each of them."""
    model = levels_hipe(TREE, per_node=counts_of(TREE), score=made(kind)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.score.last:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def clips(score: Score) -> Tensor:
    """(4, P) activations in float64: two drawn ones, one of ties, and nothing at all."""
    drawn = activations_of(2, score)
    return torch.cat([drawn, torch.full_like(drawn[:1], 0.5), torch.zeros_like(drawn[:1])])


# --- slow ways around


@torch.no_grad()
def slow_silenced(score: Score, activations: Tensor, nodes: Tensor) -> Tensor:
    """One prototype at a time: (n, P)."""
    whole = score(activations[None])[0][0, nodes]
    gains = []
    for p in range(len(activations)):
        without = activations.clone()
        without[p] = 0
        gains.append(whole - score(without[None])[0][0, nodes])
    return torch.stack(gains, 1)


def output_of(model: HIPE, activations: Tensor) -> HIPEOutput:
    """Of a clip with these activations (P,)."""
    none = torch.zeros(1)
    log_probs, evidence = model.score(activations[None])
    return HIPEOutput(log_probs, evidence, activations[None], none, none, none, ())


def apart(u: float, w: float, q: float, c: float) -> float:
    """Hyperbolic distance of points at these lengths of tangent vectors, q = |difference of directions|^2 / 4."""
    root = math.sqrt(c)
    inner = math.sinh(root * (u - w)) ** 2 + math.sinh(2 * root * u) * math.sinh(2 * root * w) * q
    return 2 / root * math.asinh(math.sqrt(inner))


def page_log_probs(data: dict) -> list[float]:
    """log p of every node, by the formula in words, from what `what_if` gives to a page."""
    nodes, rows = data["nodes"], data["prototypes"]
    nats = []
    for n in range(len(nodes)):
        voices = [row["weight"] * row["activation"] for row in rows if row["node"] == n]
        nats.append(max(voices, default=0.0) if n < data["n_leaves"] else sum(voices))
    scores = list(nats)
    for branching in data["formula"].get("branchings", ()):
        given = [nats[n] for n in branching["children"]]
        cosines, every = branching["cosines"], range(len(given))
        length = math.sqrt(sum(given[i] * given[j] * cosines[i][j] for i in every for j in every))
        for place, n in enumerate(branching["children"]):
            step = [given[i] / max(length, 1e-12) - (i == place) for i in every]
            q = max(0.0, sum(step[i] * step[j] * cosines[i][j] for i in every for j in every)) / 4
            scores[n] = -apart(length, branching["lengths"][place], q, data["formula"]["c"]) / branching["temperature"]
    log_probs = [0.0] * len(nodes)
    for n in range(len(nodes)):
        at = n
        while at is not None:
            siblings = [m for m in range(len(nodes)) if nodes[m]["parent"] == nodes[at]["parent"]]
            log_probs[n] += scores[at] - math.log(sum(math.exp(scores[m]) for m in siblings))
            at = nodes[at]["parent"]
    return log_probs


# --- the promises


@torch.no_grad()
def probabilities_sum_to_one_along_the_tree(kind: type[Score]) -> None:
    score = model_of(kind).score
    log_probs, evidence = score(clips(score))
    assert log_probs.dtype == torch.float64 and log_probs.shape == (4, len(TREE)) and len(evidence) == 4
    assert score(clips(score).float())[0].dtype == torch.float32
    for parent, children in families(TREE).items():
        whole = torch.zeros(4, dtype=torch.float64) if parent is None else log_probs[:, parent]
        torch.testing.assert_close(log_probs[:, children].logsumexp(1), whole, atol=1e-9, rtol=0)


def silenced_is_exact(kind: type[Score]) -> None:
    score, nodes = model_of(kind).score, torch.arange(len(TREE))[::2]
    for activations in clips(score):
        gains = score.silenced(activations.float(), nodes)
        assert gains.dtype == torch.float64 and gains.shape == (len(nodes), len(activations))
        expected = slow_silenced(score, activations.float().double(), nodes)
        torch.testing.assert_close(gains, expected, atol=1e-9, rtol=1e-9)


def silenced_in_parts_is_the_same(kind: type[Score]) -> None:
    score, nodes = model_of(kind).score, torch.arange(len(TREE))
    activations = clips(score)[0]
    whole = score.silenced(activations, nodes)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("models.score", "models.scores"):
            patch.setattr(f"{module}.CHUNK", 3)
        torch.testing.assert_close(score.silenced(activations, nodes), whole, atol=1e-12, rtol=1e-12)


def what_stands_by_changes_nothing(kind: type[Score]) -> None:
    score = model_of(kind).score
    for activations in clips(score):
        standing_by = score.standing_by(activations)
        assert standing_by.dtype == torch.bool and standing_by.shape == activations.shape
        gains = slow_silenced(score, activations, torch.arange(len(TREE)))[:, standing_by]
        torch.testing.assert_close(gains, torch.zeros_like(gains), atol=1e-12, rtol=0)


@torch.no_grad()
def a_page_computes_the_same_or_nothing(kind: type[Score]) -> None:
    """Also without some prototypes."""
    model = model_of(kind)
    for activations in clips(model.score)[:3].float():
        for silent in (slice(0), slice(None, None, 3)):
            left = activations.clone()
            left[silent] = 0
            data = what_if(model, output_of(model, left), TREE)
            assert (data is None) == (model.score.formula() is None or model.score.weights is None)
            if data is not None:
                found = torch.tensor(page_log_probs(json.loads(json.dumps(data))), dtype=torch.float64)
                torch.testing.assert_close(found, model.score(left[None].double())[0][0], atol=1e-6, rtol=0)


def credits_sum_to_every_difference(kind: type[Score]) -> None:
    """Of any two nodes, and a prototype that is not seen adds nothing."""
    score, nodes = model_of(kind).score, torch.arange(len(TREE))
    for activations in clips(score):
        for left in (activations, activations.clone().index_fill_(0, torch.arange(0, len(activations), 3), 0)):
            found, start = credits(score, left.float(), nodes)
            assert found.dtype == torch.float64 and found.shape == (len(nodes), len(left))
            with torch.no_grad():
                whole = score(left.float().double()[None])[0][0]
            torch.testing.assert_close(found.sum(1) + start, whole, atol=1e-9, rtol=0)
            assert not found[:, left == 0].any()


def all_of_last_gets_a_gradient(kind: type[Score]) -> None:
    score = model_of(kind).score
    assert score.last and {id(one) for one in score.last} <= {id(one) for one in score.parameters()}
    log_probs, _ = score(clips(score)[:2].float())
    for gradient in torch.autograd.grad(-log_probs[:, 0].mean(), score.last):
        assert gradient.isfinite().all() and gradient.any()


def every_kind_of_step_trains_its_part(kind: type[Score]) -> None:
    """With the penalties on by which the scores differ."""
    for step in KINDS:
        model = model_of(kind)
        parts = {"trunk": list(model.trunk.parameters()), "neck": list(model.neck.parameters()),
                 "prototypes": [model.prototype_layer.prototypes], "last": list(model.score.last),
                 "pooled": list(model.pooled_head.parameters())}
        before = {name: [parameter.detach().clone() for parameter in some] for name, some in parts.items()}
        scalars = take(trainer(model, loss_weights=weights(even=1.0)), step)
        assert all(value.isfinite() for value in scalars.values())
        assert ("even" in scalars) == (model.score.unevenness() is not None)
        assert ("group" in scalars) == (model.score.columns is not None)
        changed = {name for name, some in parts.items()
                   if any(not torch.equal(*pair) for pair in zip(some, before[name], strict=True))}
        assert changed == {"warm": {"neck", "prototypes", "last"}, "tune": {"last"},
                           "joint": {"trunk", "neck", "prototypes", "last"}}[step], step


CONTRACT = (probabilities_sum_to_one_along_the_tree, silenced_is_exact, silenced_in_parts_is_the_same,
            what_stands_by_changes_nothing, a_page_computes_the_same_or_nothing, credits_sum_to_every_difference,
            all_of_last_gets_a_gradient, every_kind_of_step_trains_its_part)
