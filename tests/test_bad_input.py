"""Bad input ends with one sentence and exit code 2, and odd data does not end a run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from program import (
    CALL,
    DATA,
    FRAMES,
    MODEL,
    QUICK,
    ROWS,
    call,
    explain_ancestors,
    explain_classes,
    fresh,
    refused,
    shell,
    train,
    write_data,
)

from hierarchy import Hierarchy, fit_embeddings, save_embeddings
from run import infer
from run.resume import stored_args
from training.checkpoint import load_checkpoint
from util_scripts import eval_accuracy


@pytest.mark.parametrize(("more", "words"), [
    ("--annotation_path nowhere.json", ["nowhere.json", "no such annotation file", "_json"]),
    ("--video_path nowhere", ["nowhere", "no such folder"]),
    ("--tree_file nowhere.csv", ["nowhere.csv"]),
    ("--n_classes 101", ["--n_classes 101", "4 classes"]),
    ("--no_train", ["--no_train", "--resume_path"]),
    ("--resume_path nowhere.pth", ["nowhere.pth"]),
    ("--conv1_t_size 4", ["conv1_t_size", "odd"]),
    ("--pretrain_path nowhere.pth", ["nowhere.pth"]),
    ("--emb_file nowhere.pth", ["nowhere.pth"]),
    ("--batch_size 0", ["--batch_size"]),
    ("--device mars", ["--device mars"]),
    ("--window_power -1", ["--window_power", "above 0"]),
    ("--window_pool mean --window_power 2", ["--window_power 2", "--window_pool mean"]),
])
def test_bad_flags(data, tmp_path, capsys, more, words):
    error = refused(capsys, *fresh(data, tmp_path / "results"), more)
    assert all(word in error for word in words), error
    assert not list(tmp_path.rglob("*.pth.*")) and not list(tmp_path.rglob("save_*.pth"))


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there(data, tmp_path, capsys, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    line = [word for word in fresh(data, tmp_path) if word != CALL]
    assert f"--device {device}" in refused(capsys, *line, "--n_threads 0 --device", device)
    assert "--no_cuda" in refused(capsys, *fresh(data, tmp_path), "--device", device)


def test_no_flag_for_the_data(tmp_path, capsys):
    assert "--video_path" in refused(capsys, "--root_path", tmp_path, CALL)


def test_a_class_that_the_tree_does_not_know(own_data, tmp_path, capsys):
    path = own_data / "ucf101_01.json"
    path.write_text(path.read_text().replace('"label": "Wave"', '"label": "Wafe"'))
    error = refused(capsys, *fresh(own_data, tmp_path))
    assert "ucf101_01.json" in error and "'Wafe'" in error and "nearest names are Wave" in error


def test_an_empty_folder_and_a_damaged_annotation(own_data, tmp_path, capsys):
    shutil.rmtree(own_data / "jpg")
    (own_data / "jpg").mkdir()
    error = refused(capsys, *fresh(own_data, tmp_path))
    assert "jpg" in error and "16 of the 16" in error
    (own_data / "ucf101_01.json").write_text("{")
    assert "ucf101_01.json" in refused(capsys, *fresh(own_data, tmp_path))


def test_a_subset_without_videos(data, whole, tmp_path, capsys):
    error = refused(capsys, "--resume_path", whole / "save_3.pth", "--result_path", tmp_path,
                    "--no_train --no_val --inference --inference_subset test", CALL)
    assert "--inference_subset test" in error


def test_a_checkpoint_of_another_tree_or_trunk(data, whole, tmp_path, capsys):
    (tmp_path / "other.csv").write_text("".join(",".join((*row[:2], "All", "Root")) + "\n" for row in ROWS))
    resumed = ["--resume_path", whole / "save_2.pth", "--result_path", tmp_path, CALL]
    error = refused(capsys, *resumed, "--tree_file", tmp_path / "other.csv")
    assert "save_2.pth" in error and "another tree" in error and "other.csv" in error
    for more in ("--model_depth 18", "--resnet_widen_factor .25", "--prototypes_per_node 3", "--resnet_shortcut A",
                 "--temporal_strides 1 2 2 2 2", "--no_max_pool", "--conv1_t_stride 2", "--sample_size 64"):
        error = refused(capsys, *resumed, more)
        assert "contradicts" in error, error
    assert "--n_classes" in refused(capsys, *resumed, "--n_classes 101")
    call(*resumed, "--model_depth 10 --n_classes 4 --temporal_strides 1 2 2 1 1 --conv1_t_stride 1 --no_train --no_val")


def test_a_folder_that_holds_a_run(data, whole, capsys):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in whole.iterdir())
    error = refused(capsys, *fresh(data, whole))
    assert str(whole) in error and "--resume_path auto" in error and "--overwrite" in error
    assert sorted((path.name, path.stat().st_mtime_ns) for path in whole.iterdir()) == before


def test_what_cannot_be_read_is_counted_and_validation_s_loader_is_made_once(own_data, tmp_path, monkeypatch, capsys):
    """Once for all epochs, its processes too, and what it measures is what one process measures."""
    for name in ("Run/v_Run_g00_c01", "Saw/v_Saw_g01_c01", "Jump/v_Jump_g03_c01"):
        for i in range(1, FRAMES + 1):
            (own_data / "jpg" / name / f"image_{i:05d}.jpg").write_bytes(b"")
    made = []

    def make_loader(*args, persistent=False, **options):
        loader = make(*args, persistent=persistent, **options)
        if persistent:
            made.append(loader)
        return loader

    make = infer.make_loader
    monkeypatch.setattr(infer, "make_loader", make_loader)
    events = []
    for n_threads in ("0", "2"):
        results = train(own_data, tmp_path / n_threads, "--n_threads", n_threads)
        told = capsys.readouterr().err
        assert told.count("2 of 12 training videos could not be read") == 1
        lines = map(json.loads, (results / "metrics.jsonl").read_text().splitlines())
        events.append([line for line in lines if line["event"] == "val"])
    assert events[0] == events[1] and len(events[0]) > 4
    assert all((line["videos"], line["unread"]) == (3, 1) for line in events[0])
    assert [loader.persistent_workers for loader in made] == [False, True]


def test_broken_checkpoints(data, whole, tmp_path, capsys):
    cut_short = tmp_path / "save_9.pth"
    cut_short.write_bytes((whole / "save_3.pth").read_bytes()[:-500])
    assert "save_9.pth" in refused(capsys, "--resume_path", cut_short, CALL)
    assert str(tmp_path) in refused(capsys, "--resume_path auto --result_path", tmp_path, CALL)
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    assert "--pretrain_path" in refused(capsys, "--resume_path", tmp_path / "foreign.pth", CALL)
    for analyse in (explain_classes, explain_ancestors):
        assert "save_9.pth" in refused(capsys, "--resume_path", cut_short, caller=analyse)
        error = refused(capsys, "--resume_path", whole / "save_3.pth", "--videos", "v_Run_g99_c01", caller=analyse)
        assert "v_Run_g99_c01" in error


@pytest.mark.slow
def test_one_sentence_from_the_command_line(data, tmp_path):
    done = shell(tmp_path / "log.txt", "main.py", *fresh(data, tmp_path / "results"), "--annotation_path nowhere.json")
    said = (tmp_path / "log.txt").read_text()
    assert done.returncode == 2 and said.startswith("error: ") and said.count("\n") == 1 and "nowhere.json" in said


def spoil(data: Path, name: str, frame: int = 3) -> Path:
    file = data / "jpg" / name.split("_")[1] / name / f"image_{frame:05d}.jpg"
    file.write_bytes(file.read_bytes()[:100])
    return file


def test_corrupt_jpegs_are_named_and_left_out(own_data, tmp_path):
    spoil(own_data, "v_Jump_g01_c01", 6)
    spoil(own_data, "v_Wave_g03_c01", 6)
    with pytest.warns(RuntimeWarning) as told:
        train(own_data, tmp_path / "results", "--inference", schedule=QUICK)
    said = " ".join(str(one.message) for one in told)
    assert "v_Jump_g01_c01" in said and "v_Wave_g03_c01" in said and "image_00006.jpg" in said
    found = json.loads((tmp_path / "results" / "val.json").read_text())
    assert set(found["results"]) == {f"v_{name}_g03_c01" for name in ("Run", "Jump", "Saw")}
    sources = {row["video"] for row in json.loads((tmp_path / "results" / "prototypes.json").read_text())}
    assert "v_Jump_g01_c01" not in sources and any("Jump" in name for name in sources)


@pytest.mark.parametrize("n_threads", [0, 2])
def test_corrupt_jpegs_are_an_error_where_one_is_strict(own_data, tmp_path, capsys, n_threads):
    spoil(own_data, "v_Jump_g01_c01", 6)
    error = refused(capsys, *fresh(own_data, tmp_path), "--strict --n_threads", str(n_threads))
    assert "v_Jump_g01_c01" in error and "image_00006.jpg" in error


def test_videos_that_are_not_on_disk_are_counted(own_data, tmp_path, capsys):
    shutil.rmtree(own_data / "jpg" / "Run" / "v_Run_g00_c01")
    shutil.rmtree(own_data / "jpg" / "Saw")
    train(own_data, tmp_path / "results", schedule=QUICK)
    err = capsys.readouterr().err
    assert len([line for line in err.splitlines() if "5 of the 16 videos" in line]) == 1
    assert "1 of 4 classes have no training video on disk (Saw); their prototypes stay unmatched" in err
    rows = json.loads((tmp_path / "results" / "prototypes.json").read_text())
    unmatched = {row["node"][0] for row in rows if row["video"] is None}
    assert unmatched == {"Saw", "Tool", "Thing"}
    assert "5 of the 16" in refused(capsys, *fresh(own_data, tmp_path / "strict"), "--strict")


def test_clips_longer_than_the_videos_are_looped(data, tmp_path):
    train(data, tmp_path, "--sample_duration 20 --inference", schedule=QUICK)
    found = json.loads((tmp_path / "val.json").read_text())
    assert all(about["window"] == [0, FRAMES] and about["windows"] == 1 for about in found["videos"].values())
    for row in json.loads((tmp_path / "prototypes.json").read_text()):
        assert row["frames"] == [0, FRAMES] and 0 <= row["box"][0] < row["box"][3] <= FRAMES


def test_batches_of_one(data, tmp_path):
    train(data, tmp_path, "--batch_size 1", schedule=QUICK)
    assert load_checkpoint(tmp_path / "save_1.pth")["done"] == ["last", 1, 0]


@pytest.mark.parametrize("n_levels", [1, 3])
def test_one_class(tmp_path, n_levels, capsys):
    data = write_data(tmp_path / "data", rows=[ROWS[0][:n_levels]], n_train=2)
    train(data, tmp_path / "results", "--inference", schedule=QUICK)
    found = json.loads((tmp_path / "results" / "val.json").read_text())
    assert found["results"]["v_Run_g02_c01"][0]["score"] == 1
    if n_levels == 1:
        error = refused(capsys, "--resume_path", tmp_path / "results" / "save_1.pth", caller=explain_ancestors)
        assert "one level" in error


def test_two_parents_of_one_name(tmp_path):
    """Nodes are known by their path: two nodes called Other, and one called like a class."""
    rows = [("Run", "Other", "Body"), ("Saw", "Other", "Thing"), ("Wave", "Run", "Body")]
    data = write_data(tmp_path / "data", rows=rows, n_train=2)
    train(data, tmp_path / "results", "--inference", schedule=QUICK)
    eval_accuracy.main([str(data / "ucf101_01.json"), str(tmp_path / "results" / "val.json"), "--subset", "val"])
    nodes = {tuple(row["node"]) for row in json.loads((tmp_path / "results" / "prototypes.json").read_text())}
    assert len(nodes) == 3 + 3 + 2


@pytest.mark.parametrize(("score", "lists", "numbers"), [
    ("tree", {"ce": [1, 0.5, 0.25], "level_ce": [1] * 3, "cluster": [0.5] * 3, "separation": [1] * 3},
     {"coverage": 0.5, "orthogonality": 0.5, "sharing": 0.3}),
    ("hyperbolic", {"ce": [1, 0.5, 0.25], "cluster": [0.8, 0.5, 0.3], "separation": [0.08, 0.11, 0.13]},
     {"coverage": 1, "group": 1e-4})])
def test_without_validation_and_without_trunk_epochs(data, tmp_path, capsys, score, lists, numbers):
    """There is no class map then, and nothing may depend on the one of a head that nobody trained."""
    train(data, tmp_path, "--trunk_epochs 0 --no_val --score", score, schedule=QUICK)
    err = capsys.readouterr().err
    assert len([line for line in err.splitlines() if "no class maps" in line]) == 1
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "joint", "push", "last"]
    assert events[0]["placed"] == events[0]["prototypes"] == 18
    joint = events[1]
    expected = sum(row[level] * joint[f"{name}_{level}"] for name, row in lists.items() for level in range(3))
    expected += sum(weight * joint[name] for name, weight in numbers.items())
    assert joint["loss"] == pytest.approx(expected, rel=1e-4)


def test_what_weights_and_embeddings_have_is_what_a_checkpoint_was_made_with(data, tmp_path, capsys):
    """Curvature of the embedding's file and normalisation of the weights, which no flag named."""
    tree = Hierarchy.from_rows(ROWS)
    save_embeddings(tmp_path / "other.pth", fit_embeddings(tree, dim=8, c=2.0), tree, c=2.0)
    first, second = tmp_path / "first", tmp_path / "second"
    line = [DATA, MODEL, QUICK, CALL, "--root_path", data, "--score hyperbolic --emb_file", tmp_path / "other.pth"]
    call(*line, "--normalisation imagenet --result_path", first)
    call(*line, "--pretrain_path", first / "trunk.pth", "--result_path", second)
    checkpoint = load_checkpoint(second / "save_1.pth")
    assert checkpoint["normalisation"] == "imagenet" and checkpoint["args"]["normalisation"] is None
    stored = stored_args(checkpoint)
    assert (stored.normalisation, stored.c) == ("imagenet", 2.0)
    for flags in ("--c 2", "--normalisation imagenet"):
        call("--resume_path", second / "save_1.pth", flags, "--no_train", CALL)
    for flags in ("--c 1", "--normalisation kinetics"):
        assert flags in refused(capsys, "--resume_path", second / "save_1.pth", flags, "--no_train", CALL)


def test_a_folder_is_no_checkpoint(whole, capsys):
    assert "a folder" in refused(capsys, "--resume_path", whole, CALL)


def test_links_in_circles(data, tmp_path, capsys):
    (tmp_path / "save_1.pth").symlink_to("save_1.pth")
    assert "save_1.pth" in refused(capsys, "--resume_path", tmp_path / "save_1.pth", CALL)
    (tmp_path / "tree.csv").symlink_to("tree.csv")
    assert "tree.csv" in refused(capsys, *fresh(data, tmp_path / "results"), "--tree_file", tmp_path / "tree.csv")
