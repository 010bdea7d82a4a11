"""Decodes video files by PyAV, from the first frame to the last."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from datasets.reading.showing import shown_picture
from datasets.reading.streams import film_of


def decode(path: Path) -> Iterator[tuple[np.ndarray, av.VideoStream]]:
    """Decode a video file frame by frame, in one thread (loaders and scripts run several processes).

    Yields:
        (H, W, 3) uint8 RGB as it is to be shown; and the stream it is from.
    Raises:
        ValueError: when nothing can be read, or nothing more.
    """
    for frame, stream in frames_of_file(path):
        yield picture_of(frame, path, stream), stream


def frames_of_file(path: Path) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
    """As `decode`, but PyAV's frames, whose colours are not converted."""
    n = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:  # titles of any encoding
            stream = film_of(container)
            if stream is not None:
                if stream.codec_context is None:  # as PyAV tells of a codec that it does not know
                    raise ValueError(f"{path}: of an unknown codec; replace the file")
                stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
                for frame in container.decode(stream):
                    n += 1
                    yield frame, stream
    except av.FileNotFoundError as error:
        raise ValueError(f"{path}: no such video file; check the paths") from error
    except av.FFmpegError as error:
        if n == 0 and path.is_file() and path.stat().st_size == 0:
            raise ValueError(f"{path}: is empty; replace the file") from error
        where = f"broken after {n} frames" if n else "not a readable video"
        raise ValueError(f"{path}: {where} ({error.strerror}); replace the file") from error
    if n == 0:
        raise ValueError(f"{path}: no picture that can be decoded in this file; replace the file")


def picture_of(frame: av.VideoFrame, path: Path | str, stream: av.VideoStream) -> np.ndarray:
    """A frame as it is to be shown, (H, W, 3) uint8 RGB; ValueError where its colours cannot be converted."""
    try:
        return shown_picture(frame, stream)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path}: a frame has no colours that can be shown ({error}); replace the file") from error
