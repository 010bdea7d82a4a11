"""Weights of others load like the plain file whatever they are wrapped in, and what is no file of weights is named."""

import gzip
import importlib.util
import json
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from trunks import BUILDABLE, save

from models import TRUNKS
from models.resnet3d import ResNet3D
from models.state_files import read_state
from models.unwrapping import WRAPPERS, unwrap
from models.weights import load_pretrained


def trunk(seed: int = 0) -> ResNet3D:
    torch.manual_seed(seed)
    return ResNet3D(10, widen_factor=0.125)


STATE = trunk(1).state_dict() | {"fc.weight": torch.rand(400, 64), "fc.bias": torch.rand(400)}


def prefixed(prefix: str, state=STATE) -> dict:
    return {prefix + key: value for key, value in state.items()}


def load(tmp_path, content) -> tuple[ResNet3D, str, dict]:
    model, lines = trunk(), []
    loaded = load_pretrained(model, save(tmp_path, content), tell=lines.append)
    assert len(lines) == 1
    return model, lines[0], loaded.head


def assert_loaded(tmp_path, content, *, head: bool = True) -> str:
    model, line, classifier = load(tmp_path, content)
    for key, value in model.state_dict().items():
        assert torch.equal(value, STATE[key]), key
    assert {key: value.tolist() for key, value in classifier.items()} == ({
        key: STATE[key].tolist() for key in ("fc.weight", "fc.bias")} if head else {})
    return line


PREFIXES = ["module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "backbone.", "encoder.",
            "net.", "trunk.", "model.backbone.", "module.encoder_q.", "_orig_mod.module.model.net.", "a.b.c.d.e."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_any_number_and_order(tmp_path, prefix):
    assert_loaded(tmp_path, prefixed(prefix))


@pytest.mark.parametrize("container", ["state_dict", "model_state", "model_state_dict", "model", "net", "network",
                                       "ema", "state_dict_ema", "model_ema", "weights", "params", "whatever"])
def test_containers_of_any_name_and_depth(tmp_path, container):
    moments = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
    assert container in assert_loaded(tmp_path, {container: STATE, **moments})
    line = assert_loaded(tmp_path, {"checkpoint": {**moments, container: prefixed("module._orig_mod.model.")}})
    assert f"checkpoint.{container}" in line


def test_wrappers_inside_of_names(tmp_path):
    """Of networks of which parts were compiled or shared out."""
    assert_loaded(tmp_path, {key.replace("layer1.", "layer1._orig_mod.").replace("layer2.0.", "layer2.0.module.")
                             : value for key, value in STATE.items()})


def test_no_trunk_has_names_that_are_taken_for_wrappers():
    for name, kind in BUILDABLE.items():
        with torch.device("meta"):
            keys = list(kind(**kind.small).state_dict())
        parts = {part for layout in kind.layouts for key in keys for part in (layout.naming(key)).split(".")}
        assert not parts & WRAPPERS, name


def test_a_lightning_checkpoint(tmp_path):
    content = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.1", "hyper_parameters": {"lr": 1},
               "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}}, "loops": {},
               "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
               "state_dict": OrderedDict(prefixed("model.") | {"train_acc.total": torch.tensor(3)})}
    assert_loaded(tmp_path, content)


def test_the_head_beside_its_backbone(tmp_path):
    parts = {key if key.startswith("fc.") else f"encoder.{key}": value for key, value in STATE.items()}
    assert_loaded(tmp_path, {"state_dict": prefixed("module.", parts)})
    line = assert_loaded(tmp_path, {"state_dict": parts | {"projector.0.weight": torch.zeros(2, 2)}})
    assert "projector" in line and "left out" in line


def test_mappings_of_mappings(tmp_path):
    nested: dict = {}
    for key, value in STATE.items():
        *parts, last = key.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    assert_loaded(tmp_path, {"params": nested})


def test_of_two_that_fit_the_usual_one_is_taken_and_the_other_is_told(tmp_path):
    line = assert_loaded(tmp_path, {"ema": dict.fromkeys(STATE, torch.zeros(1)) | trunk(5).state_dict(),
                                    "state_dict": STATE})
    assert "under state_dict;" in line and "ema left out" in line


def test_a_mapping_that_holds_itself():
    content: dict = {"state_dict": STATE}
    content["again"] = content
    assert unwrap(content, trunk()).state.keys() == STATE.keys()


def test_other_containers_of_the_same_network_do_not_disturb(tmp_path):
    smaller = {key: value for key, value in trunk(5).state_dict().items() if key.startswith("layer1.")}
    assert_loaded(tmp_path, {"momentum": prefixed("module.", smaller), "net": STATE, "n": 3})


