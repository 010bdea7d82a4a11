"""Folders of the hub: what config.json, the processor's file and the tensors say, and what is said of bad ones."""

import json
import re
from argparse import Namespace

import pytest
import torch
from hub import FAMILIES, library_network, published
from trunks import CPU, clips

import local_attribution
from datasets.transforms import NORMALISATIONS, normalise
from models import TRUNKS, hub_files
from models.hub_files import class_names, config_text, normalisation_in
from models.state_files import read_state
from models.weights import load_pretrained
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_trunk
from run.subjects import trunk_subject
from run.weights import weights_of

SIZE = (8, 32, 32)
LABELS = ["Run", "Jump", "Wave"]


def flags(name: str, folder, *more: str) -> Namespace:
    return resolve(parse_main(["--model", name, "--pretrain_path", str(folder), *more])[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_says_all(name, tmp_path):
    """Sizes, tensors of the encoder, head and classes; who else is in the file is left out and named."""
    network, lines = published(tmp_path, name, labels=LABELS), []
    args = flags(name, tmp_path)
    assert args.model_depth is None and json.loads(args.trunk_config)["num_hidden_layers"] == 2
    trunk = build_trunk(args)
    assert trunk.clip == (8, 32) and trunk.out_channels == 24 and trunk.stride[1:] == (8, 8)
    loaded = load_pretrained(trunk, tmp_path, n_classes=3, tell=lines.append)
    assert set(loaded.head) == {"classifier.weight", "classifier.bias"} and loaded.published
    assert torch.equal(loaded.head["classifier.weight"], network.classifier.weight)
    assert loaded.normalisation == TRUNKS[name].layouts[0].normalisation
    line, = lines
    licence = {"videomae": "non-commercial", "timesformer": "non-commercial", "vjepa2": "MIT or Apache-2.0",
               "vivit": "MIT"}[name]
    assert licence in line and "the hub's" in line
    assert ("vjepa2.predictor" in line) == (name == "vjepa2")
    with pytest.raises(ValueError, match="3 classes"):
        load_pretrained(trunk, tmp_path, n_classes=24)  # the width of what stands before the classifier


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_published_head_says_what_the_library_says(name, tmp_path, capsys):
    network = published(tmp_path / "w", name, labels=LABELS)
    args, _ = local_attribution.parse(["--model", name, "--pretrain_path", "w", "--root_path", str(tmp_path), "--video",
                                       "x"])
    subject = trunk_subject(args, CPU)
    some = clips(2, SIZE)
    torch.testing.assert_close(subject.logits(some), network(some.transpose(1, 2)).logits, atol=1e-4, rtol=1e-4)
    assert list(subject.hierarchy.names) == LABELS and "weights of the hub's" in capsys.readouterr().err
    assert (subject.pooler is not None) == (name in ("videomae", "vjepa2"))


def test_a_head_that_reads_the_first_cell(tmp_path):
    """The library's VideoMAE without mean pooling."""
    sizes = json.loads(TRUNKS["videomae"].small["config"]) | {"use_mean_pooling": False}
    network = published(tmp_path / "w", "videomae", sizes, labels=LABELS)
    args, _ = local_attribution.parse(["--model", "videomae", "--pretrain_path", str(tmp_path / "w"), "--video", "x"])
    subject, some = trunk_subject(args, CPU), clips(2, SIZE)
    torch.testing.assert_close(subject.logits(some), network(some.transpose(1, 2)).logits, atol=1e-4, rtol=1e-4)


def test_weights_of_pretraining(tmp_path):
    """Their decoder is left out, and named; there is no head of classes."""
    sizes = json.loads(TRUNKS["videomae"].small["config"]) | {
        "use_mean_pooling": False, "decoder_hidden_size": 24, "decoder_num_attention_heads": 2,
        "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 32}
    published(tmp_path, "videomae", sizes, kind="VideoMAEForPreTraining")
    lines = []
    loaded = load_pretrained(build_trunk(flags("videomae", tmp_path)), tmp_path, tell=lines.append)
    assert not loaded.head and "decoder" in lines[0] and "mask_token" in lines[0] and "no head" in lines[0]


def test_files_in_parts_files_of_pytorch_and_the_librarys_own_names(tmp_path):
    network = library_network("vivit")
    network.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    network.save_pretrained(tmp_path / "whole")
    state = read_state(tmp_path / "whole" / "model.safetensors")
    (tmp_path / "bin").mkdir()
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    (tmp_path / "own").mkdir()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "own" / "w.pth")
    config = TRUNKS["vivit"].small["config"]
    features = []
    for source in (tmp_path / "parts", tmp_path / "whole", tmp_path / "whole" / "model.safetensors", tmp_path / "bin",
                   tmp_path / "own" / "w.pth"):
        trunk = build_trunk(flags("vivit", source, *(["--trunk_config", config] if "own" in str(source) else [])))
        load_pretrained(trunk, source)
        with torch.no_grad():
            features.append(trunk.eval()(clips(1, SIZE)))
    assert all(torch.equal(features[0], other) for other in features)


@pytest.mark.parametrize(("processor", "expected"), [
    ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, "imagenet"),
    ({"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_rescale": True}, "mvit"),
    ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}, "i3d"),
    ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5, "offset": True}, "vivit"),
    ({"do_normalize": False, "rescale_factor": 1 / 127.5, "offset": True}, "i3d"),
    ({"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375], "do_rescale": False}, "imagenet"),
    ({"size": 224}, None), (None, None)])
