"""local_attribution.py by its command line: checkpoints and trunks, what is written, what is said of bad input."""

import itertools
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attributable import CHEAP, TRUNK_LINE, WITHOUT_ATTENTION, attribution_folder, call
from media import shades, write_frames, write_video
from PIL import Image
from trunks import CPU

import local_attribution
from attribution import METHODS
from attribution.perturbation import extremal_masks
from datasets.sampling import SlidingWindows
from datasets.transforms import EvalTransform
from datasets.video import VideoClips
from explain import attribution, attribution_page
from explain.attribution import find_windows, windows_to_explain
from run import attributing, subjects
from run.attributing import loose_paths, pick_videos
from run.model import check_size


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return attribution_folder(tmp_path_factory.mktemp("attribution"))


def test_a_trunk_explains_folders_and_files_by_every_method(root, tmp_path, capsys):
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method all --save_label try --tubes kernels {CHEAP}", "--out",
         str(tmp_path))
    names = ["leap", "run-first one", "wave-x-y"]
    for method in WITHOUT_ATTENTION:
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
    assert "://" not in page and page.count("data:image/webp;base64,") >= 3 * len(WITHOUT_ATTENTION)
    assert all(f"<b>{method}</b>" in page for method in WITHOUT_ATTENTION) and "prefers-color-scheme: dark" in page
    for label in ("Run", "Jump", "Wave"):
        assert f"<dd>{label}, " in page  # the true classes, by their folders
    said = capsys.readouterr()
    assert "3 clips explained" in said.out and "raise --num_iter" in said.err
    assert "rollout is left out" in said.err


@pytest.mark.parametrize(("flags", "where", "title"), [
    ("--target Wave", "hipe", "Wave"), ("--level 1 --target true", "hipe/level1", "Legs"),
    ("--prototype 9", "hipe/prototype9", "prototype 9 of Arms"),
    ("--target Jump --against wave", "hipe/against_wave", "Jump rather than Wave"),
    ("--target Jump --against jump --level 1", "hipe/level1_against_jump", "Legs rather than Arms")])
def test_a_checkpoint_explains_classes_ancestors_and_prototypes(root, tmp_path, flags, where, title):
    call(root, f"--resume_path save_1.pth --videos v_Jump_g01_c01 --num_iter 2 --no_gpu {flags}", "--vis_method",
         "grad_cam", "3d_ep", "--out", str(tmp_path))
    for method in ("grad_cam", "3d_ep"):
        assert np.load(tmp_path / method / where / "v_Jump_g01_c01.npy").shape == (8, 24, 24)
    assert f">{title}</h2>" in (tmp_path / f"{where.replace('/', '-')}.html").read_text()


def test_what_is_finished_is_kept_when_the_run_is_interrupted(root, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(METHODS, "smooth_grad", replace(METHODS["smooth_grad"], function=interrupt))
    with pytest.raises(SystemExit) as stop:
        call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method random smooth_grad", "--out", str(tmp_path))
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 130 and len(said) == 1 and str(tmp_path) in said[0]
    for kind in ("npy", "gif", "png"):
        assert len(list(tmp_path.glob(f"random/resnet-10/*.{kind}"))) == 3
    page = (tmp_path / "resnet-10.html").read_text()
    assert "<b>random</b>" in page and "<b>smooth_grad</b>" not in page
    videos = json.loads((tmp_path / "resnet-10.json").read_text())["videos"]
    assert [list(video["methods"]) for video in videos] == [["random"]] * 3


def test_masks_of_an_interrupted_perturbation_ask_for_no_more_iterations(root, tmp_path, monkeypatch, capsys):
    def cut_off(*args, **kwargs):
        return replace(extremal_masks(*args, **kwargs), interrupted=True)

    monkeypatch.setattr(attribution, "extremal_masks", cut_off)
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
    seen, margins, before = [], [], attribution.extremal_masks
    monkeypatch.setattr(attribution, "extremal_masks",
                        lambda *words, **named: (seen.append(named), before(*words, **named))[1])
    monkeypatch.setattr(attribution_page, "heat_sheet",
                        lambda pixels, heat, margin: (margins.append(dict(margin)), pixels)[1])
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method 3d_ep {'--published_energy' * published}", "--out",
         str(tmp_path))
    assert seen[0]["published_energy"] == published
    area, = (text for text in margins[0] if text.startswith("area"))
    assert "asked for 0.1: not reached" in area and margins[0][area]  # two iterations reach none; it stands out
    assert "leap" in margins[0]


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
    video, = json.loads((tmp_path / "resnet-10.json").read_text())["videos"]
    assert video["predictions"] == [{"label": "Run", "score": 1.0}]


