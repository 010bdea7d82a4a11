"""Disks that fill at a random write: one sentence, a whole newest checkpoint, and the same bits once there is space."""

import contextlib
import resource
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.fuzz.forked import run
from benchmarks.fuzz.inputs import SHOWN
from benchmarks.fuzz.lab import Fault, Found, Lab
from benchmarks.fuzz.runs import SCENARIOS, half_written, ready, reference, same

PAGE = 4096
ROOM = 1 << 30  # bytes once space was made


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of `size` bytes over an empty folder, or over what is in it; whether one can be mounted here."""
    held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    mounted = _mount("-t", "tmpfs", "-o", f"size={size + sum(map(len, held.values()))}", "tmpfs", str(folder))
    try:
        if mounted:
            for path, content in held.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    path.write_bytes(content)
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def small_files(size: int) -> None:
    """Let no file of this process grow beyond `size` bytes, where no file system can be mounted."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def case(lab: Lab, seed: int) -> Found:
    """A run on a disk that is too small for it, or nearly, and again after space was made."""
    rng = np.random.default_rng((3, seed))
    name = list(SCENARIOS)[rng.integers(len(SCENARIOS))]
    scenario = SCENARIOS[name]
    expected, _, size = reference(lab, name)
    folder, found = ready(lab, scenario), Found(1)
    room = int(rng.uniform(1, max(1.1 * size / PAGE, 2))) * PAGE
    where = f"{name}: {scenario.script} {' '.join(scenario.words)}, {room} of {size} bytes free"
    with small_disk(folder / "out", room) as mounted:
        before = None if mounted else partial(small_files, room)
        ended = run(scenario.script, scenario.words, folder=folder, log=lab.log, before=before)
        found.ends.append(f"exit code {ended.code}" if not ended.fault else "fault")
        if ended.fault:
            found.faults.append(Fault(where, ended.fault, ended.text[-SHOWN:]))
        found.faults += [Fault(where, f"half-written: {one}", ended.text[-SHOWN:])
                         for one in half_written(folder / "out")]
        if mounted:
            _mount("-o", f"remount,size={ROOM}", str(folder / "out"))
        ended = run(scenario.script, scenario.words, folder=folder, log=lab.log)
        if ended.fault or ended.code:
            found.faults.append(Fault(where, f"does not go on once there is space: "
                                      f"{ended.fault or f'exit code {ended.code}'}", ended.text[-SHOWN:]))
        elif difference := same(scenario.canonical(folder / "out"), expected):
            found.faults.append(Fault(where, f"ends at other bits once there is space: {difference}"))
    return found
