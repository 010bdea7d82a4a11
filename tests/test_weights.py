"""Published weights load whatever their wrapping; whatever does not fit, but for the head, is named."""

import os
import pickle
import re
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from trunks import HEADS, SMALL, light, on_meta, save, small

from datasets.transforms import NORMALISATIONS as NORMALISATIONS_OF_CLIPS
from models import TRUNKS
from models.resnet3d import ResNet3D
from models.weights import LAYOUTS as KNOWN
from models.weights import fit, flags_of, is_named, layout_of, load_pretrained, read_state


def trunk(seed: int = 0, **options) -> ResNet3D:
    torch.manual_seed(seed)
    return ResNet3D(10, widen_factor=0.125, **options)


@pytest.fixture
def state():
    """A published state: another trunk's weights, and the head that comes with them."""
    return trunk(1).state_dict() | {"fc.weight": torch.zeros(400, 64), "fc.bias": torch.zeros(400)}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_load_whatever_their_wrapping(tmp_path, state, prefix, wrapped):
    content = {prefix + key: value for key, value in state.items()}
    if wrapped:
        content = {"epoch": 200, "arch": "resnet-10", "state_dict": content, "optimizer": {"state": {}}}
    model = trunk()
    assert sorted(load_pretrained(model, save(tmp_path, content)).dropped) == ["fc.bias", "fc.weight"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_strides_do_not_matter(tmp_path, state):
    model = trunk(temporal_strides=(1, 2, 2, 2, 2), spatial_strides=(2, 2, 2, 2, 1))
    load_pretrained(model, save(tmp_path, state))
    assert torch.equal(model.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])


def test_files_from_before_the_batch_norm_counters(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model = trunk()
    loaded = load_pretrained(model, save(tmp_path, old))
    assert torch.equal(model.bn1.running_mean, state["bn1.running_mean"])
    assert loaded.normalisation == "activitynet"  # they are Hara's first release


def test_misfits_are_listed_and_nothing_is_loaded(tmp_path, state):
    del state["layer2.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(8, 3, 3, 7, 7)
    model, before = trunk(), trunk().state_dict()
    with pytest.raises(ValueError) as caught:
        load_pretrained(model, save(tmp_path, state))
    said = str(caught.value)
    assert "kinetics.pth" in said and "--model_depth" in said
    assert "1 missing: layer2.0.conv1.weight;" in said
    assert "1 unexpected: layer9.weight;" in said
    assert "conv1.weight (8, 3, 3, 7, 7) instead of (8, 3, 7, 7, 7)" in said
    assert "fc" not in said
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_long_lists_are_counted(tmp_path, state):
    with pytest.raises(ValueError, match=r"40 missing: layer1.1.conv1.weight, .*\.\.\."):  # 10 in each of 4 blocks
        load_pretrained(ResNet3D(18, widen_factor=0.125), save(tmp_path, state))


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"state_dict": [1]}])
def test_another_kind_of_file(tmp_path, content):
    with pytest.raises(ValueError, match="kinetics.pth"):
        load_pretrained(trunk(), save(tmp_path, content))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_pretrained(trunk(), tmp_path / "nowhere.pth")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file(tmp_path, state, share):
    path = save(tmp_path, state)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="kinetics.pth.*truncated"):
        load_pretrained(trunk(), path)


class Unsafe:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save_with", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_a_pickle_that_runs_code_is_refused(tmp_path, save_with):
    path, marker = tmp_path / "unsafe.pth", tmp_path / "ran"
    save_with({"state_dict": {}, "extra": Unsafe(marker)}, path)
    with pytest.raises(ValueError, match="unsafe.pth"):
        read_state(path)
    assert not marker.exists()


