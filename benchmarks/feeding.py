"""Clips a second of training from files on disk, by number of loader processes and kind of storage.

    python -m benchmarks.feeding [--videos DIR] [--workers 0 2 4 8 16] [--storage packed jpg] [--batch_size 128]

main.py's default model trains on clips that its loader reads, decodes, crops and augments; beside it stand the loader
without a model and the model on a batch that stays on the device, so that the smaller of both says what holds a run up.
`decoding on the device` decodes the frames' JPEG bytes by torchvision, where the device can. Without --videos, MPEG-4
files of 320 x 240 are made.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.bench import Bench, make_trainer
from benchmarks.films import found_videos, made_videos, storage
from benchmarks.tables import saved_tables
from benchmarks.turns import in_turns
from datasets import READERS
from datasets.sampling import EpochBatches
from datasets.video import VideoClips
from machine.cores import cores
from options.errors import CommandLine, user_errors
from options.ranges import AMOUNT, COUNT
from run.data import make_loader, training_clips
from training.features import valid_clips
from training.schedule import Step


class Endless(torch.utils.data.Sampler):
    """Batches of one epoch after the other."""

    def __init__(self, n: int, batch_size: int) -> None:
        self.n, self.batch_size = n, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in itertools.count():
            yield from EpochBatches(self.n, self.batch_size, seed=1, epoch=epoch)


def rate(bench: Bench, clips: VideoClips, workers: int, batches: int, *, train: bool) -> float:
    """Clips a second through a loader, after a first batch for each process that does not count."""
    loader = make_loader(clips, n_threads=workers, device=bench.device,
                         batch_sampler=Endless(len(clips), bench.args.batch_size))
    batches_of = valid_clips(loader, bench.device) if train else iter(loader)
    trainer = make_trainer(bench.args, bench.model(), bench.precision)

    def step() -> int:
        batch = next(batches_of)
        if train:
            ways = torch.zeros(len(batch["label"]), dtype=torch.long)
            float(trainer.step(Step("joint", 1, 0), 0.0, {**batch, "way": ways})["loss"])
        return len(batch["label"])

    for _ in range(max(workers, 1) + 1):
        step()
    began = time.perf_counter()
    return sum(step() for _ in range(batches)) / (time.perf_counter() - began)


def decoding_rate(files: list[Path], device: torch.device, repeats: int) -> float:
    """Frames a second that torchvision decodes from JPEG bytes in memory, on the device, all in one call."""
    contents = [read_file(str(file)) for file in files]

    def work() -> Tensor:
        return decode_jpeg(contents, mode=ImageReadMode.RGB, device=device)[-1].float().sum()
    return len(files) / statistics.median(in_turns({"decode": work}, repeats)["decode"])


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the table; returns clips a second of training by storage and number of processes."""
    parser = CommandLine(prog="python -m benchmarks.feeding", description=__doc__.splitlines()[0],
                         allow_abbrev=False, epilog="The other flags are main.py's.")
    parser.add_argument("--videos", type=Path, help="folder of video files at any depth (default: some are made)")
    parser.add_argument("--n_videos", type=COUNT, default=48, help="how many of them (default: 48)")
    parser.add_argument("--workers", type=AMOUNT, nargs="+", default=[0, 2, 4, 8, 16],
                        help="loader processes, no more than cores (default: 0 2 4 8 16)")
    parser.add_argument("--storage", nargs="+", choices=sorted(READERS), default=["packed", "jpg"],
                        help="(default: packed jpg)")
    parser.add_argument("--sizes", type=COUNT, nargs="+", default=[240, 128],
                        help="pixels of the shorter side of stored frames (default: 240 128)")
    parser.add_argument("--batches", type=COUNT, default=8, help="of each measurement (default: 8)")
    bench = Bench(parser, argv, batch_size=128 if torch.cuda.is_available() else 4)
    own, rates = bench.own, {}
    trainer = make_trainer(bench.args, bench.model(), bench.precision)
    work = {"step": lambda: trainer.step(Step("joint", 1, 0), 0.0, bench.batch)["loss"]}
    alone = bench.args.batch_size / statistics.median(in_turns(work, own.repeats)["step"])
    print(f"{bench}; {cores()} cores; training on a batch that stays there: {alone:.1f} clips/s\n\n| storage | loader "
          "processes | loader alone, clips/s | training, clips/s | of the step's rate |\n"
          "| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = found_videos(own.videos)[:own.n_videos] if own.videos else made_videos(folder / "made", own.n_videos)
        for size in own.sizes:
            forms = storage(files, folder / str(size), size)
            for kind, workers in itertools.product(own.storage, sorted({min(n, cores()) for n in own.workers})):
                times = -(-bench.args.batch_size // len(files))
                clips = training_clips(bench.args, forms[kind] * times, READERS[kind](),
                                       normalisation=bench.model().normalisation)
                loading, training = (rate(bench, clips, workers, own.batches, train=train) for train in (False, True))
                rates[f"{kind} at {size}, {workers} processes"] = training
                print(f"| {kind}, {size} pixels | {workers} | {loading:.1f} | {training:.1f} | "
                      f"{training / alone:.3f} |", flush=True)
            pictures = sorted((folder / str(size) / "jpg").rglob("*.jpg"))[:512]
            print(f"| decoding on the device, {size} pixels | | "
                  f"{decoding_rate(pictures, bench.device, 3) / bench.args.sample_duration:.1f} | | |", flush=True)
    return rates


if __name__ == "__main__":
    with user_errors(), saved_tables("feeding"):
        main()
