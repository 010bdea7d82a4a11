"""Every trunk through the scripts: train, push, infer, resume, explain and export, on a tiny data set."""

import json

import pytest
import torch
from test_main import CALL, DATA, QUICK, call, explain_ancestors, explain_classes, write_data
from test_weights import save

from models import TRUNKS
from training.checkpoint import load_checkpoint
from util_scripts import export

NARROW = "--model_depth 10 --resnet_widen_factor .125"
SMALL = {"resnet": NARROW, "preresnet": NARROW, "resnet2p1d": NARROW, "wideresnet": "--resnet_widen_factor .125",
         "resnext": "--resnet_widen_factor .25 --resnext_cardinality 4", "densenet": "--resnet_widen_factor .125"}
SIZE = "--sample_size 32 --sample_duration 8 --prototype_channels 6 --prototypes_per_node 2 --emb_dim 8"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_the_whole_job(data, tmp_path, name):
    results = tmp_path / "results"
    flags = f"--model {name} {SMALL.get(name, '')} {SIZE} {QUICK}"
    call("--root_path", data, "--result_path", results, DATA, flags, CALL, "--inference")
    assert len(json.loads((results / "val.json").read_text())["results"]) == 4
    call("--resume_path auto --result_path", results, CALL, "--n_epochs 2 --push_start 1 --push_every 1")
    checkpoint = load_checkpoint(results / "save_2.pth")
    assert checkpoint["args"]["model"] == name and any(checkpoint["push_record"]["video"])
    for explain in (explain_classes, explain_ancestors):
        explain("--resume_path", results / "save_2.pth", "--n_videos", "1")
    assert (results / "local_analysis" / "index.html").is_file()
    for form in export.FORMATS:
        export.main(["--resume_path", str(results / "save_2.pth"), "--format", form, str(tmp_path / form)])


def test_published_weights_and_a_beginning_in_the_middle(data, tmp_path, capsys):
    """What stands before --ft_begin_module is, statistics and all, the published weights after training, too."""
    torch.manual_seed(3)
    published = TRUNKS["preresnet"](10, widen_factor=0.125).state_dict()
    path = save(tmp_path, {"arch": "preresnet-10", "state_dict": {f"module.{k}": v for k, v in published.items()}})
    call("--root_path", data, "--result_path", tmp_path / "results", DATA, CALL, QUICK, SIZE, "--model preresnet",
         NARROW, "--pretrain_path", path, "--ft_begin_module layer3 --freeze_bn --no_val")
    assert "arch preresnet-10" in capsys.readouterr().err
    trained = load_checkpoint(tmp_path / "results" / "save_1.pth")["model"]
    for key, value in published.items():
        same = torch.equal(trained[f"trunk.{key}"], value)
        assert same == (not key.startswith(("layer3", "layer4"))), key


def test_weights_by_name_are_no_path(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        call("--root_path", data, "--result_path", tmp_path / "results", DATA, CALL, QUICK, SIZE, "--model mfnet",
             "--pretrain_path KINETICS400_V1")
    assert caught.value.code == 2 and "torchvision has no such weights for this trunk" in capsys.readouterr().err