def test_a_file_and_its_frames_keep_their_own_heat(root, tmp_path):
    write_frames(tmp_path / "twins" / "run-1", shades(12))
    write_video(tmp_path / "twins" / "run-1.avi", shades(9))
    call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(tmp_path / "twins"), "--out",
         str(tmp_path / "out"))
    assert len(list(tmp_path.glob("out/random/resnet-10/*.npy"))) == 2


def test_the_same_is_written_as_json(root, tmp_path):
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method grad_cam class_feature_pyramid random --windows 2",
         "--out", str(tmp_path))
    content = json.loads((tmp_path / "resnet-10.json").read_text())
    assert content["model"] == "resnet-10" and content["weights"].endswith("trunk.pth")
    assert content["clip"] == [8, 24, 24]
    by_name = {video["video"]: video for video in content["videos"]}
    assert {name: video["true"] for name, video in by_name.items()} == {
        "leap": "Jump", "run-first one": "Run", "wave-x-y": "Wave"}
    for video in by_name.values():
        first, last = video["window"]
        assert last - first == 8 and Path(video["path"]).exists()
        scores = [entry["score"] for entry in video["predictions"]]
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=1e-5)  # of three classes
        assert video["target"] == video["predictions"][0]["label"]
        assert list(video["methods"]) == ["grad_cam", "class_feature_pyramid", "random"]
        for method, record in video["methods"].items():
            frame, y, x = record["peak"]
            t0, y0, x0, t1, y1, x1 = record["box"]
            assert first <= t0 <= frame < t1 <= last and 0 <= y0 <= y < y1 <= 24 and 0 <= x0 <= x < x1 <= 32
            assert all((tmp_path / file).is_file() for file in record["files"].values())
            if method == "grad_cam":  # the middle of the picture is shown, as large as it is
                heat = np.load(tmp_path / record["files"]["heat"])
                assert heat[frame - first, y, x - 4] == heat.max()


def test_a_prediction_is_the_mean_over_windows(root, tmp_path):
    args = [f"{TRUNK_LINE} --vis_method random", "--video", str(root / "clips" / "run-first one"), "--out"]
    call(root, *args, str(tmp_path / "all"), "--inference_stride", "2")
    of_all, = json.loads((tmp_path / "all" / "resnet-10.json").read_text())["videos"]
    assert of_all["n_windows"] == 3
    means = {}
    for first in (0, 2, 4):  # the same windows, each as a video of its own
        folder = tmp_path / str(first)
        folder.mkdir()
        for i, file in enumerate(sorted((root / "clips" / "run-first one").iterdir())[first:first + 8]):
            (folder / f"{i}{file.suffix}").write_bytes(file.read_bytes())
        call(root, args[0], "--video", str(folder), "--out", str(folder / "out"))
        single, = json.loads((folder / "out" / "resnet-10.json").read_text())["videos"]
        for entry in single["predictions"]:
            means[entry["label"]] = means.get(entry["label"], 0) + entry["score"] / 3
    assert {entry["label"]: entry["score"] for entry in of_all["predictions"]} == pytest.approx(means, abs=1e-5)


