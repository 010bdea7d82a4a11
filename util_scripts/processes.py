"""Processes of the preparing scripts, which end with the script that started them."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread


def process_pool(n: int) -> ProcessPoolExecutor:
    """A pool of `n` processes that do not outlive a killed script, to wait for ever or to write beside its next run."""
    return ProcessPoolExecutor(n, initializer=_end_with_parent)


def _end_with_parent() -> None:
    Thread(target=_watch, args=(parent_process().sentinel,), daemon=True).start()


def _watch(parent: int) -> None:
    wait([parent])
    os._exit(1)
