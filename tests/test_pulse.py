"""However long one process works, the others wait; one that is gone is missed."""

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import in_processes
from program import DATA, MODEL, ROOT
from torch.distributed import PrefixStore, TCPStore

from training import distributed
from training.distributed import joined
from training.pulse import Pulse

PATIENCE = 1.0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", datetime.timedelta(seconds=PATIENCE))


@pytest.mark.parametrize("wait", ["total", *(pytest.param(wait, marks=pytest.mark.slow)
                                             for wait in ("align", "main_first", "objects"))])
def test_the_others_wait_for_one_that_works(tmp_path, impatient, wait):
    """For three times as long as a process may be silent, whichever way they wait."""
    def work(rank: int) -> None:
        with joined() as world:
            if wait == "main_first":
                with world.main_first():
                    if world.is_main:
                        time.sleep(3 * PATIENCE)
                return
            if rank == 0:
                time.sleep(3 * PATIENCE)
            if wait == "align":
                module = torch.nn.Linear(1, 1)
                module.weight.data.fill_(rank)
                world.align(module)
                assert float(module.weight) == 0
            else:
                assert (world.objects(rank) == [0, 1]) if wait == "objects" else (world.total(rank) == 1)

    ended = in_processes(2, work, tmp_path)
    assert [one.code for one in ended] == [0, 0], ended


@pytest.mark.parametrize("silent", [0, 1])
def test_a_process_that_gives_no_sign_of_life_ends_the_run(tmp_path, impatient, silent):
    """As one whose machine has lost its network: its connections stay open, and nothing comes."""
    def work(rank: int) -> None:
        with joined() as world:
            world.total(1)
            if rank == silent:
                (tmp_path / "silent").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            world.total(1)

    def watch() -> None:  # a stopped process is none that has ended
        while not (tmp_path / "silent").exists() or not (tmp_path / "ended").exists():
            time.sleep(0.05)
        os.kill(int((tmp_path / "silent").read_text()), signal.SIGKILL)

    def worked(rank: int) -> None:
        try:
            work(rank)
        finally:
            (tmp_path / "ended").write_text("")

    began, exit_now = time.monotonic(), os._exit

    def ended_by(code: int) -> None:
        (tmp_path / "ended").write_text("")
        exit_now(code)

    watcher = os.fork()
    if not watcher:
        watch()
        os._exit(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed.os, "_exit", ended_by)
        ended = in_processes(2, worked, tmp_path)
    os.waitpid(watcher, 0)
    assert ended[1 - silent].code == 2 and time.monotonic() - began < 60
    said = ended[1 - silent].said
    assert said.count("error: ") == 1 and f"process {silent}" in said and "--resume_path auto" in said


def pulse(rank: int, store: TCPStore, lost: list[int]) -> Pulse:
    return Pulse(PrefixStore("run", store), rank, 2, PATIENCE, lost.append)


@pytest.mark.slow
def test_one_that_has_ended_is_not_missed():
    store, lost = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), []
    with pulse(0, store, lost):
        with pulse(1, store, lost):
            time.sleep(PATIENCE / 2)
        time.sleep(2 * PATIENCE)
    assert not lost
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pulse(0, store, lost):  # the other never began
        time.sleep(2 * PATIENCE)
    assert lost == [1]


SLOW = """
import datetime, os, runpy, sys, time
from run import steps
from training import distributed
distributed.PATIENCE = datetime.timedelta(seconds=4)
def slow(function):
    def wrapped(*args, **options):
        if os.environ["RANK"] == "0":
            time.sleep(9)
        return function(*args, **options)
    return wrapped
steps.spread_prototypes, steps.prototype_pictures = slow(steps.spread_prototypes), slow(steps.prototype_pictures)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_under_torchrun_a_slow_start_and_slow_drawing(data, tmp_path):
    """Both are process 0's alone, and take longer than a process may be silent."""
    (script := tmp_path / "slow.py").write_text(SLOW)
    words = ("-m torch.distributed.run --standalone --nproc_per_node 2", script, "main.py --root_path", data,
             "--result_path", tmp_path / "results", DATA, MODEL, "--trunk_epochs 1 --warm_epochs 1 --n_epochs 1 "
             "--push_start 1 --tune_iterations 1 --batch_size 6 --push_clips 1 --n_threads 0 --no_cuda")
    line = [word for part in words for word in (part.split() if isinstance(part, str) else [str(part)])]
    ran = subprocess.run([sys.executable, *line], cwd=ROOT, capture_output=True, text=True, check=False,
                         env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert ran.returncode == 0, ran.stderr
    assert Path(tmp_path, "results", "save_1.pth").is_file() and list((tmp_path / "results" / "img").rglob("*.gif"))
