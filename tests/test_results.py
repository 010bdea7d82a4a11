"""What benchmarks.results trains is what it says, and its tables stand where they should."""

from pathlib import Path

import pytest
import torch
from program import DATA, MODEL, call
from tiny import random_tree

from benchmarks import result_tables, results
from benchmarks.ancestors import firing
from benchmarks.runs import WEIZMANN, WEIZMANN_SCHEDULE
from options.flags import parse_main
from options.recipes import PAPER, RECIPES
from options.resolve import resolve
from util_scripts.demo_flags import TRAINING

LINES = {"demo": ["--root_path", "demo", "--video_path", "jpg", *TRAINING.split(), "--n_val_samples", "4"],
         "weizmann": [*WEIZMANN.format(annotation="a.json").split(), *WEIZMANN_SCHEDULE.split()]}


@pytest.fixture
def called(monkeypatch):
    """The command lines that a driver would run, resolved."""
    seen = []

    def note(script, *words):
        assert script == "main.py"
        args, _ = parse_main([str(word) for word in words])
        args = resolve(args)
        seen.append(args)
    monkeypatch.setattr(results, "python", note)
    monkeypatch.setattr(results, "newest_whole", lambda folder: folder / "save_1.pth")
    return seen


@pytest.mark.parametrize("name", LINES)
def test_published_and_ours_start_from_one_trunk(name, called, tmp_path):
    for method in results.COLUMNS[1:]:
        path = results.train(name, method, LINES[name], Path("trunk.pth"), 2, tmp_path, 3.0, 2)
        assert path.parent.parent == tmp_path and "_2_3_2" in path.parent.name
    published, ours = called
    assert published.pretrain_path == ours.pretrain_path == "trunk.pth"
    assert published.trunk_epochs == ours.trunk_epochs == 0
    assert {flag: getattr(published, flag) for flag in PAPER} == PAPER and published.paper and not ours.paper
    assert published.learning_rate == pytest.approx(3 * RECIPES["pretrained"]["learning_rate"])
    assert ours.warm_learning_rate == pytest.approx(3 * RECIPES["scratch"]["warm_learning_rate"])
    assert (ours.optimizer, published.optimizer) == ("adamw", "sgd")
    schedule = results.SCHEDULES[name]
    assert (ours.warm_epochs, ours.n_epochs) == tuple(2 * n for n in schedule.ours)
    assert (published.warm_epochs, published.n_epochs) == tuple(2 * n for n in schedule.paper)
    for flag in ("model_depth", "resnet_widen_factor", "sample_size", "batch_size", "spatial_strides"):
        assert getattr(published, flag) == getattr(ours, flag), flag
    assert published.temporal_strides != ours.temporal_strides


@pytest.mark.parametrize("name", LINES)
def test_the_softmax_head_has_as_many_epochs_of_the_trunk_as_ours(name, called, tmp_path):
    results.train(name, "ours", LINES[name], Path("trunk.pth"), 1, tmp_path, *results.CHOSEN[name, "ours"])
    epochs = results.softmax_epochs(name, LINES[name])
    assert epochs == results.trunk_epochs(LINES[name]) + called[0].n_epochs - called[0].warm_epochs
    assert results.softmax(LINES[name], epochs, tmp_path) == tmp_path / "trunk.pth"
    assert (called[1].trunk_epochs, called[1].n_epochs) == (epochs, 0)


def test_a_table_has_a_row_a_figure_and_a_column_a_method():
    found = {"softmax head": [{"accuracy": 0.5}, {"accuracy": 1.0}],
             "ours": [{"accuracy": 1.0, "pointing": 0.25}, {"accuracy": 1.0, "pointing": None}]}
    assert result_tables.table(result_tables.cells(found)).splitlines() == [
        "| | softmax head | ours |", "| --- | --- | --- |",
        "| accuracy | 0.750 (0.500 to 1.000) | 1.000 (1.000 to 1.000) |",
        f"| pointing | {result_tables.DASH} | 0.250 |"]


