"""From video files to folders of frames, by the script's own command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from media import number_of, shades, write_frames, write_video
from preparing import jpgs, numbers, quits, write_films

from datasets.reading import JpegFolder, VideoFile, VideoInfo
from util_scripts import generate_video_jpgs, storing

ROOT = Path(__file__).parents[1]


@pytest.fixture
def films(tmp_path):
    return write_films(tmp_path / "avi")


def test_videos_become_numbered_frames_and_their_info(films, tmp_path, capsys):
    jpgs(films, tmp_path / "jpg")
    assert numbers(capsys.readouterr().out) == [3, 0, 0]
    folder = tmp_path / "jpg" / "YoYo" / "v_YoYo_g02_c01"
    names = [f"image_{i:05d}.jpg" for i in range(1, 13)] + ["info.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert number_of(JpegFolder().frames(folder)) == list(range(12))
    assert JpegFolder().info(folder) == VideoInfo(12, 24, 32, 30.0)
    assert sorted(path.name for path in (tmp_path / "jpg" / "YoYo").iterdir()) == ["v_YoYo_g01_c01", "v_YoYo_g02_c01"]


def test_large_videos_shrink_and_small_ones_are_never_enlarged(tmp_path):
    write_video(tmp_path / "avi" / "A" / "large.avi", shades(3, 480, 854))
    write_video(tmp_path / "avi" / "A" / "small.avi", shades(3, 24, 32))
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    large, small = tmp_path / "jpg" / "A" / "large", tmp_path / "jpg" / "A" / "small"
    assert JpegFolder().frames(large, [0]).shape == (1, 240, 427, 3)
    assert JpegFolder().info(large) == VideoInfo(3, 480, 854, 25.0)  # of the original
    info = json.loads((large / "info.json").read_text())
    assert (info["stored_height"], info["stored_width"]) == (240, 427)
    assert JpegFolder().frames(small, [0]).shape == (1, 24, 32, 3)
    assert number_of(JpegFolder().frames(large)) == [0, 1, 2]


def test_frames_keep_their_quality(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(40, 215, size=(4, 3, 4, 3)), np.ones((1, 32, 32, 1))).astype(np.uint8)
    file = write_video(tmp_path / "avi" / "A" / "v.avi", smooth)
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    stored, decoded = JpegFolder().frames(tmp_path / "jpg" / "A" / "v"), VideoFile().frames(file)
    assert (stored.float() - decoded.float()).abs().mean() < 3


@pytest.mark.parametrize(("fps", "kept", "stored_fps"), [(25, range(20), 25), (5, range(0, 20, 5), 5),
                                                        (10, [0, 3, 5, 8, 10, 13, 15, 18], 10), (60, range(20), 25)])
def test_fewer_frames_a_second(tmp_path, fps, kept, stored_fps):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(20))
    jpgs(tmp_path / "avi", tmp_path / "jpg", "--fps", fps)
    folder = tmp_path / "jpg" / "A" / "v"
    assert number_of(JpegFolder().frames(folder)) == list(kept)
    assert JpegFolder().info(folder) == VideoInfo(len(kept), 24, 32, stored_fps)


def test_what_is_finished_is_skipped_and_what_is_not_is_redone(films, tmp_path, capsys):
    jpg = tmp_path / "jpg"
    jpgs(films, jpg)
    done, half, torn = (jpg / "YoYo" / "v_YoYo_g01_c01", jpg / "YoYo" / "v_YoYo_g02_c01",
                        jpg / "PlayingGuitar" / "v_PlayingGuitar_g01_c01")
    (done / "image_00001.jpg").write_bytes(b"untouched")
    (half / "image_00007.jpg").unlink()
    (torn / "info.json").write_text('{"n_frames": 5, "wid')
    write_frames(torn.with_name(f".{torn.name}.part"), shades(2))  # what a killed run leaves
    capsys.readouterr()
    jpgs(films, jpg)
    assert numbers(capsys.readouterr().out) == [2, 1, 0]
    assert (done / "image_00001.jpg").read_bytes() == b"untouched"
    assert number_of(JpegFolder().frames(half)) == list(range(12))
    assert len(list(half.iterdir())) == 13
    assert number_of(JpegFolder().frames(torn)) == list(range(5))
    assert [path.name for path in torn.parent.iterdir()] == [torn.name]
    jpgs(films, jpg)
    assert numbers(capsys.readouterr().out) == [0, 3, 0]


@pytest.mark.parametrize("more", [["--size", 12], ["--fps", 5], ["--size", 240, "--fps", "30000/1001"]])
def test_finished_folders_of_other_settings_are_an_error_before_anything_is_done(films, tmp_path, capsys, more):
    jpg = tmp_path / "jpg"
    jpgs(films, jpg, "--size", 20, "--fps", 10)
    lost = jpg / "PlayingGuitar" / "v_PlayingGuitar_g01_c01" / "image_00001.jpg"
    lost.unlink()
    call = generate_video_jpgs.main
    told = quits(capsys, call, films, jpg, "ucf101", "--n_jobs", 1, *more)
    assert "v_YoYo_g01_c01" in told and "JPG_DIR" in told and not lost.exists()
    jpgs(films, jpg, "--size", 20, "--fps", "10.0")
    assert numbers(capsys.readouterr().out) == [1, 2, 0] and lost.exists()


def test_settings_of_folders_that_do_not_tell_them_are_judged_by_what_they_tell(films, tmp_path, capsys):
    jpg, call = tmp_path / "jpg", generate_video_jpgs.main
    jpgs(films, jpg, "--size", 20, "--fps", 10)
    for path in jpg.rglob("info.json"):
        info = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in info.items() if not key.startswith("asked")}))
    for more in (["--size", 12], ["--size", 20, "--fps", 5]):
        assert "--size" in quits(capsys, call, films, jpg, "ucf101", "--n_jobs", 1, *more)
    jpgs(films, jpg, "--size", 20, "--fps", 10)
    assert numbers(capsys.readouterr().out) == [0, 3, 0]
    for path in jpg.rglob("info.json"):
        info = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in info.items() if not key.startswith("stored")}))
    jpgs(films, jpg, "--size", 12)
    assert numbers(capsys.readouterr().out) == [0, 3, 0]


def test_rates_are_finite_numbers(films, tmp_path, capsys):
    for rate in ("nan", "inf", "-inf", "0", "-5", "25/0", "fast"):
        with pytest.raises(SystemExit) as stop:
            generate_video_jpgs.main([str(films), str(tmp_path / "jpg"), "ucf101", f"--fps={rate}"])
        assert stop.value.code == 2 and f"'{rate}'" in capsys.readouterr().err


def test_a_killed_conversion_leaves_no_folder_that_looks_finished(films, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_video_jpgs.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    folder = tmp_path / "jpg" / "v"
    with pytest.raises(KeyboardInterrupt):
        storing.write_frame_folder(films / "YoYo" / "v_YoYo_g01_c01.avi", folder, size=240, fps=None)
    assert not folder.exists()
    assert generate_video_jpgs.finished(folder) is None


def test_its_processes_end_with_a_killed_script():
    """However the script ends: processes left behind would write into the folders of its next run."""
    script = ("import time\nfrom machine.processes import process_pool\n"
              "with process_pool(2) as pool:\n"
              "    for _ in range(2):\n"
              "        pool.submit(time.sleep, 60)\n"
              "    print(*pool._processes, flush=True)\n"
              "    time.sleep(60)\n")
    started = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    ids = [int(word) for word in started.stdout.readline().split()]
    started.kill()
    started.wait()
    assert len(ids) == 2
    deadline = time.monotonic() + 60
    while any(runs(process) for process in ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(process: int) -> bool:
    """Whether a process is there, and not merely its exit code."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_broken_videos_are_named_at_the_end_and_stop_nothing(films, tmp_path, capsys):
    (films / "YoYo" / "v_YoYo_g00_c01.avi").write_bytes(b"not a video" * 100)
    (films / "YoYo" / "v_YoYo_g00_c02.avi").write_bytes(b"")
    (films / "YoYo" / "notes.txt").write_text("not meant to be a video")
    jpgs(films, tmp_path / "jpg")
    told = capsys.readouterr()
    assert numbers(told.out) == [3, 0, 2]
    named = [line for line in told.err.splitlines() if line.startswith("broken: ")]
    assert ["v_YoYo_g00_c01.avi" in named[0], "v_YoYo_g00_c02.avi" in named[1], len(named)] == [True, True, 2]
    assert not list((tmp_path / "jpg" / "YoYo").glob("*v_YoYo_g00*"))
    assert not list((tmp_path / "jpg" / "YoYo").glob(".*"))


