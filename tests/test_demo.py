"""What the demo recomputes from files, on models and files whose answer is known, and a small demo from end to end."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from datasets.video import Video
from evaluation.localisation import Tube
from models.geometry import cell_centre
from util_scripts import demo, demo_measures, demo_summary

EVENT = [Tube(4, np.array([[30.0, 10, 12, 12]] * 8))]


class BrightTrunk(nn.Module):
    """One cell of 4 frames and 8 x 8 pixels sees how bright it is."""

    stride, offset, out_channels = (4, 8, 8), (1, 3, 3), 1

    def forward(self, clips):
        return nn.functional.avg_pool3d(clips.mean(1, keepdim=True), self.stride)


class BrightModel:
    """Class 1 is brightness, class 0 its absence."""

    trunk = BrightTrunk()

    def pooled_log_probs(self, features):
        logit = features.mean((2, 3, 4))
        return torch.cat((-logit, logit), 1).log_softmax(1)


class Frames:
    """A folder of frames that is nothing but a bright spot on the event."""

    def frames(self, path, frames):
        pixels = torch.zeros(len(frames), 64, 64, 3, dtype=torch.uint8)
        pixels[8:12, 8:16, 32:40] = 255
        return pixels


def test_grad_cam_peaks_at_the_bright_cell(monkeypatch):
    monkeypatch.setattr(demo_measures, "JpegFolder", Frames)
    explanation = {"window": [0, 16], "crop": [0, 0, 64, 64]}
    clip = demo_measures.window_of(Video("v", None, 1, "validation", 16, (0, 16)), explanation, 64)
    peak = demo_measures.grad_cam_peak(BrightModel(), clip, explanation, 1)
    cell = torch.tensor(2 * 64 + 1 * 8 + 4)
    assert peak == tuple(cell_centre(cell, (4, 8, 8), (4, 8, 8), (16, 64, 64), (1, 3, 3)).tolist()) == (9, 11, 35)


def explanation(name, right, peak):
    return name, {"prediction": ["a" if right else "b"], "truth": "a", "window": [0, 16], "crop": [0, 0, 64, 64],
                  "levels": [{"prototypes": [{"peak": peak}, {"peak": [5, 15, 35]}]}]}


def test_pointing_counts_the_first_prototype_of_correct_videos(monkeypatch):
    monkeypatch.setattr(demo_measures, "grad_cam_peak", lambda *_: (0, 0, 0))
    explanations = dict([explanation("hit", True, [5, 15, 35]), explanation("late", True, [13, 15, 35]),
                         explanation("wrong", False, [5, 15, 35]), explanation("beside", True, [5, 15, 60])])
    videos = [Video(name, None, 0, "validation", 16, (0, 16)) for name in explanations]
    found = demo_measures.pointing(None, videos, [None] * 4, explanations, dict.fromkeys(explanations, EVENT))
    assert found["pointing"] == found["pointing_strict"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["pointing_grad_cam"] == 0
    assert found["pointing_random"] == pytest.approx(8 / 16 * 144 / 4096, abs=1e-4)


def test_a_demo_begins_afresh_over_another_one_and_over_nothing_else(tmp_path, monkeypatch):
    def begin(*command):
        raise ValueError("begun")

    monkeypatch.setattr(demo, "run", begin)
    for part, said in (("videos", "begun"), ("results", "begun"), ("holiday.mov", "holiday.mov")):
        (tmp_path / part).mkdir()
        with pytest.raises(ValueError, match=said):
            demo.main([str(tmp_path)])
    assert not (tmp_path / "videos").exists() and (tmp_path / "holiday.mov").exists()


@pytest.mark.parametrize("n_wrong", [0, 2, 9])
def test_the_worst_mistakes_and_others_are_drawn(tmp_path, n_wrong):
    names = [f"v{i}" for i in range(20)]
    wrong = names[::-1][:n_wrong]
    (tmp_path / "metrics.json").write_text(json.dumps({"mistakes": [{"video": name} for name in wrong]}))
    (tmp_path / "val.json").write_text(json.dumps({"results": dict.fromkeys(names, [])}))
    drawn = demo.pictured(tmp_path)
    assert drawn[:min(n_wrong, 4)] == wrong[:4] and len(set(drawn)) == len(drawn) == min(n_wrong, 4) + 4
    others = [int(name[1:]) for name in drawn[min(n_wrong, 4):]]
    assert not set(drawn[-4:]) & set(wrong) and len({b - a for a, b in zip(others[:-1], others[1:], strict=True)}) == 1


def test_prototypes_on_the_event_are_those_of_classes_that_were_pushed():
    rows = [{"node": ["a", "A", "X"], "video": "v", "peak": [5, 15, 35]},
            {"node": ["a", "A", "X"], "video": "v", "peak": [5, 40, 35]},
            {"node": ["b", "A", "X"], "video": None},
            {"node": ["A", "X"], "video": "v", "peak": [5, 15, 35]}]
    assert demo_measures.centred_on_event(rows, {"v": EVENT}, 3) == 0.5
    assert demo_measures.centred_on_event([], {}, 3) == 0


def test_figures_of_a_level_are_medians_and_means():
    one = {"own_evidence": 2.0, "total_evidence": 3.0, "descendants_evidence": 0.5, "elsewhere_evidence": -0.1,
           "silenced": 1.0, "silenced_three": 2.0, "flips": 1.0, "flips_three": 1.0, "similarity": 0.9,
           "nearest_own": 1.0}
    other = one | {"total_evidence": -1.0, "silenced": 7.0, "flips": 0.0, "closer_than": 0.5, "own_needed": 0.25}
    found = demo_measures.decided([one, one, other])
    assert found["off_path"] == pytest.approx(3 * 0.4 / 7, abs=1e-4)
    assert (found["silenced"], found["flips"], found["closer_than"], found["own_needed"]) == (1, 0.6667, 0.5, 0.25)
    assert found["silenced_needed"] is None and found["typical"] is None
    elsewhere = {name for name, _ in demo_summary.OF_LEVELS} - set(found)
    assert elsewhere <= {"accuracy", "softmax_head_accuracy", "pointing", "prototypes_on_event", "calibration_error",
                         "accuracy_lost_at_push"}


def test_pointing_at_a_level_counts_the_nodes_that_are_right():
    def of(node, peak, level=1):
        return {"levels": [{"level": level, "node": node, "prototypes": [{"peak": peak}]}]}

    explanations = {"hit": of("A", [5, 15, 35]), "beside": of("A", [5, 15, 60]), "wrong": of("B", [5, 15, 35]),
                    "other": of("a", [5, 15, 35], level=0)}
    found = demo_measures.points_at_level(explanations, 1, dict.fromkeys(explanations, EVENT),
                                 dict.fromkeys(explanations, ("a", "A")))
    assert found == {"explained": 3, "pointing": 0.5}


def test_accuracy_around_the_push(tmp_path):
    log = tmp_path / "metrics.jsonl"
    events = [("val", "trunk", 0.1), ("val", "warm", 0.9), ("push", "push", 0), ("val", "push", 0.7),
              ("val", "last", 0.8), ("push", "push", 0), ("val", "push", 0.5), ("last", "last", 0.2),
              ("val", "last", 0.75)]
    log.write_text("".join(json.dumps({"event": event, "done": [kind, 1, 0], "top1": top1, "level_1": 1 - top1}) + "\n"
                           for event, kind, top1 in events))
    assert demo_measures.lost_at_push(log, 1) == [0.05]
    assert demo_measures.lost_at_push(log, 2) == [0.05, -0.05]
    log.write_text(json.dumps({"event": "push", "done": ["push", 1, 0]}) + "\n")
    assert demo_measures.lost_at_push(log, 2) is None


def test_a_wrong_class_never_shows_the_same_way():
    def of(right, source):
        return {"prediction": ["a" if right else "b"], "truth": "a", "levels": [{"prototypes": [
            {"source": None if source is None else {"video": source}}]}]}

    explanations = {"one": of(True, "x"), "two": of(True, "y"), "wrong": of(False, "x"), "none": of(True, None)}
    videos = [Video(name, None, 0, "validation", 16, (0, 16)) for name in explanations]
    ways = {"x": 0, "y": 1} | dict.fromkeys(explanations, 0)
    assert demo_measures.same_way(videos, explanations, ways) == 0.25
    assert demo_measures.same_way(videos, explanations, {}) is None


def test_flags_behind_two_dashes_are_main_s(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *words: calls.append([str(word) for word in words]))
    with pytest.raises(FileNotFoundError):  # no checkpoint
        demo.main([str(tmp_path), "--seed", "2", "--ways", "2", "--", "--score", "hyperbolic", "--T", "1"])
    made, main = calls[0], calls[3]
    assert main[0] == "main.py" and main[-4:] == ["--score", "hyperbolic", "--T", "1"]
    assert made[made.index("--ways") + 1] == "2" and "--way_share" not in made
    with pytest.raises(ValueError, match="--result_path"):
        demo.main([str(tmp_path), "--", "--result_path=x"])
    with pytest.raises(SystemExit) as ended:
        demo.main([str(tmp_path), "--score", "tree"])
    assert ended.value.code == 2


@pytest.mark.slow
def test_a_small_demo_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Of two ways: every figure is there, and what explanation.json tells, too, is the same."""
    out, run = tmp_path / "demo", demo.run

    def smaller(*words):
        run(*words, *(("--n_train_groups", "2", "--n_test_groups", "1", "--frames", "20")
                      if "util_scripts.make_demo_dataset" in words else ()))

    monkeypatch.setattr(demo, "run", smaller)
    demo.main([str(out), "--seed", "3", "--ways", "2", "--", "--trunk_epochs", "1", "--warm_epochs", "1",
               "--n_epochs", "1", "--tune_iterations", "3", "--no_img"])
    summary = json.loads((out / "summary.json").read_text())
    assert [level["name"] for level in summary["levels"]] == ["class", "parent", "grandparent"]
    for level in summary["levels"]:
        assert {name for name, _ in demo_summary.OF_LEVELS} <= set(level) and level["softmax_head_accuracy"] is not None
        assert level["explained"] == 48
    assert {name for name, _ in demo_summary.MEANING} <= set(summary) and summary["test_videos"] == 48
    assert summary["levels"][0]["accuracy"] == summary["top1"]
    for folder, levels in (("local_analysis", [0]), ("local_analysis_parents", [1, 2])):
        told = [json.loads(file.read_text()) for file in (out / "results" / folder).glob("*/explanation.json")]
        assert len(told) == 48
        for i, number in enumerate(levels):
            first = [explanation["levels"][i]["prototypes"][0] for explanation in told]
            level = summary["levels"][number]
            assert np.median([one["contribution"] for one in first]) == pytest.approx(level["silenced"], abs=1e-4)
            assert np.median([one["similarity"] for one in first]) == pytest.approx(level["similarity"], abs=1e-4)
            assert np.mean([one["closer_than"] for one in first]) == pytest.approx(level["closer_than"], abs=1e-4)
            shares = [explanation["levels"][i]["shares"] for explanation in told]
            off = sum(abs(one["descendants"] + one["elsewhere"]) for one in shares)
            assert off / sum(abs(one["total"]) for one in shares) == pytest.approx(level["off_path"], abs=1e-3)
    words = capsys.readouterr().out
    assert "nearer to it than" in words and "grandparent" in words and str(out / "summary.json") in words
