"""Predictions pooled over the clips of videos, accuracies over them, and the published form of results."""

import pytest
import torch
from tiny import noise_batch, random_tree, small_hipe

from datasets.video import Video
from run.predict import evaluate, predict, results_json
from training.features import valid_clips

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return small_hipe(random_tree(4, 3, 5))


@torch.no_grad()
@pytest.mark.parametrize("pooled", [False, True])
def test_predictions_are_pooled_over_the_clips_of_a_video(model, pooled):
    """Three videos of 2, 2 and 1 clips; one clip cannot be read, and nor can the last video."""
    made = [noise_batch([0, 0, 3]), noise_batch([3, 4], first=3)]
    made[0]["video"], made[1]["video"] = torch.tensor([0, 0, 1]), torch.tensor([1, 2])
    made[0]["valid"][1] = made[1]["valid"][1] = False
    pool = predict(model, made, 3, device=CPU, pooled=pooled)
    clips = torch.cat([batch["clip"] for batch in valid_clips(made, CPU)])
    if pooled:
        probs = model.node_log_probs(model.pooled_log_probs(model.eval().trunk(clips))).exp()
    else:
        probs = model.eval()(clips).log_probs.exp()
    assert pool.count.tolist() == [1, 2, 0]
    torch.testing.assert_close(pool.probs[0].float(), probs[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pool.probs[1].float(), probs[1:].mean(0), atol=1e-5, rtol=1e-4)

    scores = evaluate(model, made, torch.tensor([0, 3, 4]), device=CPU, pooled=pooled)
    assert set(scores) == {"loss", "top1", "top5", "level_1", "level_2", "own_argmax_1", "own_argmax_2", "severity",
                           "videos"} and scores["videos"] == 2
    expected = -(pool.probs[0, 0].log() + pool.probs[1, 3].log()) / 2
    assert scores["loss"] == pytest.approx(float(expected), rel=1e-5) and scores["top5"] == 1

    sharpened = probs[1:, :5].double().pow(4).sum(0)
    found = predict(model, made, 3, device=CPU, pooled=pooled, power=4.0).probs[1]
    torch.testing.assert_close(found[:5], sharpened / sharpened.sum(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, model.membership.double() @ found[:5])


def test_nothing_readable_cannot_be_validated(model):
    batch = noise_batch([0, 1])
    batch["valid"][:] = False
    with pytest.raises(ValueError, match="--no_val"):
        evaluate(model, [batch], torch.tensor([0, 1]), device=CPU)


class Windows:
    """What results_json asks of a dataset: the frames of an item."""

    @staticmethod
    def item_frames(item):
        return torch.arange(10 * item, 10 * item + 8)


@torch.no_grad()
def test_results_have_the_published_form(model):
    tree = random_tree(4, 3, 5)
    made = [noise_batch([0, 0, 3, 4])]
    made[0]["video"], made[0]["valid"][3] = torch.tensor([0, 0, 1, 2]), False
    videos = [Video(f"v{i}", None, label, "validation", 9, (0, 9)) for i, label in enumerate((0, -1, 4))]
    pool = predict(model, made, 3, device=CPU)
    found = results_json(pool, videos, Windows(), tree, top=9)
    assert set(found) == {"results", "videos", "tree"} and set(found["results"]) == {"v0", "v1"}  # v2 was not readable
    assert found["tree"] == {tree.names[leaf]: list(tree.path(leaf)) for leaf in range(5)}
    assert found["videos"]["v0"]["truth"] == tree.names[0] and found["videos"]["v1"]["truth"] is None
    assert found["videos"]["v0"]["windows"] == 2 and found["videos"]["v1"]["window"] == [20, 28]
    for name, row in found["results"].items():
        scores = [entry["score"] for entry in row]
        assert len(row) == 5 and scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1)
        for entry in row:
            assert entry["path"] == found["tree"][entry["label"]] and entry["path_scores"][0] == entry["score"]
            assert entry["path_scores"] == sorted(entry["path_scores"])  # an ancestor is no less probable
        first = tree.label(row[0]["label"])
        assert found["videos"][name]["window"][0] == 10 * int(pool.best[int(name[1]), first])
