"""Every score keeps the contract, and so do some that nobody here has seen."""

import pytest
import torch
from score_contract import CONTRACT, clips, model_of
from torch import Tensor, nn

from models.score import Score, node_log_probs
from models.scores import SCORES, EmbeddedScore, HyperbolicTreeScore, TreeScore


class LogSumScore(TreeScore):
    """At a class all prototypes speak: e = log(1 + sum of (exp(w a) - 1))."""

    def _pooled(self, voices: Tensor) -> Tensor:
        index = self.node_of.expand_as(voices)
        every = voices.new_zeros(len(voices), self.n_nodes).scatter_add(1, index, voices.expm1()).log1p()
        of_class = torch.arange(self.n_nodes) < len(self.ancestors)
        return torch.where(of_class, every, super()._pooled(voices))


class SharpScore(TreeScore):
    """Siblings told apart by twice their evidence."""

    def among_siblings(self, evidence: Tensor) -> Tensor:
        return super().among_siblings(2 * evidence)


class SharpHyperbolicScore(HyperbolicTreeScore):
    """The same in hyperbolic space."""

    def among_siblings(self, evidence: Tensor) -> Tensor:
        return super().among_siblings(2 * evidence)


class SquaredScore(TreeScore):
    """What is half as similar says a quarter."""

    def _voices(self, activations: Tensor) -> Tensor:
        return super()._voices(activations.square())


class LoopScore(TreeScore):
    """The evidence of `TreeScore`, made otherwise, and it says so."""

    takes_largest = True

    def _pooled(self, voices: Tensor) -> Tensor:
        return torch.stack([voices[:, self.node_of == n].amax(1) if n < len(self.ancestors) else
                            voices[:, self.node_of == n].sum(1) for n in range(self.n_nodes)], 1)


class BentScore(EmbeddedScore):
    """A tangent vector that is no longer linear in the activations."""

    def forward(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(activations.square())


class BareScore(Score):
    """No more than what a score must have: a weight for every prototype of a class."""

    def __init__(self, hierarchy, node_of: Tensor) -> None:
        super().__init__(hierarchy, node_of)
        self.gains = nn.Parameter(torch.ones(len(node_of)))

    @property
    def last(self) -> list[nn.Parameter]:
        return [self.gains]

    def forward(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        voices = self.gains.to(activations.dtype) * activations
        evidence = voices.new_zeros(len(voices), self.n_nodes).scatter_add(1, self.node_of.expand_as(voices), voices)
        return node_log_probs(evidence[:, :len(self.ancestors)], self.ancestors, self.n_nodes), evidence


STRANGERS = (LogSumScore, SharpScore, SharpHyperbolicScore, SquaredScore, LoopScore, BentScore, BareScore)


@pytest.mark.parametrize("promise", CONTRACT)
@pytest.mark.parametrize("kind", [*SCORES.values(), *STRANGERS])
def test_every_score_keeps(kind, promise):
    promise(kind)


@pytest.mark.parametrize("kind", [*SCORES.values(), *STRANGERS])
def test_what_is_said_of_a_score_is_what_it_computes(kind):
    """Its formula for pages, an unevenness, and prototypes that stand by."""
    score = model_of(kind).score
    stand_by = any(score.standing_by(one).any() for one in clips(score))
    said = (score.formula() is not None, score.unevenness() is not None, stand_by)
    assert said == {TreeScore: (True, True, True), HyperbolicTreeScore: (True, True, True),
                    SharpScore: (False, True, True), SharpHyperbolicScore: (False, True, True),
                    LoopScore: (False, True, True)}.get(kind, (False, False, False))


def test_a_subclass_computes_something_else():
    """Were it not so, the contract would say nothing of what is inherited."""
    for kind in (LogSumScore, SharpScore, SquaredScore):
        one, other = model_of(kind).score, model_of(TreeScore).score
        assert torch.equal(one.omega, other.omega)
        assert not torch.allclose(one(clips(one))[0], other(clips(other))[0], atol=1e-3)
    torch.testing.assert_close(model_of(LoopScore).score(clips(other))[0], other(clips(other))[0])
