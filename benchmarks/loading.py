"""Training clips a second from each kind of storage, the start-up on a million videos, and the memory of long runs.

    python -m benchmarks.loading [--videos DIR] [--workers 0 2] [--million 1000000] [--epochs 50] [--memory_workers 4]

All loaders read the same clips of the same videos, in turns; ratios are medians of the turns'. Beside ours: a loader as
published (Pillow, each frame decoded whole, resized and normalised as float32 by itself), PyAV decoding each video as
a whole, and the floors: Pillow, or the decoder that ours use, alone on the frames of the clips. Without videos, MPEG-4
files of 320 x 240 are made. The million videos are names in an annotation and in an index: nothing is read of them.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from simplejpeg import decode_jpeg
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.films import found_videos, made_videos, storage
from benchmarks.turns import per_second
from datasets import READERS
from datasets.annotation import read_annotated_videos
from datasets.reading import FRAME_NAME, VideoFile, decode
from datasets.reading.packed import INDEX_NAME, index_table
from datasets.sampling import EpochBatches, RandomClip, seed_of
from datasets.transforms import MEAN, STD, TrainTransform
from datasets.video import Video, VideoClips
from hierarchy.tree import Hierarchy
from machine.writing import write_text, write_whole
from options.errors import CommandLine, user_errors
from run.data import make_loader, quiet_worker


class Published(Dataset):
    """Clips of the published loader, with the same frames and crops as ours."""

    def __init__(self, clips: VideoClips) -> None:
        self.clips, self.transform = clips, clips.transform
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: tuple[int, int]) -> torch.Tensor:
        step, i = index
        path, frames, rng = place(self.clips, step, i)
        pictures = []
        for frame in frames:
            with Image.open(path / FRAME_NAME.format(frame + 1)) as image:
                pictures.append(image.convert("RGB"))
        width, height = pictures[0].size
        y, x, h, w = self.transform._region(height, width, rng)
        size = (self.transform.size, self.transform.size)
        tensors = [(pil_to_tensor(picture.crop((x, y, x + w, y + h)).resize(size, Image.Resampling.BILINEAR)).float()
                    / 255 - self.mean) / self.std for picture in pictures]
        return torch.stack(tensors, dim=1)


def place(clips: VideoClips, step: int, i: int) -> tuple[Path, list[int], np.random.Generator]:
    """The video and frames of a training clip, and the generator as it stands after drawing them."""
    rng, video = seed_of(clips.seed, step, i), clips.videos[i]
    return video.path, clips.sampler(video.n_frames, 0, rng).tolist(), rng


def pillow_alone(clips: VideoClips, step: int) -> None:
    """Decode the frames of an epoch's clips by Pillow, and no more."""
    for i in range(len(clips)):
        path, frames, _ = place(clips, step, i)
        for frame in frames:
            with Image.open(path / FRAME_NAME.format(frame + 1)) as image:
                image.load()


def decoder_alone(clips: VideoClips, step: int) -> None:
    """Decode the frames of an epoch's clips by our decoder, and no more."""
    for i in range(len(clips)):
        path, frames, _ = place(clips, step, i)
        for frame in frames:
            decode_jpeg((path / FRAME_NAME.format(frame + 1)).read_bytes())


def whole_videos_decoded(clips: VideoClips, step: int) -> None:
    """Decode every video of an epoch from its first frame to its last."""
    for video in clips.videos:
        for _ in decode(video.path):
            pass


def one_pass(dataset: Dataset, step: int, workers: int, batch_size: int) -> None:
    """An epoch through a loader, to its last clip."""
    batches = EpochBatches(len(dataset), batch_size, seed=1, epoch=step)
    for _ in make_loader(dataset, n_threads=workers, device=torch.device("cpu"), batch_sampler=batches):
        pass


def measure_speed(args: argparse.Namespace, files: list[Path], folder: Path) -> None:
    """Frames a second of every loader with every number of workers, and the ratios without workers."""
    videos = storage(files, folder, args.size)
    ours = {kind: VideoClips(videos[kind], sampler=RandomClip(args.sample_duration), reader=READERS[kind](),
                             transform=TrainTransform(args.sample_size)) for kind in READERS}
    n, published = len(files) * args.sample_duration, Published(ours["jpg"])
    loaders: dict[str, Callable[[int, int], object]] = {
        kind: lambda step, workers, clips=clips: one_pass(clips, step, workers, args.batch_size)
        for kind, clips in ours.items()}
    loaders["published"] = lambda step, workers: one_pass(published, step, workers, args.batch_size)
    floors = {"Pillow alone": lambda step: pillow_alone(ours["jpg"], step),
              "decoder alone": lambda step: decoder_alone(ours["jpg"], step),
              "whole videos": lambda step: whole_videos_decoded(ours["video"], step)}
    for workers in args.workers:
        turns: dict[str, list[float]] = {}
        for step in range(args.repeats):
            for name, load in loaders.items():
                turns.setdefault(name, []).append(per_second(n, lambda: load(step, workers)))  # noqa: B023
            for name, work in floors.items() if workers == 0 else ():
                turns.setdefault(name, []).append(per_second(n, lambda: work(step)))  # noqa: B023
        for name, speeds in turns.items():
            print(f"{workers} workers, {name:14} {statistics.median(speeds):10.0f} frames/s")
        for name, other in (*((kind, "published") for kind in ("jpg", "hdf5", "packed")), ("video", "whole videos")):
            if other in turns:
                ratio = statistics.median(a / b for a, b in zip(turns[name], turns[other], strict=True))
                print(f"{workers} workers, {name} / {other}: {ratio:.2f} times as fast")
        if workers == 0:
            for floor in ("Pillow alone", "decoder alone"):
                ratio = statistics.median(b / a for a, b in zip(turns["jpg"], turns[floor], strict=True))
                print(f"0 workers, jpg / {floor}: {ratio:.2f} times as long")


