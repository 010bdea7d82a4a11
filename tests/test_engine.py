"""Each kind of step moves what it should and nothing else; the masks and the means are what loops say."""

import pytest
import torch
from tiny import levels_hipe, noise_batch, random_tree, small_hipe
from torch import nn
from trainers import first_batch, take, trainer, weights

from training.engine import (
    OPTIMIZERS,
    Phase,
    Trainer,
)
from training.features import valid_clips
from training.log import Meter
from training.losses import LossWeights, focused_and_background, ways_cross_entropy
from training.schedule import Step

CPU = torch.device("cpu")
PARTS = ("trunk", "neck", "prototype_layer", "score", "pooled_head")
MOVES = {"trunk": {"trunk", "pooled_head"}, "warm": {"neck", "prototype_layer", "score"},
         "joint": {"trunk", "neck", "prototype_layer", "score"}, "tune": {"score"}}


@pytest.fixture
def model():
    return small_hipe(random_tree(4, 3, 5))


def state_of(model) -> dict:
    return {key: value.clone() for key, value in model.state_dict().items()}


def changed(model, before) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("kind", MOVES)
def test_a_step_moves_what_it_should(model, kind):
    before = state_of(model)
    scalars = take(trainer(model), kind)
    moved = changed(model, before)
    assert {key.split(".")[0] for key in moved} == MOVES[kind]
    for name, _ in model.named_parameters():  # not one of them was forgotten
        assert (name in moved) == (name.split(".")[0] in MOVES[kind]), name
    statistics = {key for key in moved if "running" in key or "num_batches" in key}
    assert bool(statistics) == ("trunk" in MOVES[kind])
    assert all(value.dim() == 0 and value.isfinite() and not value.requires_grad for value in scalars.values())
    assert {"ce" if kind == "trunk" else "ce_0", "loss", "top1"} <= set(scalars)


@pytest.mark.parametrize("kind", MOVES)
def test_entering_freezes_and_thaws(model, kind):
    run = trainer(model)
    for before in MOVES:  # whatever came before
        run.enter(before)
        run.enter(kind)
        for part in PARTS:
            wanted = {parameter.requires_grad for parameter in getattr(model, part).parameters()}
            assert wanted == {part in MOVES[kind]}, part
        assert model.trunk.training == ("trunk" in MOVES[kind])
        assert all(module.training == ("trunk" in MOVES[kind]) for module in model.trunk.modules()
                   if isinstance(module, nn.BatchNorm3d))


def test_phases_follow_each_other(model):
    run = trainer(model)
    for kind in ("trunk", "warm", "joint", "tune", "joint", "tune"):
        before = state_of(model)
        take(run, kind)
        assert {key.split(".")[0] for key in changed(model, before)} == MOVES[kind], kind
    assert set(run.optimizers) == {"joint", "tune"}  # what went before is not carried along in checkpoints


def test_losses_have_names_and_add_up(model):
    run = trainer(model, loss_weights=weights(orthogonality=0.3, sharing=0.2))
    batch = first_batch()
    run.enter("warm")
    scalars, total, log_probs = run.losses(model.trunk(batch["clip"]), batch["label"])
    assert log_probs.shape == (4, len(model.level_of))
    lists = {name: [1.0, 0.5, 0.5] if name == "ce" else [0.8] * 3 if name == "cluster" else [0.1] * 3
             for name in ("ce", "cluster", "separation")}
    lists["background"] = [0.5] * 3
    numbers = {"coverage": 1.0, "group": 1e-3, "orthogonality": 0.3, "sharing": 0.2}
    assert set(scalars) == {f"{name}_{level}" for name in lists for level in range(3)} | set(numbers)
    expected = sum(weight * scalars[f"{name}_{level}"] for name, row in lists.items()
                   for level, weight in enumerate(row))
    expected += sum(weight * scalars[name] for name, weight in numbers.items())
    torch.testing.assert_close(total.detach(), expected)


def test_classes_have_as_many_ways_as_their_videos_show(model):
    run = trainer(model)
    assert run.n_ways.tolist() == [0] * 5
    for _ in range(2):  # what was counted before is forgotten
        run.count_ways(torch.tensor([0, 2, -1, -1, 0, 1, 0]), torch.tensor([0, 0, 0, 1, 3, 3, 4]))
        assert run.n_ways.tolist() == [3, 0, 0, 2, 1]


