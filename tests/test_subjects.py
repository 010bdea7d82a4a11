"""run/subjects.py: what is explained, a checkpoint's model or a trunk under its published head."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from attributable import CLIPS, TRUNK, TRUNK_LINE, WITHOUT_ATTENTION, attribution_folder, call
from trunks import CPU, light, on_meta

import local_attribution
from explain.heat import heat_of
from judging.heats import Heats
from models import TRUNKS, Trunk
from run import subjects
from run.model import model_of
from training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return attribution_folder(tmp_path_factory.mktemp("attribution"))


def test_a_checkpoint_of_the_trunk_epochs_is_explained_by_its_softmax_head(root, tmp_path, capsys):
    content = load_checkpoint(root / "save_1.pth") | {"done": ["trunk", 1, 1]}
    torch.manual_seed(0)
    content["model"]["pooled_head.weight"] = torch.randn_like(content["model"]["pooled_head.weight"])
    save_checkpoint(tmp_path / "trunk.pth", content)
    path = ["--resume_path", str(tmp_path / "trunk.pth")]
    args, _ = local_attribution.parse([*path, "--root_path", str(root), "--no_gpu"])
    subject = subjects.hipe_subject(args, content, tmp_path / "trunk.pth", CPU)
    clips = torch.randn(2, 3, 8, 24, 24)
    expected = subject.trunk(clips).mean((2, 3, 4)) @ subject.head[:3].T + content["model"]["pooled_head.bias"]
    found = subject.log_probs(clips)
    torch.testing.assert_close(found[:, :3], expected.log_softmax(-1))
    torch.testing.assert_close(found[:, :3].exp().sum(1), found[:, 3:].exp().sum(1))
    # heads of HIPE: Grad-CAM explains the log-probability, here and where it is judged
    model, clip = model_of(content, "trunk.pth")[0].eval(), clips[0]
    judged, = Heats(model, "softmax", (8, 24, 24), iterations=1, seed=1).of_nodes("grad_cam", [clip], [1], [0])
    by_hand = heat_of("grad_cam", lambda some: subject.log_probs(some)[:, 1], clip, trunk=subject.trunk)
    assert subject.logits is None and by_hand.amax() > 0
    torch.testing.assert_close(judged, by_hand)
    call(root, "--videos v_Jump_g01_c01 --level 1 --no_gpu --vis_method class_feature_pyramid", *path, "--out",
         str(tmp_path))
    assert (tmp_path / "class_feature_pyramid" / "trunk" / "level1" / "v_Jump_g01_c01.npy").exists()
    with pytest.raises(SystemExit):
        call(root, "--videos v_Jump_g01_c01 --prototype 1 --no_gpu", *path)
    assert "leave out --prototype" in capsys.readouterr().err


def test_class_names_may_be_a_list_or_indices(root, tmp_path):
    for content in (["b", "a"], {"a": 1, "b": 0}, {"labels": ["b", "a"]}):
        (tmp_path / "c.json").write_text(json.dumps(content))
        args, _ = local_attribution.parse(["--classes", "c.json", "--root_path", str(tmp_path), "--pretrain_path", "x",
                                           "--video", "y"])
        assert subjects.class_names(args, on_meta("resnet", 10)) == (["b", "a"], "--classes")


@pytest.mark.parametrize(("dataset", "word"), [("kinetics", "3 classes"), ("kinetics600", "--classes classes.json")])
def test_class_names_that_do_not_fit_or_are_not_shipped(root, dataset, word, capsys):
    with pytest.raises(SystemExit):
        call(root, f"--pretrain_path trunk.pth --pretrain_dataset {dataset} {TRUNK} {CLIPS} --videos_dir clips")
    said = capsys.readouterr().err
    assert f"--pretrain_dataset {dataset}" in said and word in said


@pytest.mark.parametrize("name", light(TRUNKS))
def test_every_published_head_is_found(name, tmp_path, monkeypatch):
    """By its name in the published layout, as a layer or a convolution of one cell."""
    kind = TRUNKS[name]
    trunk = on_meta(name, **kind.small).to_empty(device="cpu")
    n, key = trunk.out_channels, kind.layouts[0].heads[0]
    weight, bias = torch.randn(3, n), torch.randn(3)
    shape = (3, n, 1, 1, 1) if name in ("i3d", "s3d") else (3, n)
    content = {"state_dict": {f"module.{key}": torch.zeros_like(value) for key, value in trunk.state_dict().items()}
               | {f"module.{key}.weight": weight.view(shape), f"module.{key}.bias": bias}}
    monkeypatch.setattr("models.weights.read_state", lambda path: content)
    read = "class_token" if hasattr(kind, "class_token") else "forward"
    monkeypatch.setattr(trunk, read, lambda clips: torch.ones(2, n, *(1, 1, 1)[:3 * (read == "forward")]))
    monkeypatch.setattr(subjects, "build_trunk", lambda args: trunk)
    (tmp_path / "weights.pth").touch()
    (tmp_path / "c.json").write_text('["a", "b", "c"]')
    args, _ = local_attribution.parse(["--model", name, "--root_path", str(tmp_path), "--classes", "c.json", "--video",
                                       "x", "--pretrain_path", "weights.pth", "--vis_method", "grad"])
    subject = subjects.trunk_subject(args, CPU)
    assert torch.equal(subject.head, weight)
    expected = (weight.sum(1) + bias).log_softmax(0).expand(2, -1)
    torch.testing.assert_close(subject.log_probs(None), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [("r3d_18", 64), ("mc3_18", 64), ("r2plus1d_18", 64), ("s3d", 224),
                                            ("mvit_v2_s", 224), ("swin3d_t", 64)])
def test_trunks_predict_what_torchvisions_networks_do(name, size, tmp_path):
    torch.manual_seed(0)
    network = getattr(torchvision.models.video, name)(weights=None, num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (tmp_path / "c.json").write_text('["a", "b", "c"]')
    args, _ = local_attribution.parse(["--model", name, "--root_path", str(tmp_path), "--classes", "c.json", "--video",
                                       "x", "--pretrain_path", "w.pth", "--vis_method", "grad"])
    clips = torch.randn(2, 3, 16, size, size)
    torch.testing.assert_close(subjects.trunk_subject(args, CPU).log_probs(clips),
                               network(clips).log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_all_leaves_out_what_a_trunk_cannot_serve(root, tmp_path, monkeypatch, capsys):
    """And goes on with the others; asked for by name it is an error."""
    class Mixer(Trunk):
        out_channels, stride = 4, (8, 24, 24)

        def __init__(self):
            super().__init__()
            self.conv, self.mix = torch.nn.Conv3d(3, 3, 1), torch.nn.Linear(3 * 8 * 24 * 24, 4)

        def forward(self, clips):
            return self.mix(self.conv(clips).flatten(1)).view(-1, 4, 1, 1, 1)

    trunk, head = Mixer(), {"fc.weight": torch.randn(3, 4), "fc.bias": torch.zeros(3)}
    torch.save({"state_dict": trunk.state_dict() | head}, root / "mixer.pth")
    monkeypatch.setattr(subjects, "build_trunk", lambda args: trunk)
    (tmp_path / "weights.pth").touch()
    words = f"{TRUNK_LINE} --pretrain_path mixer.pth --video clips/run-first --num_iter 1"
    call(root, words.replace("clips/run-first", str(root / "clips" / "wave-x-y")) + " --vis_method all", "--out",
         str(tmp_path))
    said = capsys.readouterr().err
    assert "class_feature_pyramid is left out: it cannot explain this trunk" in said
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        method.replace("*", "_x_") for method in WITHOUT_ATTENTION
        if method != "class_feature_pyramid"}
    with pytest.raises(SystemExit) as stop:
        call(root, words.replace("clips/run-first", str(root / "clips" / "wave-x-y"))
             + " --vis_method class_feature_pyramid")
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and said.startswith("error: --vis_method class_feature_pyramid cannot explain")
