"""Temperature, calibration error and back-off against slow loops and cases worked out by hand."""

import numpy as np
import pytest
import torch
from tiny import random_tree

from evaluation.calibration import RiskCurve, calibration_error, climb, fit_temperature, information, tempered
from evaluation.recognition import Believed, hierarchical_scores, recognition_metrics
from hierarchy.tree import Hierarchy

TREE = Hierarchy.from_rows([["a", "P", "X"], ["b", "P", "X"], ["c", "Q", "X"], ["d", "R", "Y"], ["e", "R", "Y"]])


def sample(n: int, *, tree: Hierarchy = TREE, sharpness: float = 1.0, seed: int = 0):
    """Honest probabilities, the labels drawn from them, and the same probabilities made sharper."""
    generator = torch.Generator().manual_seed(seed)
    honest = (2 * torch.randn(n, tree.n_leaves, generator=generator, dtype=torch.float64)).softmax(1)
    labels = torch.multinomial(honest, 1, generator=generator)[:, 0]
    return tempered(honest, 1 / sharpness), labels


def curve_of(probs, labels, tree=TREE):
    nodes = probs @ tree.membership.double().T
    above = tree.ancestors[probs.argmax(1)]
    told = information(tree.membership.sum(1), tree.n_leaves)[above]
    return RiskCurve(nodes.gather(1, above), above == tree.ancestors[labels], told)


def slow_answer(row, tree, threshold):
    """The node above the best leaf that is sure enough, by walking; None for the root."""
    leaf = int(row.argmax())
    for node in tree.path_ids(leaf):
        if float(row[tree.leaves_below(node)].sum()) >= threshold:
            return node
    return None


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoilt_probabilities_is_found(sharpness):
    probs, labels = sample(8000, sharpness=sharpness)
    assert fit_temperature(probs, labels) == pytest.approx(sharpness, rel=0.06)
    assert fit_temperature(probs[:0], labels[:0]) == 1
    assert torch.allclose(tempered(probs, 1.0), probs)


def test_few_videos_that_are_all_right_make_no_probability_1():
    probs = torch.full((20, 4), 0.1, dtype=torch.float64)
    probs[:, 0] = 0.7
    temperature = fit_temperature(probs, torch.zeros(20, dtype=torch.int64))
    assert 0.3 < temperature < 1
    assert float(tempered(probs, temperature)[0, 0]) == pytest.approx(20.7 / 21, abs=1e-3)  # and one as sure as it says


@pytest.mark.parametrize("sure", [0.5, 0.9, 0.999, 1.0])
def test_the_temperature_of_one_video(sure):
    """Right, it counts as much as what the model said; what cannot be told, or was certain, stays. Wrong: warmer."""
    probs = torch.tensor([[sure, 1 - sure], [0.5, 0.5]], dtype=torch.float64)
    right = fit_temperature(probs[:1], torch.tensor([0]))
    assert fit_temperature(probs[1:], torch.tensor([0])) == 1
    if sure == 0.5 or sure == 1:
        assert right == 1
    else:
        assert float(tempered(probs, right)[0, 0]) == pytest.approx((1 + sure) / 2, abs=1e-3)
    assert fit_temperature(probs[:1], torch.tensor([1])) == (1 if sure == 0.5 else pytest.approx(20, abs=0.01))
    many = torch.full((1, 101), (1 - sure) / 100, dtype=torch.float64)
    many[0, 0] = sure
    assert sure == 1 or 1 < fit_temperature(many, torch.tensor([1])) < 3


def test_calibration_error_is_a_loop_over_bins():
    confidence = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = torch.rand(500, generator=torch.Generator().manual_seed(1)) < 0.6
    error, rows = calibration_error(confidence, right, bins=10)
    slow = 0.0
    for b in range(10):
        inside = (confidence >= b / 10) & (confidence < (b + 1) / 10)
        slow += float(inside.double().mean() * (confidence[inside].mean() - right[inside].double().mean()).abs())
    assert error == pytest.approx(slow) and sum(row["count"] for row in rows) == 500
    assert calibration_error(torch.ones(4), torch.ones(4, dtype=torch.bool))[0] == 0  # sure, and right
    assert calibration_error(torch.ones(4), torch.zeros(4, dtype=torch.bool))[0] == 1  # sure, and wrong


