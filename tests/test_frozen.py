"""A trunk that learns nothing runs once over every clip, and the run ends at the same bits however often it was cut."""

import json
import os
import resource
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from processes import in_processes
from program import assert_same, cut, train
from trunks import on_meta

from datasets.transforms import normalise
from models import TRUNKS
from models.resnet3d import ResNet3D
from models.state_files import read_state
from run.data import even_clips, make_reader, read_videos
from run.frozen import FrozenTrunk, numbers_of_a_clip
from run.model import model_of
from run.resume import stored_args
from training import stored
from training.checkpoint import load_checkpoint
from training.engine import Trainer
from training.features import valid_clips
from training.stored import FeatureFile

# In order: 2 x 3 trunk, start, 2 x 3 warm, 3 joint, push, 2 tune, 3 joint, push, 2 tune.
SCHEDULE = ("--ft_begin_module fc --trunk_epochs 2 --warm_epochs 2 --n_epochs 4 --push_start 3 --push_every 1 "
            "--tune_iterations 2 --checkpoint 1 --batch_size 5 --push_clips 2 --ways_clips 1 --cache_features 3 "
            "--n_val_samples 2")
VIEWS, STILL, VALIDATION = 3 * 12, 2 * 12, 2 * 4  # clips
BATCHES = 8 + 5 + 2  # of them


@pytest.fixture(scope="module")
def frozen(data, tmp_path_factory) -> Path:
    """The results of an uninterrupted run."""
    return train(data, tmp_path_factory.mktemp("frozen"), "--keep_features", schedule=SCHEDULE)


@pytest.fixture
def forwards(monkeypatch) -> list[int]:
    """Fills with the clips of every forward pass of the trunk."""
    seen, take = [], ResNet3D.forward

    def forward(self, clips):
        if not clips.is_meta:
            seen.append(len(clips))
        return take(self, clips)

    monkeypatch.setattr(ResNet3D, "forward", forward)
    return seen


def again(data: Path, results: Path, *more: str | Path) -> Path:
    return train(data, results, "--resume_path auto", *more, schedule=SCHEDULE)


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("trunk.pth", "save_2.pth", "save_3.pth", "save_4.pth"):
        assert_same(one / name, other / name)
    assert (one / "prototypes.json").read_bytes() == (other / "prototypes.json").read_bytes()


def scores(results: Path) -> list[dict]:
    events = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "val"]


def test_every_clip_goes_through_the_trunk_once(data, tmp_path, frozen, forwards, capsys):
    train(data, tmp_path, schedule=SCHEDULE)
    assert sum(forwards) == VIEWS + STILL + VALIDATION and len(forwards) == BATCHES
    assert "computed once and kept" in capsys.readouterr().err
    assert not (tmp_path / "features").exists() and (frozen / "features").is_dir()
    assert_same_run(tmp_path, frozen)
    assert scores(tmp_path) == scores(frozen) and len(scores(frozen)) == 2 + 2 + 2 * 3