@pytest.mark.parametrize("file", ["preprocessor_config.json", "video_preprocessor_config.json"])
def test_the_processor_says_how_clips_are_normalised(tmp_path, processor, expected, file):
    """As it would do it to a pixel."""
    if processor is not None:
        (tmp_path / file).write_text(json.dumps(processor))
    assert normalisation_in(tmp_path) == expected
    if expected is not None:
        pixels = torch.tensor([0, 100, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(3, 3, 1, 1)
        scaled = pixels.float() * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
        scaled = scaled - float(processor.get("offset", False))
        if processor.get("do_normalize", True):
            mean, std = (torch.tensor(processor[key]).view(3, 1, 1, 1) for key in ("image_mean", "image_std"))
            scaled = (scaled - mean) / std
        torch.testing.assert_close(normalise(pixels, expected), scaled, atol=0.01, rtol=0.01)


def test_the_librarys_vivit_processor_normalises_as_is_said(tmp_path):
    import transformers

    processor = transformers.VivitImageProcessor(do_resize=False, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = processor(list(pixels), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    assert normalisation_in(tmp_path, centred=True) == "vivit" == normalisation_in(tmp_path)
    torch.testing.assert_close(theirs[0], normalise(pixels.transpose(0, 1), "vivit").transpose(0, 1), atol=1e-5,
                               rtol=1e-5)


def test_the_normalisations_of_processors_are_those_of_clips():
    assert all(NORMALISATIONS[name] == values for name, values in hub_files.USUAL.items())


def test_a_normalisation_without_a_name_is_one_sentence(tmp_path):
    published(tmp_path, "videomae")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [1.0] * 3}))
    with pytest.raises(ValueError, match=r"preprocessor_config.json.*--normalisation"):
        load_pretrained(build_trunk(flags("videomae", tmp_path)), tmp_path)


def test_class_names_of_numbers_alone_are_none(tmp_path):
    for content, expected in (({"id2label": {"1": "b", "0": "a"}}, ["a", "b"]), ({}, None),
                              ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None), ({"id2label": {"7": "a"}}, None)):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert class_names(tmp_path) == expected


# --- sizes