def test_the_refusal_of_an_unsafe_pickle_says_how_to_convert_it(tmp_path):
    path = tmp_path / "unsafe.pth"
    torch.save({"state_dict": {}, "extra": Unsafe(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="convert it once.*weights_only=False"):
        read_state(path)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_the_safe_way_to_convert_a_file_works(tmp_path, state, wrap):
    """What it writes is read; here with the line's placeholders as names of files."""
    torch.save(wrap(state | {"extra": Path("old.pth")}), tmp_path / "OLD")
    with pytest.raises(ValueError) as caught:
        read_state(tmp_path / "OLD")
    line = re.search(r'python -c "(.*)"', str(caught.value))[1]
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    model = trunk()
    load_pretrained(model, tmp_path / "NEW", n_classes=400)
    assert torch.equal(model.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])


def test_the_classes_of_the_head(tmp_path, state):
    path = save(tmp_path, state)
    for n_classes in (400, None, 0):  # 0 is the published default
        load_pretrained(trunk(), path, n_classes=n_classes)
    with pytest.raises(ValueError, match="kinetics.pth.* 400 classes.*--n_pretrain_classes 700"):
        load_pretrained(trunk(), path, n_classes=700)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"])
def test_normalisations_are_torchvisions(name):
    preset = torchvision.models.get_model_weights(name).KINETICS400_V1.transforms()
    assert NORMALISATIONS_OF_CLIPS[NORMALISATIONS[name]] == (tuple(preset.mean), tuple(preset.std))


# --- published layouts

LAYOUTS = {"resnet": "Hara's ResNets", "preresnet": "Hara's ResNets", "wideresnet": "Hara's ResNets",
           "resnext": "Hara's ResNets", "resnet2p1d": "Hara's R(2+1)D", "densenet": "Hara's DenseNets",
           "r3d_18": "torchvision's video ResNets", "mc3_18": "torchvision's video ResNets",
           "r2plus1d_18": "torchvision's R(2+1)D", "s3d": "torchvision's S3D", "mvit_v2_s": "torchvision's MViT",
           "swin3d_t": "torchvision's video Swin", "i3d": "the PyTorch port of I3D", "i3d_resnet50": "Hara's ResNets",
           "tsm_resnet50": "TSM on ResNet", "tsm_mobilenetv2": "TSM on MobileNetV2", "mfnet": "MF-Net"}
NORMALISATIONS = {"i3d": "i3d", "mfnet": "mfnet", "mvit_v2_s": "mvit",
                  **dict.fromkeys(("swin3d_t", "tsm_resnet50", "tsm_mobilenetv2"), "imagenet"),
                  **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18", "s3d"), "torchvision")}


def first_dense_names(key: str) -> str:
    """DenseNet's names in Hara's first release, and in torchvision."""
    key = key.replace("features.conv1.", "features.conv0.").replace("features.norm1.", "features.norm0.")
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key)


def mobilenet_names(key: str) -> str:
    """MobileNetV2's names in TSM's code, where a block is one flat list: 0 1 2 expand, 3 4 5 depthwise, 6 7 project."""
    found = re.fullmatch(r"(.*features\.(\d+)\.conv\.)([\d.]+)\.((?:net\.)?\w+)", key)
    if found is None:
        return key
    block, number, place, rest = found.groups()
    flat = {"0.0": 0, "0.1": 1, "1": 3, "2": 4} if number == "1" else {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6,
                                                                       "3": 7}
    return f"{block}{flat[place]}.{rest}"


@pytest.mark.parametrize("name", light(TRUNKS))
def test_every_published_layout_loads(name, monkeypatch):
    """Names as published, wrapped as published: every tensor arrives, the head is named."""
    trunk = on_meta(name, **SMALL.get(name, {})).to_empty(device="cpu")
    own = {key: torch.rand(value.shape).to(value.dtype) for key, value in trunk.state_dict().items()}
    carry = {"densenet": first_dense_names, "tsm_mobilenetv2": mobilenet_names}.get(name, lambda key: key)
    head = HEADS.get(name, "fc")
    state = {f"module.{carry(key)}": value for key, value in own.items()}
    assert len(state) == len(own)
    state |= {f"module.{head}.weight": torch.zeros(400, 4), f"module.{head}.bias": torch.zeros(400)}
    content, lines = {"arch": f"{name}-x", "epoch": 3, "state_dict": state}, []
    monkeypatch.setattr("models.weights.read_state", lambda path: content)  # files as large as these take their time
    loaded = load_pretrained(trunk, "published.pth", n_classes=400, tell=lines.append)
    assert loaded.dropped == [f"{head}.weight", f"{head}.bias"]
    assert loaded.normalisation == NORMALISATIONS.get(name, "kinetics")
    assert all(torch.equal(value, own[key]) for key, value in trunk.state_dict().items())
    line, = lines
    assert LAYOUTS[name] in line and f"{len(own)} tensors" in line and f"{head}.bias" in line and f"{name}-x" in line
    assert "inflated" not in line


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


# --- what does not fit


def misfit(tmp_path, trunk, state) -> str:
    with pytest.raises(ValueError) as caught:
        load_pretrained(trunk, save(tmp_path, state))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("published", "cause"), [
    ({"depth": 18}, "--model_depth 18 (10 here)"), ({"shortcut": "A"}, "--resnet_shortcut A (B here)"),
    ({"widen_factor": 0.25}, "--resnet_widen_factor 0.25 (0.125 here)"), ({"conv1_t_size": 3}, "--conv1_t_size 3"),
    ({"depth": 50}, "--model_depth 50")])
def test_the_likeliest_cause(tmp_path, published, cause):
    other = ResNet3D(**{"depth": 10, "widen_factor": 0.125, **published})
    assert cause in misfit(tmp_path, trunk(), other.state_dict())


@pytest.mark.parametrize("name", ["preresnet", "wideresnet", "resnext", "resnet2p1d", "densenet", "mfnet", "i3d"])
def test_the_likeliest_cause_is_another_network(tmp_path, name):
    options = {"depth": 50, "widen_factor": 0.25, "cardinality": 4} if name == "resnext" else SMALL.get(name, {})
    if name == "preresnet":
        options = {"depth": 50, "widen_factor": 0.125}
    said = misfit(tmp_path, ResNet3D(50, widen_factor=0.125), TRUNKS[name](**options).state_dict())
    assert f"another network, --model {name}" in said


