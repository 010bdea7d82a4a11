"""Makes OpenMP start as many threads as cores are ours, and lets them sleep soon while they wait."""

import os
import sys

from machine.cores import cores, visible

# GNU's OpenMP, which PyTorch ships, looks 300,000 times for work before a thread sleeps; Intel's, which PyTorch from
# conda may load, for 200 ms. Both are read once, when the library is loaded.
SHORT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
CHOSEN = ("OMP_WAIT_POLICY", *SHORT)  # by any of these a user has chosen how threads wait


def prepare_threads() -> None:
    """Set how many threads there are and how long they wait awake, here and for all processes that this one starts,
    unless the user has.

    To be called before PyTorch is imported; where it is too late, a line says what to set instead.
    """
    if cores() < visible():  # by a quota, which OpenMP does not look at: with more threads all of them would be stopped
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if any(name in os.environ for name in CHOSEN):
        return
    os.environ.update(SHORT)
    if "torch" in sys.modules and os.environ.get("OMP_NUM_THREADS") != "1":  # a single thread waits for none
        print("warning: torch was imported before this program, whose threads now keep cores busy while they wait; set "
              f"GOMP_SPINCOUNT={SHORT['GOMP_SPINCOUNT']} before Python starts where other work shares the machine",
              file=sys.stderr)
