"""evaluate_explanations.py with a trunk's published weights over loose videos, by its command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from attributable import TRUNK, attribution_folder
from attributable import call as explain
from media import shades, write_video
from torch import Tensor, nn
from trunks import CPU

import evaluate_explanations
from datasets.reading import VideoFile
from datasets.transforms import EvalTransform, normalise
from evaluation.localisation import read_truth, truth_mask
from hierarchy.tree import Hierarchy
from judging.judge import Judge
from models import TRUNKS
from models.resnet3d import ResNet3D
from options.errors import user_errors
from options.flags import parse_main
from options.resolve import resolve
from run import subjects
from run.judging_trunk import digest_of_trunk
from run.model import trunk_arguments
from run.subjects import PublishedTrunk

LINE = f"--pretrain_path trunk.pth --classes classes.json {TRUNK} --sample_size 24 --sample_duration 8 --no_cuda"
FEW = "--videos_dir films --steps 2"
BOX = [16, 4, 8, 12]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A trunk with a head of Run, Jump and Wave; films of an unknown class, two with an event; one of a known class."""
    root = attribution_folder(tmp_path_factory.mktemp("trunk"))
    truth = {}
    places = "Swim/v_Swim_g01_c01", "Swim/v_Swim_g02_c01", "Jump/v_Jump_g01_c01", "Fly/v_Fly_g01_c01"
    for i, place in enumerate(places):
        write_video(root / "films" / f"{place}.avi", np.roll(shades(12), 7 * i, 2))
        if not place.startswith("Fly"):
            truth[Path(place).name] = {"tubes": [{"first_frame": 3, "last_frame": 9, "boxes_x_y_w_h": [BOX] * 6}]}
    (root / "truth.json").write_text(json.dumps(truth))
    return root


def call(root: Path, *words: object) -> None:
    line = " ".join(map(str, words))
    with user_errors():
        evaluate_explanations.main([*line.split(), "--root_path", str(root)])


@pytest.fixture(scope="module")
def judged(root) -> Path:
    call(root, LINE, FEW, "--vis_method all --truth truth.json --out out --iterations 2 --options smooth_grad.steps=2",
         "integrated_grad.steps=2 occlusion.window=.9 rise.masks=8 lime.samples=8 kernel_shap.samples=8 lime.parts=4",
         "kernel_shap.parts=4")
    return root / "out"


def rows_of(folder: Path) -> list[dict]:
    return [row for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines()) if "video" in row]


def test_every_method_beside_its_baselines_and_the_event(judged):
    frame = pd.read_csv(judged / "measures.csv")
    assert set(frame.table) == {"explanations"} and set(frame.level) == {0}
    assert {"grad", "grad_cam", "3d_ep", "class_feature_pyramid", "random", "centre", "chance",
            "event"} <= set(frame.explanation)
    table = frame.set_index(["explanation", "measure"])
    for name in ("pointing", "pointing_strict", "pointing_space", "pointing_time", "energy", "energy_space",
                 "energy_time", "box_iou_time"):
        assert table.loc[("event", name), "mean"] == 1, name
    assert table.loc[("grad", "insertion"), "n"] == 4
    assert {"box_iou", "box_only", "deletion"} <= set(frame[frame.explanation == "event"].measure)
    assert not {"purity", "set_size", "activation_box_only"} & set(frame.measure)


def test_where_the_class_is_not_known_the_prediction_is_held_against_the_event(root, judged):
    """Where it is known, and the prediction wrong, it is not; neither is a video without a truth."""
    rows = {row["video"]: row for row in rows_of(judged) if row["explanation"] == "grad_cam"}
    assert len(rows) == 4 and not any(row["right"] for name, row in rows.items() if "Jump" not in name)
    for name, row in rows.items():
        assert ("pointing" in row["measures"]) == ("Swim" in name or ("Jump" in name and row["right"]))
        assert {"insertion", "deletion", "box_only"} <= set(row["measures"])


