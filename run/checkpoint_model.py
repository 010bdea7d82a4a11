"""The model of a HIPE checkpoint with what explaining needs: its flags, its videos, and how it sees them."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from datasets.loose import check_single, single_video
from datasets.reading import CachedReader, Reader
from datasets.reading.loose import LooseFiles, cut_in_words, frame_files
from datasets.video import Video, VideoClips
from explain import Sources
from run.choosing import MEMORY_GB, moved_flags
from run.data import make_reader, read_videos, window_clips
from run.model import model_of


class CheckpointModel:
    """The model of a checkpoint, in eval mode, on its device, and the videos that it knows.

    Args:
        path, checkpoint: the file and its content. device: to move the model to.
        moves: where the data is and how it is seen, if not as the checkpoint says; see `moved_flags`.
    Attributes:
        network: the model. hierarchy: its class tree. record: of its push, None before it. flags: of its training, with
            the data's places of today.
    Raises:
        ValueError: naming the file, where its parts do not fit each other.
    """

    def __init__(self, path: Path, checkpoint: dict, device: torch.device, **moves: str | int | None) -> None:
        self.path, self.checkpoint = path, checkpoint
        network, self.hierarchy, self.record = model_of(checkpoint, path)
        self.network = network.to(device).eval().requires_grad_(False)
        self.flags = moved_flags(checkpoint, **moves)

    def tell_unpushed(self) -> None:
        """Say on stderr where there are no prototypes yet that come from a video."""
        if self.record is None:
            print(f"{self.path}: nothing was pushed yet, so no prototype has a training video to show", file=sys.stderr)

    def videos(self, *, required: bool) -> Sequence[Video]:
        """The videos of the checkpoint's data that are on disk.

        Args:
            required: whether they are to be explained; else there are none, and a line on stderr, where they cannot be
                found.
        """
        try:
            return read_videos(self.flags, self.hierarchy)
        except (ValueError, FileNotFoundError) as error:
            if required:
                raise
            print(f"training videos are not shown: {error}", file=sys.stderr)
            return []

    def sources(self, videos: Sequence[Video]) -> Sources:
        """Where prototypes come from, of the videos that are on disk."""
        return Sources(self.record, {video.name: video for video in videos}, make_reader(self.flags))

    def windows(self, videos: Sequence[Video], reader: Reader) -> VideoClips:
        """All windows of videos, as inference takes them."""
        return window_clips(self.flags, videos, reader, self.flags.inference_stride,
                            normalisation=self.network.normalisation)


def own_video(path: Path) -> tuple[Video, Reader]:
    """A video file or a folder of frames that belongs to no data set, and what reads it.

    Raises:
        ValueError: where it cannot be read.
    """
    path, files = path.expanduser().resolve(), LooseFiles()
    check_single(path)
    if path.is_dir():
        frame_files(path)
    reader = CachedReader(files, int(MEMORY_GB * 1e9))
    video = single_video(path, reader.info(path).n_frames)
    if files.cut:
        print(f"warning: {cut_in_words(files.cut, 1)}", file=sys.stderr)
    return video, reader
