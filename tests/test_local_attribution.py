"""local_attribution.py by its command line: checkpoints and trunks, what is written, what is said of bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from media import shades, write_frames, write_video
from PIL import Image
from test_trunks import SMALL, light, on_meta
from test_weights import HEADS

import build
import local_attribution
from attribution import METHODS
from datasets.reading import CachedReader
from hierarchy.embeddings import fit_embeddings
from hierarchy.tree import Hierarchy
from models import TRUNKS
from models.resnet3d import ResNet3D
from options import parse_main, resolve
from training.checkpoint import save_checkpoint
from util_scripts.errors import user_errors

ROWS = [("Run", "Legs"), ("Jump", "Legs"), ("Wave", "Arms")]
TRUNK = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1")
CLIPS = "--sample_size 24 --sample_duration 8 --no_gpu --num_iter 2 --steps 2"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Weights of a trunk with a head, class names, a checkpoint, and videos of several kinds."""
    root = tmp_path_factory.mktemp("attribution")
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.125, conv1_t_size=3)
    state = {f"module.{key}": value for key, value in trunk.state_dict().items()}
    torch.save({"state_dict": state}, root / "headless.pth")
    state |= {"module.fc.weight": torch.randn(3, trunk.out_channels), "module.fc.bias": torch.zeros(3)}
    torch.save({"state_dict": state}, root / "trunk.pth")
    (root / "classes.json").write_text(json.dumps([row[0] for row in ROWS]))

    write_frames(root / "clips" / "run-first one", shades(12))
    write_frames(root / "clips" / "wave-x-y", shades(8)[::-1])
    write_video(root / "clips" / "Jump" / "leap.avi", shades(9))

    flags = f"{TRUNK} --sample_size 24 --sample_duration 8 --prototype_channels 4 --prototypes_per_node 2 --emb_dim 8"
    args, _ = parse_main(flags.split())
    resolve(args)
    tree = Hierarchy.from_rows(ROWS)
    points = fit_embeddings(tree, dim=8, edge=1.5)
    model = build.build_model(args, tree, points, 1.0)
    args.root_path, args.video_path, args.annotation_path = str(root), str(root / "jpg"), str(root / "a.json")
    save_checkpoint(root / "save_1.pth", {
        "done": ["last", 1, 1], "args": vars(args), "hierarchy_rows": [list(row) for row in ROWS],
        "embedding": {"points": points, "c": 1.0}, "model": model.state_dict(), "optimizers": {}, "rng": {},
        "push_record": None})
    database = {}
    for i, (name, *_) in enumerate(ROWS):
        info = {"n_frames": 12, "height": 24, "width": 32, "fps": 10}
        write_frames(root / "jpg" / name / f"v_{name}_g01_c01", np.roll(shades(12), i, 2), info=info)
        database[f"v_{name}_g01_c01"] = {"subset": "validation", "annotations": {"label": name, "segment": [1, 13]}}
    (root / "a.json").write_text(json.dumps({"labels": [row[0] for row in ROWS], "database": database}))
    return root


def call(root: Path, line: str, *more: str) -> None:
    with user_errors():
        local_attribution.main([*line.split(), "--root_path", str(root), *more])


TRUNK_LINE = f"--pretrain_path trunk.pth --classes classes.json {TRUNK} {CLIPS}"


def test_a_trunk_explains_folders_and_files_by_every_method(root, tmp_path, capsys):
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method all --save_label try --tubes kernels", "--out",
         str(tmp_path))
    names = ["leap", "run-first one", "wave-x-y"]
    for method in METHODS:
        folder = tmp_path / method.replace("*", "_x_") / "resnet-10" / "try"
        assert {path.stem for path in folder.glob("*.npy")} == set(names), method
        for name in names:
            heat = np.load(folder / f"{name}.npy")
            assert heat.shape == (8, 24, 24) and np.isfinite(heat).all() and heat.min() >= 0
            with Image.open(folder / f"{name}.gif") as image:
                assert image.n_frames > 1
            with Image.open(folder / f"{name}.png") as image:
                assert image.width > 8 * 100
    with np.load(tmp_path / "class_feature_pyramid" / "resnet-10" / "try" / "leap_tubes.npz") as tubes:
        assert tubes["layer1"].shape == (8, 24, 24) and tubes["kernels1"].ndim == 4
    graph = json.loads((tmp_path / "class_feature_pyramid" / "resnet-10" / "try" / "leap_pyramid.json").read_text())
    assert graph["layers"][0]["name"] == "features" and graph["edges"]
    page = (tmp_path / "resnet-10-try.html").read_text()
    assert "://" not in page and page.count("data:image/webp;base64,") >= 3 * len(METHODS)
    assert all(f"<b>{method}</b>" in page for method in METHODS) and "prefers-color-scheme: dark" in page
    for label in ("Run", "Jump", "Wave"):
        assert f"<dd>{label}, " in page  # the true classes, by their folders
    said = capsys.readouterr()
    assert "3 clips explained" in said.out and "raise --num_iter" in said.err