def test_grad_cam_of_remembered_features_is_that_of_the_clip(root, tmp_path, monkeypatch):
    kept_features, remembered = [], attribution.remembered
    monkeypatch.setattr(attribution, "remembered", lambda trunk, features, device: (
        kept_features.append(features is not None), remembered(trunk, features, device))[1])
    for kept, n_bytes in ((64, 2 ** 28), (0, 2 ** 28), (1, 64 * 2 * 3 * 3 * 4 + 1)):
        monkeypatch.setattr(attribution, "WINDOWS_KEPT", kept)
        monkeypatch.setattr(attribution, "FEATURES_KEPT", n_bytes)
        call(root, "--resume_path save_1.pth --videos v_Jump_g01_c01 --no_gpu --vis_method grad_cam", "--out",
             str(tmp_path / str(kept)))
        call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method grad_cam", "--out", str(tmp_path / str(kept)))
    assert kept_features[:8] == 4 * [True] + 4 * [False] and kept_features[9:] == [True, False, False]
    files = sorted((tmp_path / "64").glob("grad_cam/*/*.npy"))
    assert len(files) == 4
    for file, other in itertools.product(files, ("0", "1")):
        np.testing.assert_allclose(np.load(file), np.load(tmp_path / other / file.relative_to(tmp_path / "64")),
                                   rtol=1e-4, atol=1e-7)


def test_videos_that_cannot_be_read_are_named_and_left_out(root, tmp_path, capsys):
    folder = tmp_path / "my videos"
    folder.mkdir()
    (folder / "text.mp4").write_text("no video")
    (folder / "void.avi").touch()
    video = write_video(folder / "gänge 1.avi", shades(9))
    with pytest.warns(RuntimeWarning) as warned:
        call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(folder), "--out", str(tmp_path / "out"))
    assert all(any(name in str(warning.message) for warning in warned) for name in ("text.mp4", "void.avi"))
    said = capsys.readouterr()
    assert "1 clip explained" in said.out and "3 of 3 videos: neither the file nor its folder" in said.err
    names = [video["video"] for video in json.loads((tmp_path / "out" / "resnet-10.json").read_text())["videos"]]
    assert names == ["gänge 1"]
    with pytest.warns(RuntimeWarning, match="text.mp4"):
        call(root, f"{TRUNK_LINE} --vis_method random", "--video", str(video), str(folder / "text.mp4"), "--out",
             str(tmp_path / "two"))
    assert "1 clip explained" in capsys.readouterr().out
    video.unlink()
    with pytest.raises(SystemExit) as stop, pytest.warns(RuntimeWarning):
        call(root, f"{TRUNK_LINE} --vis_method random", "--videos_dir", str(folder))
    assert stop.value.code == 2 and "can be read" in capsys.readouterr().err


def test_the_time_of_a_long_method_is_said_before_it_begins(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attributing, "LONG", 0.0)
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method smooth_grad 3d_ep random", "--out", str(tmp_path))
    said = capsys.readouterr().out.splitlines()
    assert said.index("smooth_grad: 3 clips, about 10 seconds") < said.index("smooth_grad: 3 clips")
    assert any(line.startswith("3d_ep: 3 clips, at most ") for line in said)
    assert sum(line.startswith("random") for line in said) == 1  # it asks the network nothing
    assert [attributing.in_words(seconds) for seconds in (3, 44, 119, 380, 9000)] == [
        "10 seconds", "40 seconds", "120 seconds", "6 minutes", "2 hours"]


def test_i3d_with_its_kinetics_weights_explains_where_no_flag_says_otherwise():
    for words in ("--video my.mp4", "--videos_dir d --model i3d --pretrain_dataset kinetics --vis_method grad",
                  "--video my.mp4 --pretrain_path KINETICS400_I3D"):
        args, given = local_attribution.parse(words.split())
        assert (args.model, args.pretrain_path, args.pretrain_dataset) == ("i3d", "KINETICS400_I3D", "kinetics")
        attributing.check_flags(args, given)
        assert attributing.clip_of(args, None) == (224, 64, 1, 1.0)
    args, _ = local_attribution.parse(["--video", "my.mp4", "--pretrain_path", "x.pth"])
    assert (args.model, args.pretrain_path) == ("resnet", "x.pth")
    assert attributing.clip_of(args, None)[:3] == (112, 16, 1)
    args, _ = local_attribution.parse(["--video", "my.mp4", "--model", "mvit_v2_s", "--pretrain_path", "x.pth",
                                       "--sample_size", "112"])
    assert attributing.clip_of(args, None)[:3] == (112, 16, 4)


