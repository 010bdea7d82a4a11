"""The log of a run, means of what its steps report, and the signals that ask it to stop."""

import json
import signal
import time
from pathlib import Path

from torch import Tensor

from machine.writing import append_line, naming, write_text
from training.schedule import Step, completed, stored_kind


class Log:
    """metrics.jsonl, one line per event, and on request the same numbers for tensorboard.

    Args:
        folder: of the results. done: the step from which a run is resumed; lines of later steps are dropped, since
            these steps are about to be repeated. tensorboard: write `tensorboard/` as well.
        silent: write nothing, as all processes of a run but one.
    """

    def __init__(self, folder: Path, done: Step | None, *, tensorboard: bool = False, silent: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self.silent = silent
        self.writer = None
        if silent:
            return
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _is_before(line, done)]
            write_text(self.path, "".join(line + "\n" for line in lines), durable=True)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and used by few runs
            with naming(folder / "tensorboard"):
                self.writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, event: str, done: Step, **values: float | str) -> None:
        """Append one event: val, or the kind of step that was completed, `done`."""
        if self.silent:
            return
        event = stored_kind(event)
        append_line(self.path, json.dumps({"event": event, "epoch": done.epoch, **values, "done": done.stored()}))
        if self.writer is not None:
            kind = stored_kind(done.kind)
            group = event if event == kind else f"{event}_after_{kind}"
            with naming(self.path.parent / "tensorboard"):
                for name, value in values.items():
                    if isinstance(value, int | float):
                        self.writer.add_scalar(f"{group}/{name}", value, done.epoch)
                self.writer.flush()

    def image(self, name: str, pixels, epoch: int) -> None:
        """Write a picture (H, W, 3) uint8 for tensorboard, if requested."""
        if self.writer is not None:
            with naming(self.path.parent / "tensorboard"):
                self.writer.add_image(name, pixels, epoch, dataformats="HWC")
                self.writer.flush()


def _is_before(line: str, done: Step | None) -> bool:
    try:
        return done is not None and completed(Step.of_stored(json.loads(line)["done"]), done)
    except (ValueError, KeyError, TypeError):  # a line cut off by a kill
        return False


class Meter:
    """Means of named scalars, computed without waiting for the device until `means` is called."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.clips = 0
        self.began = time.perf_counter()

    def add(self, scalars: dict[str, Tensor], clips: int) -> None:
        """Add the scalars of a step over so many clips."""
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()
        self.count += 1
        self.clips += clips

    def means(self) -> dict[str, float]:
        """Mean of every scalar, and clips per second since construction."""
        rate = self.clips / max(time.perf_counter() - self.began, 1e-9)
        return {name: float(value) / self.count for name, value in self.sums.items()} | {"clips_per_s": round(rate, 2)}


class Stop:
    """Records a request to stop (SIGTERM, SIGUSR1, the first Ctrl-C), which the run obeys between two steps.

    Args:
        patient: treat a second Ctrl-C like the first, since torchrun forwards what the terminal sent already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.asked, self.patient = False, patient
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._handlers = {number: signal.signal(number, self._ask) for number in signals}

    def release(self) -> None:
        """Restore the earlier handlers of the signals."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.asked and number == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.asked = True
