"""The whole program on a tiny data set: what it writes, and what its flags do."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from program import (
    CALL,
    DATA,
    FRAMES,
    HEIGHT,
    MODEL,
    QUICK,
    ROWS,
    SCHEDULE,
    TREE,
    WIDTH,
    assert_same,
    call,
    explain_classes,
    flat,
    fresh,
    go_on,
    refused,
    shell,
    train,
    write_data,
)

from attribution import METHODS
from datasets.video import whole_videos
from explain.heat import heat_of
from models.geometry import box_of, smoothed
from run import infer
from run.data import make_loader, make_reader, read_videos, window_clips
from run.model import model_of
from run.resume import stored_args
from training.checkpoint import load_checkpoint, save_checkpoint
from training.engine import Trainer
from training.features import valid_clips

CPU = torch.device("cpu")


def test_a_run_writes_what_is_documented(whole):
    rows = json.loads((whole / "prototypes.json").read_text())
    n = len(rows)  # after merging
    assert 9 <= n < 18
    names = {path.name for path in whole.iterdir()}
    assert names == {"trunk.pth", "save_1.pth", "save_2.pth", "save_3.pth", "metrics.jsonl", "opts.json",
                     "prototypes.json"}
    opts = json.loads((whole / "opts.json").read_text())
    assert (opts["n_epochs"], opts["n_classes"], opts["trunk_optimizer"]) == (3, 4, "adamw")
    assert Path(opts["video_path"]).is_absolute() and Path(opts["annotation_path"]).is_absolute()

    events = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "trunk", "val", "trunk", "val", "start", "warm", "val", "joint", "val", "push", "val", "last", "val",
        "joint", "val", "push", "val", "last", "val"]
    for event in events:
        assert all(np.isfinite(value) for value in event.values() if isinstance(value, float))
        if event["event"] == "val":
            assert {"loss", "top1", "top5", "level_1", "level_2", "videos"} <= set(event) and event["videos"] == 4
        if event["event"] == "push":
            clips = 24 if event["epoch"] == 3 else 12  # two a video in the last push
            left = n if event["epoch"] == 3 else 18
            assert (event["matched"], event["unmatched"], event["clips"]) == (left, 0, clips)
            assert event["merged"] == 18 - left
    assert events[4]["placed"] == events[4]["prototypes"] == 18 and events[4]["videos_of_a_way"] > 0

    assert [row["prototype"] for row in rows] == list(range(n))
    for row in rows:
        leaf = next(name for name in sorted(TREE.names[:4]) if name in row["video"])
        assert tuple(row["node"]) in {TREE.path(node) for node in TREE.path_ids(TREE.label(leaf))}
        t0, y0, x0, t1, y1, x1 = row["box"]
        assert 0 <= row["frames"][0] <= t0 < t1 <= row["frames"][1] <= FRAMES
        assert 0 <= y0 < y1 <= 2 * HEIGHT and WIDTH - HEIGHT <= x0 < x1 <= WIDTH + HEIGHT  # the source video's pixels
        assert t0 <= row["peak"][0] < t1 and y0 <= row["peak"][1] < y1 and x0 <= row["peak"][2] < x1


def test_a_checkpoint_holds_what_is_documented(whole):
    found = load_checkpoint(whole / "save_3.pth")
    assert set(found) == {"format", "done", "args", "hierarchy_rows", "embedding", "model", "optimizers", "rng",
                          "push_record", "counts", "normalisation", "head_given"}
    assert set(load_checkpoint(whole / "save_2.pth")) == {*found, "ways"}  # prototypes have not merged yet
    assert found["done"] == ["last", 3, 2] and [tuple(row) for row in found["hierarchy_rows"]] == ROWS
    assert load_checkpoint(whole / "save_1.pth")["done"] == ["warm", 1, 1]
    assert load_checkpoint(whole / "trunk.pth")["done"] == ["trunk", 2, 1]
    assert found["push_record"]["epoch"] == 3 and load_checkpoint(whole / "save_2.pth")["push_record"]["epoch"] == 2
    plain = str | int | float | bool | None
    assert all(isinstance(value, torch.Tensor | plain) for value in flat(found).values())


@pytest.mark.slow
def test_from_the_command_line_to_explanations(data, whole, tmp_path):
    """Asked to stop, killed, resumed, inferred, judged and explained, each in a process of its own with two loaders."""
    log, results = tmp_path / "log.txt", tmp_path / "results"
    settings = ("--root_path", data, "--result_path", results, "--n_threads 2 --no_cuda")
    asked = shell(log, "main.py", *settings, DATA, MODEL, SCHEDULE, "--no_img", cut_by="SIGTERM trunk 3")
    assert asked.returncode == 0, log.read_text()
    assert (results / "last.pth").is_file() and "asked to stop" in log.read_text()
    killed = shell(log, "main.py", *settings, "--resume_path auto --no_img", cut_by="SIGKILL joint 3")
    assert killed.returncode == -signal.SIGKILL, log.read_text()
    assert not (results / "save_3.pth").exists()

    ended = shell(log, "main.py", *settings, "--resume_path auto --inference --inference_stride 3")
    assert ended.returncode == 0, log.read_text()
    assert_same(results / "save_3.pth", whole / "save_3.pth")
    assert "Traceback" not in log.read_text()
    counts = load_checkpoint(results / "save_3.pth")["counts"]
    assert len(list((results / "img").glob("epoch_3/**/*.gif"))) >= sum(counts)

    found = json.loads((results / "val.json").read_text())
    names = {f"v_{row[0]}_g03_c01" for row in ROWS}
    assert set(found) == {"results", "videos", "tree"} and set(found["results"]) == set(found["videos"]) == names
    assert found["tree"] == {row[0]: list(row) for row in ROWS}
    for name, guesses in found["results"].items():
        assert len(guesses) == 4
        assert sum(guess["score"] for guess in guesses) == pytest.approx(1, abs=1e-5)
        assert [guess["score"] for guess in guesses] == sorted((guess["score"] for guess in guesses), reverse=True)
        assert all(guess["path"] == found["tree"][guess["label"]] for guess in guesses)
        assert found["videos"][name]["truth"] in name and found["videos"][name]["windows"] == 3
        first, last = found["videos"][name]["window"]
        assert 0 <= first < last <= FRAMES and last - first == 8

    judged = shell(log, "-m util_scripts.eval_accuracy", data / "ucf101_01.json", results / "val.json",
                   "--subset val -k 1 --ignore")
    assert judged.returncode == 0, log.read_text()
    right = sum(guesses[0]["label"] in name for name, guesses in found["results"].items()) / 4
    assert f"class accuracy: {right:.4f}" in log.read_text()

    for script, levels in (("local_analysis", [0]), ("local_analysis_parents", [1, 2])):
        explained = shell(log, f"{script}.py --no_cuda --n_videos 2 --inference_stride 3 --resume_path",
                          results / "save_3.pth")
        assert explained.returncode == 0, log.read_text()
        folders = [path.parent for path in (results / script).glob("*/explanation.json")]
        assert len(folders) == 2 and (results / script / "index.html").is_file()
        for folder in folders:
            one = json.loads((folder / "explanation.json").read_text())
            video = found["results"][one["video"]]
            assert one["prediction"] == video[0]["path"] and one["truth"] in one["video"]
            assert one["window"] == found["videos"][one["video"]]["window"]
            assert one["path_scores"] == pytest.approx(video[0]["path_scores"], abs=1e-5)
            assert [level["level"] for level in one["levels"]] == levels
            for level in one["levels"]:
                assert level["node"] == one["prediction"][level["level"]] and 0 <= level["probability"] <= 1
                node = TREE.path_ids(TREE.label(one["prediction"][0]))[level["level"]]
                assert [match["node"] for match in level["prototypes"]] == [level["node"]] * counts[node]
                gains = [match["contribution"] for match in level["prototypes"]]
                assert gains == sorted(gains, reverse=True)
                for match in level["prototypes"]:
                    assert 0 <= match["similarity"] <= 1 and match["source"]["video"].startswith("v_")
                    assert match["evidence"] == pytest.approx(match["weight"] * match["activation"], rel=1e-3)
                    assert all(low <= at < high for low, at, high in
                               zip(match["box"][:3], match["peak"], match["box"][3:], strict=True))
            assert (folder / "index.html").is_file() and list(folder.glob("*.gif"))
            link = f"local_analysis/{folder.name}/{'index' if script == 'local_analysis' else 'story'}.html"
            assert link in (results / "report.html").read_text()
    assert list((results / "local_analysis_parents").glob("*/story.html"))


def test_inference_alone_with_data_that_moved(whole, own_data, tmp_path):
    call("--resume_path", whole / "save_3.pth", "--result_path", tmp_path / "out", "--video_path", own_data / "jpg",
         "--annotation_path", own_data / "ucf101_01.json", "--no_train --no_val --inference --inference_subset train",
         CALL)
    found = json.loads((tmp_path / "out" / "train.json").read_text())
    assert len(found["results"]) == 12
    assert not list((tmp_path / "out").glob("*.pth"))


def test_windows_are_pooled_by_powers_or_as_the_checkpoint_was(whole, tmp_path, capsys):
    """A mean where it is asked for, and where the checkpoint is from before the flag; explanations agree."""
    infer = f"--no_train --no_val --inference --inference_stride 2 {CALL}"

    def scores(folder: str, checkpoint: Path, *more: str) -> tuple[float, dict]:
        call("--resume_path", checkpoint, "--result_path", tmp_path / folder, infer, *more)
        found = json.loads((tmp_path / folder / "val.json").read_text())["results"]
        return (json.loads((tmp_path / folder / "metrics.json").read_text())["window_power"],
                {name: guesses[0]["path_scores"] for name, guesses in found.items()})

    content = load_checkpoint(whole / "save_3.pth")
    assert content["args"]["window_pool"] == "power"
    del content["args"]["window_pool"], content["args"]["window_power"]
    (tmp_path / "old").mkdir()
    save_checkpoint(tmp_path / "old" / "save_3.pth", content)

    power, mean = scores("power", whole / "save_3.pth"), scores("mean", whole / "save_3.pth", "--window_pool mean")
    assert power[0] == 4 and mean[0] == 1
    assert all(power[1][name][0] > mean[1][name][0] + 1e-3 for name in mean[1])
    assert scores("old", tmp_path / "old" / "save_3.pth") == mean
    assert scores("now", tmp_path / "old" / "save_3.pth", "--window_pool power") == power
    assert "--window_power" in refused(capsys, "--resume_path", tmp_path / "old" / "save_3.pth", infer,
                                       "--window_power 2")
    for folder, checkpoint, expected in (("power", whole, power), ("old", tmp_path / "old", mean)):
        explain_classes("--resume_path", checkpoint / "save_3.pth", "--out", tmp_path / folder / "shown", "--no_img",
                        "--inference_stride", "2", "--n_videos", "0", "--heat", "upsample")
        shown = [json.loads(path.read_text()) for path in (tmp_path / folder / "shown").glob("*/explanation.json")]
        assert len(shown) == 4
        for one in shown:
            assert one["path_scores"] == pytest.approx(expected[1][one["video"]], abs=2e-6)


def test_metrics_come_with_inference_and_calibration_holds_out_groups(data, tmp_path, capsys, monkeypatch):
    kept, predict = {}, infer.predict

    def predicting(*words, description, keep_distances, **options):
        kept[description] = keep_distances
        return predict(*words, description=description, keep_distances=keep_distances, **options)

    monkeypatch.setattr(infer, "predict", predicting)
    def strict(value):
        raise AssertionError(f"{value} is not JSON")

    results = train(data, tmp_path / "results", "--calibrate --inference --target_accuracy .6", schedule=QUICK)
    assert kept == {"inference": True, "calibration": False}  # who is not asked how strange they are needs no distances
    held = load_checkpoint(results / "save_1.pth")["held_out"]
    assert len(held) == 1 and held[0] in {"g00", "g01", "g02"}
    assert {row["video"][-7:-4] for row in json.loads((results / "prototypes.json").read_text())}.isdisjoint(held)
    found = json.loads((results / "metrics.json").read_text(), parse_constant=strict)
    assert (found["subset"], found["n_videos"], found["calibrated"], found["target_accuracy"]) == ("val", 4, True, 0.6)
    assert len(found["levels"]) == 3 and len(found["nodes"]) == len(TREE)
    videos = json.loads((results / "val.json").read_text())["videos"]
    for about in videos.values():
        answer = about["backoff"]
        assert answer["node"] in ("Root", *TREE.names) and answer["level"] in range(4)
        assert answer["probability"] >= found["threshold"] or answer["node"] == "Root"
    assert "held out of training" in capsys.readouterr().out
    call("--resume_path", results / "save_1.pth", "--result_path", tmp_path / "again", CALL,
         "--no_train --no_val --inference --target_accuracy .6 --manual_seed 7")
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again == found  # the same groups, whatever the seed is now


def test_calibration_without_groups_that_were_held_out(whole, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("--resume_path", whole / "save_3.pth", "--result_path", tmp_path / "out", CALL, "--calibrate --no_train")
    assert "--calibrate" in capsys.readouterr().err
    call("--resume_path", whole / "save_3.pth", "--result_path", tmp_path / "out", CALL,
         "--no_train --no_val --inference")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["calibrated"], found["temperature"], found["threshold"]) == (False, 1, 0.9)
    assert "no groups were held out" in capsys.readouterr().err


def test_data_is_looked_for_where_it_was_whatever_folder_one_is_in(data, whole, own_data, tmp_path, monkeypatch):
    """Another set of the same layout is not taken for it unless --root_path says so."""
    spoilt = json.loads((own_data / "ucf101_01.json").read_text())
    spoilt["database"] = {name: entry for name, entry in spoilt["database"].items() if "Run" in name}
    (own_data / "ucf101_01.json").write_text(json.dumps(spoilt))
    monkeypatch.chdir(own_data)
    alone = f"--no_train --no_val --inference {CALL}"
    call("--resume_path", whole / "save_3.pth", "--result_path", tmp_path / "there", alone)
    assert len(json.loads((tmp_path / "there" / "val.json").read_text())["results"]) == 4
    assert json.loads((tmp_path / "there" / "opts.json").read_text())["root_path"] == str(data)
    call("--resume_path", whole / "save_3.pth", "--result_path", tmp_path / "here", "--root_path", own_data, alone)
    assert len(json.loads((tmp_path / "here" / "val.json").read_text())["results"]) == 1
    explain_classes("--resume_path", whole / "save_3.pth", "--out", tmp_path / "out", "--n_videos", 0, "--no_img")
    assert len(list((tmp_path / "out").glob("*/explanation.json"))) == 4


def test_heat_is_by_any_method_and_mistakes_are_explained(whole, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(whole / "save_3.pth", results)
    explain = ["--resume_path", results / "save_3.pth", "--no_img", "--k", 1]
    for words, said in ((["--heat", "fire"], "--heat: invalid choice: 'fire'"),
                        (["--mistakes", 2], "metrics.json: no such file, so no mistakes are known")):
        with pytest.raises(SystemExit) as ended:
            explain_classes(*explain, *words)
        assert ended.value.code == 2 and said in capsys.readouterr().err
    name = json.loads((whole / "prototypes.json").read_text())[0]["video"]
    (results / "metrics.json").write_text(json.dumps({"mistakes": [{"video": name}]}))
    boxes = {}
    for heat in ("upsample", "grad", None):  # the last by default
        out = tmp_path / f"by {heat}"
        explain_classes(*explain, "--mistakes", 2, "--out", out, *(["--heat", heat] if heat else []))
        (found,) = out.glob("*/explanation.json")
        found = json.loads(found.read_text())
        assert found["video"] == name and found["heat"] == (heat or "grad")
        boxes[heat] = found["levels"][0]["prototypes"][0]["box"]
    assert boxes["grad"] == boxes[None] != boxes["upsample"]


def test_heat_of_single_voxels_is_smoothed():
    """For a score that hangs on one voxel: its gradient is a dot, and the heat a spot around it."""
    def score(clips):
        return clips[:, 0, 3, 10, 20] * 2

    clip = torch.zeros(3, 8, 24, 32)
    trunk = SimpleNamespace(stride=(1, 1, 1))
    heat = heat_of("grad", score, clip, trunk=trunk, smooth=True)
    assert torch.stack(torch.unravel_index(heat.argmax(), heat.shape)).tolist() == [3, 10, 20]
    torch.testing.assert_close(heat, smoothed(METHODS["grad"](score, clip)))
    assert box_of(heat)[1] < 10
    assert torch.equal(heat_of("grad", score, clip, trunk=trunk), METHODS["grad"](score, clip))


def test_short_videos_and_unpushed_prototypes_are_told_of(data, whole, tmp_path, capsys):
    train(data, tmp_path, "--sample_duration 13", schedule=QUICK)
    assert "12 of 12 videos are shorter than a clip" in capsys.readouterr().err
    call("--resume_path", whole / "save_1.pth", "--result_path", tmp_path / "out", CALL,
         "--no_train --no_val --inference")
    said = capsys.readouterr().err
    assert "nothing was pushed" in said and "shorter" not in said


def test_published_weights_are_where_the_trunk_starts(data, whole, tmp_path, capsys, monkeypatch):
    """And bring their own recipe along; those of another trunk are refused."""
    trunk = {f"module.{key.removeprefix('trunk.')}": value + 0.01 if value.is_floating_point() else value
             for key, value in load_checkpoint(whole / "trunk.pth")["model"].items() if key.startswith("trunk.")}
    torch.save({"state_dict": trunk | {"module.fc.weight": torch.zeros(400, 64)}}, tmp_path / "kinetics.pth")
    begun, take = [], Trainer.step

    def step(trainer, *rest):
        begun.append(trainer.model.trunk.conv1.weight.detach().clone())
        return take(trainer, *rest)

    monkeypatch.setattr(Trainer, "step", step)
    train(data, tmp_path / "results", "--no_val --pretrain_path", tmp_path / "kinetics.pth", schedule=QUICK)
    assert torch.equal(begun[0], trunk["module.conv1.weight"])
    assert "head of 400 classes (fc.weight) dropped" in capsys.readouterr().err
    assert json.loads((tmp_path / "results" / "opts.json").read_text())["trunk_optimizer"] == "sgd"
    error = refused(capsys, *fresh(data, tmp_path / "other"), "--model_depth 18 --pretrain_path",
                    tmp_path / "kinetics.pth")
    assert "layer1.1.conv1.weight" in error and "--model_depth" in error


def test_a_trunk_that_was_trained_here_brings_its_head(data, whole, tmp_path, capsys):
    """So the prototypes of another head are placed by its class maps; after a cut, too. Other classes: not the head."""
    line = ["--pretrain_path", whole / "trunk.pth", "--trunk_epochs 0 --warm_learning_rate .006"]
    train(data, tmp_path / "one", *line)
    said = capsys.readouterr().err
    assert "(arch HIPE)" in said and "its pooled head is taken" in said and "no trunk epochs" not in said
    before, after = (load_checkpoint(path)["model"] for path in (whole / "trunk.pth", tmp_path / "one" / "save_1.pth"))
    assert torch.equal(before["pooled_head.weight"], after["pooled_head.weight"])
    assert torch.equal(before["trunk.conv1.weight"], after["trunk.conv1.weight"])
    end = load_checkpoint(tmp_path / "one" / "save_3.pth")["model"]
    for name in ("save_2.pth", "save_3.pth"):
        (tmp_path / "one" / name).unlink()
    go_on(tmp_path / "one")
    again = load_checkpoint(tmp_path / "one" / "save_3.pth")["model"]
    assert all(torch.equal(value, again[name]) for name, value in end.items())

    other = write_data(tmp_path / "data", [(row[0] + "s", *row[1:]) for row in ROWS])
    capsys.readouterr()
    train(other, tmp_path / "two", *line, schedule=QUICK)
    assert "its pooled head" not in capsys.readouterr().err


@pytest.mark.slow
def test_tensorboard(data, tmp_path):
    train(data, tmp_path, "--tensorboard", schedule=QUICK)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_after_trunk_epochs_the_softmax_head_predicts(whole, tmp_path, capsys):
    call("--resume_path", whole / "trunk.pth", "--result_path", tmp_path, "--overwrite --no_train --no_val --inference",
         "--window_pool mean", CALL)
    assert "softmax head" in capsys.readouterr().err
    checkpoint = load_checkpoint(whole / "trunk.pth")
    model, tree, _ = model_of(checkpoint, whole)
    args = stored_args(checkpoint)
    videos = whole_videos(read_videos(args, tree).subset("validation"))
    clips = window_clips(args, videos, make_reader(args), args.inference_stride, normalisation=model.normalisation)
    own: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in valid_clips(make_loader(clips, n_threads=0, device=CPU, batch_size=1), CPU):
            own.setdefault(videos.names[int(batch["video"])], []).append(
                model.eval().softmax_log_probs(batch["clip"])[0, :tree.n_leaves].exp())
    results = json.loads((tmp_path / "val.json").read_text())["results"]
    for name, windows in own.items():
        mean = torch.stack(windows).mean(0)
        assert results[name][0]["label"] == tree.names[int(mean.argmax())]
        assert results[name][0]["score"] == pytest.approx(float(mean.max()), abs=1e-4)
