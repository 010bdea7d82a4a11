"""HDF5 files hold the frame folders' own frames, whoever wrote them; none is half a video; main.py runs on them."""

import json
import multiprocessing
import os
import pickle
import signal
import time

import h5py
import numpy as np
import pytest
import torch
from media import number_of, shades, write_frames
from preparing import numbers
from program import CALL, DATA, MODEL, QUICK, call, explain_classes, write_data
from torch.utils.data import DataLoader

from datasets.on_disk import videos_at, videos_on_disk
from datasets.reading import CachedReader, JpegFolder, VideoInfo
from datasets.reading.hdf5 import Hdf5Frames
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform
from datasets.video import Video, VideoClips
from util_scripts import check_dataset, generate_video_hdf5, ucf101_json

PLACES = {"Yo Yo/v_b": 9, "Archery/v_a": 5, "Archery/Ünï_c": 12, "P01/deep/v_d": 3, "v_flat": 4, "P01/a.b": 2}
INFO = {"width": 64, "height": 48, "fps": 12.5}


def pack(root, *more) -> None:
    generate_video_hdf5.main([str(word) for word in (root / "jpg", root / "hdf5", "--n_jobs", 1, *more)])


def file_of(root, place: str):
    return root / "hdf5" / f"{place}.hdf5"


@pytest.fixture
def packed(tmp_path):
    for place, n in PLACES.items():
        write_frames(tmp_path / "jpg" / place, shades(n), info=INFO | {"n_frames": n} if place != "v_flat" else None)
    pack(tmp_path)
    return tmp_path


def test_frames_and_infos_are_the_folders_own(packed):
    for reader in (Hdf5Frames(), pickle.loads(pickle.dumps(Hdf5Frames())), CachedReader(Hdf5Frames(), 10**6)):
        for place, n in PLACES.items():
            file, folder = file_of(packed, place), packed / "jpg" / place
            assert torch.equal(reader.frames(file), JpegFolder().frames(folder))
            assert number_of(reader.frames(file, torch.tensor([n - 1, 0, n - 1]))) == [n - 1, 0, n - 1]
            assert reader.info(file) == JpegFolder().info(folder)
            assert reader.size(file) == JpegFolder().size(folder)
            for wanted in ([n], [-1]):
                with pytest.raises(ValueError, match=str(n)):
                    reader.frames(file, wanted)
    assert Hdf5Frames().info(file_of(packed, "v_flat")) == VideoInfo(4, 24, 32, None)


def test_what_other_tools_wrote_is_read(tmp_path):
    folder, file = write_frames(tmp_path / "v", shades(7)), tmp_path / "v.hdf5"
    with h5py.File(file, "w") as content:
        content.create_dataset("video", (7,), dtype=h5py.special_dtype(vlen="uint8"))
    for i in range(7):  # as the published script does it
        with h5py.File(file, "r+") as content:
            content["video"][i] = np.frombuffer((folder / f"image_{i + 1:05d}.jpg").read_bytes(), dtype="uint8")
    assert torch.equal(Hdf5Frames().frames(file), JpegFolder().frames(folder))
    assert Hdf5Frames().info(file) == VideoInfo(7, 24, 32, None) and Hdf5Frames().size(file) == (24, 32)


def test_videos_are_found_by_class_and_by_place(packed):
    (packed / "hdf5" / "Archery" / ".v_x.hdf5.part").write_bytes(b"half")
    (packed / "hdf5" / "Archery" / "v_y").mkdir()
    in_class_folders = [place for place in PLACES if place.count("/") == 1]
    assert videos_on_disk(packed / "hdf5", file_type="hdf5") == {
        tuple(place.split("/")): str(file_of(packed, place)) for place in in_class_folders}
    wanted = ["P01/deep/v_d", "Archery/V_A", "Archery/v_x", "../hdf5/v_flat"]
    assert videos_at(packed / "hdf5", wanted, file_type="hdf5") == {
        "P01/deep/v_d": f"{packed}/hdf5/P01/deep/v_d.hdf5", "Archery/V_A": f"{packed}/hdf5/Archery/v_a.hdf5"}


