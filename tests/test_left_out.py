"""Branches that are left out of training, and scores by which their videos are told from known ones."""

import json

import pytest
import torch

from benchmarks.left_out import leave_out
from benchmarks.unseen import Windows, head_scores, quality
from datasets.annotation import read_annotated_videos
from hierarchy.tree import Hierarchy

ROWS = [("A", "P", "G"), ("B", "P", "G"), ("C", "Q", "G"), ("D", "R", "H"), ("E", "S", "H")]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "hierarchy.csv").write_text("".join(",".join((*row, "Root")) + "\n" for row in ROWS))
    database = {f"v_{leaf}_g0{group}_c01": {"subset": subset, "annotations": {"label": leaf, "segment": [1, 9]}}
                for leaf, *_ in ROWS for group, subset in ((1, "training"), (2, "validation"))}
    (tmp_path / "a.json").write_text(json.dumps({"labels": [row[0] for row in ROWS], "database": database}))
    return tmp_path


@pytest.mark.parametrize(("branches", "begins"), [
    (["A"], {"A": 0}), (["Q"], {"C": 1}), (["H"], {"D": 2, "E": 2}), (["A", "B"], {"A": 1, "B": 1}),
    (["A", "Q", "H"], {"A": 0, "C": 1, "D": 2, "E": 2}), (["R", "S"], {"D": 2, "E": 2})])
def test_what_is_left_out_and_where_the_unseen_begins(data, branches, begins):
    split = leave_out(data, "a.json", branches, data / "split")
    assert split.unseen == tuple(begins) and set(split.known) == {row[0] for row in ROWS} - set(begins)
    assert split.begins == {f"v_{leaf}_g02_c01": level for leaf, level in begins.items()}
    tree = Hierarchy.from_csv(split.folder / "hierarchy.csv")
    assert set(tree.names[:tree.n_leaves]) == set(split.known)
    known, unseen = (json.loads((split.folder / f"{name}.json").read_text()) for name in ("known", "unseen"))
    assert set(known["labels"]) == set(split.known) and len(known["database"]) == 2 * len(split.known)
    assert set(unseen["database"]) == set(split.begins)
    assert all(entry["annotations"]["label"] is None for entry in unseen["database"].values())
    for video in split.begins:  # still in the folder of its class
        (data / "jpg" / video[2] / video).mkdir(parents=True, exist_ok=True)
    found = read_annotated_videos(split.folder / "unseen.json", data / "jpg", tree)
    assert list(found.names) == list(split.begins) and set(found.labels) == {-1}


@pytest.mark.parametrize(("branches", "word"), [(["Nothing"], "Nothing"), (["G", "H"], "no class")])
def test_wrong_branches_are_told(data, branches, word):
    with pytest.raises(ValueError, match=word):
        leave_out(data, "a.json", branches, data / "split")


def test_quality_of_perfect_inverted_and_random_scores():
    known, unseen = torch.arange(100).double(), torch.arange(100, 200).double()
    assert quality(known, unseen) == (1.0, 0.0)
    assert quality(unseen, known) == (0.0, 1.0)
    area, alarms = quality(known, known)
    assert area == pytest.approx(0.5) and alarms == pytest.approx(0.95)
    infinite = torch.full((100,), torch.inf, dtype=torch.float64)
    assert quality(known, infinite) == (1.0, 0.0)


def test_scores_of_the_head_know_known_answers():
    """Videos of a training class, and videos far from all, of two windows each of which one is far."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.eye(3, 8)
    labels = torch.arange(30) % 3
    training = centres[labels] + 0.3 * torch.randn(30, 8, generator=generator)
    near, far = centres[torch.tensor([0, 1, 2, 0])], -centres[torch.tensor([0, 1, 2, 0])]
    features = torch.cat((near, far)).repeat_interleave(2, 0)
    features[1::2] = -3  # a window without the event, which is strange in all videos

    def windows(features, video):
        logits = features @ centres.T
        return Windows(video, torch.zeros(len(features), 3), torch.zeros(len(features), 3), features, logits,
                       int(video.max()) + 1)
    scores = head_scores(windows(features, torch.arange(8).repeat_interleave(2)),
                         windows(training, torch.arange(30)), labels)
    assert set(scores) == {"softmax confidence", "energy", "feature distance, classes", "feature distance, clips"}
    for name, score in scores.items():
        assert score.shape == (8,) and quality(score[:4], score[4:])[0] == 1.0, name
