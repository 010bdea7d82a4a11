"""Two processes of a run of which one is killed: the other ends with one sentence, soon, and both go on."""

import time

import numpy as np

from benchmarks.fuzz.forked import Ended, Fork, running, start
from benchmarks.fuzz.inputs import SHOWN
from benchmarks.fuzz.lab import Fault, Found, Lab
from benchmarks.fuzz.runs import SCENARIOS, half_written, ready, same, trained
from benchmarks.fuzz.store import store_port

SOON = 60.0  # seconds in which the other has to end
NAME = "training"


def both(lab: Lab, kill: tuple[int, float] | None = None) -> tuple[list[Ended], float]:
    """Run two processes; how each ended, and the seconds from the kill to the end of the other.

    Args:
        kill: the rank to kill, and after how many seconds.
    """
    scenario = SCENARIOS[NAME]
    with store_port() as port:
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
               "TORCHELASTIC_USE_AGENT_STORE": "True"}
        forks: list[Fork] = [start(scenario.script, scenario.words, folder=lab.work,
                                   log=lab.log.with_name(f"printed_{rank}.txt"),
                                   env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
        with running(*forks):
            if kill is None:
                return [fork.end() for fork in forks], 0.0
            rank, at = kill
            time.sleep(at)
            forks[rank].kill()
            killed = time.monotonic()
            other = forks[1 - rank].end(killed - forks[1 - rank].started + SOON)
            ended = [forks[rank].end(), other]
            return (ended if rank == 0 else ended[::-1]), time.monotonic() - killed


def case(lab: Lab, seed: int) -> Found:
    """A run of two processes of which one is killed, and again to its end."""
    rng = np.random.default_rng((4, seed))
    if "two processes" not in lab.references:
        ready(lab, SCENARIOS[NAME])
        begun = time.monotonic()
        ended, _ = both(lab)
        if any(one.code for one in ended):
            raise RuntimeError(f"two processes: {[one.text[-1000:] for one in ended]}")
        lab.references["two processes"] = trained(lab.work / "out"), time.monotonic() - begun, 0
    expected, seconds, _ = lab.references["two processes"]
    folder, found = ready(lab, SCENARIOS[NAME]), Found(1)
    rank, at = int(rng.integers(2)), rng.uniform(0, seconds)
    where = f"{NAME} in two processes, rank {rank} killed after {at:.3f} s of {seconds:.3f} s"
    ended, waited = both(lab, (rank, at))
    other = ended[1 - rank]
    found.ends.append(f"exit code {other.code}" if not other.fault else "fault")
    if other.fault:
        found.faults.append(Fault(where, f"the other {other.fault}", other.text[-SHOWN:]))
    elif waited > SOON:
        found.faults.append(Fault(where, f"the other takes {waited:.0f} s", other.text[-SHOWN:]))
    found.faults += [Fault(where, f"half-written: {one}") for one in half_written(folder / "out")]
    again, _ = both(lab)
    bad = [one for one in again if one.fault or one.code]
    if bad:
        found.faults.append(Fault(where, f"does not go on: {bad[0].fault or bad[0].code}", bad[0].text[-SHOWN:]))
    elif difference := same(trained(folder / "out"), expected):
        found.faults.append(Fault(where, f"ends at other bits: {difference}"))
    return found
