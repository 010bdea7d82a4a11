"""Checkpoints are written whole or not at all, and what is broken or foreign is told apart."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from machine.writing import sweep, write_whole
from training.checkpoint import checkpoints_in, load_checkpoint, newest_whole, put_aside, save_checkpoint
from training.schedule import Step

CONTENT = {"done": ["joint", 3, 1], "args": {"n_epochs": 4, "c": 1.0, "T": None, "ce_weight": [1, 0.5]},
           "hierarchy_rows": [["a", "top"]], "embedding": {"points": None, "c": 1.0},
           "model": {"weight": torch.arange(6.0)}, "push_record": None}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "deep" / "folder" / "save_1.pth"
    save_checkpoint(path, CONTENT)
    found = load_checkpoint(path)
    assert torch.equal(found["model"].pop("weight"), CONTENT["model"]["weight"])
    assert {key: value for key, value in found.items() if key not in ("format", "model")} == {
        key: value for key, value in CONTENT.items() if key != "model"}
    assert os.listdir(path.parent) == ["save_1.pth"]


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("unexpected pos"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "save_1.pth"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def half(file):
        file.write(b"half of it")
        raise error

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError) as caught:
        write_whole(path, half)
    if not isinstance(error, KeyboardInterrupt):
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["save_1.pth"]


def test_what_cannot_be_pickled_leaves_the_old_file(tmp_path):
    path = tmp_path / "save_1.pth"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, CONTENT | {"args": threading.Lock()})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["save_1.pth"]


def test_the_target_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "val.json"

    def write(file):
        file.write(b"{")
        assert not path.exists()
        file.write(b"}")

    write_whole(path, write)
    assert path.read_bytes() == b"{}"


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_whenever_a_run_is_killed_its_newest_checkpoint_is_whole(tmp_path, kills):
    rng, content = np.random.default_rng(kills), CONTENT | {"model": {"weight": torch.rand(1 << 18)}}
    for _ in range(kills):
        child = os.fork()
        if not child:
            try:
                for i in itertools.count():
                    save_checkpoint(tmp_path / f"save_{i % 3}.pth", content | {"done": ["joint", i % 3, 0]})
            finally:
                os._exit(1)
        while not list(tmp_path.glob(f"*.{child}.part")):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = [load_checkpoint(path) for path in checkpoints_in(tmp_path)]
        assert all(torch.equal(one["model"]["weight"], content["model"]["weight"]) for one in found)
        assert newest_whole(tmp_path) == max(checkpoints_in(tmp_path), default=None)
    assert list(tmp_path.glob("*.part"))  # it was in the middle of it


def test_what_dead_processes_left_is_swept_up(tmp_path):
    """But not what a process that runs may still write, here or on another machine, nor what others call so."""
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    old = [f"save_1.pth.{dead}.part", f"val.json.{dead}.part"]
    kept = [f"save_9.pth.{os.getpid()}.part", "save_1.pth.1.part", f"film.avi.{dead}.part", "save_1.pth.part"]
    for name in (*old, *kept):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / f"save_2.pth.{dead}.part").write_bytes(b"half")  # just now
    save_checkpoint(tmp_path / "save_1.pth", CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "save_1.pth", f"save_2.pth.{dead}.part"}
    sweep(tmp_path, untouched=-1)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "save_1.pth"}
    sweep(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "results").write_text("a file where a folder is wanted")
    with pytest.raises(OSError, match="results"):
        save_checkpoint(tmp_path / "results" / "save_1.pth", CONTENT)


@pytest.mark.parametrize("content", [{"state_dict": {"conv1.weight": torch.zeros(1)}}, [1, 2], {"format": "other"}])
def test_a_foreign_file_is_told_apart(tmp_path, content):
    torch.save(content, tmp_path / "save_1.pth")
    with pytest.raises(ValueError, match="save_1.pth: .*--pretrain_path"):
        load_checkpoint(tmp_path / "save_1.pth")


@pytest.mark.parametrize("part", ["args", "hierarchy_rows", "embedding", "model", "done"])
def test_a_checkpoint_without_a_part_is_told_of_it(tmp_path, part):
    save_checkpoint(tmp_path / "save_1.pth", {key: value for key, value in CONTENT.items() if key != part})
    with pytest.raises(ValueError, match=f"save_1.pth: .*without {part}"):
        load_checkpoint(tmp_path / "save_1.pth")


@pytest.mark.parametrize(("part", "odd"), [
    *((part, odd) for part in ("args", "hierarchy_rows", "embedding", "model", "done") for odd in (3, None, "x")),
    ("embedding", {"points": None}), ("done", ["joint", "one", None]), ("done", ["sleep", 1, 0]), ("done", ["joint"])])
def test_a_checkpoint_with_another_thing_in_a_part_is_told_of_it(tmp_path, part, odd):
    save_checkpoint(tmp_path / "save_1.pth", {**CONTENT, part: odd})
    with pytest.raises(ValueError, match="save_1.pth: .*changed"):
        load_checkpoint(tmp_path / "save_1.pth")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_9.pth"):
        load_checkpoint(tmp_path / "save_9.pth")


def put(folder, name, age, done=("joint", 1, 0), content=None):
    """A checkpoint that was written `age` seconds ago."""
    save_checkpoint(folder / name, {**CONTENT, "done": list(done)})
    if content is not None:
        (folder / name).write_bytes(content)
    os.utime(folder / name, (1e9 - age, 1e9 - age))
    return folder / name


def test_the_whole_one_that_is_farthest_is_found(tmp_path):
    """Whatever the times of the files: those of a copied folder follow the alphabet."""
    assert newest_whole(tmp_path) is None and newest_whole(tmp_path / "nowhere") is None
    trunk = put(tmp_path, "trunk.pth", 0, ("trunk", 30, 4))
    assert newest_whole(tmp_path) == trunk
    nine = put(tmp_path, "save_9.pth", 20, ("last", 9, 5))
    ten = put(tmp_path, "save_10.pth", 50, ("last", 10, 5))
    assert newest_whole(tmp_path) == ten
    cut = put(tmp_path, "save_20.pth", 60, content=ten.read_bytes()[:-200])
    empty = put(tmp_path, "save_30.pth", 10, content=b"")
    assert checkpoints_in(tmp_path) == [trunk, empty, nine, ten, cut]
    with pytest.warns(RuntimeWarning, match=r"\.pth"):
        assert newest_whole(tmp_path) == ten


@pytest.mark.parametrize(("done", "wins"), [
    (("trunk", 3, 1), False), (("start", 0, 0), False), (("joint", 8, 2), False), (("last", 9, 4), False),
    (("joint", 10, 0), True)])
def test_where_a_run_was_asked_to_stop_counts_when_it_is_farther(tmp_path, done, wins):
    save = put(tmp_path, "save_9.pth", 20, ("last", 9, 5))
    put(tmp_path, "trunk.pth", 30, ("trunk", 3, 4))
    last = put(tmp_path, "last.pth", 10, done)
    assert newest_whole(tmp_path) == (last if wins else save)
    os.utime(last, (1, 1))
    assert newest_whole(tmp_path) == (last if wins else save)


def test_of_equals_the_newer_file_is_found(tmp_path):
    save, last = (put(tmp_path, name, 20, ("last", 9, 5)) for name in ("save_9.pth", "last.pth"))
    for age, found in ((10, last), (30, save)):
        os.utime(last, (1e9 - age, 1e9 - age))
        assert newest_whole(tmp_path) == found


@pytest.mark.parametrize(("done", "aside"), [
    (None, []), (("trunk", 2, 1), ["save_10.pth", "save_5.pth"]), (("start", 0, 0), ["save_10.pth", "save_5.pth"]),
    (("last", 5, 3), ["save_10.pth"]), (("joint", 7, 3), ["save_10.pth"]), (("last", 10, 3), [])])
def test_checkpoints_ahead_of_a_run_are_put_aside(tmp_path, done, aside):
    for name in ("trunk.pth", "save_5.pth", "save_10.pth", "last.pth"):
        put(tmp_path, name, 0)
    assert sorted(path.name for path in put_aside(tmp_path, done and Step(*done))) == aside
    assert sorted(path.name for path in tmp_path.glob("*.ahead")) == [f"{name}.ahead" for name in aside]
    assert len(checkpoints_in(tmp_path)) == 4 - len(aside)


def test_other_files_are_no_checkpoints(tmp_path):
    for name in ("embeddings.pth", "save_.pth", "save_3.pth.77.part", "xsave_3.pth", "save_3.json", "my_save_1.pth"):
        put(tmp_path, name, 0)
    (tmp_path / "last.pth").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "trunk.pth")
    with pytest.warns(RuntimeWarning, match=r"\.pth"):
        assert newest_whole(tmp_path) is None
