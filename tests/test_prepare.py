"""From video files and official lists to frames, annotation files and accuracies, by the scripts' own command lines."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from media import number_of, real_clips, shades, write_frames, write_video
from PIL import Image

from datasets.annotation import read_annotated_videos
from datasets.reading import JpegFolder, VideoFile, VideoInfo
from hierarchy.tree import Hierarchy
from util_scripts import eval_accuracy, generate_video_jpgs, storing, ucf101_json

ROOT = Path(__file__).parents[1]
CLASSES = ["YoYo", "HandstandPushups", "PlayingGuitar"]  # not in alphabetical order
ROWS = [["HandstandPushups", "Body", "Alone"], ["YoYo", "Body", "Alone"], ["PlayingGuitar", "Music", "Together"]]


def quits(capsys, call, *argv) -> str:
    """The sentence with which a script ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call([str(arg) for arg in argv])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def jpgs(*argv) -> None:
    generate_video_jpgs.main([str(arg) for arg in (*argv, "ucf101", "--n_jobs", 1)])


def annotations(*argv) -> None:
    ucf101_json.main([str(arg) for arg in argv])


# --- generate_video_jpgs ---


@pytest.fixture
def films(tmp_path):
    write_video(tmp_path / "avi" / "YoYo" / "v_YoYo_g01_c01.avi", shades(9))
    write_video(tmp_path / "avi" / "YoYo" / "v_YoYo_g02_c01.mp4", shades(12), fps=30)
    write_video(tmp_path / "avi" / "PlayingGuitar" / "v_PlayingGuitar_g01_c01.avi", shades(5))
    return tmp_path / "avi"


def test_videos_become_numbered_frames_and_their_info(films, tmp_path, capsys):
    jpgs(films, tmp_path / "jpg")
    assert "3 videos converted, 0 were there already, 0 broken" in capsys.readouterr().out
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
    (half / "info.json").unlink()
    (half / "image_00099.jpg").write_bytes(b"of an older run")
    (torn / "info.json").write_text('{"n_frames": 5, "wid')
    write_frames(torn.with_name(f".{torn.name}.part"), shades(2))  # what a killed run leaves
    capsys.readouterr()
    jpgs(films, jpg)
    assert "2 videos converted, 1 were there already" in capsys.readouterr().out
    assert (done / "image_00001.jpg").read_bytes() == b"untouched"
    assert number_of(JpegFolder().frames(half)) == list(range(12))
    assert len(list(half.iterdir())) == 13
    assert number_of(JpegFolder().frames(torn)) == list(range(5))
    assert [path.name for path in torn.parent.iterdir()] == [torn.name]
    jpgs(films, jpg)
    assert "0 videos converted, 3 were there already" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--size", 12], ["--fps", 5], ["--size", 240, "--fps", "30000/1001"]])
def test_finished_folders_of_other_settings_are_an_error_before_anything_is_done(films, tmp_path, capsys, more):
    jpg = tmp_path / "jpg"
    jpgs(films, jpg, "--size", 20, "--fps", 10)
    lost = jpg / "PlayingGuitar" / "v_PlayingGuitar_g01_c01" / "info.json"
    lost.unlink()
    call = generate_video_jpgs.main
    told = quits(capsys, call, films, jpg, "ucf101", "--n_jobs", 1, *more)
    assert "v_YoYo_g01_c01" in told and "another JPG_DIR" in told and "remove" in told and not lost.exists()
    jpgs(films, jpg, "--size", 20, "--fps", "10.0")
    assert "1 videos converted, 2 were there already" in capsys.readouterr().out and lost.exists()


def test_settings_of_folders_that_do_not_tell_them_are_judged_by_what_they_tell(films, tmp_path, capsys):
    jpg, call = tmp_path / "jpg", generate_video_jpgs.main
    jpgs(films, jpg, "--size", 20, "--fps", 10)
    for path in jpg.rglob("info.json"):
        info = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in info.items() if not key.startswith("asked")}))
    for more in (["--size", 12], ["--size", 20, "--fps", 5]):
        assert "another --size or --fps" in quits(capsys, call, films, jpg, "ucf101", "--n_jobs", 1, *more)
    jpgs(films, jpg, "--size", 20, "--fps", 10)
    assert "3 were there already" in capsys.readouterr().out
    for path in jpg.rglob("info.json"):
        info = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in info.items() if not key.startswith("stored")}))
    jpgs(films, jpg, "--size", 12)
    assert "3 were there already" in capsys.readouterr().out


