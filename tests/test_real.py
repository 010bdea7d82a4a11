"""The benchmark on filmed video, on films of a few pixels: its parts, their tables, and what is not computed again."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import ROWS, checkpoints
from media import real_clips, shades, write_video

from benchmarks import real
from benchmarks.filmed.boxed import boxed_clips
from evaluation.localisation import box_in_event, read_truth
from judging.judge import Judge
from models.resnet3d import ResNet3D
from run.model import model_of
from training.checkpoint import load_checkpoint

TRUNK = "--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --no_cuda"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A pushed checkpoint, weights of a trunk with a head, and films with boxes: of the checkpoint's, and another."""
    root = checkpoints(tmp_path_factory.mktemp("real"), seed=15)
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3)
    torch.save({"state_dict": trunk.state_dict() | {"fc.weight": torch.randn(3, trunk.out_channels),
                                                    "fc.bias": torch.zeros(3)}}, root / "weights.pth")
    (root / "classes.json").write_text(json.dumps(["a", "b", "c"]))
    shutil.copytree(root / "jpg", root / "data" / "ucf101" / "videos")
    truth = json.loads((root / "truth.json").read_text())
    (root / "data" / "ucf101" / "boxes.json").write_text(json.dumps({
        name: entry for name, entry in truth.items() if "g01" in name}))
    write_video(root / "data" / "ucf24" / "videos" / "Run" / "v_Run_g09_c01.avi", np.roll(shades(14), 3, 2))
    (root / "data" / "ucf24" / "boxes.json").write_text(json.dumps({"v_Run_g09_c01": {
        "class": "Run", "n_frames": 14, "frame_size": [64, 48],
        "tubes": [{"first_frame": 2, "last_frame": 9, "boxes_x_y_w_h": [[20, 10, 16, 30]] * 7}]}}))
    return root


def call(root: Path, *words: object) -> None:
    real.main([str(word) for word in (
        "--data", root / "data", "--out", root / "out", "--model", "resnet", "--pretrain_path", root / "weights.pth",
        "--classes", root / "classes.json", "--attribution_size", 24, "--attribution_duration", 8,
        "--attribution_stride", 1, "--attribution_steps", 2, f"--attribution_flags={TRUNK}", *words)])


def test_attribution_is_measured_once_and_told_in_tables(root, capsys, monkeypatch):
    call(root, "--parts", "attribution", "--attribution_methods", "grad", "grad_cam", "--attribution_clips", 3)
    rows = root / "out" / "attribution" / "rows.jsonl"
    before = rows.read_text()
    first = {json.loads(line)["video"] for line in before.splitlines()[1:]}
    assert len({name.split("_")[1] for name in first}) == 3  # one of each class
    call(root, "--parts", "attribution", "--attribution_methods", "grad", "grad_cam")
    assert rows.read_text().startswith(before)
    said = capsys.readouterr().out
    text = said.rpartition("### Attribution")[2]
    assert "4 clips with a tube" in text and "REVEX" in text and "python -m benchmarks.real --data" in said
    for name in ("random", "centre", "chance", "event", "grad", "grad_cam"):
        assert f"\n| {name} | " in text
    event = next(line for line in text.splitlines() if line.startswith("| event |"))
    assert event.count("1.00 [1.00, 1.00]") == 7  # the event points at itself, in every way
    assert "v_Run_g09_c01: " in text and (root / "out" / "attribution" / "tables.md").read_text() in said
    monkeypatch.setattr(Judge, "rows", None)
    call(root, "--parts", "attribution", "--attribution_methods", "grad", "grad_cam")
    assert text == capsys.readouterr().out.rpartition("### Attribution")[2]


def test_prototypes_are_counted_on_the_clips_that_have_boxes(root, capsys):
    call(root, "--parts", "prototypes")
    assert "left out" in capsys.readouterr().err
    call(root, "--parts", "prototypes", "--prototypes_of", root / "save_1.pth")
    said = capsys.readouterr().out
    model, _, record = model_of(load_checkpoint(root / "save_1.pth"), "save_1.pth")
    truth = read_truth(root / "truth.json")
    with_box = [p for p, video in enumerate(record.video) if "g01" in video]
    meets = box_in_event(record, truth)["meets"]
    rows = [json.loads(line) for line in (root / "out" / "prototypes" / "rows.jsonl").read_text().splitlines()]
    assert [row["prototype"] for row in rows] == with_box and 0 < len(rows) < len(record.video)
    assert [row["meets"] for row in rows] == meets[with_box].tolist()
    of_classes = [row["meets"] for row in rows if model.prototype_layer.node_of[row["prototype"]] < len(ROWS)]
    line = next(line for line in said.splitlines() if "save_1.pth, class |" in line)
    assert f"| {len(of_classes)} |" in line and f"{np.mean(of_classes):.2f} [" in line


@pytest.mark.slow
def test_fights_are_recognised_and_explained(root, capsys):
    """The second call trains and measures nothing again."""
    fights = root / "data" / "fights"
    lists = {"train": [], "test": []}
    for label, shift in (("Fight", 0), ("NoFight", 9)):
        for scene in range(1, 8):
            name = f"{label}/v_{label}_g{scene:02}_c01.avi"
            write_video(fights / "videos" / name, np.roll(shades(14), scene + shift, 2))
            lists["test" if scene == 7 else "train"].append(name)
    folder = fights / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Fight\n2 NoFight\n")
    (folder / "testlist01.txt").write_text("".join(f"{name}\n" for name in lists["test"]))
    (folder / "trainlist01.txt").write_text("".join(f"{name} {1 + ('No' in name)}\n" for name in lists["train"]))
    (fights / "hierarchy.csv").write_text("Fight,Root\nNoFight,Root\n")
    line = ("--parts", "fights", "--fights_folds", 1, "--fights_size", 24, "--fights_duration", 8, "--fights_videos", 2,
            "--fights_steps", 2, f"--fights_flags={TRUNK} --n_threads 0 --trunk_epochs 1 --warm_epochs 1 --n_epochs 2 "
                                 "--push_start 2 --tune_iterations 2 --no_merge", "--no_cuda")
    call(root, *line)
    first = capsys.readouterr().out
    run = root / "out" / "fights" / "fold1_seed1"
    # JSON, which says for what the results are, is written again
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.[!j]*") if path.is_file()}
    for head in ("ours", "softmax head"):
        assert re.search(rf"^\| {head}: grad_cam \|(.*\d.*\|)+$", first, re.MULTILINE), first
    assert "logistic regression" in first and "activation_box_only" in first and "nan" not in first
    call(root, *line)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.[!j]*") if path.is_file()} == before


@pytest.mark.parametrize(("words", "word"), [
    (("--data", "nowhere"), "nowhere"), (("--data", ".", "--parts", "attribution"), "ucf101"),
    (("--parts", "prototypes", "--prototypes_of", "trunk.pth"), "pushed")])
def test_bad_input_names_what_is_missing(root, tmp_path, words, word, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises((ValueError, FileNotFoundError), match=word):
        call(root, "--out", tmp_path, *words)


def test_the_boxed_clips_are_gathered(tmp_path):
    folder, truth = boxed_clips(real_clips("ucf101").parent, tmp_path)
    assert len(list(folder.glob("*/*"))) == len(read_truth(truth)) == 13
    boxed_clips(real_clips("ucf101").parent, tmp_path, 7)
    assert len(list(folder.glob("*/*"))) == 7 and len(list(folder.iterdir())) >= 7