def test_ways_count_for_clips_that_the_softmax_head_is_sure_of():
    """A clip without its event shows no way."""
    model = levels_hipe(random_tree(4, 3, 5), per_node=3)
    torch.nn.init.uniform_(model.score.omega, -1, 2)
    batch, ways = first_batch(), torch.tensor([1, 0, -1, 1])
    run = trainer(model, loss_weights=weights(group=0.0, ways=4.0, even=1.0))
    run.count_ways(torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([0, 0, 3, 3, 4, 4]))
    run.enter("warm")
    with torch.no_grad():
        activations, even = model(batch["clip"]).activations, model.score.unevenness()
        certainty = model.pooled_log_probs(model.trunk(batch["clip"])).gather(1, batch["label"][:, None])[:, 0].exp()
    unsure = int(certainty.masked_fill(ways < 0, 1).argmin())
    run.sure = float((certainty[unsure] + certainty[certainty > certainty[unsure]].min()) / 2)
    known = ways.clone()
    known[unsure] = -1
    node_of, n_ways = model.prototype_layer.node_of, torch.full((4,), 2)
    expected = [ways_cross_entropy(activations, batch["label"], some, n_ways, node_of) for some in (known, ways)]
    assert 0 < float(expected[0]) != float(expected[1])
    scalars = run.step(Step("warm", 1, 0), 0.0, {**batch, "way": ways})
    torch.testing.assert_close(scalars["ways"], expected[0])
    torch.testing.assert_close(scalars["even"], even)


@pytest.mark.parametrize("kind", ["warm", "tune"])
def test_weights_of_a_class_are_kept_even(kind):
    found = []
    for even in (0.0, 1000.0):
        model = levels_hipe(random_tree(4, 3, 5), per_node=3)
        torch.nn.init.uniform_(model.score.omega, -1, 2, generator=torch.Generator().manual_seed(0))
        before = model.score.unevenness().item()
        run = trainer(model, loss_weights=weights(group=0.0, even=even))
        for i in range(30):
            scalars = take(run, kind, i)
        found.append(model.score.unevenness().item())
        assert ("even" in scalars) == bool(even)
    assert found[1] < 0.5 * before and found[1] < 0.5 * found[0]


@torch.no_grad()
@pytest.mark.parametrize(("focus", "background"), [(0.04, 0.5), (0.2, 0.1), (1.0, 1.0)])
@pytest.mark.parametrize("n_sure", [4, 2, 0])
def test_focus_and_background_see_the_cells_of_the_own_class_map(model, focus, background, n_sure):
    """Cluster, coverage and background by loops over clips, levels, prototypes and cells; none sure is all sure."""
    batch = first_batch()
    trunk = model.eval().trunk(batch["clip"])
    patches = model.neck(trunk).flatten(2).transpose(1, 2)  # (B, N, C)
    certainty = model.pooled_log_probs(trunk).gather(1, batch["label"][:, None])[:, 0].exp()
    order = certainty.argsort(descending=True).tolist()
    bounds = [1.0, *certainty[order].tolist(), 0.0]  # n_sure of them lie above
    run = trainer(model, focus=focus, background=background, margin=1.5, sure=(bounds[n_sure] + bounds[n_sure + 1]) / 2)
    run.enter("warm")
    scalars, _, _ = run.losses(model.trunk(batch["clip"]), batch["label"])
    layer = model.prototype_layer
    n_top, n_bottom = max(1, round(focus * 32)), max(1, round(background * 32))
    covered = {}
    for level in range(3):
        cluster, behind = [], []
        for b in order[:n_sure or 4]:
            label = int(batch["label"][b])
            node = int(model.ancestors[label, level])
            heights = torch.einsum("c,cn->n", model.pooled_head.weight[label], trunk[b].flatten(1)).tolist()
            cells = sorted(range(32), key=lambda n, heights=heights: -heights[n])
            mine = (layer.node_of == node).nonzero()[:, 0].tolist()
            far = [[float((patches[b, n] - layer.prototypes[p]).square().sum()) for n in cells] for p in mine]
            cluster.append(min(min(row[:n_top]) for row in far))
            behind.append(min(1.5, min(min(row[-n_bottom:]) for row in far)))
            for p, row in zip(mine, far, strict=True):
                covered[p] = min(covered.get(p, 1e9), min(row[:n_top]))
        assert float(scalars[f"cluster_{level}"]) == pytest.approx(sum(cluster) / len(cluster), rel=1e-4)
        assert float(scalars[f"background_{level}"]) == pytest.approx(-sum(behind) / len(behind), rel=1e-4)
    assert float(scalars["coverage"]) == pytest.approx(sum(covered.values()) / len(covered), rel=1e-4)


@pytest.mark.parametrize(("n", "focus", "background", "tops", "bottoms"), [
    (32, 0.04, 0.5, 1, 16), (100, 0.06, 0.3, 6, 30), (10, 0.001, 0.001, 1, 1), (7, 1, 1, 7, 7), (1, 0.5, 0.5, 1, 1)])
def test_focused_and_background(n, focus, background, tops, bottoms):
    maps = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(0))
    top, bottom = focused_and_background(maps, focus, background)
    assert top.dtype == bottom.dtype == torch.bool and top.shape == bottom.shape == maps.shape
    for one, high, low in zip(maps.view(-1, n), top.view(-1, n), bottom.view(-1, n), strict=True):
        ordered = sorted(one.tolist())
        assert sorted(one[high].tolist()) == ordered[n - tops:] and sorted(one[low].tolist()) == ordered[:bottoms]


