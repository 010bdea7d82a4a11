"""What is exported answers as the model does, for any number of clips at a time, or is not written."""

import json
import sys

import pytest
import torch
from tiny import embedded, random_tree, small_hipe
from trunks import small

from datasets.transforms import _scale_and_shift, normalise
from models import HIPE, TRUNKS
from options.errors import user_errors
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_model, fresh_embedding
from training.checkpoint import save_checkpoint
from util_scripts import export

TREE = random_tree(4, 2, 5)
FLAGS = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1 --sample_size 32 "
         "--sample_duration 8 --prototype_channels 6 --prototypes_per_node 2")


@pytest.fixture(scope="module", params=["tree", "hyperbolic"])
def trained(request, tmp_path_factory):
    """A checkpoint and the model in it."""
    args, _ = parse_main([*FLAGS.split(), "--score", request.param])
    args = resolve(args)
    torch.manual_seed(0)
    points, c = fresh_embedding(args, TREE, None)
    model = build_model(args, TREE, points, c).eval()
    path = tmp_path_factory.mktemp("trained") / "save_1.pth"
    save_checkpoint(path, {
        "done": ["last", 1, 0], "args": vars(args), "hierarchy_rows": [list(row) for row in TREE.rows],
        "embedding": {"points": points, "c": c}, "model": model.state_dict(), "optimizers": {}, "rng": {},
        "push_record": None})
    return path, model


def call(*words) -> None:
    with user_errors():
        export.main([str(word) for word in words])


def in_onnxruntime(path):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: map(torch.from_numpy, session.run(None, {"clips": clips.numpy()}))


@torch.no_grad()
@pytest.mark.parametrize(("form", "load"), [
    pytest.param("export", lambda path: torch.export.load(path).module(), marks=pytest.mark.slow),
    pytest.param("onnx", in_onnxruntime, marks=pytest.mark.slow),
    ("torchscript", torch.jit.load)])
def test_the_file_answers_as_the_model(trained, tmp_path, capsys, form, load):
    path, model = trained
    if form == "onnx":
        pytest.importorskip("onnxscript")
    _scale_and_shift.cache_clear()  # as in a process that has seen no clip
    call("--resume_path", path, "--format", form, tmp_path / "served.pt")
    assert "served.pt: largest difference" in capsys.readouterr().out
    served = load(tmp_path / "served.pt")
    for n in (1, 4):
        clips = torch.randint(256, (n, 3, 8, 32, 32), dtype=torch.uint8)
        expected = model(normalise(clips))
        log_probs, activations, cells = served(clips)
        torch.testing.assert_close(log_probs, expected.log_probs, atol=1e-4, rtol=0)
        torch.testing.assert_close(activations, expected.activations, atol=1e-4, rtol=0)
        assert torch.equal(cells, expected.cells)
    told = json.loads((tmp_path / "served.json").read_text())
    assert told["input"] == {"dtype": "uint8", "channels": "RGB", "frames": 8, "size": 32, "frame_stride": 1}
    assert [node["name"] for node in told["nodes"]] == [TREE.full_name(node) for node in range(len(TREE))]
    assert told["prototype_nodes"] == model.prototype_layer.node_of.tolist()
    assert (told["grid"], told["stride"]) == ([2, 4, 4], [4, 8, 8])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [*((name, "export") for name in TRUNKS), *(
    (name, "onnx") for name in ("s3d", "swin3d_t", "i3d", "tsm_mobilenetv2", "mfnet"))])
def test_every_trunk_goes_through(name, form):
    """As TorchScript they do in test_trunks_main.py, and a ResNet as ONNX above."""
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = HIPE(small(name), TREE, embedded(TREE), channels=4, per_node=2)
    serving, size = export.Serving(model.eval().requires_grad_(False)), (8, 32, 32)
    _, load = export.FORMATS[form](serving, torch.zeros(2, 3, *size, dtype=torch.uint8))
    assert export.differences(serving, load(), size) <= export.TOLERANCE


