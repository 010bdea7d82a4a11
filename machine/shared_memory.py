"""How many loader processes fit into the shared memory and the open files by which they hand over their batches."""

import math
import shutil
import sys

from machine.cores import free_files

FOLDER = "/dev/shm"
AHEAD = 4  # batches that a loader process has ready at most
SHARE = 0.45  # of what is free, for one of two loaders that are filled at a time
FILES = 9  # of a batch, one for each tensor
OTHERS = 16  # files that the rest of the program opens meanwhile
_said: set[str] = set()


def fitting(n_processes: int, batch_bytes: int) -> tuple[int, int]:
    """The loader processes to start, and the batches that each may have ready; 0 of both where not one batch fits.

    A container has 64 MB of shared memory unless it is told otherwise, less than a usual batch; a process that writes
    beyond it is killed. Fewer processes are told of once.

    Args:
        n_processes: that were asked for. batch_bytes: of one batch, 0 where it is not known.
    """
    if not n_processes:
        return 0, 0
    room = {f"{FOLDER} is too small": _memory() / batch_bytes if batch_bytes else math.inf,
            "too few files may be open (ulimit -n)": (free_files() - OTHERS) / FILES}
    why = min(room, key=room.get)
    batches = SHARE * room[why]
    n = int(max(0, min(n_processes, batches)))
    if n < n_processes and "fewer" not in _said:
        _said.add("fewer")
        print(f"warning: {why} for the batches of {n_processes} loader processes: {n or 'none'} of them start; give a "
              "container more shared memory (docker run --shm-size=8g), raise the limit of files, or give a smaller "
              "--batch_size", file=sys.stderr)
    return n, int(min(AHEAD, batches // n)) if n else 0


def _memory() -> float:
    """Bytes of shared memory that are free."""
    try:
        return shutil.disk_usage(FOLDER).free
    except OSError:  # not Linux
        return math.inf
