"""Files that break off are told of in every container that states how long they are; whole files never are."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from preparing import jpgs

from datasets.reading import LooseFiles

N = 40
NOISE = np.random.default_rng(0).integers(256, size=(N, 32, 48, 3), dtype=np.uint8)
PHONE = [33 * i for i in range(20)] + [660 + 133 * i for i in range(20)]  # ms
LIVE = {"deadline": "realtime", "cpu-used": "8"}


def film(path: Path, codec: str, *, times: list[int] | None = None, options: dict | None = None, sound: int = 0,
         hold: int = 0, muxer: dict | None = None) -> Path:
    """A video of N noisy pictures at 25 a second.

    Args:
        times: ms, in place of the rate. sound: ms of silence beside it. hold: ms that the last picture stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *NOISE.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        codec = "libopus" if path.suffix == ".webm" else "libmp3lame"
        heard = container.add_stream(codec, rate=48000) if sound else None
        if heard is not None:
            heard.layout = "mono"
        packets = []
        for i, picture in enumerate(NOISE):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        if hold:
            packets[-1].duration = int(Fraction(hold, 1000) / packets[-1].time_base)
        if heard is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 48 * sound), dtype=np.float32), format="fltp",
                                                 layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 48000, 0, Fraction(1, 48000)
            resampler = av.AudioResampler(heard.codec_context.format, "mono", 48000, heard.codec_context.frame_size)
            for part in [*resampler.resample(silence), *resampler.resample(None)]:
                packets += heard.encode(part)
            packets += heard.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


FILMS = {
    "matroska": ("v.mkv", {"codec": "libx264", "options": {"preset": "ultrafast"}}),
    "matroska with b-frames": ("v.mkv", {"codec": "libx264", "options": {"bf": "3"}}),
    "uneven matroska": ("v.mkv", {"codec": "ffv1", "times": PHONE}),
    "matroska that begins late": ("v.mkv", {"codec": "mpeg4", "times": [9000 + 40 * i for i in range(N)]}),
    "matroska with longer sound": ("v.mkv", {"codec": "mpeg4", "sound": 3000}),
    "webm": ("v.webm", {"codec": "libvpx", "options": LIVE}),
    "webm with longer sound": ("v.webm", {"codec": "libvpx", "options": LIVE, "sound": 3000}),
    "webm with shorter sound": ("v.webm", {"codec": "libvpx-vp9", "options": LIVE, "sound": 400}),
    "flash": ("v.flv", {"codec": "flv"}),
    "flash with longer sound": ("v.flv", {"codec": "flv", "sound": 3000}),
    "windows media": ("v.wmv", {"codec": "wmv2"}),
    "windows media with longer sound": ("v.asf", {"codec": "wmv2", "sound": 3000}),
    "mxf": ("v.mxf", {"codec": "mpeg2video"}),
    "ivf": ("v.ivf", {"codec": "libvpx", "options": LIVE}),
    "avi": ("v.avi", {"codec": "mpeg4"}),
    "nut": ("v.nut", {"codec": "mpeg4"}),
    "fragments": ("v.mp4", {"codec": "mpeg4", "options": {"g": "5"}, "muxer": {"movflags": "dash+frag_keyframe"}}),
    "a last picture that stays": ("v.mkv", {"codec": "mpeg4", "hold": 5000}),
    "edges of B-frames": ("v.mov", {"codec": "libx264", "options": {"bf": "3"}}),
    "transport stream": ("v.ts", {"codec": "mpeg2video"}),
    "program stream": ("v.mpg", {"codec": "mpeg2video"}),
}
SILENT = {"nut", "fragments", "transport stream", "program stream", "edges of B-frames"}  # their halves do not tell

QUICK = {"uneven matroska", "webm with longer sound", "flash with longer sound", "windows media", "mxf", "fragments"}


def told(path: Path, folder: Path, capsys) -> list[str]:
    """What both ways of reading say of a file that breaks off."""
    capsys.readouterr()
    reader = LooseFiles()
    reader.info(path)
    jpgs(path.parents[1], folder)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == len(reader.cut) and all(reader.cut[path] in line and path.name in line for line in lines)
    return lines


@pytest.mark.parametrize("kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow)
                                  for kind in FILMS])
def test_whole_files_are_whole_and_halves_are_told_of(kind, tmp_path, capsys):
    name, how = FILMS[kind]
    path = film(tmp_path / "avi" / "A" / name, **how)
    assert not told(path, tmp_path / "whole", capsys)
    content = path.read_bytes()
    if kind in SILENT:
        return
    path.write_bytes(content[:len(content) * 6 // 10])
    (line,) = told(path, tmp_path / "half", capsys)
    assert "breaks off" in line


def test_a_duration_that_another_tool_has_left_is_none_of_the_file(tmp_path, capsys):
    path = film(tmp_path / "avi" / "A" / "v.mkv", "mpeg4")
    content = path.read_bytes()
    assert content.count(b"00:00:01.600000000") == 1
    path.write_bytes(content.replace(b"00:00:01.600000000", b"00:59:01.600000000"))
    assert not told(path, tmp_path / "jpg", capsys)


def test_the_end_of_a_damaged_header_is_no_promise(tmp_path, capsys):
    path = film(tmp_path / "avi" / "A" / "v.mkv", "mpeg4")
    path.write_bytes(path.read_bytes().replace(b"00:00:01.600000000", b"once upon a time.."))
    assert not told(path, tmp_path / "jpg", capsys)
