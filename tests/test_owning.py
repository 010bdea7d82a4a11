"""Scripts replace what they have made themselves; what others put where they write is named and stays."""

import json

import h5py
import numpy as np
import pytest
from media import number_of, shades, write_frames, write_video
from preparing import jpgs, numbers, quits

from datasets.reading import JpegFolder
from datasets.reading.hdf5 import Hdf5Frames
from datasets.reading.packed import PackedFrames
from explain import pages
from util_scripts import demo, generate_video_hdf5, generate_video_jpgs, owning, pack_frames

OURS = {"n_frames": 12, "width": 32, "height": 24, "fps": 25.0}


def content_of(folder) -> dict:
    """Every file below a folder, with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def own(folder) -> None:
    """The folder that generate_video_jpgs made is whole; one of its frames is lost."""
    jpgs(folder.parents[2] / "avi", folder.parents[2] / "jpg")
    (folder / "image_00002.jpg").unlink()


IN_THE_WAY = {
    "frames of another extractor": lambda folder: write_frames(folder, shades(8)),
    "frames with an info.json of others": lambda folder: write_frames(folder, shades(8), info={"fps": 25, "id": 3}),
    "an info.json that is a list": lambda folder: write_frames(folder, shades(8), info=[12]),
    "an info.json torn by others": lambda folder: (write_frames(folder, shades(8)) / "info.json").write_text('{"fp'),
    "an empty info.json": lambda folder: (write_frames(folder, shades(8)) / "info.json").touch(),
    "another frame than ours": lambda folder: (own(folder), (folder / "image_00001.jpg").rename(
        folder / "image_00099.jpg")),
    "a note beside ours": lambda folder: (own(folder), (folder / "note.txt").write_text("mine")),
    "a folder beside ours": lambda folder: (own(folder), (folder / "flow").mkdir()),
    "frames of another name": lambda folder: write_frames(folder, shades(1)).joinpath("image_00001.jpg").rename(
        folder / "frame1.jpg"),
    "a file": lambda folder: (folder.parent.mkdir(parents=True, exist_ok=True), folder.write_text("mine")),
    "a link to frames": lambda folder: (folder.parent.mkdir(parents=True, exist_ok=True),
                                        folder.symlink_to(write_frames(folder.parents[2] / "else", shades(8)))),
    "a link to nowhere": lambda folder: (folder.parent.mkdir(parents=True, exist_ok=True),
                                         folder.symlink_to(folder.parents[2] / "nowhere")),
    "what others keep under a hidden name": lambda folder: (write_frames(folder.with_name(".ok.part"), shades(2))
                                                            / "note.txt").write_text("mine"),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_frames_that_others_made_stay(tmp_path, capsys, case):
    write_video(tmp_path / "avi" / "A" / "ok.avi", shades(12))
    write_video(tmp_path / "avi" / "A" / "other.avi", shades(3))
    IN_THE_WAY[case](tmp_path / "jpg" / "A" / "ok")
    before = content_of(tmp_path)
    capsys.readouterr()
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    told = capsys.readouterr()
    after = content_of(tmp_path)
    assert {path: after.get(path) for path in before} == before
    (line,) = [line for line in told.err.splitlines() if line.startswith("broken: ")]
    assert "ok" in line and "move it" in line and "JPG_DIR" in line
    assert number_of(JpegFolder().frames(tmp_path / "jpg" / "A" / "other")) == [0, 1, 2]
    assert numbers(told.out)[-1] == 1


def test_where_nothing_can_be_written_the_reason_is_told(tmp_path, capsys):
    write_video(tmp_path / "avi" / "A" / "ok.avi", shades(12))
    write_frames(tmp_path / "jpg" / "A" / "ok", shades(8))
    told = quits(capsys, generate_video_jpgs.main, tmp_path / "avi", tmp_path / "jpg", "ucf101", "--n_jobs", 1)
    assert str(tmp_path / "jpg" / "A" / "ok") in told and "move it" in told and "fetch" not in told


OWN = {
    "a lost frame": own,
    "a torn info.json": lambda folder: (own(folder), (folder / "info.json").write_text('{"n_frames": 12, "wid')),
    "of an older version": lambda folder: (own(folder), (folder / "info.json").write_text(json.dumps(OURS))),
    "litter of systems": lambda folder: (own(folder), (folder / ".DS_Store").touch(), (folder / "Thumbs.db").touch()),
    "an empty folder": lambda folder: folder.mkdir(parents=True),
    "what a killed run left": lambda folder: write_frames(folder.with_name(".ok.part"), shades(2)),
}


@pytest.mark.parametrize("case", OWN)
def test_what_is_ours_is_made_again(tmp_path, case):
    write_video(tmp_path / "avi" / "A" / "ok.avi", shades(12))
    OWN[case](tmp_path / "jpg" / "A" / "ok")
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    assert number_of(JpegFolder().frames(tmp_path / "jpg" / "A" / "ok")) == list(range(12))
    assert [path.name for path in (tmp_path / "jpg" / "A").iterdir()] == ["ok"]


# --- HDF5 files


def by_others(file, name="video", **attributes) -> None:
    """An HDF5 file of two JPEG files, as the published script writes it, or of anything else."""
    frame = np.frombuffer(b"\xff\xd8 a frame", dtype=np.uint8)
    with h5py.File(file, "w") as content:
        video = content.create_dataset(name, (2,), dtype=h5py.vlen_dtype(np.uint8))
        video[0], video[1] = frame, frame
        video.attrs.update(attributes)


@pytest.mark.parametrize(("write", "stays"), [
    (by_others, True), (lambda file: by_others(file, "features", width=3, height=4), True),
    (lambda file: by_others(file, width=32, height=24), False), (lambda file: file.write_bytes(b"my notes"), True),
    (lambda file: file.mkdir(), True), (lambda file: file.symlink_to("nowhere"), True),
    (lambda file: file.touch(), False), (lambda file: file.write_bytes(owning.HDF5 + b"torn"), False)])
def test_hdf5_files_of_others_stay(tmp_path, capsys, write, stays):
    write_frames(tmp_path / "jpg" / "v", shades(3), info=OURS | {"n_frames": 3})
    write_frames(tmp_path / "jpg" / "w", shades(3), info=OURS | {"n_frames": 3})
    (tmp_path / "hdf5").mkdir()
    write(tmp_path / "hdf5" / "v.hdf5")
    before = content_of(tmp_path)
    generate_video_hdf5.main([str(tmp_path / "jpg"), str(tmp_path / "hdf5"), "--n_jobs", "1"])
    told = capsys.readouterr()
    after = content_of(tmp_path)
    assert numbers(told.out) == ([1, 0, 1] if stays else [2, 0, 0])
    if stays:
        assert {path: after[path] for path in before} == before and "v.hdf5" in told.err and "move it" in told.err
    else:
        assert number_of(Hdf5Frames().frames(tmp_path / "hdf5" / "v.hdf5")) == [0, 1, 2]


# --- packed files


@pytest.mark.parametrize("write", [
    lambda file: np.save(file, np.arange(6.0).reshape(2, 3)), lambda file: np.save(file, np.array([{"a": 1}])),
    lambda file: np.save(file, np.zeros(3, dtype=[("place", "S3"), ("id", "<u4")])),
    lambda file: file.write_bytes(b"my own index"), lambda file: file.mkdir(), lambda file: file.symlink_to("nowhere")])
def test_an_index_of_others_stays(tmp_path, capsys, write):
    write_frames(tmp_path / "jpg" / "v", shades(3))
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "index.npy")
    before = content_of(tmp_path)
    told = quits(capsys, pack_frames.main, tmp_path / "jpg", tmp_path / "out")
    assert "index.npy" in told and "move it" in told and content_of(tmp_path) == before


def test_files_of_others_beside_a_packed_set_stay(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    theirs = {"shard_0000.bin": b"tokens of a language model", "shard_0007.bin": b"", "shard_mine.bin": b"mine",
              "times_mine.npz": b"mine", "shard_0001.bin.bak": b"mine", "times_0002.npz": b"mine"}
    for name, content in theirs.items():
        (out / name).write_bytes(content)
    np.savez(out / "times_0003.npz", laps=np.arange(3.0))
    laps = (out / "times_0003.npz").read_bytes()
    uneven = OURS | {"n_frames": 3, "times": [0, 0.1, 0.5, 0.6]}
    write_frames(tmp_path / "jpg" / "v", shades(3), info=uneven)
    for _ in range(3):  # over nothing, and over sets of ours
        (out / "shard_0009.bin.77.part").write_bytes(b"what a killed run left")
        pack_frames.main([str(tmp_path / "jpg"), str(out)])
        assert {name: (out / name).read_bytes() for name in theirs} == theirs
        assert (out / "times_0003.npz").read_bytes() == laps
        assert number_of(PackedFrames().frames(out / "v")) == [0, 1, 2]
        assert PackedFrames().times(out / "v").listed() == [0, 0.1, 0.5, 0.6]
        assert len(list(out.iterdir())) == len(theirs) + 1 + 3  # index, shard and times


def test_a_shard_that_a_killed_run_left_goes(tmp_path):
    out = tmp_path / "out"
    write_frames(tmp_path / "jpg" / "v", shades(3))
    pack_frames.main([str(tmp_path / "jpg"), str(out)])
    (out / "index.npy").unlink()
    pack_frames.main([str(tmp_path / "jpg"), str(out)])
    assert sorted(path.name for path in out.iterdir()) == ["index.npy", "shard_0001.bin"]


# --- folders that a whole program fills


@pytest.mark.parametrize("place", ["videos/Mine/v.avi", "jpg/Mine/v/1.jpg", "results/last.pth", "videos/v.mp4"])
def test_a_demo_takes_no_data_set_for_an_earlier_demo(tmp_path, monkeypatch, place):
    monkeypatch.setattr(demo, "run", lambda *_: (_ for _ in ()).throw(AssertionError("begun")))
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match="no demo has made"):
        demo.main([str(tmp_path)])
    assert file.read_text() == "mine"


def test_pictures_in_a_folder_without_an_explanation_are_not_ours(tmp_path):
    (tmp_path / "mine.gif").write_text("mine")
    pages.start_folder(tmp_path, {"video": "v"})
    assert (tmp_path / "mine.gif").read_text() == "mine"
    (tmp_path / "window.gif").write_text("of this explanation")
    pages.start_folder(tmp_path, {"video": "w"})
    assert not (tmp_path / "window.gif").exists()