def test_nothing_of_the_trunk_moves(data, frozen):
    """Nor the statistics of its batch-norms, without --freeze_bn."""
    first, last = (load_checkpoint(frozen / name)["model"] for name in ("trunk.pth", "save_4.pth"))
    for name, value in first.items():
        if name.startswith(("trunk.", "pooled_head.")):
            assert torch.equal(value, last[name]), name
    assert not any(value for name, value in last.items() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("more", ["--n_threads 2", "--cache_gb 0", "--memory_gb .1"])
def test_threads_and_memory_change_nothing(data, tmp_path, frozen, capsys, more):
    train(data, tmp_path, more, schedule=SCHEDULE)
    assert ("on disk" if "cache_gb" in more else "in memory") in capsys.readouterr().err
    assert_same_run(tmp_path, frozen)


def test_features_stay_in_their_files_where_memory_is_short(data, tmp_path, monkeypatch, capsys):
    sets, take = {}, FrozenTrunk._set

    def take_set(self, name, *rest, **options):
        sets[name] = take(self, name, *rest, **options)
        return sets[name]

    def places() -> dict[str, str]:
        """Of each set, where it is said to be."""
        lines = [line for line in capsys.readouterr().err.splitlines() if "computed once" in line]
        return {word: "memory" if "in memory" in line else "disk" for line in lines
                for word in ("views", "still", "validation") if f" {word} " in line}

    monkeypatch.setattr(FrozenTrunk, "_set", take_set)
    train(data, tmp_path, "--cache_gb 0", schedule=SCHEDULE)
    assert places() == {"views": "disk", "still": "disk", "validation": "disk"}
    assert {name: found.mapped for name, found in sets.items()} == {"views": True, "still": True, "validation": True}
    views = sets["views"].nbytes
    assert views == VIEWS * sets["still"].nbytes // (2 * STILL)  # half precision
    train(data, tmp_path, "--overwrite", "--cache_gb", str(views * 1.6e-9), schedule=SCHEDULE)
    assert [sets[name].mapped for name in ("views", "still", "validation")] == [False, True, False]
    assert places() == {"views": "memory", "still": "disk", "validation": "memory"}


def test_the_index_of_the_features_does_not_grow_with_the_clips(frozen):
    """It is written again every few seconds."""
    sizes = {path.name.split(".")[0]: path.stat().st_size for path in (frozen / "features").glob("*.pth")}
    assert sorted(sizes) == ["still", "validation", "views"] and max(sizes.values()) < 4000
    columns = FeatureFile(frozen / "features" / "still.0-of-1", read_state(
        frozen / "features" / "still.0-of-1.pth")["fingerprint"]).columns()
    assert {len(values) for values in columns.values()} == {STILL} and "looks.000" in columns
    assert columns["item"].tolist() == list(range(STILL)) and columns["frames"].shape == (STILL, 8)


@pytest.mark.parametrize("name", TRUNKS)
def test_the_size_of_the_features_is_known_before(name):
    trunk = on_meta(name)
    args = Namespace(sample_duration=17, sample_size=75)
    assert numbers_of_a_clip(args, trunk) == trunk(torch.empty(1, 3, 17, 75, 75, device="meta")).numel()


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_cut_anywhere_ends_at_the_same_bits(data, tmp_path, frozen, forwards, lost):
    """Whether its features are there again, or have to be computed again."""
    for kind, nth, how in (("trunk", 2, "kill"), ("trunk", 4, "term"), ("start", 1, "kill"), ("start", 1, "term"),
                           ("warm", 4, "kill"), ("warm", 1, "term"), ("joint", 3, "kill"), ("push", 1, "term"),
                           ("tune", 1, "kill"), ("tune", 1, "term"), ("joint", 3, "kill"), ("push", 1, "kill"),
                           ("tune", 2, "term")):
        with cut(kind, nth, how):
            again(data, tmp_path)
        if lost:
            shutil.rmtree(tmp_path / "features", ignore_errors=True)
    again(data, tmp_path)
    assert_same_run(tmp_path, frozen)
    assert (sum(forwards) == VIEWS + STILL + VALIDATION) != lost
    assert not (tmp_path / "features").exists()


def killed(data: Path, results: Path, batch: int, number: int = signal.SIGKILL) -> int:
    """Train in a process of its own, which gets a signal in the trunk's forward pass of a batch; its exit code."""
    def work(rank: int) -> None:
        count, take = 0, ResNet3D.forward

        def forward(self, clips):
            nonlocal count
            count += not clips.is_meta
            if count == batch and not clips.is_meta:
                os.kill(os.getpid(), number)
            return take(self, clips)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ResNet3D, "forward", forward)
            patch.setattr(stored, "FLUSH_SECONDS", 0.0)
            again(data, results)

    results.mkdir(exist_ok=True)
    ended, = in_processes(1, work, results)
    assert "Traceback" not in ended.said
    return ended.code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("batch", [1, 5, 9, 12, 14])
def test_a_pass_that_is_cut_goes_on_where_it_stands(data, tmp_path, frozen, forwards, batch, number):
    """In the views, the validation clips, and the still ones."""
    assert killed(data, tmp_path, batch, number) == (-number if number == signal.SIGKILL else 0)
    again(data, tmp_path)
    assert_same_run(tmp_path, frozen)
    done = batch - (number == signal.SIGKILL)
    assert len(forwards) == BATCHES - done
    assert scores(tmp_path) == scores(frozen)


def test_damaged_features_are_computed_again(data, tmp_path, frozen, forwards):
    shutil.copytree(frozen / "features", tmp_path / "features")
    rows = next((tmp_path / "features").glob("views.*.rows"))
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    next((tmp_path / "features").glob("still.*.rows")).write_bytes(b"")
    train(data, tmp_path, schedule=SCHEDULE)
    assert_same_run(tmp_path, frozen)
    assert sum(forwards) == VIEWS + STILL


def test_kept_features_serve_another_run(data, tmp_path, frozen, forwards):
    shutil.copytree(frozen / "features", tmp_path / "features")
    train(data, tmp_path, "--separation_margin 3 --tune_iterations 1 --warm_epochs 3", schedule=SCHEDULE)
    assert not forwards


