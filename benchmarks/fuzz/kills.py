"""Kills at random instants of scripts that write: nothing half-written, and the same bits after going on."""

import time

import numpy as np

from benchmarks.fuzz.forked import run, running, start
from benchmarks.fuzz.inputs import SHOWN
from benchmarks.fuzz.lab import Fault, Found, Lab
from benchmarks.fuzz.runs import SCENARIOS, half_written, ready, reference, same

MOST = 5  # kills of one run before it may end
NAMES = tuple(name for name, scenario in SCENARIOS.items() for _ in range(3 if scenario.trains else 1))


def case(lab: Lab, seed: int) -> Found:
    """A run that is killed once or more and then goes on to its end."""
    rng = np.random.default_rng((2, seed))
    name = NAMES[rng.integers(len(NAMES))]
    scenario = SCENARIOS[name]
    expected, seconds, _ = reference(lab, name)
    folder, found = ready(lab, scenario), Found()
    where = f"{name}: {scenario.script} {' '.join(scenario.words)}"
    for _ in range(int(rng.integers(1, MOST + 1))):
        at = rng.uniform(0, 1.05 * seconds)
        fork = start(scenario.script, scenario.words, folder=folder, log=lab.log)
        with running(fork):
            until = time.monotonic() + at
            while time.monotonic() < until and (code := fork.poll()) is None:
                time.sleep(0.001)
        if code is None:
            fork.end()
            found.n += 1
            found.ends.append("killed")
        else:
            found.ends.append(f"exit code {code} before the kill")
        broken = half_written(folder / "out")
        found.faults += [Fault(f"{where}, killed after {at:.3f} s of {seconds:.3f} s", f"half-written: {one}")
                         for one in broken]
    ended = run(scenario.script, scenario.words, folder=folder, log=lab.log)
    if ended.fault or ended.code:
        found.faults.append(Fault(where, f"does not go on after {found.n} kills: "
                                  f"{ended.fault or f'exit code {ended.code}'}", ended.text[-SHOWN:]))
    elif difference := same(scenario.canonical(folder / "out"), expected):
        what = f"ends at other bits after {found.n} kills: {difference}"
        found.faults.append(Fault(where, what, ended.text[-SHOWN:]))
    return found