def test_packages_that_are_not_installed(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = refused(capsys, "--resume_path", trained[0], "--format", "onnx", tmp_path / "served.onnx")
    assert "onnxruntime" in said and "requirements-export.txt" in said and not list(tmp_path.iterdir())


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as caught:
        call(*words)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_what_answers_differently_is_not_written(trained, tmp_path, capsys, monkeypatch):
    path, _ = trained

    def spoilt(serving, clips):
        return b"", lambda: lambda clips: tuple(value + value.is_floating_point() for value in serving(clips))

    monkeypatch.setitem(export.FORMATS, "export", spoilt)
    assert "off by 1" in refused(capsys, "--resume_path", path, tmp_path / "served.pt2")
    monkeypatch.setitem(export.FORMATS, "export", lambda *_: 1 / 0)
    said = refused(capsys, "--resume_path", path, tmp_path / "served.pt2")
    assert "ZeroDivisionError" in said and "--format torchscript" in said
    monkeypatch.setitem(export.FORMATS, "export", silent)
    assert "AssertionError" in refused(capsys, "--resume_path", path, tmp_path / "served.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("moved", "difference"), [
    (lambda cells: (cells + 1) % 32, ""), (lambda cells: cells - 32, "inf"), (lambda cells: cells[:, :1], "inf")])
def test_cells_that_are_not_the_models_are_not_written(trained, tmp_path, capsys, monkeypatch, moved, difference):
    def spoilt(serving, clips):
        def answer(clips):
            log_probs, activations, cells = serving(clips)
            return log_probs, activations, moved(cells)
        return b"", lambda: answer

    monkeypatch.setitem(export.FORMATS, "export", spoilt)
    assert f"off by {difference}" in refused(capsys, "--resume_path", trained[0], tmp_path / "served.pt2")
    assert not list(tmp_path.iterdir())


def test_cells_that_match_equally_well_may_stand_for_each_other():
    """Prototypes that are as far from everything resemble no cell more than another."""
    model = small_hipe(TREE).eval().requires_grad_(False)
    model.prototype_layer.prototypes.fill_(1e4)
    serving = export.Serving(model)

    def other(clips):
        log_probs, activations, cells = serving(clips)
        return log_probs, activations, (cells + 1) % 32

    assert export.differences(serving, other, (8, 32, 32)) <= export.TOLERANCE
    worst = export.differences(serving, lambda clips: (serving(clips)[0] * torch.nan, *serving(clips)[1:]), (8, 32, 32))
    assert not worst <= export.TOLERANCE


def silent(*_):
    raise AssertionError


def test_nothing_else_is_overwritten(trained, tmp_path, capsys):
    path, _ = trained
    before = path.read_bytes()
    assert "the checkpoint itself" in refused(capsys, "--resume_path", path, path)
    assert path.read_bytes() == before
    (tmp_path / "opts.json").write_text("{}")
    assert "opts.json: is there already" in refused(capsys, "--resume_path", path, tmp_path / "opts.pt2")
    assert "is a folder" in refused(capsys, "--resume_path", path, tmp_path)
    assert (tmp_path / "opts.json").read_text() == "{}"


def test_a_trunk_alone_is_not_served(trained, tmp_path, capsys):
    torch.save({**torch.load(trained[0], weights_only=True), "done": ["trunk", 1, 0]}, tmp_path / "trunk.pth")
    said = refused(capsys, "--resume_path", tmp_path / "trunk.pth", tmp_path / "served.pt2")
    assert "trunk.pth" in said and "save_*.pth" in said


def test_bad_input(trained, tmp_path, capsys):
    assert "nowhere.pth" in refused(capsys, "--resume_path", tmp_path / "nowhere.pth", tmp_path / "served.pt2")
    assert "served.json" in refused(capsys, "--resume_path", trained[0], tmp_path / "served.json")
