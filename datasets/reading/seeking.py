"""Finds single frames of a video file by its packets, without decoding all frames before them."""

import bisect
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from datasets.reading.decoding import frames_of_file, picture_of
from datasets.reading.streams import film_of

# Codecs whose packets are one picture each, by parsers and containers alike, and whose decoders tell the kind of a
# picture; others, but for those without any but key pictures, are decoded from the start.
SEEKABLE = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "wmv1", "wmv2",
                      "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "flv1", "h261", "h263", "svq1", "snow", "ffv1"})
INTRA = frozenset({"mjpeg", "png", "cfhd"})  # beside those of which the library says so
# Bytes: a smaller packet of MPEG-4 may say "no new picture", which containers count and decoders do not.
LEAST_PACKET = 16
MOST_BYTES = 1 << 26  # of decoded pictures that wait for the next window, or twice as many as a window has
EARLIER = 3  # key pictures before the right one that are tried where a container finds a later one


class UnsoughtError(Exception):
    """A file whose packets do not tell where its pictures are."""


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
            stream = film_of(container)
            if stream is None or not _is_seekable(stream):
                return None
            codec = stream.codec_context.codec.canonical_name
            macroblocks = stream.codec_context.width * stream.codec_context.height // 256
            least = max(LEAST_PACKET, macroblocks // 8) if codec == "mpeg4" else 1
            rows = []
            for packet in container.demux(stream):
                if not packet.size:  # the last one only says "the end"
                    continue
                if packet.pts is None or packet.is_corrupt or packet.size < least:
                    return None
                shown = 0 if packet.is_discard else PICTURES[codec](packet) if codec in PICTURES else 1
                rows.append((packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe, shown))
    except (av.FFmpegError, IndexError):  # a decoding from the start tells what is wrong
        return None
    pts, dts, key, shown = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    key, order = key.astype(bool), np.sort(pts[shown > 0])
    # What does not begin with a key picture begins with pictures that no decoder shows.
    if len(order) == 0 or (shown > 1).any() or not key[0] or pts[0] > order[0] or (np.diff(order) == 0).any():
        return None
    if shown[0] and pts[0] != order[0]:
        return None
    key[1:] &= shown[1:] > 0
    # Some containers look for a picture's showing, some for its decoding, counted from the first picture's showing.
    seeks = np.stack([np.maximum(pts, dts + pts[0] - dts[0])[key], dts[key]])
    return PacketIndex(order, np.searchsorted(order, pts[key]), seeks)


def _is_seekable(stream: av.VideoStream) -> bool:
    return stream.codec_context is not None and (
        stream.codec_context.codec.canonical_name in SEEKABLE or _is_intra(stream))


def _is_intra(stream: av.VideoStream) -> bool:
    """Whether all pictures of a stream are key pictures."""
    codec = stream.codec_context.codec
    return codec.intra_only or codec.canonical_name in INTRA


def _is_key(frame: av.VideoFrame, stream: av.VideoStream) -> bool:
    """Whether a frame that a container calls a key picture is one."""
    if stream.codec_context.codec.canonical_name == "ffv1":  # all of whose frames are intra, though not all keys
        return frame.key_frame
    return frame.pict_type == PictureType.I or _is_intra(stream)


def _vp8_pictures(packet: av.Packet) -> int:
    """How many pictures a packet shows: none, where it is only referred to (RFC 6386, 9.1)."""
    return bytes(packet)[0] >> 4 & 1


def _vp9_pictures(packet: av.Packet) -> int:
    """How many pictures a packet shows, which may be a superframe of several frames (VP9 bitstream, annex B)."""
    data = bytes(packet)
    last, sizes = data[-1], [len(data)]
    width, n = (last >> 3 & 3) + 1, (last & 7) + 1
    index = len(data) - 2 - width * n
    if last & 0xe0 == 0xc0 and index >= 0 and data[index] == last:
        sizes = [int.from_bytes(data[index + 1 + i * width:index + 1 + (i + 1) * width], "little") for i in range(n)]
    shown, at = 0, 0
    for size in sizes:
        if size and at < len(data):
            head = int.from_bytes(data[at:at + 2].ljust(2, b"\0"), "big")  # marker 10, profile of 2 bits
            left = 12 if head >> 12 & 3 < 3 else 11  # bits; profile 3 has a reserved one
            shows_old, shows_new = head >> left - 1 & 1, head >> left - 3 & 1
            shown += shows_old or shows_new
        at += size
    return shown


PICTURES = {"vp8": _vp8_pictures, "vp9": _vp9_pictures}


class Cursor:
    """An open video file, whose decoder goes on from where it is, unless a key picture lies nearer to a wanted frame.

    The pictures from the first frame of a clip on wait for the next clip, as many as `MOST_BYTES` allow, or twice as
    many as the clip has.

    Args:
        path: of the file.
        index: of its packets; None decodes from the start to the end.
    Attributes:
        changes_size: whether any frame was of another size than the stream says.
    """

    def __init__(self, path: Path, index: PacketIndex | None) -> None:
        self.path, self.index, self.changes_size = path, index, False
        self._size: tuple[int, int] | None = None
        self._state = _state(path)
        self._container: av.container.InputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._frames: Iterator[av.VideoFrame] | None = None
        self._next = 0  # the number of the frame that the decoder shows next
        self._waiting: dict[int, av.VideoFrame] = {}
        self._least = 0  # how many may wait, however large they are
        self._keys = [] if index is None else index.keys.tolist()

    def serves(self, path: Path) -> bool:
        """Whether this is the file, as it was opened, and by this process."""
        return path == self.path and self._state == _state(path)

    def pictures(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by their number, as they are to be shown.

        Args:
            wanted: ascending, each once.
        Raises:
            UnsoughtError: where the index proves wrong. ValueError: where the file ends before, or is broken.
        """
        for frame in [frame for frame in self._waiting if frame < wanted[0]]:
            del self._waiting[frame]
        self._least = 2 * len(wanted)
        return {i: picture_of(self._frame(i, wanted[0]), self.path, self._stream) for i in wanted}

    def _frame(self, wanted: int, first: int) -> av.VideoFrame:
        if wanted not in self._waiting:
            if self.index is not None and not 0 <= wanted < len(self.index.pts):
                raise UnsoughtError
            try:
                if self._frames is None or wanted < self._next or self._key(wanted) > self._next:
                    self._start(wanted)
                while wanted not in self._waiting:
                    self._advance(first)
            except av.FFmpegError as error:
                raise UnsoughtError from error
        return self._waiting[wanted]

    def _key(self, wanted: int) -> int:
        """The last key picture up to a frame."""
        return self._keys[max(bisect.bisect_right(self._keys, wanted) - 1, 0)] if self._keys else 0

    def _advance(self, first: int) -> None:
        frame = next(self._frames, None)
        i = self._next
        if self.index is not None:
            if frame is None or i >= len(self.index.pts) or frame.is_corrupt or frame.pts != self.index.pts[i]:
                raise UnsoughtError
        elif frame is None:
            self._frames, self._next = None, 0
            raise ValueError(f"{self.path}: frame {first} or a later one is asked for and the file has {i}; "
                             "write the annotation again from these files")
        self._next += 1
        self._size = self._size or (frame.width, frame.height)  # of the first frame, decoded from the start
        self.changes_size |= self._size != (frame.width, frame.height)
        if i >= first:
            self._waiting[i] = frame
            most = max(MOST_BYTES // max(sum(plane.buffer_size for plane in frame.planes), 1), self._least)
            while len(self._waiting) > most:
                del self._waiting[next(iter(self._waiting))]

    def _start(self, wanted: int) -> None:
        """Have the decoder show the last key picture up to a frame next, or the first frame."""
        key = self._key(wanted)
        if self.index is None:
            self._next, self._frames = 0, self._all()
            return
        if key == 0 or self._container is None:
            self._container = av.open(str(self.path), metadata_errors="replace")
            stream = film_of(self._container)
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            self._size = stream.codec_context.width, stream.codec_context.height
        self._stream = stream = film_of(self._container)
        if key == 0:
            self._next, self._frames = 0, self._container.decode(stream)
            return
        at = self._keys.index(key)
        times = [*self.index.seeks[:, at].tolist(), *self.index.seeks[1, max(at - EARLIER, 0):at][::-1].tolist()]
        for time in dict.fromkeys(times):
            self._container.seek(time, stream=stream)
            frames = self._from(stream, at)
            frame = next((frame for frame in frames if frame.pts is None or frame.pts >= self.index.pts[key]), None)
            if frame is None or frame.is_corrupt or frame.pts != self.index.pts[key]:
                continue
            if not _is_key(frame, stream):
                self._keys = [0]  # the container calls other pictures key pictures, too
                self._start(wanted)
                return
            self._next, self._frames = key, chain([frame], frames)
            return
        raise UnsoughtError

    def _all(self) -> Iterator[av.VideoFrame]:
        for frame, stream in frames_of_file(self.path):
            self._stream = stream
            yield frame

    def _from(self, stream: av.VideoStream, at: int) -> Iterator[av.VideoFrame]:
        """The frames from a key picture on, by its place among the keys, with what leads in of the group before; none
        where the container, which may have gone further back, has gone too far."""
        pts, dts = self.index.pts[self.index.keys[at]], self.index.seeks[1, at]
        begun = False
        for packet in self._container.demux(stream):
            if not begun and packet.size and packet.pts != pts:
                if packet.dts is not None and packet.dts > dts:
                    return
                continue
            begun |= packet.pts == pts
            yield from packet.decode()


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written over, or read by another process, which would share the open file's place."""
    try:
        state = os.stat(path)
    except OSError:
        return (os.getpid(),)
    return os.getpid(), state.st_ino, state.st_size, state.st_mtime_ns
