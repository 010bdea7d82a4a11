"""The store of a run of several processes, as torchrun keeps it: in a process of its own."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from torch.distributed import TCPStore


@contextlib.contextmanager
def store_port() -> Iterator[int]:
    """The port of a store on this machine, for the body of this context.

    The store is served in a fork: its threads may hold locks at the moment at which this process forks again, and a
    child that inherits a held lock waits forever.
    """
    reading, writing = os.pipe()
    parent, server = os.getpid(), os.fork()
    if not server:
        try:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            os.write(writing, str(store.port).encode())
            while os.getppid() == parent:
                time.sleep(0.2)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        port = int(os.read(reading, 16))
        os.close(reading)
        yield port
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