@torch.no_grad()
def test_numbers_are_those_of_the_network_alone(root, tmp_path):
    """Of the event's heat: the probability that is left where only the box around it is sharp, by hand."""
    call(root, LINE, FEW, "--methods grad --truth truth.json --measures box_volume energy_time insertion",
         "--videos v_Swim_g02_c01 --inference_stride 4 --out", tmp_path)
    content = {name.removeprefix("module."): value for name, value in
               torch.load(root / "trunk.pth")["state_dict"].items()}
    head = torch.nn.Linear(*reversed(content["fc.weight"].shape))
    head.load_state_dict({name: content.pop(f"fc.{name}") for name in ("weight", "bias")})
    strides = {"temporal_strides": (1, 2, 2, 1, 1), "spatial_strides": (2, 2, 2, 1, 1)}
    network = ResNet3D(10, widen_factor=0.125, conv1_t_size=3, **strides).eval()
    network.load_state_dict(content)

    def probabilities(clip: Tensor) -> Tensor:
        return head(network(normalise(clip[None], "kinetics")).mean((2, 3, 4))).softmax(1)[0]

    path = root / "films" / "Swim" / "v_Swim_g02_c01.avi"
    windows = [torch.arange(first, first + 8) for first in (0, 4)]
    clips = [EvalTransform(24)(VideoFile().frames(path, frames)) for frames in windows]
    scores = torch.stack([probabilities(clip) for clip, _, _ in clips])
    leaf = int(scores.mean(0).argmax())
    best = int(scores[:, leaf].argmax())
    rows = {row["explanation"]: row for row in rows_of(tmp_path)}
    assert rows["event"]["node"] == ("Run", "Jump", "Wave")[leaf]
    mask = truth_mask(read_truth(root / "truth.json")["v_Swim_g02_c01"], windows[best].numpy(),
                      clips[best][1].numpy(), (24, 24))
    assert rows["chance"]["measures"]["energy_time"] == pytest.approx(float(mask.flatten(1).any(1).float().mean()))
    shape = [int(mask.any(1).any(1).sum()), int(mask.any(0).any(1).sum()), int(mask.any(0).any(0).sum())]
    assert rows["event"]["measures"]["box_volume"] == pytest.approx(np.prod(shape) / mask.numel(), abs=1e-6)


def test_measures_that_are_added_later_join_the_others(root, tmp_path, monkeypatch):
    words = (LINE, FEW, "--methods grad --truth truth.json --videos v_Swim_g01_c01 --out", tmp_path)
    names = ["pointing", "insertion", "box_iou"]
    call(root, *words, "--measures", names[0])
    assert set(pd.read_csv(tmp_path / "measures.csv").measure) == {"pointing"}
    call(root, *words, "--measures", *names[1:])
    assert set(pd.read_csv(tmp_path / "measures.csv").measure) == {"insertion", "box_iou"}
    monkeypatch.setattr(Judge, "rows", None)  # all is there
    call(root, *words, "--measures", *names)
    assert set(pd.read_csv(tmp_path / "measures.csv").measure) == set(names)


@pytest.fixture(scope="module")
def others(root) -> Path:
    """Beside the trunk and its classes, others that differ in a bias or a name alone."""
    content = torch.load(root / "trunk.pth")
    content["state_dict"]["module.fc.bias"] = torch.tensor([0, 0, 1e-3])
    torch.save(content, root / "biased.pth")
    content["state_dict"]["module.fc.bias"] = torch.tensor([0, 0, torch.nan])
    torch.save(content, root / "nan.pth")
    (root / "renamed.json").write_text('["Run", "Jump", "Swim"]')
    (root / "same.json").write_text('{"labels": {"Wave": 2, "Run": 0, "Jump": 1}}')
    torch.save({"state_dict": torch.load(root / "trunk.pth")["state_dict"]}, root / "copy.pth")
    return root


@pytest.mark.parametrize("change", [
    "--temporal_strides 1 2 2 2 1", "--spatial_strides 2 2 1 2 1", "--normalisation i3d", "--classes renamed.json",
    "--pretrain_path biased.pth", "--sample_size 32", "--sample_duration 4", "--sample_t_stride 2", "--windows 1",
    "--inference_stride 4"])
def test_rows_of_another_network_or_other_windows_are_refused(others, tmp_path, change, capsys):
    words = (LINE, FEW, "--methods --measures box_volume --videos v_Swim_g01_c01 --out", tmp_path)
    call(others, *words)
    stored = (tmp_path / "rows.jsonl").read_text()
    with pytest.raises(SystemExit):
        call(others, *words, change)
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "rows.jsonl").read_text() == stored


def test_rows_of_the_same_network_are_kept(others, tmp_path, monkeypatch):
    """From another file, and however its classes are written."""
    words = (LINE, FEW, "--methods --measures box_volume --videos v_Swim_g01_c01 --out", tmp_path)
    call(others, *words)
    monkeypatch.setattr(Judge, "rows", None)
    call(others, *words, "--pretrain_path copy.pth --classes same.json --normalisation kinetics --conv1_t_stride 1")


def test_weights_that_are_not_numbers_are_refused(others, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(others, LINE, FEW, "--methods --measures insertion --pretrain_path nan.pth --out", tmp_path)
    assert "not finite" in capsys.readouterr().err and not (tmp_path / "measures.csv").exists()


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name, trunk in TRUNKS.items()
                                                for argument in trunk.options])
def test_every_option_of_a_trunk_is_in_its_digest(name, argument):
    option = TRUNKS[name].options[argument]
    other = (not option.unset if isinstance(option.default, bool) else
             next(choice for choice in option.choices if choice != option.default) if option.choices else
             option.default + type(option.default)(2))
    args = resolve(parse_main(["--model", name])[0])
    digests = [digest_of_trunk(PublishedTrunk(
        name, "", Hierarchy([["a"]]), nn.Identity(), None, "kinetics", CPU, head=torch.ones(1), head_bias=torch.ones(1),
        arguments=trunk_arguments(changed)), name) for changed in (args, args.replaced(**{option.flag: other}), args)]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("flags", ["", "--windows 3", "--windows 0", "--inference_stride 5",
                                   "--windows 2 --inference_stride 5", "--windows 0 --inference_stride 9"])
