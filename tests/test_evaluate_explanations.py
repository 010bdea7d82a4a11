"""evaluate_explanations.py by its command line: what it measures, how it goes on after a kill, and bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from judged import FLAGS, checkpoints

import evaluate_explanations
from datasets.transforms import normalise
from evaluation.decisions import decision_measures
from evaluation.faithfulness import nearness, noisy, recompressed
from evaluation.measures import MEASURES, Measure
from evaluation.recognition import pool_windows
from evaluation.subjects import ExplainedClip
from explain.match import match_output
from judging.heats import Heats
from judging.judge import Judge
from options.errors import user_errors
from options.flags import parse_main
from options.resolve import resolve
from run import checkpoint_model, judging
from run.data import even_clips, make_reader, read_videos, window_clips
from run.model import model_of
from training.checkpoint import load_checkpoint

SEED = 15  # of a model that is right about some of the videos, and whose peaks do not all stay
QUICK = "--steps 4 --no_cuda --methods grad_cam --n_videos 2 --batch_size 1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return checkpoints(tmp_path_factory.mktemp("judged"), seed=SEED)


def call(*words: str | Path) -> None:
    with user_errors():
        evaluate_explanations.main([part for word in words for part in (word.split() if isinstance(word, str)
                                                                       else [str(word)])])


@pytest.fixture(scope="module")
def judged(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    call("--resume_path", trained / "save_1.pth", QUICK, "--out", out)
    return out


def test_every_measure_beside_its_baselines(judged):
    frame = pd.read_csv(judged / "measures.csv")
    clips, own = frame[frame.table == "explanations"], frame[frame.table == "prototypes"]
    assert set(clips.explanation) == {"prototypes", "top_prototype", "top_prototype_by_grad", "random", "centre",
                                       "chance", "grad_cam"}
    assert set(clips[clips.explanation == "grad_cam"].level) == {0} and set(clips.level) == {0, 1}
    assert set(own.explanation) == {"prototypes", "random", "centre"} and set(frame.measure) <= set(MEASURES)
    assert {"insertion", "deletion", "box_only", "stable_jitter", "set_size"} <= set(clips.measure)
    assert (frame.low <= frame["mean"] + 1e-9).all() and (frame["mean"] <= frame.high + 1e-9).all()
    at_class = clips[clips.level == 0].set_index(["explanation", "measure"])
    assert at_class.loc[("centre", "stable_noise"), "mean"] == 1  # knows nothing, and is as stable as can be
    patch = own.set_index(["explanation", "level", "measure"])["mean"]
    assert patch["prototypes", 0, "self_similarity"] == pytest.approx(1, abs=1e-3)  # a prototype is a patch
    assert (patch.loc[:, :, "duplicates"] <= 1).all()
    for name in ("measures.md", "measures.tex", "measures.html", "rows.jsonl", "prototypes.json"):
        assert (judged / name).stat().st_size > 200


def test_decisions_are_those_of_the_window_that_is_explained(trained, judged):
    """By every level of every video, as the model alone says them."""
    model, tree, record = model_of(load_checkpoint(trained / "save_1.pth"), "save_1.pth")
    model.eval()
    args, _ = parse_main(FLAGS.split())
    args.video_path, args.annotation_path = str(trained / "jpg"), str(trained / "a.json")
    args = resolve(args)
    videos = {video.name: video for video in read_videos(args, tree)}
    ways = {name: entry["way"] for name, entry in json.loads((trained / "truth.json").read_text()).items()}
    rows = [json.loads(line) for line in (judged / "rows.jsonl").read_text().splitlines()[1:]]
    seen = 0
    for row in rows:
        if row["explanation"] != "prototypes":
            assert not {"silenced", "own_evidence", "same_way"} & set(row["measures"])
            continue
        video, outputs = videos[row["video"]], []
        clips = window_clips(args, [video], make_reader(args), 4, normalisation="kinetics")
        with torch.no_grad():
            outputs = [model(normalise(clips[i]["clip"][None])) for i in range(len(clips))]
        _, leaf, best = pool_windows(torch.cat([output.log_probs for output in outputs]), tree.membership, 4.0)
        found = decision_measures(model, outputs[best].activations[0], outputs[best].distances[0], tree.path_ids(leaf),
                                  truth=tree.path_ids(video.label), record=record)[row["level"]]
        assert {name: row["measures"][name] for name in found} == pytest.approx(found, abs=2e-6)
        assert {"off_path", "silenced_three", "similarity", "nearest_own"} <= set(found)
        nodes = tree.levels[row["level"]]
        named = nodes[int(outputs[best].log_probs[0, list(nodes)].argmax())]
        assert ("flips_three" in row["measures"]) == (named == tree.path_ids(leaf)[row["level"]])
        if row["level"] == 0:
            first = match_output(model, outputs[best], (8, 24, 24), [0], leaf=leaf)[0].matches[0].prototype
            same = leaf == video.label and ways[record.video[first]] == ways[video.name]
            assert row["measures"]["same_way"] == same
        else:
            assert "same_way" not in row["measures"]
        seen += 1
    assert seen == 4


def test_where_prototypes_come_from(trained, judged):
    """Of each the distance from the event; of each class the ways that its prototypes show."""
    model, tree, record = model_of(load_checkpoint(trained / "save_1.pth"), "save_1.pth")
    rows = {row["prototype"]: row["measures"] for row in json.loads((judged / "prototypes.json").read_text())["rows"]
            if row["explanation"] == "prototypes"}
    for p, video in enumerate(record.video):
        frame, y, x = record.peak(p).tolist()
        half = [stride / 2 for stride in model.trunk.stride]  # frames are 24 pixels high, and so is the crop
        near = [first - by <= at < last + by for at, first, last, by in
                zip((frame, y, x), (2, 6, 8), (10, 14, 18), half, strict=True)]
        assert rows[p]["on_event"] == all(near), video
        t0, y0, x0, t1, y1, x1 = record.box(p)  # the event is in frames 2 to 10, rows 6 to 14, columns 8 to 18
        inside = [max(min(b, d) - max(a, c), 0) for a, b, c, d in ((t0, t1, 2, 10), (y0, y1, 6, 14), (x0, x1, 8, 18))]
        share = np.prod(inside) / ((t1 - t0) * (y1 - y0) * (x1 - x0))
        assert rows[p]["box_meets_event"] == (share > 0)
        assert rows[p]["box_inside_event"] == pytest.approx(share, abs=1e-6)
        assert 0 < rows[p]["box_inside_event_chance"] <= rows[p]["box_meets_event_chance"] <= 1
    for leaf in range(tree.n_leaves):  # its two training videos show two ways
        own = (model.prototype_layer.node_of == leaf).nonzero()[:, 0].tolist()
        assert rows[own[0]]["ways_covered"] == len({record.video[p] for p in own}) / 2
        assert not any("ways_covered" in rows[p] for p in own[1:])
    assert any(row["on_event"] for row in rows.values())


def test_a_truth_of_training_videos_alone_tells_of_prototypes(trained, judged, tmp_path, capsys):
    truth = json.loads((trained / "truth.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps({name: entry for name, entry in truth.items() if "g03" not in name}))
    call("--resume_path", trained / "save_1.pth", "--steps 1 --no_cuda --methods --measures box_volume --n_videos 1",
         "--truth", tmp_path / "t.json", "--out", tmp_path)
    said, frame = capsys.readouterr(), pd.read_csv(tmp_path / "measures.csv")
    assert "has none of the 1 videos, so pointing and energy are not measured" in said.err
    whole = pd.read_csv(judged / "measures.csv")
    own, same = (one[(one.table == "prototypes") & one.measure.str.startswith("box_")].reset_index(drop=True)
                 for one in (frame, whole))
    pd.testing.assert_frame_equal(own, same)
    meets = own[(own.measure == "box_meets_event") & (own.explanation == "prototypes")].set_index("level")
    for level, row in meets.iterrows():
        line, = (line for line in said.out.splitlines() if line.startswith(f"level {level}: "))
        assert f"{round(row['mean'] * row.n)} of {row.n} ({100 * row['mean']:.0f} %)" in line
    assert set(frame[frame.table == "explanations"].measure) == {"box_volume"}


def test_a_checkpoint_is_loaded_once(trained, tmp_path, monkeypatch):
    loaded, before = [], judging.model_of
    for module in (judging, checkpoint_model):
        monkeypatch.setattr(module, "model_of", lambda *words: (loaded.append(1), before(*words))[1])
    call("--resume_path", trained / "save_1.pth", QUICK, "--measures box_volume --out", tmp_path)
    assert loaded == [1]


def test_explanations_are_stored_one_by_one(trained, judged, tmp_path, monkeypatch):
    """A call that ends in the middle of a video keeps what it has measured of it."""
    before = Heats.of_nodes

    def interrupted(self, name, *words):
        if name == "grad_cam":
            raise KeyboardInterrupt
        return before(self, name, *words)

    words = ("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Heats, "of_nodes", interrupted)
        with pytest.raises(SystemExit, match="130"):
            call(*words)
    whole = (judged / "rows.jsonl").read_text().splitlines()
    half = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert half == whole[:len(half)] and 5 < len(half) < len(whole) / 2 + 1
    call(*words)
    assert sorted((tmp_path / "rows.jsonl").read_text().splitlines()) == sorted(whole)


def test_embedded_scores_are_measured_alike(tmp_path):
    root = checkpoints(tmp_path, "--score", "hyperbolic")
    call("--resume_path", root / "save_1.pth", QUICK.replace("2 --b", "1 --b"), "--methods grad --steps 1")
    frame = pd.read_csv(root / "explanations" / "measures.csv")
    own = frame[(frame.explanation == "prototypes") & (frame.table == "explanations")]
    for level in (0, 1):
        assert {"own_evidence", "off_path", "silenced", "flips_three", "similarity", "closer_than", "nearest_own",
                "set_size"} <= set(own[own.level == level].measure)
    patch = frame[frame.table == "prototypes"].set_index(["explanation", "level", "measure"])["mean"]
    assert patch["prototypes", 0, "self_similarity"] == pytest.approx(1, abs=1e-3)
    assert {"on_event", "ways_covered"} <= set(frame[frame.table == "prototypes"].measure)


def test_an_interrupted_call_goes_on_and_comes_to_the_same(trained, judged, tmp_path, monkeypatch):
    whole = (judged / "rows.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:4]) + lines[4][:20])  # killed while it wrote
    call("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)
    again = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    assert again[:4] == lines[:4] and sorted(again) == sorted(lines)
    assert (tmp_path / "measures.csv").read_text() == (judged / "measures.csv").read_text()

    def forbidden(*_):
        raise AssertionError("all was measured already")

    monkeypatch.setattr(Judge, "rows", forbidden)
    call("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)


def test_stability_of_prototypes_is_a_loop_over_their_videos(trained, judged):
    """By the model's own maps, of the same clip and of that which begins a frame later."""
    model, tree, _ = model_of(load_checkpoint(trained / "save_1.pth"), "save_1.pth")
    model.eval()
    args, _ = parse_main(FLAGS.split())
    args.video_path, args.annotation_path = str(trained / "jpg"), str(trained / "a.json")
    args = resolve(args)
    videos = [video for video in read_videos(args, tree) if video.subset == "validation"]
    clips = even_clips(args, videos, make_reader(args), 1, normalisation="kinetics")
    stayed: dict[int, dict[str, float]] = {}
    for i, video in enumerate(videos):
        pixels, frames = clips[i]["clip"], clips[i]["frames"]
        later = clips.transform(clips.reader.frames(video.path, frames + 1))[0]
        noise = noisy(pixels, 1)
        for p, node in enumerate(model.prototype_layer.node_of.tolist()):
            if node not in tree.path_ids(video.label):
                continue
            places = []
            for clip in (pixels, noise, recompressed(pixels), later):
                with torch.no_grad():
                    maps = model.prototype_layer.maps(model.neck(model.trunk(normalise(clip[None]))), torch.tensor([p]))
                cell = np.unravel_index(int(maps[0, 0].argmin()), maps.shape[2:])
                places.append([min(at * stride, n - 1) for at, stride, n in zip(cell, model.trunk.stride, (8, 24, 24),
                                                                                strict=True)])
            places[3][0] += 1  # of the clip that begins a frame later
            near = [all(abs(a - b) <= by for a, b, by in zip(places[0], other, nearness((8, 24, 24)).tolist(),
                                                             strict=True)) for other in places[1:]]
            row = stayed.setdefault(p, {what: [] for what in ("noise", "jpeg", "jitter")})
            for what, same in zip(row, near, strict=True):
                row[what].append(same)
    rows = {row["prototype"]: row["measures"] for row in json.loads((judged / "prototypes.json").read_text())["rows"]
            if row["explanation"] == "prototypes"}
    assert len(rows) == len(stayed) == 10
    for p, row in stayed.items():
        assert {what: rows[p][f"stable_{what}"] for what in row} == {what: pytest.approx(np.mean(row[what]), abs=1e-5)
                                                                     for what in row}
    assert 0 < np.mean([row["stable_jitter"] for row in rows.values()]) < 1


