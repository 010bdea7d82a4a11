"""Every trunk through the scripts: train, push, infer, resume, explain and export, on a tiny data set."""

import json

import pytest
import torch
from program import CALL, DATA, QUICK, call, explain_ancestors, explain_classes, write_data
from trunks import light, on_meta, save

import local_attribution
from datasets.transforms import normalise
from explain import attribution, explainer
from models import TRUNKS
from run.model import check_size
from training import features
from training.checkpoint import load_checkpoint
from util_scripts import export

NARROW = "--model_depth 10 --resnet_widen_factor .125"
SIZE = "--sample_size 32 --sample_duration 8 --prototype_channels 6 --prototypes_per_node 2 --emb_dim 8"


def small_flags(name: str) -> str:
    """The flags that make a trunk as small as `small` says."""
    flags = {"depth": "model_depth", **{argument: option.flag for argument, option in TRUNKS[name].options.items()}}
    return " ".join(f"--{flags[argument]} {value}" for argument, value in TRUNKS[name].small.items())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), n_train=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_the_whole_job(data, tmp_path, name):
    results = tmp_path / "results"
    flags = f"--model {name} {small_flags(name)} {SIZE} {QUICK} --trunk_epochs 0 --optimizer sgd --no_val"
    call("--root_path", data, "--result_path", results, DATA, flags, CALL, "--inference")
    assert len(json.loads((results / "val.json").read_text())["results"]) == 4
    call("--resume_path auto --result_path", results, CALL, "--n_epochs 2 --push_start 1 --push_every 1")
    checkpoint = load_checkpoint(results / "save_2.pth")
    assert checkpoint["args"]["model"] == name and any(checkpoint["push_record"]["video"])
    explain_classes("--resume_path", results / "save_2.pth", "--n_videos", "1")
    explain_ancestors("--resume_path", results / "save_2.pth", "--n_videos", "1", "--no_img")
    assert (results / "local_analysis" / "index.html").is_file()
    export.main(["--resume_path", str(results / "save_2.pth"), "--format", "torchscript", str(tmp_path / "model.pt")])


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


def test_clips_are_normalised_as_the_weights_saw_theirs(data, tmp_path, monkeypatch, capsys):
    """Hara's first weights, in training, push, inference, explanation, attribution, export, and after a resumption."""
    kind, seen = "activitynet", {}

    def record(where):
        def normalising(clips, kind="kinetics", *flip):
            seen.setdefault(where.__name__, set()).add(kind)
            return normalise(clips, kind, *flip)
        monkeypatch.setattr(where, "normalise", normalising)

    for where in (features, explainer, attribution, export):
        record(where)
    published = TRUNKS["resnet"](10, widen_factor=0.125).state_dict()
    path = save(tmp_path, {key: value for key, value in published.items() if not key.endswith("num_batches_tracked")})
    results = tmp_path / "results"
    call("--root_path", data, "--result_path", results, DATA, CALL, QUICK, SIZE, NARROW, "--pretrain_path", path,
         "--no_val")
    assert f"normalised as {kind}" in capsys.readouterr().err
    assert seen == {"training.features": {kind}}
    path.unlink()  # nobody needs it any more
    call("--resume_path auto --result_path", results, CALL, "--n_epochs 2 --inference")
    explain_classes("--resume_path", results / "save_2.pth", "--n_videos", "1", "--no_img")
    local_attribution.main(["--resume_path", str(results / "save_2.pth"), "--root_path", str(data), "--n_videos", "1",
                            "--vis_method", "random", "--no_cuda", "--out", str(tmp_path / "out")])
    export.main(["--resume_path", str(results / "save_2.pth"), "--format", "torchscript", str(tmp_path / "served.pt")])
    assert seen == dict.fromkeys(
        ("training.features", "explain.explainer", "explain.attribution", "util_scripts.export"), {kind})
    assert load_checkpoint(results / "save_2.pth")["args"]["normalisation"] == kind
    with pytest.raises(SystemExit):
        call("--resume_path auto --result_path", results, CALL, "--normalisation imagenet")
    assert "--normalisation imagenet contradicts" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "size"), [("s3d", "--sample_duration 1"), ("densenet", "--sample_size 8")])
def test_clips_smaller_than_a_trunk_wants(data, tmp_path, capsys, name, size):
    with pytest.raises(SystemExit) as caught:
        call("--root_path", data, "--result_path", tmp_path / "results", DATA, CALL, QUICK, SIZE, size, "--model", name,
             small_flags(name))
    said = capsys.readouterr().err
    assert caught.value.code == 2 and "too small for this trunk; raise --sample_duration or --sample_size" in said


@pytest.mark.parametrize("name", light(TRUNKS))
def test_clips_of_any_size_have_cells_or_are_refused(name):
    """Never a traceback, nor an empty grid."""
    trunk = on_meta(name, **TRUNKS[name].small).eval()
    for size in ((1, 1, 1), (1, 32, 32), (8, 6, 6), (8, 16, 6), (3, 20, 20)):
        try:
            check_size(trunk, size)
        except ValueError as error:
            assert f"of {size[0]} frame" in str(error) and "--sample_duration or --sample_size" in str(error)
            with pytest.raises((RuntimeError, ArithmeticError)):
                trunk(torch.empty(1, 3, *size, device="meta"))
        else:
            assert min(trunk(torch.empty(1, 3, *size, device="meta")).shape) >= 1
    check_size(trunk, (16, 64, 64))


def test_normalisation_given_to_a_run_from_before_the_flag(data, tmp_path, capsys):
    call("--root_path", data, "--result_path", tmp_path, DATA, CALL, QUICK, SIZE, NARROW, "--no_val")
    content = torch.load(tmp_path / "save_1.pth", weights_only=True)
    del content["args"]["normalisation"]
    torch.save(content, tmp_path / "save_1.pth")
    call("--resume_path", tmp_path / "save_1.pth", CALL, "--no_val --normalisation kinetics")
    with pytest.raises(SystemExit):
        call("--resume_path", tmp_path / "save_1.pth", CALL, "--no_val --normalisation imagenet")
    assert "imagenet contradicts the checkpoint, which was trained with kinetics" in capsys.readouterr().err


def test_weights_by_name_are_no_path(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        call("--root_path", data, "--result_path", tmp_path / "results", DATA, CALL, QUICK, SIZE, "--model mfnet",
             "--pretrain_path KINETICS400_V1")
    assert caught.value.code == 2 and "torchvision has no such weights for this trunk" in capsys.readouterr().err