@pytest.mark.parametrize(("flags", "where", "title"), [
    ("--target Wave", "hipe", "Wave"), ("--level 1 --target true", "hipe/level1", "Legs"),
    ("--prototype 9", "hipe/prototype9", "prototype 9 of Arms")])
def test_a_checkpoint_explains_classes_ancestors_and_prototypes(root, tmp_path, flags, where, title):
    call(root, f"--resume_path save_1.pth --videos v_Jump_g01_c01 --num_iter 2 --no_gpu {flags}", "--vis_method",
         "grad_cam", "3d_ep", "--out", str(tmp_path))
    for method in ("grad_cam", "3d_ep"):
        assert np.load(tmp_path / method / where / "v_Jump_g01_c01.npy").shape == (8, 24, 24)
    assert f">{title}</h2>" in (tmp_path / f"{where.replace('/', '-')}.html").read_text()


def test_a_file_of_no_known_class(root, tmp_path):
    call(root, f"{TRUNK_LINE} --vis_method random", "--video", str(root / "clips" / "Jump" / "leap.avi"), "--out",
         str(tmp_path))
    assert "not known" in (tmp_path / "resnet-10.html").read_text()


def test_a_single_class_has_no_second_prediction(root, tmp_path):
    content = torch.load(root / "trunk.pth")["state_dict"]
    content |= {f"module.fc.{name}": content[f"module.fc.{name}"][:1] for name in ("weight", "bias")}
    torch.save({"state_dict": content}, root / "one.pth")
    (root / "one.json").write_text('["Run"]')
    call(root, f"{TRUNK_LINE} --pretrain_path one.pth --classes one.json --vis_method random", "--video",
         str(root / "clips" / "run-first one"), "--out", str(tmp_path))
    page = (tmp_path / "resnet-10.html").read_text()
    assert "<dt>prediction</dt>" in page and "<dt>then</dt>" not in page


def test_a_file_and_its_frames_keep_their_own_heat(root, tmp_path):
    write_frames(tmp_path / "twins" / "run-1", shades(12))
    write_video(tmp_path / "twins" / "run-1.avi", shades(9))
    call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(tmp_path / "twins"), "--out",
         str(tmp_path / "out"))
    assert len(list(tmp_path.glob("out/random/resnet-10/*.npy"))) == 2


def test_clips_smaller_than_a_trunks_tiles_are_said():
    trunk = torch.nn.AvgPool3d((2, 4, 4))
    build.check_size(trunk, (2, 4, 4))
    with pytest.raises(ValueError, match="1 frames of 8 x 8 pixels are too small"):
        build.check_size(trunk, (1, 8, 8))


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path):
    for i, name in enumerate(("f2.png", "f10.png", "f1.png")):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(tmp_path / name)
    reader = CachedReader(local_attribution.AnyVideo(), 10 ** 6)
    assert reader.frames(tmp_path)[:, 0, 0, 0].tolist() == [20, 0, 10]
    assert reader.info(tmp_path).n_frames == 3 and reader.size(tmp_path) == (4, 6)


def test_trunks_may_be_called_as_elsewhere():
    args, _ = local_attribution.parse(["--model", "r2plus1d", "--pretrain_path", "x", "--video", "y"])
    assert args.model == "r2plus1d_18"


def test_class_names_may_be_a_list_or_indices(root, tmp_path):
    for content in (["b", "a"], {"a": 1, "b": 0}, {"labels": ["b", "a"]}):
        (tmp_path / "c.json").write_text(json.dumps(content))
        args, _ = local_attribution.parse(["--classes", "c.json", "--root_path", str(tmp_path), "--pretrain_path", "x",
                                           "--video", "y"])
        assert local_attribution.class_names(args) == ["b", "a"]


