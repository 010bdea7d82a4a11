"""How far clips of the same videos differ by their form of storage, in grey levels: video files against frame folders,
HDF5 files and packed files.

    python -m benchmarks.agreement ../shared/data/ucf101 ../shared/data/weizmann [--n_videos 0] [--sample_size 112 224]

The clips are evaluation's, evenly spread over each video. Of each folder, size and form: the mean of absolute
differences over all clips, that of the worst clip, and the greatest difference of a pixel.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.films import found_videos, storage
from benchmarks.tables import saved_tables
from datasets import READERS
from datasets.sampling import EvenClips
from datasets.transforms import EvalTransform
from datasets.video import VideoClips
from options.errors import CommandLine, user_errors
from util_scripts.storing import SIZE

FORMS = ("jpg", "hdf5", "packed")


class Differences(NamedTuple):
    """Absolute differences in grey levels: mean over all clips, mean of the worst clip, greatest of a pixel."""

    mean: float
    worst: float
    greatest: int


def differences(files: list[Path], folder: Path, *, size: int, duration: int) -> dict[str, Differences]:
    """Of each stored form, how far its clips are from those of the video files.

    Args:
        files: the videos. folder: an empty one to store them in. size: of clips, in pixels. duration: in frames.
    """
    clips = {kind: VideoClips(videos, sampler=EvenClips(duration, 2), transform=EvalTransform(size),
                              reader=READERS[kind](), strict=True)
             for kind, videos in storage(files, folder, SIZE).items()}
    means: dict[str, list[float]] = {kind: [] for kind in FORMS}
    greatest = dict.fromkeys(FORMS, 0)
    for i in range(len(clips["video"])):
        sought = clips["video"][i]["clip"].short()
        for kind in FORMS:
            apart = (clips[kind][i]["clip"].short() - sought).abs()
            means[kind].append(float(apart.float().mean()))
            greatest[kind] = max(greatest[kind], int(apart.max()))
    return {kind: Differences(float(torch.tensor(means[kind]).mean()), max(means[kind]), greatest[kind])
            for kind in FORMS}


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with video files at any depth")
    parser.add_argument("--n_videos", type=int, default=8, help="of each folder, evenly spread; 0 for all (default: 8)")
    parser.add_argument("--sample_size", type=int, nargs="+", default=[112, 224], help="of clips, in pixels")
    parser.add_argument("--sample_duration", type=int, default=8, help="frames of a clip (default: 8)")
    args = parser.parse_args(argv)
    with user_errors():
        if min(args.n_videos, *args.sample_size, args.sample_duration) < 0 or 0 in (*args.sample_size,
                                                                                    args.sample_duration):
            raise ValueError("--sample_size and --sample_duration must be above 0, --n_videos at least 0")
        print("| videos | how many | pixels | form | mean | worst clip's mean | greatest |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for folder in args.folders:
            files = found_videos(folder)
            files = files[::max(len(files) // args.n_videos, 1)][:args.n_videos] if args.n_videos else files
            for size in args.sample_size:
                with tempfile.TemporaryDirectory() as name:
                    for kind, row in differences(files, Path(name), size=size, duration=args.sample_duration).items():
                        print(f"| {folder.name} | {len(files)} | {size} | {kind} | {row.mean:.2f} | {row.worst:.2f} | "
                              f"{row.greatest} |", flush=True)


if __name__ == "__main__":
    with user_errors(), saved_tables("agreement"):
        main()
