"""Finds single frames of a video file by its packets, without decoding all frames before them."""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from datasets.reading.decoding import picture_of

# Codecs whose packets are one picture each, by parsers and containers alike; others are decoded from the start.
SEEKABLE = frozenset({"h264", "hevc", "mpeg4", "mjpeg"})
# Bytes: a smaller packet of MPEG-4 may say "no new picture", which containers count and decoders do not.
LEAST_PACKET = 16


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """Where the pictures of a video file are, from its packets: sorted times (N,), and of the key pictures among them
    their positions (M,) in that order and the times (2, M) at which containers find them, the second to be safe."""

    pts: np.ndarray
    keys: np.ndarray
    seeks: np.ndarray


def packet_index(path: Path) -> PacketIndex | None:
    """The pictures of a file by its packets alone; None where these do not tell exactly."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            if stream.codec_context is None or stream.codec_context.name not in SEEKABLE:
                return None
            macroblocks = stream.codec_context.width * stream.codec_context.height // 256
            least = max(LEAST_PACKET, macroblocks // 8) if stream.codec_context.name == "mpeg4" else 1
            packets = [packet for packet in container.demux(stream) if packet.size]  # the last one only says "the end"
            if any(packet.pts is None or packet.is_discard or packet.is_corrupt or packet.size < least
                   for packet in packets):
                return None
            pts = np.array([packet.pts for packet in packets], dtype=np.int64)
            key = np.array([packet.is_keyframe for packet in packets], dtype=bool)
            dts = np.array([packet.pts if packet.dts is None else packet.dts for packet in packets], dtype=np.int64)
    except (av.FFmpegError, IndexError):  # a decoding from the start tells what is wrong
        return None
    order = np.sort(pts)
    # What does not begin with a key picture begins with pictures that no decoder shows.
    if len(pts) == 0 or not key[0] or pts[0] != order[0] or (np.diff(order) == 0).any():
        return None
    # Some containers look for a picture's showing, some for its decoding, counted from the first picture's showing.
    seeks = np.stack([np.maximum(pts, dts + pts[0] - dts[0])[key], dts[key]])
    return PacketIndex(order, np.searchsorted(order, pts[key]), seeks)


def seek_pictures(path: Path, index: PacketIndex, wanted: list[int]) -> dict[int, np.ndarray] | None:
    """Decode ascending frames, each from the last key picture before it; None where the index proves wrong."""
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(index.pts):
        return None
    keys = np.searchsorted(index.keys, wanted, side="right") - 1
    decoded: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            for key in dict.fromkeys(keys.tolist()):
                group = [i for i, k in zip(wanted, keys, strict=True) if k == key]
                if not any(_decode_group(container, stream, index, time, key, group, decoded)
                           for time in index.seeks[:, key].tolist()):
                    return None
    except av.FFmpegError:
        return None
    return decoded


def _decode_group(container: av.container.InputContainer, stream: av.VideoStream, index: PacketIndex, time: int,
                  key: int, group: list[int], decoded: dict[int, np.ndarray]) -> bool:
    """Decode frames that follow one key picture into `decoded`; False where the index proves wrong."""
    first = int(index.keys[key])
    container.seek(time, stream=stream)
    expected = None
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            return False
        if frame.pts < index.pts[first]:  # the container went further back, or an open group leads in
            continue
        if expected is None and frame.pict_type != PictureType.I:  # containers call other pictures key pictures, too
            return False
        expected = first if expected is None else expected + 1
        if expected >= len(index.pts) or frame.pts != index.pts[expected]:
            return False
        if expected in group:
            decoded[expected] = picture_of(frame, container.name, stream)
        if expected == group[-1]:
            return True
    return False