@pytest.mark.parametrize(("name", "here", "published", "cause"), [
    ("wideresnet", {}, {"k": 4}, "--wide_resnet_k 4 (2 here)"),
    ("wideresnet", {"k": 3}, {"k": 1, "widen_factor": 1.0}, "--wide_resnet_k 1 (3 here)"),
    ("wideresnet", {"depth": 101}, {"k": 4}, "--model_depth 50 (101 here), --wide_resnet_k 4 (2 here)"),
    ("resnext", {}, {"cardinality": 16}, "--resnext_cardinality 16 (32 here)")])
def test_the_likeliest_cause_is_a_flag_of_its_family(monkeypatch, name, here, published, cause):
    """By shapes alone."""
    content = {"state_dict": on_meta(name, **{"depth": 50, **published}).state_dict()}
    monkeypatch.setattr("models.weights.read_state", lambda path: content)
    with pytest.raises(ValueError) as caught:
        load_pretrained(on_meta(name, **{"depth": 50, **here}), "published.pth")
    assert f"the file wants {cause};" in str(caught.value)


def test_a_wide_stem_is_no_other_width(monkeypatch):
    """The later code's stem of 256 channels, with k = 4, into a trunk of k = 2."""
    published = on_meta("wideresnet", 50, k=4)
    published.fit_stem({"conv1.weight": torch.empty(256, 3, 7, 7, 7, device="meta")})
    monkeypatch.setattr("models.weights.read_state", lambda path: published.state_dict())
    with pytest.raises(ValueError, match=r"the file wants --wide_resnet_k 4 \(2 here\);"):
        load_pretrained(on_meta("wideresnet", 50), "published.pth")


@pytest.mark.parametrize(("name", "library"), [
    ("tsm_resnet50", "resnet101"), ("swin3d_t", "swin3d_s"), ("swin3d_t", "swin3d_b"), ("mvit_v2_s", "mvit_v1_b")])
def test_the_likeliest_cause_is_another_size(monkeypatch, name, library):
    with torch.device("meta"):
        state = torchvision.models.get_model(library, weights=None).state_dict()
    if name == "tsm_resnet50":
        state = {"base_model." + re.sub("(layer.*conv1)", r"\1.net", key): value for key, value in state.items()}
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match="the likeliest cause: another depth or size of this network;"):
        load_pretrained(on_meta(name), "published.pth")


def test_a_trunk_without_depths_is_told_of_no_flags(monkeypatch):
    with torch.device("meta"):
        state = torchvision.models.resnet101(weights=None).state_dict()
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match=r"another network, --model resnet --model_depth 101 .*; check --model$"):
        load_pretrained(on_meta("i3d_resnet50"), "published.pth")


@pytest.mark.parametrize("name", ["i3d", "resnet", "mfnet"])
def test_the_likeliest_cause_is_optical_flow(monkeypatch, name):
    trunk = on_meta(name)
    state = trunk.state_dict()
    first = next(iter(state))
    state[first] = torch.empty(len(state[first]), 2, *state[first].shape[2:], device="meta")
    monkeypatch.setattr("models.weights.read_state", lambda path: state)
    with pytest.raises(ValueError, match=r"made for 2 input channels \(optical flow\?\);"):
        load_pretrained(trunk, "published.pth")


def test_shapes_that_no_network_has(tmp_path):
    """Scalars, or vectors, in place of kernels; and a head that tells nothing apart."""
    state = trunk().state_dict()
    for value in (torch.tensor(1.0), torch.zeros(2)):
        assert "a damaged file" in misfit(tmp_path, trunk(), dict.fromkeys(state, value))
        misfit(tmp_path, small("resnext"), dict.fromkeys(small("resnext").state_dict(), value))
    path = save(tmp_path, {**state, "fc.weight": torch.tensor(1.0), 0: torch.zeros(1)})
    assert load_pretrained(trunk(), path).dropped == ["fc.weight"]
    with pytest.raises(ValueError, match="no head that could tell --n_pretrain_classes 4 apart"):
        load_pretrained(trunk(), path, n_classes=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_loaded(tmp_path, value):
    model, before, state = trunk(), trunk().state_dict(), trunk().state_dict()
    model.load_state_dict(before)
    state["layer2.0.conv1.weight"][0, 0, 0, 0, 0] = value
    said = misfit(tmp_path, model, state)
    assert "1 tensors" in said and "not finite: layer2.0.conv1.weight;" in said
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_clips_can_be_normalised_for_every_layout():
    assert {normalisation for _, _, normalisation in KNOWN.values()} | {"activitynet"} == set(NORMALISATIONS_OF_CLIPS)


def test_flags_are_told_by_shapes():
    state = TRUNKS["resnext"](50, widen_factor=0.25, cardinality=4, shortcut="A", conv1_t_size=3).state_dict()
    assert flags_of(state) == {"--model": "resnext", "--model_depth": 50, "--resnet_shortcut": "A",
                               "--conv1_t_size": 3, "--resnext_cardinality": 4}
    assert layout_of({"a": torch.zeros(1)})[1] is None and flags_of({"a": torch.zeros(1)}) == {}


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
    with pytest.raises(ValueError, match=r"KINETICS400_V1: .*s3d-d76dad2f.pth: cannot be read.*; remove this file"):
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
