"""A checkpoint of which others left parts out: what is left is used, and one line tells what begins afresh."""

import json

import pytest
import torch
from program import CALL, assert_same, call, explain_classes, refused

from training.checkpoint import load_checkpoint


@pytest.fixture
def stripped(whole, tmp_path):
    """A function that writes a copy of a checkpoint without some parts, or in half precision."""
    def strip(*parts: str, half: bool = False):
        content = {key: value for key, value in load_checkpoint(whole / "save_2.pth").items() if key not in parts}
        if half:
            content["model"] = {key: value.half() if value.is_floating_point() else value
                                for key, value in content["model"].items()}
        torch.save(content, tmp_path / "save_2.pth")
        return tmp_path / "save_2.pth"
    return strip


def test_inference_works_without_optimisers_and_random_states(stripped, tmp_path, capsys):
    path = stripped("optimizers", "rng", "push_record")
    call("--resume_path", path, "--no_train --no_val --inference", CALL)
    assert "begin afresh" not in capsys.readouterr().err
    assert len(json.loads((tmp_path / "val.json").read_text())["results"]) == 4
    explain_classes("--resume_path", path, "--n_videos", 1, "--no_img")


@pytest.mark.parametrize(("parts", "words"), [
    (("optimizers",), ["optimisers"]), (("rng",), ["random states"]),
    (("optimizers", "rng", "counts", "head_given", "normalisation"), ["optimisers", "random states"])])
def test_training_goes_on_with_what_begins_afresh(stripped, tmp_path, capsys, parts, words):
    call("--resume_path", stripped(*parts), CALL)
    lines = [line for line in capsys.readouterr().err.splitlines() if "begin afresh" in line]
    assert len(lines) == 1 and "save_2.pth" in lines[0] and all(word in lines[0] for word in words)
    found = load_checkpoint(tmp_path / "save_3.pth")
    assert found["done"][:2] == ["last", 3] and found["optimizers"] and "cpu" in found["rng"]


def test_the_rest_of_a_run_is_the_same_without_what_it_does_not_use(whole, stripped, tmp_path):
    """What is drawn in training is a function of seed and step; only optimisers have a memory."""
    call("--resume_path", stripped("rng"), CALL)
    one, other = (load_checkpoint(folder / "save_3.pth") for folder in (tmp_path, whole))
    for key, value in other["model"].items():
        assert torch.equal(one["model"][key], value), key


def test_half_a_checkpoint_is_used(stripped, tmp_path):
    path = stripped(half=True)
    call("--resume_path", path, CALL)
    assert all(value.dtype != torch.float16 for value in load_checkpoint(tmp_path / "save_3.pth")["model"].values())


@pytest.mark.parametrize(("part", "value"), [
    ("optimizers", {"joint": 3}), ("optimizers", [1]), ("rng", {"cpu": torch.zeros(3)}),
    ("rng", {"cpu": "x"}), ("push_record", {"video": []}), ("hierarchy_rows", [["a"], 3]), ("counts", "x"),
    ("args", {"model": "nothing"})])
def test_odd_parts_are_one_sentence(stripped, tmp_path, capsys, part, value):
    path = stripped()
    torch.save({**load_checkpoint(path), part: value}, path)
    assert "save_2.pth" in refused(capsys, "--resume_path", path, CALL)


def test_nothing_stripped_is_nothing_changed(whole, stripped, tmp_path):
    call("--resume_path", stripped(), CALL)
    assert_same(tmp_path / "save_3.pth", whole / "save_3.pth")
