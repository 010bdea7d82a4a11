"""Weights that others trained: found for every trunk, with the classes of their head counted, whatever their number."""

import json

import pytest
import torch
import torchvision
from media import shades, write_video
from program import CALL, DATA, QUICK, call, write_data
from trunks import light, on_meta

import local_attribution
from models import TRUNKS
from models.weights import flags_of, load_pretrained


def strangers(name: str, n_classes: int, layout: int = 0) -> dict:
    """A state dict of a trunk of random numbers under a head of so many classes, named as published."""
    kind = TRUNKS[name]
    trunk, layout = on_meta(name, **kind.small), kind.layouts[layout]
    state = {layout.naming(key): torch.rand(value.shape).to(value.dtype) for key, value in trunk.state_dict().items()}
    if layout.flat:  # of a network for images
        state = {key: value[:, :, 0] if value.dim() == 5 else value for key, value in state.items()}
    head = layout.heads[0]
    return state | {f"{head}.weight": torch.rand(n_classes, trunk.out_channels), f"{head}.bias": torch.rand(n_classes)}


@pytest.mark.parametrize("name", light(TRUNKS))
@pytest.mark.parametrize("n_classes", [2, pytest.param(174, marks=pytest.mark.slow)])
def test_a_head_of_any_number_of_classes_is_counted(name, n_classes, monkeypatch):
    kind = TRUNKS[name]
    content = {"epoch": 3, "model": {f"module.{key}": value for key, value in strangers(name, n_classes).items()}}
    monkeypatch.setattr("models.weights.read_state", lambda _: content)
    for takes_head, words in ((False, "head of {} classes ({}.weight, {}.bias) dropped"),
                              (True, "the classifier of {} classes ({}.weight, {}.bias) loaded")):
        lines: list[str] = []
        trunk = on_meta(name, **kind.small).to_empty(device="cpu")
        loaded = load_pretrained(trunk, "w.pth", n_classes=n_classes, tell=lines.append, takes_head=takes_head)
        head = kind.layouts[0].heads[0]
        assert words.format(n_classes, head, head) in lines[0] and len(loaded.head[f"{head}.bias"]) == n_classes
    with pytest.raises(ValueError, match=f"tells {n_classes} classes apart, not --n_pretrain_classes 5"):
        load_pretrained(trunk, "w.pth", n_classes=5)


@pytest.mark.parametrize("name", light(name for name in TRUNKS if name != "mfnet"))
def test_another_network_is_named_with_its_classes(name, monkeypatch):
    content = strangers(name, 23)
    monkeypatch.setattr("models.weights.read_state", lambda _: content)
    found = flags_of(content)["--model"]  # of those that share a layout, the first of these shapes
    assert found == name or set(TRUNKS[found].layouts) & set(TRUNKS[name].layouts)
    with pytest.raises(ValueError, match=f"a head of 23 classes; .*--model {found}"):
        load_pretrained(TRUNKS["mfnet"](), "w.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mc3_18", "r3d_18"])
def test_one_command_for_weights_of_torchvisions_networks(name, tmp_path, capsys):
    """To train on, and to explain."""
    network = getattr(torchvision.models.video, name)(weights=None, num_classes=7)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    data = write_data(tmp_path / "data", n_train=2)
    call("--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, QUICK, "--trunk_epochs 0 --no_val",
         "--sample_size 32 --sample_duration 8 --prototype_channels 6 --prototypes_per_node 2",
         f"--model {name} --ft_begin_module fc --pretrain_path", tmp_path / "w.pth")
    assert "head of 7 classes (fc.weight, fc.bias) dropped" in capsys.readouterr().err
    (tmp_path / "c.json").write_text(json.dumps(list("abcdefg")))
    write_video(tmp_path / "v.avi", shades(12, 48, 48))
    local_attribution.main(["--model", name, "--pretrain_path", str(tmp_path / "w.pth"), "--classes",
                            str(tmp_path / "c.json"), "--video", str(tmp_path / "v.avi"), "--no_cuda", "--vis_method",
                            "grad", "--sample_size", "32", "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").rglob("*.npy"))
