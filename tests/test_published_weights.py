"""Weights for images, weights by torchvision's names, stems of two widths; what holds of all is in contract.py."""

import urllib.error
from argparse import Namespace

import pytest
import torch
import torchvision
from tiny import random_tree, small_hipe
from trunks import on_meta, save, small

from datasets.transforms import NORMALISATIONS
from models import TRUNKS
from models.unwrapping import layouts
from models.weights import fit, is_named, load_pretrained
from run.model import load_trunk


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"])
def test_normalisations_are_torchvisions(name):
    preset = torchvision.models.get_model_weights(name).KINETICS400_V1.transforms()
    assert NORMALISATIONS[TRUNKS[name].layouts[0].normalisation] == (tuple(preset.mean), tuple(preset.std))


def test_clips_can_be_normalised_for_every_layout():
    """And no normalisation is there for nobody."""
    wanted = {one for layout in layouts() for one in (layout.normalisation, layout.uncounted) if one}
    assert wanted == set(NORMALISATIONS)


@pytest.mark.parametrize(("name", "library"), [
    pytest.param("resnet", "resnet18", marks=pytest.mark.slow),
    pytest.param("densenet", "densenet121", marks=pytest.mark.slow),
    ("tsm_mobilenetv2", "mobilenet_v2")])
def test_weights_for_images(tmp_path, name, library):
    """2D kernels are repeated in time and divided by the repeats; a network without time takes them as they are."""
    torch.manual_seed(2)
    flat = torchvision.models.get_model(library, weights=None)
    trunk, lines = TRUNKS[name](), []
    assert trunk.torchvision_name == library
    loaded = load_pretrained(trunk, save(tmp_path, flat.state_dict()), tell=lines.append)
    assert loaded.normalisation == "imagenet" and "normalised as imagenet" in lines[0]
    kernels = [value for value in trunk.state_dict().values() if value.dim() >= 4]
    theirs = [value for value in flat.state_dict().values() if value.dim() == 4]
    assert ("inflated" in lines[0]) == (kernels[0].dim() == 5) and "2D" in lines[0]
    for ours, flat_kernel in list(zip(kernels, theirs, strict=True))[:40]:
        if ours.dim() == 4:
            assert torch.equal(ours, flat_kernel)
            continue
        for t in range(ours.shape[2]):
            torch.testing.assert_close(ours[:, :, t], flat_kernel / ours.shape[2])


@pytest.mark.parametrize(("depth", "library"), [(50, "wide_resnet50_2"), (101, "wide_resnet101_2")])
def test_wide_weights_for_images(depth, library):
    """Those of torchvision have the shapes, but for the time that they are repeated over."""
    with torch.device("meta"):
        flat = torchvision.models.get_model(library, weights=None).state_dict()
    trunk = on_meta("wideresnet", depth)
    assert trunk.torchvision_name == library and not is_named(library)
    own = trunk.state_dict()
    assert own.keys() == {key for key in flat if not key.startswith("fc.")}
    assert all(fit(flat[key], value, False).shape == value.shape for key, value in own.items())


def test_weights_for_images_of_other_channels(tmp_path):
    """The mean of the first convolution, for each of the three channels."""
    flat = torchvision.models.resnet18(weights=None).state_dict()
    flat["conv1.weight"] = torch.randn(64, 5, 7, 7)
    trunk = on_meta("resnet", 18).to_empty(device="cpu")
    load_pretrained(trunk, save(tmp_path, flat))
    expected = flat["conv1.weight"].mean(1, keepdim=True).expand(-1, 3, -1, -1) / 7
    for t in range(7):
        torch.testing.assert_close(trunk.conv1.weight[:, :, t], expected)


