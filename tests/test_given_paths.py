"""What is given as a path and is not what the flag takes: one sentence, which names it and the right flag."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media import number_of, shades, write_frames, write_video
from PIL import Image
from preparing import jpgs

import local_attribution
from datasets.loose import check_single
from datasets.reading import CachedReader, JpegFolder, VideoFile
from datasets.reading.loose import LooseFiles, frame_files
from datasets.reading.naming import frame_names
from datasets.reading.pictures import rgb_of
from options.analysis import parse_analysis
from options.errors import user_errors
from options.flags import parse_main
from run.checkpoint_model import own_video
from util_scripts import generate_video_jpgs, pack_frames

ROOT = Path(__file__).parents[1]


def refused(capsys, call, *words) -> str:
    """The one line of a command line that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop, user_errors():
        call([str(word) for word in words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(("call", "words", "name"), [
    (local_attribution.main, ["--video", ""], "--video"),
    (local_attribution.main, ["--video", "a.mp4", ""], "--video"),
    (local_attribution.main, ["--videos_dir", ""], "--videos_dir"),
    (local_attribution.main, ["--videos_dir="], "--videos_dir"),
    (local_attribution.main, ["--video", "a.mp4", "--out", ""], "--out"),
    (lambda words: parse_analysis("local_analysis.py", "", words), ["--resume_path", ""], "--resume_path"),
    (lambda words: parse_analysis("local_analysis.py", "", words), ["--resume_path", "a", "--video", ""], "--video"),
    (parse_main, ["--video_path", ""], "--video_path"), (parse_main, ["--annotation_path", ""], "--annotation_path"),
    (generate_video_jpgs.main, ["", "jpg", "ucf101"], "avi_dir"),
    (generate_video_jpgs.main, ["avi", "", "ucf101"], "jpg_dir"), (pack_frames.main, ["jpg", " "], "out_dir")])
def test_an_empty_path_is_not_the_current_folder(capsys, call, words, name):
    line = refused(capsys, call, *words)
    assert name in line and "empty" in line


def folder_of_videos(folder: Path) -> Path:
    for name in ("a.avi", "b.avi"):
        write_video(folder / name, shades(2))
    return folder


def with_cover(folder: Path) -> Path:
    Image.new("RGB", (32, 24)).save(folder_of_videos(folder) / "cover.jpg")
    return folder


def a_pipe(folder: Path) -> Path:
    folder.mkdir()
    os.mkfifo(folder / "fifo.mp4")
    return folder / "fifo.mp4"


SINGLE = {
    "videos": (folder_of_videos, "--videos_dir"), "videos and a cover": (with_cover, "--videos_dir"),
    "class folders of videos": (lambda folder: folder_of_videos(folder / "Run").parent, "--videos_dir"),
    "class folders of frames": (lambda folder: write_frames(folder / "Run/v", shades(2)).parents[1], "--videos_dir"),
    "a pipe": (a_pipe, "is no file"), "a device": (lambda folder: Path("/dev/null"), "is no file"),
    "nothing": (lambda folder: folder / "none.mp4", "no such video"),
    "a link to nowhere": (lambda folder: (folder.mkdir(), (folder / "a.mp4").symlink_to("nowhere"))
                          and folder / "a.mp4", "no such video"),
}


@pytest.mark.parametrize("case", SINGLE)
def test_what_is_no_single_video_is_refused_with_the_right_flag(tmp_path, case):
    make, word = SINGLE[case]
    path = make(tmp_path / "given")
    for call in (check_single, own_video):
        with pytest.raises(ValueError, match=word) as caught:
            call(path)
        assert str(path) in str(caught.value) or str(path.resolve()) in str(caught.value)


def test_what_is_a_single_video_is_taken(tmp_path):
    video = write_video(tmp_path / "a.avi", shades(3))
    frames = write_frames(tmp_path / "frames", shades(4))
    (tmp_path / "linked.avi").symlink_to(video)
    write_video(tmp_path / "frames" / ".preview.avi", shades(2))  # hidden
    for path, n in ((video, 3), (tmp_path / "linked.avi", 3), (frames, 4)):
        assert own_video(path)[0].n_frames == n


@pytest.mark.slow
def test_a_pipe_does_not_hang_the_command_line(tmp_path):
    ended = subprocess.run([sys.executable, "local_attribution.py", "--video", a_pipe(tmp_path / "given")], cwd=ROOT,
                           capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "is no file" in ended.stderr


# --- frames in order, and the same in all ways


def touch(folder: Path, names) -> Path:
    for i, name in enumerate(names):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("names", [
    ["0.0.png", "0.05.png", "0.1.png", "0.15.png", "0.2.png"], ["0,0.png", "0,05.png", "0,1.png"],
    ["f_0.033s.png", "f_0.067s.png", "f_0.1s.png", "f_0.133s.png"], ["1.25.png", "1.5.png", "1.75.png"],
    ["0.5.png", "0.533.png", "0.567.png", "0.6.png"], ["7.png", "8.png", "10.png"],
    ["clip.8.png", "clip.9.png", "clip.10.png", "clip.11.png"], ["v.1.png", "v.20.png"],
    ["1.8.png", "1.9.png", "1.10.png", "1.11.png"], ["1.9.png", "1.10.png"], ["shot1.0009.png", "shot1.0010.png"],
    ["v1.2.9.png", "v1.2.10.png", "v1.2.11.png"]])
def test_numbers_with_points_are_seconds_or_counts(tmp_path, names):
    touch(tmp_path, names)
    assert frame_names(tmp_path, gaps=True) == names
    assert LooseFiles().frames(tmp_path)[:, 0, 0, 0].tolist() == [10 * i for i in range(len(names))]


@pytest.mark.parametrize("names", [["0.25.png", "0.5.png"], ["0.1.png", "0.10.png", "0.010.png"],
                                   ["0.3.png", "0.12.png", "0.55.png", "0.6.png"]])
def test_numbers_that_may_be_either_are_refused(tmp_path, names):
    touch(tmp_path, names)
    with pytest.raises(ValueError, match="name"):
        frame_names(tmp_path, gaps=True)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("no.jpg"), os.mkfifo, Path.mkdir])
def test_a_frame_that_is_no_file_is_not_passed_over(tmp_path, make):
    touch(tmp_path, ["1.jpg"])
    make(tmp_path / "2.jpg")
    with pytest.raises(ValueError, match=r"2\.jpg: is no file"):
        frame_files(tmp_path)
    (tmp_path / "2.jpg").rename(tmp_path / "cover.jpg")  # no frame by its name
    assert [file.name for file in frame_files(tmp_path)] == ["1.jpg"]


def test_frames_of_two_sizes_are_named(tmp_path):
    touch(tmp_path, ["1.png", "2.png"])
    Image.new("RGB", (8, 5)).save(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"1\.png is 6 x 4 and 3\.png is 8 x 5"):
        LooseFiles().frames(tmp_path)


def test_a_video_whose_size_changes_midway_is_read_as_it_is_stored(tmp_path):
    """Two transport streams, one after the other, of 120 x 160 and of 96 x 128 pixels."""
    one = write_video(tmp_path / "one.ts", shades(8, 120, 160), codec="mpeg2video").read_bytes()
    other = write_video(tmp_path / "other.ts", shades(16, 96, 128)[8:], codec="mpeg2video").read_bytes()
    (tmp_path / "avi" / "A").mkdir(parents=True)
    path = tmp_path / "avi" / "A" / "change.ts"
    path.write_bytes(one + other)
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    stored = JpegFolder().frames(tmp_path / "jpg" / "A" / "change")
    n = len(stored)
    assert n >= 15 and stored.shape[1:3] == (120, 160)
    for reader in (VideoFile(), LooseFiles(), CachedReader(VideoFile(), 10**9)):
        whole = reader.frames(path)
        assert whole.shape == stored.shape and (whole.float() - stored.float()).abs().mean() < 3
        assert number_of(whole) == number_of(stored)
        for wanted in ([n - 1, n - 2], [0, n - 1], [n - 3], [1]):  # a window that lies in the second part, too
            assert (reader.frames(path, wanted).float() - whole[wanted].float()).abs().max() == 0
    assert (VideoFile().frames(path, [n - 2]).float() - whole[[n - 2]].float()).abs().max() == 0


def test_pictures_that_are_none_are_called_so():
    for content, words in ((b"", "is empty; again"), (b"text", "holds no picture; again")):
        with pytest.raises(ValueError, match=words) as caught:
            rgb_of(content, "a.jpg", "again")
        assert "BytesIO" not in str(caught.value)


def test_an_empty_video_is_called_so(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").write_bytes(b"no video" * 99)
    for name, word in (("a.mp4", "is empty"), ("b.mp4", "not a readable video")):
        with pytest.raises(ValueError, match=word) as caught:
            own_video(tmp_path / name)
        assert str(caught.value).endswith("replace the file")
