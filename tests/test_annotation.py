"""Annotation files become records: every class the tree's, every video the one on disk."""

import json

import pytest
from media import shades, write_frames, write_video

from datasets import DATASETS
from datasets.annotation import read_annotated_videos, read_annotation, subset_of
from datasets.on_disk import videos_on_disk
from datasets.video import Video
from hierarchy.tree import Hierarchy

TREE = Hierarchy.from_rows([["HandstandPushups", "Body"], ["PlayingGuitar", "Music"], ["Yo Yo", "Object"]])
ENTRIES = [("v_YoYo_g01_c01", "YoYo", "training"), ("v_HandStandPushups_g01_c01", "HandstandPushups", "validation"),
           ("v_PlayingGuitar_g02_c01", "PlayingGuitar", "training")]


def annotate(path, entries, n_frames=5):
    path.write_text(json.dumps({
        "labels": sorted({label for _, label, _ in entries}),
        "database": {name: {"subset": subset, "annotations": {"label": label, "segment": [1, n_frames + 1]}}
                     for name, label, subset in entries}}))
    return path


@pytest.fixture
def annotation(tmp_path):
    return annotate(tmp_path / "ucf101_01.json", ENTRIES)


@pytest.fixture
def frames(tmp_path):
    for name, label, _ in ENTRIES:
        write_frames(tmp_path / "jpg" / label / name, shades(1))
    return tmp_path / "jpg"


def test_records_in_the_order_of_the_file(annotation, frames):
    videos = DATASETS["ucf101"].read(annotation, frames, TREE)
    assert list(videos) == [
        Video("v_YoYo_g01_c01", frames / "YoYo/v_YoYo_g01_c01", 2, "training", 5, (0, 5)),
        Video("v_HandStandPushups_g01_c01", frames / "HandstandPushups/v_HandStandPushups_g01_c01", 0, "validation", 5,
              (0, 5)),
        Video("v_PlayingGuitar_g02_c01", frames / "PlayingGuitar/v_PlayingGuitar_g02_c01", 1, "training", 5, (0, 5))]


def test_labels_are_the_tree_s_whatever_order_the_file_lists(annotation, frames):
    """The released code numbered 7 of 101 classes differently in labels and embeddings."""
    rows = TREE.rows
    for tree in (TREE, Hierarchy.from_rows(rows[::-1])):
        for video, (_, label, _) in zip(read_annotated_videos(annotation, frames, tree), ENTRIES, strict=True):
            assert tree.names[video.label].replace(" ", "") == label


def test_video_files_are_found_whatever_their_extension(annotation, tmp_path):
    for (name, label, _), extension in zip(ENTRIES, (".avi", ".mp4", ".AVI"), strict=True):
        write_video(tmp_path / "films" / label / f"{name}{extension.lower()}", shades(2)).rename(
            tmp_path / "films" / label / f"{name}{extension}")
    videos = read_annotated_videos(annotation, tmp_path / "films", TREE, file_type="video")
    assert [video.path.suffix for video in videos] == [".avi", ".mp4", ".AVI"]
    assert all(video.path.is_file() for video in videos)


def test_a_class_folder_spelt_otherwise_is_found(annotation, frames):
    (frames / "HandstandPushups").rename(frames / "HandStandPushups")
    videos = read_annotated_videos(annotation, frames, TREE)
    assert videos[1].label == 0
    assert videos[1].path == frames / "HandStandPushups" / "v_HandStandPushups_g01_c01"


def test_missing_videos_are_counted_in_one_line(annotation, frames, capsys):
    (frames / "YoYo").rename(frames / ".YoYo")
    assert [video.label for video in read_annotated_videos(annotation, frames, TREE)] == [0, 1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "1 of the 3 videos" in lines[0]
    with pytest.raises(FileNotFoundError, match="v_YoYo_g01_c01"):
        read_annotated_videos(annotation, frames, TREE, strict=True)


def test_no_video_at_all_is_an_error(annotation, frames, tmp_path):
    with pytest.raises(FileNotFoundError, match="3 of the 3"):
        read_annotated_videos(annotation, frames, TREE, file_type="video")  # there are only frames
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_annotated_videos(annotation, tmp_path / "nowhere", TREE)


def test_an_unknown_class_is_an_error_that_proposes_one(tmp_path, frames):
    path = annotate(tmp_path / "a.json", [("v_PlayinGuitar_g02_c01", "PlayinGuitar", "training")])
    with pytest.raises(ValueError, match=r"a\.json.*PlayinGuitar.*PlayingGuitar"):
        read_annotated_videos(path, frames, TREE)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"database": {}}', '{"database": {"v": {}}}',
                                  '{"database": 3}',
                                  '{"database": {"v": {"subset": "other", "annotations": {"label": "YoYo"}}}}',
                                  '{"database": {"v": {"subset": "val", "annotations": {"label": 1, "segment": 3}}}}'])
def test_a_damaged_annotation_file_is_named(tmp_path, frames, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json"):
        read_annotated_videos(tmp_path / "a.json", frames, TREE)


def test_a_missing_annotation_file_is_named(tmp_path, frames):
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        read_annotated_videos(tmp_path / "nowhere.json", frames, TREE)


def test_an_entry_without_segment_has_unknown_length(tmp_path, frames):
    (tmp_path / "a.json").write_text(
        '{"database": {"v_YoYo_g01_c01": {"subset": "test", "annotations": {"label": "YoYo"}}}}')
    (video,) = read_annotated_videos(tmp_path / "a.json", frames, TREE)
    assert (video.subset, video.n_frames, video.segment) == ("testing", 0, (0, 0))


def test_subsets_have_two_names():
    """`--subset val` of the released README never matched the annotation's "validation"."""
    assert subset_of("val") == subset_of("validation") == "validation"
    assert subset_of("Train") == subset_of("training") == "training"
    assert subset_of("test") == subset_of("testing") == "testing"
    with pytest.raises(ValueError, match="vall"):
        subset_of("vall")


def test_only_videos_count_as_videos(tmp_path):
    write_frames(tmp_path / "A" / "v1", shades(1))
    write_frames(tmp_path / "A" / ".v2.part", shades(1))
    write_video(tmp_path / "A" / "v3.avi", shades(2))
    write_video(tmp_path / "A" / "v1.avi", shades(2))
    (tmp_path / "A" / "notes.txt").write_text("")
    (tmp_path / "classInd.txt").write_text("")
    assert videos_on_disk(tmp_path) == {("A", "v1"): f"{tmp_path}/A/v1", ("A", "v3"): f"{tmp_path}/A/v3.avi"}
    assert videos_on_disk(tmp_path, file_type="jpg") == {("A", "v1"): f"{tmp_path}/A/v1"}
    assert videos_on_disk(tmp_path, file_type="video") == {("A", "v1"): f"{tmp_path}/A/v1.avi",
                                                           ("A", "v3"): f"{tmp_path}/A/v3.avi"}


def test_annotation_entries(annotation):
    entries = read_annotation(annotation)
    assert list(entries) == [name for name, _, _ in ENTRIES]
    assert entries["v_HandStandPushups_g01_c01"] == ("validation", "HandstandPushups", (0, 5), "", 0)
