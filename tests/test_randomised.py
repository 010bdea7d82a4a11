"""Heat of a model of shuffled weights, by which heat that does not depend on the model is marked."""

import copy
import json

import pandas as pd
import pytest
import torch
from judged import checkpoints
from torch import nn

from benchmarks import randomised
from benchmarks.randomised import shuffle_labels
from evaluation import usual
from evaluation.subjects import ExplainedClip
from evaluation.summary import COLUMNS, MARK, latex, markdown
from judging.randomised import Forgetful, cascade, randomise
from models.resnet3d import ResNet3D
from run.judging import load_model


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints(tmp_path_factory.mktemp("judged"))


@pytest.fixture
def hipe(folder):
    return load_model(folder / "save_1.pth")[0].eval().requires_grad_(False)


def test_a_cascade_goes_from_the_head_down_and_holds_every_weight_once(hipe):
    parts = cascade(hipe)
    assert [part.name for part in parts] == ["head", "neck", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    held = [id(weight) for part in parts for weight in part.weights]
    assert sorted(held) == sorted(map(id, hipe.parameters())) and len(set(held)) == len(held)


def test_each_step_randomises_its_parts_alone_and_the_last_all(hipe):
    parts, before = cascade(hipe), {id(weight): weight.clone() for weight in hipe.parameters()}
    whole, size = copy.deepcopy(hipe), (8, 24, 24)
    randomise(whole, size, seed=5)
    clips = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    features = hipe.trunk(clips)
    for i in (0, 1, 2, len(parts) - 1):
        with Forgetful(hipe, size, seed=5, parts=parts[:i + 1]).forgotten():
            for j, part in enumerate(parts):
                changed = [not torch.equal(weight, before[id(weight)]) for weight in part.weights
                           if weight.unique().numel() > 1]
                assert all(changed) if j <= i else not any(changed), (part.name, i)
            assert torch.equal(hipe.trunk(clips), features) == (i < 2)
            if i == len(parts) - 1:
                state, wanted = hipe.state_dict(), whole.state_dict()
                assert all(torch.equal(state[name], wanted[name]) for name in wanted)
        assert torch.equal(hipe.trunk(clips), features)


def test_the_table_of_a_cascade(folder, tmp_path, capsys):
    """Heat of the clip alone stays as it is; the same model under another name is no other."""
    path = str(folder / "save_1.pth")
    randomised.main(["--checkpoint", path, "--shuffled", path, "--videos", "2", "--methods", "grad_cam", "--no_cuda",
                     "--save", str(tmp_path)])
    frame = pd.read_csv(tmp_path / "randomised_prototypes.csv")
    mean, marked = (frame.set_index(["row", "column"])[name] for name in ("mean", "marked"))
    parts = ["head", "neck", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert frame["column"].unique().tolist() == ["noise", *parts, randomised.SHUFFLED]
    assert all(mean["centre, class", step] == pytest.approx(1) for step in [*parts, randomised.SHUFFLED])
    assert marked["centre, class", "noise"] == 1 and abs(mean["centre, class", "noise"]) < 0.5
    for name in ("top prototype, class", "top prototype, parent", "grad cam, class"):
        assert mean[name, randomised.SHUFFLED] == pytest.approx(1)
    assert mean["top prototype, class", "conv1"] < 0.99
    assert f"| centre, class {MARK} |" in capsys.readouterr().out


def test_shuffled_labels_are_the_same_labels_of_other_videos(tmp_path):
    database = {f"v_{leaf}_g{group:02}_c01": {"subset": "training" if group < 5 else "validation",
                                             "annotations": {"label": leaf, "segment": [1, 9]}}
                for leaf in "ABC" for group in range(1, 7)}
    (tmp_path / "a.json").write_text(json.dumps({"labels": list("ABC"), "database": database}))
    for seed in (1, 1, 2):
        shuffle_labels(tmp_path / "a.json", tmp_path / f"{seed}.json", seed, 3)
    one, two = (json.loads((tmp_path / f"{seed}.json").read_text())["database"] for seed in (1, 2))
    labels = [[entry["annotations"]["label"] for entry in shuffled.values()] for shuffled in (one, two)]
    assert len(one) == 9 and all(sorted(some) == sorted("AAABBBCCC") for some in labels) and labels[0] != labels[1]
    assert any(entry["annotations"]["label"] != name[2] for name, entry in one.items())
    assert all(entry["video"] == f"{name[2]}/{name}" and entry["subset"] == "training" for name, entry in one.items())
