"""attribution/method.py and options/methods.py: declared options, and how they come from the command line."""

import argparse
import inspect

import pytest
import torch
from attributable import TRUNK_LINE, WITHOUT_ATTENTION, attribution_folder, call
from program import ROOT, explain_classes, refused

import evaluate_explanations
from attribution import METHODS, Method, Option, options_of, parse_options
from attribution.method import CONTEXT
from attribution.perturbation import Optimisation
from explain.heat import heat_of
from models.resnet3d import ResNet3D
from options.methods import PUBLISHED, method_options, options_flag, published_flags


@pytest.mark.parametrize("name", METHODS)
def test_what_is_declared_is_what_the_function_takes(name):
    method = METHODS[name]
    assert method.name == name
    function = getattr(method.function, "func", method.function)
    takes = (Optimisation if method.optimises else function)
    parameters = inspect.signature(takes).parameters
    for option, declared in method.options.items():
        assert parameters[option].default == declared.default, option
        assert declared.checked(declared.default) == declared.default and declared.help
    assert set(method.needs) <= set(CONTEXT) and set(method.needs) <= set(parameters)


@pytest.mark.parametrize("name", METHODS)
def test_a_misspelt_option_is_an_error_that_names_it_and_the_method(name):
    with pytest.raises(ValueError, match="polarty") as error:
        METHODS[name](lambda clips: clips.sum((1, 2, 3, 4)), torch.zeros(3, 8, 24, 24), polarty="both")
    assert name in str(error.value)


def test_an_option_that_no_method_has_is_not_shared():
    assert options_of("random", seed=3, steps=2) == {"seed": 3}
    with pytest.raises(ValueError, match="sed"):
        options_of("random", sed=3)


@pytest.mark.parametrize(("option", "text", "value"), [
    (Option(int, 1, "", least=1), "3", 3), (Option(float, 0.1, "", least=0, most=1), "1", 1.0),
    (Option(bool, False, ""), "True", True), (Option(bool, True, ""), "no", False),
    (Option(float, (), "", several=True), ".1,0.2", (0.1, 0.2)), (Option(str, "a", "", choices=("a", "b")), "b", "b")])
def test_options_are_read_from_text(option, text, value):
    assert option.parse(text) == value and type(option.parse(text)) is type(value)


@pytest.mark.parametrize(("option", "text", "word"), [
    (Option(int, 1, "", least=1), "0", "at least 1"), (Option(int, 1, ""), "a", "whole number"),
    (Option(float, 0.1, "", least=0, most=1, inside=True), "1", "between"),
    (Option(float, 0.1, "", least=0, inside=True), "0", "more than 0"), (Option(bool, False, ""), "2", "true or false"),
    (Option(float, (), "", least=0, most=1, several=True), ".1,2", "between"),
    (Option(str, "a", "", choices=("a", "b")), "c", "a, b")])
def test_values_that_an_option_does_not_allow_are_refused(option, text, word):
    with pytest.raises(ValueError, match=word):
        option.parse(text)


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    published_flags(parser.add_argument_group("methods"))
    options_flag(parser)
    return parser.parse_args(words)


def test_published_flags_keep_their_values():
    assert set(PUBLISHED.values()) <= {name for method in METHODS.values() for name in method.options}
    options = method_options(flags(), METHODS)
    published = {
        "grad": {"polarity": "positive"}, "grad*input": {"polarity": "positive"},
        "smooth_grad": {"polarity": "positive", "steps": 25, "seed": 1},
        "integrated_grad": {"polarity": "positive", "steps": 25}, "grad_cam": {},
        **dict.fromkeys(("2d_ep", "3d_ep", "step"), {
            "iterations": 2000, "areas": (0.1,), "perturbation": "blur", "variants": ("preserve",),
            "published_energy": False}),
        "class_feature_pyramid": {"theta": 0.6, "depth": 4, "top_n": None}, "random": {"seed": 1}}
    assert {name: options[name] for name in published} == published
    given = method_options(flags("--perturb_area", ".1", ".2", "--variant", "dual", "--steps", "3", "--options",
                                 "smooth_grad.steps=4"), ["3d_ep", "smooth_grad", "integrated_grad"])
    assert given["3d_ep"]["areas"] == (0.1, 0.2) and given["3d_ep"]["variants"] == ("dual",)
    assert given["smooth_grad"]["steps"] == 4 and given["integrated_grad"]["steps"] == 3


