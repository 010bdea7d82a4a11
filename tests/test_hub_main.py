"""Transformers of the hub through the scripts: a round of HIPE on tiny clips, and what explains them."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from hub import FAMILIES, published
from media import shades, write_video
from program import (
    CALL,
    DATA,
    assert_same,
    call,
    cut,
    explain_ancestors,
    explain_classes,
    go_on,
    refused,
    write_data,
)

import evaluate_explanations
import local_attribution
from models import TRUNKS
from models.weights import load_pretrained
from options.errors import user_errors
from training.checkpoint import load_checkpoint
from util_scripts import export

CLIPS = "--sample_size 32 --sample_duration 8"
SMALL = f"{CLIPS} --prototype_channels 6 --prototypes_per_node 2 --batch_size 6 --push_clips 1 --tune_iterations 1"
FROZEN = f"{SMALL} --ft_begin_module fc --trunk_epochs 1 --warm_epochs 1 --n_epochs 1 --cache_features 1"
LICENCES = {"videomae": "non-commercial", "timesformer": "non-commercial", "vjepa2": "MIT", "vivit": "MIT"}
LABELS = ["Run", "Jump", "Wave"]
CHEAP = "--num_iter 2 --steps 2"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), n_train=2)


def attribute(*words) -> None:
    with user_errors():
        local_attribution.main([word for line in words for word in (line.split() if isinstance(line, str)
                                                                    else [str(line)])])


def heats(folder) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).parts[0]: np.load(path) for path in folder.rglob("*.npy")}


def one_round(data, tmp_path, name: str, *, methods: str) -> None:
    """Train on stored features, push, infer, resume, explain, attribute, export."""
    published(tmp_path / "weights", name, labels=LABELS)
    results = tmp_path / "results"
    line = f"--model {name} {FROZEN} --no_val"
    call("--root_path", data, "--result_path", results, DATA, CALL, line, "--pretrain_path", tmp_path / "weights",
         "--inference")
    assert len(json.loads((results / "val.json").read_text())["results"]) == 4
    for path in (tmp_path / "weights").iterdir():  # nobody needs it any more
        path.unlink()
    (tmp_path / "weights").rmdir()
    call("--resume_path auto --result_path", results, CALL, "--n_epochs 2 --push_start 1 --push_every 1")
    checkpoint = load_checkpoint(results / "save_2.pth")
    assert json.loads(checkpoint["args"]["trunk_config"])["hidden_size"] == 24
    assert any(checkpoint["push_record"]["video"])
    explain_classes("--resume_path", results / "save_2.pth", "--n_videos", "1")
    explain_ancestors("--resume_path", results / "save_2.pth", "--n_videos", "1", "--no_img")
    assert (results / "local_analysis" / "index.html").is_file()
    attribute("--resume_path", results / "save_2.pth", f"--n_videos 1 --no_cuda {CHEAP} --vis_method", methods,
              "--options occlusion.window=.9 --out", tmp_path / "heats")
    found = heats(tmp_path / "heats")
    assert len(found) == len(methods.split()) and all(heat.shape == (8, 32, 32) and heat.min() >= 0
                                                      for heat in found.values()) and found["rollout"].max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_job(data, tmp_path, name):
    one_round(data, tmp_path, name, methods="grad grad_cam rollout 3d_ep occlusion")
    for form in ("export", "torchscript", "onnx"):
        if form == "onnx" and not all(map(importlib.util.find_spec, ("onnxruntime", "onnxscript"))):
            continue
        export.main(["--resume_path", str(tmp_path / "results" / "save_2.pth"), "--format", form,
                     str(tmp_path / f"model.{form}")])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_fine_tuning_from_a_block_on(data, tmp_path, name, capsys):
    """Blocks before it keep their weights; --freeze_bn, which has nothing to freeze here, is said to change nothing."""
    published(tmp_path / "weights", name)
    blocks = {"vjepa2": "layer", "vivit": "layers"}.get(name, "encoder.layer")
    line = f"--model {name} {SMALL} --no_val --trunk_epochs 1 --warm_epochs 0 --n_epochs 1 --freeze_bn"
    call("--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, line, "--pretrain_path",
         tmp_path / "weights", f"--ft_begin_module {blocks}.1")
    assert "no batch-norms" in capsys.readouterr().err
    trunk = TRUNKS[name](**TRUNKS[name].small)
    load_pretrained(trunk, tmp_path / "weights")
    trained = load_checkpoint(tmp_path / "a" / "save_1.pth")["model"]
    for key, value in trunk.state_dict().items():
        assert torch.equal(trained[f"trunk.{key}"], value) == (not key.startswith((f"{blocks}.1", "layernorm"))), key


@pytest.mark.slow
def test_a_repeated_command_line_goes_on(data, tmp_path):
    published(tmp_path / "weights", "vivit")
    config = '{"num_hidden_layers":2,"hidden_size":24,"num_attention_heads":2,"intermediate_size":32,"image_size":32,' \
             '"num_frames":8,"tubelet_size":[2,8,8]}'
    line = ("--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, f"--model vivit {FROZEN} --no_val",
            "--trunk_config", config, "--pretrain_path", tmp_path / "weights")
    call(*line)
    call(*line, "--resume_path auto --n_epochs 2")
    assert (tmp_path / "a" / "save_2.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_killed_run_ends_like_a_whole_one(data, tmp_path, name):
    published(tmp_path / "weights", name)
    line = ("--root_path", data, DATA, CALL, f"--model {name} {FROZEN} --no_val", "--pretrain_path",
            tmp_path / "weights", "--result_path")
    call(*line, tmp_path / "whole")
    with cut("warm", 1, "kill"):
        call(*line, tmp_path / "cut")
    go_on(tmp_path / "cut")
    assert_same(tmp_path / "cut" / "save_1.pth", tmp_path / "whole" / "save_1.pth")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "videos" / "Jump" / "leap.avi", shades(12, 48, 48))
    return folder


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("videomae", "vivit")))
                                  for name in FAMILIES])
def test_a_published_head_is_explained(videos, tmp_path, name, capsys):
    """With its own class names, at its own size of clips; heads that read a class token have no grid to explain."""
    published(tmp_path / "weights", name, labels=LABELS)
    line = ("--model", name, "--pretrain_path", tmp_path / "weights", "--video",
            videos / "videos" / "Jump" / "leap.avi", "--no_cuda", "--sample_t_stride", "1", CHEAP)
    attribute(*line, "--vis_method grad rollout occlusion --options occlusion.window=.9 --out", tmp_path / "out")
    said = capsys.readouterr()
    assert LICENCES[name] in said.err
    assert {heat.shape for heat in heats(tmp_path / "out").values()} == {(8, 32, 32)}
    content = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert {prediction["label"] for prediction in content["videos"][0]["predictions"]} <= set(LABELS)
    if name in ("vivit", "timesformer"):
        with pytest.raises(SystemExit):
            attribute(*line, "--vis_method grad_cam --out", tmp_path / "out")
        assert "class token" in capsys.readouterr().err
    else:
        attribute(*line, "--vis_method grad_cam --out", tmp_path / "cam")
        assert len(heats(tmp_path / "cam")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_published_head_is_judged(videos, tmp_path, name):
    published(tmp_path / "weights", name, labels=LABELS)
    with user_errors():
        evaluate_explanations.main([
            "--model", name, "--pretrain_path", str(tmp_path / "weights"), "--videos_dir", str(videos / "videos"),
            "--methods", "rollout", "grad", "--measures", "insertion", "deletion", "--steps", "4", "--no_cuda",
            "--sample_t_stride", "1", "--out", str(tmp_path / "out")])
    assert "rollout" in (tmp_path / "out" / "measures.csv").read_text()


def test_rollout_of_a_trunk_without_attention_is_one_sentence(videos, tmp_path, capsys):
    from attributable import attribution_folder

    root = attribution_folder(tmp_path)
    with pytest.raises(SystemExit) as stop:
        attribute("--root_path", root, "--pretrain_path trunk.pth --classes classes.json --model_depth 10 "
                  "--resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1 --no_cuda "
                  "--sample_size 24 --sample_duration 8 --vis_method rollout --video",
                  videos / "videos" / "Jump" / "leap.avi", "--out", tmp_path / "out")
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and said.startswith("error: --vis_method rollout needs a transformer")


@pytest.mark.parametrize(("words", "word"), [
    (f"--pretrain_path missing.pth --trunk_config {TRUNKS['videomae'].small['config']}", "no such file"),
    ("--model_depth 18", "--model_depth 18"), ("--trunk_config {\"hidden_size\":25}", "multiple")])
def test_what_cannot_be_is_one_sentence(data, tmp_path, capsys, words, word):
    said = refused(capsys, "--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, SMALL,
                   "--model videomae", *words.split())
    assert word in said


def test_a_name_of_the_hub_that_cannot_be_fetched_is_one_sentence(data, tmp_path, capsys, monkeypatch):
    import huggingface_hub as hub

    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(SystemExit) as stop:
        call("--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, SMALL,
             "--model videomae --pretrain_path nobody/has-this")
    *_, fetching, said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "fetching" in fetching and not (tmp_path / "a").exists()
    assert said.startswith("error: --pretrain_path nobody/has-this: neither")


def judge(*words) -> None:
    with user_errors():
        evaluate_explanations.main([word for line in words for word in (line.split() if isinstance(line, str)
                                                                        else [str(line)])])


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "vivit"))
                                  for name in FAMILIES])
def test_clips_smaller_than_a_patch_are_one_sentence(data, videos, tmp_path, capsys, name):
    """In training, attribution and evaluation; a single frame, too, where a patch has two."""
    published(tmp_path / "weights", name, labels=LABELS)
    trunk = ("--model", name, "--pretrain_path", tmp_path / "weights")
    small = ["--sample_size 6 --sample_duration 8"]
    small += ["--sample_size 32 --sample_duration 1"] * (name != "timesformer")
    for size in small:
        frames = "1 frame " if size.endswith(" 1") else "8 frames "
        for caller, line in (
                (call, ("--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, SMALL)),
                (attribute, ("--no_cuda --vis_method grad --video", videos / "videos" / "Jump" / "leap.avi", "--out",
                             tmp_path / "out")),
                (judge, ("--no_cuda --videos_dir", videos / "videos", "--out", tmp_path / "out"))):
            with pytest.raises(SystemExit) as stop:
                caller(*line, *trunk, size)
            said = capsys.readouterr().err.strip().splitlines()[-1]
            assert stop.value.code == 2 and said.startswith("error: clips of") and "--sample_size" in said, said
            assert f"of {frames}" in said and not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize("model", ["videomae", "resnet"])
def test_weights_that_are_not_there_go_before_class_names(videos, tmp_path, capsys, model):
    line = ("--no_cuda --vis_method grad --video", videos / "videos" / "Jump" / "leap.avi", "--out", tmp_path / "out")
    for caller in (attribute, judge):
        words = line if caller is attribute else ("--no_cuda --videos_dir", videos / "videos", "--out", tmp_path / "o")
        said = refused(capsys, *words, "--model", model, "--pretrain_path", tmp_path / "missing", caller=caller)
        assert f"{tmp_path / 'missing'}: no such file" in said


def test_a_folder_of_the_hub_for_another_trunk(data, videos, tmp_path, capsys):
    published(tmp_path / "weights", "videomae", labels=LABELS)
    folder = ("--pretrain_path", tmp_path / "weights")
    attributing = ("--no_cuda --video", videos / "videos" / "Jump" / "leap.avi", "--out", tmp_path / "out",
                   "--vis_method grad", *folder)
    training = ("--root_path", data, "--result_path", tmp_path / "a", DATA, CALL, SMALL, *folder)
    for caller, line, model in ((call, training, "vivit"), (call, training, "tsm_mobilenetv2"),
                                (attribute, attributing, "tsm_mobilenetv2")):
        said = refused(capsys, *line, "--model", model, caller=caller)
        assert "give --model videomae" in said and str(tmp_path / "weights") in said
    said = refused(capsys, *training[:-1], tmp_path / "weights" / "model.safetensors", "--model", "vivit")
    assert "give --model videomae" in said


@pytest.mark.parametrize(("names", "words"), [
    ({str(i): f"name {i}" for i in range(4)}, ["3 classes", "id2label of", "config.json names 4", "--classes"]),
    ({"0": "a", "1": "", "2": "c"}, ["id2label of", "config.json, name 1"]),
    ({str(i): f"LABEL_{i}" for i in range(3)}, ["class names are missing", "config.json has none", "--classes"]),
    (None, ["class names are missing", "config.json has none", "--classes"])])
def test_class_names_of_config_json_that_do_not_fit(videos, tmp_path, capsys, names, words):
    published(tmp_path / "weights", "videomae", labels=LABELS)
    config = tmp_path / "weights" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "id2label": names}))
    with pytest.raises(SystemExit) as stop:
        attribute("--model videomae --no_cuda --vis_method grad --video", videos / "videos" / "Jump" / "leap.avi",
                  "--pretrain_path", tmp_path / "weights", "--out", tmp_path / "out")
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and all(word in said for word in words) and "--pretrain_dataset  " not in said, said
