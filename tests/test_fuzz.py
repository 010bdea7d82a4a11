"""Corrupted frames, videos and annotations: one sentence, or the rest of the data; never a traceback, never a hang.

The default suite spoils about 460 inputs: 90 files for the readers, 300 annotations, and 70 files of five data sets for
main.py, one of each form. With the slow tests there are about 4,300: 1290, 2300 and 700, of 65 data sets.
"""

import copy
import json
import re
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from media import shades, write_video
from program import CALL, DATA, MODEL, QUICK, ROWS, TREE, call, write_data

from datasets import DATASETS, READERS
from datasets.annotation import load_database
from datasets.reading import JpegFolder, VideoFile
from datasets.reading.hdf5 import Hdf5Frames
from datasets.reading.packed import PackedFrames
from datasets.video import Video, whole_videos
from util_scripts import check_dataset, generate_video_hdf5, pack_frames

NAMES = ["../../etc", "/etc/passwd", "ünï-çødé-动作", "a\nb", "..", ".", "", "x" * 3000, "\ud800", "a\0b", "%s{0}"]
FORMS = [*READERS, "activitynet"]
VALUES = [None, True, -1, 0, 3.5, 10**30, float("nan"), float("inf"), "", "training", [], {}, [[]], ["segment"], *NAMES]