def test_tables_replace_those_of_an_earlier_call(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nBefore.\n")
    result_tables.put(page, "one")
    page.write_text(page.read_text() + "\nAfter.\n")
    result_tables.put(page, "two")
    text = page.read_text()
    assert text.startswith("# Results\n\nBefore.\n\n") and text.endswith("\nAfter.\n")
    assert "two" in text and "one" not in text
    assert [text.count(mark) for mark in result_tables.MARKS] == [1, 1]


@pytest.mark.parametrize("pooled", [False, True])
def test_recognition_of_a_checkpoint(whole, pooled):
    path = whole / ("trunk.pth" if pooled else "save_3.pth")
    found = results.recognition(path, pooled=pooled)
    assert {"accuracy, class", "accuracy, grandparent", "severity of mistakes", "calibration error, class",
            "the same, best temperature, parent"} <= set(found)
    assert all(0 <= value <= 1 for name, value in found.items() if name != "severity of mistakes")


def test_firing_of_known_prototypes():
    """The first prototype of an ancestor fires on all its leaves, the second on one of them alone."""
    tree = random_tree(0, 2, 6)
    node = max(tree.levels[1], key=lambda node: len(tree.children(node)))
    below = tree.leaves_below(node)
    assert 1 < len(below) < 6
    labels = torch.arange(6).repeat(3)
    activations = torch.zeros(18, 2)
    activations[torch.isin(labels, below), 0] = 2.0
    activations[labels == below[0], 1] = 2.0
    shared, even = firing(activations, labels, tree, torch.tensor([node, node]))
    assert shared.tolist() == [1, 0] and even.tolist() == [1, 0]


@pytest.mark.slow
def test_all_three_are_trained_and_measured_and_nothing_twice(data, tmp_path, monkeypatch, capsys):
    calls = []

    def run(script, *words):
        calls.append(script)
        call(*map(str, words), "--no_cuda --n_threads 0")

    line = [*DATA.split(), *MODEL.split(), "--root_path", str(data), "--batch_size", "6", "--trunk_epochs", "1",
            "--no_img", "--val_every", "9", "--inference_stride", "4", "--temporal_strides", "1", "2", "2", "1", "1"]
    schedule = results.Schedule((1, 2), (1, 3), "1 2 2 2 2", "--push_start 2")
    monkeypatch.setattr(results, "python", run)
    monkeypatch.setattr(results, "demo_data", lambda folder, seed: [*line, "--manual_seed", str(seed)])
    monkeypatch.setitem(results.SCHEDULES, "demo", schedule)
    monkeypatch.setattr(results, "CHOSEN", dict.fromkeys(results.CHOSEN, (1.0, 1)))
    words = ["--work", str(tmp_path), "--seeds", "3", "--videos", "2", "--steps", "2", "--methods", "grad_cam",
             "--n_threads", "0", "--page", str(tmp_path / "RESULTS.md"), "--out", str(tmp_path / "tables")]
    results.main(words)
    text = (tmp_path / "RESULTS.md").read_text()
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:5]]
            for row in text.splitlines() if row.startswith("| ")}
    assert all(rows["accuracy, class"]) and all(rows["calibration error, grandparent"])
    assert all(rows["insertion ↑: grad cam, class"]) and all(rows["deletion ↓: random, class"])
    prototypes = rows["box_only ↑: top prototype, grandparent"]
    assert prototypes[0] == result_tables.DASH and prototypes[1] != result_tables.DASH != prototypes[2]
    assert rows["deletion ↓: top prototype by grad cam, class"][2] != result_tables.DASH
    assert rows["sharing ↑, over prototypes: prototypes, parent"][2]
    n_calls = len(calls)
    results.main(words)
    assert len(calls) == 2 * n_calls  # main.py says that there is nothing left
    assert (tmp_path / "RESULTS.md").read_text() == text
