"""Names of videos as people have them, from files to explanations: in two classes, with hyphens, in any script."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from attributable import TRUNK_LINE, attribution_folder, call
from media import shades, write_frames, write_video
from preparing import annotations, quits
from program import CALL, MODEL, QUICK, ROOT, explain_classes, refused
from program import call as call_main

from datasets.annotation import read_annotated_videos
from datasets.loose import videos_in
from hierarchy.tree import Hierarchy
from run.choosing import choose
from run.judging_trunk import chosen_videos
from util_scripts import eval_accuracy, generate_video_jpgs, hmdb51_json, kinetics_json, ucf101_json

CLASSES = ("Bend", "Jump", "跑步")


def write_twice_named(root):
    """Three classes, each with the videos 001, 002 and 003, and the official lists; 003 is to test on."""
    lists = root / "lists"
    lists.mkdir(parents=True)
    for label, name in enumerate(CLASSES):
        for number in (1, 2, 3):
            pixels = np.roll(shades(12, 36, 48), 8 * label + number, 2)
            write_video(root / "avi" / name / f"00{number}.avi", pixels)
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES, 1)))
    for kind, numbers in (("train", (1, 2)), ("test", (3,))):
        (lists / f"{kind}list01.txt").write_text("".join(f"{name}/00{n}.avi 1\n" for name in CLASSES for n in numbers))
    (root / "tree.csv").write_text("Bend,Spot,Root\nJump,Spot,Root\n跑步,Way,Root\n")
    return root


def test_one_file_name_in_several_classes_is_annotated_trained_on_and_explained(tmp_path, capsys):
    root = write_twice_named(tmp_path)
    generate_video_jpgs.main([str(root / "avi"), str(root / "jpg"), "ucf101", "--n_jobs", "1"])
    annotations(root / "lists", root / "jpg", root)
    content = json.loads((root / "ucf101_01.json").read_text())
    assert sorted(content["database"]) == [f"{name}/00{n}" for name in CLASSES for n in (1, 2, 3)]
    assert content["database"]["Jump/003"] == {"subset": "validation", "n_frames": 12, "video": "Jump/003",
                                               "annotations": {"label": "Jump", "segment": [1, 13]}}
    videos = read_annotated_videos(root / "ucf101_01.json", root / "jpg", Hierarchy.from_csv(root / "tree.csv"))
    assert [(video.name, video.label, video.path) for video in videos][:3] == [
        ("Bend/001", 0, root / "jpg" / "Bend" / "001"), ("Bend/002", 0, root / "jpg" / "Bend" / "002"),
        ("Jump/001", 1, root / "jpg" / "Jump" / "001")]

    results = root / "results"
    call_main("--root_path", root, "--result_path", results, "--video_path jpg --annotation_path ucf101_01.json "
              "--tree_file tree.csv", MODEL, QUICK, "--push_start 1 --inference", CALL)
    assert sorted(json.loads((results / "val.json").read_text())["results"]) == [f"{name}/003" for name in CLASSES]
    checkpoint = max(results.glob("save_*.pth"))
    explain_classes("--resume_path", checkpoint, "--videos", "bend/003", "Jump/003.avi", "--no_img")
    folders = {path.parent for path in (results / "local_analysis").glob("*/explanation.json")}
    assert len(folders) == 2
    assert {json.loads((folder / "explanation.json").read_text())["video"] for folder in folders} == {
        "Bend/003", "Jump/003"}
    error = refused(capsys, "--resume_path", checkpoint, "--videos", "003", caller=explain_classes)
    assert "003" in error and "3 videos" in error and "Bend/003" in error
    eval_accuracy.main([str(root / "ucf101_01.json"), str(results / "val.json")])
    assert "3 validation videos" in capsys.readouterr().out


def test_names_that_are_unique_stay_as_they_are(tmp_path):
    write_frames(tmp_path / "jpg" / "Bend" / "001", shades(2))
    write_frames(tmp_path / "jpg" / "Jump" / "001", shades(3))
    write_frames(tmp_path / "jpg" / "Jump" / "002", shades(4))
    for name in ("Bend", "Jump"):
        (tmp_path / f"{name}_test_split1.txt").write_text("001.avi 1\n002.avi 2\n")
    hmdb51_json.main([str(tmp_path), str(tmp_path / "jpg"), str(tmp_path)])
    database = json.loads((tmp_path / "hmdb51_1.json").read_text())["database"]
    assert {key: (entry["video"], entry["n_frames"]) for key, entry in database.items()} == {
        "Bend/001": ("Bend/001", 2), "Jump/001": ("Jump/001", 3), "002": ("Jump/002", 4)}


@pytest.mark.parametrize("layout", ["air_drumming/-x_000001_000011", "train/-x_000001_000011", "-x_000001_000011",
                                    "train/Air Drumming/-x_000001_000011"])
def test_kinetics_in_any_layout(tmp_path, layout):
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end\nair drumming,-x,1,11\n")
    write_frames(tmp_path / "jpg" / layout, shades(3))
    kinetics_json.main([str(tmp_path), str(tmp_path / "jpg"), str(tmp_path / "k.json")])
    content = json.loads((tmp_path / "k.json").read_text())
    assert content["labels"] == ["air drumming"]
    assert content["database"]["-x_000001_000011"]["video"] == layout
    (video,) = read_annotated_videos(tmp_path / "k.json", tmp_path / "jpg", Hierarchy([["Air_Drumming"]]))
    assert (video.path, video.label) == (tmp_path / "jpg" / layout, 0)


def test_names_that_a_terminal_cannot_show_end_no_script(tmp_path):
    """A terminal of Latin letters, and a name that is no text in UTF-8."""
    folder = tmp_path / "跑步"
    name = os.fsdecode(b"-x\xff_000001_000011")
    write_frames(folder / name, shades(3))
    (folder / "train.csv").write_text("label,youtube_id,time_start,time_end\n跑步,-x,1,11\n跑步,-y,1,11\n")
    write_frames(folder / "跑步" / "-x_000001_000011", shades(3))
    script = ROOT / "util_scripts" / "kinetics_json.py"
    ran = subprocess.run([sys.executable, script, folder, folder, folder / "k.json"],
                         env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False)
    assert ran.returncode == 0 and b"\\u8dd1\\u6b65" in ran.stdout, ran.stderr
    assert list(json.loads((folder / "k.json").read_text())["database"]) == ["-x_000001_000011"]


@pytest.mark.parametrize("place", ["test/t", "t", "Run/t", "testing/t"])
@pytest.mark.parametrize("entry", [{}, {"annotations": None}, {"annotations": {}}, {"annotations": []}])
def test_a_test_video_without_annotations_is_read(tmp_path, place, entry):
    write_frames(tmp_path / "jpg" / place, shades(3))
    write_frames(tmp_path / "jpg" / "Run" / "a", shades(3))
    known = {"subset": "training", "annotations": {"label": "Run"}}
    (tmp_path / "a.json").write_text(json.dumps({"database": {"a": known, "t": {"subset": "test"} | entry}}))
    videos = read_annotated_videos(tmp_path / "a.json", tmp_path / "jpg", Hierarchy([["Run"], ["Jump"]]))
    assert [(video.name, video.label, video.subset) for video in videos] == [
        ("a", 0, "training"), ("t", -1, "testing")]


def test_a_training_video_without_annotations_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"database": {"a": {"subset": "training"}}}')
    with pytest.raises(ValueError, match="entry of a .*annotations"):
        read_annotated_videos(tmp_path / "a.json", tmp_path, Hierarchy([["Run"]]))


def test_two_classes_that_differ_in_nothing_that_counts(tmp_path, capsys):
    root = write_twice_named(tmp_path)
    (root / "lists" / "classInd.txt").write_text("1 Ping-pong\n2 ping pong\n")
    assert "'Ping-pong'" in quits(capsys, ucf101_json.main, root / "lists", root / "avi", root)


# --- folders of videos without an annotation


def test_labels_with_hyphens(tmp_path):
    tree = Hierarchy([["Ping-pong"], ["Run"], ["Größe"]])
    for name in ("Ping-pong.mp4", "ping_pong-3.mp4", "Run-ping-pong.mp4", "Gro\u0308ße-1.mp4", "Ping.mp4", "-abc.mp4"):
        (tmp_path / name).touch()
    assert {video.name: video.label for video in videos_in(tmp_path, tree).videos} == {
        "Ping-pong": 0, "ping_pong-3": 0, "Run-ping-pong": 1, "Gro\u0308ße-1": 2, "Ping": -1, "-abc": -1}


def test_videos_of_one_name_are_judged_by_their_places(tmp_path):
    for name in ("Run/a.mp4", "Jump/a.mp4", "Jump/b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    videos = videos_in(tmp_path, Hierarchy([["Run"], ["Jump"]])).videos
    assert [video.name for video in chosen_videos(videos, tmp_path, None, 0)] == ["Jump/a", "b", "Run/a"]
    (video,) = chosen_videos(videos, tmp_path, ["run/A"], 0)
    assert video.path == tmp_path / "Run" / "a.mp4"


def test_videos_are_chosen_by_any_spelling(tmp_path):
    for name in ("-0r0HwAYiQ.mp4", "v_Größe_1.mp4"):
        (tmp_path / name).touch()
    videos = videos_in(tmp_path, Hierarchy([["Run"]])).videos
    for names in (["-0r0HwAYiQ", "v_Größe_1"], ["-0r0HwAYiQ.mp4", "V gro\u0308ße-1.AVI"]):
        assert choose(videos, names=names, subset=None, n=1) == videos
    with pytest.raises(ValueError, match="r0HwAYi:.*-0r0HwAYiQ"):
        choose(videos, names=["r0HwAYi"], subset=None, n=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return attribution_folder(tmp_path_factory.mktemp("attribution"))


def test_a_folder_as_it_comes_is_explained(root, tmp_path, capsys):
    """Two videos of one name, names with hyphens and of other scripts, labels that are no classes, broken files."""
    clips = tmp_path / "clips"
    for name in ("Bend/001.avi", "Jump/001.avi", "-abc.avi", "跑步-🏃.avi"):
        write_video(clips / name, shades(9))
    (clips / "broken.avi").write_bytes(b"no video")
    (clips / "empty.mp4").touch()
    (clips / "link.mp4").symlink_to(clips / "nowhere.mp4")
    os.mkfifo(clips / "pipe.mp4")
    for name in (".ipynb_checkpoints/a-checkpoint.avi", "._001.avi", ".DS_Store", "Thumbs.db", "desktop.ini",
                 "__MACOSX/001.avi", "Bend/@eaDir/001.avi", "notes.txt"):
        (clips / name).parent.mkdir(exist_ok=True)
        (clips / name).write_bytes(b"0")
    with pytest.warns(RuntimeWarning, match="left out") as warned:
        call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(clips), "--out", str(tmp_path / "out"))
    assert sorted(name for one in warned for name in ("broken.avi", "empty.mp4", "link.mp4")
                  if name in str(one.message)) == ["broken.avi", "empty.mp4", "link.mp4"]
    said = capsys.readouterr()
    assert "4 clips explained" in said.out
    assert sum("their true class is not known" in line for line in said.err.splitlines()) == 1
    assert sum("notes" in line or ".txt 1" in line for line in said.err.splitlines()) == 1
    call(root, f"{TRUNK_LINE} --vis_method random --videos -abc Bend/001", "--videos_dir", str(clips), "--out",
         str(tmp_path / "some"))
    assert {path.stem for path in tmp_path.glob("some/random/resnet-10/*.npy")} == {"-abc", "001"}
    made = {path.stem for path in tmp_path.glob("out/random/resnet-10/*.npy")}
    assert made == {"Bend 001.avi", "Jump 001.avi", "-abc", "跑步-🏃"}
    assert "跑步-🏃" in (tmp_path / "out" / "resnet-10.html").read_text(encoding="utf-8")


def test_videos_whose_names_begin_with_a_hyphen_are_explained_by_name(root, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "-x.avi", shades(9))
    shutil.copyfile(tmp_path / "-x.avi", tmp_path / "-y.avi")
    monkeypatch.chdir(tmp_path)
    call(root, f"{TRUNK_LINE} --vis_method random --video -x.avi -y.avi", "--out", str(tmp_path / "out"))
    assert {path.stem for path in tmp_path.glob("out/random/resnet-10/*.npy")} == {"-x", "-y"}
