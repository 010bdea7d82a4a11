"""Work in several processes, as torchrun would start them, but forked: nothing is imported again."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import TCPStore


@dataclass
class Ended:
    """How a process ended: exit code, or minus the signal; and what it printed."""

    code: int
    said: str


def in_processes(size: int, work: Callable[[int], None], folder: Path, seconds: float = 1800) -> list[Ended]:
    """Call `work(rank)` in each of `size` processes, which end with exit code 0 where it returns.

    size: 1 makes one process without torchrun's variables. folder: for what they print.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun keeps it
    logs = [folder / f"printed_by_{rank}_of_{size}.txt" for rank in range(size)]
    children = [_fork(work, rank, size, store.port, log) for rank, log in enumerate(logs)]
    codes: dict[int, int] = {}
    until = time.monotonic() + seconds
    while len(codes) < size:
        for child in set(children) - set(codes):
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return [Ended(codes[child], log.read_text()) for child, log in zip(children, logs, strict=True)]


def _fork(work: Callable[[int], None], rank: int, size: int, port: int, log: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(log, "w", buffering=1) as out:
            sys.stdout = sys.stderr = out
            if size > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
                                  MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
            try:
                work(rank)
                code = 0
            except SystemExit as ended:
                code = ended.code
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)
