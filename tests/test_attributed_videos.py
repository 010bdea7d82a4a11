"""local_attribution.py: which videos and windows it looks at, what it calls them, and what it checks first."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attributable import CHEAP, ROWS, TRUNK_LINE, WITHOUT_ATTENTION, attribution_folder, call
from media import shades, write_frames, write_video
from trunks import CPU

import local_attribution
from datasets.transforms import EvalTransform
from datasets.video import Video, VideoClips
from explain.attribution import Question, attribute, find_windows, windows_to_explain
from explain.attribution_files import heading
from hierarchy.tree import Hierarchy
from run import attributing, subjects
from run.attributing import distinct_names, loose_paths, pick_videos, sampler_of
from run.data import window_clips
from run.resume import stored_args
from training.checkpoint import load_checkpoint

RANDOM = f"{TRUNK_LINE} --vis_method random"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return attribution_folder(tmp_path_factory.mktemp("attribution"))


class Named:
    """A window as far as its name goes."""

    def __init__(self, path: str) -> None:
        self.video = Video(Path(path).stem, Path(path), -1, "testing", 0, (0, 0))


@pytest.mark.parametrize(("paths", "names"), [
    (["/d/a/x/clip.mp4", "/d/b/x/clip.mp4", "/d/b/x/other.mp4"], ["a x clip.mp4", "b x clip.mp4", "other"]),
    (["/d/x/clip.mp4", "/d/x/clip.avi", "/d/y/clip.mp4"], ["x clip.mp4", "x clip.avi", "y clip.mp4"]),
    (["/d/x/clip.mp4", "/e/x/clip.mp4", "/clip.mp4"], ["d x clip.mp4", "e x clip.mp4", "/ clip.mp4"]),
    (["/d/x/Clip.mp4", "/d/y/clip.mp4"], ["x Clip.mp4", "y clip.mp4"]),  # one file on many systems
    (["/d/a b/clip.mp4", "/d/a/b clip.mp4", "/d/b clip.mp4"], ["clip", "a b clip.mp4", "d b clip.mp4"]),
    (["/a b/c.mp4", "/a/b c.mp4", "/e/c.mp4", "/e/b c.mp4"], ["a b c.mp4", "a b c.mp4", "e c.mp4", "e b c.mp4"]),
    (["/d/clip.mp4", "/d/clip_pyramid.mp4"], ["clip", "clip_pyramid (2)"])])
def test_names_are_the_shortest_ends_of_paths_that_differ(paths, names):
    windows = [Named(path) for path in paths]
    distinct = distinct_names(windows)
    files = {kind for name in distinct for kind in (attributing.file_name(name).casefold(),
                                                    f"{attributing.file_name(name)}_pyramid".casefold())}
    assert len(files) == 2 * len(paths)
    if len(set(names)) == len(names):
        assert distinct == names
    assert distinct_names(windows) == distinct


def test_videos_of_one_name_in_folders_of_one_name_keep_their_own_results(root, tmp_path):
    for folder, n in (("a", 9), ("b", 12)):
        write_frames(tmp_path / "v" / folder / "x" / "clip", shades(n))
    call(root, RANDOM, "--videos_dir", str(tmp_path / "v"), "--out", str(tmp_path / "out"))
    videos = json.loads((tmp_path / "out" / "resnet-10.json").read_text())["videos"]
    files = [video["methods"]["random"]["files"]["heat"] for video in videos]
    assert [Path(file).name for file in files] == ["a x clip.npy", "b x clip.npy"]
    assert all((tmp_path / "out" / file).is_file() for file in files)
    page = (tmp_path / "out" / "resnet-10.html").read_text()
    assert ">a x clip</p>" in page and ">b x clip</p>" in page


@pytest.mark.parametrize(("flags", "starts"), [
    ("", [0, 3, 6, 9, 12, 15, 16]), ("--inference_stride 8", [0, 8, 16]), ("--windows 0", [0, 3, 6, 9, 12, 15, 16]),
    ("--windows 1", [9]), ("--windows 2 --inference_stride 8", [0, 16])])
def test_a_checkpoint_predicts_from_the_windows_of_its_inference(root, tmp_path, flags, starts):
    content = torch.load(root / "save_1.pth", weights_only=False)
    content["args"]["inference_stride"] = 3
    torch.save(content, tmp_path / "save_3.pth")
    checkpoint = load_checkpoint(tmp_path / "save_3.pth")
    args, _ = local_attribution.parse(["--resume_path", str(tmp_path / "save_3.pth"), *flags.split()])
    sampler = sampler_of(args, 8, 1, checkpoint)
    assert [int(sampler(24, k)[0]) for k in range(sampler.count(24))] == starts
    if flags:
        return
    stored = stored_args(checkpoint)
    every = window_clips(stored, [Video("v", root, 0, "validation", 24, (0, 24))], None, stored.inference_stride,
                         normalisation="kinetics")
    assert [int(every.item_frames(i)[0]) for i in range(len(every))] == starts
    for more in ([], ["--inference_stride", "3"]):
        call(root, "--videos v_Jump_g01_c01 --no_gpu --vis_method random", "--resume_path",
             str(tmp_path / "save_3.pth"), "--out", str(tmp_path / f"out{len(more)}"), *more)
    (by_default, asked) = (json.loads((tmp_path / f"out{n}" / "hipe.json").read_text())["videos"] for n in (0, 2))
    assert by_default == asked and by_default[0]["n_windows"] == 3  # from the frames 0, 3 and 4 of 12


def test_a_published_trunk_looks_at_a_quarter(root):
    args, _ = local_attribution.parse(["--video", "a.mp4"])
    sampler = sampler_of(args, 64, 1, None)
    assert [int(sampler(500, k)[0]) for k in range(sampler.count(500))] == [93, 343]
    assert sampler.count(10 ** 4) == attributing.WINDOWS


@pytest.mark.parametrize(("flags", "n", "seen", "words"), [
    ("", 1, 8, "Most probable, from 1 window (8 of 20 frames)"),
    ("--windows 2", 2, 16, "Most probable, from 2 windows (16 of 20 frames)"),
    ("--windows 2 --inference_stride 4", 2, 16, "Most probable, from 2 windows (16 of 20 frames)"),
    ("--inference_stride 4", 4, 20, "Most probable in the whole video"),
    ("--sample_t_stride 2 --windows 0", 1, 8, "Most probable, from 1 window (8 of 20 frames)")])
def test_page_and_json_say_how_much_was_looked_at(root, tmp_path, flags, n, seen, words):
    video = write_video(tmp_path / "a.avi", shades(20))
    call(root, f"{RANDOM} {flags}", "--video", str(video), "--out", str(tmp_path))
    of, = json.loads((tmp_path / "resnet-10.json").read_text())["videos"]
    assert (of["n_windows"], of["frames_seen"], of["n_frames"]) == (n, seen, 20)
    assert f"<h3>{words}</h3>" in (tmp_path / "resnet-10.html").read_text()


def test_a_video_shorter_than_a_clip_is_looked_at_as_a_whole(root, tmp_path):
    call(root, RANDOM, "--video", str(write_video(tmp_path / "a.avi", shades(5))), "--out", str(tmp_path))
    of, = json.loads((tmp_path / "resnet-10.json").read_text())["videos"]
    assert (of["n_windows"], of["frames_seen"], of["n_frames"]) == (1, 5, 5)
    assert "Most probable in the whole video" in (tmp_path / "resnet-10.html").read_text()


@pytest.mark.parametrize("out", [".", *(pytest.param(out, marks=pytest.mark.slow) for out in ("Run", "results"))])
def test_results_among_the_videos_do_not_hide_them(root, tmp_path, out):
    write_frames(tmp_path / "Run" / "one", shades(9))
    write_video(tmp_path / "jump.avi", shades(9))
    for _ in range(2):  # the second finds the results of the first
        call(root, f"{TRUNK_LINE} --vis_method random class_feature_pyramid", "--videos_dir", str(tmp_path), "--out",
             str(tmp_path / out))
        content = json.loads((tmp_path / out / "resnet-10.json").read_text())
        assert {video["video"]: video["true"] for video in content["videos"]} == {"one": "Run", "jump": "Jump"}


@pytest.mark.parametrize(("flags", "words"), [
    (["--videos_dir", "nowhere"], ("nowhere", "--videos_dir")),
    (["--video", "nowhere.mp4"], ("nowhere.mp4", "--video")),
    (["--video", "text.mp4"], ("text.mp4",)),
    (["--videos_dir", "clips", "--out", "text.mp4"], ("text.mp4", "--out")),
    (["--videos_dir", "clips", "--out", "text.mp4/results"], ("text.mp4", "--out")),
    (["--videos_dir", "clips", "--out", "/proc/results"], ("/proc/results", "--out"))])
def test_paths_are_checked_before_the_network_is_loaded(root, capsys, monkeypatch, flags, words):
    if "/proc/results" in flags and not sys.platform.startswith("linux"):
        pytest.skip("no /proc")
    monkeypatch.chdir(root)
    (root / "text.mp4").write_text("no video")
    monkeypatch.setattr(attributing, "trunk_subject", lambda *_: pytest.fail("the network is loaded"))
    with pytest.raises(SystemExit) as stop:
        call(root, RANDOM, *flags)
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(said) == 1 and all(word in said[0] for word in words)


def test_help_tells_what_explains_where_no_flag_says_otherwise(capsys):
    with pytest.raises(SystemExit):
        local_attribution.parse(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    model = said[said.index("--model NAME"):said.index("--model_depth")]
    assert "i3d" in model and "resnet with --pretrain_path" in model


def test_grad_cam_explains_logits_of_classes_and_log_probabilities_of_ancestors(root):
    args, _ = local_attribution.parse([*RANDOM.split(), "--root_path", str(root), "--videos_dir", "clips"])
    subject = subjects.trunk_subject(args, CPU)
    tree = Hierarchy.from_rows(ROWS)
    of_classes = subject.log_probs
    both = replace(subject, hierarchy=tree,
                   log_probs=lambda clips: (of_classes(clips).exp() @ tree.membership.float().T).log())
    one = replace(both, logits=None)
    videos, reader = pick_videos(args, set(), None, tree, loose_paths(args))
    clips = VideoClips(videos, sampler=sampler_of(args, 8, 1, None), transform=EvalTransform(24), reader=reader)
    predictions, _ = find_windows(both, clips, batch_size=2, power=1.0)
    for level in (0, 1):
        question = Question(level=level)
        windows = windows_to_explain(clips, both, question, predictions)
        assert {window.target < tree.n_leaves for window in windows} == {level == 0}
        assert heading(windows[0]).startswith("Most probable")
        heats = [[result.heat.numpy() for result in attribute("grad_cam", subject_, question, windows, batch_size=2,
                                                              options={})]
                 for subject_ in (both, one)]
        alike = [np.allclose(*pair, atol=1e-7) for pair in zip(*heats, strict=True)]
        assert all(alike) if level else not any(alike)


@pytest.mark.parametrize("method", ["grad", "grad_cam", "hires_cam", "3d_ep", "rise"])
def test_a_contrast_is_the_difference_of_two_scores(root, method):
    args, _ = local_attribution.parse([*RANDOM.split(), "--root_path", str(root), "--videos_dir", "clips"])
    subject = subjects.trunk_subject(args, CPU)
    videos, reader = pick_videos(args, set(), None, subject.hierarchy, loose_paths(args))
    clips = VideoClips(videos, sampler=sampler_of(args, 8, 1, None), transform=EvalTransform(24), reader=reader)
    predictions, _ = find_windows(subject, clips, batch_size=2, power=1.0)

    def heat(question: Question, subject=subject, **options) -> torch.Tensor:
        windows = windows_to_explain(clips, subject, question, predictions)
        options |= {"iterations": 3, "areas": [0.1]} if method == "3d_ep" else {}
        return next(iter(attribute(method, subject, question, windows, batch_size=2, options=options))).heat

    names = subject.hierarchy.names
    contrast = heat(Question(names[0], against=names[1]))
    assert not torch.allclose(contrast, heat(Question(names[0])))
    if method == "grad":
        signed = [heat(question, polarity="positive") - heat(question, polarity="negative") for question in (
            Question(names[0], against=names[1]), Question(names[0]), Question(names[1]))]
        torch.testing.assert_close(signed[0].float(), (signed[1] - signed[2]).float(), atol=1e-5, rtol=1e-3)
    # a model that knows nothing but the two gives the same answer
    def of_two(clips: torch.Tensor) -> torch.Tensor:
        values = subject.log_probs(clips)
        return torch.cat((values[:, :2].log_softmax(1), values[:, 2:]), 1)

    two = replace(subject, logits=None, log_probs=of_two)
    torch.testing.assert_close(heat(Question(names[0], against=names[1]), two), contrast, atol=1e-4, rtol=1e-3)


def test_a_class_is_never_explained_against_itself(root):
    args, _ = local_attribution.parse([*RANDOM.split(), "--root_path", str(root), "--videos_dir", "clips"])
    subject = subjects.trunk_subject(args, CPU)
    names, probs = subject.hierarchy.names, torch.tensor([0.2, 0.1, 0.7])
    for against, target, rival in (("second", 0, 2), ("second", 2, 0), (names[1], 0, 1), (names[1], 1, 2)):
        assert Question(against=against).rival_of(subject, target, probs) == rival
    alone = replace(subject, hierarchy=Hierarchy.from_rows([["Run"]]))
    with pytest.raises(ValueError, match="--against"):
        Question(against="second").rival_of(alone, 0, probs)


def test_a_contrast_says_against_what(root, tmp_path, capsys):
    call(root, f"{TRUNK_LINE} --videos_dir clips --vis_method all --against second {CHEAP}", "--out", str(tmp_path))
    content = json.loads((tmp_path / "resnet-10-against_second.json").read_text())
    for video in content["videos"]:
        first, second = (prediction["label"] for prediction in video["predictions"][:2])
        assert video["target"] == f"{first} rather than {second}" and video["against"] == second
        assert "class_feature_pyramid" not in video["methods"]
        assert len(video["methods"]) == len(WITHOUT_ATTENTION) - 1
    assert "class_feature_pyramid is left out" in capsys.readouterr().err
    page = (tmp_path / "resnet-10-against_second.html").read_text()
    assert f"<dt>{second} in this window</dt>" in page
