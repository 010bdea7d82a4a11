"""What the demo recomputes from files, on models and files whose answer is known."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from datasets.video import Video
from evaluation.localisation import Tube
from models.geometry import cell_centre
from util_scripts import demo

EVENT = [Tube(4, np.array([[30.0, 10, 12, 12]] * 8))]


class BrightTrunk(nn.Module):
    """One cell of 4 frames and 8 x 8 pixels sees how bright it is."""

    stride, out_channels = (4, 8, 8), 1

    def forward(self, clips):
        return nn.functional.avg_pool3d(clips.mean(1, keepdim=True), self.stride)


class BrightModel:
    """Class 1 is brightness, class 0 its absence."""

    trunk, offset = BrightTrunk(), (1, 3, 3)

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
    monkeypatch.setattr(demo, "JpegFolder", Frames)
    explanation = {"window": [0, 16], "crop": [0, 0, 64, 64]}
    peak = demo.grad_cam_peak(BrightModel(), Video("v", None, 1, "validation", 16, (0, 16)), explanation, 1, 64)
    cell = torch.tensor(2 * 64 + 1 * 8 + 4)
    assert peak == tuple(cell_centre(cell, (4, 8, 8), (4, 8, 8), (16, 64, 64), (1, 3, 3)).tolist()) == (9, 11, 35)


def explanation(name, right, peak):
    return name, {"prediction": ["a" if right else "b"], "truth": "a", "window": [0, 16], "crop": [0, 0, 64, 64],
                  "levels": [{"prototypes": [{"peak": peak}, {"peak": [5, 15, 35]}]}]}


def test_pointing_counts_the_first_prototype_of_correct_videos(monkeypatch):
    monkeypatch.setattr(demo, "grad_cam_peak", lambda *_: (0, 0, 0))
    explanations = dict([explanation("hit", True, [5, 15, 35]), explanation("late", True, [13, 15, 35]),
                         explanation("wrong", False, [5, 15, 35]), explanation("beside", True, [5, 15, 60])])
    videos = [Video(name, None, 0, "validation", 16, (0, 16)) for name in explanations]
    found = demo.pointing(None, videos, explanations, dict.fromkeys(explanations, EVENT), 64)
    assert found["pointing"] == found["pointing_strict"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["pointing_grad_cam"] == 0
    assert found["pointing_random"] == pytest.approx(8 / 16 * 144 / 4096, abs=1e-4)


def test_a_demo_begins_afresh_over_another_one_and_over_nothing_else(tmp_path, monkeypatch, capsys):
    def begin(*command):
        raise ValueError("begun")

    monkeypatch.setattr(demo, "run", begin)
    for part, said in (("videos", "begun"), ("results", "begun"), ("holiday.mov", "holiday.mov")):
        (tmp_path / part).mkdir()
        monkeypatch.setattr("sys.argv", ["demo", str(tmp_path)])
        with pytest.raises(ValueError, match=said):
            demo.main()
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
    assert demo.on_event(rows, {"v": EVENT}, 3) == 0.5
    assert demo.on_event([], {}, 3) == 0
