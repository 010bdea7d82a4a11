"""The whole program on a tiny data set: what it writes, how it goes on after any cut, and what it says of bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
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
    ROOT,
    ROWS,
    SCHEDULE,
    TREE,
    WIDTH,
    assert_same,
    call,
    cut,
    explain_ancestors,
    explain_classes,
    flat,
    go_on,
    refused,
    train,
    write_data,
)

import main
from attribution import METHODS
from explain.heat import heat_of
from models.geometry import box_of, smoothed
from training.checkpoint import load_checkpoint, save_checkpoint
from training.engine import Trainer
from util_scripts import eval_accuracy

# In order: 2 x 2 trunk, start, 2 warm, 2 joint, push, 3 last, 2 joint, push, 3 last.
N_STEPS = {"trunk": 4, "start": 1, "warm": 2, "joint": 4, "push": 2, "last": 6}


# --- what a run writes


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
                          "push_record", "counts"}
    assert set(load_checkpoint(whole / "save_2.pth")) == {*found, "ways"}  # prototypes have not merged yet
    assert found["done"] == ["last", 3, 2] and [tuple(row) for row in found["hierarchy_rows"]] == ROWS
    assert load_checkpoint(whole / "save_1.pth")["done"] == ["warm", 1, 1]
    assert load_checkpoint(whole / "trunk.pth")["done"] == ["trunk", 2, 1]
    assert found["push_record"]["epoch"] == 3 and load_checkpoint(whole / "save_2.pth")["push_record"]["epoch"] == 2
    plain = str | int | float | bool | None
    assert all(isinstance(value, torch.Tensor | plain) for value in flat(found).values())


# --- going on


def test_a_run_cut_in_every_kind_of_step_ends_at_the_same_bits(data, whole, tmp_path, capsys):
    results, handler = tmp_path / "results", signal.getsignal(signal.SIGTERM)
    with cut("trunk", 3, "term"):
        train(data, results)
    assert "--resume_path auto" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler  # what comes after can be stopped, too
    assert load_checkpoint(results / "last.pth")["done"] == ["trunk", 2, 0]
    for kind, nth, how, done in (
            ("start", 1, "kill", ["trunk", 2, 1]), ("start", 1, "term", ["start", 0, 0]),
            ("warm", 1, "term", ["warm", 1, 0]), ("joint", 2, "kill", ["warm", 1, 1]),
            ("joint", 1, "term", ["joint", 2, 0]), ("push", 1, "kill", ["joint", 2, 0]),
            ("push", 1, "term", ["push", 2, 0]), ("last", 1, "term", ["last", 2, 0]),
            ("last", 1, "kill", ["last", 2, 0]), ("joint", 1, "term", ["joint", 3, 0]),
            ("last", 2, "term", ["last", 3, 1])):
        with cut(kind, nth, how):
            go_on(results)
        newest = max(results.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
        assert load_checkpoint(newest)["done"] == done, kind
    go_on(results)
    for name in ("save_1.pth", "save_2.pth", "save_3.pth"):
        assert_same(results / name, whole / name)
    assert (results / "prototypes.json").read_bytes() == (whole / "prototypes.json").read_bytes()
    one, other = ([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
                  for folder in (results, whole))
    assert [event["done"] for event in one] == [event["done"] for event in other]
    for first, second in zip(one, other, strict=True):
        if first["event"] == "val":
            assert first == second


def test_a_run_in_embedding_space_that_is_cut_ends_at_the_same_bits(data, embedded, tmp_path):
    results = tmp_path / "results"
    with cut("trunk", 3, "term"):
        train(data, results, "--score hyperbolic")
    for kind, nth, how in (("start", 1, "kill"), ("joint", 2, "kill"), ("push", 1, "term"), ("last", 2, "kill")):
        with cut(kind, nth, how):
            go_on(results)
    go_on(results)
    for name in ("save_1.pth", "save_2.pth", "save_3.pth"):
        assert_same(results / name, embedded / name)
    assert (results / "prototypes.json").read_bytes() == (embedded / "prototypes.json").read_bytes()
    assert (embedded / "embeddings.pth").is_file() and sum(load_checkpoint(embedded / "save_3.pth")["counts"]) == 18


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "term"])
@pytest.mark.parametrize(("kind", "nth"), [(kind, i + 1) for kind, n in N_STEPS.items() for i in range(n)])
def test_a_run_cut_anywhere_ends_at_the_same_bits(data, whole, tmp_path, kind, nth, how):
    with cut(kind, nth, how):
        train(data, tmp_path)
    train(data, tmp_path, "--resume_path auto")  # afresh where it was cut before the first checkpoint
    assert_same(tmp_path / "save_3.pth", whole / "save_3.pth")


# --- warm epochs on features of the frozen trunk, computed once


WARM = ("--trunk_epochs 1 --warm_epochs 4 --n_epochs 5 --tune_iterations 1 --checkpoint 2 --batch_size 5 "
        "--push_clips 1 --no_val")


def warm_batches(data: Path, results: Path, *more: str) -> dict[int, list[tuple[torch.Tensor, torch.Tensor]]]:
    """By warm epoch, the batches of a run: the trunk's features and the labels."""
    seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    take = Trainer.step

    def step(self, step, progress, batch):
        if step.kind == "warm":
            features = batch.get("trunk", self.model.trunk(batch["clip"]) if "clip" in batch else None)
            seen.setdefault(step.epoch, []).append((features.detach(), batch["label"]))
        return take(self, step, progress, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        train(data, results, *more, schedule=WARM)
    return seen


def test_cached_views_are_what_the_trunk_would_make_of_the_clips(data, tmp_path):
    cached = warm_batches(data, tmp_path / "cached", "--cache_features 2")
    fresh = warm_batches(data, tmp_path / "fresh", "--cache_features 0")
    for epoch in (1, 2):  # the views are those of the first epochs, in the same order
        for (one, label), (other, same) in zip(cached[epoch], fresh[epoch], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
            assert torch.equal(label, same)
    for epoch in (3, 4):  # and then they come again, in the order of their own epoch
        labels, same = (torch.cat([label for _, label in batches[epoch]]) for batches in (cached, fresh))
        assert torch.equal(labels, same)
        again, before = (torch.cat([features for features, _ in cached[e]]).flatten(1) for e in (epoch, epoch - 2))
        assert torch.equal(again[again.sum(1).argsort()], before[before.sum(1).argsort()])
        assert not torch.equal(again, before)


def test_a_run_cut_on_cached_features_ends_at_the_same_bits(data, tmp_path):
    train(data, tmp_path / "whole", "--cache_features 2", schedule=WARM)
    for nth, how in ((2, "kill"), (3, "term"), (1, "kill"), (5, "term")):
        with cut("warm", nth, how):
            train(data, tmp_path / "cut", "--cache_features 2", "--resume_path auto", schedule=WARM)
    train(data, tmp_path / "cut", "--resume_path auto", schedule=WARM)
    assert_same(tmp_path / "cut" / "save_5.pth", tmp_path / "whole" / "save_5.pth")


def test_features_that_do_not_fit_are_not_cached(data, tmp_path, capsys):
    train(data, tmp_path / "small", "--cache_features 2 --cache_gb 0", schedule=WARM)
    assert "more than --cache_gb 0" in capsys.readouterr().err
    train(data, tmp_path / "none", "--cache_features 0", schedule=WARM)
    assert "trunk's features" not in capsys.readouterr().err
    assert_same(tmp_path / "small" / "save_5.pth", tmp_path / "none" / "save_5.pth")


CUT_ITSELF = """
import os, runpy, signal, sys
from training.engine import Trainer
number, kind, nth = signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3])
take, count = Trainer.step, 0
def step(self, step, *rest):
    global count
    scalars = take(self, step, *rest)
    count += step.kind == kind
    if step.kind == kind and count == nth:
        os.kill(os.getpid(), number)
    return scalars
Trainer.step = step
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def shell(log: Path, *lines: str | Path, cut_by: str | None = None) -> subprocess.CompletedProcess:
    """A command line in a process of its own, which a signal to itself may cut; its output is in `log`."""
    words = [word for line in lines for word in (line.split() if isinstance(line, str) else [str(line)])]
    if cut_by is not None:
        words = ["-c", CUT_ITSELF, *cut_by.split(), *words]
    with open(log, "w") as out:  # a pipe would be kept open by the loader processes of a killed run
        return subprocess.run([sys.executable, *words], cwd=ROOT, stdout=out, stderr=out, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


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


def test_workers_and_memory_change_nothing(data, whole, tmp_path):
    train(data, tmp_path, "--n_threads 2 --memory_gb .1")
    assert_same(tmp_path / "save_3.pth", whole / "save_3.pth")


def test_another_seed_changes_everything(data, whole, tmp_path):
    train(data, tmp_path, "--manual_seed 2", schedule=SCHEDULE.replace("--n_epochs 3", "--n_epochs 1"))
    one, other = (load_checkpoint(path)["model"] for path in (tmp_path / "save_1.pth", whole / "save_1.pth"))
    assert not torch.equal(one["trunk.conv1.weight"], other["trunk.conv1.weight"])


def test_a_finished_run_is_told_so(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "results")
    before = (tmp_path / "results" / "metrics.jsonl").read_bytes()
    go_on(tmp_path / "results")
    assert "the run is finished" in capsys.readouterr().err
    assert (tmp_path / "results" / "metrics.jsonl").read_bytes() == before
    assert not (tmp_path / "results" / "last.pth").exists()


def test_a_finished_run_goes_on_with_more_epochs(whole, tmp_path, monkeypatch):
    """From its pushed and tuned state; what it did before stays in the log."""
    shutil.copytree(whole, tmp_path / "results")
    at_start, take = [], Trainer.step

    def step(trainer, step, *rest):
        if not at_start:
            at_start.append((step, {key: value.clone() for key, value in trainer.model.state_dict().items()}))
        return take(trainer, step, *rest)

    monkeypatch.setattr(Trainer, "step", step)
    go_on(tmp_path / "results", "--n_epochs 4")
    (first, state), finished = at_start[0], load_checkpoint(whole / "save_3.pth")["model"]
    assert first == ("joint", 4, 0)
    assert all(torch.equal(value, finished[key]) for key, value in state.items())
    found = load_checkpoint(tmp_path / "results" / "save_4.pth")
    assert found["done"] == ["last", 4, 2] and found["push_record"]["epoch"] == 4 and found["args"]["n_epochs"] == 4
    assert_same(tmp_path / "results" / "save_3.pth", whole / "save_3.pth")
    lines = (tmp_path / "results" / "metrics.jsonl").read_text()
    assert lines.startswith((whole / "metrics.jsonl").read_text())


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


def test_metrics_come_with_inference_and_calibration_holds_out_groups(data, tmp_path, capsys):
    def strict(value):
        raise AssertionError(f"{value} is not JSON")

    results = train(data, tmp_path / "results", "--calibrate --inference --target_accuracy .6", schedule=QUICK)
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


def test_going_back_keeps_what_lies_ahead(whole, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    with cut("joint", 1, "term"):
        call("--resume_path", results / "save_1.pth", CALL)
    assert "save_3.pth.ahead" in capsys.readouterr().err
    assert {path.name for path in results.glob("save_*")} == {"save_1.pth", "save_2.pth.ahead", "save_3.pth.ahead"}
    go_on(results)
    assert_same(results / "save_3.pth", results / "save_3.pth.ahead")


def test_a_run_asked_to_stop_in_its_last_step_does_not_infer(data, tmp_path):
    with cut("last", 1, "term"):
        train(data, tmp_path, "--inference", schedule=QUICK)
    assert (tmp_path / "save_1.pth").is_file() and not (tmp_path / "val.json").exists()


def test_short_videos_and_unpushed_prototypes_are_told_of(data, whole, tmp_path, capsys):
    train(data, tmp_path, "--sample_duration 13", schedule=QUICK)
    assert "12 of 12 videos are shorter than a clip" in capsys.readouterr().err
    call("--resume_path", whole / "save_1.pth", "--result_path", tmp_path / "out", CALL,
         "--no_train --no_val --inference")
    said = capsys.readouterr().err
    assert "nothing was pushed" in said and "shorter" not in said


def test_overwrite_begins_afresh(data, whole, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    (results / "metrics.json").write_text("{}")  # of the model that goes
    train(data, results, "--overwrite", schedule=QUICK)
    assert not (results / "metrics.json").exists()
    assert {path.name for path in results.glob("*.pth")} == {"trunk.pth", "save_1.pth"}
    events = [json.loads(line)["event"] for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert events.count("start") == 1


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
    assert "head dropped (fc.weight)" in capsys.readouterr().err
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


# --- bad input


def fresh(data: Path, results: Path) -> list:
    return ["--root_path", data, "--result_path", results, DATA, MODEL, QUICK, CALL]


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

    make = main.make_loader
    monkeypatch.setattr(main, "make_loader", make_loader)
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


def test_the_newest_whole_checkpoint_is_taken(whole, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    (results / "save_3.pth").write_bytes((whole / "save_3.pth").read_bytes()[:-500])
    go_on(results)
    assert_same(results / "save_3.pth", whole / "save_3.pth")


@pytest.mark.slow
def test_one_sentence_from_the_command_line(data, tmp_path):
    done = shell(tmp_path / "log.txt", "main.py", *fresh(data, tmp_path / "results"), "--annotation_path nowhere.json")
    said = (tmp_path / "log.txt").read_text()
    assert done.returncode == 2 and said.startswith("error: ") and said.count("\n") == 1 and "nowhere.json" in said


# --- odd data, survived


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
