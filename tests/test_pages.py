"""Explanations on disk: numbers in source pixels, pages that stand alone, names that stay inside, nothing half done."""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from pages import Page
from PIL import Image, ImageSequence
from tiny import MemoryReader, Record, Spot, tiny_hipe

from attribution import METHODS, Method
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform, normalise
from datasets.video import Video, VideoClips
from explain import pages
from explain.explainer import ExplanationSettings, Sources, explain_videos
from explain.names import file_name
from explain.pictures import prototype_pictures
from explain.report import write_report

SPOT = Spot((13, 16), (30, 56), (70, 100))  # in 20 frames of 96 x 160, in the second window
N_FRAMES, SIZE = 20, 48
ODD_NAMES = ["v_Run_g01_c01", "../../escape", "clap & cheer! (1) #2 äß", "<b>bold</b>.avi"]


@pytest.fixture
def world():
    """A model, four videos to explain, one training video, and a record that places prototypes in it."""
    model, tree = tiny_hipe()
    noise = np.random.default_rng(0).integers(36, 44, size=(5, N_FRAMES, 96, 160, 3), dtype=np.uint8)
    pixels = {name: SPOT.paint(noise[i]) for i, name in enumerate(ODD_NAMES)} | {"train": SPOT.paint(noise[4])}
    reader = MemoryReader(pixels)
    videos = [Video(name, Path(name), label, "validation", N_FRAMES, (0, N_FRAMES))
              for name, label in zip(ODD_NAMES, (0, 1, -1, 2), strict=True)]
    source = Video("train", Path("train"), 0, "training", N_FRAMES, (0, N_FRAMES))
    maps = torch.zeros(4, 12, 6) + 0.1 * torch.rand(4, 12, 6, generator=torch.Generator().manual_seed(0))
    maps[1, 4:7, 2:5], maps[1, 5, 3] = 5, 9.2
    record = Record(["train"] * len(model.prototype_layer.node_of), torch.arange(12, 20),
                    torch.tensor([0.0, 32, 96, 128]), maps, (8, SIZE, SIZE))

    def explain(out: Path, levels=(0,), n=4, beside=None, source_videos=None, **options):
        known = {"train": source} if source_videos is None else source_videos
        clips = VideoClips(videos[:n], sampler=SlidingWindows(8, 6), transform=EvalTransform(SIZE), reader=reader)
        return explain_videos(model, clips, hierarchy=tree, levels=levels, out=out, beside=beside,
                              sources=Sources(record, known),
                              settings=ExplanationSettings(**{"batch_size": 3, "progress": False} | options))

    explain.clips = VideoClips(videos, sampler=SlidingWindows(8, 6), transform=EvalTransform(SIZE), reader=reader)
    explain.model, explain.tree, explain.record = model, tree, record
    explain.reader, explain.source = reader, source
    return explain


def test_numbers_are_in_the_videos_own_frames_and_pixels(world, tmp_path):
    found = world(tmp_path, pictures=False)
    assert [one["video"] for one in found] == ODD_NAMES
    for explanation in found:
        stored = json.loads((tmp_path / file_name(explanation["video"]) / "explanation.json").read_text())
        assert stored == explanation
        assert {"video", "window", "prediction", "truth", "levels"} <= set(explanation)
        assert explanation["window"][1] - explanation["window"][0] == 8
        (level,) = explanation["levels"]
        assert level["level"] == 0 and level["node"] == explanation["prediction"][0]
        assert len(level["prototypes"]) == 3
        gains = [entry["contribution"] for entry in level["prototypes"]]
        assert gains == sorted(gains, reverse=True)
        for entry in level["prototypes"]:
            assert {"prototype", "node", "similarity", "contribution", "peak", "box", "source"} <= set(entry)
            first, last = explanation["window"]
            assert all(low <= at < high for low, at, high in
                       zip(entry["box"][:3], entry["peak"], entry["box"][3:], strict=True))
            assert first <= entry["box"][0] and entry["box"][3] <= last
            assert entry["box"][2] >= 32 and entry["box"][5] <= 128  # the middle of the picture is what was seen
            assert entry["seconds"] == [entry["box"][0] / 10, entry["box"][3] / 10]
            without = level["probability"] * np.exp(-entry["contribution"])
            assert entry["probability_without"] == pytest.approx(without, abs=2e-6)
            assert entry["source"]["video"] == "train" and entry["source"]["frames"] == [12, 20]
    assert [one["truth"] for one in found] == ["Run", "Jump", None, "Wave"]