def test_sizes_are_kept_as_one_line_of_json(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "videomae", "hidden_size": 24, "id2label": {"0": "a"}, "dtype": "float32", "image_size": 32}))
    known = {"family": "videomae", "known": TRUNKS["videomae"].known}
    expected = '{"hidden_size":24,"image_size":32}'
    for given, source in (("", tmp_path), (str(tmp_path), None), (str(tmp_path / "config.json"), "no such file"),
                          ('{"image_size": 32, "hidden_size": 24}', tmp_path)):
        assert config_text(given, source, **known) == expected
    assert config_text("", None, **known) == config_text("", tmp_path / "none.pth", **known) == "{}"
    assert config_text(expected, None, **known) == expected
    with pytest.raises(ValueError, match=r"config.json: describes videomae, not vivit; give --model videomae, or "):
        config_text("", tmp_path, family="vivit", known=())
    with pytest.raises(ValueError, match=r"--trunk_config: describes bert, .*no --model is of that kind"):
        config_text('{"model_type":"bert"}', None, family="vivit", known=())
    with pytest.raises(FileNotFoundError, match=r"gone.json: no such file"):
        config_text("gone.json", None, family="vivit", known=())
    with pytest.raises(ValueError, match="--trunk_config: no JSON"):
        config_text("{hidden", None, **known)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"config.json: cannot be read as JSON"):
        config_text("", tmp_path, **known)


def test_a_depth_is_of_the_published_sizes_and_a_config_says_its_own(tmp_path):
    published(tmp_path, "videomae")
    assert flags("videomae", "w.pth", "--model_depth", "24").model_depth == 24
    assert flags("videomae", "w.pth").model_depth == 12
    with pytest.raises(ValueError, match="--model_depth 24 contradicts"):
        build_trunk(flags("videomae", tmp_path, "--model_depth", "24"))
    with pytest.raises(ValueError, match="--trunk_config means nothing to --model resnet"):
        resolve(parse_main(["--trunk_config", "{}", "--model", "resnet"])[0])


# --- what is not there


def test_folders_that_lack_something(tmp_path):
    trunk = TRUNKS["videomae"](**TRUNKS["videomae"].small)
    with pytest.raises(FileNotFoundError, match=r"without config.json"):
        load_pretrained(trunk, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has none of model.safetensors"):
        load_pretrained(trunk, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{" + bytes(3))
    with pytest.raises(ValueError, match=r"model.safetensors: "):
        load_pretrained(trunk, tmp_path)
    published(tmp_path, "videomae")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"model.safetensors: a safetensors file that cannot be read.*fetch it again"):
        load_pretrained(trunk, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"model-1.safetensors: no such file"):
        load_pretrained(trunk, tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "model-1.safetensors")
    with pytest.raises(ValueError, match=r"model-1.safetensors: no mapping"):
        load_pretrained(trunk, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ValueError, match=r"index.json: without a weight_map"):
        load_pretrained(trunk, tmp_path)


@pytest.mark.parametrize("other", ["vjepa2", "vivit", "timesformer"])
def test_weights_of_another_family_are_told(other, tmp_path):
    published(tmp_path, other)
    trunk = TRUNKS["videomae"](**TRUNKS["videomae"].small)
    with pytest.raises(ValueError, match=f"another network, --model {other}"):
        load_pretrained(trunk, tmp_path / "model.safetensors")


def test_a_path_goes_before_a_name_of_the_hub(tmp_path):
    args = Namespace(root_path=str(tmp_path), pretrain_path="some/folder", model="videomae")
    assert weights_of(args) == "some/folder"
    (tmp_path / "some" / "folder").mkdir(parents=True)
    assert weights_of(args) == str(tmp_path / "some" / "folder")
    args.model, args.pretrain_path = "resnet", "some/file"
    assert weights_of(args) == str(tmp_path / "some" / "file")


def test_safetensors_are_read_for_every_trunk(tmp_path):
    from safetensors.torch import save_file

    trunk = TRUNKS["resnet"](10, widen_factor=0.125)
    state = trunk.state_dict() | {"fc.weight": torch.randn(7, trunk.out_channels), "fc.bias": torch.zeros(7)}
    save_file(state, tmp_path / "w.safetensors")
    other = TRUNKS["resnet"](10, widen_factor=0.125)
    assert len(load_pretrained(other, tmp_path / "w.safetensors", n_classes=7).head["fc.bias"]) == 7
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def test_requirements_pin_the_library():
    from program import ROOT
    assert re.search(r"^transformers==\d+\.\d+\.\d+$", (ROOT / "requirements-transformers.txt").read_text(), re.M)