def test_the_window_that_is_judged_is_the_one_that_is_shown(root, tmp_path, monkeypatch, flags):
    """By local_attribution.py, of the same videos with the same flags."""
    for i in range(2):
        noise = np.random.default_rng(i).integers(256, size=(61, 24, 32, 3), dtype=np.uint8)
        write_video(tmp_path / "long" / f"v_Swim_g0{i}_c01.avi", noise)
    judged, before = {}, Judge.scene

    def scene(self, v):
        found = before(self, v)
        judged[found.video.name] = ([int(found.frames.min()), int(found.frames.max()) + 1], self.tree.names[found.leaf],
                                    int((self.clips.item_video == v).sum()))
        return found

    monkeypatch.setattr(Judge, "scene", scene)
    call(root, LINE, "--videos_dir", tmp_path / "long", "--steps 2 --methods --measures box_volume", flags, "--out",
         tmp_path / "judged")
    explain(root, f"{LINE} --videos_dir {tmp_path / 'long'} --vis_method random {flags} --out {tmp_path / 'shown'}")
    shown = json.loads((tmp_path / "shown" / "resnet-10.json").read_text())["videos"]
    assert judged == {video["video"]: (video["window"], video["target"], video["n_windows"]) for video in shown}
    assert len(judged) == 2


@pytest.mark.parametrize("n_threads", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_weights_are_loaded_once_and_said_once(root, tmp_path, monkeypatch, capfd, n_threads):
    """Named ones, whose line every process would print."""
    named = tmp_path / "cache" / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth"
    named.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), named)
    loaded, before = [], subjects.load_pretrained
    monkeypatch.setattr(subjects, "load_pretrained",
                        lambda *words, **flags: (loaded.append(1), before(*words, **flags))[1])
    call(root, "--model tsm_mobilenetv2 --pretrain_path IMAGENET1K_V1 --videos_dir films --n_videos 2 --batch_size 1",
         "--sample_size 32 --sample_duration 8 --steps 1 --methods --measures box_volume --no_cuda --n_threads",
         n_threads, "--out", tmp_path / "out")
    said = capfd.readouterr().err
    assert loaded == [1] and said.count("loaded; ") == 1
    assert len({row["video"] for row in rows_of(tmp_path / "out")}) == 2


def test_smoothed_heat_is_of_a_place(root, tmp_path):
    for flag in ("", "--smooth"):
        call(root, LINE, FEW, "--methods grad grad_cam --measures box_volume energy --truth truth.json", flag,
             "--out", tmp_path / f"out{flag}")
    plain, smooth = (pd.read_csv(tmp_path / name / "measures.csv").set_index(["explanation", "measure"])["mean"]
                     for name in ("out", "out--smooth"))
    assert smooth["grad", "box_volume"] > plain["grad", "box_volume"]
    assert smooth["grad_cam", "box_volume"] == plain["grad_cam", "box_volume"]
    assert '"smooth": true' in (tmp_path / "out--smooth" / "rows.jsonl").read_text()
    assert "smooth" not in (tmp_path / "out" / "rows.jsonl").read_text()


@pytest.mark.parametrize(("line", "word"), [
    ("--model resnet", "--resume_path"), (f"{LINE}", "--videos_dir"), (f"{LINE} --videos_dir nowhere", "nowhere"),
    (f"{LINE} --videos_dir films --levels 0", "--levels"), (f"{LINE} --videos_dir films --head prototypes", "--head"),
    (f"{LINE} --videos_dir films --videos v_Nobody", "v_Nobody"),
    (f"{LINE} --videos_dir films --measures purity", "purity"),
    (f"{LINE} --videos_dir films --truth classes.json", "classes.json"),
    ("--resume_path save_1.pth --model i3d", "--model"),
    ("--resume_path save_1.pth --videos_dir films", "--videos_dir"),
    ("--resume_path save_1.pth --windows 2", "--windows"), (f"{LINE} --videos_dir films --windows -1", "--windows")])
def test_bad_input_is_one_sentence(root, tmp_path, line, word, capsys):
    with pytest.raises(SystemExit) as ended:
        call(root, line, "--out", tmp_path)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and word in said and "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("error: ")


def test_videos_of_one_name_in_one_folder_are_refused(root, tmp_path, capsys):
    for name in ("v.avi", "v.mp4"):
        write_video(tmp_path / "films" / "a" / name, shades(9))
    with pytest.raises(SystemExit):
        call(root, LINE, "--videos_dir", tmp_path / "films", "--out", tmp_path)
    assert "one name" in capsys.readouterr().err