def test_the_brightest_prototypes_peak_is_on_the_spot(world, tmp_path):
    """From the frames of a wide video to a small clip and back."""
    model = world.model
    brightest = set(range(0, len(model.prototype_layer.node_of), 3))
    peaks = [entry["peak"] for one in world(tmp_path, pictures=False) for level in one["levels"]
             for entry in level["prototypes"] if entry["prototype"] in brightest and one["window"][1] >= 15]
    assert peaks and all(SPOT.holds(*peak) for peak in peaks)


def test_cards_say_whether_their_boxes_hold(world, tmp_path, monkeypatch):
    """The brightest prototypes match the spot alone; a heat that points to a dark corner is found out."""
    brightest = set(range(0, len(world.model.prototype_layer.node_of), 3))

    def bright_ones(out, **options):
        return {one["video"]: (one, entry) for one in world(out, **options) for entry in one["levels"][0]["prototypes"]
                if entry["prototype"] in brightest and one["window"][1] >= 15}

    def corner(score_fn, clip, **options):
        assert torch.is_grad_enabled() and score_fn(clip[None]).shape == (1,) and set(options) == {"upsample"}
        heat = torch.zeros(clip.shape[1:])
        heat[0, :8, :8], heat[0, 2, 3] = 1, 2
        return heat

    monkeypatch.setitem(METHODS, "in the corner", Method("in the corner", corner, needs=("upsample",)))
    parents = tmp_path / "parents"
    world(parents, levels=(1, 2), beside=tmp_path / "corner")
    own = bright_ones(tmp_path / "own")
    cornered = bright_ones(tmp_path / "corner", heat="in the corner", beside=parents)
    assert own and set(own) == set(cornered)
    for name, (explanation, entry) in own.items():
        assert explanation["heat"] == "upsample" and entry["box_test"]["holds"]
        assert entry["box_test"]["box_only"] > entry["box_test"]["box_hidden"]
        assert "Do not trust this box." not in Page(tmp_path / "own" / file_name(name) / "index.html").words()
    for name, (explanation, entry) in cornered.items():
        first = explanation["window"][0]
        assert explanation["heat"] == "in the corner" and not entry["box_test"]["holds"]
        assert entry["peak"] == [first, 5, 32 + 7] and entry["box"] == [first, 0, 32, first + 1, 16, 48]
        words = Page(tmp_path / "corner" / file_name(name) / "index.html").words()
        assert "Do not trust this box." in words and "Heat by in the corner" in words
        story = Page(tmp_path / "corner" / file_name(name) / "story.html").words()  # each level with its own heat
        # one that meets its own patch keeps the similarity, which is exact there
        by_method = [one for one in explanation["levels"][0]["prototypes"] if one["heat"] == "in the corner"]
        assert story.count("Heat by in the corner") == len(by_method) > 0
        assert story.count("similarity") > words.count("similarity") and entry["heat"] == "in the corner"


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_the_window_is_the_best_of_the_videos_prediction(world, tmp_path, power):
    explanation = world(tmp_path, pictures=False, power=power)[0]
    outputs = []
    for i in range(len(world.clips)):
        item = world.clips[i]
        if item["video"] == 0:
            with torch.no_grad():
                outputs.append((int(item["frames"][0]), world.model(normalise(item["clip"])[None]).log_probs[0].exp()))
    assert [first for first, _ in outputs] == [0, 6, 12]
    total = sum(p[:6].double() ** power for _, p in outputs)
    probs = (world.tree.membership.double() @ total / total.sum()).tolist()
    leaf = int(total.argmax())
    best = max(outputs, key=lambda one: one[1][leaf])
    assert explanation["window"][0] == best[0]
    assert explanation["prediction"] == list(world.tree.path(leaf))
    assert explanation["levels"][0]["probability"] == pytest.approx(float(best[1][leaf]), abs=1e-5)
    expected = [probs[node] for node in world.tree.path_ids(leaf)]
    assert explanation["path_scores"] == pytest.approx(expected, abs=1e-5)


