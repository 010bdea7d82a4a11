"""Published weights load whatever their wrapping; whatever does not fit, but for the head, is named."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from trunks import on_meta, save, small

from models import TRUNKS
from models.resnet3d import ResNet3D
from models.state_files import read_state
from models.unwrapping import layout_of
from models.weights import flags_of, load_pretrained


def trunk(seed: int = 0, **options) -> ResNet3D:
    torch.manual_seed(seed)
    return ResNet3D(10, widen_factor=0.125, **options)


@pytest.fixture
def state():
    """A published state: another trunk's weights, and the head that comes with them."""
    return trunk(1).state_dict() | {"fc.weight": torch.zeros(400, 64), "fc.bias": torch.zeros(400)}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_load_whatever_their_wrapping(tmp_path, state, prefix, wrapped):
    content = {prefix + key: value for key, value in state.items()}
    if wrapped:
        content = {"epoch": 200, "arch": "resnet-10", "state_dict": content, "optimizer": {"state": {}}}
    model = trunk()
    assert sorted(load_pretrained(model, save(tmp_path, content)).dropped) == ["fc.bias", "fc.weight"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_strides_do_not_matter(tmp_path, state):
    model = trunk(temporal_strides=(1, 2, 2, 2, 2), spatial_strides=(2, 2, 2, 2, 1))
    load_pretrained(model, save(tmp_path, state))
    assert torch.equal(model.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])


def test_files_from_before_the_batch_norm_counters(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model = trunk()
    loaded = load_pretrained(model, save(tmp_path, old))
    assert torch.equal(model.bn1.running_mean, state["bn1.running_mean"])
    assert loaded.normalisation == "activitynet"  # they are Hara's first release


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
    with pytest.raises(ValueError, match="kinetics.pth.*(truncated|empty)"):
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


def test_the_refusal_of_an_unsafe_pickle_says_how_to_convert_it(tmp_path):
    path = tmp_path / "unsafe.pth"
    torch.save({"state_dict": {}, "extra": Unsafe(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="convert it once.*weights_only=False"):
        read_state(path)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_the_safe_way_to_convert_a_file_works(tmp_path, state, wrap):
    """What it writes is read; here with the line's placeholders as names of files."""
    torch.save(wrap(state | {"extra": Path("old.pth")}), tmp_path / "OLD")
    with pytest.raises(ValueError) as caught:
        read_state(tmp_path / "OLD")
    line = re.search(r'python -c "(.*)"', str(caught.value))[1]
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    model = trunk()
    load_pretrained(model, tmp_path / "NEW", n_classes=400)
    assert torch.equal(model.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])


def test_the_classes_of_the_head(tmp_path, state):
    path = save(tmp_path, state)
    for n_classes in (400, None, 0):  # 0 is the published default
        load_pretrained(trunk(), path, n_classes=n_classes)
    with pytest.raises(ValueError, match="kinetics.pth.* 400 classes.*--n_pretrain_classes 700"):
        load_pretrained(trunk(), path, n_classes=700)


# --- what does not fit


def misfit(tmp_path, trunk, state) -> str:
    with pytest.raises(ValueError) as caught:
        load_pretrained(trunk, save(tmp_path, state))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("published", "cause"), [
    ({"depth": 18}, "--model_depth 18 (10 here)"), ({"shortcut": "A"}, "--resnet_shortcut A (B here)"),
    ({"widen_factor": 0.25}, "--resnet_widen_factor 0.25 (0.125 here)"), ({"conv1_t_size": 3}, "--conv1_t_size 3"),
    ({"depth": 50}, "--model_depth 50")])
def test_the_likeliest_cause(tmp_path, published, cause):
    other = ResNet3D(**{"depth": 10, "widen_factor": 0.125, **published})
    assert cause in misfit(tmp_path, trunk(), other.state_dict())


@pytest.mark.parametrize("name", ["preresnet", "wideresnet", "resnext", "resnet2p1d", "densenet", "mfnet", "i3d"])
def test_the_likeliest_cause_is_another_network(tmp_path, name):
    options = {"depth": 50, "widen_factor": 0.25, "cardinality": 4} if name == "resnext" else TRUNKS[name].small
    if name == "preresnet":
        options = {"depth": 50, "widen_factor": 0.125}
    said = misfit(tmp_path, ResNet3D(50, widen_factor=0.125), TRUNKS[name](**options).state_dict())
    assert f"another network, --model {name}" in said


@pytest.mark.parametrize(("name", "here", "published", "cause"), [
    ("wideresnet", {}, {"k": 4}, "--wide_resnet_k 4 (2 here)"),
    ("wideresnet", {"k": 3}, {"k": 1, "widen_factor": 1.0}, "--wide_resnet_k 1 (3 here)"),
    ("wideresnet", {"depth": 101}, {"k": 4}, "--model_depth 50 (101 here), --wide_resnet_k 4 (2 here)"),
    ("resnext", {}, {"cardinality": 16}, "--resnext_cardinality 16 (32 here)")])
def test_the_likeliest_cause_is_a_flag_of_its_family(monkeypatch, name, here, published, cause):
    """By shapes alone."""
    content = {"state_dict": on_meta(name, **{"depth": 50, **published}).state_dict()}
    monkeypatch.setattr("models.weights.read_state", lambda path: content)
    with pytest.raises(ValueError) as caught:
        load_pretrained(on_meta(name, **{"depth": 50, **here}), "published.pth")
    assert f"the file wants {cause};" in str(caught.value)


def test_a_wide_stem_is_no_other_width(monkeypatch):
    """The later code's stem of 256 channels, with k = 4, into a trunk of k = 2."""
    published = on_meta("wideresnet", 50, k=4)
    published.fit_stem({"conv1.weight": torch.empty(256, 3, 7, 7, 7, device="meta")})
    monkeypatch.setattr("models.weights.read_state", lambda path: published.state_dict())
    with pytest.raises(ValueError, match=r"the file wants --wide_resnet_k 4 \(2 here\);"):
        load_pretrained(on_meta("wideresnet", 50), "published.pth")


def test_the_likeliest_cause_is_another_size(monkeypatch):
    with torch.device("meta"):
        state = torchvision.models.resnet101(weights=None).state_dict()
    state = {"base_model." + re.sub("(layer.*conv1)", r"\1.net", key): value for key, value in state.items()}
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match="the likeliest cause: another depth or size of this network;"):
        load_pretrained(on_meta("tsm_resnet50"), "published.pth")


