"""Several processes do what one does: the same losses, weights, pushes and predictions; and they end together."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import Ended, in_processes
from program import DATA, MODEL, ROOT, assert_same, call, write_data
from tiny import noise_batch, random_tree, sampling_hipe, small_hipe
from torch import nn
from trainers import weights

from evaluation.recognition import VideoPool
from run.predict import evaluate
from training.checkpoint import load_checkpoint
from training.distributed import World, joined, synchronise_batchnorm
from training.engine import Phase, Trainer
from training.features import valid_clips
from training.push import push
from training.schedule import Step

CPU = torch.device("cpu")
LABELS = [0, 3, 4, 3, 0, 2, 4, 4]
SCHEDULE = ("--trunk_epochs 1 --warm_epochs 1 --n_epochs 2 --push_start 2 --tune_iterations 2 --checkpoint 1 "
            "--batch_size 6 --push_clips 1 --ways_clips 1 --cache_features 0 --trunk_optimizer sgd --optimizer sgd "
            "--n_threads 0 --no_cuda --no_img")


def together(size: int, work: Callable[[World, int], None], folder: Path) -> list[Ended]:
    """`work(world, rank)` in processes that have joined."""
    def joining(rank: int) -> None:
        with joined() as world:
            work(world, rank)
    ended = in_processes(size, joining, folder)
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    return ended


def share(batch: dict, world: World) -> dict:
    return {key: value[world.rank::world.size] for key, value in batch.items()}


# --- what they tell each other


@pytest.mark.parametrize("size", [2, 3])
def test_a_gathered_batch_is_the_batch(size, tmp_path):
    """With gradients that, averaged over the processes, are those of one process, through the rows and around them."""
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))

    def loss(weight, rows):
        return (rows @ weight).square().mean() + (rows @ weight).amax() + weight.norm()

    def work(world, rank):
        weight = torch.ones(4, requires_grad=True)
        mine = rows[rank::size]
        whole = world.gather(mine * weight)
        assert torch.equal(whole, rows)
        loss(weight, whole).backward()
        world.sum_(weight.grad)
        torch.save(weight.grad / size, tmp_path / f"{rank}.pth")
        assert torch.equal(world.gather(torch.arange(7)[rank::size]), torch.arange(7))
        assert torch.equal(world.collect(rows.half()[rank::size], 7), rows.half())
        assert world.any(rank == 1) and not world.any(False) and world.total(rank + 1) == size * (size + 1) // 2
        assert world.objects(rank) == list(range(size))
        assert torch.equal(world.merge(torch.full((size, 2), rank), torch.arange(size) == rank),
                           torch.arange(size)[:, None].expand(-1, 2))
        layer = nn.BatchNorm3d(2).to(memory_format=torch.channels_last_3d)
        nn.init.constant_(layer.weight, rank)
        world.align(layer)
        assert not layer.weight.any()

    together(size, work, tmp_path)
    weight = torch.ones(4, requires_grad=True)
    loss(weight, rows * weight).backward()
    for rank in range(size):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pth"), weight.grad)


def test_alone_everything_is_given_back():
    world, rows = World(), torch.rand(3, 2)
    assert world.is_main and world.any(True) and not world.any(False) and world.total(3) == 3
    assert world.gather(rows) is rows and world.collect(rows, 3) is rows
    assert world.merge(rows, torch.ones(3, dtype=torch.bool)) is rows and world.objects(rows)[0] is rows
    assert world.share(3) == range(3) and torch.equal(world.stack(rows), rows[None])


@pytest.mark.parametrize("size", [2, 3])
def test_batchnorm_over_processes_is_batchnorm(size, tmp_path):
    batchnorm, shape = {2: (nn.BatchNorm2d, (5, 4, 3, 3)), 3: (nn.BatchNorm3d, (5, 4, 2, 3, 3))}[size]
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    probe = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def ran(layer, x, probe):
        x = x.clone().requires_grad_()
        y = layer(x)
        (y * probe).sum().backward()
        return y.detach(), x.grad

    def work(world, rank):
        layer = synchronise_batchnorm(nn.Sequential(batchnorm(4)), CPU)[0]
        y, gradient = ran(layer, clips[rank::size], probe[rank::size])
        world.sum_(layer.weight.grad)
        torch.save([y, gradient, layer.weight.grad, layer.state_dict()], tmp_path / f"{rank}.pth")
        assert torch.equal(layer.eval()(clips), nn.functional.batch_norm(
            clips, layer.running_mean, layer.running_var, layer.weight, layer.bias))

    together(size, work, tmp_path)
    layer = batchnorm(4)
    y, gradient = ran(layer, clips, probe)
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(found, [y[rank::size], gradient[rank::size], layer.weight.grad, layer.state_dict()],
                                   atol=1e-5, rtol=1e-5)


# --- steps, evaluation and push


def made_trainer(world: World) -> Trainer:
    model = small_hipe(random_tree(4, 3, 5))
    if world.size > 1:
        model = synchronise_batchnorm(model, CPU)
    phases = {"trunk": Phase("sgd", 0.01, 0), "warm": Phase("sgd", 0, 0.01), "joint": Phase("sgd", 0.01, 0.02),
              "tune": Phase("sgd", 0, 0.01)}
    return Trainer(model, phases, weights(orthogonality=0.3, sharing=0.2), sure=0.21, world=world)


def steps_of_every_kind(world: World, path: Path) -> None:
    trainer, scalars = made_trainer(world), []
    batch = next(iter(valid_clips([share(noise_batch(LABELS), world)], CPU)))
    for i, kind in enumerate(("trunk", "trunk", "warm", "joint", "joint", "trunk")):
        scalars.append(trainer.step(Step(kind, 1, i), 0.0, batch))
    activations = 3 * torch.rand(8, len(trainer.model.prototype_layer.node_of),
                                 generator=torch.Generator().manual_seed(0))
    for i in range(2):
        scalars.append(trainer.tune(Step("tune", 1, i), 0.0, activations[world.rank::world.size],
                                    torch.tensor(LABELS)[world.rank::world.size]))
    torch.save([trainer.model.state_dict(), scalars], path)


@pytest.mark.parametrize("size", [2, 3])
def test_steps_of_a_shared_batch_are_those_of_one_process(size, tmp_path):
    """Losses to 1e-4 of what they are, weights to 1e-4, which a step's rate is a hundred times."""
    together(size, lambda world, rank: steps_of_every_kind(world, tmp_path / f"{rank}.pth"), tmp_path)
    steps_of_every_kind(World(), tmp_path / "alone.pth")
    state, scalars = torch.load(tmp_path / "alone.pth")
    states = []
    for rank in range(size):
        found, told = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(told, scalars, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, state, rtol=1e-3, atol=1e-4)
        states.append(found)
    assert all(torch.equal(value, other[key]) for other in states for key, value in states[0].items())


