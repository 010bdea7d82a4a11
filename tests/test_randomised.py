"""Heat of a model of shuffled weights, by which heat that does not depend on the model is marked."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

from evaluation import usual
from evaluation.subjects import ExplainedClip
from evaluation.summary import COLUMNS, MARK, latex, markdown
from judging.randomised import Forgetful, randomise
from models.resnet3d import ResNet3D


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3)

    def forward(self, clips):
        return self.trunk(clips).mean((2, 3, 4))


def test_shuffled_weights_keep_their_values_and_the_scale_of_features():
    torch.manual_seed(0)
    model = Model().eval()
    model(torch.randn(2, 3, 8, 32, 32))
    others = [copy.deepcopy(model) for _ in range(3)]
    for other, seed in zip(others, (1, 1, 2), strict=True):
        randomise(other, (8, 32, 32), seed=seed)
    for (name, weight), (_, other) in zip(model.named_parameters(), others[0].named_parameters(), strict=True):
        assert torch.equal(weight.flatten().sort().values, other.flatten().sort().values), name
    state, same, different = (other.state_dict() for other in others)
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert not torch.equal(state["trunk.conv1.weight"], different["trunk.conv1.weight"])
    assert not torch.equal(state["trunk.conv1.weight"], model.state_dict()["trunk.conv1.weight"])
    clips = torch.randn(2, 3, 8, 32, 32)
    before, after = model(clips), others[0](clips)
    assert after.isfinite().all() and not torch.allclose(before, after) and not others[0].training
    assert 0.02 < float(after.std() / before.std()) < 50


@pytest.mark.parametrize(("other", "value"), [
    (lambda heat: heat, 1), (lambda heat: heat.exp() * 3, 1), (lambda heat: -heat, -1),
    (lambda heat: torch.zeros_like(heat), None)])
def test_rank_correlation(other, value):
    torch.manual_seed(0)
    heat = torch.rand(8, 8, 8)  # as many blocks as voxels
    of = ExplainedClip(clip=torch.zeros(3, 8, 8, 8), probability=None, steps=1, seed=0, heat=heat,
                       random_heat=other(heat))
    assert usual.randomised(of) == (value if value is None else pytest.approx(value))


def test_noise_is_not_alike():
    torch.manual_seed(0)
    of = ExplainedClip(clip=torch.zeros(3, 16, 32, 32), probability=None, steps=1, seed=0,
                       heat=torch.rand(16, 32, 32), random_heat=torch.rand(16, 32, 32))
    assert abs(usual.randomised(of)) < 0.2


def test_what_does_not_change_is_marked_in_every_table():
    rows = [("explanations", name, 0, measure, value, value, value, 4) for name, values in {
        "centre": (0.5, 1.0), "grad": (0.6, 0.1)}.items() for measure, value in zip(("box_only", "randomised"), values,
                                                                                    strict=True)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    text = markdown(frame)
    assert f"| centre {MARK} |" in text and "| grad |" in text and "shuffled" in text.split(MARK)[2]
    assert r"centre$^\dagger$" in latex(frame) and MARK not in markdown(frame[frame.explanation == "grad"])


def test_a_model_that_forgets_is_itself_again_afterwards():
    model, clips = Model().eval(), torch.randn(1, 3, 8, 32, 32)
    before, forgetful = model(clips), Forgetful(model, (8, 32, 32), seed=3)
    after = []
    for _ in range(2):
        with pytest.raises(KeyError), forgetful.forgotten():
            after.append(model(clips))
            raise KeyError
        assert torch.equal(model(clips), before)
    assert torch.equal(*after) and not torch.equal(after[0], before)
