"""Frames that others extracted: any usual numbering and format, turned or linked, in every form of storage."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from media import number_of, shades, write_frames, write_video
from PIL import Image
from preparing import jpgs, numbers
from program import CALL, DATA, MODEL, QUICK, call, write_data

from datasets.on_disk import videos_on_disk
from datasets.reading import JpegFolder, VideoInfo
from datasets.reading.hdf5 import Hdf5Frames
from datasets.reading.loose import LooseFiles, frame_files
from datasets.reading.naming import frame_names
from datasets.reading.packed import PackedFrames
from datasets.reading.pictures import rgb_of
from datasets.reading.state import states_of
from util_scripts import generate_video_hdf5, generate_video_jpgs, pack_frames

N = 12
NAMINGS = [("{:05d}.jpg", 1), ("img_{:05d}.jpg", 1), ("frame_{:010d}.jpg", 0), ("{}.jpeg", 0), ("image_{:05d}.jpg", 0),
           ("image_{:05d}.png", 1), ("f{}.webp", 1), ("IMG_{:04d}.JPG", 7), ("v_Run_g01_c01_{:03d}.bmp", 1),
           ("{:06d}_320x240.tif", 0), ("frame {}.PNG", 1), ("shot(1)-{:03d}.jpe", 95), ("{:04d}.tiff", 24051),
           ("frame{:05d}0.jpg", 1)]


def write_named(folder, frames, naming="{:05d}.jpg", first=1, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        ending = naming.rpartition(".")[2].lower()
        kind = {"quality": 95} if ending in ("jpg", "jpeg", "jpe") else {"lossless": True} if ending == "webp" else {}
        Image.fromarray(frame).save(folder / naming.format(i + first), **kind, **options)
    return folder


def pack(root):
    generate_video_hdf5.main([str(root / "jpg"), str(root / "hdf5"), "--n_jobs", "1"])
    pack_frames.main([str(root / "jpg"), str(root / "packed")])


@pytest.mark.parametrize(("naming", "first"), NAMINGS)
def test_usual_namings_are_read_in_natural_order_by_everything(tmp_path, naming, first):
    folder = write_named(tmp_path / "jpg" / "Run" / "v", shades(N), naming, first)
    (folder / ".DS_Store").touch()
    (folder / "notes.txt").touch()
    pack(tmp_path)
    for reader, path in ((JpegFolder(), folder), (LooseFiles(), folder), (Hdf5Frames(), tmp_path / "hdf5/Run/v.hdf5"),
                         (PackedFrames(), tmp_path / "packed" / "Run" / "v")):
        assert number_of(reader.frames(path, [9, 0, 10])) == [9, 0, 10]
        assert number_of(reader.frames(path)) == list(range(N))
        assert reader.info(path) == VideoInfo(N, 24, 32, None) and reader.size(path) == (24, 32)
        assert (reader.frames(path).float() - torch.from_numpy(shades(N))).abs().mean() < 3
    for wanted in ([N], [-1]):
        with pytest.raises(ValueError, match="Run"):
            JpegFolder().frames(folder, wanted)
    assert [file.name for file in frame_files(folder)] == [naming.format(i + first) for i in range(N)]


def test_jpeg_files_are_copied_and_others_converted_at_high_quality(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    jpg = write_named(tmp_path / "jpg" / "A" / "jpg", noise)
    write_named(tmp_path / "jpg" / "A" / "png", noise, "{}.png")
    pack(tmp_path)
    content = (jpg / "00002.jpg").read_bytes()
    assert content in next((tmp_path / "packed").glob("shard*")).read_bytes()
    for reader, place in ((Hdf5Frames(), tmp_path / "hdf5/A/png.hdf5"), (PackedFrames(), tmp_path / "packed/A/png")):
        assert (reader.frames(place).float() - torch.from_numpy(noise)).abs().mean() < 3


def test_main_learns_from_them_what_it_learns_from_ours(tmp_path):
    write_data(tmp_path)
    results = []
    for name in ("one", "other"):
        call("--root_path", tmp_path, f"{DATA} --result_path {name}", MODEL, QUICK, CALL, "--inference")
        results.append(json.loads((tmp_path / name / "val.json").read_text())["results"])
        for info in (tmp_path / "jpg").rglob("info.json"):
            info.unlink()
            for file in sorted(info.parent.glob("image_*.jpg")):
                file.rename(info.parent / f"frame_{int(file.stem[6:]) - 1:010d}.JPG")
    assert results[0].keys() == results[1].keys() and len(results[0]) == 4
    assert results[0] == results[1]


def names_of(folder, *names):
    folder.mkdir()
    for name in names:
        Image.fromarray(shades(1)[0]).save(folder / name)
    return folder


@pytest.mark.parametrize(("names", "told"), [
    (["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg"], ("a_1.jpg", "b_1.jpg")),
    (["1.jpg", "2.jpg", "3.png"], ("1.jpg", "3.png")),
    (["1.jpg", "01.jpg", "2.jpg"], ("1.jpg", "01.jpg")),
    (["00001.jpg", "00002.jpg", "00004.jpg"], ("00003.jpg",)),
    (["v1_1.jpg", "v1_2.jpg", "v1_4.jpg", "v1_5.jpg"], ("v1_3.jpg",)),
    (["1-1.jpg", "1-2.jpg", "2-1.jpg"], ("1-1.jpg", "2-1.jpg")),
    (["image_00002.jpg", "image_00003.jpg"], ("image_00001.jpg",)),
    (["first.jpg", "second.jpg"], ("first.jpg", "second.jpg")),
])
def test_what_is_ambiguous_is_one_sentence_that_says_how_to_rename(tmp_path, names, told, capsys):
    folder = names_of(tmp_path / "jpg", *names)
    for ask in (JpegFolder().info, JpegFolder().frames, lambda path: frame_names(path)):
        with pytest.raises(ValueError) as caught:
            ask(folder)
        sentence = str(caught.value)
        assert all(name in sentence for name in told) and "\n" not in sentence and "image_0000" in sentence
        assert not {"delete", "remove"} & set(sentence.lower().replace(",", " ").split())
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "v")
    (tmp_path / "all").rename(tmp_path / "jpg")
    with pytest.raises(SystemExit) as stop:
        pack_frames.main([str(tmp_path / "jpg"), str(tmp_path / "packed")])
    assert stop.value.code == 2 and told[0] in capsys.readouterr().err


@pytest.mark.parametrize(("names", "order"), [
    (["cover.jpg", "1.jpg", "2.jpg"], ["1.jpg", "2.jpg"]),
    (["img_00001.jpg", "img_00002.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg"], ["img_00001.jpg", "img_00002.jpg"]),
    (["f0.jpg", "f5.jpg", "f10.jpg", "f15.jpg"], ["f0.jpg", "f5.jpg", "f10.jpg", "f15.jpg"]),
    (["image_00001.jpg", "image_00002.jpg", "thumb_1.png"], ["image_00001.jpg", "image_00002.jpg"]),
    (["only.png"], ["only.png"]),
    (["9.jpg", "10.jpg", "11.jpeg"], ["9.jpg", "10.jpg", "11.jpeg"]),
])
def test_what_is_not_ambiguous_is_read(tmp_path, names, order):
    assert frame_names(names_of(tmp_path / "v", *names)) == order


def test_converting_videos_takes_no_frames_of_others_away(tmp_path, capsys):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(3))
    write_video(tmp_path / "avi" / "A" / "w.avi", shades(3))
    mine = write_named(tmp_path / "jpg" / "A" / "v", shades(N), "img_{:05d}.jpg")
    jpgs(tmp_path / "avi", tmp_path / "jpg")
    out, err = capsys.readouterr()
    assert numbers(out) == [1, 0, 1] and "img_" in err and "move" in err and len(list(mine.iterdir())) == N


TURNS = [lambda p: p, np.fliplr, lambda p: np.rot90(p, 2), np.flipud, lambda p: p.swapaxes(0, 1),
         lambda p: np.rot90(p, -1), lambda p: np.rot90(p, 2).swapaxes(0, 1), np.rot90]


@pytest.mark.parametrize(("value", "ending"), [*((value, "jpg") for value in range(1, 9)), (6, "png"), (7, "png"),
                                               (6, "webp"), (5, "webp"), (6, "tif"), (4, "tif")])
def test_pictures_are_upright_by_their_exif(tmp_path, value, ending):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :30], picture[:20, 30:], picture[20:, :30] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    exif = Image.Exif()
    exif[0x0112] = value
    folder = write_named(tmp_path / "jpg" / "A" / "v", [picture, picture, picture[::-1]], f"{{}}.{ending}", exif=exif)
    upright = TURNS[value - 1](picture).astype(int)
    assert upright.shape[:2] == ((60, 40) if value > 4 else (40, 60))
    pack(tmp_path)
    for reader, path in ((JpegFolder(), folder), (LooseFiles(), folder), (Hdf5Frames(), tmp_path / "hdf5/A/v.hdf5"),
                         (PackedFrames(), tmp_path / "packed" / "A" / "v")):
        frames = reader.frames(path, [0, 1, 0]).numpy().astype(int)
        assert frames.shape == (3, *upright.shape) and np.abs(frames - upright).mean() < 4
        assert tuple(reader.size(path)) == reader.info(path).size == upright.shape[:2]
        assert np.abs(reader.frames(path, [2])[0].numpy() - TURNS[value - 1](picture[::-1]).astype(int)).mean() < 4


def test_a_damaged_exif_leaves_the_picture_as_it_is():
    file = io.BytesIO()
    Image.fromarray(shades(1)[0]).save(file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert rgb_of(file.getvalue(), "name", "remedy").shape == (24, 32, 3)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, ending):
    levels = np.array([[0, 128, 129, 20000, 32768, 65535]], np.uint16).repeat(4, 0)
    folder = tmp_path / "v"
    folder.mkdir()
    Image.fromarray(levels).save(folder / f"1.{ending}")
    for reader in (JpegFolder(), LooseFiles()):
        (shown,) = reader.frames(folder).numpy()
        assert shown[0, :, 0].tolist() == [0, 0, 1, 78, 128, 255] and (shown == shown[..., :1]).all()


def test_floating_point_is_refused(tmp_path):
    (tmp_path / "v").mkdir()
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "v" / "1.tif")
    with pytest.raises(ValueError, match="1.tif.*bits"):
        JpegFolder().frames(tmp_path / "v")


def test_links_of_frames_and_classes_are_followed_without_loops(tmp_path, capsys):
    """The same three videos for everything: in a folder, in a linked folder, in a linked class."""
    store, jpg = tmp_path / "store", tmp_path / "jpg"
    write_frames(jpg / "Run" / "a", shades(3))
    write_named(store / "b", shades(4))
    write_named(store / "Walk" / "c", shades(5), "frame{}.png")
    (jpg / "Run" / "b").symlink_to(store / "b")
    (jpg / "Walk").symlink_to(store / "Walk")
    (jpg / "Run" / "up").symlink_to(jpg)
    (jpg / "Run" / "self").symlink_to(jpg / "Run" / "self")
    (jpg / "Run" / "gone").symlink_to(tmp_path / "nowhere")
    (store / "Walk" / "round").symlink_to(store / "Walk")
    pack(tmp_path)
    assert numbers(capsys.readouterr().out.splitlines()[0]) == [3, 0, 0]
    expected = {("Run", "a"): 3, ("Run", "b"): 4, ("Walk", "c"): 5}
    (jpg / "Run" / "up").unlink()  # which main.py takes for a folder of frames until it is to read it
    (store / "Walk" / "round").unlink()
    for kind, reader in (("jpg", JpegFolder()), ("hdf5", Hdf5Frames()), ("packed", PackedFrames())):
        there = videos_on_disk(tmp_path / kind, file_type=kind)
        assert {video: len(reader.frames(Path(path))) for video, path in there.items()} == expected


def test_links_of_videos_are_followed_by_every_layout(tmp_path, capsys):
    store, avi = tmp_path / "store", tmp_path / "avi"
    write_video(avi / "Run" / "a.avi", shades(3))
    write_video(store / "b.avi", shades(3))
    write_video(store / "Walk" / "c.avi", shades(3))
    (avi / "Run" / "b.avi").symlink_to(store / "b.avi")
    (avi / "Walk").symlink_to(store / "Walk")
    (avi / "Run" / "up").symlink_to(avi)
    (store / "Walk" / "round").symlink_to(store / "Walk")
    for layout in ("ucf101", "hmdb51", "kinetics"):
        generate_video_jpgs.main([str(avi), str(tmp_path / layout), layout, "--n_jobs", "1"])
        assert numbers(capsys.readouterr().out) == [3, 0, 0]
        assert sorted(path.parent.relative_to(tmp_path / layout).as_posix()
                      for path in (tmp_path / layout).rglob("info.json")) == ["Run/a", "Run/b", "Walk/c"]


@pytest.mark.parametrize("same_times", [False, True])
def test_frames_made_anew_at_another_size_are_packed_anew(tmp_path, capsys, same_times):
    write_video(tmp_path / "avi" / "A" / "v.avi", shades(5, 60, 80))
    for size in (48, 36):
        jpgs(tmp_path / "avi", tmp_path / f"at{size}", "--size", size)
    for size, packed in ((48, [1, 0, 0]), (36, [1, 0, 0]), (36, [0, 1, 0])):
        (tmp_path / "jpg").unlink(missing_ok=True)
        (tmp_path / "jpg").symlink_to(tmp_path / f"at{size}")  # whose infos tell the same video
        if same_times:
            for path in (tmp_path / f"at{size}").rglob("*"):
                os.utime(path, ns=(0, 0))
        capsys.readouterr()
        pack(tmp_path)
        assert numbers(capsys.readouterr().out.splitlines()[0]) == packed
        for reader, path in ((Hdf5Frames(), tmp_path / "hdf5/A/v.hdf5"), (PackedFrames(), tmp_path / "packed/A/v")):
            assert torch.equal(reader.frames(path), JpegFolder().frames(tmp_path / "jpg" / "A" / "v"))
            assert reader.info(path) == VideoInfo(5, 60, 80, 25.0)


def test_frames_of_other_formats_that_change_are_packed_anew(tmp_path, capsys):
    folder = write_named(tmp_path / "jpg" / "A" / "v", shades(3), "{}.png")
    pack(tmp_path)
    Image.fromarray(shades(9)[8]).save(folder / "2.png")
    capsys.readouterr()
    for packed in ([1, 0, 0], [0, 1, 0]):
        pack(tmp_path)
        assert numbers(capsys.readouterr().out.splitlines()[0]) == packed
        assert number_of(Hdf5Frames().frames(tmp_path / "hdf5" / "A" / "v.hdf5")) == [0, 8, 2]


def test_a_change_of_frames_of_others_is_noticed(tmp_path):
    folder = write_named(tmp_path / "v", shades(N), "f{}.png")
    before = list(states_of([(folder, 2, 9)]))
    for name, noticed in (("f3.png", True), ("f9.png", True), ("f5.png", False)):
        state = (folder / name).stat()
        os.utime(folder / name, ns=(0, 0))
        assert (list(states_of([(folder, 2, 9)])) != before) == noticed
        os.utime(folder / name, ns=(state.st_atime_ns, state.st_mtime_ns))
