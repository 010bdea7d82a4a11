"""Half precision is float32 to two per cent, in outputs and in the gradient of every parameter, or is not used."""

import json

import pytest
import torch
import torch.nn.functional as F
from program import CALL, DATA, MODEL, QUICK, call, write_data
from tiny import noise_batch, random_tree, small_hipe
from torch import nn
from trainers import weights

from run.predict import predict
from training import precision
from training.checkpoint import load_checkpoint
from training.engine import Phase, Trainer
from training.features import valid_clips
from training.precision import DTYPES, Precision, check_compiler, choose_precision, prepare_device, right_gradients
from training.schedule import Step

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def smooth(module: nn.Module) -> nn.Module:
    """Without kinks: where rounding flips a ReLU or a maximum, the gradient jumps however right it is."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.Softplus())
        elif isinstance(child, nn.MaxPool3d):
            setattr(module, name, nn.AvgPool3d(3, child.stride, 1))
        else:
            smooth(child)
    return module


def gradients(kind: str, device: torch.device, how: Precision, *, layout: torch.memory_format = torch.channels_last_3d,
              compiled: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a step that moves nothing, and the gradient of every parameter."""
    model = smooth(small_hipe(random_tree(4, 3, 5))).to(device).to(memory_format=layout)
    if compiled:
        model.trunk.compile()
    phases = {name: Phase("sgd", 0.0, 0.0) for name in ("trunk", "joint")}
    trainer = Trainer(model, phases, weights(), focus=1, background=1, sure=0, precision=how)
    batch = next(iter(valid_clips([noise_batch([0, 3, 4, 3])], device)))
    batch["clip"] = batch["clip"].contiguous(memory_format=layout)
    loss = trainer.step(Step(kind, 1, 0), 0.0, batch)["loss"]
    return float(loss), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("kind", ["trunk", "joint"])
def test_a_step_in_float16_has_the_loss_and_gradients_of_float32(kind, device):
    loss, expected = gradients(kind, device, Precision(device))
    assert len(expected) > 30
    how = choose_precision("fp16", device)
    assert how.scaler is not None
    how.scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    assert_close(gradients(kind, device, how), (loss, expected))


def assert_close(found: tuple[float, dict[str, torch.Tensor]], expected: tuple[float, dict[str, torch.Tensor]]) -> None:
    """Loss and gradients are others' to two per cent."""
    assert found[0] == pytest.approx(expected[0], rel=0.02) and found[1].keys() == expected[1].keys()
    for name, value in found[1].items():
        assert (value - expected[1][name]).norm() <= 0.02 * expected[1][name].norm(), name


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["trunk", "joint"])
def test_a_step_in_the_fast_layout_and_compiled_has_the_loss_and_gradients_of_the_plain_one(kind, compiled, device):
    expected = gradients(kind, device, Precision(device), layout=torch.contiguous_format)
    assert_close(gradients(kind, device, Precision(device), compiled=compiled), expected)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("mode", DTYPES)
def test_every_layer_in_every_mode_has_the_outputs_and_gradients_of_float32(mode, device):
    """Layer by layer, given the same inputs: over many layers the rounding of bf16 adds up, though nothing is wrong."""
    model, how = small_hipe(random_tree(4, 3, 5)).to(device), choose_precision(mode, device)
    model = model.to(memory_format=torch.channels_last_3d)
    seen: list[tuple[str, nn.Module, torch.Tensor]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: seen.append((name, layer, inputs[0])))
    with torch.no_grad():
        model(next(iter(valid_clips([noise_batch([0, 3, 4, 3])], device)))["clip"])
    assert len(seen) > 10 and 2 in {inputs.shape[2] for _, _, inputs in seen}
    for name, layer, inputs in list(seen):
        found = []
        for precise in (Precision(device), how):
            leaf = inputs.clone().requires_grad_()
            with precise.in_training():
                out = layer(leaf).float()
            probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(device)
            found.append([out.detach(), *torch.autograd.grad((out * probe).sum(), [leaf, *layer.parameters()])])
        for value, expected in zip(found[1], found[0], strict=True):
            assert (value - expected).norm() <= 0.02 * expected.norm(), name


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_every_mode_predicts_as_float32(device):
    model, loader = small_hipe(random_tree(4, 3, 5)).to(device), [noise_batch([0, 3, 4])]
    for pooled in (False, True):
        expected = predict(model, loader, 3, device=device, pooled=pooled).probs
        for dtype in DTYPES.values():
            how = Precision(device, inference=dtype)
            found = predict(model, loader, 3, device=device, pooled=pooled, precision=how).probs
            assert (found - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize("spoil", [1.5, float("nan")])
def test_wrong_gradients_are_noticed_and_training_stays_in_float32(spoil, monkeypatch, capsys):
    convolve = F.conv3d

    def wrong(clips, weight, padding):
        two_frames = clips.shape[2] == 2 and torch.is_autocast_enabled("cpu")
        if two_frames:
            weight.register_hook(lambda gradient: gradient * spoil)
        return convolve(clips, weight, padding=padding)

    monkeypatch.setattr(precision.F, "conv3d", wrong)
    assert not right_gradients(CPU, torch.float16)
    how = choose_precision("fp16", CPU)
    assert (how.training, how.inference, how.scaler) == (None, torch.float16, None)
    assert "float32" in capsys.readouterr().err


def test_the_default_on_a_cpu_is_float32():
    how = choose_precision(None, CPU)
    assert how.training is how.inference is how.scaler is None


@pytest.mark.slow
def test_a_run_in_float16_keeps_its_scaler(tmp_path):
    data, results = write_data(tmp_path / "data", n_train=2), tmp_path / "results"
    call("--root_path", data, "--result_path", results, DATA, MODEL, QUICK, CALL, "--amp fp16 --no_val")
    scale = load_checkpoint(results / "save_1.pth")["scaler"]["scale"]
    assert scale > 0
    call("--resume_path auto --n_epochs 2 --result_path", results, CALL, "--amp fp16")
    found = load_checkpoint(results / "save_2.pth")
    assert found["scaler"]["_growth_tracker"] + found["scaler"]["scale"] > 0
    assert json.loads((results / "opts.json").read_text())["amp"] == "fp16"


def test_determinism_can_be_asked_for():
    try:
        prepare_device(CPU, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    finally:
        prepare_device(CPU, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark


@pytest.mark.slow
def test_a_compiled_trunk_is_the_trunk():
    model = small_hipe(random_tree(4, 3, 5))
    batch = next(iter(valid_clips([noise_batch([0, 3, 4])], CPU)))
    expected = model.eval()(batch["clip"]).log_probs
    keys = list(model.state_dict())
    model.trunk.compile()
    torch.testing.assert_close(model(batch["clip"]).log_probs, expected, rtol=1e-3, atol=1e-4)
    assert list(model.state_dict()) == keys


def test_without_a_compiler_that_is_said(monkeypatch):
    def compiled(function):
        def call(*_):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand much more")
        return call

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(ValueError, match="--compile: .*compiler"):
        check_compiler(CPU)