@pytest.mark.parametrize(("model", "name"), [("r3d_18", "KINETICS400_V1"), ("resnet", "a file")])
def test_another_trunk_needs_weights(model, name):
    args, given = local_attribution.parse(["--video", "my.mp4", "--model", model])
    with pytest.raises(ValueError, match=f"--pretrain_path, .*{name}"):
        attributing.check_flags(args, given)


def test_clips_smaller_than_a_trunks_tiles_are_said():
    trunk = torch.nn.AvgPool3d((2, 4, 4))
    check_size(trunk, (2, 4, 4))
    with pytest.raises(ValueError, match="1 frame of 8 x 8 pixels are too small"):
        check_size(trunk, (1, 8, 8))


def test_trunks_may_be_called_as_elsewhere():
    args, _ = local_attribution.parse(["--model", "r2plus1d", "--vis_method", "perturb", "grad", "--pretrain_path", "x",
                                       "--video", "y"])
    assert args.model == "r2plus1d_18" and args.vis_method == ["3d_ep", "grad"]


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


def test_the_windows_of_all_videos_are_not_kept(root, monkeypatch):
    """A batch at a time, and no pixels in the end."""
    args, _ = local_attribution.parse([*f"{TRUNK_LINE} --batch_size 1 --inference_stride 1".split(), "--root_path",
                                       str(root), "--videos_dir", "clips"])
    alive = set()
    subject = subjects.trunk_subject(args, CPU)
    videos, reader = pick_videos(args, set(), None, subject.hierarchy, loose_paths(args))
    clips = VideoClips(videos, sampler=SlidingWindows(8, 1), transform=EvalTransform(24), reader=reader)
    most, read = [0], VideoClips.__getitem__

    def counted(self, index):
        item = read(self, index)
        alive.add(index)
        weakref.finalize(item["clip"], alive.discard, index)
        most[0] = max(most[0], len(alive))
        return item

    monkeypatch.setattr(VideoClips, "__getitem__", counted)
    predictions, seconds = find_windows(subject, clips, batch_size=1, power=4.0)
    windows = windows_to_explain(clips, subject, attribution.Question(), predictions)
    assert len(windows) == 3 and seconds > 0 and len(clips) >= 8 and most[0] <= 2 and not alive
    assert windows[0].pixels.shape == (3, *windows[0].size) == (3, 8, 24, 24)


BAD = [
    ("--videos_dir clips", "--perturb_area 1.5", "between 0 and 1"),
    ("--videos_dir clips", "--perturb_area 0", "between 0 and 1"),
    ("--videos_dir clips", "--against Fly", "Fly"),
    ("--videos_dir clips", "--against second --vis_method class_feature_pyramid", "--against"),
    ("--videos_dir empty", "", "neither folders of pictures nor video files"),
    ("--videos_dir strange", "--target true", "--target true"),
    ("--videos_dir nowhere", "", "no such folder"),
    ("--videos_dir void", "", "neither folders of pictures nor video files"),
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


@pytest.mark.parametrize(("flags", "message"), [("--level 2", "levels 0 to 1"), ("--prototype 10", "prototypes 0 to 9"),
                                                ("--level 0 --prototype 1", "contradict"),
                                                ("--prototype 1 --target Run", "contradict"),
                                                ("--model i3d", "--model and --resume_path contradict"),
                                                ("--classes none.json", "--classes and --resume_path contradict")])
def test_what_a_checkpoint_does_not_have(root, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        call(root, f"--resume_path save_1.pth --no_gpu {flags}")
    assert stop.value.code == 2 and message in capsys.readouterr().err
