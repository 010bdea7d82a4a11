"""Threads that spin while they wait, beside threads that soon sleep: a training on an idle and on a busy machine.

    python -m benchmarks.spinning [--turns 5] [--steps 6] [--n_threads 0 2 4] [--busy 2]

Two processes train the same small network on videos that they decode: one whose threads look for work as long as
OpenMP lets them by default (`before`), one as the program sets it (`after`). They take turns, so that a machine that
other people use slows both down, and of each turn the ratio is taken. Both are timed with `--busy` processes beside
them that do nothing but compute, and without.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import saved_tables
from machine.openmp import CHOSEN
from options.errors import CommandLine, user_errors
from run.paths import HERE

BEFORE = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}  # what OpenMP does where nobody tells it
BUSY = "x = 1.0\nwhile True: x = x * 1.0000001 % 7"
FRAMES, SIZE = 16, 64  # of a clip


class Training:
    """A process that trains a few steps whenever it is asked to, and says how long they took."""

    def __init__(self, videos: Path, n_threads: int, steps: int, waiting: dict[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in CHOSEN} | waiting
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.spinning", "--child", str(videos), "--n_threads", str(n_threads),
             "--steps", str(steps)],
            cwd=HERE, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self) -> float:
        """Seconds of some steps."""
        print("go", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise ValueError("a training has ended before its time; it has said why")
        return float(answer)

    def end(self) -> None:
        """End the process, which waits for a word."""
        self.process.stdin.close()
        self.process.wait()


def compare(videos: Path, n_threads: int, n_busy: int, *, turns: int, steps: int) -> tuple[float, float, float]:
    """Median seconds before and after, and the median ratio of them, beside so many busy processes."""
    both = [Training(videos, n_threads, steps, waiting) for waiting in (BEFORE, {})]
    for one in both:  # the first steps make buffers and start loaders
        one.seconds()
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n_busy)]
    try:
        times = [[one.seconds() for one in both] for _ in range(turns)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
        for one in both:
            one.end()
    before, after = zip(*times, strict=True)
    return statistics.median(before), statistics.median(after), statistics.median(b / a for b, a in times)


def train(videos: Path, n_threads: int, steps: int) -> None:
    """Train for as long as there are lines on stdin, a few steps each."""
    import torch  # the processes that only compare need none of it

    from datasets.reading import VideoFile
    from datasets.sampling import RandomClip
    from datasets.transforms import TrainTransform
    from datasets.video import Video, VideoClips
    from models import TRUNKS
    from run.data import make_loader
    from training.features import valid_clips

    listed = [Video(path.stem, path, 0, "training", 0, (0, 0)) for path in sorted(videos.glob("*.avi"))]
    clips = VideoClips(listed, sampler=RandomClip(FRAMES), transform=TrainTransform(SIZE), reader=VideoFile())
    order = [[(step, (4 * step + i) % len(listed)) for i in range(4)] for step in range(1 << 14)]
    cpu = torch.device("cpu")
    batches = valid_clips(make_loader(clips, n_threads=n_threads, device=cpu, batch_sampler=order), cpu)
    torch.manual_seed(0)
    trunk = TRUNKS["resnet"](18, widen_factor=0.5).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(trunk.parameters(), 1e-3)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            trunk(next(batches)["clip"]).square().mean().backward()
            optimizer.step()
        print(time.perf_counter() - began, flush=True)
    os._exit(0)  # loader processes are in the middle of something, and end with this one


def write_videos(folder: Path, n: int = 16) -> None:
    """Short videos of noise that drifts, as cameras make them in size."""
    import numpy as np

    from datasets.synthetic.files import write_avi
    for v in range(n):
        noise = np.random.default_rng(v).integers(0, 256, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        write_avi(folder / f"video_{v:02}.avi", np.stack([np.roll(noise, 3 * t, 1) for t in range(40)]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m benchmarks.spinning", description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--steps", type=int, default=6, help="steps a turn (default: 6)")
    parser.add_argument("--n_threads", type=int, nargs="+", default=[0, 2, 4], help="loader processes (default: 0 2 4)")
    parser.add_argument("--busy", type=int, default=2, help="busy processes (default: 2)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        train(args.child, args.n_threads[0], args.steps)
        return
    print("| loader processes | busy processes beside it | before, s | after, s | before / after |")
    print("| --- " * 5 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_videos(Path(folder))
        for n_threads in args.n_threads:
            for n_busy in (0, args.busy):
                before, after, ratio = compare(Path(folder), n_threads, n_busy, turns=args.turns, steps=args.steps)
                print(f"| {n_threads} | {n_busy} | {before:.2f} | {after:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    with user_errors(), saved_tables("spinning"):
        main()
