"""What runs out in the middle of a run is told in one sentence, or does not run out."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from limited import in_child, limit, sentence
from processes import Ended
from program import DATA, MODEL, ROOT, SCHEDULE, write_data
from torch.utils.data import DataLoader, Dataset

from machine import shortage
from options.errors import user_errors
from training.checkpoint import newest_whole
from training.features import Shelf, valid_clips

LOADED = "--n_threads 2 --no_cuda --no_img"


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError(), "memory"), (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
    (OSError(errno.EMFILE, "Too many open files"), "ulimit"), (BlockingIOError(errno.EAGAIN, "x"), "--n_threads"),
    (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm"),
    (BrokenProcessPool("died"), "--n_jobs"), (RuntimeError("can't start new thread"), "--n_threads"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "loader process"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                  "are out of shared memory."), "/dev/shm"),
    (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "loader process"),
    (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "/dev/shm"),
    (RuntimeError("unable to open shared memory object </torch_7> in read-write mode: Too many open files (24)"),
     "/dev/shm"),
    (RuntimeError("received 0 items of ancdata"), "ulimit"),
    (RuntimeError("Caught OSError in DataLoader worker process 0.\nOSError: [Errno 24] Too many open files"), "ulimit"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                  "to allocate 9 bytes. Error code 12 (Cannot allocate memory)"), "memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), "GPU")])
def test_the_sentence_of_each_shortage(capsys, error, words):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise error
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and words in said


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("a"),
                                   AssertionError()])
def test_a_mistake_of_the_program_is_none(error):
    assert shortage.shortage(error) is None
    with pytest.raises(type(error)), user_errors():
        raise error


def test_ctrl_c_is_a_line(capsys):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130 and capsys.readouterr().err.count("\n") == 1


def test_torch_itself_without_memory():
    said = sentence(in_child(lambda: torch.empty(1 << 40), limit(resource.RLIMIT_AS, 64 << 30)))
    assert "memory" in said
    assert "memory" in sentence(in_child(lambda: np.ones(1 << 40), limit(resource.RLIMIT_AS, 64 << 30)))


# --- loader processes


def run(data: Path, results: Path, *words: str, code: str = "", before: Callable[[], None] | None = None) -> Ended:
    """main.py in a process of its own, after some code, with two loader processes."""
    script = f"{code}\nimport runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    line = ["main.py", "--root_path", str(data), "--result_path", str(results), *DATA.split(), *MODEL.split(),
            *LOADED.split(), *(word for part in words for word in part.split())]
    ran = subprocess.run([sys.executable, "-c", script, *line], cwd=ROOT, capture_output=True, text=True, check=False,
                         timeout=600, preexec_fn=before,
                         env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    return Ended(ran.returncode, ran.stderr)


KILLED = """
import os, signal, time
from datasets.video import VideoClips
read = VideoClips.__getitem__
def fatal(clips, index):
    if isinstance(index, tuple) and index[0] == 2:  # the second epoch
        while not os.path.exists({!r}):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return read(clips, index)
VideoClips.__getitem__ = fatal
"""


def test_a_loader_process_that_is_killed(data, tmp_path):
    """As the kernel does when memory falls short: in the middle of an epoch, after a checkpoint."""
    results = tmp_path / "results"
    said = sentence(run(data, results, SCHEDULE, code=KILLED.format(str(results / "trunk.pth"))))
    assert "loader process" in said and "--n_threads" in said
    assert newest_whole(results).name == "trunk.pth"


class Noise(Dataset):
    """Items as clips are, and not all of them."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, i: int) -> dict:
        return {"clip": torch.zeros(3, 2, 8, 8), "label": i % 4, "video": i, "item": i, "asked": i, "valid": True,
                "frames": torch.arange(2), "crop": torch.zeros(4), "flip": False}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be counted here")
