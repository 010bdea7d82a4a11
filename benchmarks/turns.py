"""Times several kinds of work in turns, so that a machine that slows down does so for all; itself no benchmark."""

import statistics
import time
from collections.abc import Callable

from torch import Tensor


def seconds(step: Callable[[], Tensor]) -> float:
    """Seconds of a step, until its loss is known, which waits for the device."""
    began = time.perf_counter()
    float(step())
    return time.perf_counter() - began


def in_turns(work: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each kind of work in `repeats` turns, one after the other, after a first turn that does not count."""
    turns = [{name: seconds(step) for name, step in work.items()} for _ in range(repeats + 1)][1:]
    return {name: [turn[name] for turn in turns] for name in work}


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Time of one kind of work over that of another, the median over the turns."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def table(times: dict[str, list[float]]) -> str:
    """Median and least seconds of each kind of work, as a table."""
    rows = [f"| {name} | {statistics.median(row):.4f} | {min(row):.4f} |" for name, row in times.items()]
    return "\n".join(["| what | median s | fastest s |", "| --- | --- | --- |", *rows])


def per_second(n: int, work: Callable[[], object]) -> float:
    """Rate of something that happens n times in one call, in 1/s."""
    began = time.perf_counter()
    work()
    return n / (time.perf_counter() - began)
