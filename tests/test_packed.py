"""Packed frames are the frame folders' own, for every reader, in any process."""

import pickle

import numpy as np
import pytest
import torch
from media import number_of, shades, write_frames
from preparing import numbers
from torch.utils.data import DataLoader

from datasets import READERS
from datasets.on_disk import videos_at, videos_on_disk
from datasets.reading import CachedReader, JpegFolder, VideoInfo
from datasets.reading.packed import PackedFrames
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform
from datasets.video import Video, VideoClips
from util_scripts import pack_frames, storing

PLACES = {"Yo Yo/v_b": 9, "Archery/v_a": 5, "Archery/Ünï_c": 12, "P01/deep/v_d": 3, "v_flat": 4}
INFO = {"width": 64, "height": 48, "fps": 12.5}


@pytest.fixture
def packed(tmp_path):
    for place, n in PLACES.items():
        write_frames(tmp_path / "jpg" / place, shades(n), info=INFO | {"n_frames": n} if place != "v_flat" else None)
    call(tmp_path, "--shard_gb", 1.5e-5)
    return tmp_path / "packed"


def call(root, *more) -> None:
    pack_frames.main([str(word) for word in (root / "jpg", root / "packed", *more)])


def test_frames_and_infos_are_the_folders_own(packed):
    assert len(list(packed.glob("shard_*.bin"))) > 1
    for reader in (PackedFrames(), pickle.loads(pickle.dumps(PackedFrames())), CachedReader(PackedFrames(), 10**6)):
        for place, n in PLACES.items():
            folder = packed.parent / "jpg" / place
            assert torch.equal(reader.frames(packed / place), JpegFolder().frames(folder))
            assert number_of(reader.frames(packed / place, torch.tensor([n - 1, 0, n - 1]))) == [n - 1, 0, n - 1]
            assert reader.info(packed / place) == JpegFolder().info(folder)
            assert reader.size(packed / place) == JpegFolder().size(folder)
            with pytest.raises(ValueError, match=str(n)):
                reader.frames(packed / place, [n])
    assert PackedFrames().info(packed / "v_flat") == VideoInfo(4, 24, 32, None)


def test_videos_are_found_by_class_and_by_place(packed):
    on_disk = videos_on_disk(packed, file_type="packed")
    assert on_disk["Archery", "v_a"] == f"{packed}/Archery/v_a" and on_disk["Yo Yo", "v_b"] == f"{packed}/Yo Yo/v_b"
    wanted = ["P01/deep/v_d", "v_flat", "Archery/V_A", "Archery/v_x", "../packed/v_flat"]
    assert videos_at(packed, wanted, file_type="packed") == {
        "P01/deep/v_d": f"{packed}/P01/deep/v_d", "v_flat": f"{packed}/v_flat", "Archery/V_A": f"{packed}/Archery/v_a"}


