"""From UCF-101's official lists to annotation files, by the script's own command line, and on real files."""

import json
from pathlib import Path

import pytest
from media import number_of, real_clips, shades, write_frames
from PIL import Image
from preparing import CLASSES, ROWS, annotations, numbers, quits, write_films

from datasets.annotation import read_annotated_videos
from datasets.reading import JpegFolder, VideoFile
from hierarchy.tree import Hierarchy
from util_scripts import generate_video_jpgs, ucf101_json

ROOT = Path(__file__).parents[1]


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
    assert "02" in told.err
    assert "ucf101_01.json" in told.out and numbers(told.out.splitlines()[0])[:3] == [2, 2, 1]
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


def test_annotations_of_video_files(lists, tmp_path):
    films = write_films(tmp_path / "avi")
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
    assert "none of the 5" in quits(capsys, call, lists, tmp_path / "empty", out)
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g02_c01.avi\n\nYoga/v_Yoga_g02_c01.avi\n")
    assert "testlist01.txt:3" in quits(capsys, call, lists, frames, out)
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n")
    assert "v_YoYo_g01_c01" in quits(capsys, call, lists, frames, out)
    (lists / "classInd.txt").write_text("1 YoYo\n1 PlayingGuitar\n")
    assert "classInd.txt:2" in quits(capsys, call, lists, frames, out)
    for name in ("trainlist01.txt", "testlist03.txt"):
        (lists / name).unlink()
    (lists / "classInd.txt").write_text("1 YoYo\n2 PlayingGuitar\n")
    assert "trainlist01.txt" in quits(capsys, call, lists, frames, out)
    assert not out.exists()


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
    assert 13320 - len(files) in numbers(told)
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
