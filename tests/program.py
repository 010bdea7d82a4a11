"""The scripts of the project, called in this process on a tiny data set: fifty times faster than another process."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_frames

import local_analysis
import local_analysis_parents
import main
from hierarchy.tree import Hierarchy
from options.errors import user_errors
from run import steps
from run.loop import HANDLERS
from training.checkpoint import load_checkpoint
from training.engine import Trainer

ROOT = Path(__file__).parents[1]
ROWS = [("Run", "Legs", "Body"), ("Jump", "Legs", "Body"), ("Wave", "Arms", "Body"), ("Saw", "Tool", "Thing")]
TREE = Hierarchy.from_rows(ROWS)
HEIGHT, WIDTH, FRAMES = 36, 48, 12
DATA = "--video_path jpg --annotation_path ucf101_01.json --tree_file tree.csv"
MODEL = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1 --sample_size 32 "
         "--sample_duration 8 --prototype_channels 6 --prototypes_per_node 2 --emb_dim 8")
SCHEDULE = ("--trunk_epochs 2 --warm_epochs 1 --n_epochs 3 --push_start 2 --push_every 1 --tune_iterations 3 "
            "--checkpoint 1 --batch_size 6 --push_clips 2 --ways_clips 1")
QUICK = "--trunk_epochs 1 --warm_epochs 0 --n_epochs 1 --tune_iterations 1 --batch_size 6 --push_clips 1"
CALL = "--n_threads 0 --no_cuda --no_img"


def write_data(root: Path, rows=ROWS, n_train: int = 3, n_val: int = 1) -> Path:
    """Frame folders, annotation and tree, as the util_scripts leave them: each class a square on its own way."""
    database = {}
    for label, row in enumerate(rows):
        for group in range(n_train + n_val):
            name = f"v_{row[0]}_g{group:02d}_c01"
            rng = np.random.default_rng((label, group))
            frames = rng.integers(90, size=(1, HEIGHT, WIDTH, 3)) + rng.integers(9, size=(FRAMES, 1, 1, 3))
            for t in range(FRAMES):
                y, x = (3 + 2 * t, 20) if label % 2 else (14, 4 + 3 * t)
                frames[t, y:y + 9, x:x + 9, label % 3] = 250
            info = {"n_frames": FRAMES, "height": 2 * HEIGHT, "width": 2 * WIDTH, "fps": 10}
            write_frames(root / "jpg" / row[0] / name, frames.astype(np.uint8), info=info)
            database[name] = {"subset": "training" if group < n_train else "validation",
                              "annotations": {"label": row[0], "segment": [1, FRAMES + 1]}}
    content = {"labels": [row[0] for row in rows], "database": database}
    (root / "ucf101_01.json").write_text(json.dumps(content))
    (root / "tree.csv").write_text("".join(",".join((*row, "Root")) + "\n" for row in rows))
    return root


def call(*lines: str | Path) -> None:
    """main.py in this process: fifty times faster than another one."""
    with user_errors():
        main.main([word for line in lines for word in (line.split() if isinstance(line, str) else [str(line)])])


def explain_classes(*words: str | Path) -> None:
    """local_analysis.py in this process."""
    with user_errors():
        local_analysis.main([*map(str, words), "--no_cuda"])


def explain_ancestors(*words: str | Path) -> None:
    """local_analysis_parents.py in this process."""
    with user_errors():
        local_analysis_parents.main([*map(str, words), "--no_cuda"])


def train(data: Path, results: Path, *more: str | Path, schedule: str = SCHEDULE) -> Path:
    call("--root_path", data, "--result_path", results, DATA, MODEL, schedule, CALL, *more)
    return results


def go_on(results: Path, *more: str) -> None:
    """As a person would: no flag but where."""
    call("--resume_path auto --result_path", results, CALL, *more)


def flat(value, name: str = "") -> dict:
    """The leaves of nested dicts and lists by their paths."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for inner, one in items for key, leaf in flat(one, f"{name}/{inner}").items()}
    return {name: value}


def assert_same(one: Path, other: Path) -> None:
    """Two checkpoints are the same to the bit in everything but where they were written."""
    first, second = (flat({key: value for key, value in load_checkpoint(path).items() if key != "args"})
                     for path in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == second[name].dtype and torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


class Killed(BaseException):
    """What kill -9 would have done."""


@contextlib.contextmanager
def cut(kind: str, nth: int, how: str):
    """Make the nth step of a kind the last one of this run: "term" asks it to stop, "kill" ends it at once."""
    count = 0

    def passing(found: str) -> None:
        nonlocal count
        count += found == kind
        if found == kind and count == nth:
            if how == "kill":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)

    def wrap(function, kind_of):
        def wrapped(*args, **options):
            result = function(*args, **options)
            passing(kind_of(*args))
            return result
        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", wrap(Trainer.step, lambda trainer, step, *_: step.kind))
        patch.setattr(Trainer, "tune", wrap(Trainer.tune, lambda *_: "tune"))
        for name in ("start_prototypes", "spread_prototypes"):
            patch.setattr(steps, name, wrap(getattr(steps, name), lambda *_: "start"))
        patch.setattr(steps, "push", wrap(steps.push, lambda *_: "push"))
        for name in set(HANDLERS) - {"trunk", "start", "warm", "joint", "push", "tune"}:
            patch.setitem(HANDLERS, name, wrap(HANDLERS[name], lambda work, step, _: step.kind))
        if how == "kill":
            with pytest.raises(Killed):
                yield
        else:
            yield
    assert count == nth


def refused(capsys, *lines: str | Path, caller=call) -> str:
    """The one sentence of a call that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        caller(*lines)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in err
    errors = [line for line in re.split("[\r\n]+", err)
              if line.strip() and "it/s]" not in line and not line.startswith(("no CUDA device", "warning: "))]
    assert len(errors) == 1 and errors[0].startswith("error: "), err
    return errors[0]


def fresh(data: Path, results: Path) -> list:
    return ["--root_path", data, "--result_path", results, DATA, MODEL, QUICK, CALL]


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
