"""From flags to videos, clips and loaders."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from datasets import DATASETS, READERS
from datasets.reading import CachedReader, Reader
from datasets.sampling import EvenClips, RandomClip, SlidingWindows
from datasets.transforms import EvalTransform, TrainTransform
from datasets.video import Video, VideoClips, VideoTable
from hierarchy.tree import Hierarchy
from machine.cores import allow_open_files, cores
from machine.shared_memory import fitting
from run.paths import under_root


def window_power(args: argparse.Namespace) -> float:
    """The exponent by which windows come to a video's probabilities, 1 for their mean."""
    return args.window_power if args.window_pool == "power" else 1.0


def read_videos(args: argparse.Namespace, hierarchy: Hierarchy) -> VideoTable:
    """All videos that the annotation lists and that are on disk.

    Raises:
        ValueError, FileNotFoundError: as the dataset's reader, and where a path is not given.
    """
    for flag in ("video_path", "annotation_path"):
        if not getattr(args, flag):
            raise ValueError(f"--{flag} is missing; give the {flag.replace('_', ' ')} under --root_path")
    annotation_path, video_path = (under_root(args, path) for path in (args.annotation_path, args.video_path))
    return DATASETS[args.dataset].read(annotation_path, video_path, hierarchy, file_type=args.file_type,
                                       strict=args.strict)


def make_reader(args: argparse.Namespace) -> Reader:
    """The reader of --file_type, which keeps videos in memory as far as --memory_gb allows."""
    reader = READERS[args.file_type]()
    return CachedReader(reader, int(args.memory_gb * 1e9)) if args.memory_gb else reader


def training_clips(args: argparse.Namespace, videos: Sequence[Video], reader: Reader, *,
                   normalisation: str, flip: bool = True) -> VideoClips:
    """One random, augmented clip of every video, half of them mirrored if `flip` and the flags say so.

    Args:
        normalisation: of the model, as for all clips.
    """
    least = args.train_crop_min_ratio
    transform = TrainTransform(args.sample_size, scales=(args.train_crop_min_scale, 1.0), ratio=(least, 1 / least),
                               flip=flip and not args.no_hflip, crop=args.train_crop, jitter=args.train_jitter,
                               antialias=args.antialias)
    return VideoClips(videos, sampler=RandomClip(args.sample_duration, stride=args.sample_t_stride),
                      transform=transform, reader=reader, seed=args.manual_seed, strict=args.strict,
                      normalisation=normalisation)


def even_clips(args: argparse.Namespace, videos: Sequence[Video], reader: Reader, n: int, *,
               normalisation: str) -> VideoClips:
    """n evenly spaced, un-augmented clips of every video."""
    return VideoClips(videos, sampler=EvenClips(args.sample_duration, n, stride=args.sample_t_stride),
                      transform=EvalTransform(args.sample_size, antialias=args.antialias), reader=reader,
                      seed=args.manual_seed, strict=args.strict, normalisation=normalisation)


def window_clips(args: argparse.Namespace, videos: Sequence[Video], reader: Reader, step: int, *,
                 normalisation: str) -> VideoClips:
    """All windows of every video, `step` frames apart."""
    return VideoClips(videos, sampler=SlidingWindows(args.sample_duration, step, stride=args.sample_t_stride),
                      transform=EvalTransform(args.sample_size, antialias=args.antialias), reader=reader,
                      seed=args.manual_seed, strict=args.strict, normalisation=normalisation)


def quiet_worker(_: int) -> None:
    """Give a loader process a process group of its own, so that Ctrl-C reaches only the parent."""
    os.setpgid(0, 0)
    gc.freeze()  # were its parent's objects gone through for garbage, their memory would be copied


def make_loader(dataset: Dataset, *, n_threads: int, device: torch.device, batch_size: int | None = None,
                sampler: Sequence[int] | None = None, batch_sampler=None, persistent: bool = False) -> DataLoader:
    """A loader in the dataset's order (batch_size), of some items (sampler) or in that of a batch sampler, with no more
    processes than cores, or than shared memory has room for; persistent ones stay from one pass to the next."""
    size = batch_size if batch_sampler is None else len(next(iter(batch_sampler), ()))
    if n_threads:
        allow_open_files()
    n_threads, ahead = fitting(min(n_threads, len(dataset), cores()), size * getattr(dataset, "clip_bytes", 0))
    how = {"batch_sampler": batch_sampler} if batch_sampler is not None else {"batch_size": batch_size,
                                                                              "sampler": sampler}
    # Each pass draws a seed: were it from the global generator, a resumed run would draw other numbers from that.
    return DataLoader(dataset, num_workers=n_threads, pin_memory=device.type == "cuda", worker_init_fn=quiet_worker,
                      persistent_workers=persistent and n_threads > 0, prefetch_factor=ahead or None,
                      generator=torch.Generator(), **how)


def report_looped(clips: VideoClips) -> None:
    """Print how many videos are shorter than a clip, where there are any."""
    if clips.looped:
        print(f"warning: {clips.looped} of {len(clips.videos)} videos are shorter than a clip, and are looped; a "
              "smaller --sample_duration would show every frame once", file=sys.stderr)