def test_the_softmax_head_has_no_prototypes(trained, capsys):
    call("--resume_path", trained / "trunk.pth", QUICK, "--head softmax --methods grad_cam class_feature_pyramid",
         "3d_ep --iterations 2 --n_videos 1 --levels 0 --truth", trained / "truth.json")
    frame = pd.read_csv(trained / "explanations_softmax" / "measures.csv")
    assert set(frame.explanation) >= {"grad_cam", "class_feature_pyramid", "3d_ep", "random", "centre"}
    perturbed = set(frame[frame.explanation == "3d_ep"].measure)
    assert "insertion" in perturbed and "stable_noise" not in perturbed  # four optimisations a clip would be too many
    assert not {"prototypes", "top_prototype"} & set(frame.explanation) and set(frame.table) == {"explanations"}
    assert "measures.md" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_share_the_clips(trained, judged, tmp_path):
    call("--resume_path", trained / "save_1.pth", QUICK, "--n_threads 2 --out", tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "measures.csv"), pd.read_csv(judged / "measures.csv"))


@pytest.mark.parametrize(("line", "named"), [
    ("--resume_path trunk.pth", "nothing was pushed"), ("--resume_path nowhere.pth", "nowhere.pth"),
    ("--resume_path save_1.pth --levels 2", "level 2"), ("--resume_path save_1.pth --steps 0", "--steps"),
    ("--resume_path save_1.pth --truth nowhere.json", "nowhere.json"),
    ("--resume_path save_1.pth --truth a.json", "a.json"),
    ("--resume_path save_1.pth --videos v_Swim_g01_c01", "v_Swim_g01_c01"),
    ("--resume_path save_1.pth --methods grad_cat", "grad_cat")])