def test_calibration_error_of_honest_and_of_random_confidence():
    generator = torch.Generator().manual_seed(0)
    confidence, chance = torch.rand(2, 100_000, generator=generator, dtype=torch.float64)
    assert calibration_error(confidence, chance < confidence)[0] == pytest.approx(0, abs=0.01)
    assert calibration_error(confidence, chance < 0.5)[0] == pytest.approx(0.25, abs=0.01)  # mean of |c - .5|
    assert calibration_error(confidence, chance > confidence)[0] == pytest.approx(0.5, abs=0.01)  # mean of |2 c - 1|


def test_information_of_leaves_and_of_everything():
    assert information(torch.tensor([1, 2, 4]), 4).tolist() == pytest.approx([1, 0.5, 0])
    assert information(torch.tensor([1]), 1).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 0.9, 1.1])
def test_back_off_is_a_walk_up_the_tree(threshold):
    tree = random_tree(3, 4, 9)
    probs, _ = sample(60, tree=tree)
    nodes = probs @ tree.membership.double().T
    level = climb(nodes.gather(1, tree.ancestors[probs.argmax(1)]), threshold)
    for row, found in zip(probs, level.tolist(), strict=True):
        node = slow_answer(row, tree, threshold)
        assert found == (tree.n_levels if node is None else int(tree.level_of[node]))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_curve_is_back_off_at_every_threshold(seed):
    tree = random_tree(seed, 3, 7)
    probs, labels = sample(40, tree=tree, seed=seed)
    probs[::5] = probs[0]  # ties
    curve = curve_of(probs, labels, tree)
    told = information(tree.membership.sum(1), tree.n_leaves)
    edges = [-1.0, *curve.thresholds.tolist()[:-1], 3.0]  # beyond the last one only the root is left
    for i, (below, above) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        threshold = (below + above) / 2  # anything in between is the same to back-off
        if above - below < 1e-9:
            continue
        answers = [slow_answer(row, tree, threshold) for row in probs]
        wrong = np.mean([node is not None and node not in tree.path_ids(int(y))
                         for node, y in zip(answers, labels, strict=True)])
        assert float(curve.risk[i]) == pytest.approx(wrong)
        assert float(curve.coverage[i]) == pytest.approx(np.mean([node in tree.levels[0] for node in answers
                                                                  if node is not None] + [False] * answers.count(None)))
        assert float(curve.information[i]) == pytest.approx(
            np.mean([0 if node is None else float(told[node]) for node in answers]))
    assert curve.risk.diff().max() <= 1e-12  # climbing never makes a right answer wrong
    points = curve.points(11)
    assert points[0]["risk"] == float(curve.risk[0]) and points[0]["threshold"] == 0


def test_the_area_of_perfect_and_of_inverted_confidence():
    """Two leaves under the root. Right when sure: nothing wrong until the unsure are answered."""
    tree = Hierarchy.from_rows([["a"], ["b"]])
    top = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    probs = torch.stack([top, 1 - top], 1)
    good, bad = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])
    assert curve_of(probs, good * 0, tree).area == 0
    assert curve_of(probs, good, tree).area == pytest.approx(0.125)
    assert curve_of(probs, bad, tree).area == pytest.approx(0.375)
    top, chance = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = (1 + top) / 2
    random = curve_of(torch.stack([top, 1 - top], 1), (chance < 0.5).long(), tree)
    assert random.area == pytest.approx(0.25, abs=0.01)


def test_the_threshold_keeps_its_promise_on_other_videos():
    probs, labels = sample(20000, sharpness=2)
    accuracies = []
    for part in range(20):
        chosen, rest = slice(200 * part, 200 * part + 200), slice(4000, None)
        threshold = curve_of(probs[chosen], labels[chosen]).threshold_for(0.9)
        curve = curve_of(probs[rest], labels[rest])
        accuracies.append(1 - float(curve.risk[int((curve.thresholds < threshold).sum())]))
    assert np.mean(accuracies) == pytest.approx(0.905, abs=0.015) and min(accuracies) > 0.85


def test_too_few_videos_promise_nothing():
    probs, labels = sample(5)
    for curve in (curve_of(probs, labels), curve_of(probs[:0], labels[:0])):
        assert climb(torch.ones(1, 2, dtype=torch.float64), curve.threshold_for(0.9)).tolist() == [2]  # the root alone
    assert curve_of(probs, labels).threshold_for(0.0) == 0


