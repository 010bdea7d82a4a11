"""Processes that end with the script that started them; itself no script."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread


def process_pool(n: int) -> ProcessPoolExecutor:
    """A pool of `n` processes that end when the script is killed, so that none writes beside its next run."""
    return ProcessPoolExecutor(n, initializer=_end_with_parent)


def _end_with_parent() -> None:
    Thread(target=_watch, args=(parent_process().sentinel,), daemon=True).start()


def _watch(parent: int) -> None:
    wait([parent])
    os._exit(1)
