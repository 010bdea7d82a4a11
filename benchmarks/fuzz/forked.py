"""Scripts of the project run in forks of a process that has imported them all, with limits of time and memory."""

import contextlib
import faulthandler
import importlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from options.errors import user_errors

SCRIPTS = ("main", "local_analysis", "local_analysis_parents", "local_attribution", "evaluate_explanations",
           *(f"util_scripts.{name}" for name in (
               "activitynet_hierarchy", "add_fps_into_activitynet_json", "check_dataset", "egtea_json",
               "epic_kitchens_json", "eval_accuracy", "export", "fit_embeddings", "generate_video_hdf5",
               "generate_video_jpgs", "hmdb51_json", "kinetics_json", "make_report", "moments_json", "pack_frames",
               "prune", "something_json", "ucf101_json", "ucf24_truth")))
# what scripts import when they are called, so that a fork does not import it again
LATER = ("explain", "run.infer", "run.loop", "run.state", "run.attributing", "run.explaining", "run.judging",
         "judging.table", "training.distributed", "options.trunks", "options.methods", "torchvision.models.video",
         "torchvision.models", "geoopt", "captum.attr", "h5py", "av", "pandas", "torch.distributed.rendezvous",
         "torch.nn.parallel", "PIL.Image", "PIL.JpegImagePlugin", "PIL.PngImagePlugin")
SECONDS, MEMORY = 90.0, 6 << 30  # of a case, beyond which it hangs or eats the machine


def import_all() -> None:
    """Import every script and what it imports later; threads are not started, which would not survive a fork."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    import torch
    torch.set_num_threads(1)
    for name in (*SCRIPTS, *LATER):
        importlib.import_module(name)


@dataclass(frozen=True)
class Ended:
    """How a script ended.

    Attributes:
        code: exit code, or minus the number of the signal. text: what it printed. seconds: that it took.
        late: whether it was killed for running longer than it may.
    """

    code: int
    text: str
    seconds: float
    late: bool = False

    @property
    def fault(self) -> str:
        """What is wrong with this end, in words; "" where it is one that scripts may have."""
        if self.late:
            return f"hangs: killed after {self.seconds:.0f} s"
        if self.code < 0:
            return f"crashes: {signal.Signals(-self.code).name}"
        if "Traceback (most recent call last)" in self.text:
            last = [line for line in self.text.splitlines() if line.strip()][-1]
            return f"traceback: {last[:200]}"
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        if self.code == 2 and sum(line.startswith("error: ") for line in self.lines()) != 1:
            return "exit code 2 without one line `error: ...`"
        return ""

    def lines(self) -> list[str]:
        """The lines, also those that a progress bar ended."""
        return self.text.replace("\r", "\n").splitlines()


@dataclass
class Fork:
    """A script that runs in a fork. pid: of the process, which leads a group of its own. log: what it prints."""

    pid: int
    log: Path
    started: float

    def poll(self) -> int | None:
        """The exit code once it has ended."""
        found, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def kill(self) -> None:
        """End it and all that it started at once, as a machine that loses power does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self, seconds: float = SECONDS) -> Ended:
        """Wait for the end, and kill it when it is late."""
        late = False
        while (code := self.poll()) is None:
            if not late and time.monotonic() - self.started > seconds:
                self.kill()
                late = True
            time.sleep(0.002)
        taken = time.monotonic() - self.started
        self.kill()  # what it may have left behind
        return Ended(code, self.log.read_text(errors="replace"), taken, late)


def start(script: str, words: Sequence[str], *, folder: Path, log: Path, env: Mapping[str, str] | None = None,
          before: Callable[[], None] | None = None, memory: int = MEMORY) -> Fork:
    """Call a script's main in a fork.

    Args:
        script: its module. words: of the command line. folder: to work in. log: file for what it prints.
        env: variables that are set. before: is called in the fork before the script. memory: bytes that it may take
            beyond what it begins with.
    """
    module = importlib.import_module(script)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(pid, pid)
        return Fork(pid, log, time.monotonic())
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.enable(sys.stderr)
        os.environ.update(env or {})
        os.chdir(folder)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, resource.RLIM_INFINITY))
        sys.argv = [f"{script}.py", *words]
        if before is not None:
            before()
        try:
            with user_errors():
                module.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def run(script: str, words: Sequence[str], *, folder: Path, log: Path, seconds: float = SECONDS, **options) -> Ended:
    """As `start`, to the end."""
    fork = start(script, words, folder=folder, log=log, **options)
    with running(fork):
        return fork.end(seconds)


def forks_have_own_bars() -> None:
    """Give every process that this one forks a lock of its own for progress bars, from now on.

    tqdm's lock is shared with forks: one that is killed while it holds the lock stops all others at their next bar.
    """
    os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))


@contextlib.contextmanager
def running(*forks: Fork) -> Iterator[None]:
    """Kill what still runs when the body ends, however it does."""
    try:
        yield
    finally:
        for fork in forks:
            fork.kill()