@pytest.fixture(autouse=True)
def no_hang():
    def late(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(900)  # on a machine with much else to do
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def corrupted(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that were cut off, flipped, overwritten, doubled or lost."""
    kind = rng.integers(6)
    if kind == 0 or len(data) < 2:
        return b""
    at = int(rng.integers(1, len(data)))
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[at:]
    if kind == 3:
        return data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]
    flipped = np.frombuffer(data, dtype=np.uint8).copy()
    n = 1 if kind == 4 else max(len(data) // 50, 1)
    first = min(len(data), 400) if kind == 4 else len(data)
    flipped[rng.integers(first, size=n)] ^= np.uint8(1 << rng.integers(8))
    return flipped.tobytes()


def ask_everything(reader, path: Path) -> int:
    """How often a reader refuses; anything but a ValueError that names something, or frames, fails."""
    refused = 0
    for ask in (lambda: reader.frames(path, [0, 3]), lambda: reader.frames(path), lambda: reader.size(path),
                lambda: reader.info(path).n_frames, lambda: reader.frames(path, [5])):
        try:
            ask()
        except ValueError as error:
            refused += 1
            assert str(path.parent.parent) in str(error)
    return refused


def storage(root: Path) -> list[tuple[object, Path, Path]]:
    """A reader, a video, and the file of it to corrupt, of every kind."""
    avi = write_video(root / "film" / "v.avi", shades(6))
    mp4 = write_video(root / "film" / "v.mp4", shades(6), codec="libx264")
    write_data(root / "made", rows=ROWS[:1], n_train=1, n_val=0)
    jpg = next((root / "made" / "jpg").glob("*/*"))
    pack_frames.main([str(root / "made" / "jpg"), str(root / "packed")])
    generate_video_hdf5.main([str(root / "made" / "jpg"), str(root / "hdf5"), "--n_jobs", "1"])
    packed = root / "packed" / jpg.relative_to(root / "made" / "jpg")
    hdf5 = next((root / "hdf5").glob("*/*.hdf5"))
    return [(VideoFile, avi, avi), (VideoFile, mp4, mp4), (JpegFolder, jpg, jpg / "image_00004.jpg"),
            (JpegFolder, jpg, jpg / "info.json"), (PackedFrames, packed, root / "packed" / "index.npy"),
            (PackedFrames, packed, root / "packed" / "shard_0000.bin"), (Hdf5Frames, hdf5, hdf5)]


def fuzz_files(root: Path, n: int) -> None:
    kinds, refused = storage(root), 0
    assert {reader for reader, *_ in kinds} == set(READERS.values())
    for seed in range(n):
        reader, path, file = kinds[seed % len(kinds)]
        whole = file.read_bytes()
        file.write_bytes(corrupted(whole, np.random.default_rng(seed)))
        try:
            refused += ask_everything(reader(), path)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {file.name}") from error
        finally:
            file.write_bytes(whole)
    assert refused > n // 2


def test_corrupted_files_are_refused_by_name(tmp_path):
    fuzz_files(tmp_path, 90)


@pytest.mark.slow
def test_many_corrupted_files_are_refused_by_name(tmp_path):
    fuzz_files(tmp_path, 1200)


def mutated(value: object, rng: np.random.Generator) -> object:
    """A copy of a JSON value with something in it lost, renamed or replaced."""
    value = copy.deepcopy(value)
    where, step = value, value["database"] if rng.random() < 0.9 else value
    while True:
        where = step
        key = (list(where)[rng.integers(len(where))] if isinstance(where, dict) else int(rng.integers(len(where))))
        step = where[key]
        if not isinstance(step, dict | list) or not step or rng.random() < 0.25:
            break
    kind = rng.integers(3)
    if kind == 0:
        del where[key]
    elif kind == 1 and isinstance(where, dict):
        where[NAMES[rng.integers(len(NAMES))]] = where.pop(key)
    else:
        where[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return value


def sound(root: Path) -> dict[str, dict]:
    """An annotation of each form, of the videos under root/jpg."""
    common = json.loads((root / "ucf101_01.json").read_text())
    for name, entry in common["database"].items():
        entry |= {"video": f"{entry['annotations']['label']}/{name}", "n_frames": 12}
    database = {name: {"subset": entry["subset"], "duration": 1.2, "fps": 10.0, "n_frames": 12, "annotations": [
        {"segment": [0.1, 1.0], "label": entry["annotations"]["label"]}]} for name, entry in common["database"].items()}
    return {"ucf101": common, "activitynet": {"taxonomy": [], "database": database}}


def fuzz_annotations(root: Path, n: int) -> None:
    write_data(root)
    for label in root.glob("jpg/*"):  # ActivityNet's lie side by side
        for video in label.iterdir():
            shutil.copytree(video, root / "jpg" / f"v_{video.name}")
    forms, refused = sound(root), 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        name = list(forms)[seed % 2]
        content = forms[name]
        for _ in range(int(rng.integers(1, 4))):
            if content.get("database"):
                content = mutated(content, rng)
            if not isinstance(content.get("database"), dict | list):
                break
        text = json.dumps(content)
        (root / "a.json").write_text(text if rng.random() < 0.9 else text[:int(rng.integers(len(text)))])
        try:
            videos = DATASETS[name].read(root / "a.json", root / "jpg", TREE)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert "a.json" in str(error), f"seed {seed}"
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        else:
            for video in videos:
                assert video.path.resolve().is_relative_to(root / "jpg") and ".." not in video.path.parts
                assert 0 <= video.segment[0] <= video.segment[1] and -1 <= video.label < TREE.n_leaves
    assert refused > n // 4


def test_corrupted_annotations_are_refused_or_read(tmp_path):
    fuzz_annotations(tmp_path, 300)


@pytest.mark.slow
def test_many_corrupted_annotations_are_refused_or_read(tmp_path):
    fuzz_annotations(tmp_path, 2000)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"database": ' + "[" * 100_000, "\udcff", '{"database": {"a": 3}}'])
def test_files_that_break_parsers(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "jpg").mkdir()
    for dataset in DATASETS.values():
        with pytest.raises(ValueError, match="a.json"):
            dataset.read(tmp_path / "a.json", tmp_path / "jpg", TREE)


def prepare(root: Path, form: str) -> tuple[list[str], list[Video]]:
    """A data set in a form: main.py's flags for it, and its videos."""
    write_data(root)
    jpg, kind = root / "jpg", form
    if form == "activitynet":
        for folder in sorted(jpg.glob("*/*")):  # which lie side by side
            folder.rename(jpg / f"v_{folder.name}")
        (root / "ucf101_01.json").write_text(json.dumps(sound(root)["activitynet"]))
        kind = "jpg"
    elif form == "hdf5":
        generate_video_hdf5.main([str(jpg), str(root / form), "--n_jobs", "1"])
    elif form == "packed":
        pack_frames.main([str(jpg), str(root / form), "--shard_gb", "3e-5"])
    elif form == "video":
        for folder in sorted(jpg.glob("*/*")):
            write_video(root / form / folder.parent.name / f"{folder.name}.avi", JpegFolder().frames(folder).numpy())
    dataset = "activitynet" if form == "activitynet" else "ucf101"
    videos = DATASETS[dataset].read(root / "ucf101_01.json", root / kind, TREE, file_type=kind)
    return f"--video_path {kind} --file_type {kind} --dataset {dataset}".split(), list(whole_videos(videos))


def spoil(root: Path, rng: np.random.Generator, n: int) -> None:
    """Corrupt n files of a data set, or as many as there are."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for i in rng.choice(len(files), size=min(n, len(files)), replace=False):
        files[i].write_bytes(corrupted(files[i].read_bytes(), rng))


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_main(root: Path, form: str, seed: int, capfd) -> bool:
    """main.py on a spoilt data set; whether it came to its end."""
    rng = np.random.default_rng(seed)
    flags, videos = prepare(root / "data", form)
    reader = READERS[flags[3]]
    spoil(root / "data" / flags[1], rng, int(rng.integers(1, 30 if reader is JpegFolder else 8)))
    if seed % 3 == 2:
        content = load_database(root / "data" / "ucf101_01.json")
        (root / "data" / "ucf101_01.json").write_text(json.dumps(mutated(content, rng)))
    before = tree_of(root)
    capfd.readouterr()
    ended = True
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            call("--root_path", root / "data", "--result_path", root / "results", DATA, MODEL, QUICK, CALL,
                 "--inference --inference_batch_size 0", *flags)
        except SystemExit as stop:
            assert stop.code == 2
            ended = False
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert ended or sum(line.startswith("error: ") for line in told.err.splitlines()) == 1
    assert {name: data for name, data in tree_of(root).items() if not name.startswith("results/")} == before
    if ended:
        bad = [video for video in videos if ask_everything(reader(), video.path)]
        read = json.loads((root / "results" / "val.json").read_text())["results"]
        if any(video.subset == "validation" and video.name not in read for video in bad):
            assert re.search(r"\d+ could not be read", told.out)
    return ended


@pytest.mark.parametrize("form", FORMS)
def test_main_survives_a_spoilt_data_set(tmp_path, capfd, form):
    assert run_main(tmp_path, form, 0, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(1, 13))
def test_main_survives_many_spoilt_data_sets(tmp_path, capfd, form, seed):
    run_main(tmp_path, form, seed, capfd)


# --- the doctor


def check(root: Path, *more) -> None:
    flags = [*DATA.split(), "--sample_duration", "8", "--n_threads", "1"]
    check_dataset.main(["--root_path", str(root), *flags, *map(str, more)])


def row(table: str, name: str) -> int:
    (line,) = [line for line in table.splitlines() if line.startswith(name)]
    return int(line[len(name):].split()[0])


def test_the_doctor_counts_what_is_wrong_and_writes_what_is_right(tmp_path, capsys):
    write_data(tmp_path)
    (tmp_path / "jpg/Run/v_Run_g00_c01/image_00005.jpg").write_bytes(b"")
    shutil.rmtree(tmp_path / "jpg/Jump/v_Jump_g01_c01")
    content = json.loads((tmp_path / "ucf101_01.json").read_text())
    database = content["database"]
    database["v_Wave_g00_c01"]["annotations"]["segment"] = [5, 99]
    database["v_Wave_g01_c01"]["annotations"]["segment"] = [5, 2]
    database["v_Wave_g02_c01"]["annotations"]["label"] = "Waive"
    database["v_Saw_g00_c01"]["annotations"]["segment"] = [5, 8]
    database["v_Saw_g02_c01"]["n_frames"], database["v_Jump_g02_c01"]["n_frames"] = 12, 13
    database["../../etc"] = copy.deepcopy(database["v_Saw_g01_c01"])
    shutil.copytree(tmp_path / "jpg/Saw/v_Saw_g01_c01", tmp_path / "jpg/Saw/v_Saw_g01_c02")
    database["v_Saw_g01_c02"] = database["v_Saw_g01_c01"] | {"subset": "validation"}
    (tmp_path / "ucf101_01.json").write_text(json.dumps(content))
    check(tmp_path, "--fix", tmp_path / "mended.json")
    table = capsys.readouterr().out
    counts = {"entries listed": 18, "damaged, or of an unknown class": 2, "not on disk": 2, "on disk": 14,
              "unreadable": 1, "annotated to other frames": 2, "shorter than a clip": 1, "classes without": 1,
              "recordings in more": 1}
    assert {name: row(table.replace("annotated to other frames than there are", "annotated to other frames")
                      .replace("shorter than a clip, and looped", "shorter than a clip")
                      .replace("classes without a training clip", "classes without")
                      .replace("recordings in more than one subset", "recordings in more"), name)
            for name in counts} == counts
    assert "image_00005.jpg" in table and "Wave" in table and "v_Saw_g01" in table and "11 entries, 7 left out" in table
    assert "v_Jump_g02_c01: 13 annotated, 12 there" in table
    mended = load_database(tmp_path / "mended.json")
    assert mended["labels"] == content["labels"] and len(mended["database"]) == 11
    check(tmp_path, "--annotation_path", "mended.json")
    told = capsys.readouterr()
    assert all(row(told.out, name) == 0 for name in ("damaged, or of an unknown class", "not on disk", "unreadable"))
    assert "bad" not in told.err


def gigabytes(table: str) -> dict[str, str]:
    rows = (line.removeprefix("GB as ").split(maxsplit=1) for line in table.splitlines() if line.startswith("GB as "))
    return {form: shown.strip() for form, shown in rows}


def test_the_doctor_tells_the_disk_of_every_form(tmp_path, capsys):
    write_data(tmp_path)
    generate_video_hdf5.main([str(tmp_path / "jpg"), str(tmp_path / "hdf5"), "--n_jobs", "1"])
    pack_frames.main([str(tmp_path / "jpg"), str(tmp_path / "packed")])
    for i, folder in enumerate(sorted((tmp_path / "jpg").glob("*/*"))):
        write_video(tmp_path / "video" / folder.parent.name / f"{folder.name}.mp4",
                    np.random.default_rng(i).integers(256, size=(12, 36, 48, 3), dtype=np.uint8))
    sizes = {form: sum(file.stat().st_size for file in (tmp_path / form).rglob("*") if file.is_file()) / 1e9
             for form in READERS}
    for read in READERS:
        capsys.readouterr()
        check(tmp_path, "--video_path", read, "--file_type", read)
        told = gigabytes(capsys.readouterr().out)
        assert list(told) == ["jpg", "hdf5", "packed", "video"]
        assert [form for form, shown in told.items() if not shown.startswith("about ")] == [read]
        assert float(told[read]) == pytest.approx(sizes[read], rel=0.01)
        if read == "jpg":
            assert float(told["packed"].split()[1]) == pytest.approx(sizes["packed"], rel=0.15)
            assert float(told["hdf5"].split()[1]) == pytest.approx(sizes["hdf5"], rel=0.4)  # tiny frames, whole heaps
    for form in ("packed", "hdf5", "video"):  # what lies there, too, is measured
        shutil.copytree(tmp_path / form, tmp_path / "jpg", dirs_exist_ok=True)
    check(tmp_path)
    assert {form: float(shown) for form, shown in gigabytes(capsys.readouterr().out).items()} == pytest.approx(
        sizes, rel=0.01)


def test_the_doctor_knows_where_recordings_are_not_known(tmp_path, capsys):
    write_data(tmp_path)
    content = json.loads((tmp_path / "ucf101_01.json").read_text())
    content["database"] = {f"clip {i}": entry | {"video": f"{entry['annotations']['label']}/{name}"}
                           for i, (name, entry) in enumerate(content["database"].items())}
    (tmp_path / "ucf101_01.json").write_text(json.dumps(content))
    check(tmp_path)
    out, err = capsys.readouterr()
    assert re.search(r"recordings in more than one subset +not known", out) and "--dataset ucf101" in err
    content["database"]["again"] = content["database"]["clip 0"] | {"subset": "validation"}
    (tmp_path / "ucf101_01.json").write_text(json.dumps(content))
    check(tmp_path)
    assert row(capsys.readouterr().out, "recordings in more than one subset") == 1


def test_the_doctor_says_why_nothing_can_be_used(tmp_path, capsys):
    write_data(tmp_path)
    (tmp_path / "ucf101_01.json").write_text(json.dumps({"database": {"a": {"subset": 3}, "b": None}}))
    with pytest.raises(SystemExit) as stop:
        check(tmp_path)
    assert stop.value.code == 2 and "none of its 2 entries can be used, a for one (" in capsys.readouterr().err


def test_the_doctor_refuses_what_main_would_refuse(tmp_path, capsys):
    write_data(tmp_path)
    for more, sentence in ((["--video_path", "nowhere"], "nowhere"), (["--annotation_path", "x.json"], "x.json"),
                           (["--fix", tmp_path / "ucf101_01.json"], "itself"), (["--tree_file", "x.csv"], "x.csv")):
        with pytest.raises(SystemExit) as stop:
            check(tmp_path, *more)
        assert stop.value.code == 2 and sentence in capsys.readouterr().err
