"""Work in several processes, as torchrun would start them, but forked: nothing is imported again."""

import faulthandler
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.store import store_port


@dataclass
class Ended:
    """How a process ended: exit code, or minus the signal; and what it printed."""

    code: int
    said: str


def in_processes(size: int, work: Callable[[int], None], folder: Path, seconds: float = 900) -> list[Ended]:
    """Call `work(rank)` in each of `size` processes, which end with exit code 0 where it returns.

    size: 1 makes one process without torchrun's variables. folder: for what they print. seconds: after which a process
    prints where it is and ends.
    """
    logs = [folder / f"printed_by_{rank}_of_{size}.txt" for rank in range(size)]
    with store_port() as port:
        children = [_fork(work, rank, size, port, log, seconds) for rank, log in enumerate(logs)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [Ended(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]


def _fork(work: Callable[[int], None], rank: int, size: int, port: int, log: Path, seconds: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(log, "w", buffering=1) as out:
            sys.stdout = sys.stderr = out
            faulthandler.dump_traceback_later(seconds, exit=True, file=out)
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