@pytest.mark.parametrize("size", [2, 3])
def test_push_and_evaluation_are_those_of_one_process(size, tmp_path):
    """One clip cannot be read."""
    batch = noise_batch(LABELS)
    batch["video"] //= 2
    batch["valid"][5] = False

    def work(world, path):
        model, loader = small_hipe(random_tree(4, 3, 5), per_node=3), [share(batch, world)]
        with torch.no_grad():  # all of a node want the same patch, and classes have two videos or one
            model.prototype_layer.prototypes[:] = model.prototype_layer.prototypes[::3].repeat_interleave(3, 0)
        record, kept = push(model, loader, names=list("abcd"), device=CPU, n_clips=8, world=world)
        scores = evaluate(model, loader, torch.tensor([0, 3, 4, 4]), device=CPU, world=world)
        torch.save([record.to_dict(), model.prototype_layer.prototypes.detach(), scores,
                    world.total(len(kept.labels))], path)

    together(size, lambda world, rank: work(world, tmp_path / f"{rank}.pth"), tmp_path)
    work(World(), tmp_path / "alone.pth")
    record, prototypes, scores, n = torch.load(tmp_path / "alone.pth")
    for rank in range(size):
        found, pushed, told, m = torch.load(tmp_path / f"{rank}.pth")
        assert found["video"] == record["video"] and None in record["video"] and m == n == 7
        assert all(torch.equal(found[key], record[key]) for key in ("cell", "frames", "crop"))
        torch.testing.assert_close(found["distance"], record["distance"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found["maps"], record["maps"], atol=0.02, rtol=0.01)  # of features in half precision
        torch.testing.assert_close(pushed, prototypes, atol=1e-5, rtol=1e-5)
        assert told == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_agree_where_clips_are_equally_near(size, tmp_path):
    """Clips come twice and thrice, of one video and of others, and their features are equal to the bit."""
    batch = noise_batch([0, 1, 0, 1, 0, 0, 1, 1], size=(4, 8, 8))
    batch["clip"] = batch["clip"][torch.tensor([0, 1, 0, 1, 0, 5, 6, 1])]
    batch["video"] = torch.tensor([0, 1, 0, 2, 3, 3, 4, 4])

    def work(world, path):
        model = sampling_hipe(random_tree(4, 2, 3), per_node=3)
        with torch.no_grad():
            model.prototype_layer.prototypes[:] = model.prototype_layer.prototypes[::3].repeat_interleave(3, 0)
        record, _ = push(model, [share(batch, world)], names=list("abcde"), device=CPU, n_clips=8, world=world)
        torch.save([record.to_dict(), model.prototype_layer.prototypes.detach()], path)

    together(size, lambda world, rank: work(world, tmp_path / f"{rank}.pth"), tmp_path)
    work(World(), tmp_path / "alone.pth")
    record, prototypes = torch.load(tmp_path / "alone.pth")
    for rank in range(size):
        found, pushed = torch.load(tmp_path / f"{rank}.pth")
        assert found["video"] == record["video"] and len(set(record["video"][3:6])) == 3
        assert all(torch.equal(found[key], record[key]) for key in ("cell", "frames", "crop", "distance", "maps"))
        assert torch.equal(pushed, prototypes)


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_what_is_merged_is_that_of_all_clips(power):
    """Also where clips are equally good: the earliest is the best."""
    generator = torch.Generator().manual_seed(0)
    tree = random_tree(0, 2, 5)
    leaf = torch.randint(1, 4, (40, 5), generator=generator).float()
    probs = leaf / leaf.sum(1, keepdim=True) @ tree.membership.T
    videos, items = torch.randint(6, (40,), generator=generator), torch.arange(40)
    whole, *parts = (VideoPool(7, tree.membership, power) for _ in range(4))
    whole.add(videos, probs, items)
    for rank, part in enumerate(parts):
        for i in range(rank, 40, 3):
            part.add(videos[i, None], probs[i, None], items[i, None])
    merged = parts[2]
    merged.merge(parts[0])
    merged.merge(parts[1])
    assert torch.equal(merged.count, whole.count) and torch.equal(merged.best, whole.best)
    torch.testing.assert_close(merged.probs, whole.probs, rtol=1e-12, atol=0)


# --- the whole program


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def run(size: int, data: Path, results: Path, *more: str | Path) -> list[Ended]:
    """main.py in several processes."""
    def work(rank: int) -> None:
        call("--root_path", data, "--result_path", results, DATA, MODEL, SCHEDULE, *more)
    results.mkdir(exist_ok=True, parents=True)
    return in_processes(size, work, results)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("alone")
    ended, = run(1, data, results, "--inference --inference_stride 3")
    assert ended.code == 0, ended.said
    return results


def events(results: Path) -> list[dict]:
    return [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=[2, 3])
def shared(request, data, tmp_path_factory) -> tuple[int, Path]:
    """How many processes, and their results."""
    results = tmp_path_factory.mktemp(f"shared_by_{request.param}")
    ended = run(request.param, data, results, "--batchnorm_sync")
    assert [one.code for one in ended] == [0] * request.param, "\n".join(one.said for one in ended)
    assert ended[0].said and not any(one.said for one in ended[1:])
    return request.param, results


def test_a_run_of_several_processes_is_the_run_of_one(alone, shared):
    """Losses and weights of each kind of epoch, to 1e-3; the warm epoch's optimiser is Adam, which divides by almost
    nothing at first."""
    _, results = shared
    told, expected = events(results), events(alone)
    assert [event["done"] for event in told] == [event["done"] for event in expected]
    for one, other in zip(told, expected, strict=True):
        for name in set(other) - {"event", "done", "clips_per_s", "seconds", "picture_seconds"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (other["event"], name)
    for name in ("trunk.pth", "save_1.pth", "save_2.pth"):
        one, other = load_checkpoint(results / name), load_checkpoint(alone / name)
        assert one["done"] == other["done"]
        torch.testing.assert_close(one["model"], other["model"], rtol=1e-3, atol=1e-4)
    one, other = (json.loads((folder / "prototypes.json").read_text()) for folder in (results, alone))
    assert [(row["video"], row["frames"], row["cell"]) for row in one] == [
        (row["video"], row["frames"], row["cell"]) for row in other]
    assert not list(results.glob("*.part"))


def test_predictions_of_several_processes_are_those_of_one(alone, shared, data, tmp_path):
    size, _ = shared
    ended = run(size, data, tmp_path, "--resume_path", alone / "save_2.pth",
                "--no_train --no_val --inference --inference_stride 3")
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    found, expected = (json.loads((folder / "val.json").read_text()) for folder in (tmp_path, alone))
    for rows in (found["videos"], expected["videos"]):
        for row in rows.values():  # whose sums are taken in another order
            row["backoff"]["probability"] = round(row["backoff"]["probability"], 9)
    assert found["videos"] == expected["videos"] and found["tree"] == expected["tree"]
    assert list(found["results"]) == list(expected["results"])
    for name, guesses in expected["results"].items():
        assert [guess["label"] for guess in found["results"][name]] == [guess["label"] for guess in guesses]
        for one, other in zip(found["results"][name], guesses, strict=True):
            assert [one["score"], *one["path_scores"]] == pytest.approx([other["score"], *other["path_scores"]],
                                                                        abs=1e-5)


def test_warm_epochs_share_the_features_that_are_kept(data, tmp_path):
    warm = "--trunk_epochs 0 --warm_epochs 2 --n_epochs 2 --cache_features 1 --tune_iterations 1 --no_val"
    for size in (1, 2):
        ended = run(size, data, tmp_path / str(size), warm)
        assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
        assert "are kept" in ended[0].said
    one, other = (events(tmp_path / str(size)) for size in (1, 2))
    for first, second in zip(one, other, strict=True):
        assert first["done"] == second["done"]
        assert first.get("loss", 0) == pytest.approx(second.get("loss", 0), rel=1e-3)


def cut_short(size: int, data: Path, results: Path, rank: int, number: int, kind: str, nth: int,
              *more: str) -> list[Ended]:
    """main.py in several processes, of which one sends itself a signal at its nth step of a kind."""
    take, count = Trainer.step, 0

    def step(trainer, step, *rest):
        nonlocal count
        count += step.kind == kind
        if trainer.world.rank == rank and step.kind == kind and count == nth:
            os.kill(os.getpid(), number)
        return take(trainer, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        return run(size, data, results, *more)


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
                                    pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_one_stops_all_after_the_same_step(shared, data, tmp_path, number):
    size, whole = shared
    if (size == 3) != (number == signal.SIGUSR1):
        pytest.skip("one of three gets SIGUSR1, one of two the others")
    ended = cut_short(size, data, tmp_path, 1, number, "joint", 1, "--batchnorm_sync")
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    assert load_checkpoint(tmp_path / "last.pth")["done"] == ["joint", 2, 0]
    assert "asked to stop" in ended[0].said
    ended = run(size, data, tmp_path, "--resume_path auto")
    assert_same(tmp_path / "save_2.pth", whole / "save_2.pth")


def test_where_one_is_killed_all_end_and_a_resumed_run_ends_at_the_same_bits(shared, data, tmp_path):
    size, whole = shared
    if size == 2:
        pytest.skip("two are started again by torchrun, below")
    ended = cut_short(size, data, tmp_path, 1, signal.SIGKILL, "joint", 2, "--batchnorm_sync")
    assert [one.code for one in ended] == [2, -signal.SIGKILL, 2][:size]
    said = "".join(one.said for one in ended)
    assert said.count("error: ") == 1 and "another process" in said and "--resume_path auto" in said, said
    assert not any("Traceback" in one.said for one in ended)
    assert load_checkpoint(tmp_path / "save_1.pth")["done"] == ["warm", 1, 1]
    ended = run(size, data, tmp_path, "--resume_path auto")
    assert [one.code for one in ended] == [0] * size, "\n".join(one.said for one in ended)
    assert_same(tmp_path / "save_2.pth", whole / "save_2.pth")


def test_one_sentence_from_all(data, tmp_path):
    for more, words in (("--annotation_path nowhere.json", "nowhere.json"), ("--batch_size 1", "2 processes")):
        ended = run(2, data, tmp_path / words[0], more)
        assert [one.code for one in ended] == [2, 2]
        said = [line for one in ended for line in one.said.splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and words in said[0], ended


CUT_ONCE = """
import os, runpy, signal, sys
from training.engine import Trainer
number, take, count = signal.Signals[sys.argv[1]], Trainer.step, 0
def step(self, step, *rest):
    global count
    count += step.kind == "joint"
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], step.kind, count) == ("1", "0", "joint", 2):
        os.kill(os.getpid(), number)
    return take(self, step, *rest)
Trainer.step = step
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def torchrun(data: Path, results: Path, number: str, *before: str) -> subprocess.CompletedProcess:
    """The command line of docs/CLUSTER.md, with two processes, of which one cuts itself short once."""
    results.mkdir()
    (script := results / "cut_once.py").write_text(CUT_ONCE)
    words = ["-m torch.distributed.run --standalone --nproc_per_node 2 --max_restarts 1", script, number, "main.py",
             "--root_path", data, "--result_path", results, DATA, MODEL, SCHEDULE,
             "--batchnorm_sync --resume_path auto"]
    line = [word for part in words for word in (part.split() if isinstance(part, str) else [str(part)])]
    with open(results / "log.txt", "w") as out:
        return subprocess.run([*before, sys.executable, *line], cwd=ROOT, stdout=out, stderr=out, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_torchrun_starts_the_processes_again_when_one_is_killed(shared, data, tmp_path):
    size, whole = shared
    if size != 2:
        pytest.skip("asked of two")
    ended = torchrun(data, tmp_path / "results", "SIGKILL")
    said = (tmp_path / "results" / "log.txt").read_text()
    assert ended.returncode == 0, said
    assert said.count("error: ") == 1 and "another process" in said and "going on from here" in said
    assert_same(tmp_path / "results" / "save_2.pth", whole / "save_2.pth")


@pytest.mark.slow
def test_under_torchrun_a_signal_ends_the_run_in_order(data, tmp_path):
    ended = torchrun(data, tmp_path / "results", "SIGUSR1", "bash", "-c", 'trap "" USR1; exec "$@"', "bash")
    assert ended.returncode == 0, (tmp_path / "results" / "log.txt").read_text()
    assert load_checkpoint(tmp_path / "results" / "last.pth")["done"] == ["joint", 2, 1]