def _annotation(data: Path) -> None:
    path = data / "ucf101_01.json"
    content = json.loads(path.read_text())
    content["database"]["v_Run_g00_c01"]["annotations"]["segment"] = [2, 12]
    path.write_text(json.dumps(content))


def _video(data: Path) -> None:
    os.utime(data / "jpg" / "Run" / "v_Run_g00_c01", (1e9, 1e9))


def _pictures(data: Path) -> None:
    """Other ones in the files that there are, which no folder's time tells."""
    folder = data / "jpg" / "Run" / "v_Run_g00_c01"
    before = folder.stat().st_mtime_ns
    for path in folder.glob("*.jpg"):
        path.write_bytes((data / "jpg" / "Wave" / "v_Wave_g00_c01" / path.name).read_bytes())
    assert folder.stat().st_mtime_ns == before


@pytest.mark.parametrize(("change", "more", "computed"), [
    (lambda data: None, "", 0), (_annotation, "", VIEWS + STILL), (_video, "", VIEWS + STILL),
    (_pictures, "", VIEWS + STILL),
    (lambda data: None, "--manual_seed 2", VIEWS + STILL + VALIDATION),  # of a fresh trunk
    (lambda data: None, "--train_jitter .5", VIEWS + STILL),  # and so another pooled head
    (lambda data: None, "--n_val_samples 1", 4), (lambda data: None, "--normalisation imagenet", 68)])
def test_what_has_changed_is_computed_again(own_data, tmp_path, frozen, forwards, change, more, computed):
    results = tmp_path / "results"
    train(own_data, results, "--keep_features", schedule=SCHEDULE)
    forwards.clear()
    change(own_data)
    train(own_data, results, "--overwrite", *([more] if more else []), schedule=SCHEDULE)
    assert sum(forwards) == computed


def test_other_weights_are_other_features(data, tmp_path, frozen, forwards):
    """Of --pretrain_path, with the same flags."""
    path, results = tmp_path / "weights.pth", tmp_path / "results"
    state = {name: value for name, value in load_checkpoint(frozen / "trunk.pth")["model"].items()
             if name.startswith("trunk.")}
    for factor, computed in ((1.0, VIEWS + STILL + VALIDATION), (1.0, 0), (1.001, VIEWS + STILL + VALIDATION)):
        state["trunk.conv1.weight"] = state["trunk.conv1.weight"] * factor
        torch.save({name.removeprefix("trunk."): value for name, value in state.items()}, path)
        train(data, results, "--overwrite --keep_features --pretrain_path", path, schedule=SCHEDULE)
        assert sum(forwards) == computed
        forwards.clear()