def test_pages_stand_alone(world, tmp_path):
    classes, parents = tmp_path / "local_analysis", tmp_path / "local_analysis_parents"
    world(classes, beside=parents, n=3, k=1)
    folders = [classes / file_name(name) for name in ODD_NAMES[:3]]
    assert not any((folder / "story.html").exists() for folder in folders)
    world(parents, levels=(1, 2), beside=classes, n=3, k=2)
    for folder in [*folders, *(parents / folder.name for folder in folders)]:
        explanation = json.loads((folder / "explanation.json").read_text())
        for name in ("index.html", "story.html"):
            page = Page(folder / name)
            assert all(image.startswith("data:image/webp;base64,") for image in page.images)
            assert not {"script", "link", "iframe"} & set(page.tags)
            assert not re.search(r"(src|srcset|href)=\"?(https?:)?//|url\((?!data:)", page.source)
            assert page.tags.count("h1") == 1 and 'lang="en"' in page.source
            assert "prefers-color-scheme: dark" in page.source and "width=device-width" in page.source
            for link in page.links:
                target, _, anchor = link.partition("#")
                other = (folder / unquote(target)).resolve() if target else folder / name
                assert other.is_file() and tmp_path in other.parents
                assert not anchor or f'id="{anchor}"' in other.read_text(encoding="utf-8")
        index, story = Page(folder / "index.html"), Page(folder / "story.html")
        assert explanation["video"] in index.words()
        assert len(index.images) == sum(2 + 5 * len(level["prototypes"]) for level in explanation["levels"])
        nodes = [story.source.index(f'id="level-{level}-name"') for level in (2, 1, 0)]
        assert nodes == sorted(nodes)  # from the top down
        for level in explanation["levels"]:
            for entry in level["prototypes"]:
                assert f"Prototype {entry['prototype']} of {entry['node']}" in index.words()
                assert " › ".join(entry["path"]) in index.words()
                assert pages.signed(-entry["contribution"]) in index.text
        here, there = (classes, parents) if folder.parent == classes else (parents, classes)
        assert any(unquote(link) == f"../../{there.name}/{folder.name}/index.html" for link in index.links)
        assert here != there and "story.html" in index.links
    for out in (classes, parents):
        overview = Page(out / "index.html")
        assert all((out / unquote(link)).resolve().is_file() for link in overview.links)
        assert len(overview.images) == 3
        assert sum(overview.words().count(word) for word in ("right", "wrong: it is", "truth not known")) == 3
        assert "truth not known" in overview.words()


def test_gifs_lie_beside(world, tmp_path):
    world(tmp_path, n=1)
    folder = tmp_path / ODD_NAMES[0]
    gifs = {file.name for file in folder.glob("*.gif")}
    assert gifs == {"clip.gif", "level0.gif",
                    *(f"level0_{rank}_{kind}.gif" for rank in (1, 2, 3)
                      for kind in ("box", "heat", "source", "patch", "card"))}
    with Image.open(folder / "clip.gif") as image:
        assert image.size == (192, 192)
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 800  # 8 frames, 10 a second


def test_unmatched_prototypes_and_missing_videos_say_so(world, tmp_path, capsys):
    best = world(tmp_path / "first", pictures=False)[0]["levels"][0]["prototypes"][0]["prototype"]
    world.record.video[best] = None
    found = world(tmp_path / "second", n=1, source_videos={})
    words = Page(tmp_path / "second" / ODD_NAMES[0] / "index.html").words()
    assert found[0]["levels"][0]["prototypes"][0]["source"] is None
    assert words.count("No training clip matched this prototype") == 1
    assert words.count("The training video could not be read") == 2
    assert "warning: 1 " in capsys.readouterr().err


def test_names_never_leave_the_folder(world, tmp_path):
    out = tmp_path / "in" / "here"
    world(out, pictures=False)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"here"}
    assert len([path for path in out.iterdir() if path.is_dir()]) == len(ODD_NAMES)


@pytest.mark.parametrize("name", ["v_Run_g01_c01", "#437_How_To! & (6)_stairs_f_nm", "日本語 ビデオ", "a.b.avi"])
def test_ordinary_names_stay(name):
    assert file_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "a\0b", "x" * 400, "ß" * 300, "index.html",
                                  ".hidden", "a:b", "trailing. ", "broken\udcff"])
def test_other_names_become_safe_and_stay_apart(name, tmp_path):
    safe = file_name(name)
    assert safe != name and not re.search(r'[/\\\0:*?"<>|]', safe) and not safe.startswith(".")
    assert len(safe.encode()) <= 200
    (tmp_path / safe).mkdir()
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()
    assert file_name(name + "y") != safe and file_name("_" + name) != safe


def test_a_killed_run_leaves_no_half_explanation(world, tmp_path, monkeypatch):
    world(tmp_path, pictures=False, k=1)
    folder = tmp_path / ODD_NAMES[0]
    before = (folder / "explanation.json").read_text()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        world(tmp_path, pictures=False, k=2)
    assert (folder / "explanation.json").read_text() == before


def test_what_an_earlier_model_left_is_cleared(world, tmp_path):
    world(tmp_path, n=1, k=1)
    folder = tmp_path / ODD_NAMES[0]
    page = (folder / "index.html").read_text()
    world(tmp_path, n=1, k=1, pictures=False)  # says the same: the pages still hold
    assert (folder / "index.html").read_text() == page
    with torch.no_grad():
        world.model.score.last_layer.weight *= 1.5
    world(tmp_path, n=1, k=1, pictures=False)
    assert {path.name for path in folder.iterdir()} == {"explanation.json"}


