"""Frames that are sought in video files are those of a decoding from the start, and little else is decoded for them."""

import fractions
import multiprocessing as mp
import warnings
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch
from media import number_of, real_clips, shades

from benchmarks import seeking as seeking_benchmark
from benchmarks.seeking import counted
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


def made(path, **how):
    """As `write`; the test is skipped where this PyAV cannot."""
    try:
        return write(path, **how)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write it: {error}")


FINE = {"g": "12", "qmin": "2", "qmax": "3", "sc_threshold": "1000000000"}
B_FRAMES = {"g": "12", "bf": "3", "crf": "20"}
HIDDEN = {"g": "12", "deadline": "good", "cpu-used": "4", "lag-in-frames": "16", "auto-alt-ref": "1"}
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
    "vp9 with hidden frames": ("v.mp4", {"codec": "libvpx-vp9", "options": HIDDEN}),
    "vp8": ("v.webm", {"codec": "libvpx", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}}),
    "av1": ("v.mp4", {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}}),
    "hevc with open groups": ("v.mkv", {"codec": "libx265", "options": {
        "x265-params": "open-gop=1:keyint=12:bframes=4:log-level=none"}}),
    "mjpeg": ("v.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "mpeg1 program stream": ("v.mpg", {"codec": "mpeg1video", "options": FINE | {"bf": "2"}}),
    "mpeg2 program stream": ("v.mpg", {"codec": "mpeg2video", "options": FINE | {"bf": "2"}}),
    "mpeg2 transport stream": ("v.ts", {"codec": "mpeg2video", "options": FINE | {"bf": "2"}}),
    "wmv1": ("v.wmv", {"codec": "wmv1", "options": FINE}),
    "wmv2": ("v.wmv", {"codec": "wmv2", "options": FINE}),
    "flv": ("v.flv", {"codec": "flv", "options": FINE}),
    "ffv1": ("v.mkv", {"codec": "ffv1", "options": {"g": "12"}}),
    "prores": ("v.mov", {"codec": "prores", "pix_fmt": "yuv422p10le"}),
    "cinepak": ("v.avi", {"codec": "cinepak", "pix_fmt": "rgb24"}),
    "h264 avi with b-frames": ("v.avi", {"options": B_FRAMES}),
}
SEQUENTIAL = ("cinepak", "h264 avi with b-frames")  # whose files do not tell where their pictures are
UNEVEN = ("variable rate", "gaps of seconds")  # containers with uneven times may find the group before


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
    path = made(tmp_path / name, **how)
    assert compare(path) == N
    if kind == "rotated":
        assert VideoFile().size(path) == (64, 48)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SEQUENTIAL and "intra" not in kind])
def test_no_more_than_a_group_of_pictures_is_decoded(kind, tmp_path):
    name, how = KINDS[kind]
    path = made(tmp_path / name, **how)
    assert seeking.packet_index(path) is not None
    with counted() as counts:
        for i in np.random.default_rng(0).permutation(N).tolist():
            counts.append(0)
            VideoFile().frames(path, [i])
    assert max(counts[1:]) <= (25 if kind in UNEVEN else 13 + 4)  # an open group leads in with frames of the one before


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_serves_all_windows_of_a_video(kind, tmp_path):
    """Windows that overlap, and windows that leave frames out, cost each picture once at most."""
    name, how = KINDS[kind]
    path = made(tmp_path / name, **how)
    whole = VideoFile().frames(path)
    for step, stride in ((8, 1), (4, 2), (16, 1)):
        reader = VideoFile()
        reader.frames(path, [0])
        with counted() as counts:
            for start in range(0, N - 7 * stride, step):
                window = range(start, start + 8 * stride, stride)
                assert torch.equal(reader.frames(path, window), whole[list(window)])
        assert counts[0] <= N + (N if kind in SEQUENTIAL else 0)  # it was opened before it was counted


