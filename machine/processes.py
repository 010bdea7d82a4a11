"""Processes that end with the script that started them, and leave Ctrl-C to it."""

import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from threading import Thread


def process_pool(n: int, context: BaseContext | None = None, begin: Callable[..., None] | None = None,
                 *begin_with: object) -> ProcessPoolExecutor:
    """A pool of `n` processes that end when the script is killed, so that none writes beside its next run.

    Args:
        context: how they start (default: as Python's own). begin, begin_with: called first in each of them.
    """
    return ProcessPoolExecutor(n, context, _begin, (begin, begin_with))


def _begin(begin: Callable[..., None] | None, begin_with: tuple) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_watch, args=(parent_process().sentinel,), daemon=True).start()
    if begin is not None:
        begin(*begin_with)


def _watch(parent: int) -> None:
    wait([parent])
    os._exit(1)
