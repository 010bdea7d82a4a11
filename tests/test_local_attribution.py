"""local_attribution.py by its command line: checkpoints and trunks, what is written, what is said of bad input."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from media import shades, write_frames, write_video
from PIL import Image
from trunks import light, on_meta

import local_attribution
from attribution import METHODS
from attribution.feature_pyramid import feature_pyramid
from attribution.perturbation import extremal_masks
from datasets.reading import CachedReader
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform
from datasets.video import VideoClips
from explain import attributed
from hierarchy.embeddings import fit_embeddings
from hierarchy.tree import Hierarchy
from models import TRUNKS, Trunk
from models.geometry import smoothed
from models.resnet3d import ResNet3D
from options.errors import user_errors
from options.flags import parse_main
from options.resolve import resolve
from run.model import build_model, check_size
from training.checkpoint import load_checkpoint, save_checkpoint

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
    model = build_model(args, tree, points, 1.0)
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


def test_a_checkpoint_of_the_trunk_epochs_is_explained_by_its_softmax_head(root, tmp_path, capsys):
    content = load_checkpoint(root / "save_1.pth") | {"done": ["trunk", 1, 1]}
    torch.manual_seed(0)
    content["model"]["pooled_head.weight"] = torch.randn_like(content["model"]["pooled_head.weight"])
    save_checkpoint(tmp_path / "trunk.pth", content)
    path = ["--resume_path", str(tmp_path / "trunk.pth")]
    args, _ = local_attribution.parse([*path, "--root_path", str(root), "--no_gpu"])
    args.where = torch.device("cpu")
    subject = local_attribution.hipe_subject(args, content, tmp_path / "trunk.pth")
    clips = torch.randn(2, 3, 8, 24, 24)
    expected = subject.trunk(clips).mean((2, 3, 4)) @ subject.head[:3].T + content["model"]["pooled_head.bias"]
    found = subject.log_probs(clips)
    torch.testing.assert_close(found[:, :3], expected.log_softmax(-1))
    torch.testing.assert_close(found[:, :3].exp().sum(1), found[:, 3:].exp().sum(1))
    call(root, "--videos v_Jump_g01_c01 --level 1 --no_gpu --vis_method class_feature_pyramid", *path, "--out",
         str(tmp_path))
    assert (tmp_path / "class_feature_pyramid" / "trunk" / "level1" / "v_Jump_g01_c01.npy").exists()
    with pytest.raises(SystemExit):
        call(root, "--videos v_Jump_g01_c01 --prototype 1 --no_gpu", *path)
    assert "leave out --prototype" in capsys.readouterr().err


def test_what_is_finished_is_kept_when_the_run_is_interrupted(root, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(METHODS, "smooth_grad", interrupt)
    with pytest.raises(SystemExit) as stop:
        call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method random smooth_grad", "--out", str(tmp_path))
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 130 and len(said) == 1 and str(tmp_path) in said[0]
    for kind in ("npy", "gif", "png"):
        assert len(list(tmp_path.glob(f"random/resnet-10/*.{kind}"))) == 3
    page = (tmp_path / "resnet-10.html").read_text()
    assert "<b>random</b>" in page and "<b>smooth_grad</b>" not in page


def test_masks_of_an_interrupted_perturbation_ask_for_no_more_iterations(root, tmp_path, monkeypatch, capsys):
    def cut_off(*args, **kwargs):
        return replace(extremal_masks(*args, **kwargs), interrupted=True)

    monkeypatch.setattr(local_attribution, "extremal_masks", cut_off)
    call(root, f"{TRUNK_LINE} --videos_dir clips --n_videos 1 --vis_method 3d_ep", "--out", str(tmp_path))
    said = capsys.readouterr().err
    assert "3d_ep: interrupted; these are the best masks after 2 iterations" in said and "raise --num_iter" not in said


def test_videos_that_are_cut_short_or_shorter_than_a_clip_are_said(root, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(256, size=(36, 24, 32, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "clips" / "Run" / "whole.avi", noise).read_bytes()
    (tmp_path / "clips" / "Run" / "torn.avi").write_bytes(whole[:len(whole) // 2])
    write_frames(tmp_path / "clips" / "wave-1", shades(1))
    call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(tmp_path / "clips"), "--out",
         str(tmp_path / "out"))
    torn, short = capsys.readouterr().err.strip().splitlines()
    assert "1 of 3 videos are cut short" in torn and "torn.avi" in torn and "of the 36 frames" in torn
    assert "1 of 3 videos have fewer frames than the clip of 8" in short


def test_weights_that_are_not_numbers_are_said(root, capsys):
    content = torch.load(root / "trunk.pth")["state_dict"]
    content["module.fc.bias"][1] = torch.nan
    torch.save({"state_dict": content}, root / "nan.pth")
    with pytest.raises(SystemExit) as stop:
        call(root, f"{TRUNK_LINE} --videos_dir clips --pretrain_path nan.pth --vis_method random")
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(said) == 1 and "nan.pth" in said[0] and "not finite" in said[0]


@pytest.mark.parametrize("published", [False, True])
def test_published_energy_holds_no_area(root, tmp_path, monkeypatch, published):
    seen, margins, before = [], [], local_attribution.extremal_masks
    monkeypatch.setattr(local_attribution, "extremal_masks",
                        lambda *words, **named: (seen.append(named), before(*words, **named))[1])
    monkeypatch.setattr(attributed, "heat_sheet",
                        lambda pixels, heat, margin: (margins.append(dict(margin)), pixels)[1])
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method 3d_ep {'--published_energy' * published}", "--out",
         str(tmp_path))
    assert {name: seen[0][name] for name in ("tolerance", "rate") if name in seen[0]} == (
        {"tolerance": None, "rate": 0.05} if published else {})
    area, = (text for text in margins[0] if text.startswith("area"))
    assert "asked for 0.1: not reached" in area and margins[0][area]  # two iterations reach none; it stands out
    assert "leap" in margins[0]


def test_drawn_channels_lead_to_drawn_ones_by_their_strongest_links():
    torch.manual_seed(0)
    trunk = ResNet3D(10, widen_factor=0.25, conv1_t_size=3).eval()
    weights = torch.randn(trunk.out_channels)
    pyramid = feature_pyramid(lambda clips: trunk(clips).mean((2, 3, 4)) @ weights, torch.randn(3, 8, 32, 32),
                              layer=trunk, class_weights=weights)
    first, *below = local_attribution.pyramid_rows(pyramid, (8, 32, 32), "Run, 90 %", "a video")
    assert first.title == "Run, 90 %" and "a video" in first.note and not first.above
    rows, shares = [first, *below], dict(zip(map(tuple, pyramid.edges.tolist()), pyramid.shares.tolist(), strict=True))
    for i, row in enumerate(below, 1):
        for here, channel in enumerate(row.channels):
            links = [(other, there) for other, there, place in row.above if place == here]
            assert 1 <= len(links) <= local_attribution.LINKS
            all_links = [share for (other, above, layer, lower), share in shares.items()
                         if (layer, lower) == (i, channel) and above in rows[other].channels]
            drawn = [shares[other, rows[other].channels[there], i, channel] for other, there in links]
            assert drawn == sorted(all_links, reverse=True)[:local_attribution.LINKS]
        assert len(row.tubes) == len(row.channels) <= local_attribution.PICTURED


def test_lines_of_a_pyramid_do_not_run_behind_pictures():
    pixels, tube = np.full((2, 20, 20, 3), 7, np.uint8), torch.zeros(2, 20, 20)
    rows = [attributed.PyramidRow("a", "", tube, [3], tube[None]),
            attributed.PyramidRow("b", "", tube, [5], tube[None], [(0, 0, 0)]),
            attributed.PyramidRow("c", "", tube, [4], tube[None], [(0, 0, 0), (1, 0, 0)])]
    picture, = attributed.pyramid_picture(pixels, rows)
    inside = (picture == 7).all(-1)
    assert inside.sum() == 6 * attributed.CELL ** 2
    blue = (picture == attributed.TRACES[0]).all(-1)
    assert blue.any(1)[inside.any(1)].all()  # a frame of that colour in each row, and the line that passes the second


def test_voxelwise_heat_is_smoothed_for_drawing_alone(root, tmp_path):
    heat = torch.zeros(9, 40, 40)
    heat[4, 20, 20] = 1
    smooth = smoothed(heat)
    torch.testing.assert_close(smooth.sum(), torch.tensor(1.0))
    assert smooth.argmax() == heat.argmax() and smooth.max() < 0.2
    torch.testing.assert_close(smoothed(torch.ones(3, 8, 5)), torch.ones(3, 8, 5))
    assert torch.equal(attributed.drawn(heat), heat)
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method random", "--out", str(tmp_path))
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "random" / "resnet-10" / "leap.npy")),
                       METHODS["random"](None, torch.empty(3, 8, 24, 24), seed=1))


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
    assert "<dt>likeliest in this window</dt>" in page and "<dt>then</dt>" not in page


def test_a_file_and_its_frames_keep_their_own_heat(root, tmp_path):
    write_frames(tmp_path / "twins" / "run-1", shades(12))
    write_video(tmp_path / "twins" / "run-1.avi", shades(9))
    call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(tmp_path / "twins"), "--out",
         str(tmp_path / "out"))
    assert len(list(tmp_path.glob("out/random/resnet-10/*.npy"))) == 2


def test_clips_smaller_than_a_trunks_tiles_are_said():
    trunk = torch.nn.AvgPool3d((2, 4, 4))
    check_size(trunk, (2, 4, 4))
    with pytest.raises(ValueError, match="1 frames of 8 x 8 pixels are too small"):
        check_size(trunk, (1, 8, 8))


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path):
    for i, name in enumerate(("f2.png", "f10.png", "f1.png")):
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(tmp_path / name)
    reader = CachedReader(local_attribution.AnyVideo(), 10 ** 6)
    assert reader.frames(tmp_path)[:, 0, 0, 0].tolist() == [20, 0, 10]
    assert reader.info(tmp_path).n_frames == 3 and reader.size(tmp_path) == (4, 6)


def test_trunks_may_be_called_as_elsewhere():
    args, _ = local_attribution.parse(["--model", "r2plus1d", "--vis_method", "perturb", "grad", "--pretrain_path", "x",
                                       "--video", "y"])
    assert args.model == "r2plus1d_18" and args.vis_method == ["3d_ep", "grad"]


def test_class_names_may_be_a_list_or_indices(root, tmp_path):
    for content in (["b", "a"], {"a": 1, "b": 0}, {"labels": ["b", "a"]}):
        (tmp_path / "c.json").write_text(json.dumps(content))
        args, _ = local_attribution.parse(["--classes", "c.json", "--root_path", str(tmp_path), "--pretrain_path", "x",
                                           "--video", "y"])
        assert local_attribution.class_names(args) == ["b", "a"]


def test_what_a_map_shows_that_is_not_the_usual_is_said(root, tmp_path):
    call(root, f"{TRUNK_LINE} --videos_dir clips --n_videos 1 --vis_method grad 3d_ep grad_cam --polarity negative "
               "--variant delete --perturb_type fade", "--out", str(tmp_path))
    page = (tmp_path / "resnet-10.html").read_text()
    assert "; polarity negative</span>" in page and "; variant delete; hidden by fade</span>" in page
    assert page.count("polarity") == 1 and page.count('<section class="level"') == 1  # of one video


def test_an_empty_map_has_no_hottest_frame(root, tmp_path):
    content = torch.load(root / "trunk.pth")["state_dict"]
    content["module.fc.weight"] = torch.cat((-content["module.fc.weight"][:1].abs(), torch.zeros(2, 64)))
    torch.save({"state_dict": content}, root / "against.pth")
    call(root, f"{TRUNK_LINE} --pretrain_path against.pth --videos_dir clips --vis_method grad_cam --target Run",
         "--out", str(tmp_path))
    page = (tmp_path / "resnet-10.html").read_text()
    assert page.count("an empty map: all alike") == 3 and "hottest" not in page


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
    monkeypatch.setattr(local_attribution, "build_trunk", lambda args: trunk)
    words = f"{TRUNK_LINE} --pretrain_path mixer.pth --video clips/run-first --num_iter 1"
    call(root, words.replace("clips/run-first", str(root / "clips" / "wave-x-y")) + " --vis_method all", "--out",
         str(tmp_path))
    said = capsys.readouterr().err
    assert "class_feature_pyramid is left out: it cannot explain this trunk" in said
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        method.replace("*", "_x_") for method in METHODS if method != "class_feature_pyramid"}
    with pytest.raises(SystemExit) as stop:
        call(root, words.replace("clips/run-first", str(root / "clips" / "wave-x-y"))
             + " --vis_method class_feature_pyramid")
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and said.startswith("error: --vis_method class_feature_pyramid cannot explain")


def test_the_windows_of_all_videos_are_not_kept(root, monkeypatch):
    """One a video, and a batch."""
    args, _ = local_attribution.parse([*f"{TRUNK_LINE} --batch_size 1 --inference_stride 1".split(), "--root_path",
                                       str(root), "--videos_dir", "clips"])
    args.where, alive = torch.device("cpu"), set()
    subject = local_attribution.trunk_subject(args)
    videos, reader = local_attribution.pick_videos(args, set(), None, subject.hierarchy)
    clips = VideoClips(videos, sampler=SlidingWindows(8, 1), transform=EvalTransform(24), reader=reader)
    most, read = [0], VideoClips.__getitem__

    def counted(self, index):
        item = read(self, index)
        alive.add(index)
        weakref.finalize(item["clip"], alive.discard, index)
        most[0] = max(most[0], len(alive))
        return item

    monkeypatch.setattr(VideoClips, "__getitem__", counted)
    found = local_attribution.find_windows(subject, clips, args, 4.0)
    assert len(found) == 3 and len(clips) >= 8 and most[0] <= 5


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
    ("--videos_dir clips", "--vis_method saliency", "invalid choice: 'saliency'"),
    ("--videos_dir clips", "--polarty both", "unrecognized arguments: --polarty"),
    ("--videos_dir clips", "--num_iter many", "--num_iter"),
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
    assert stop.value.code == 2 and len(said) == 1 and said[0].startswith("error: ") and message in said[0]


def test_class_names_of_kinetics_are_asked_for(root, capsys):
    with pytest.raises(SystemExit):
        call(root, f"--pretrain_path trunk.pth --pretrain_dataset kinetics {TRUNK} {CLIPS} --videos_dir clips")
    said = capsys.readouterr().err
    assert "--pretrain_dataset kinetics" in said and "--classes classes.json" in said and "torchvision" in said


@pytest.mark.parametrize(("flags", "message"), [("--level 2", "levels 0 to 1"), ("--prototype 10", "prototypes 0 to 9"),
                                                ("--level 0 --prototype 1", "contradict"),
                                                ("--prototype 1 --target Run", "contradict"),
                                                ("--model i3d", "--model and --resume_path contradict"),
                                                ("--classes none.json", "--classes and --resume_path contradict")])
def test_what_a_checkpoint_does_not_have(root, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        call(root, f"--resume_path save_1.pth --no_gpu {flags}")
    assert stop.value.code == 2 and message in capsys.readouterr().err


# --- heads as they are published


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
    monkeypatch.setattr(local_attribution, "build_trunk", lambda args: trunk)
    (tmp_path / "c.json").write_text('["a", "b", "c"]')
    args, _ = local_attribution.parse(["--model", name, "--root_path", str(tmp_path), "--classes", "c.json", "--video",
                                       "x", "--pretrain_path", "weights.pth", "--vis_method", "grad"])
    args.where = torch.device("cpu")
    subject = local_attribution.trunk_subject(args)
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
    args.where = torch.device("cpu")
    clips = torch.randn(2, 3, 16, size, size)
    torch.testing.assert_close(local_attribution.trunk_subject(args).log_probs(clips),
                               network(clips).log_softmax(-1), atol=1e-4, rtol=1e-4)
