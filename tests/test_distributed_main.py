"""A whole run in several processes gives what one process gives, and ends and resumes in order."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import Ended, in_processes
from program import DATA, MODEL, ROOT, assert_same, call, write_data

from training.checkpoint import load_checkpoint
from training.engine import Trainer

SCHEDULE = ("--trunk_epochs 1 --warm_epochs 1 --n_epochs 2 --push_start 2 --tune_iterations 2 --checkpoint 1 "
            "--batch_size 6 --push_clips 1 --ways_clips 1 --cache_features 0 --trunk_optimizer sgd --optimizer sgd "
            "--n_threads 0 --no_cuda --no_img")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def run(size: int, data: Path, results: Path, *more: str | Path) -> list[Ended]:
    """main.py in several processes."""
    def work(rank: int) -> None:
        call("--root_path", data, "--result_path", results, DATA, MODEL, SCHEDULE, *more)
    results.mkdir(exist_ok=True, parents=True)
    return in_processes(size, work, results)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("alone")
    ended, = run(1, data, results, "--inference --inference_stride 3")
    assert ended.code == 0, ended.said
    return results


def events(results: Path) -> list[dict]:
    return [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def shared(request, data, tmp_path_factory) -> tuple[int, Path]:
    """How many processes, and their results."""
    results = tmp_path_factory.mktemp(f"shared_by_{request.param}")
    ended = run(request.param, data, results, "--batchnorm_sync")
    assert [one.code for one in ended] == [0] * request.param, "\n".join(one.said for one in ended)
    assert ended[0].said and not any(one.said for one in ended[1:])
    return request.param, results


def test_a_run_of_several_processes_is_the_run_of_one(alone, shared):
    """Losses and weights of each kind of epoch, to 1e-3; the warm epoch's optimiser is Adam, which divides by almost
    nothing at first."""
    _, results = shared
    told, expected = events(results), events(alone)
    assert [event["done"] for event in told] == [event["done"] for event in expected]
    for one, other in zip(told, expected, strict=True):
        for name in set(other) - {"event", "done", "clips_per_s", "seconds", "picture_seconds"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (other["event"], name)
    for name in ("trunk.pth", "save_1.pth", "save_2.pth"):
        one, other = load_checkpoint(results / name), load_checkpoint(alone / name)
        assert one["done"] == other["done"]
        torch.testing.assert_close(one["model"], other["model"], rtol=1e-3, atol=1e-4)
    one, other = (json.loads((folder / "prototypes.json").read_text()) for folder in (results, alone))
    assert [(row["video"], row["frames"], row["cell"]) for row in one] == [
        (row["video"], row["frames"], row["cell"]) for row in other]
    assert not list(results.glob("*.part"))


def test_predictions_of_several_processes_are_those_of_one(alone, shared, data, tmp_path):
    size, _ = shared
    ended = run(size, data, tmp_path, "--resume_path", alone / "save_2.pth",
                "--no_train --no_val --inference --inference_stride 3")
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    found, expected = (json.loads((folder / "val.json").read_text()) for folder in (tmp_path, alone))
    for rows in (found["videos"], expected["videos"]):
        for row in rows.values():  # whose sums are taken in another order
            row["backoff"]["probability"] = round(row["backoff"]["probability"], 9)
    assert found["videos"] == expected["videos"] and found["tree"] == expected["tree"]
    assert list(found["results"]) == list(expected["results"])
    for name, guesses in expected["results"].items():
        assert [guess["label"] for guess in found["results"][name]] == [guess["label"] for guess in guesses]
        for one, other in zip(found["results"][name], guesses, strict=True):
            assert [one["score"], *one["path_scores"]] == pytest.approx([other["score"], *other["path_scores"]],
                                                                        abs=1e-5)


def test_warm_epochs_share_the_features_that_are_kept(data, tmp_path):
    warm = "--trunk_epochs 0 --warm_epochs 2 --n_epochs 2 --cache_features 1 --tune_iterations 1 --no_val"
    for size in (1, 2):
        ended = run(size, data, tmp_path / str(size), warm)
        assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
        assert "computed once and kept" in ended[0].said
    one, other = (events(tmp_path / str(size)) for size in (1, 2))
    for first, second in zip(one, other, strict=True):
        assert first["done"] == second["done"]
        assert first.get("loss", 0) == pytest.approx(second.get("loss", 0), rel=1e-3)


def cut_short(size: int, data: Path, results: Path, rank: int, number: int, kind: str, nth: int,
              *more: str) -> list[Ended]:
    """main.py in several processes, of which one sends itself a signal at its nth step of a kind."""
    take, count = Trainer.step, 0

    def step(trainer, step, *rest):
        nonlocal count
        count += step.kind == kind
        if trainer.world.rank == rank and step.kind == kind and count == nth:
            os.kill(os.getpid(), number)
        return take(trainer, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        return run(size, data, results, *more)


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
                                    pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_one_stops_all_after_the_same_step(shared, data, tmp_path, number):
    size, whole = shared
    if (size == 3) != (number == signal.SIGUSR1):
        pytest.skip("one of three gets SIGUSR1, one of two the others")
    ended = cut_short(size, data, tmp_path, 1, number, "joint", 1, "--batchnorm_sync")
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    assert load_checkpoint(tmp_path / "last.pth")["done"] == ["joint", 2, 0]
    assert "asked to stop" in ended[0].said
    ended = run(size, data, tmp_path, "--resume_path auto")
    assert_same(tmp_path / "save_2.pth", whole / "save_2.pth")


def test_where_one_is_killed_all_end_and_a_resumed_run_ends_at_the_same_bits(shared, data, tmp_path):
    size, whole = shared
    if size == 2:
        pytest.skip("two are started again by torchrun, below")
    ended = cut_short(size, data, tmp_path, 1, signal.SIGKILL, "joint", 2, "--batchnorm_sync")
    assert [one.code for one in ended] == [2, -signal.SIGKILL, 2][:size]
    said = "".join(one.said for one in ended)
    assert said.count("error: ") == 1 and "another process" in said and "--resume_path auto" in said, said
    assert not any("Traceback" in one.said for one in ended)
    assert load_checkpoint(tmp_path / "save_1.pth")["done"] == ["warm", 1, 1]
    ended = run(size, data, tmp_path, "--resume_path auto")
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    assert_same(tmp_path / "save_2.pth", whole / "save_2.pth")


def test_one_sentence_from_all(data, tmp_path):
    for more, words in (("--annotation_path nowhere.json", "nowhere.json"), ("--batch_size 1", "2 processes")):
        ended = run(2, data, tmp_path / words[0], more)
        assert [one.code for one in ended] == [2, 2]
        said = [line for one in ended for line in one.said.splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and words in said[0], ended


CUT_ONCE = """
import os, runpy, signal, sys
from training.engine import Trainer
number, take, count = signal.Signals[sys.argv[1]], Trainer.step, 0
def step(self, step, *rest):
    global count
    count += step.kind == "joint"
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], step.kind, count) == ("1", "0", "joint", 2):
        os.kill(os.getpid(), number)
    return take(self, step, *rest)