def test_rates_are_finite_numbers(films, tmp_path, capsys):
    for rate in ("nan", "inf", "-inf", "0", "-5", "25/0", "fast"):
        with pytest.raises(SystemExit) as stop:
            generate_video_jpgs.main([str(films), str(tmp_path / "jpg"), "ucf101", f"--fps={rate}"])
        assert stop.value.code == 2 and f"'{rate}' is no rate; give a finite number" in capsys.readouterr().err


def test_a_killed_conversion_leaves_no_folder_that_looks_finished(films, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_video_jpgs.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    folder = tmp_path / "jpg" / "v"
    with pytest.raises(KeyboardInterrupt):
        storing.write_frame_folder(films / "YoYo" / "v_YoYo_g01_c01.avi", folder, size=240, fps=None)
    assert not folder.exists()
    assert generate_video_jpgs.finished(folder) is None


def test_its_processes_end_with_a_killed_script():
    """However the script ends: processes left behind would write into the folders of its next run."""
    script = ("import time\nfrom util_scripts.processes import process_pool\n"
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
    assert "3 videos converted, 0 were there already, 2 broken" in told.out
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
    assert "v_Run_g09_c01.avi" in out + err and "codec" in out + err and "1 broken" in out + err


def test_a_folder_that_has_lost_a_frame_is_made_again(films, tmp_path, capsys):
    jpgs(films, tmp_path / "jpg")
    lost = sorted((tmp_path / "jpg").rglob("image_00002.jpg"))[0]
    lost.unlink()
    capsys.readouterr()
    jpgs(films, tmp_path / "jpg")
    assert lost.is_file() and "1 videos converted" in "".join(capsys.readouterr())


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
    assert "1 videos converted, 0 were there already, 2 broken" in told.out and "notes: is in the way" in told.err
    assert number_of(JpegFolder().frames(older)) == list(range(4)) and other.read_text() == "not frames"


def test_names_that_no_folder_can_have(tmp_path, capsys):
    write_video(tmp_path / "avi" / "A" / f"{'x' * 251}.avi", shades(2))
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(2))
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    told = capsys.readouterr()
    assert "1 videos converted" in told.out and "name is too long" in told.err
    write_video(tmp_path / "avi" / "A.avi", shades(2))  # whose frames would lie among the folders of A's videos
    call = generate_video_jpgs.main
    assert "rename one" in quits(capsys, call, tmp_path / "avi", tmp_path / "jpg", "hmdb51", "--n_jobs", 1)


def test_nothing_to_convert_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "A").mkdir(parents=True)
    (tmp_path / "bad" / "A" / "v.avi").write_bytes(b"not a video")
    write_video(tmp_path / "twice" / "A" / "v.avi", shades(2))
    write_video(tmp_path / "twice" / "A" / "v.mp4", shades(2))
    call, end = generate_video_jpgs.main, (tmp_path / "jpg", "ucf101", "--n_jobs", 1)
    assert "nowhere: no such folder" in quits(capsys, call, tmp_path / "nowhere", *end)
    assert "empty: no video" in quits(capsys, call, tmp_path / "empty", *end)
    assert "none of the videos" in quits(capsys, call, tmp_path / "bad", *end)
    assert "v.avi" in quits(capsys, call, tmp_path / "twice", *end)
    assert "--size" in quits(capsys, call, tmp_path / "bad", *end, "--size", 0)


# --- ucf101_json ---