def test_a_full_disk_is_one_sentence_and_loses_nothing(data, tmp_path, frozen):
    """Files that may grow no further stand for a full disk."""
    results = tmp_path / "results"
    size = next((frozen / "features").glob("views.*.rows")).stat().st_size

    def work(rank: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        again(data, results)

    results.mkdir()
    ended, = in_processes(1, work, tmp_path)
    errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    assert ended.code == 2 and len(errors) == 1 and "Traceback" not in ended.said, ended.said
    assert "views.0-of-1.rows" in errors[0] and "--cache_features 0" in errors[0]
    again(data, results)
    assert_same_run(results, frozen)


def test_stored_features_are_those_of_the_clips(data, tmp_path, monkeypatch):
    """Views to half precision, also the loss of each step on them; still and validation clips to the bit."""
    steps: dict[tuple, tuple] = {}
    take = Trainer.step

    def step(self, step, progress, batch):
        self.enter(step.kind)
        with torch.no_grad():
            trunk = self._trunk(batch)
            if "clip" in batch:
                features, labels = steps[tuple(step)]
                assert torch.equal(labels, batch["label"])
                torch.testing.assert_close(features, trunk, rtol=2**-11, atol=1e-7)
                one, other = (float(self.losses(maps, labels)[1]) for maps in (features, trunk))  # under one head
                assert one == pytest.approx(other, rel=1e-3)
                compared.append(step.kind)
            else:
                steps[tuple(step)] = trunk, batch["label"]
        return take(self, step, progress, batch)

    compared: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        own = SCHEDULE.replace("--cache_features 3", "--cache_features 6")
        train(data, tmp_path / "stored", "--no_val", schedule=own)
        train(data, tmp_path / "fresh", "--no_val --cache_features 0 --freeze_bn", schedule=own)
    assert compared == ["trunk"] * 6 + ["warm"] * 6 + ["joint"] * 6

    checked = []
    fill = FrozenTrunk._set

    @torch.no_grad()
    def set_of(self, name, clips, order, *rest, **options):
        found = fill(self, name, clips, order, *rest, **options)
        if name != "views" and name not in checked:
            checked.append(name)
            for start, batch in zip(range(0, len(order), 5), found.loader(5), strict=True):
                indices = order[start:start + 5]
                whole = torch.stack([clips[i]["clip"] for i in indices])
                readable = {"clip": whole, "label": batch["label"], "valid": torch.ones(len(whole), dtype=torch.bool)}
                direct, = valid_clips([readable], torch.device("cpu"))
                assert torch.equal(batch["trunk"], self.model.trunk(direct["clip"]))
                assert batch["item"].tolist() == indices
        return found

    monkeypatch.setattr(FrozenTrunk, "_set", set_of)
    train(data, tmp_path / "checked", schedule=SCHEDULE)
    assert sorted(checked) == ["still", "validation"]


def test_a_trunk_without_steps_runs_once_too(data, tmp_path, forwards):
    train(data, tmp_path, "--trunk_epochs 0 --warm_epochs 4 --ft_begin_module", "layer4",
          schedule=SCHEDULE.replace("--ft_begin_module fc", ""))
    assert sum(forwards) == VIEWS + STILL + VALIDATION


def test_zero_views_are_the_old_way(data, tmp_path, forwards, capsys):
    train(data, tmp_path, "--cache_features 0 --no_val", schedule=SCHEDULE)
    assert sum(forwards) == 6 * 12 + (2 + 1 + 2) * 12  # epochs; start, a push before the last, the last
    assert "computed once" not in capsys.readouterr().err and not (tmp_path / "features").exists()


@pytest.mark.slow
def test_two_processes_share_the_pass(data, tmp_path, frozen):
    """And end at the same bits when one was killed in it."""
    def work(rank: int) -> None:
        train(data, results, "--resume_path auto", schedule=SCHEDULE)

    def dying(rank: int) -> None:
        count, take = 0, ResNet3D.forward

        def forward(self, clips):
            nonlocal count
            count += not clips.is_meta
            if rank == 1 and count == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return take(self, clips)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ResNet3D, "forward", forward)
            patch.setattr(stored, "FLUSH_SECONDS", 0.0)
            work(rank)

    for name, jobs in (("whole", [work]), ("cut", [dying, work])):
        results = tmp_path / name
        results.mkdir()
        for job in jobs:
            ended = in_processes(2, job, tmp_path)
            assert [one.code for one in ended] == ([0, 0] if job is work else [2, -signal.SIGKILL]), ended
            assert "kept on disk" in ended[0].said and "in memory" not in ended[0].said  # which both read
            assert "computed once" not in ended[1].said
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    one, other = (load_checkpoint(folder / "trunk.pth")["model"] for folder in (tmp_path / "whole", frozen))
    torch.testing.assert_close(one["pooled_head.weight"], other["pooled_head.weight"], rtol=1e-3, atol=1e-4)


def test_an_unreadable_video_is_left_out(own_data, tmp_path, forwards):
    for path in (own_data / "jpg" / "Run" / "v_Run_g00_c01").glob("*"):
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="v_Run_g00_c01"):
        train(own_data, tmp_path, schedule=SCHEDULE)
    assert sum(forwards) == VIEWS + STILL - 2 + VALIDATION
    record = load_checkpoint(tmp_path / "save_4.pth")["push_record"]
    assert "v_Run_g00_c01" not in record["video"]


@torch.no_grad()
def test_a_prototype_is_a_patch_of_its_own_clip(frozen):
    """As the trunk sees the clip when it is explained, not as a rounded copy of it."""
    model, hierarchy, record = model_of(checkpoint := load_checkpoint(frozen / "save_4.pth"), frozen)
    args = stored_args(checkpoint)
    videos = read_videos(args, hierarchy).subset("training")
    clips = even_clips(args, videos, make_reader(args), args.push_clips, normalisation=model.normalisation)
    places = {(videos.names[v], tuple(clips.item_frames(i).tolist())): i for i, v in enumerate(clips.item_video)}
    model.eval()
    for p, name in enumerate(record.video):
        clip = normalise(clips[places[name, tuple(record.frames[p].tolist())]]["clip"][None], model.normalisation)
        output = model(clip)
        assert float(output.distances[0, p]) < 1e-9 and int(output.cells[0, p]) == int(record.cell[p])
        assert float(output.activations[0, p]) == pytest.approx(model.prototype_layer.highest, abs=1e-6)