# --- numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_other_precisions_become_float32_and_are_told(tmp_path, dtype, all_of_them):
    other = {key: value.to(dtype) if all_of_them or value.is_floating_point() else value
             for key, value in STATE.items()}
    model, line, head = load(tmp_path, {"model": other})
    assert f"{str(dtype).removeprefix('torch.')} made float32" in line and "damaged" not in line
    for key, value in model.state_dict().items():
        assert value.dtype == STATE[key].dtype
        torch.testing.assert_close(value, other[key].to(value.dtype), rtol=0, atol=0)
    assert all(value.dtype == torch.float32 for value in head.values())


def test_float64_beyond_float32_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"kinetics\.pth: 1 tensors.*not finite"):
        load_pretrained(trunk(), save(tmp_path, STATE | {"conv1.weight": torch.full_like(
            STATE["conv1.weight"], 1e300, dtype=torch.float64)}))


def test_whole_numbers_are_no_weights(tmp_path):
    small = {key: (100 * value).to(torch.int8) for key, value in STATE.items()}
    with pytest.raises(ValueError, match=r"of another type: conv1\.weight int8"):
        load_pretrained(trunk(), save(tmp_path, small))


def test_flags_and_numbers_of_numpy_beside_the_weights(tmp_path):
    content = {"state_dict": STATE, "args": Namespace(lr=0.1, decay=np.float32(2)), "best": np.float64(0.7),
               "history": np.arange(4.0), "classes": np.array(["a", "b"])}
    assert_loaded(tmp_path, content)
    found = read_state(tmp_path / "kinetics.pth")
    assert found["best"] == 0.7 and found["history"].tolist() == [0, 1, 2, 3]


# --- what does not fit


def test_a_sound_file_of_another_network_is_not_called_damaged(tmp_path):
    for content in ({"model": {f"bert.encoder.{i}.weight": torch.zeros(3, 3) for i in range(30)}},
                    {"net": prefixed("module.", {f"blocks.{i}.attn.qkv.weight": torch.zeros(9, 3) for i in range(12)})},
                    [{"w": torch.zeros(3)}]):
        with pytest.raises(ValueError, match="not known here, with tensors such as ") as caught:
            load_pretrained(trunk(), save(tmp_path, content))
        assert "damaged" not in str(caught.value)


def test_another_network_is_recognised_through_its_wrapping(tmp_path):
    for name in ("tsm_mobilenetv2", "r3d_18"):
        with torch.device("meta"):
            state = TRUNKS[name](**TRUNKS[name].small).state_dict()
        state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}
        with pytest.raises(ValueError, match=f"another network, --model {name}"):
            load_pretrained(trunk(), save(tmp_path, {"epoch": 1, "my": {"net": prefixed("module.module.", state)}}))


def archive(path, name="weights.txt") -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, "x")
        file.writestr("two", "x")


def tarred(path) -> None:
    path.with_name("x").write_bytes(b"x")
    with tarfile.open(path, "w") as file:
        file.add(path.with_name("x"), "x")


def safetensors(path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def scripted(path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


@pytest.mark.parametrize("there", [True, False])
def test_safetensors_are_read_where_their_package_is(tmp_path, monkeypatch, there):
    found = importlib.util.find_spec
    if there and found("safetensors") is None:
        pytest.skip("needs safetensors")
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "safetensors" and not there else found(name, *rest))
    path = tmp_path / "w.safetensors"
    safetensors(path)
    if there:
        assert read_state(path)["a"].shape == (1,)
        path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="safetensors file.*cut short" if there else "pip install safetensors"):
        read_state(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "word"), [
    (lambda path: path.write_bytes(b""), "empty file"), (lambda path: path.mkdir(), "folder"),
    (archive, "zip archive of 2"), (tarred, "tar archive"), (scripted, "TorchScript"),
    (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "gzip"),
    (lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"), "web page"),
    (lambda path: path.write_text("\n\n<HTML>\n<head>"), "web page"),
    (lambda path: path.write_text("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "XML"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"), "lfs pull"),
    (lambda path: path.write_text('{"error": "no such file"}'), "JSON"),
    (lambda path: path.write_text("Größe: siehe unten\n" * 900, encoding="utf-8"), "a text"),
    (lambda path: path.write_text("words", encoding="utf-16"), "a text"),
    (lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "numpy"),
    (lambda path: np.save(path.open("wb"), 1), "numpy"),
    (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(99)), "picture"),
    (lambda path: path.write_bytes(bytes(4) + b"ftypisom" + bytes(99)), "video")])
def test_files_that_are_no_checkpoints_are_told_what_they_are(tmp_path, make, word):
    path = tmp_path / "weights.pth"
    make(path)
    for read in (read_state, lambda path: load_pretrained(trunk(), path)):
        with pytest.raises(ValueError) as caught:
            read(path)
        said = str(caught.value)
        assert said.startswith(str(path)) and word in said and "\n" not in said and "damaged" not in said