@pytest.fixture
def lists(tmp_path):
    """Official lists, with their CRLF and their second spelling of the handstand push-ups, of which split 2 is torn."""
    folder = tmp_path / "lists"
    folder.mkdir()
    texts = {
        "classInd.txt": [f"{i} {name}" for i, name in enumerate(CLASSES, 1)] + [""],
        "trainlist01.txt": ["YoYo/v_YoYo_g01_c01.avi 1", "HandstandPushups/v_HandStandPushups_g02_c01.avi 2",
                            "YoYo/v_YoYo_g09_c09.avi 1"],
        "testlist01.txt": ["PlayingGuitar/v_PlayingGuitar_g01_c01.avi", "YoYo/v_YoYo_g02_c01.avi"],
        "trainlist02.txt": ["YoYo/v_YoYo_g01_c01.avi 1"],
        "trainlist03.txt": ["YoYo/v_YoYo_g02_c01.avi 1"],
        "testlist03.txt": ["HandStandPushups/v_HandstandPushups_g02_c01.avi"],
    }
    for name, lines in texts.items():
        (folder / name).write_bytes("\r\n".join(lines).encode())
    return folder


@pytest.fixture
def frames(tmp_path):
    root = tmp_path / "jpg"
    write_frames(root / "YoYo" / "v_YoYo_g01_c01", shades(4),
                 info={"n_frames": 4, "width": 32, "height": 24, "fps": 25.0})
    write_frames(root / "YoYo" / "v_YoYo_g02_c01", shades(3))  # as published, without info.json
    write_frames(root / "HandstandPushups" / "v_HandStandPushups_g02_c01", shades(2))
    write_frames(root / "PlayingGuitar" / "v_PlayingGuitar_g01_c01", shades(5))
    return root


