"""Spoilt inputs of all kinds through every script: exit code 0 or 2, no traceback, no hang, no changed input."""

from pathlib import Path

import numpy as np

from benchmarks.fuzz.forked import run
from benchmarks.fuzz.lab import Fault, Found, Lab, stamps
from benchmarks.fuzz.lines import LINES
from benchmarks.fuzz.spoiling import spoil_file, spoil_folder

WHOLE_FOLDER = 0.2  # share of the cases in which a folder is spoilt and not a file in it
SHOWN = 1500  # characters of what a script printed that are kept of a fault


def spoil(folder: Path, inputs: tuple[str, ...], rng: np.random.Generator, lab: Lab) -> list[str]:
    """Spoil one input, or some; in words what and how."""
    told = []
    for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 6))):
        name = inputs[rng.integers(len(inputs))]
        path = folder / name
        if path.is_dir() and not path.is_symlink() and rng.random() > WHOLE_FOLDER:
            files = sorted(inner for inner in path.rglob("*") if inner.is_file() and not inner.is_symlink())
            path = files[rng.integers(len(files))] if files else path
        if path.is_dir() and not path.is_symlink():
            told.append(f"{name} {spoil_folder(path, rng, lab.files)}")
        elif path.is_file() and not path.is_symlink():
            told.append(f"{path.relative_to(folder)} {spoil_file(path, rng, lab.files)}")
    return told


def case(lab: Lab, seed: int) -> Found:
    """One command line on inputs of which some are spoilt."""
    rng = np.random.default_rng((1, seed))
    shares = np.array([line.share for line in LINES])
    line = LINES[rng.choice(len(LINES), p=shares / shares.sum())]
    folder = lab.fresh(line.reads)
    told = spoil(folder, line.inputs, rng, lab)
    before = stamps(folder)
    ended = run(line.script, line.words, folder=folder, log=lab.log)
    where = f"{line.script} {' '.join(line.words)} [{'; '.join(told)}]"
    found = Found(max(len(told), 1), [f"exit code {ended.code}" if not ended.fault else "fault"])
    if ended.fault:
        found.faults.append(Fault(where, ended.fault, ended.text[-SHOWN:]))
    after = stamps(folder)
    changed = [name for name, stamp in before.items()
               if after.get(name) != stamp and not name.startswith(line.writes)]
    if changed:
        found.faults.append(Fault(where, f"changes its input: {', '.join(changed[:3])}", ended.text[-SHOWN:]))
    return found