def test_open_files_do_not_grow_however_much_of_a_batch_is_kept():
    kept, counts, shelf = [], [], Shelf(400, 1 << 30, None)
    loader = DataLoader(Noise(), batch_size=4, num_workers=2)
    for batch in valid_clips(loader, torch.device("cpu")):
        kept.append({key: value.cpu() for key, value in batch.items() if key != "clip"})
        shelf.add(batch["clip"], batch)
        counts.append(open_files())
    assert len(counts) == 100 and np.median(counts[60:]) <= np.median(counts[10:40]) + 4, counts
    assert shelf.kept().items.tolist() == list(range(400))
    assert torch.cat([batch["video"] for batch in kept]).tolist() == list(range(400))


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--starts sampled", "--push_on training"])
def test_a_run_with_few_open_files(tmp_path, more):
    """128 files, of which two loader processes have 72 in use, and a batch for each two of 60 videos."""
    data = write_data(tmp_path / "data", n_train=15, n_val=2)
    schedule = ("--trunk_epochs 1 --warm_epochs 1 --n_epochs 2 --push_start 2 --tune_iterations 1 --batch_size 2 "
                "--push_clips 2 --ways_clips 1 --no_val")
    ended = run(data, tmp_path / "results", schedule, more, before=limit(resource.RLIMIT_NOFILE, 128))
    assert ended.code == 0, ended.said
    assert newest_whole(tmp_path / "results").name == "save_2.pth"


@pytest.mark.slow
def test_too_few_open_files_are_told_of(data, tmp_path):
    """But a run needs none of its loader processes."""
    ended = run(data, tmp_path / "results", SCHEDULE, before=limit(resource.RLIMIT_NOFILE, 50))
    assert ended.code == 0 and "ulimit" in ended.said and ended.said.count("warning") == 1, ended.said


# --- mounts of their own


def mounted(size: str, where: Path, *line: str | Path) -> subprocess.CompletedProcess:
    """A command line with a small file system in memory at `where`; the test is skipped where none can be mounted."""
    inner = f'mount -t tmpfs -o size={size} tmpfs {where} && exec "$@"'
    trial = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs tmpfs {where}"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    return subprocess.run(["unshare", "-m", "sh", "-c", inner, "sh", *map(str, line)], cwd=ROOT, capture_output=True,
                          text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize(("size", "processes"), [("4m", "none"), ("1g", None)])
def test_a_small_shared_memory(data, tmp_path, size, processes):
    """The default batch is larger than what a stock container has."""
    line = ["--root_path", data, "--result_path", tmp_path / "results", *DATA.split(), *MODEL.split(),
            *SCHEDULE.split(), *LOADED.split(), "--sample_size", "112", "--batch_size", "12", "--n_epochs", "1",
            "--push_start", "1"]
    ran = mounted(size, Path("/dev/shm"), sys.executable, "main.py", *line)
    assert ran.returncode == 0, ran.stderr
    assert ("/dev/shm" in ran.stderr and "--shm-size" in ran.stderr) == (processes is not None)


@pytest.mark.slow
def test_a_small_disk(data, tmp_path):
    """Checkpoints of 2.9, 1.1 and 2.9 MB on a disk of six: the last whole one stays readable."""
    (room := tmp_path / "room").mkdir()
    keep = tmp_path / "kept"
    line = ["main.py", "--root_path", data, "--result_path", room / "results", *DATA.split(), *MODEL.split(),
            *SCHEDULE.split(), "--n_threads", "0", "--no_cuda", "--tensorboard"]
    # the mount ends with the process: what is in it is copied out by the shell that waits for it
    shell = f'"$@"; code=$?; cp -r {room} {keep}; exit $code'
    ran = mounted("6m", room, "sh", "-c", shell, "sh", sys.executable, *map(str, line))
    errors = [text for text in ran.stderr.replace("\r", "\n").splitlines() if text.startswith("error: ")]
    assert ran.returncode == 2 and "Traceback" not in ran.stderr and len(errors) == 1, ran.stderr
    assert "No space left" in errors[0] and str(room) in errors[0]
    assert newest_whole(keep / "results").name == "save_1.pth" and not list(keep.rglob("*.part"))