@pytest.mark.parametrize("name", ["wideresnet", "resnext"])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_stem_takes_the_width_of_its_weights(tmp_path, name, shortcut):
    """Hara's paper and first weights have a narrow stem, the later code one as wide as layer1's planes."""
    later = small(name, shortcut=shortcut)
    wide = later.layer1[0].conv2.out_channels * 3
    state = dict(later.state_dict())
    state["conv1.weight"] = torch.randn(wide, *state["conv1.weight"].shape[1:])
    for key in ("weight", "bias", "running_mean", "running_var"):
        state[f"bn1.{key}"] = torch.rand(wide)
    for key in ["layer1.0.conv1.weight"] + ["layer1.0.downsample.0.weight"] * (shortcut == "B"):
        state[key] = torch.randn(len(state[key]), wide, 1, 1, 1)
    trunk = small(name, shortcut=shortcut)
    load_pretrained(trunk, save(tmp_path, {"state_dict": state}))
    again = small(name, shortcut=shortcut)
    again.load_state_dict(trunk.state_dict())  # as a checkpoint that is resumed
    clip = torch.randn(1, 3, 4, 32, 32)
    assert trunk.conv1.out_channels == wide and torch.equal(trunk.eval()(clip), again.eval()(clip))


# --- torchvision's own, by name


def test_names_of_torchvisions_weights():
    assert all(map(is_named, ("KINETICS400_V1", "IMAGENET1K_V2", "KINETICS400_IMAGENET22K_V1", "DEFAULT")))
    assert not any(map(is_named, ("r3d18_K_200ep.pth", "KINETICS400_V1.pth", "models/DEFAULT", "default")))


def test_weights_by_name_come_from_the_cache(tmp_path, monkeypatch):
    """Nothing is fetched where the file is there already."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(4)
    library = torchvision.models.mobilenet_v2(weights=None)
    url = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
    torch.save(library.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    trunk, lines = TRUNKS["tsm_mobilenetv2"](), []
    load_pretrained(trunk, "IMAGENET1K_V1", tell=lines.append)
    assert "IMAGENET1K_V1: weights of 2D MobileNetV2" in lines[0]
    assert torch.equal(trunk.base_model.features[0][0].weight, library.features[0][0].weight)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\3\4 cut off"])
def test_weights_by_name_that_are_damaged_in_the_cache(tmp_path, monkeypatch, content):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "s3d-d76dad2f.pth").write_bytes(content)
    said = r"KINETICS400_V1: .*s3d-d76dad2f.pth: .*(cannot be read|not a checkpoint).*; remove this file"
    with pytest.raises(ValueError, match=said):
        load_pretrained(TRUNKS["s3d"](), "KINETICS400_V1")


def test_weights_by_name_that_cannot_be_had(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match="KINETICS400_V1.*s3d-d76dad2f.*checkpoints.*no network.*as a file"):
        load_pretrained(TRUNKS["s3d"](), "KINETICS400_V1")
    with pytest.raises(ValueError, match="KINETICS400_V9.*it has KINETICS400_V1"):
        load_pretrained(TRUNKS["s3d"](), "KINETICS400_V9")
    with pytest.raises(ValueError, match="no such weights for this trunk; give a file"):
        load_pretrained(TRUNKS["mfnet"](), "KINETICS400_V1")


@pytest.mark.parametrize(("size", "published", "noted"), [
    ((16, 112), True, True), ((32, 96), True, True), ((32, 112), True, False), ((64, 224), True, False),
    ((16, 112), False, False)])
def test_clips_far_from_the_published_ones_are_noted(tmp_path, capsys, size, published, noted):
    """Not of a checkpoint of this program, whose clips may have been as small."""
    state = TRUNKS["i3d"]().state_dict()
    path = save(tmp_path, state if published else {
        "format": "hipe-1", "args": {"model": "i3d"}, "hierarchy_rows": [["a", "b"]],
        "model": {f"trunk.{key}": value for key, value in state.items()}})
    model = small_hipe(random_tree(4, 3, 5))
    model.trunk = TRUNKS["i3d"]()
    args = Namespace(pretrain_path=path, n_pretrain_classes=None, normalisation=None, model="i3d",
                     sample_duration=size[0], sample_size=size[1])
    load_trunk(args, model, random_tree(4, 3, 5))
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == noted
    for word in ("--sample_duration", "64 frames of 224", f"{size[0]} of {size[1]}"):
        assert all(word in line for line in notes)