def test_a_video_of_an_unknown_codec_is_named_and_stops_nothing(films, tmp_path, capsys):
    film = films / "Run" / "v_Run_g09_c01.avi"
    write_video(film, shades(3))
    film.write_bytes(film.read_bytes().replace(b"FMP4", b"\0q\1x"))
    jpgs(films, tmp_path / "jpg")
    out, err = capsys.readouterr()
    assert "v_Run_g09_c01.avi" in err and "codec" in err and numbers(out)[-1] == 1


def test_a_folder_that_has_lost_a_frame_is_made_again(films, tmp_path, capsys):
    jpgs(films, tmp_path / "jpg")
    lost = sorted((tmp_path / "jpg").rglob("image_00002.jpg"))[0]
    lost.unlink()
    capsys.readouterr()
    jpgs(films, tmp_path / "jpg")
    assert lost.is_file() and numbers(capsys.readouterr().out) == [1, 2, 0]


def test_a_video_that_is_cut_off_keeps_its_frames_with_a_warning(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(256, size=(40, 48, 64, 3), dtype=np.uint8)
    file = write_video(tmp_path / "avi" / "A" / "v.avi", noise)
    data = file.read_bytes()
    file.write_bytes(data[:len(data) // 2])
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "v.avi" in warned[0]
    info = JpegFolder().info(tmp_path / "jpg" / "A" / "v")
    assert 10 < info.n_frames < 30
    assert JpegFolder().frames(tmp_path / "jpg" / "A" / "v").shape[0] == info.n_frames


def test_parallel_processes_write_the_same(films, tmp_path):
    jpgs(films, tmp_path / "one")
    generate_video_jpgs.main([str(films), str(tmp_path / "two"), "ucf101", "--n_jobs", "2"])
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 9 + 12 + 5 + 3
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_what_is_there_is_lost_only_for_something_better(films, tmp_path, capsys):
    older = write_frames(tmp_path / "jpg" / "YoYo" / "v_YoYo_g01_c01", shades(4))  # from elsewhere
    (films / "YoYo" / "v_YoYo_g01_c01.avi").write_bytes(b"not a video")
    other = tmp_path / "jpg" / "YoYo" / "v_YoYo_g02_c01" / "notes" / "mine.txt"
    other.parent.mkdir(parents=True)
    other.write_text("not frames")
    jpgs(films, tmp_path / "jpg")
    told = capsys.readouterr()
    assert numbers(told.out) == [1, 0, 2] and "notes" in told.err
    assert number_of(JpegFolder().frames(older)) == list(range(4)) and other.read_text() == "not frames"


def test_names_that_no_folder_can_have(tmp_path, capsys):
    write_video(tmp_path / "avi" / "A" / f"{'x' * 251}.avi", shades(2))
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(2))
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    told = capsys.readouterr()
    assert numbers(told.out) == [1, 0, 1] and "xxx" in told.err
    write_video(tmp_path / "avi" / "A.avi", shades(2))  # whose frames would lie among the folders of A's videos
    call = generate_video_jpgs.main
    assert "A.avi" in quits(capsys, call, tmp_path / "avi", tmp_path / "jpg", "hmdb51", "--n_jobs", 1)


def test_nothing_to_convert_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "A").mkdir(parents=True)
    (tmp_path / "bad" / "A" / "v.avi").write_bytes(b"not a video")
    write_video(tmp_path / "twice" / "A" / "v.avi", shades(2))
    write_video(tmp_path / "twice" / "A" / "v.mp4", shades(2))
    call, end = generate_video_jpgs.main, (tmp_path / "jpg", "ucf101", "--n_jobs", 1)
    assert "nowhere" in quits(capsys, call, tmp_path / "nowhere", *end)
    assert "empty" in quits(capsys, call, tmp_path / "empty", *end)
    assert "bad" in quits(capsys, call, tmp_path / "bad", *end)
    assert "v.avi" in quits(capsys, call, tmp_path / "twice", *end)
    assert "--size" in quits(capsys, call, tmp_path / "bad", *end, "--size", 0)


def run(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_scripts_run_as_modules(tmp_path):
    failed = run("util_scripts.generate_video_jpgs", tmp_path / "nowhere", tmp_path, "ucf101")
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "nowhere" in failed.stderr
