"""A push over N clips costs at most 1.10 times an evaluation pass over the same clips, and writes no picture meanwhile.

    python -m benchmarks.push [--root_path ~/data --video_path UCF-101-JPEG --annotation_path ucf101_01.json]

The model is main.py's default, with fresh weights; both take turns over one loader, and the ratio is the median of the
turns'. Without data, JPEG files of 320 x 240 are made. Tuning and pictures, which follow a push, are timed apart.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from benchmarks.tables import saved_tables
from datasets.reading import FRAME_NAME
from datasets.video import Video
from explain import prototype_pictures
from hierarchy.tree import Hierarchy
from options.errors import CommandLine, user_errors
from options.flags import parse_main
from run.data import even_clips, make_loader, make_reader, read_videos
from run.model import build_model, choose_device, fresh_embedding
from run.predict import predict
from run.resume import fresh
from training.engine import Phase, Trainer
from training.losses import LossWeights
from training.precision import choose_precision
from training.push import push
from training.schedule import Step

N_FRAMES = 40


def made_videos(folder: Path, n: int, n_classes: int) -> list[Video]:
    """Folders of JPEG files with drifting smooth noise, the classes in turn."""
    rng, videos = np.random.default_rng(1), []
    for v in range(n):
        (path := folder / f"video_{v}").mkdir()
        noise = Image.fromarray(rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)).resize((416, 320))
        for i in range(N_FRAMES):
            noise.crop((i, i, i + 320, i + 240)).save(path / FRAME_NAME.format(i + 1), quality=95)
        videos.append(Video(path.name, path, v * n_classes // n, "training", N_FRAMES, (0, N_FRAMES)))
    return videos


def timed(work: Callable, *args, **kwargs) -> tuple[object, float]:
    """The result of a call and its seconds; results here end on the CPU, so that a GPU is waited for."""
    began = time.perf_counter()
    return work(*args, **kwargs), time.perf_counter() - began


def measure(args: argparse.Namespace, hierarchy: Hierarchy, n_clips: int, repeats: int, folder: Path) -> float:
    """Time all parts in an empty folder, and print a table and the ratio; returns the ratio."""
    torch.manual_seed(args.manual_seed)
    device, n = choose_device(args.device, args.no_cuda), max(1, n_clips // args.push_clips)
    precision = choose_precision(args.amp, device)  # of evaluation, and of all pushes but the last
    model = build_model(args, hierarchy, *fresh_embedding(args, hierarchy, cache=None)).to(device)
    videos = read_videos(args, hierarchy) if args.video_path else made_videos(folder, n, hierarchy.n_leaves)
    by_name = {video.name: video for video in [video for video in videos if video.subset == "training"][:n]}
    reader = make_reader(args)
    clips = even_clips(args, list(by_name.values()), reader, args.push_clips, normalisation=model.normalisation)
    loader = make_loader(clips, n_threads=args.n_threads, batch_size=args.batch_size, device=device)
    turns, there = [], set(folder.iterdir())
    for _ in range(repeats + 1):
        _, evaluation = timed(predict, model, loader, len(by_name), device=device, precision=precision)
        with mock.patch.object(Image.Image, "save") as save:
            (record, neck), pushing = timed(push, model, loader, names=list(by_name), device=device,
                                            n_clips=len(clips), precision=precision)
        assert not save.called and set(folder.iterdir()) == there, "the push wrote a picture"
        turns.append((evaluation, pushing))  # the first turn warms up
    trainer = Trainer(model, {"tune": Phase("adam", 0, 1e-3)}, LossWeights(ce=args.ce_weight, group=1e-4))
    activations, tuning = timed(neck.activations, model.prototype_layer, device)
    for i in range(args.tune_iterations):
        tuning += timed(lambda i=i: float(trainer.tune(Step("tune", 1, i), 0.0, activations, neck.labels)["loss"]))[1]
    _, drawing = timed(prototype_pictures, record, hierarchy, model.prototype_layer.node_of.cpu(), videos=by_name,
                       reader=reader, out=folder / "img")
    evaluation, pushing = (statistics.median(times) for times in zip(*turns[1:], strict=True))
    ratios = sorted(b / a for a, b in turns[1:])
    print(f"{len(neck.labels)} clips, {len(record.video)} prototypes ({len(record.video) - record.video.count(None)} "
          f"matched), {device}, {torch.get_num_threads()} threads\n\n| what | seconds |\n| --- | --- |\n"
          f"| evaluation | {evaluation:.3f} |\n| push | {pushing:.3f} |\n| tuning, {args.tune_iterations} passes | "
          f"{tuning:.3f} |\n| pictures | {drawing:.3f} |\n\nratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to "
          f"{ratios[-1]:.3f} in {repeats} turns; goal: at most 1.10)")
    return statistics.median(ratios)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print times and the ratio; returns the ratio by name."""
    parser = CommandLine(prog="python -m benchmarks.push", allow_abbrev=False,
                         description=__doc__.splitlines()[0], epilog="The other flags are main.py's.")
    parser.add_argument("--n_clips", type=int, default=48, help="at most, three of each video (default: 48)")
    parser.add_argument("--repeats", type=int, default=3, help="turns, after one not counted (default: 3)")
    own, others = parser.parse_known_args(argv)
    args, _ = parse_main(["--batch_size", "8", *others])
    if min(own.n_clips, own.repeats) < 1:
        raise ValueError("--n_clips and --repeats must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        args, hierarchy = fresh(args)
        ratio = measure(args, hierarchy, own.n_clips, own.repeats, Path(folder))
    return {"push / evaluation": ratio}


if __name__ == "__main__":
    with user_errors(), saved_tables("push"):
        main()
