"""The log of a run, means of what its steps report, and the signals that ask it to stop."""

import json
import signal
import time
from pathlib import Path

from torch import Tensor

from training.checkpoint import write_whole
from training.schedule import Step, completed


class Log:
    """metrics.jsonl, one line an event, and the same numbers for tensorboard where it is wanted.

    Args:
        folder: of the results. done: the step a run goes on from; lines of later steps are dropped, for what they tell
            of is about to happen again. tensorboard: whether to write `tensorboard/` as well. silent: write nothing,
            as all processes of a run but one.
    """

    def __init__(self, folder: Path, done: Step | None, *, tensorboard: bool = False, silent: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self.silent = silent
        self.writer = None
        if silent:
            return
        if self.path.is_file():
            kept = [line for line in self.path.read_text().splitlines() if _happened(line, done)]
            write_whole(self.path, lambda file: file.write("".join(line + "\n" for line in kept).encode()))
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and wanted by few runs
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, event: str, done: Step, **values: float | str) -> None:
        """Append one event at a place in the schedule."""
        if self.silent:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({"event": event, "epoch": done.epoch, **values, "done": list(done)}) + "\n")
        if self.writer is not None:
            group = event if event == done.kind else f"{event}_after_{done.kind}"
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(f"{group}/{name}", value, done.epoch)
            self.writer.flush()

    def image(self, name: str, pixels, epoch: int) -> None:
        """Show a picture (H, W, 3) uint8 in tensorboard, where that is written."""
        if self.writer is not None:
            self.writer.add_image(name, pixels, epoch, dataformats="HWC")
            self.writer.flush()


def _happened(line: str, done: Step | None) -> bool:
    try:
        return done is not None and completed(Step(*json.loads(line)["done"]), done)
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return False


class Meter:
    """Means of named scalars, without waiting for the device until somebody reads them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.clips = 0
        self.began = time.perf_counter()

    def add(self, scalars: dict[str, Tensor], clips: int) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()
        self.count += 1
        self.clips += clips

    def means(self) -> dict[str, float]:
        """Mean of every scalar, and clips a second since the first."""
        rate = self.clips / max(time.perf_counter() - self.began, 1e-9)
        return {name: float(value) / self.count for name, value in self.sums.items()} | {"clips_per_s": round(rate, 2)}


class Stop:
    """Remembers that the program was asked to stop (SIGTERM, SIGUSR1, Ctrl-C once), to do so between two steps.

    Args:
        patient: take a second Ctrl-C for the first: torchrun passes on what the terminal has sent already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.asked, self.patient = False, patient
        asks = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._ask) for number in asks}

    def release(self) -> None:
        """Let the signals do again what they did before: nobody looks at `asked` any more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.asked and number == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.asked = True
