"""A run that was cut, or goes on with more epochs, ends at the same bits as one that was not."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from program import (
    CALL,
    QUICK,
    SCHEDULE,
    assert_same,
    call,
    cut,
    go_on,
    train,
)

from training.checkpoint import load_checkpoint
from training.engine import Trainer

# In order: 2 x 2 trunk, start, 2 warm, 2 joint, push, 3 tune, 2 joint, push, 3 tune.
N_STEPS = {"trunk": 4, "start": 1, "warm": 2, "joint": 4, "push": 2, "tune": 6}


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
            ("push", 1, "term", ["push", 2, 0]), ("tune", 1, "term", ["last", 2, 0]),
            ("tune", 1, "kill", ["last", 2, 0]), ("joint", 1, "term", ["joint", 3, 0]),
            ("tune", 2, "term", ["last", 3, 1])):
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
    for kind, nth, how in (("start", 1, "kill"), ("joint", 2, "kill"), ("push", 1, "term"), ("tune", 2, "kill")):
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
    with cut("tune", 1, "term"):
        train(data, tmp_path, "--inference", schedule=QUICK)
    assert (tmp_path / "save_1.pth").is_file() and not (tmp_path / "val.json").exists()


def test_overwrite_begins_afresh(data, whole, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    (results / "metrics.json").write_text("{}")  # of the model that goes
    train(data, results, "--overwrite", schedule=QUICK)
    assert not (results / "metrics.json").exists()
    assert {path.name for path in results.glob("*.pth")} == {"trunk.pth", "save_1.pth"}
    events = [json.loads(line)["event"] for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert events.count("start") == 1


def test_the_newest_whole_checkpoint_is_taken(whole, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    (results / "save_3.pth").write_bytes((whole / "save_3.pth").read_bytes()[:-500])
    go_on(results)
    assert_same(results / "save_3.pth", whole / "save_3.pth")
