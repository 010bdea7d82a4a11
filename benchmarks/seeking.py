"""Pictures that are decoded for the windows of a video, for each codec that PyAV writes here.

    python -m benchmarks.seeking [--frames 160] [--step 16] [--group 24] [--codecs libvpx-vp9 wmv2]

A file of each codec and container is made, with a key picture every `--group` frames. Its windows of 16 frames,
`--step` apart, are read in their order and in random order. The table has the pictures decoded a window, if each
decoding began at the start, and as they are, and the most pictures beside its own that a window cost. Every window is
compared with a decoding of the whole file.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import av
import numpy as np
import torch

from benchmarks.tables import saved_tables
from datasets.reading import VideoFile
from datasets.reading.seeking import packet_index
from options.errors import CommandLine, user_errors
from options.ranges import COUNT

WINDOW = 16  # frames
FILES = {"libx264": ("mp4", "mkv", "ts", "flv", "avi"), "libx265": ("mp4", "mkv"), "libsvtav1": ("mp4", "webm"),
         "libvpx-vp9": ("webm", "mp4"), "libvpx": ("webm",), "mpeg4": ("mp4", "avi"),
         "mpeg2video": ("mpg", "ts", "mp4"), "mpeg1video": ("mpg",), "wmv2": ("wmv",), "wmv1": ("wmv",),
         "msmpeg4": ("avi",), "msmpeg4v2": ("avi",), "flv": ("flv",), "h263": ("3gp",), "h261": ("avi",),
         "svq1": ("mov",), "snow": ("avi",), "rv20": ("rm",), "cinepak": ("avi",), "qtrle": ("mov",),
         "msvideo1": ("avi",), "flashsv2": ("flv",), "gif": ("gif",), "mjpeg": ("avi",), "ffv1": ("mkv",),
         "huffyuv": ("avi",), "prores": ("mov",), "png": ("mov",)}
OPTIONS = {"libx264": {"bf": "3"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}, "libsvtav1": {"preset": "12"},
           "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}, "libx265": {"x265-params": "log-level=none"},
           "mpeg2video": {"bf": "2"}, "mpeg1video": {"bf": "2"}}


class Counted:
    """An open file that counts the pictures which its decoders show."""

    def __init__(self, container: av.container.InputContainer, counts: list[int]) -> None:
        self.container, self.counts = container, counts

    def __getattr__(self, name: str) -> object:
        return getattr(self.container, name)

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def decode(self, *streams: object) -> Iterator[av.VideoFrame]:
        """The container's frames."""
        for frame in self.container.decode(*streams):
            self.counts[-1] += 1
            yield frame

    def demux(self, *streams: object) -> Iterator["CountedPacket"]:
        """The container's packets."""
        return (CountedPacket(packet, self.counts) for packet in self.container.demux(*streams))


class CountedPacket:
    """A packet that counts the pictures which it is decoded to."""

    def __init__(self, packet: av.Packet, counts: list[int]) -> None:
        self.packet, self.counts = packet, counts

    def __getattr__(self, name: str) -> object:
        return getattr(self.packet, name)

    def __bytes__(self) -> bytes:
        return bytes(self.packet)

    def decode(self) -> list[av.VideoFrame]:
        """The packet's frames."""
        frames = self.packet.decode()
        self.counts[-1] += len(frames)
        return frames


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the pictures that are decoded from files which are opened meanwhile, in the last number of a list."""
    counts, whole = [0], av.open
    av.open = lambda *args, **options: Counted(whole(*args, **options), counts)
    try:
        yield counts
    finally:
        av.open = whole


def picture(i: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 of slowly moving blobs, with a little noise that is new in every picture."""
    y, x = np.mgrid[:height, :width]
    waves = 110 + 60 * np.sin((x + i) / 7) + 50 * np.cos((y - i / 2) / 5)
    noise = np.random.default_rng(i).normal(0, 4, (height, width, 3))
    return np.clip(waves[..., None] * (1, 0.9, 0.8) + noise, 0, 255).astype(np.uint8)


def write(path: Path, codec: str, n_frames: int, group: int) -> None:
    """A video file with a key picture at least every `group` frames."""
    height, width = (144, 176) if codec in ("h261", "h263") else (96, 128)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": str(group)} | OPTIONS.get(codec, {}))
        formats = av.Codec(codec, "w").video_formats or []
        stream.height, stream.width = height, width
        stream.pix_fmt = formats[0].name if formats else "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(n_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, height, width), format="rgb24")))
        container.mux(stream.encode())


def pictures_of(path: Path, starts: Sequence[int], whole: torch.Tensor) -> list[int]:
    """Pictures that a reader decodes for each of some windows; ValueError where one is not that of the whole file."""
    reader = VideoFile()
    with counted() as counts:
        for start in starts:
            window = range(start, start + WINDOW)
            if not torch.equal(reader.frames(path, window), whole[list(window)]):
                raise ValueError(f"{path.name}: frames {start} to {start + WINDOW} are not those of a whole decoding")
            counts.append(0)
    return counts[:-1]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the table; pictures a window in order, over those from the start, by file."""
    parser = CommandLine(prog="python -m benchmarks.seeking", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=COUNT, default=160, help="frames of each video (default: 160)")
    parser.add_argument("--step", type=COUNT, default=16, help="frames from window to window (default: 16)")
    parser.add_argument("--group", type=COUNT, default=24, help="frames from key picture to key picture (default: 24)")
    parser.add_argument("--codecs", nargs="+", choices=sorted(FILES), default=list(FILES), help="these (default: all)")
    args = parser.parse_args(argv)
    if args.frames < WINDOW:
        raise ValueError(f"--frames must be at least {WINDOW}, not {args.frames}")
    starts = list(range(0, args.frames - WINDOW + 1, args.step))
    shuffled = np.random.default_rng(0).permutation(starts).tolist()
    before = sum(start + WINDOW for start in starts) / len(starts)
    print(f"{args.frames} frames, {len(starts)} windows of {WINDOW}, {args.step} apart, a key picture every "
          f"{args.group} frames\n\n| file | sought | from the start | in order | most before one | random order | "
          f"most before one |\n|{' --- |' * 7}")
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec in args.codecs:
            for ending in FILES[codec]:
                path = Path(folder, f"{codec}.{ending}")
                try:
                    with redirect_stderr(StringIO()):
                        write(path, codec, args.frames, args.group)
                    whole = VideoFile().frames(path)
                except (av.FFmpegError, ValueError) as error:
                    print(f"| {path.name} | this PyAV cannot write it: {error} |" + " |" * 5)
                    continue
                cells = []
                for order in (starts, shuffled):
                    counts = pictures_of(path, order, whole)
                    cells += [f"{sum(counts) / len(counts):.1f}", f"{max(counts) - WINDOW}"]
                    shares.setdefault(path.name, sum(counts) / len(counts) / before)
                sought = "no" if packet_index(path) is None else "yes"
                print(f"| {path.name} | {sought} | {before:.1f} | {' | '.join(cells)} |", flush=True)
    return shares


if __name__ == "__main__":
    with user_errors(), saved_tables("seeking"):
        main()
