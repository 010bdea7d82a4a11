"""Several processes take the same steps and pushes as one, and give the same predictions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import Ended, in_processes
from tiny import noise_batch, random_tree, sampling_hipe, small_hipe
from torch import nn
from trainers import weights

from evaluation.recognition import VideoPool
from run.predict import evaluate
from training.distributed import World, joined, synchronise_batchnorm
from training.engine import Phase, Trainer
from training.features import valid_clips
from training.push import push
from training.schedule import Step

CPU = torch.device("cpu")
LABELS = [0, 3, 4, 3, 0, 2, 4, 4]


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


# --- what they exchange


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
