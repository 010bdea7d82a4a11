"""How many loader processes fit into the shared memory in which they hand over their batches."""

import math
import shutil
import sys

FOLDER = "/dev/shm"
AHEAD = 4  # batches that a loader process has ready at most
SHARE = 0.45  # of what is free, for one of two loaders that are filled at a time
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
    try:
        room = SHARE * shutil.disk_usage(FOLDER).free / batch_bytes if batch_bytes else math.inf
    except OSError:  # not Linux
        room = math.inf
    n = int(min(n_processes, room))
    if n < n_processes and "fewer" not in _said:
        _said.add("fewer")
        print(f"warning: {FOLDER} is too small for the batches of {n_processes} loader processes: {n or 'none'} "
              "of them start; give the container more shared memory (docker run --shm-size=8g), or a smaller "
              "--batch_size", file=sys.stderr)
    return n, int(min(AHEAD, room // n)) if n else 0
