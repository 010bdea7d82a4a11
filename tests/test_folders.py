"""datasets/folders.py and datasets/on_disk.py: folders are walked in one way, and videos found by any usual layout."""

import os

import pytest
from media import shades, write_frames

from benchmarks.films import found_videos
from datasets.folders import Walk, previews
from datasets.loose import paths_in
from datasets.on_disk import VideoFolder, at_place, of_class, videos_at, videos_on_disk
from util_scripts.generate_video_jpgs import find_jobs
from util_scripts.owning import check_own_frames
from util_scripts.storing import frame_folders

JUNK = (".DS_Store", "._a.mp4", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/a.mp4", "__MACOSX/a.mp4",
        "@eaDir/a.mp4", "thumbs.DB")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def walked(walk):
    return [(here.relative_to(walk.root).as_posix(), files) for here, _, files in walk]


def test_a_walk_is_in_order_and_passes_hidden_entries_over(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/10.mp4", "a/1.mp4", "c.mp4", *JUNK, *(f"b/{name}" for name in JUNK))
    assert walked(Walk(tmp_path)) == [(".", ["c.mp4"]), ("a", ["1.mp4"]), ("b", ["10.mp4", "2.mp4"])]


def test_a_gif_beside_a_video_of_its_name_is_a_preview_everywhere(tmp_path):
    files = ["a.mp4", "a.gif", "b.GIF", "b.avi", "c.gif", "d.gif", "d.GIF", "e.v.gif", "e.mp4", "f.gif"]
    assert previews(files) == {"a.gif", "b.GIF"} and previews(files, ["f", "c.x"]) == {"a.gif", "b.GIF", "f.gif"}
    touch(tmp_path, *(f"Run/{name}" for name in files if name != "d.GIF"))
    videos = {"a.mp4", "b.avi", "c.gif", "d.gif", "e.mp4", "e.v.gif", "f.gif"}
    of_script = find_jobs(tmp_path, tmp_path / "jpg").values()
    of_data = VideoFolder(tmp_path, file_type="video").find_all(
        of_class(name.rpartition(".")[0], "Run") for name in videos)
    for paths in (paths_in(tmp_path), found_videos(tmp_path), of_script, of_data):
        assert {os.path.basename(path) for path in paths} == videos
    touch(tmp_path, "Run/f/image_00001.jpg")  # of any kind, frames of f.gif stand before it
    assert VideoFolder(tmp_path).find_all([of_class("f", "Run")]) == [str(tmp_path / "Run" / "f")]


def test_films_to_measure_on_are_walked_as_all_others(tmp_path):
    touch(tmp_path, "b/1.mp4", "a/2.mov", *JUNK)
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert found_videos(tmp_path) == [tmp_path / "a" / "2.mov", tmp_path / "b" / "1.mp4"]
    with pytest.raises(FileNotFoundError, match="no video file"):
        found_videos(tmp_path / "b" / "none")


def test_links_are_followed_and_end(tmp_path):
    store, root = touch(tmp_path / "store", "x/1.mp4"), touch(tmp_path / "root", "a/0.mp4")
    for name in ("l", "m"):
        (root / name).symlink_to(store)
    (root / "a" / "up").symlink_to(root)  # leads back
    (store / "x" / "self").symlink_to(store)
    (root / "nowhere").symlink_to(tmp_path / "none")
    (root / "circle").symlink_to(root / "circle")
    assert [here for here, _ in walked(Walk(root))] == [".", "a", "l", "l/x", "m", "m/x"]
    assert [here for here, _ in walked(Walk(root, once=True))] == [".", "a", "l", "l/x"]


def test_many_links_to_each_other_end_soon(tmp_path):
    folders = [tmp_path / f"f{i}" for i in range(12)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other)
    assert len(walked(Walk(tmp_path))) < 12 ** 3


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    touch(tmp_path, "Run/a.mp4", "Jump/b.mp4")
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("Jump"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert list(find_jobs(tmp_path, tmp_path / "jpg").values()) == [tmp_path / "Run" / "a.mp4"]
    assert "Jump" in capsys.readouterr().err
    assert list(videos_at(tmp_path, ["Run/a", "Jump/b"])) == ["Run/a"]
    assert "Jump" in capsys.readouterr().err


def test_links_count_for_every_script(tmp_path):
    """Frame folders and class folders that are links."""
    real = tmp_path / "store"
    for name in ("Run/a", "Jump/b", "c"):
        write_frames(real / name, shades(2))
    root = tmp_path / "jpg"
    (root / "Run").mkdir(parents=True)
    (root / "Run" / "a").symlink_to(real / "Run" / "a")
    (root / "Jump").symlink_to(real / "Jump")
    write_frames(root / "Run" / "d", shades(2))
    assert [folder.relative_to(root).as_posix() for folder in frame_folders(root)] == ["Jump/b", "Run/a", "Run/d"]
    assert sorted(videos_on_disk(root, file_type="jpg")) == [("Jump", "b"), ("Run", "a"), ("Run", "d")]
    touch(tmp_path / "avi", "Run/x.avi")
    (tmp_path / "avi" / "Jump").symlink_to(touch(tmp_path / "films", "y.avi", "z.avi"))
    for class_folders in (True, False):
        jobs = find_jobs(tmp_path / "avi", tmp_path / "out", class_folders=class_folders)
        assert [file.name for file in jobs.values()] == ["y.avi", "z.avi", "x.avi"]


def test_other_endings_are_counted_in_one_line(tmp_path, capsys):
    touch(tmp_path, "Run/a.mp4", "Run/a.srt", "Run/b.srt", "Run/notes", "Run/.DS_Store", "flat.mp4")
    find_jobs(tmp_path, tmp_path / "jpg")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "3 files" in told[0] and ".srt 2" in told[0] and "flat.mp4" in told[1]


LAYOUTS = {
    "class folders": ("air drumming/v 1.mp4", "Ping-pong/-x.mp4"),
    "spelt otherwise": ("air_drumming/V_1.mp4", "ping pong/-x.mp4"),
    "a folder a subset": ("train/v 1.mp4", "val/-x.mp4"),
    "both": ("train/air_drumming/v 1.mp4", "validation/Ping-pong/-x.mp4"),
    "all in one": ("v_1.mp4", "-x.mp4"),
}


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_videos_are_found_in_any_layout(tmp_path, files):
    touch(tmp_path, *files, "other/file.txt")
    of = [of_class("v 1", "air drumming", "training"), of_class("-x", "Ping-pong", "validation"),
          of_class("none", "Ping-pong", "validation")]
    at = [at_place("air drumming/v 1", "training"), at_place("Ping-pong/-x", "validation"),
          at_place("Ping-pong/none", "validation")]
    for wanted in (of, at):
        found = VideoFolder(tmp_path, file_type="video").find_all(wanted)
        assert found == [str(tmp_path / name) for name in files] + [None]


def test_what_is_ambiguous_is_told_and_not_taken(tmp_path, capsys):
    touch(tmp_path, "Run/v 1.mp4", "Run/v_1.mp4", "Run/w.mp4", "Jump/W.mp4", "x.mp4")
    folder = VideoFolder(tmp_path, file_type="video")
    assert folder.find_all([of_class("v_1", "Run"), of_class("v 1", "Run")]) == [
        str(tmp_path / "Run" / name) for name in ("v_1.mp4", "v 1.mp4")]
    assert capsys.readouterr().err == ""
    assert folder.find_all([of_class("V1", "Run")]) == [None]
    assert "'V1'" in capsys.readouterr().err
    # a video that another name means exactly, and one that two classes could mean
    assert folder.find_all([of_class("w", "Run"), of_class("W", "Run")]) == [str(tmp_path / "Run" / "w.mp4"), None]
    assert folder.find_all([of_class("x", "Run"), of_class("x", "Jump")]) == [None, None]
    assert "2 names are ambiguous" in capsys.readouterr().err
    assert folder.find_all([of_class("x", "Run"), of_class("x", "Run")]) == 2 * [str(tmp_path / "x.mp4")]


def test_a_class_folder_is_no_video(tmp_path):
    write_frames(tmp_path / "Run" / "a", shades(1))
    write_frames(tmp_path / "Jump", shades(1))
    folder = VideoFolder(tmp_path, file_type="jpg")
    assert folder.find_all([of_class("run", "Run")]) == [None]
    assert folder.find_all([of_class("jump", "Run")]) == [str(tmp_path / "Jump")]


def test_names_with_the_ending_of_a_file(tmp_path):
    touch(tmp_path, "Run/a.avi", "Run/b.mp4.mp4")
    assert VideoFolder(tmp_path, file_type="video").find_all([
        of_class("a.MP4", "Run"), at_place("run/a.avi"), of_class("b.mp4", "Run"), of_class("c.avi", "Run")]) == [
        *2 * [str(tmp_path / "Run" / "a.avi")], str(tmp_path / "Run" / "b.mp4.mp4"), None]


def test_decomposed_accents_of_a_file_system(tmp_path):
    touch(tmp_path, "Gro\u0308ße/u\u0308.mp4")
    assert videos_at(tmp_path, ["Größe/ü"]) == {"Größe/ü": f"{tmp_path}/Gro\u0308ße/u\u0308.mp4"}


def test_what_systems_leave_among_frames_is_in_nobody_s_way(tmp_path):
    info = {"n_frames": 2, "width": 32, "height": 24, "fps": None}
    folder = touch(write_frames(tmp_path / "v", shades(2), info=info), ".DS_Store", "._image_00001.jpg", "Thumbs.db")
    check_own_frames(folder)
    touch(folder, ".notes")
    with pytest.raises(ValueError, match=".notes"):
        check_own_frames(folder)