Trainer.step = step
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def torchrun(data: Path, results: Path, number: str, *before: str) -> subprocess.CompletedProcess:
    """The command line of docs/CLUSTER.md, with two processes, of which one cuts itself short once."""
    results.mkdir()
    (script := results / "cut_once.py").write_text(CUT_ONCE)
    words = ["-m torch.distributed.run --standalone --nproc_per_node 2 --max_restarts 1", script, number, "main.py",
             "--root_path", data, "--result_path", results, DATA, MODEL, SCHEDULE,
             "--batchnorm_sync --resume_path auto"]
    line = [word for part in words for word in (part.split() if isinstance(part, str) else [str(part)])]
    with open(results / "log.txt", "w") as out:
        return subprocess.run([*before, sys.executable, *line], cwd=ROOT, stdout=out, stderr=out, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_torchrun_starts_the_processes_again_when_one_is_killed(shared, data, tmp_path):
    size, whole = shared
    if size != 2:
        pytest.skip("asked of two")
    ended = torchrun(data, tmp_path / "results", "SIGKILL")
    said = (tmp_path / "results" / "log.txt").read_text()
    assert ended.returncode == 0, said
    assert said.count("error: ") == 1 and "another process" in said and "going on from here" in said
    assert_same(tmp_path / "results" / "save_2.pth", whole / "save_2.pth")


@pytest.mark.slow
def test_under_torchrun_a_signal_ends_the_run_in_order(data, tmp_path):
    ended = torchrun(data, tmp_path / "results", "SIGUSR1", "bash", "-c", 'trap "" USR1; exec "$@"', "bash")
    assert ended.returncode == 0, (tmp_path / "results" / "log.txt").read_text()
    assert load_checkpoint(tmp_path / "results" / "last.pth")["done"] == ["joint", 2, 1]