def test_other_models_explanations_are_not_mixed_in(world, tmp_path):
    classes, parents = tmp_path / "a", tmp_path / "b"
    world(parents, levels=(1,), beside=classes, n=1, k=1)
    with torch.no_grad():
        world.model.score.last_layer.weight *= 1.5
    world(classes, beside=parents, n=1, k=1)
    assert not (classes / ODD_NAMES[0] / "story.html").exists()
    assert not any("../b" in link for link in Page(classes / ODD_NAMES[0] / "index.html").links)
    assert not Page(classes / "index.html").links or all(
        "../b" not in link for link in Page(classes / "index.html").links)


def test_explanations_of_an_earlier_version_are_left_alone(world, tmp_path):
    classes, parents = tmp_path / "local_analysis", tmp_path / "local_analysis_parents"
    world(parents, levels=(1,), beside=classes, n=1, k=1)
    file, page = parents / ODD_NAMES[0] / "explanation.json", parents / ODD_NAMES[0] / "index.html"
    earlier = json.loads(file.read_text())
    for level in earlier["levels"]:
        del level["decision"], level["siblings"], level["shares"]["descendants"]
        level["prototypes"] = [{"prototype": 3, "similarity": 8.1, "source": None} for _ in level["prototypes"]]
    file.write_text(json.dumps(earlier))
    before = page.read_text()
    world(classes, beside=parents, n=1, k=1)
    assert page.read_text() == before and not (classes / ODD_NAMES[0] / "story.html").exists()
    write_report(tmp_path)
    assert "8.1" not in (tmp_path / "report.html").read_text()
    world(parents, levels=(1,), beside=classes, n=1, k=1)
    assert (classes / ODD_NAMES[0] / "story.html").is_file()


def test_pages_of_another_model_do_not_link_what_has_changed(world, tmp_path):
    classes, parents = tmp_path / "a", tmp_path / "b"
    world(parents, levels=(1,), beside=classes, n=1, k=1)
    world(classes, beside=parents, n=1, k=1)
    pages = [parents / ODD_NAMES[0] / "index.html", parents / "index.html"]
    assert all(any("../a" in link for link in Page(page).links) for page in pages)
    with torch.no_grad():
        world.model.score.last_layer.weight *= 1.5
    world(classes, beside=parents, n=1, k=1)
    assert not (parents / ODD_NAMES[0] / "story.html").exists()
    assert not any("../a" in link or "story" in link for page in pages for link in Page(page).links)
    assert any("index.html" in link for link in Page(pages[1]).links)  # its own videos are still listed


def test_unreadable_videos_are_counted(world, tmp_path, capsys):
    del world.reader.videos[ODD_NAMES[1]]
    with pytest.warns(RuntimeWarning, match="escape"):
        found = world(tmp_path, pictures=False)
    assert [one["video"] for one in found] == [ODD_NAMES[0], *ODD_NAMES[2:]]
    assert "warning: 1 " in capsys.readouterr().err
    world.reader.videos.clear()
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="4 videos"):
        world(tmp_path, pictures=False)


def test_levels_have_to_exist(world, tmp_path):
    with pytest.raises(ValueError, match="levels 0 to 2"):
        world(tmp_path, levels=(0, 3))


def test_every_matched_prototype_is_drawn_from_the_record_alone(world, tmp_path):
    world.record.video[4] = None
    world.record.video[5] = "gone"
    missing = prototype_pictures(
        world.record, world.tree, world.model.prototype_layer.node_of, videos={"train": world.source},
        reader=world.reader, out=tmp_path / "img", n_jobs=2)
    assert missing == ["gone"]
    n = len(world.record.video)
    names = {path.name for path in (tmp_path / "img").iterdir()}
    assert len(names) == 2 * (n - 2)
    assert {"0000_Run.gif", "0000_Run_patch.png"} <= names
    with Image.open(tmp_path / "img" / "0000_Run.gif") as image:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 800
    with Image.open(tmp_path / "img" / "0000_Run_patch.png") as image:
        assert np.asarray(image).mean() > 80  # the spot, not the dark around it


@pytest.mark.parametrize(("probability", "text"), [
    (1.0, "> 99.9 %"), (0.9999, "> 99.9 %"), (0.993, "99.3 %"), (0.93, "93 %"), (0.042, "4.2 %"), (0.0001, "< 0.1 %")])
def test_percentages_are_never_more_certain_than_they_are(probability, text):
    assert pages.percent(probability).replace(pages.NARROW, " ") == text