@pytest.mark.parametrize("how", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_one_process_reads(packed, how):
    videos = [Video(place, packed / place, 0, "training", n, (0, n)) for place, n in PLACES.items()]
    clips = VideoClips(videos, sampler=SlidingWindows(8, 4), transform=EvalTransform(16), reader=PackedFrames())
    alone = [clips[i]["clip"] for i in range(len(clips))]  # and its files are open before the others start
    loader = DataLoader(clips, num_workers=2 if how else 0, multiprocessing_context=how)
    assert all(torch.equal(one, batch["clip"][0]) for one, batch in zip(alone, loader, strict=True))


def test_broken_videos_are_left_out_and_counted(packed, capsys):
    jpg = packed.parent / "jpg"
    (jpg / "Archery" / "v_a" / "image_00003.jpg").unlink()
    (jpg / "Yo Yo" / "v_b" / "image_00003.jpg").write_bytes(b"no picture")
    call(packed.parent)
    told = capsys.readouterr()
    assert numbers(told.out.rpartition(":")[2]) == [3, 1, 2]
    assert "image_00003.jpg" in told.err
    assert len(list(packed.iterdir())) == 2
    with pytest.raises(ValueError, match="v_a: not among"):
        PackedFrames().frames(packed / "Archery/v_a", [0])


def unchanged(packed) -> bool:
    return all(torch.equal(PackedFrames().frames(packed / place), JpegFolder().frames(packed.parent / "jpg" / place))
               for place in PLACES)


def test_a_packed_set_works_until_the_new_one_does(packed, monkeypatch, capsys):
    first = sorted(path.name for path in packed.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(storing.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit):
            call(packed.parent)
    assert unchanged(packed) and sorted(path.name for path in packed.iterdir()) == first
    (packed.parent / "jpg").rename(packed.parent / "moved")
    write_frames(packed.parent / "jpg" / "v", shades(2), info={})
    with pytest.raises(SystemExit):
        call(packed.parent)
    assert "none of the 1 videos" in capsys.readouterr().err
    (packed.parent / "jpg" / "v" / "info.json").unlink()
    (packed.parent / "jpg" / "v").rename(packed.parent / "moved" / "v_new")
    (packed.parent / "jpg").rmdir()
    (packed.parent / "moved").rename(packed.parent / "jpg")
    assert unchanged(packed)
    call(packed.parent, "--shard_gb", 1.5e-5)
    second = sorted(path.name for path in packed.iterdir())
    assert unchanged(packed) and PackedFrames().info(packed / "v_new").n_frames == 2
    assert first[0] == second[0] == "index.npy" and not set(first[1:]) & set(second[1:])
    call(packed.parent, "--shard_gb", 1.5e-5)
    assert unchanged(packed) and len(list(packed.iterdir())) == len(second)


def test_damage_is_one_sentence(packed, tmp_path):
    def raises(match):
        for wanted in ([3], None):
            with pytest.raises(ValueError, match=match):
                PackedFrames().frames(packed / "v_flat", wanted)

    last = max(packed.glob("shard_*.bin"))  # where v_flat, the last by name, is
    data = last.read_bytes()
    last.write_bytes(data[:-200])
    raises("shard|JPEG")
    last.write_bytes(np.random.default_rng(0).bytes(len(data)))
    raises("pack")
    last.unlink()
    raises(last.name)
    (packed / "index.npy").write_bytes(b"no table")
    raises("index.npy: damaged; pack")
    np.save(packed / "index.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged; pack") as told:
        PackedFrames().frames(packed / "v_flat", [0])
    assert "pickle" not in str(told.value)
    np.save(packed / "index.npy", np.arange(3))
    raises("index.npy: damaged; pack")
    (packed / "index.npy").unlink()
    raises("index.npy: no such file")
    with pytest.raises(FileNotFoundError, match="index.npy"):
        videos_at(packed, ["v_flat"], file_type="packed")


def test_nothing_to_pack_is_an_error(tmp_path, capsys):
    (tmp_path / "jpg").mkdir()
    for sentence in ("no folder of frames", "none of the 1 videos"):
        with pytest.raises(SystemExit) as stop:
            call(tmp_path)
        assert stop.value.code == 2 and sentence in capsys.readouterr().err
        write_frames(tmp_path / "jpg" / "v", shades(2), info={})
    assert not (tmp_path / "packed" / "index.npy").exists()


def test_shards_have_a_size(tmp_path, capsys):
    for size in ("0", "-1", "nan", "inf"):
        with pytest.raises(SystemExit) as stop:
            pack_frames.main([str(tmp_path), str(tmp_path / "packed"), "--shard_gb", size])
        assert stop.value.code == 2 and "--shard_gb" in capsys.readouterr().err


def test_the_folder_of_one_video_is_not_a_data_set(tmp_path, capsys):
    write_frames(tmp_path / "jpg", shades(2))
    with pytest.raises(SystemExit) as stop:
        call(tmp_path)
    assert stop.value.code == 2 and "frames of a single video" in capsys.readouterr().err


def test_every_kind_of_storage_is_a_flag():
    assert set(READERS) == {"hdf5", "jpg", "packed", "video"}