@pytest.mark.parametrize("how", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_one_process_reads(packed, how):
    videos = [Video(place, file_of(packed, place), 0, "training", n, (0, n)) for place, n in PLACES.items()]
    clips = VideoClips(videos, sampler=SlidingWindows(8, 4), transform=EvalTransform(16), reader=Hdf5Frames())
    alone = [clips[i]["clip"] for i in range(len(clips))]
    loader = DataLoader(clips, num_workers=2, multiprocessing_context=how)
    assert all(torch.equal(one, batch["clip"][0]) for one, batch in zip(alone, loader, strict=True))


def test_what_is_there_is_left_and_what_differs_is_written_again(packed, capsys):
    def stamps():
        return {place: file_of(packed, place).stat().st_mtime_ns for place in PLACES}

    before = stamps()
    file_of(packed, "v_flat").write_bytes(file_of(packed, "v_flat").read_bytes()[:900])
    write_frames(packed / "jpg" / "Yo Yo" / "v_b", shades(3), info=INFO | {"n_frames": 3})
    (packed / "jpg" / "Archery" / "v_a" / "image_00003.jpg").write_bytes(b"no picture")
    file_of(packed, "Archery/v_a").unlink()
    capsys.readouterr()
    pack(packed)
    told = capsys.readouterr()
    assert numbers(told.out) == [2, 3, 1] and "image_00003.jpg" in told.err
    assert not file_of(packed, "Archery/v_a").exists()
    (packed / "hdf5" / "Archery").joinpath("v_a.hdf5").touch()
    changed = {place for place, stamp in stamps().items() if stamp != before[place]}
    assert changed == {"v_flat", "Yo Yo/v_b", "Archery/v_a"}
    assert number_of(Hdf5Frames().frames(file_of(packed, "Yo Yo/v_b"))) == [0, 1, 2]
    assert not list((packed / "hdf5").rglob(".*"))


def test_no_kill_leaves_half_a_video(packed):
    """Whenever the script is killed, every file that is there is whole, and the next call makes the rest."""
    for i in range(30):
        write_frames(packed / "jpg" / "Many" / f"v_{i}", shades(40), info=INFO | {"n_frames": 40})
    folders = {file_of(packed, f"Many/v_{i}"): packed / "jpg" / "Many" / f"v_{i}" for i in range(30)}
    n_cut = 0
    for wait in (0.02, 0.05, 0.1):
        process = multiprocessing.get_context("fork").Process(target=_in_a_group, args=(packed,))
        process.start()
        deadline = time.monotonic() + 60
        while not (packed / "hdf5" / "Many").exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(wait)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            n_cut += 1
        process.join()
        for file in (packed / "hdf5" / "Many").glob("[!.]*"):
            assert torch.equal(Hdf5Frames().frames(file), JpegFolder().frames(folders[file]))
    pack(packed)
    assert n_cut and all(file.exists() for file in folders) and not list((packed / "hdf5").rglob(".*"))


def _in_a_group(root) -> None:
    os.setsid()  # killed with the processes that it starts
    pack(root)


def test_damage_is_one_sentence(packed):
    file = file_of(packed, "Yo Yo/v_b")
    whole = file.read_bytes()

    def raises(match):
        for ask in (lambda: Hdf5Frames().frames(file, [3]), lambda: Hdf5Frames().frames(file),
                    lambda: Hdf5Frames().info(file), lambda: Hdf5Frames().size(file)):
            with pytest.raises(ValueError, match=match) as caught:
                ask()
            assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)

    for bad in (b"", b"no such format", whole[:len(whole) // 2], whole[8:]):
        file.write_bytes(bad)
        raises("generate_video_hdf5")
    for name, values, dtype in (("frames", [np.zeros(3)], None), ("video", [1, 2], "u1"), ("video", [], "u1"),
                                ("video", ["a"], h5py.string_dtype())):
        with h5py.File(file, "w") as content:
            content.create_dataset(name, data=values, dtype=dtype)
        raises("generate_video_hdf5")
    with h5py.File(file, "w") as content:
        content.create_group("video")
    raises("generate_video_hdf5")
    file.unlink()
    raises("no such file")
    file.mkdir()
    raises("generate_video_hdf5")


@pytest.mark.parametrize("size", [0, 3, 15, 17, 2**40, 2**64 - 8])
@pytest.mark.parametrize("last", [False, True])
def test_heaps_on_which_the_library_would_hang(packed, last, size):
    file = file_of(packed, "Yo Yo/v_b")
    whole = bytearray(file.read_bytes())
    at = whole.index(b"GCOL") + 16  # where the header of the first frame is
    while last and whole[at:at + 2] != b"\0\0":  # ... or of what is left free behind the last one
        at += 16 + -(-int.from_bytes(whole[at + 8:at + 16], "little") // 8) * 8
    whole[at + 8:at + 16] = size.to_bytes(8, "little")
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="v_b.hdf5"):
        Hdf5Frames().frames(file)


@pytest.mark.parametrize(("name", "value"), [("width", -1), ("height", 2**40), ("fps", float("nan")), ("fps", -3.0),
                                             ("width", "wide"), ("height", [1, 2])])
def test_numbers_that_no_video_has(packed, name, value):
    file = file_of(packed, "Archery/v_a")
    with h5py.File(file, "r+") as content:
        content["video"].attrs[name] = value
    with pytest.raises(ValueError, match="v_a.hdf5"):
        Hdf5Frames().info(file)
    with pytest.raises(ValueError, match="v_a.hdf5"):
        Hdf5Frames().frames(file, [0])


def test_main_and_its_friends_on_hdf5_files(tmp_path, capsys):
    """What is learnt, predicted and explained is what frame folders give, to the last bit."""
    write_data(tmp_path)
    pack(tmp_path)
    results = {}
    for kind in ("jpg", "hdf5"):
        flags = f"{DATA.replace('jpg', kind)} --file_type {kind} --result_path {kind}_results"
        call("--root_path", tmp_path, flags, MODEL, QUICK, CALL, "--inference")
        explain_classes("--resume_path", tmp_path / f"{kind}_results" / "save_1.pth", "--n_videos", 2)
        written = [tmp_path / f"{kind}_results" / "val.json",
                   *sorted((tmp_path / f"{kind}_results").rglob("explanation.json"))]
        results[kind] = [file.read_text() for file in written]
    assert results["jpg"] == results["hdf5"] and len(results["jpg"]) == 3
    capsys.readouterr()
    check_dataset.main(["--root_path", str(tmp_path), *DATA.replace("jpg", "hdf5").split(), "--file_type", "hdf5",
                        "--sample_duration", "8", "--n_threads", "1"])
    told = capsys.readouterr()
    (line,) = [line for line in told.out.splitlines() if line.startswith("GB as hdf5")]
    size = sum(file.stat().st_size for file in (tmp_path / "hdf5").rglob("*.hdf5"))
    assert float(line.split()[-1]) == pytest.approx(size / 1e9, rel=0.01) and "bad" not in told.err


def test_lists_become_annotations_of_hdf5_files(tmp_path):
    write_data(tmp_path)
    pack(tmp_path)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Run\n2 Jump\n")
    (lists / "trainlist01.txt").write_text("Run/v_Run_g00_c01.avi 1\nJump/v_Jump_g01_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Run/v_Run_g03_c01.avi\n")
    for kind in ("jpg", "hdf5"):
        ucf101_json.main([str(lists), str(tmp_path / kind), str(tmp_path / f"of_{kind}")])
    one, other = (json.loads((tmp_path / f"of_{kind}" / "ucf101_01.json").read_text()) for kind in ("jpg", "hdf5"))
    assert one == other and len(one["database"]) == 3


def test_nothing_to_pack_is_an_error(tmp_path, capsys):
    (tmp_path / "jpg").mkdir()
    for more, sentence in (([], "no folder of frames"), ([], "none of the videos"), (["--n_jobs", 0], "--n_jobs")):
        with pytest.raises(SystemExit) as stop:
            pack(tmp_path, *more)
        assert stop.value.code == 2 and sentence in capsys.readouterr().err
        write_frames(tmp_path / "jpg" / "v", shades(2), info={})