def test_annotation_files_of_the_splits_whose_lists_exist(lists, frames, tmp_path, capsys):
    annotations(lists, frames, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ucf101_01.json", "ucf101_03.json"]
    told = capsys.readouterr()
    assert "split 02 is left out" in told.err
    assert "ucf101_01.json: 2 training and 2 validation videos; 1 that the lists name" in told.out
    assert json.loads((tmp_path / "out" / "ucf101_01.json").read_text()) == {
        "labels": CLASSES,  # in the order of classInd.txt
        "database": {
            name: {"subset": subset, "annotations": {"label": label, "segment": [1, n + 1]}, "n_frames": n}
            for name, subset, label, n in (("v_YoYo_g01_c01", "training", "YoYo", 4),
                                           ("v_HandStandPushups_g02_c01", "training", "HandstandPushups", 2),
                                           ("v_PlayingGuitar_g01_c01", "validation", "PlayingGuitar", 5),
                                           ("v_YoYo_g02_c01", "validation", "YoYo", 3))}}


@pytest.mark.parametrize("folder", ["HandstandPushups", "HandStandPushups"])
def test_handstand_pushups_are_found_however_they_are_spelt(lists, frames, tmp_path, folder):
    (frames / "HandstandPushups").rename(frames / folder)
    annotations(lists, frames, tmp_path)
    for split, subset in (("01", "training"), ("03", "validation")):  # the lists spell them in two ways
        videos = read_annotated_videos(tmp_path / f"ucf101_{split}.json", frames, Hierarchy.from_rows(ROWS))
        (video,) = [video for video in videos if video.label == 0]
        assert video.name == "v_HandStandPushups_g02_c01"  # as on disk
        assert video.subset == subset
        assert JpegFolder().info(video.path).n_frames == video.n_frames == 2


def test_annotations_of_video_files(lists, films, tmp_path):
    annotations(lists, films, tmp_path)
    database = json.loads((tmp_path / "ucf101_01.json").read_text())["database"]
    assert {name: entry["annotations"]["segment"] for name, entry in database.items()} == {
        "v_YoYo_g01_c01": [1, 10], "v_YoYo_g02_c01": [1, 13], "v_PlayingGuitar_g01_c01": [1, 6]}
    videos = read_annotated_videos(tmp_path / "ucf101_01.json", films, Hierarchy.from_rows(ROWS), file_type="video")
    assert [number_of(VideoFile().frames(video.path))[-1] + 1 for video in videos] == [9, 5, 12]


def test_unreadable_videos_are_named_and_left_out(lists, frames, tmp_path, capsys):
    (frames / "PlayingGuitar" / "v_PlayingGuitar_g01_c01" / "image_00003.jpg").unlink()
    annotations(lists, frames, tmp_path)
    assert "image_00003.jpg" in capsys.readouterr().err
    assert "v_PlayingGuitar_g01_c01" not in json.loads((tmp_path / "ucf101_01.json").read_text())["database"]


def test_annotation_errors_are_one_sentence(lists, frames, tmp_path, capsys):
    call, out = ucf101_json.main, tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "classInd.txt" in quits(capsys, call, tmp_path / "empty", frames, out)
    assert "nowhere" in quits(capsys, call, lists, tmp_path / "nowhere", out)
    assert "none of the 5 listed videos" in quits(capsys, call, lists, tmp_path / "empty", out)
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g02_c01.avi\n\nYoga/v_Yoga_g02_c01.avi\n")
    assert "testlist01.txt:3" in quits(capsys, call, lists, frames, out)
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n")
    assert "v_YoYo_g01_c01 is listed twice" in quits(capsys, call, lists, frames, out)
    (lists / "classInd.txt").write_text("1 YoYo\n1 PlayingGuitar\n")
    assert "classInd.txt:2" in quits(capsys, call, lists, frames, out)
    for name in ("trainlist01.txt", "testlist03.txt"):
        (lists / name).unlink()
    (lists / "classInd.txt").write_text("1 YoYo\n2 PlayingGuitar\n")
    assert "trainlist01.txt" in quits(capsys, call, lists, frames, out)
    assert not out.exists()


# --- eval_accuracy ---


@pytest.fixture
def results(tmp_path):
    """Four validation videos: right; a sibling before the right one; a class far away; missing. One training video."""
    truth = {"v1": "YoYo", "v2": "YoYo", "v3": "YoYo", "v4": "PlayingGuitar"}
    database = {name: {"subset": "validation", "annotations": {"label": label, "segment": [1, 2]}}
                for name, label in truth.items()}
    database["t1"] = {"subset": "training", "annotations": {"label": "YoYo", "segment": [1, 2]}}
    (tmp_path / "a.json").write_text(json.dumps({"labels": CLASSES, "database": database}))
    guesses = {"v1": [("YoYo", 0.9)], "v2": [("YoYo", 0.3), ("HandstandPushups", 0.6)], "v3": [("PlayingGuitar", 0.8)],
               "t1": [("HandstandPushups", 1)]}
    (tmp_path / "val.json").write_text(json.dumps({
        "results": {name: [{"label": label, "score": score} for label, score in found]
                    for name, found in guesses.items()},
        "tree": {row[0]: row for row in ROWS}}))
    return tmp_path / "a.json", tmp_path / "val.json"


def accuracies(capsys, *argv) -> dict[str, float]:
    capsys.readouterr()
    eval_accuracy.main([str(arg) for arg in argv])
    lines = capsys.readouterr().out.splitlines()
    return {name: float(value) for name, _, value in (line.partition(": ") for line in lines) if value}


@pytest.mark.parametrize("subset", ["val", "validation"])
def test_accuracies_by_level(results, capsys, subset):
    found = accuracies(capsys, *results, "--subset", subset, "-k", 1, "--ignore")
    assert found == {"class accuracy": 0.3333, "sibling accuracy": 0.6667, "cousin accuracy": 0.6667,
                     "error rate": 0.6667}


def test_missing_videos_are_wrong_unless_ignored(results, capsys):
    assert accuracies(capsys, *results) == {"class accuracy": 0.25, "sibling accuracy": 0.5, "cousin accuracy": 0.5,
                                            "error rate": 0.75}
    eval_accuracy.main([*map(str, results)])
    assert "1 videos are missing from the results and count as wrong" in capsys.readouterr().out
    eval_accuracy.main([*map(str, results), "--ignore"])
    assert "1 videos are missing from the results and left out" in capsys.readouterr().out


def test_any_of_the_k_best(results, capsys):
    found = accuracies(capsys, *results, "-k", 2, "--ignore")
    assert (found["class accuracy"], found["sibling accuracy"]) == (0.6667, 0.6667)
    assert accuracies(capsys, *results, "--subset", "train")["class accuracy"] == 0


def test_the_tree_may_come_from_a_file_of_any_depth(results, tmp_path, capsys):
    (tmp_path / "tree.csv").write_text("".join(f"{row[0]},P{row[0][0]},G,Top,All,Root\n" for row in ROWS))
    found = accuracies(capsys, *results, "--tree_file", tmp_path / "tree.csv", "--ignore")
    assert found == {"class accuracy": 0.3333, "sibling accuracy": 0.3333, "cousin accuracy": 1, "level 3 accuracy": 1,
                     "level 4 accuracy": 1, "error rate": 0.6667}


def test_evaluation_errors_are_one_sentence(results, tmp_path, capsys):
    annotation, result = results
    call = eval_accuracy.main
    assert "vall" in quits(capsys, call, *results, "--subset", "vall")
    assert "no labels in this subset" in quits(capsys, call, *results, "--subset", "test")
    assert "nowhere.json" in quits(capsys, call, annotation, tmp_path / "nowhere.json")
    assert "nowhere.json" in quits(capsys, call, tmp_path / "nowhere.json", result)
    assert "no \"results\"" in quits(capsys, call, annotation, annotation)
    assert "-k" in quits(capsys, call, *results, "-k", 0)
    result.write_text('{"results": {"v1": [{"label": "YoYo", "score": 1}]}}')
    assert "--tree_file" in quits(capsys, call, *results)
    tree = {"tree": {row[0]: row for row in ROWS}}
    result.write_text(json.dumps({"results": {"v1": [{"label": "YoYoo", "score": 1}]}} | tree))
    assert "YoYo" in quits(capsys, call, *results)
    result.write_text(json.dumps({"results": {"v1": [{"label": "YoYo"}]}} | tree))
    assert "score" in quits(capsys, call, *results)


# --- as people call them, and on real files ---


def run(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_scripts_run_as_modules(tmp_path):
    failed = run("util_scripts.generate_video_jpgs", tmp_path / "nowhere", tmp_path, "ucf101")
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "nowhere" in failed.stderr


def test_real_ucf101_clips_end_to_end(tmp_path, capsys):
    real = real_clips("ucf101")
    small = tmp_path / "avi"
    files = sorted((real / "videos").rglob("*.avi"))
    files = [file for file in files if file.parent.name in ("Archery", "Basketball", "MoppingFloor")]
    for file in files:
        (small / file.parent.name).mkdir(parents=True, exist_ok=True)
        (small / file.parent.name / file.name).symlink_to(file.resolve())
    generate_video_jpgs.main([str(small), str(tmp_path / "jpg"), "ucf101", "--n_jobs", "2"])
    annotations(real / "ucfTrainTestlist", tmp_path / "jpg", tmp_path)
    annotations(real / "ucfTrainTestlist", small, tmp_path / "direct")
    told = capsys.readouterr().out
    assert f"{13320 - len(files)} that the lists name are not in" in told
    tree = Hierarchy.from_csv(ROOT / "UCF-101_hierarchy.csv")
    for split in ("01", "02", "03"):
        text = (tmp_path / f"ucf101_{split}.json").read_text()
        assert text == (tmp_path / "direct" / f"ucf101_{split}.json").read_text()
        assert [tree.label(name) for name in json.loads(text)["labels"]] == list(range(101))
        videos = read_annotated_videos(tmp_path / f"ucf101_{split}.json", tmp_path / "jpg", tree)
        assert len(videos) == len(files) == 6
    for video in videos:
        last = JpegFolder().frames(video.path, [video.n_frames - 1])
        decoded = VideoFile().frames(small / video.path.parent.name / f"{video.name}.avi", [video.n_frames - 1])
        assert last.shape == (1, 240, 320, 3)
        assert (last.float() - decoded.float()).abs().mean() < 3
    with Image.open(videos[0].path / "image_00001.jpg") as image:
        assert image.size == (320, 240)


def test_real_weizmann_clips_are_annotated(tmp_path):
    real = real_clips("weizmann")
    annotations(real / "ucfTrainTestlist", real / "videos", tmp_path)
    tree = Hierarchy.from_csv(real / "hierarchy.csv")
    videos = read_annotated_videos(tmp_path / "ucf101_01.json", real / "videos", tree, file_type="video")
    assert [sum(video.subset == subset for video in videos) for subset in ("training", "validation")] == [40, 16]