BAD = [
    ("--videos_dir clips", "--perturb_area 1.5", "between 0 and 1"),
    ("--videos_dir clips", "--perturb_area 0", "between 0 and 1"),
    ("--videos_dir empty", "", "no frames in this folder"),
    ("--videos_dir nowhere", "", "no such folder"),
    ("--videos_dir void", "", "neither frame folders nor video files"),
    ("--videos_dir strange", "", "nearest names are"),
    ("--videos_dir clips", "--target Fly", "nearest names are"),
    ("--videos_dir clips", "--level 1", "--resume_path"),
    ("--videos_dir clips", "--theta 2", "--theta"),
    ("--videos_dir clips", "--vis_method step --sample_duration 6", "at least 7 frames"),
    ("", "", "--videos_dir"),
    ("--videos_dir clips", "--pretrain_path headless.pth", "no classification head"),
    ("--videos_dir clips", "--classes two.json", "2; mend one"),
    ("--videos_dir clips", "--classes none.json", "no such file"),
    ("--videos_dir clips", "--classes tree.json", "not a list of class names"),
    ("--videos_dir clips", "--classes twice.json", "--classes, name 1"),
    ("--video clips/none.avi", "", "no such video file"),
    ("--video clips/wave-x-y", "--target true", "not known"),
]


@pytest.mark.parametrize(("videos", "flags", "message"), BAD)
def test_bad_input_is_one_sentence(root, capsys, monkeypatch, videos, flags, message):
    monkeypatch.chdir(root)
    for name in ("empty/run-1", "strange/fly-1", "void"):
        (root / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(root / "strange" / "fly-1" / "1.png")
    (root / "two.json").write_text('["Run", "Wave"]')
    (root / "twice.json").write_text('["Run", "run"]')
    (root / "tree.json").write_text('{"version": "1.3", "database": {}}')
    with pytest.raises(SystemExit) as stop:
        call(root, f"{TRUNK_LINE} --vis_method random {videos} {flags}")
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and said[-1].startswith("error: ") and message in said[-1]


@pytest.mark.parametrize(("flags", "message"), [("--level 2", "levels 0 to 1"), ("--prototype 10", "prototypes 0 to 9"),
                                                ("--level 0 --prototype 1", "contradict")])
def test_what_a_checkpoint_does_not_have(root, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        call(root, f"--resume_path save_1.pth --no_gpu {flags}")
    assert stop.value.code == 2 and message in capsys.readouterr().err


# --- heads as they are published


@pytest.mark.parametrize("name", light(TRUNKS))
def test_every_published_head_is_found(name, tmp_path, monkeypatch):
    """By its name in the published layout, as a layer or a convolution of one cell."""
    options = SMALL.get(name, {})
    trunk = on_meta(name, **options).to_empty(device="cpu")
    n, key = trunk.out_channels, HEADS.get(name, "fc")
    weight, bias = torch.randn(3, n), torch.randn(3)
    shape = (3, n, 1, 1, 1) if name in ("i3d", "s3d") else (3, n)
    content = {"state_dict": {f"module.{key}": torch.zeros_like(value) for key, value in trunk.state_dict().items()}
               | {f"module.{key}.weight": weight.view(shape), f"module.{key}.bias": bias}}
    for module in ("models.weights", "local_attribution"):
        monkeypatch.setattr(f"{module}.read_state", lambda path: content)
    read = "class_token" if name == "mvit_v2_s" else "forward"
    monkeypatch.setattr(trunk, read, lambda clips: torch.ones(2, n, *(1, 1, 1)[:3 * (read == "forward")]))
    monkeypatch.setattr(build, "build_trunk", lambda args: trunk)
    (tmp_path / "c.json").write_text('["a", "b", "c"]')
    args, _ = local_attribution.parse(["--model", name, "--root_path", str(tmp_path), "--classes", "c.json", "--video",
                                       "x", "--pretrain_path", "weights.pth", "--vis_method", "grad"])
    args.where = torch.device("cpu")
    subject = local_attribution.trunk_subject(args)
    assert torch.equal(subject.head, weight)
    torch.testing.assert_close(subject.log_probs(None), (weight.sum(1) + bias).log_softmax(0).expand(2, -1))


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
    args.where = torch.device("cpu")
    clips = torch.randn(2, 3, 16, size, size)
    torch.testing.assert_close(local_attribution.trunk_subject(args).log_probs(clips),
                               network(clips).log_softmax(-1), atol=1e-4, rtol=1e-4)