def test_bad_input_is_one_sentence(trained, tmp_path, line, named, capsys):
    with pytest.raises(SystemExit) as ended:
        call("--root_path", trained, line, "--no_cuda --out", tmp_path)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and named in error and "Traceback" not in error


def test_a_truth_that_nobody_named_may_lack_the_videos(trained, tmp_path, capsys):
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / "a.json").write_text((trained / "a.json").read_text())
    words = ("--resume_path", trained / "save_1.pth", "--steps 1 --no_cuda --methods grad --n_videos 1 --levels 0",
             "--annotation_path", tmp_path / "a.json", "--out", tmp_path / "out")
    call(*words)
    frame = pd.read_csv(tmp_path / "out" / "measures.csv")
    assert "insertion" in set(frame.measure) and not {"pointing", "energy"} & set(frame.measure)
    assert "has none of the 1 videos, so pointing and energy are not measured" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(*words, "--truth", tmp_path / "truth.json", "--overwrite")
    assert "give the truth of these as --truth" in capsys.readouterr().err


def test_numbers_of_other_settings_are_not_mixed(trained, judged, capsys):
    with pytest.raises(SystemExit) as ended:
        call("--resume_path", trained / "save_1.pth", QUICK, "--steps 5 --out", judged)
    assert ended.value.code == 2 and "another steps (4, not 5)" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # points that were held against another truth
        call("--resume_path", trained / "save_1.pth", QUICK, "--truth", trained / "other.json", "--out", judged)
    assert "another truth" in capsys.readouterr().err