def test_masks_of_a_flat_map_have_their_size():
    top, bottom = focused_and_background(torch.zeros(1, 50), 0.04, 0.5)
    assert int(top.sum()) == 2 and int(bottom.sum()) == 25 and not (top & bottom).any()


def test_tuning_is_full_batch_whatever_the_chunk(model):
    activations = 3 * torch.rand(7, len(model.prototype_layer.node_of))
    labels = torch.tensor([0, 1, 2, 3, 4, 4, 4])
    start, found = state_of(model), []
    for chunk in (4096, 3, 1):
        model.load_state_dict(start)
        run = trainer(model)
        scalars = [run.tune(Step("tune", 3, i), 0.0, activations, labels, chunk) for i in range(3)]
        found.append((model.score.last_layer.weight.detach().clone(), scalars))
    for weight, scalars in found[1:]:
        torch.testing.assert_close(weight, found[0][0])
        for one, other in zip(scalars, found[0][1], strict=True):
            torch.testing.assert_close(one, other)
    losses = [float(one["loss"]) for one in found[0][1]]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_tuning_begins_with_a_fresh_optimiser(model):
    run = trainer(model)
    take(run, "tune", 0)
    first = run.optimizers["tune"]
    take(run, "tune", 1)
    assert run.optimizers["tune"] is first
    take(run, "tune", 0)
    assert run.optimizers["tune"] is not first


@pytest.mark.parametrize("kind", ["trunk", "warm", "joint"])
def test_restored_optimisers_go_on_to_the_same_bits(kind):
    def fresh():
        return small_hipe(random_tree(4, 3, 5))

    whole = trainer(fresh())
    for i in range(2):
        take(whole, kind, i)
    half = trainer(fresh())
    take(half, kind, 0)
    resumed = trainer(fresh())
    resumed.model.load_state_dict(half.model.state_dict())
    resumed.load_state(half.state())
    take(resumed, kind, 1)
    assert not changed(resumed.model, whole.model.state_dict())


def test_restored_optimisers_keep_the_rates_of_this_run(model):
    run = trainer(model)
    take(run, "joint")
    other = trainer(model)
    other.phases["joint"] = Phase("sgd", 0.5, 0.25, 0.125)
    other.load_state(run.state())
    groups = other.optimizers["joint"].param_groups
    assert [(group["rate"], group["weight_decay"]) for group in groups] == [(0.5, 0.125), (0.25, 0.125)]


def test_rates_follow_the_schedule(model):
    run = trainer(model, scheduler="onecycle")
    take(run, "joint", progress=0.3)
    assert [group["lr"] for group in run.optimizers["joint"].param_groups] == [0.01, 0.02]
    take(run, "joint", 1, progress=0.0)
    assert [group["lr"] for group in run.optimizers["joint"].param_groups] == pytest.approx([0.0004, 0.0008])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_moves_the_weights(model, name):
    run = trainer(model)
    run.phases["warm"] = Phase(name, 0, 0.01)
    before = state_of(model)
    take(run, "warm")
    assert "prototype_layer.prototypes" in changed(model, before)


def test_weights_of_levels():
    some = weights(ce=[1.0, 0.5, 0.25], cluster=[0.8])
    assert some.of("ce", 2, CPU).tolist() == [1, 0.5] and some.of("ce", 5, CPU).tolist() == [1, 0.5, 0.25, 0.25, 0.25]
    assert some.of("cluster", 3, CPU).tolist() == pytest.approx([0.8] * 3) and some.of("coverage", 3, CPU) == 1.0


def test_weights_belong_to_losses():
    assert weights(even=0.0).wants("ce") and not weights(level_ce=[0.0, 0.0]).wants("level_ce")
    assert weights(level_ce=[0.0, 1.0]).wants("level_ce") and not weights().wants("sharing")
    with pytest.raises(TypeError, match="clusters"):
        LossWeights(clusters=1.0)


def test_meters_take_means():
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(value)}, 4)
    means = meter.means()
    assert means["loss"] == 3 and means["clips_per_s"] > 0 and meter.count == 3


def test_another_optimiser_begins_without_the_memories_of_the_first(model):
    def trainer(**phase):
        return Trainer(model, {"trunk": Phase(trunk_rate=0.01, head_rate=0, **phase)}, None)

    first = trainer(optimizer="adamw", momentum=0.9)
    first.step(Step("trunk", 1, 0), 0.0, next(iter(valid_clips([noise_batch([0, 1])], CPU))))
    same = trainer(optimizer="adamw", momentum=0.5)
    same.load_state(first.state())
    assert same.optimizers["trunk"].state and same.optimizers["trunk"].param_groups[0]["betas"][0] == 0.5
    other = trainer(optimizer="sgd", momentum=0.9)
    other.load_state(first.state())
    assert not other.optimizer("trunk").state
