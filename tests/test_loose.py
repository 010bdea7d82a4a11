"""datasets/loose.py: videos without an annotation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.loose import paths_in, videos_in
from datasets.reading import CachedReader
from datasets.reading.loose import LooseFiles
from hierarchy.tree import Hierarchy


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path):
    for i, name in enumerate(("f2.png", "f10.png", "f1.png")):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(tmp_path / name)
    reader = CachedReader(LooseFiles(), 10 ** 6)
    assert reader.frames(tmp_path)[:, 0, 0, 0].tolist() == [20, 0, 10]
    assert reader.info(tmp_path).n_frames == 3 and reader.size(tmp_path) == (4, 6)


def write_pictures(folder: Path, n: int = 2) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def test_videos_lie_at_any_depth_and_are_labelled_by_folder_or_name(tmp_path):
    tree = Hierarchy([["Run"], ["Long jump"]])
    write_pictures(tmp_path / "run-abc")
    write_pictures(tmp_path / "set" / "more" / "long jump-1")
    write_pictures(tmp_path / "set" / "Run" / "strange")
    (tmp_path / "Run" / "a.mp4").parent.mkdir()
    for name in ("Run/a.mp4", "LONG_JUMP-3 (ä).avi", "fly.mkv"):
        (tmp_path / name).touch()
    loose = videos_in(tmp_path, tree)
    assert {video.name: video.label for video in loose.videos} == {
        "run-abc": 0, "long jump-1": 1, "strange": 0, "a": 0, "LONG_JUMP-3 (ä)": 1, "fly": -1}
    assert loose.unknown == [tmp_path / "fly.mkv"]


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    tree = Hierarchy([["Run"]])
    write_pictures(tmp_path / "clips" / "run-1")
    for name in ("clips/.ipynb_checkpoints/run-1.mp4", "clips/._run-1.mp4", "clips/.DS_Store", "clips/Thumbs.db",
                 "clips/__MACOSX/run.mp4", "clips/run-1/._0.png", "clips/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    assert [video.name for video in videos_in(tmp_path / "clips", tree).videos] == ["run-1"]
    assert LooseFiles().info(tmp_path / "clips" / "run-1").n_frames == 2


def test_a_folder_of_pictures_is_itself_a_video_and_a_poster_is_none(tmp_path):
    tree = Hierarchy([["Run"]])
    single = write_pictures(tmp_path / "run-1")
    assert [(video.path, video.label) for video in videos_in(single, tree).videos] == [(single, 0)]
    (tmp_path / "with poster").mkdir()
    for name in ("poster.png", "run.mp4"):
        (tmp_path / "with poster" / name).touch()
    assert [video.name for video in videos_in(tmp_path / "with poster", tree).videos] == ["run"]


def test_results_of_an_earlier_run_are_no_videos(tmp_path):
    """Wherever they are: beside the videos, in a folder that --out does not name, or in a class's folder."""
    tree = Hierarchy([["Run"], ["Grad"]])
    for out in (tmp_path, tmp_path / "visual_res", tmp_path / "Run"):
        results = write_pictures(out / "grad_cam" / "i3d")
        for name in ("0.npy", "0.gif", "1.npy", "1.gif", "1_pyramid.png"):
            (results / name).touch()
    videos = [write_pictures(tmp_path / "Run" / "a"), write_pictures(tmp_path / "grad_cam" / "grad-1")]
    (videos[0] / "0.npy").touch()  # of a frame
    (tmp_path / "Run" / "b.mp4").touch()
    loose = videos_in(tmp_path, tree)
    assert {of.path: of.label for of in loose.videos} == {
        videos[0]: 0, videos[1]: 1, tmp_path / "Run" / "b.mp4": 0}
    with pytest.raises(ValueError, match="--videos_dir"):
        paths_in(tmp_path / "visual_res")


def test_the_folder_of_videos_may_be_a_class(tmp_path):
    tree = Hierarchy([["Run"], ["Jump"]])
    for name in ("1.mp4", "jump-2.mp4"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).touch()
    loose = videos_in(tmp_path / "run", tree)
    assert {video.name: video.label for video in loose.videos} == {"1": 0, "jump-2": 1} and not loose.unknown


def test_links_that_lead_back_end(tmp_path):
    write_pictures(tmp_path / "run-1")
    (tmp_path / "round").symlink_to(tmp_path)
    assert len(videos_in(tmp_path, Hierarchy([["Run"]])).videos) == 1