@pytest.fixture
def measures():
    """MEASURES, for a test to change."""
    before = dict(MEASURES)
    yield MEASURES
    MEASURES.clear()
    MEASURES.update(before)  # in their order


def test_a_new_edition_measures_itself_again_and_nothing_else(trained, judged, tmp_path, monkeypatch, measures):
    """And so does a new measure; what no longer exists is left out."""
    for name in ("rows.jsonl", "prototypes.json"):
        (tmp_path / name).write_text((judged / name).read_text())
    old = pd.read_csv(judged / "measures.csv")
    asked = []

    def changed(of: ExplainedClip) -> float:
        asked.append(of)
        return 0.125

    def forbidden(*_):
        raise AssertionError("no value depends on where a prototype looks")

    measures["flips"] = replace(measures["flips"], edition=measures["flips"].edition + 1, of_clip=changed)
    measures["brightness"] = Measure(1, 1, "how bright the clip is", {"level of prototypes"},
                                     lambda of: float(of.clip.mean()))
    del measures["own_needed"]
    with monkeypatch.context() as patched:
        patched.setattr(Heats, "of_nodes", forbidden)
        call("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)
    new = pd.read_csv(tmp_path / "measures.csv")
    assert len(asked) == 4 and set(new[new.measure == "flips"]["mean"]) == {0.125}  # two videos, two levels
    assert len(new[new.measure == "brightness"]) == 2 and "own_needed" not in set(new.measure)
    others = [frame[~frame.measure.isin(["flips", "brightness", "own_needed"])].reset_index(drop=True)
              for frame in (old, new)]
    pd.testing.assert_frame_equal(*others)
    written = (tmp_path / "rows.jsonl").read_text()
    assert written.startswith((judged / "rows.jsonl").read_text()) and written.count('"settings"') == 2
    call("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == written and len(asked) == 4

    measures["insertion"] = replace(measures["insertion"], edition=measures["insertion"].edition + 1,
                                    of_clip=lambda of: None)
    call("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)
    assert "insertion" not in set(pd.read_csv(tmp_path / "measures.csv").measure)  # what it was is not kept


def test_prototypes_are_measured_again_where_one_of_their_measures_is_new(trained, judged, tmp_path, measures):
    for name in ("rows.jsonl", "prototypes.json"):
        (tmp_path / name).write_text((judged / name).read_text())
    measures["purity"] = replace(measures["purity"], edition=4,
                                 of_prototypes=lambda of: torch.full((len(of.node_of),), 0.25))
    call("--resume_path", trained / "save_1.pth", QUICK, "--out", tmp_path)
    new, old = (pd.read_csv(folder / "measures.csv") for folder in (tmp_path, judged))
    assert set(new[new.measure == "purity"]["mean"]) == {0.25}
    pd.testing.assert_frame_equal(*(frame[frame.measure != "purity"] for frame in (new, old)))
    assert (tmp_path / "rows.jsonl").read_text() == (judged / "rows.jsonl").read_text()


