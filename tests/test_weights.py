"""Published weights load whatever their wrapping; whatever does not fit, but for the head, is named."""

import os
import pickle

import pytest
import torch

from models.resnet3d import ResNet3D
from models.weights import load_pretrained, read_state


def trunk(seed: int = 0, **options) -> ResNet3D:
    torch.manual_seed(seed)
    return ResNet3D(10, widen_factor=0.125, **options)


@pytest.fixture
def state():
    """A published state: another trunk's weights, and the head that comes with them."""
    return trunk(1).state_dict() | {"fc.weight": torch.zeros(400, 64), "fc.bias": torch.zeros(400)}


def save(tmp_path, content):
    torch.save(content, tmp_path / "kinetics.pth")
    return tmp_path / "kinetics.pth"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_load_whatever_their_wrapping(tmp_path, state, prefix, wrapped):
    content = {prefix + key: value for key, value in state.items()}
    if wrapped:
        content = {"epoch": 200, "arch": "resnet-10", "state_dict": content, "optimizer": {"state": {}}}
    model = trunk()
    assert sorted(load_pretrained(model, save(tmp_path, content))) == ["fc.bias", "fc.weight"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_strides_do_not_matter(tmp_path, state):
    model = trunk(temporal_strides=(1, 2, 2, 2, 2), spatial_strides=(2, 2, 2, 2, 1))
    load_pretrained(model, save(tmp_path, state))
    assert torch.equal(model.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])


def test_files_from_before_the_batch_norm_counters(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model = trunk()
    load_pretrained(model, save(tmp_path, old))
    assert torch.equal(model.bn1.running_mean, state["bn1.running_mean"])


def test_misfits_are_listed_and_nothing_is_loaded(tmp_path, state):
    del state["layer2.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(8, 3, 3, 7, 7)
    model, before = trunk(), trunk().state_dict()
    with pytest.raises(ValueError) as caught:
        load_pretrained(model, save(tmp_path, state))
    said = str(caught.value)
    assert "kinetics.pth" in said and "--model_depth" in said
    assert "1 missing: layer2.0.conv1.weight;" in said
    assert "1 unexpected: layer9.weight;" in said
    assert "conv1.weight (8, 3, 3, 7, 7) instead of (8, 3, 7, 7, 7)" in said
    assert "fc" not in said
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_long_lists_are_counted(tmp_path, state):
    with pytest.raises(ValueError, match=r"40 missing: layer1.1.conv1.weight, .*\.\.\."):  # 10 in each of 4 blocks
        load_pretrained(ResNet3D(18, widen_factor=0.125), save(tmp_path, state))


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"state_dict": [1]}])
def test_another_kind_of_file(tmp_path, content):
    with pytest.raises(ValueError, match="kinetics.pth"):
        load_pretrained(trunk(), save(tmp_path, content))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_pretrained(trunk(), tmp_path / "nowhere.pth")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file(tmp_path, state, share):
    path = save(tmp_path, state)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="kinetics.pth.*truncated"):
        load_pretrained(trunk(), path)


class Unsafe:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save_with", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_a_pickle_that_runs_code_is_refused(tmp_path, save_with):
    path, marker = tmp_path / "unsafe.pth", tmp_path / "ran"
    save_with({"state_dict": {}, "extra": Unsafe(marker)}, path)
    with pytest.raises(ValueError, match="unsafe.pth"):
        read_state(path)
    assert not marker.exists()
