"""How the processes of a run know that the others live, however long one of them works alone."""

import threading
import time
from collections.abc import Callable

import torch.distributed as dist

OFTEN = 10.0  # seconds between two signs of life, at most


class Pulse:
    """Gives a sign of life now and then, in a thread, and looks for those of the other processes.

    A process that works gives signs as one that waits does; only one that is gone, or whose machine is, gives none.

    Args:
        store: of the run. rank: of this process. size: number of processes.
        patience: seconds of silence after which a process counts as lost.
        lost: called in the thread with the number of such a process; the thread ends with it.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, patience: float, lost: Callable[[int], None]) -> None:
        # a connection of its own: another thread may wait in the store for minutes
        self.store, self.rank, self.patience, self.lost = store.clone(), rank, patience, lost
        self.others = [other for other in range(size) if other != rank]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        seen: dict[int, bytes] = {}
        since = dict.fromkeys(self.others, time.monotonic())
        count = 0
        try:
            while not self._stop.wait(min(OFTEN, self.patience / 8) if count else 0):
                count += 1
                self.store.set(f"pulse {self.rank}", str(count))
                for other in self.others:
                    key = f"pulse {other}"
                    sign = self.store.get(key) if self.store.check([key]) else b""
                    if sign != seen.get(other, b""):
                        seen[other], since[other] = sign, time.monotonic()
                    if sign != b"ended" and time.monotonic() - since[other] > self.patience:
                        self.lost(other)
                        return
            self.store.set(f"pulse {self.rank}", "ended")
        except RuntimeError:  # the process that served the store has ended; exchanges fail, too, and say so
            return
