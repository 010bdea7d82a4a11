"""Accuracies of a result file by level, by the script's own command line."""

import json

import pytest
from preparing import CLASSES, ROWS, quits

from util_scripts import eval_accuracy


@pytest.fixture
def results(tmp_path):
    """Four validation videos: right; a sibling before the right one; a class far away; missing. One training video."""
    truth = {"v1": "YoYo", "v2": "YoYo", "v3": "YoYo", "v4": "PlayingGuitar"}
    database = {name: {"subset": "validation", "annotations": {"label": label, "segment": [1, 2]}}
                for name, label in truth.items()}
    database["t1"] = {"subset": "training", "annotations": {"label": "YoYo", "segment": [1, 2]}}
    (tmp_path / "a.json").write_text(json.dumps({"labels": CLASSES, "database": database}))
    guesses = {"v1": [("YoYo", 0.9)], "v2": [("YoYo", 0.3), ("HandstandPushups", 0.6)], "v3": [("PlayingGuitar", 0.8)],
               "t1": [("HandstandPushups", 1)]}
    (tmp_path / "val.json").write_text(json.dumps({
        "results": {name: [{"label": label, "score": score} for label, score in found]
                    for name, found in guesses.items()},
        "tree": {row[0]: row for row in ROWS}}))
    return tmp_path / "a.json", tmp_path / "val.json"


def accuracies(capsys, *argv) -> dict[str, float]:
    capsys.readouterr()
    eval_accuracy.main([str(arg) for arg in argv])
    lines = capsys.readouterr().out.splitlines()
    return {name: float(value) for name, _, value in (line.partition(": ") for line in lines) if value}


@pytest.mark.parametrize("subset", ["val", "validation"])
def test_accuracies_by_level(results, capsys, subset):
    found = accuracies(capsys, *results, "--subset", subset, "-k", 1, "--ignore")
    assert found == {"class accuracy": 0.3333, "sibling accuracy": 0.6667, "cousin accuracy": 0.6667,
                     "error rate": 0.6667}


def test_missing_videos_are_wrong_unless_ignored(results, capsys):
    assert accuracies(capsys, *results) == {"class accuracy": 0.25, "sibling accuracy": 0.5, "cousin accuracy": 0.5,
                                            "error rate": 0.75}
    eval_accuracy.main([*map(str, results)])
    assert "1 videos are missing" in capsys.readouterr().out
    eval_accuracy.main([*map(str, results), "--ignore"])
    assert "left out" in capsys.readouterr().out


def test_any_of_the_k_best(results, capsys):
    found = accuracies(capsys, *results, "-k", 2, "--ignore")
    assert (found["class accuracy"], found["sibling accuracy"]) == (0.6667, 0.6667)
    assert accuracies(capsys, *results, "--subset", "train")["class accuracy"] == 0


def test_the_tree_may_come_from_a_file_of_any_depth(results, tmp_path, capsys):
    (tmp_path / "tree.csv").write_text("".join(f"{row[0]},P{row[0][0]},G,Top,All,Root\n" for row in ROWS))
    found = accuracies(capsys, *results, "--tree_file", tmp_path / "tree.csv", "--ignore")
    assert found == {"class accuracy": 0.3333, "sibling accuracy": 0.3333, "cousin accuracy": 1, "level 3 accuracy": 1,
                     "level 4 accuracy": 1, "error rate": 0.6667}


def test_evaluation_errors_are_one_sentence(results, tmp_path, capsys):
    annotation, result = results
    call = eval_accuracy.main
    assert "vall" in quits(capsys, call, *results, "--subset", "vall")
    assert "--subset" in quits(capsys, call, *results, "--subset", "test")
    assert "nowhere.json" in quits(capsys, call, annotation, tmp_path / "nowhere.json")
    assert "nowhere.json" in quits(capsys, call, tmp_path / "nowhere.json", result)
    assert "no \"results\"" in quits(capsys, call, annotation, annotation)
    assert "-k" in quits(capsys, call, *results, "-k", 0)
    result.write_text('{"results": {"v1": [{"label": "YoYo", "score": 1}]}}')
    assert "--tree_file" in quits(capsys, call, *results)
    tree = {"tree": {row[0]: row for row in ROWS}}
    result.write_text(json.dumps({"results": {"v1": [{"label": "YoYoo", "score": 1}]}} | tree))
    assert "YoYo" in quits(capsys, call, *results)
    result.write_text(json.dumps({"results": {"v1": [{"label": "YoYo"}]}} | tree))
    assert "score" in quits(capsys, call, *results)
