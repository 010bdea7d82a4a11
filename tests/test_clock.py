"""Frames are placed in time by their timestamps: segments in seconds, `--fps`, and the seconds of explanations."""

import io
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import number_of, real_clips, shades, write_frames, write_video
from PIL import Image, ImageSequence

from datasets import READERS
from datasets.activitynet import read_activitynet
from datasets.annotation import read_annotation
from datasets.reading import CachedReader, FrameTimes, JpegFolder, LastVideo, LooseFiles, VideoFile
from datasets.reading.clock import Thinning, evenly
from explain.narration import _seconds
from explain.render import gif, part_of, seconds_per_frame
from hierarchy.tree import Hierarchy
from util_scripts import (
    add_fps_into_activitynet_json,
    check_dataset,
    epic_kitchens_json,
    generate_video_hdf5,
    generate_video_jpgs,
    pack_frames,
)

PHONE = [33 * i for i in range(30)] + [990 + 133 * i for i in range(30)]  # ms: 30 a second, then 7.5
TREE = Hierarchy.from_rows([["Bend", "Moving"], ["Jump", "Moving"]])


def timed(path: Path, frames: np.ndarray, times: list[int] | None, *, codec: str = "libx264", rate: int = 30,
          options: dict | None = None, sound_from: int | None = None) -> Path:
    """A video whose frames are shown at given milliseconds, and noise from some millisecond on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = None if sound_from is None else container.add_stream("pcm_s16le", rate=8000)
        if sound is not None:
            sound.layout = "mono"
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 8000, 8 * sound_from, Fraction(1, 8000)
            container.mux(sound.encode(heard))
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def jpgs(videos: Path, folder: Path, dataset: str = "ucf101", *more: object) -> None:
    generate_video_jpgs.main([str(word) for word in (videos, folder, dataset, "--n_jobs", 1, *more)])


def noise(n: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(n, 24, 32, 3), dtype=np.uint8)


def by_a_browser(path: Path, times: list[int]) -> Path:
    """A WebM as browsers record it: no element that tells the rate."""
    timed(path, noise(len(times)), times, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    content = bytearray(path.read_bytes())
    at = content.index(bytes.fromhex("23e383"))  # DefaultDuration becomes a Void of the same length
    length = 4 + (content[at + 3] & 0x7f)
    content[at:at + length] = bytes([0xec, 0x80 | length - 2]).ljust(length, b"\0")
    path.write_bytes(content)
    return path


def annotated(folder: Path, *segments: tuple[float, float], file_type: str, key: str = "K") -> tuple[dict, list]:
    """What add_fps_into_activitynet_json writes of a video v_K and segments, and the frames that are read of it."""
    entry = {"subset": "training", "duration": 5, "annotations": [{"segment": list(one), "label": "Bend"}
                                                                  for one in segments]}
    (folder.parent / "official.json").write_text(json.dumps({"taxonomy": [], "database": {key: entry}}))
    out = folder.parent / "anet.json"
    add_fps_into_activitynet_json.main([str(folder), str(folder.parent / "official.json"), str(out), "--file_type",
                                        file_type])
    videos = read_activitynet(out, folder, TREE, file_type=file_type)
    return json.loads(out.read_text())["database"][key], [video.segment for video in videos]


def stored(folder: Path, file_type: str) -> Path:
    """The folder in another form of storage."""
    if file_type in ("video", "jpg"):
        return folder
    script = generate_video_hdf5 if file_type == "hdf5" else pack_frames
    script.main([str(folder), str(folder.with_name(file_type))])
    return folder.with_name(file_type)


# --- the class itself


def test_seconds_become_the_frames_that_are_shown_in_them():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 60))
        edges = np.cumsum([rng.uniform(0, 1), *rng.uniform(0.01, 0.3, n)])
        times = FrameTimes.of(n, None, edges)
        start, end = sorted(rng.uniform(0, 1.2 * edges[-1], 2))
        shown = [i for i in range(n) if start <= edges[i] < end]
        assert times.frames_in(start, end) == ((shown[0], shown[-1] + 1) if shown else (0, 0))
        first, last = sorted(rng.integers(n + 1, size=2).tolist())
        assert times.seconds_of(first, last) == (edges[first], edges[last])
        assert times.fps == pytest.approx(n / (edges[-1] - edges[0]))
    for wrong in ((2, 1), (-1, 1), (1, 1), (float("nan"), 1), (0, float("inf")), (0, 1e300)):
        assert times.frames_in(*wrong) == (0, 0)


def test_even_times_are_compact_whatever_a_container_rounds():
    for rate in (25.0, 30000 / 1001, 12.5, 60.0):
        exact = np.arange(401) / rate
        assert evenly(np.round(exact, 3), [rate]) == FrameTimes(400, rate)
        assert evenly(exact, [10.0]).edges is not None
        late = exact + (np.arange(401) > 200) * 0.3 / rate
        assert evenly(late, [rate], stated=rate).fps == rate and evenly(late, [rate]).edges is not None
    assert FrameTimes(9, 10.0).seconds_of(2, 99) == (0.2, 9.9)


@pytest.mark.parametrize("edges", [[0, 1], [0, 2, 1, 3], [0, 1, 2, float("nan")], [-1, 1, 2, 3], [0, 0, 0, 0], "abcd",
                                   [0, 1, 2, 1e9], [[0, 1, 2, 3]], {"a": 1}, [0, 1, 2, None], 3])
def test_times_that_no_video_has(edges, tmp_path):
    with pytest.raises(ValueError):
        FrameTimes.of(3, 25.0, edges)
    info = {"n_frames": 3, "width": 32, "height": 24, "fps": 25.0}
    assert JpegFolder().times(write_frames(tmp_path / "v", shades(3), info=info)) == FrameTimes(3, 25.0)
    write_frames(tmp_path / "v", shades(3), info=info | {"times": edges})
    with pytest.raises(ValueError, match="info.json: damaged"):
        JpegFolder().times(tmp_path / "v")


def test_thinning_is_that_of_even_frames_where_they_are():
    for rate, fps in ((25, 10), (30, 7), (Fraction(30000, 1001), 12), (25, 60), (25, 25)):
        thinning, keep = Thinning(Fraction(fps)), min(Fraction(fps) / rate, 1)
        chosen = [i for i in range(100) if thinning.keeps(i / Fraction(rate))]
        slow = [i for i in range(100) if i * keep // 1 > (i - 1) * keep // 1]
        assert chosen == slow


def test_trembling_frames_of_the_asked_rate_are_all_kept():
    rng, thinning = np.random.default_rng(0), Thinning(Fraction(30))
    times = [Fraction(i, 30) + Fraction(int(rng.integers(-5, 6)), 1000) for i in range(1, 300)]
    assert all(thinning.keeps(time, False) for time in [Fraction(0), *times])


# --- files whose frames are not evenly spaced


@pytest.mark.parametrize("file_type", ["video", "jpg", "hdf5", "packed"])
def test_segments_of_an_uneven_video_in_every_storage(file_type, tmp_path):
    timed(tmp_path / "video" / "v_K.mp4", noise(), PHONE)
    timed(tmp_path / "video" / "v_even.mp4", noise(20), None)
    if file_type != "video":
        jpgs(tmp_path / "video", tmp_path / "jpg", "activitynet")
    folder = stored(tmp_path / ("video" if file_type == "video" else "jpg"), file_type)
    entry, segments = annotated(folder, (0.99, 2.0), (0, 0.98), (4.8, 99), file_type=file_type)
    assert segments == [(30, 38), (0, 30), (59, 60)]
    assert entry["n_frames"] == 60 and 11 < entry["fps"] < 13
    assert entry["times"][:60] == pytest.approx(np.array(PHONE) / 1000, abs=1e-3)
    place = folder / {"video": "v_K.mp4", "hdf5": "v_K.hdf5"}.get(file_type, "v_K")
    reader = READERS[file_type]()
    assert reader.times(place).frames_in(0.99, 2.0) == (30, 38)
    assert CachedReader(reader, 10**6).times(place) == LastVideo(reader, {}).times(place) == reader.times(place)
    assert reader.times(place.with_name(place.name.replace("v_K", "v_even"))) == FrameTimes(20, 30.0)
    even, _ = annotated(folder, (0, 1), file_type=file_type, key="even")
    assert "times" not in even and even["fps"] == 30.0


@pytest.mark.parametrize("make", [lambda path: timed(path, noise(), PHONE),
                                  lambda path: by_a_browser(path.with_suffix(".webm"), PHONE)])
def test_thinning_is_even_in_time_and_annotated_by_it(make, tmp_path):
    make(tmp_path / "avi" / "v_K.mp4")
    jpgs(tmp_path / "avi", tmp_path / "jpg", "activitynet", "--fps", 5)
    info = json.loads((tmp_path / "jpg" / "v_K" / "info.json").read_text())
    assert 23 <= info["n_frames"] <= 26 and 4.8 < info["fps"] < 5.2
    steps = np.diff(info["times"][:-1])
    assert steps.max() < 0.3 and abs(info["times"][info["n_frames"] // 2] - 2.45) < 0.2
    _, ((first, last),) = annotated(tmp_path / "jpg", (2.0, 4.0), file_type="jpg")
    assert info["times"][first] >= 2.0 and info["times"][last - 1] < 4.0 <= info["times"][last] and last - first >= 9


def test_a_recording_of_a_browser_has_the_rate_of_its_frames(tmp_path):
    even = by_a_browser(tmp_path / "even.webm", [33 * i + i // 3 for i in range(60)])
    assert VideoFile().info(even).fps == 30.0 and VideoFile().times(even) == FrameTimes(60, 30.0)
    uneven = by_a_browser(tmp_path / "v_K.webm", PHONE)
    with av.open(str(uneven)) as container:
        assert container.streams.video[0].average_rate is None
    assert VideoFile().info(uneven).fps == pytest.approx(60 / 4.98, rel=0.03)
    _, segments = annotated(tmp_path, (0.99, 2.0), file_type="video")
    assert segments == [(30, 38)]


def test_even_videos_are_stored_as_before(tmp_path):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(20))
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    assert json.loads((tmp_path / "jpg" / "A" / "v" / "info.json").read_text()) == {
        "n_frames": 20, "width": 32, "height": 24, "fps": 25.0, "stored_width": 32, "stored_height": 24,
        "asked_size": 240, "asked_fps": None}
    assert JpegFolder().times(tmp_path / "jpg" / "A" / "v") == FrameTimes(20, 25.0)
    assert JpegFolder().times(write_frames(tmp_path / "w", shades(3))) is None  # of others


def test_thinned_frames_of_an_even_video_know_when_they_were_shown(tmp_path):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(20))
    jpgs(tmp_path / "avi", tmp_path / "jpg", "ucf101", "--fps", 10)
    folder = tmp_path / "jpg" / "A" / "v"
    times = JpegFolder().times(folder)
    assert number_of(JpegFolder().frames(folder)) == [0, 3, 5, 8, 10, 13, 15, 18] and times.fps == 10.0
    assert times.listed() == pytest.approx([0, 0.12, 0.2, 0.32, 0.4, 0.52, 0.6, 0.72, 0.8])


def test_older_files_without_times_are_read(tmp_path):
    info = {"n_frames": 9, "width": 32, "height": 24, "fps": 12.5}
    write_frames(tmp_path / "jpg" / "A" / "v", shades(9), info=info)
    for file_type in ("hdf5", "packed"):
        place = stored(tmp_path / "jpg", file_type) / "A" / ("v.hdf5" if file_type == "hdf5" else "v")
        assert READERS[file_type]().times(place) == FrameTimes(9, 12.5)
    assert not list((tmp_path / "packed").glob("times*"))


def test_packing_again_leaves_no_times_behind(tmp_path):
    info = {"n_frames": 3, "width": 32, "height": 24, "fps": 25.0}
    for times in ([0, 1, 5, 6], [0, 2, 3, 4], None):
        write_frames(tmp_path / "jpg" / "v", shades(3), info=info | ({"times": times} if times else {}))
        pack_frames.main([str(tmp_path / "jpg"), str(tmp_path / "packed")])
        generate_video_hdf5.main([str(tmp_path / "jpg"), str(tmp_path / "hdf5")])
        assert len(list((tmp_path / "packed").glob("times*"))) == (times is not None)
        for file_type, place in (("packed", "packed/v"), ("hdf5", "hdf5/v.hdf5")):
            assert READERS[file_type]().times(tmp_path / place) == FrameTimes.of(3, 25.0, times)


def test_time_begins_where_the_sound_does(tmp_path):
    """Players and annotators count from there."""
    late = timed(tmp_path / "late.mkv", noise(20), [1000 + 40 * i for i in range(20)], rate=25, sound_from=0)
    times = VideoFile().times(late)
    assert times.seconds_of(0, 20) == pytest.approx((1.0, 1.8)) and times.frames_in(1.2, 1.4) == (5, 10)
    alone = timed(tmp_path / "alone.mkv", noise(20), [1000 + 40 * i for i in range(20)], rate=25)
    assert VideoFile().times(alone) == FrameTimes(20, 25.0)
    early = timed(tmp_path / "early.mkv", noise(20), [40 * i for i in range(20)], rate=25, sound_from=500)
    assert VideoFile().times(early) == FrameTimes(20, 25.0)


def test_real_files_are_even_by_their_stated_rate():
    files = sorted(real_clips("ucf101").rglob("*.avi"))[:6] + sorted(real_clips("other").rglob("*.mp4"))[:3]
    for file in files:
        with av.open(str(file)) as container:
            rate = float(container.streams.video[0].average_rate)
        info = VideoFile().info(file)
        assert info.fps == rate and VideoFile().times(file) == FrameTimes(info.n_frames, rate)


# --- what is shown of a file, and which stream


def trimmed(path: Path, share: Fraction) -> Path:
    """A file of which an edit list shows a share, as phones trim."""
    timed(path, noise(100), None, rate=25, options={"g": "30", "bf": "2"})
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12
    length = int.from_bytes(content[at:at + 4], "big")
    content[at:at + 4] = int(length * share).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def test_what_an_edit_list_leaves_out_is_not_missed(tmp_path, capsys):
    path = trimmed(tmp_path / "avi" / "A" / "v.mp4", Fraction(2, 5))
    reader = LooseFiles()
    assert reader.info(path).n_frames == 40 and not reader.cut
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    assert "warning" not in capsys.readouterr().err
    assert JpegFolder().info(tmp_path / "jpg" / "A" / "v").n_frames == 40
    whole = VideoFile().frames(path)
    for i in np.random.default_rng(0).permutation(40).tolist():
        assert torch.equal(reader.frames(path, [i])[0], whole[i])


def test_a_file_that_really_breaks_off_is_told_of(tmp_path, capsys):
    path = timed(tmp_path / "avi" / "A" / "v.mp4", noise(100), None, options={"movflags": "faststart"})
    with av.open(str(path)) as old, av.open(str(tmp_path / "s.mp4"), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    content = (tmp_path / "s.mp4").read_bytes()
    path.write_bytes(content[:len(content) * 6 // 10])
    reader = LooseFiles()
    n = reader.info(path).n_frames
    assert n < 90 and reader.cut == {path: f"{n} of the 100 frames"}
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    assert "v.mp4" in capsys.readouterr().err


def with_cover(path: Path) -> Path:
    """A film whose first video stream is its cover, as shops and converters write it."""
    timed(path, shades(10, 48, 64), None, rate=25, options={"crf": "10"})
    content = path.read_bytes()
    cover = write_frames(path.with_name("cover"), shades(1)) / "image_00001.jpg"

    def box(name: bytes, inside: bytes) -> bytes:
        return (8 + len(inside)).to_bytes(4, "big") + name + inside

    data = box(b"data", (13).to_bytes(4, "big") + bytes(4) + cover.read_bytes())
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    meta = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", box(b"covr", data))))
    at = content.index(b"moov") - 4
    size = int.from_bytes(content[at:at + 4], "big")
    assert content.index(b"mdat") < at  # whose place must not change
    moov = content[at + 8:at + size]
    track = moov.index(b"trak") - 4
    path.write_bytes(content[:at] + box(b"moov", moov[:track] + meta + moov[track:]) + content[at + size:])
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2 and container.streams.video[0].codec_context.name == "mjpeg"
    return path


def test_a_cover_picture_is_no_film(tmp_path, capsys):
    path = with_cover(tmp_path / "avi" / "A" / "v.mp4")
    for reader in (VideoFile(), LooseFiles()):
        info = reader.info(path)
        assert (info.n_frames, info.size, info.fps, reader.size(path)) == (10, (48, 64), 25.0, (48, 64))
        assert number_of(reader.frames(path, [9, 2])) == [9, 2] and number_of(reader.frames(path)) == list(range(10))
        assert reader.times(path) == FrameTimes(10, 25.0)
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    assert number_of(JpegFolder().frames(tmp_path / "jpg" / "A" / "v")) == list(range(10))
    assert "warning" not in capsys.readouterr().err


# --- annotation by official frames


def test_official_frame_numbers_of_epic_kitchens_find_their_actions(tmp_path):
    """Frames are numbered as in a re-encoding of 60 a second, while the video on disk has half of them."""
    timed(tmp_path / "videos" / "P01" / "P01_01.mp4", noise(120), [round(1001 * i / 30) for i in range(120)])
    write_video(tmp_path / "videos" / "P01" / "P01_02.mp4", shades(20), fps=Fraction(60000, 1001))
    lists = tmp_path / "lists"
    lists.mkdir()
    for kind, name in (("verb", "take"), ("noun", "plate")):
        (lists / f"EPIC_100_{kind}_classes.csv").write_text(f"id,key\n0,{name}\n")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class\n"
    (lists / "EPIC_100_train.csv").write_text(
        head + "P01_01_0,P01,P01_01,00:00:01.00,00:00:01.50,60,90,0\nP01_01_1,P01,P01_01,00:00:03.00,00:00:03.50,180,"
        "210,0\nP01_01_2,P01,P01_01,00:00:03.90,00:00:04.50,234,270,0\nP01_01_3,P01,P01_01,00:00:04.10,00:00:04.50,246,"
        "270,0\nP01_02_0,P01,P01_02,00:00:00.10,00:00:00.20,6,11,0\n")
    (lists / "EPIC_100_validation.csv").write_text(head)

    def read(folder: Path) -> dict[str, tuple[int, int]]:
        epic_kitchens_json.main([str(lists), str(folder), str(tmp_path / "out.json")])
        return {name: entry.segment for name, entry in read_annotation(tmp_path / "out.json").items()}

    assert read(tmp_path / "videos") == {"P01_01_0": (30, 45), "P01_01_1": (90, 105), "P01_01_2": (117, 120),
                                         "P01_02_0": (5, 11)}  # whose frames are the official ones
    jpgs(tmp_path / "videos", tmp_path / "jpg", "epic_kitchens", "--fps", 10)
    assert read(tmp_path / "jpg")["P01_01_1"] == (30, 35)
    jpgs(tmp_path / "videos", tmp_path / "others", "epic_kitchens")
    for info in (tmp_path / "others").rglob("info.json"):  # as frames that others extracted
        info.unlink()
    assert read(tmp_path / "others") == {"P01_01_0": (59, 90), "P01_02_0": (5, 11)}


# --- what people read


def test_explanations_tell_the_seconds_of_their_frames():
    times = FrameTimes.of(60, 12.0, np.array([*PHONE, 4980]) / 1000)
    assert _seconds(30, 38, times) == [0.99, 2.054] and _seconds(30, 38, FrameTimes(60, 12.0)) == [2.5, 3.167]
    assert _seconds(30, 38, None) is None
    clip = torch.arange(14, 46, 2)  # 66 ms from frame to frame, then 266
    seconds = seconds_per_frame(clip, times)
    assert seconds == pytest.approx([0.066] * 8 + [0.266] * 8)
    assert seconds_per_frame(torch.tensor([30, 31, 32, 30, 31]), times) == pytest.approx([0.133] * 5)
    film = Image.open(io.BytesIO(gif(noise(16), seconds)))
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) == round(sum(seconds) * 100) * 10
    assert part_of(seconds, 6, 10) == seconds[6:10] and part_of(0.04, 6, 10, 2) == 0.08
    assert part_of(seconds, 0, 16, 3) == pytest.approx([0.198, 0.198, 0.398, 0.798, 0.798, 0.266])


def test_the_doctor_reads_annotations_with_times(tmp_path, capsys):
    timed(tmp_path / "videos" / "v_K.mp4", noise(), PHONE)
    annotated(tmp_path / "videos", (0.99, 2.0), file_type="video")
    (tmp_path / "tree.csv").write_text("Bend,Moving,Root\nJump,Moving,Root\n")
    content = json.loads((tmp_path / "anet.json").read_text())
    content["database"]["bad"] = content["database"]["K"] | {"times": [0, 1]}
    (tmp_path / "anet.json").write_text(json.dumps(content))
    check_dataset.main(["--root_path", str(tmp_path), "--video_path", "videos", "--annotation_path", "anet.json",
                        "--dataset", "activitynet", "--tree_file", "tree.csv", "--n_threads", "1", "--file_type",
                        "video"])
    assert "bad: times that no video has" in capsys.readouterr().out
