"""Why this node and not that: the parts sum to the difference, lie where the clip is alike, and are on the page."""

import json

import numpy as np
import pytest
import torch
from pages import Page
from program import explain_ancestors, explain_classes, refused
from reported import EVIL, explained
from tiny import Spot, tiny_hipe

from explain.contrast import LEAST, SHOWN, contrasts, rivals_of
from explain.match import match_output
from explain.names import PARTS, file_name, voice_name
from explain.wording import contrast_words, times

SIZE = (8, 24, 40)


@pytest.fixture(params=["tree", "tree_hyperbolic", "hyperbolic"])
def matched(request):
    """A model, its tree, its output for a clip with a bright spot, and the prototypes of every level."""
    model, tree = tiny_hipe(score=request.param)
    pixels = Spot((3, 6), (8, 16), (16, 32)).paint(np.full((*SIZE, 3), 40, dtype=np.uint8))
    clip = torch.from_numpy(pixels).permute(3, 0, 1, 2).float() / 100
    with torch.no_grad():
        output = model(clip[None])
    return model, tree, output, match_output(model, output, SIZE, [0, 1, 2], k=2)


def test_the_parts_sum_to_the_difference_for_every_rival(matched):
    model, tree, output, levels = matched
    rivals = {level.level: [node for node in tree.levels[level.level] if node != level.node] for level in levels}
    found = contrasts(model, output, SIZE, levels, rivals)
    log_probs = output.log_probs[0].double()
    for level in levels:
        assert [contrast.rival for contrast in found[level.level]] == rivals[level.level]
        for contrast in found[level.level]:
            difference = float(log_probs[level.node] - log_probs[contrast.rival])
            assert contrast.difference == pytest.approx(difference, abs=1e-5)
            parts = contrast.start + sum(voice.nats for voice in contrast.voices) + contrast.rest
            assert parts == pytest.approx(contrast.difference, abs=1e-12)
            nats = [voice.nats for voice in contrast.voices]
            assert nats == sorted(nats, reverse=True) and len(nats) <= SHOWN + 2
            assert sum(abs(n) < LEAST for n in nats) <= 2
            assert {level.node, contrast.rival} <= {voice.node for voice in contrast.voices}


def test_a_prototype_lies_where_the_clip_is_like_it(matched):
    """The first prototype of every node is brightness itself: its peak is in the spot."""
    model, tree, output, levels = matched
    rivals = {level.level: [node for node in tree.levels[level.level] if node != level.node] for level in levels}
    bright = 0
    for some in contrasts(model, output, SIZE, levels, rivals).values():
        for voice in (voice for contrast in some for voice in contrast.voices):
            assert int(model.prototype_layer.node_of[voice.prototype]) == voice.node and 0 <= voice.similarity <= 1
            if voice.prototype % 3 == 0:
                bright += 1
                frame, y, x = voice.peak
                assert 2 <= frame <= 6 and 6 <= y <= 18 and 12 <= x <= 36
                assert all(voice.box[i] <= voice.peak[i] < voice.box[i + 3] for i in range(3))
    assert bright


def test_rivals_are_the_most_probable_and_those_asked_for():
    _, tree = tiny_hipe()
    log_probs = torch.arange(len(tree)).float()
    assert rivals_of(log_probs, tree, 0, n=2) == [5, 4]
    assert rivals_of(log_probs, tree, 0, n=2, also=[2, 0, 5]) == [5, 4, 2]
    parent = tree.path_ids(0)[1]
    asked = rivals_of(log_probs, tree, parent, n=1, also=[1, 2])
    assert tree.path_ids(1)[1] == parent and asked[-1] == tree.path_ids(2)[1] and parent not in asked


def test_words_of_a_contrast():
    level = {"node": "Run"}
    rival = {"node": "Jump", "difference": -1.2, "prototypes": [{"prototype": 7, "node": "Jump", "nats": -1.1}]}
    text = contrast_words(level, rival)
    assert "Jump is 3.3 times as probable as Run" in text and "speaks for Jump" in text
    assert "No prototype" in contrast_words(level, rival | {"prototypes": []})
    assert times(0) == "1.0" and times(-5) == "148" and "10" in times(800)


@pytest.mark.parametrize("score", ["tree", pytest.param("hyperbolic", marks=pytest.mark.slow)])
def test_pages_show_every_part(tmp_path, score):
    """With scripts and without: of a score that has a formula, and of one that has none."""
    folder, model, _ = explained(tmp_path, score)
    for place in (folder, tmp_path / "local_analysis_parents" / file_name(EVIL)):
        page = Page(place / "index.html")
        for level in json.loads((place / "explanation.json").read_text())["levels"]:
            assert level["contrast"]
            for rival in level["contrast"]:
                total = rival["start"] + rival["rest"] + sum(one["nats"] for one in rival["prototypes"])
                assert total == pytest.approx(rival["difference"], abs=1e-9)
                assert f"together: {level['node']} over {rival['node']}" in page.words()
                for one in rival["prototypes"]:
                    assert f"{one['prototype']} of {one['node']}" in page.words()
                    assert one["source"]["video"] == "train"
                    for kind in ("here", "source", "moving"):
                        name = voice_name(one["prototype"], kind)
                        assert (place / PARTS / f"{name}.webp").is_file()
                        shown = kind == "moving" or f"l{level['level']}-{one['prototype']}-{kind} {{" in page.source
                        assert shown


def test_another_class_is_compared_when_asked_for(whole, tmp_path, capsys):
    """Over the command line; the true class of a mistake is compared anyway."""
    line = ["--resume_path", whole / "save_3.pth", "--n_videos", 2, "--no_img", "--k", 1, "--heat", "upsample"]
    explain_classes(*line, "--out", tmp_path / "a", "--against", "saw", "Wave")
    for file in (tmp_path / "a").glob("*/explanation.json"):
        content = json.loads(file.read_text())
        rivals = {rival["node"] for rival in content["levels"][0]["contrast"]}
        assert {"Saw", "Wave"} - {content["prediction"][0]} <= rivals and content["prediction"][0] not in rivals
        assert content["truth"] in rivals | {content["prediction"][0]}
    explain_ancestors(*line, "--out", tmp_path / "b", "--against", "saw")
    levels = json.loads(next((tmp_path / "b").glob("*/explanation.json")).read_text())["levels"]
    assert len(levels) == 2 and all(level["contrast"] for level in levels)
    error = refused(capsys, *line, "--against", "Sow", caller=explain_classes)
    assert "--against" in error and "Sow" in error
