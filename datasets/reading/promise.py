"""How much of a film its file promises to show, and whether it breaks off before that."""

import struct
from dataclasses import dataclass
from pathlib import Path

import av

from datasets.reading.clock import FrameTimes
from datasets.reading.streams import film_of

COMPLETE = 0.95  # a file that shows less than this share of what its header promises has been cut off
HEADER = 1 << 16  # bytes at the beginning of a file in which its own size and duration are stated
DURATIONS = {"matroska", "webm", "flv", "mxf", "mp4"}  # containers that state one; libav guesses that of others
ESTIMATED = 0.01  # part by which bit rates may differ that are the same
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # what Matroska begins with, and the element with all the rest
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


@dataclass(frozen=True, slots=True)
class Promise:
    """What a file's header says of its film.

    frames: to show, 0 where it does not tell. seconds: when the film ends, 0 where it does not tell. own: whether that
    is the film's own end; else the file's, which may be that of longer sound. start: seconds before the first frame.
    """

    frames: int
    seconds: float
    own: bool
    start: float

    def broken(self, path: Path, n_frames: int, times: FrameTimes | None, *, spare: int | None = None) -> str | None:
        """After how much the film breaks off, such as "17 of the 60 frames"; None where it is whole for all one knows.

        Args:
            path: of the file. n_frames, times: of what could be decoded of it.
            spare: frames that may be missing where their number is promised; None for 5 % of them.
        """
        if self.frames:
            least = COMPLETE * self.frames if spare is None else self.frames - spare
            return f"{n_frames} of the {self.frames} frames" if n_frames < least else None
        if not self.seconds or times is None:
            return None
        begin, end = times.seconds_of(0, n_frames)
        shown = self.start + end - begin
        # Few files come here. What is not decoded, or shown for longer than its neighbours, is not missing.
        if shown >= COMPLETE * self.seconds or _has_all_bytes(path) or _last(path, self.own) >= COMPLETE * self.seconds:
            return None
        return f"{shown:.1f} of the {self.seconds:.1f} seconds"


def promise_of(stream: av.VideoStream, path: Path) -> Promise:
    """What the header of an open file promises of its film."""
    kinds = set(stream.container.format.name.split(","))
    start = max(float((stream.start_time or 0) * (stream.time_base or 0)), 0.0)
    frames, whole = _frames(stream), _duration(stream.container) if kinds & DURATIONS else 0.0
    if "asf" in kinds:  # of a file that is too short, libav tells no duration
        whole = _asf_seconds(path)
    own = _seconds(stream.metadata.get("DURATION", "")) if "matroska" in kinds else 0.0
    if own and whole:  # a tag that survives a cutting tool promises more than the file
        return Promise(frames, min(own, whole), own <= whole, start)
    return Promise(frames, own or whole, bool(own), start)


def _frames(stream: av.VideoStream) -> int:
    """The frames that a header promises to show; parts that an edit list leaves out, as phones write one for a trimmed
    film, do not count."""
    if "mp4" not in stream.container.format.name.split(",") or not len(stream.index_entries):
        return stream.frames
    return min(stream.frames, sum(not entry.is_discard for entry in stream.index_entries))


def _duration(container: av.container.InputContainer) -> float:
    """Seconds that a container states; 0 where it states none, or libav has only guessed them by the bit rate."""
    rates = sum(stream.bit_rate or 0 for stream in container.streams if stream.type in ("video", "audio"))
    if not container.duration or (rates and abs(container.bit_rate - rates) <= ESTIMATED * rates):
        return 0.0
    return container.duration / av.time_base


def _seconds(text: str) -> float:
    """Seconds of "00:00:02.400000000"; 0 where it is nothing like it."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def _last(path: Path, film: bool) -> float:
    """When the last packet of a file ends, or of its film alone."""
    last = 0.0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for packet in container.demux(*([film_of(container)] if film else [])):
                if packet.size and packet.pts is not None:
                    last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except (av.FFmpegError, ValueError):  # the end of what can be read
        pass
    return last


def _has_all_bytes(path: Path) -> bool:
    """Whether a Matroska file is as long as its header says."""
    with path.open("rb") as file:
        head = file.read(HEADER)
    at = head.find(SEGMENT) + len(SEGMENT) if head.startswith(EBML) else 0
    if not 0 < at < len(head) or not head[at]:
        return False
    width = 9 - head[at].bit_length()
    size = int.from_bytes(head[at:at + width], "big") & (1 << 7 * width) - 1
    unknown = size == (1 << 7 * width) - 1  # as streams have it
    return not unknown and path.stat().st_size >= at + width + size


def _asf_seconds(path: Path) -> float:
    """The duration that the header of an ASF file states, without the time that players wait before they begin."""
    with path.open("rb") as file:
        head = file.read(HEADER)
    at = head.find(ASF_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return 0.0
    duration, _, preroll, flags = struct.unpack_from("<QQQI", head, at + 64)  # 100 ns, 100 ns, ms
    live = flags & 1  # then nothing before is meant
    return 0.0 if live else max(duration / 1e7 - preroll / 1e3, 0.0)