@pytest.mark.parametrize(("name", "library"), [
    ("swin3d_t", "swin3d_s"), ("swin3d_t", "swin3d_b"), ("swin3d_b", "swin3d_s"), ("mvit_v2_s", "mvit_v1_b"),
    ("mvit_v1_b", "mvit_v2_s")])
def test_the_likeliest_cause_is_a_sibling(monkeypatch, name, library):
    with torch.device("meta"):
        state = torchvision.models.get_model(library, weights=None).state_dict()
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match=f"another network, --model {library};"):
        load_pretrained(on_meta(name), "published.pth")


def test_a_trunk_without_depths_is_told_of_no_flags(monkeypatch):
    with torch.device("meta"):
        state = torchvision.models.resnet101(weights=None).state_dict()
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match=r"another network, --model resnet --model_depth 101 .*; check --model$"):
        load_pretrained(on_meta("i3d_resnet50"), "published.pth")


@pytest.mark.parametrize("name", ["i3d", "resnet", "mfnet"])
def test_the_likeliest_cause_is_optical_flow(monkeypatch, name):
    trunk = on_meta(name)
    state = trunk.state_dict()
    first = next(iter(state))
    state[first] = torch.empty(len(state[first]), 2, *state[first].shape[2:], device="meta")
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match=r"made for 2 input channels \(optical flow\?\);"):
        load_pretrained(trunk, "published.pth")


def test_shapes_that_no_network_has(tmp_path):
    """Scalars, or vectors, in place of kernels; and a head that tells nothing apart."""
    state = trunk().state_dict()
    for value in (torch.tensor(1.0), torch.zeros(2)):
        assert "a damaged file" in misfit(tmp_path, trunk(), dict.fromkeys(state, value))
        misfit(tmp_path, small("resnext"), dict.fromkeys(small("resnext").state_dict(), value))
    path = save(tmp_path, {**state, "fc.weight": torch.tensor(1.0), 0: torch.zeros(1)})
    assert load_pretrained(trunk(), path).dropped == ["fc.weight"]
    with pytest.raises(ValueError, match="no head that could tell --n_pretrain_classes 4 apart"):
        load_pretrained(trunk(), path, n_classes=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_loaded(tmp_path, value):
    model, before, state = trunk(), trunk().state_dict(), trunk().state_dict()
    model.load_state_dict(before)
    state["layer2.0.conv1.weight"][0, 0, 0, 0, 0] = value
    said = misfit(tmp_path, model, state)
    assert "1 tensors" in said and "not finite: layer2.0.conv1.weight;" in said
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_flags_are_told_by_shapes():
    state = TRUNKS["resnext"](50, widen_factor=0.25, cardinality=4, shortcut="A", conv1_t_size=3).state_dict()
    assert flags_of(state) == {"--model": "resnext", "--model_depth": 50, "--resnet_shortcut": "A",
                               "--conv1_t_size": 3, "--resnext_cardinality": 4}
    assert layout_of({"a": torch.zeros(1)}) is None and flags_of({"a": torch.zeros(1)}) == {}