def test_another_option_of_a_published_name_keeps_its_own_default(monkeypatch):
    other = Method("deep", lambda score_fn, clip, depth=9: None, {"depth": Option(int, 9, "layers", least=1)})
    monkeypatch.setitem(METHODS, "deep", other)
    options = method_options(flags("--depth", "2"), ["deep", "class_feature_pyramid"])
    assert options["deep"] == {} and options["class_feature_pyramid"]["depth"] == 2


@pytest.mark.parametrize(("word", "message"), [
    ("smooth_grad", "METHOD.NAME=VALUE"), ("saliency.steps=1", "saliency"), ("grad_cam.steps=1", "not among"),
    ("smooth_grad.stepps=1", "smooth_grad has no option stepps"), ("smooth_grad.steps=0", "smooth_grad.steps must be")])
def test_options_that_cannot_be_are_named(word, message):
    with pytest.raises(ValueError, match="--options") as error:
        parse_options([word], ["smooth_grad"])
    assert message in str(error.value)


@pytest.fixture
def glow(monkeypatch):
    """A method that somebody adds: one function, and one line in METHODS."""
    def glow(score_fn, clip, *, warmth: float = 1.0):
        seen.append(warmth)
        return torch.rand(clip.shape[1:], generator=torch.Generator().manual_seed(0)) * warmth

    seen = []
    monkeypatch.setitem(METHODS, "glow", Method("glow", glow, {"warmth": Option(float, 1.0, "how hot", least=0)}))
    return seen


def test_every_script_offers_the_options_of_a_new_method(glow, whole, tmp_path, capsys):
    root = attribution_folder(tmp_path)
    call(root, f"{TRUNK_LINE} --videos_dir clips --n_videos 1 --vis_method glow --options glow.warmth=3", "--out",
         str(tmp_path / "out"))
    assert glow == [3.0] and "warmth 3.0" in (tmp_path / "out" / "resnet-10.html").read_text()
    checkpoint = whole / "save_3.pth"
    explain_classes("--resume_path", checkpoint, "--out", tmp_path / "a", "--n_videos", 1, "--no_img", "--k", 1,
                    "--heat", "glow", "--options", "glow.warmth=4")
    assert glow[-1] == 4.0
    evaluate_explanations.main([
        "--resume_path", str(checkpoint), "--out", str(tmp_path / "b"), "--n_videos", "1", "--methods", "glow",
        "--heats", "--levels", "0", "--no_prototypes", "--steps", "1", "--no_cuda", "--options", "glow.warmth=5"])
    assert glow[-1] == 5.0 and '"options": "glow.warmth=5"' in (tmp_path / "b" / "rows.jsonl").read_text()
    with pytest.raises(SystemExit):
        explain_classes("--help_all")
    assert "warmth of glow: how hot" in " ".join(capsys.readouterr().out.split())
    assert "glow has no option warmht" in refused(capsys, "--resume_path", checkpoint, "--heat", "glow", "--options",
                                                  "glow.warmht=4", caller=explain_classes)


@pytest.mark.parametrize("name", METHODS)
def test_the_documents_say_what_a_method_finds_hot(name):
    rows = [line for line in (ROOT / "docs" / "ATTRIBUTION.md").read_text().splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in row.split("|")[1] for row in rows), "add it to the table of docs/ATTRIBUTION.md"


@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_a_method_takes_the_passes_that_it_declares(name):
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3).eval().requires_grad_(False)
    clips = [0, 0]  # without and with a gradient

    def score(batch):
        clips[batch.requires_grad] += len(batch)
        return trunk(batch).mean((2, 3, 4))[:, :5].log_softmax(-1)[:, 0]

    options = {key: value for key, value in {
        "steps": 5, "iterations": 3, "areas": (0.1, 0.3), "variants": ("preserve", "dual")}.items()
        if key in METHODS[name].options}
    heat_of(name, score, torch.randn(3, 8, 64, 64), trunk=trunk, options=options)
    passes = METHODS[name].passes(options)
    assert clips == [passes.forward, passes.gradients]
