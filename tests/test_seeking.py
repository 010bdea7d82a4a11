"""Frames that are sought in video files are those of a decoding from the start, and little else is decoded for them."""

import fractions
import warnings

import av
import numpy as np
import pytest
import torch
from media import number_of, real_clips, shades

from datasets.reading import VideoFile, reader, seeking, video_file

N = 40


def picture(i: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) of noise, some of it new in every picture, on a shade that tells the number."""
    still, new = np.random.default_rng(7), np.random.default_rng(i)
    noise = np.roll(still.integers(30, size=(height, width, 1)), 2 * i, axis=1) + new.integers(40, size=(height, 1, 3))
    return (noise + 3 * i).astype(np.uint8)


def write(path, *, codec="libx264", size=(48, 64), options=None, pix_fmt="yuv420p", rotation=0, times=None, n=N):
    """A video of N pictures, with what options the codec has, shown at given times (in 1/1000 s)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


FINE = {"g": "12", "qmin": "2", "qmax": "3", "sc_threshold": "1000000000"}
B_FRAMES = {"g": "12", "bf": "3", "crf": "20"}
KINDS = {
    "h264 with b-frames": ("v.mp4", {"options": B_FRAMES}),
    "h264 with open groups": ("v.mkv", {"options": B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}}),
    "h264 in many slices of intra": ("v.mp4", {"options": {"g": "250", "x264-params": "intra-refresh=1:keyint=20"}}),
    "mpeg4 avi": ("v.avi", {"codec": "mpeg4", "options": FINE}),
    "mpeg4 avi with b-frames": ("v.avi", {"codec": "mpeg4", "options": FINE | {"bf": "2"}}),
    "mpeg4 mp4 with b-frames": ("v.mp4", {"codec": "mpeg4", "options": FINE | {"bf": "2"}}),
    "variable rate": ("v.mp4", {"options": B_FRAMES, "times": [40 * i + 7 * (i % 5) for i in range(N)]}),
    "gaps of seconds": ("v.mkv", {"options": B_FRAMES, "times": [40 * i + 3000 * (i // 17) for i in range(N)]}),
    "odd size": ("v.mp4", {"options": B_FRAMES, "size": (53, 71), "pix_fmt": "yuv444p"}),
    "rotated": ("v.mp4", {"options": B_FRAMES, "rotation": 90}),
    "grey": ("v.mp4", {"options": B_FRAMES, "pix_fmt": "gray"}),
    "vp9": ("v.webm", {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}}),
    "mjpeg": ("v.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "mpeg2": ("v.mpg", {"codec": "mpeg2video", "options": FINE | {"bf": "2"}}),
}


def compare(path) -> int:
    """Every frame alone, and clips of several strides, against the whole file decoded from its start."""
    whole = VideoFile().frames(path)
    n, reader = len(whole), VideoFile()
    for i in range(n):
        assert torch.equal(reader.frames(path, [i])[0], whole[i]), i
    rng = np.random.default_rng(0)
    for stride in (1, 2, 7, 25):
        for start in rng.integers(n, size=4).tolist():
            clip = torch.arange(start, start + 8 * stride, stride) % n  # loops, as short videos are
            assert torch.equal(reader.frames(path, clip), whole[clip])
    with pytest.raises(ValueError, match=path.name):
        reader.frames(path, [n])
    return n


@pytest.mark.parametrize("kind", KINDS)
def test_every_sought_frame_is_that_of_a_whole_decoding(kind, tmp_path):
    name, how = KINDS[kind]
    try:
        path = write(tmp_path / name, **how)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write it: {error}")
    assert compare(path) == N
    if kind == "rotated":
        assert VideoFile().size(path) == (64, 48)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the pictures that come out of decoders while frames are sought."""
    counts = []
    whole = seeking._decode_group

    def count(container, *rest):
        class Counted:
            name, seek = container.name, staticmethod(container.seek)

            @staticmethod
            def decode(stream):
                for frame in container.decode(stream):
                    counts.append(frame.pts)
                    yield frame

        return whole(Counted, *rest)

    monkeypatch.setattr(seeking, "_decode_group", count)
    monkeypatch.setattr(VideoFile, "_from_the_start", lambda *_: pytest.fail("decoded from the start"))
    return counts


@pytest.mark.parametrize("kind", ["h264 with b-frames", "mpeg4 avi", "variable rate", "gaps of seconds", "rotated",
                                  "mjpeg"])
def test_no_more_than_a_group_of_pictures_is_decoded(kind, tmp_path, decoded):
    name, how = KINDS[kind]
    path, reader = write(tmp_path / name, **how), VideoFile()
    for i in range(N):
        decoded.clear()
        reader.frames(path, [i])
        assert 1 <= len(decoded) <= (25 if "times" in how else 13)  # containers with uneven times find the group before
    decoded.clear()
    reader.frames(path, range(20, 36))
    assert len(decoded) <= 16 + 2 * 25


def test_a_reader_that_remembers_too_much_forgets_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "INDEXED", 2)
    videos = VideoFile()
    for i in range(4):
        path = write(tmp_path / f"{i}.avi", codec="mpeg4", n=8)
        assert videos.frames(path, [3]).shape == (1, 48, 64, 3)
    assert len(videos._indices) == 2


def test_a_file_whose_packets_lie_is_decoded_from_the_start(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", options=B_FRAMES)
    whole = VideoFile().frames(path)
    honest = video_file.packet_index(path)
    lying = seeking.PacketIndex(np.delete(honest.pts, 18), honest.keys - (honest.keys > 18), honest.seeks)
    monkeypatch.setattr(video_file, "packet_index", lambda path: lying)
    reader = VideoFile()
    assert torch.equal(reader.frames(path, [20, 31]), whole[[20, 31]])
    assert reader._indices == {str(path): None}  # and it is not tried again


def test_real_files_with_pictures_that_only_some_count():
    """Files of UCF-101 hold packets without a picture, and B-frames packed into others."""
    for name in ("Basketball_g18_c04", "Archery_g16_c05", "BalanceBeam_g20_c03", "TennisSwing_g18_c04"):
        (path,) = real_clips("ucf101").rglob(f"v_{name}.avi")
        with warnings.catch_warnings(action="error"):
            whole, reader = VideoFile().frames(path), VideoFile()
            for i in range(0, len(whole), 23):
                assert torch.equal(reader.frames(path, [i])[0], whole[i])
            assert torch.equal(reader.frames(path, [len(whole) - 1])[0], whole[-1])
            with pytest.raises(ValueError, match="frame"):
                reader.frames(path, [len(whole)])


@pytest.mark.slow
def test_every_frame_of_every_real_file():
    files = [path for path in real_clips("").rglob("*") if path.suffix in (".avi", ".mp4")]
    assert len(files) > 80
    for path in files:
        compare(path)


def test_numbers_are_those_of_the_pictures(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "2", "crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for frame in shades(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert number_of(VideoFile().frames(tmp_path / "v.mp4", [29, 3, 17])) == [29, 3, 17]