def measure_start(n: int, folder: Path) -> None:
    """Seconds from an annotation of n videos to the first batch's order."""
    folder.mkdir()
    names = [f"class {v % 100}/video_{v:07}" for v in range(n)]
    table = index_table([(name, 0, 0, 300, 240, 320, 25.0) for name in names])
    write_whole(folder / INDEX_NAME, lambda file: np.save(file, table))
    database = {name.partition("/")[2]: {"subset": "training", "annotations": {
        "label": name.partition("/")[0], "segment": [1, 301]}} for name in names}
    write_text(folder / "annotation.json", json.dumps({"labels": [], "database": database}))
    del database, names
    tree = Hierarchy.from_rows([[f"class {i}", "any"] for i in range(100)])
    began = time.perf_counter()
    videos = read_annotated_videos(folder / "annotation.json", folder, tree, file_type="packed")
    read = time.perf_counter()
    clips = VideoClips(videos, sampler=RandomClip(16), transform=TrainTransform(112), reader=READERS["packed"]())
    next(iter(EpochBatches(len(clips), 128, seed=1, epoch=1)))
    print(f"start-up on {n} videos: {read - began:.2f} s to read the annotation, {time.perf_counter() - read:.2f} s to "
          "the order of the first batch")


def resident(pids: Iterator[int]) -> float:
    """MB of memory of processes, shared memory divided among them; nan where the system does not count it."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return float("nan")
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000


def measure_memory(args: argparse.Namespace, files: list[Path]) -> None:
    """Memory of this process and its loaders from the first epoch to the last, one loader for all, as in main.py."""
    reader = VideoFile()
    videos = [Video(f"v{i}", file, 0, "training", n, (0, n)) for i, file in enumerate(files)
              for n in [reader.info(file).n_frames]]
    clips = VideoClips(videos, sampler=RandomClip(args.sample_duration), reader=reader,
                       transform=TrainTransform(args.sample_size))
    order = [batch for epoch in range(args.epochs)
             for batch in EpochBatches(len(clips), args.batch_size, seed=1, epoch=epoch)]
    per_epoch, used = len(order) // args.epochs, []
    workers = args.memory_workers  # make_loader would limit them to the cores
    loader = DataLoader(clips, num_workers=workers, batch_sampler=order, worker_init_fn=quiet_worker)
    for i, _ in enumerate(loader):
        if i % per_epoch == per_epoch - 1:
            used.append(resident([os.getpid(), *(child.pid for child in multiprocessing.active_children())]))
    first = used[len(used) // 5]  # when caches are full
    print(f"memory over {args.epochs} epochs, {workers} workers: {used[0]:.0f} MB after the first, {first:.0f} MB "
          f"after a fifth, {max(used[len(used) // 5:]):.0f} MB at most from there on")


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder with video files at any depth (default: some are made)")
    parser.add_argument("--n_videos", type=int, default=24, help="how many of them (default: 24)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="loader processes (default: 0 2)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--epochs", type=int, default=50, help="of the memory's measurement; 0 for none (default: 50)")
    parser.add_argument("--memory_workers", type=int, default=4, help="loader processes of that (default: 4)")
    parser.add_argument("--million", type=int, default=10**6, help="of the start-up; 0 for none (default: 1000000)")
    parser.add_argument("--size", type=int, default=240, help="height of stored frames in pixels (default: 240)")
    parser.add_argument("--sample_size", type=int, default=112, help="of clips, in pixels (default: 112)")
    parser.add_argument("--sample_duration", type=int, default=16, help="frames of a clip (default: 16)")
    parser.add_argument("--batch_size", type=int, default=8, help="clips (default: 8)")
    args = parser.parse_args(argv)
    with user_errors(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if (min(*args.workers, args.memory_workers, args.epochs, args.million) < 0
                or min(args.n_videos, args.repeats, args.size, args.sample_size, args.batch_size,
                       args.sample_duration) < 1):
            raise ValueError("numbers must be above 0; --workers, --memory_workers, --epochs and --million at least 0")
        if args.videos is None:
            files = made_videos(folder / "made", args.n_videos)
        else:
            files = found_videos(args.videos)[:args.n_videos]
        measure_speed(args, files, folder)
        if args.million:
            measure_start(args.million, folder / "million")
        if args.epochs:
            measure_memory(args, files)


if __name__ == "__main__":
    main()