def test_pictures_wait_for_the_next_window_as_far_as_memory_allows(tmp_path, monkeypatch):
    path = write(tmp_path / "v.avi", codec="cinepak", pix_fmt="rgb24")
    whole = VideoFile().frames(path)
    monkeypatch.setattr(seeking, "MOST_BYTES", 6 * 48 * 64 * 3)
    reader = VideoFile()
    for stride, most in ((1, 32), (13, 6)):
        window = torch.arange(0, 16, stride)
        for start in range(0, N - 16, 4):
            assert torch.equal(reader.frames(path, start + window), whole[start + window])
            assert len(reader._open[str(path)]._waiting) <= most
    with counted() as counts:
        for start in range(0, N - 16, 4):
            reader.frames(path, range(start, start + 16))
    assert counts[0] <= 2 * N  # from the start, and on from there: a window waits for the next one


def test_a_file_that_was_written_over_is_opened_again(tmp_path):
    reader, paths = VideoFile(), [write(tmp_path / f"{n}.avi", codec="cinepak", pix_fmt="rgb24", n=n) for n in (20, 30)]
    assert reader.frames(paths[0], [5]).shape[0] == 1
    paths[1].replace(paths[0])
    assert reader.frames(paths[0], [28]).shape[0] == 1


def test_a_process_that_is_forked_reads_for_itself(tmp_path):
    """An open file would be shared, with its place."""
    path = write(tmp_path / "v.avi", codec="cinepak", pix_fmt="rgb24")
    whole, INHERITED["reader"] = VideoFile().frames(path), (reader := VideoFile())
    reader.frames(path, [3])
    with mp.get_context("fork").Pool(1) as pool:
        assert torch.equal(torch.from_numpy(pool.apply(_read_by_child, (path,))), whole[10:20])
    for start in range(9, 30, 7):
        assert torch.equal(reader.frames(path, range(start, start + 7)), whole[start:start + 7])


INHERITED: dict[str, VideoFile] = {}


def _read_by_child(path):
    return INHERITED["reader"].frames(path, range(10, 20)).numpy()


def test_threads_read_one_video_together(tmp_path):
    path = write(tmp_path / "v.webm", codec="libvpx", options={"g": "12", "deadline": "realtime", "cpu-used": "8"})
    whole, reader = VideoFile().frames(path), VideoFile()
    with ThreadPoolExecutor(4) as pool:
        starts = np.random.default_rng(0).integers(N - 8, size=40).tolist()
        clips = list(pool.map(lambda start: reader.frames(path, range(start, start + 8)), starts))
    assert all(torch.equal(clip, whole[start:start + 8]) for start, clip in zip(starts, clips, strict=True))


def test_packets_that_show_nothing_are_not_counted(tmp_path):
    """As of VP8's pictures that are only referred to: packets of their own, with times of their own."""
    options = {"g": "20", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    source, path = write(tmp_path / "s.webm", codec="libvpx", options=options), tmp_path / "v.webm"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(packet for packet in old.demux(old.streams.video[0]) if packet.size):
            content = bytearray(bytes(packet))
            if i in (7, 13, 25, 33):
                content[0] &= ~0x10  # its header's show_frame
            hidden = av.Packet(bytes(content))
            hidden.pts, hidden.dts, hidden.time_base, hidden.stream = packet.pts, packet.dts, packet.time_base, stream
            hidden.is_keyframe = packet.is_keyframe
            new.mux(hidden)
    assert len(seeking.packet_index(path).pts) == N - 4 == compare(path)


@pytest.mark.parametrize(("content", "pictures"), [
    ("83", 1), ("82", 1), ("80", 0), ("8888", 1), ("86", 1), ("b1", 1), ("b040", 0),
    ("80" + "83" + "c10101c1", 1), ("80" + "80" + "c10101c1", 0), ("83" + "82" + "c10101c1", 2)])
def test_vp9_tells_how_many_pictures_a_packet_shows(content, pictures):
    """Marker 10, profile, show_existing_frame, frame_type, show_frame; and superframes of two frames of a byte each."""
    assert seeking.PICTURES["vp9"](bytes.fromhex(content)) == pictures


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


@pytest.mark.slow
def test_the_benchmark_counts_pictures(capsys):
    shares = seeking_benchmark.main(["--frames", "64", "--group", "8", "--codecs", "mpeg4", "cinepak"])
    assert set(shares) == {"mpeg4.mp4", "mpeg4.avi", "cinepak.avi"}
    assert all(share == 64 / (16 + 32 + 48 + 64) for share in shares.values())  # four windows, each picture once
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]) == 5