def test_a_model_that_is_always_sure_and_half_the_time_wrong_answers_the_root():
    path, right = torch.ones(50, 2, dtype=torch.float64), torch.arange(50)[:, None].expand(50, 2) < 25
    threshold = RiskCurve(path, right, torch.ones(50, 2)).threshold_for(0.9)
    assert climb(path, threshold).tolist() == [2] * 50


def test_hierarchical_scores_by_hand():
    predicted, labels = torch.tensor([0, 1]), torch.tensor([0, 3])
    found = hierarchical_scores(torch.tensor([0, 0]), predicted, labels, TREE.ancestors)
    assert found == {"precision": 0.5, "recall": 0.5, "f": 0.5}
    backed = hierarchical_scores(torch.tensor([1, 3]), predicted, labels, TREE.ancestors)  # P and the root
    assert backed == {"precision": 1, "recall": pytest.approx(2 / 6), "f": pytest.approx(0.5)}
    nothing = hierarchical_scores(torch.tensor([3, 3]), predicted, labels, TREE.ancestors)
    assert nothing == {"precision": 1, "recall": 0, "f": 0}


def test_metrics_hold_together():
    probs, labels = sample(300, sharpness=3)
    names = [f"v{i:03d}" for i in range(300)]
    believed = Believed.fitted(*sample(300, sharpness=3, seed=1), TREE, 0.9)
    found = recognition_metrics(probs, labels, names, TREE, believed=believed)
    assert found["calibrated"] and found["temperature"] == pytest.approx(3, rel=0.2)
    for row in found["levels"]:
        assert row["ece_calibrated"] < row["ece"] and row["nll_calibrated"] < row["nll"]
        for kind in ("reliability", "reliability_calibrated"):
            assert sum(one["count"] for one in row[kind]) == 300
    mean = np.mean([row["accuracy"] for row in found["levels"]])  # answers and truths are whole paths
    assert list(found["hierarchical"].values()) == pytest.approx([mean] * 3)
    leaf = found["levels"][0]
    assert (leaf["name"], leaf["n_nodes"], leaf["top5"]) == ("class", 5, 1)
    assert len(found["mistakes"]) == round(300 * (1 - leaf["accuracy"]))
    assert [row["height"] for row in found["mistakes"]] == sorted((row["height"] for row in found["mistakes"]),
                                                                  reverse=True)
    confusion = np.array(found["confusion"]["counts"])
    assert confusion.sum() == 300 and np.trace(confusion) == round(300 * found["levels"][2]["accuracy"])
    by_node = {row["node"]: row for row in found["nodes"]}
    assert sum(row["n_videos"] for row in found["nodes"] if row["level"] == 1) == 300
    assert by_node["X"]["n_videos"] == confusion[0].sum() and by_node["c"]["path"] == ["c", "Q", "X"]
    answers = believed.answers(probs, TREE)
    hits = [row["node"] == "Root" or row["node"] in TREE.path(int(y)) for row, y in zip(answers, labels, strict=True)]
    assert found["backoff"]["accuracy"] == pytest.approx(np.mean(hits)) and np.mean(hits) > 0.85
    assert found["backoff"]["coverage_leaf"] == pytest.approx(np.mean([row["level"] == 0 for row in answers]))
    assert sum(found["backoff"]["answers"]) == 300
    assert all(row["probability"] >= believed.threshold for row in answers)


def test_without_calibration_nothing_is_fitted():
    believed = Believed.uncalibrated(0.8)
    assert (believed.temperature, believed.threshold, believed.calibrated) == (1, 0.8, False)
    probs = torch.tensor([[0.85, 0.15, 0, 0, 0], [0.5, 0.4, 0.1, 0, 0], [0.3, 0, 0.2, 0.25, 0.25]])
    rows = believed.answers(probs, TREE)
    assert [(row["node"], row["level"]) for row in rows] == [("a", 0), ("P", 1), ("Root", 3)]
    assert rows[1]["probability"] == pytest.approx(0.9) and rows[2]["probability"] == 1


def test_one_video_of_a_class_nobody_else_has():
    found = recognition_metrics(torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1]]), torch.tensor([0]), ["v"], TREE,
                                believed=Believed())
    assert found["severity"] is None and found["mistakes"] == []
    assert [row["accuracy"] for row in found["nodes"]].count(None) == len(TREE) - 3
