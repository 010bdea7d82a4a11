"""--paper: each way in which the released code differs, and a run of it from the first step to an explanation."""

import json
import math

import pytest
import torch
from program import DATA, MODEL, assert_same, call, explain_classes
from tiny import embedded, noise_batch, random_tree, small_hipe
from torch import nn

from datasets.transforms import MEAN, STD, normalise
from hierarchy.hyperbolic import to_ball
from models.hipe import HIPE
from options.flags import parse_main
from options.recipes import PAPER, RECIPES
from options.resolve import resolve
from run import steps
from training.checkpoint import load_checkpoint, save_checkpoint
from training.engine import Phase, Trainer
from training.features import NormalisedTwice, valid_clips
from training.losses import LossWeights, batch_cross_entropy, level_losses, sparsity
from training.schedule import Step, push_epochs

CPU = torch.device("cpu")


def resolved(line: str):
    args, _ = parse_main(line.split())
    return resolve(args)


# --- flags


def test_paper_sets_what_is_not_given():
    args = resolved("--paper")
    assert {name: getattr(args, name) for name in PAPER | RECIPES["paper"]} == PAPER | RECIPES["paper"]
    assert args.temporal_strides == [1, 2, 2, 2, 2] and args.separation_margin == args.cluster_margin == 128
    recipe = {name: value for name, value in RECIPES["pretrained"].items() if name != "trunk_epochs"}
    assert {name: getattr(args, name) for name in recipe} == recipe
    assert (args.cluster_weight, args.separation_weight) == ([0.8, 0.5, 0.3], [0.08, 0.11, 0.13])
    before = vars(args).copy()
    args = resolve(args)  # as a resumed run does
    assert vars(args) == before


def test_rates_and_epochs_of_paper_can_be_chosen():
    args = resolved("--paper --learning_rate .1 --warm_epochs 3 --trunk_epochs 2 --T .5 --prototype_channels 16")
    assert (args.learning_rate, args.warm_epochs, args.trunk_epochs, args.T) == (0.1, 3, 2, 0.5)
    assert args.separation_margin == 16
    assert not resolved("").paper and resolved("").ce_weight == [1, 0.5, 0.25]


@pytest.mark.parametrize("line", [
    "--neck sigmoid", "--score hyperbolic", "--focus .04", "--background_weight .5", "--coverage_weight 1",
    "--ce_weight 1", "--orthogonality_weight .1", "--sharing_weight .1", "--separation_rivals level", "--learn_T",
    "--last_layer always", "--push_on still", "--window_pool power", "--temporal_strides 1 2 2 1 1",
    "--conv1_t_stride 1 --sample_duration 32", "--model mvit_v2_s", "--model tsm_resnet50"])
def test_what_contradicts_paper_is_refused(line):
    with pytest.raises(ValueError, match="--paper"):
        resolved(f"--paper {line}")


# --- losses


def test_cross_entropy_over_the_batch_equals_slow_loops():
    generator = torch.Generator().manual_seed(0)
    tangent = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    classes = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    total = 0
    for i in range(5):
        scores = [-sum((tangent[i, k] - classes[j, k]) ** 2 for k in range(4)) for j in range(5)]
        total = total - scores[i] + torch.stack(scores).exp().sum().log()
    found = batch_cross_entropy(tangent, classes)
    torch.testing.assert_close(found, total / 5)
    torch.testing.assert_close(*(torch.autograd.grad(value, tangent)[0] for value in (found, total / 5)))


def test_three_clips_of_a_class_cost_log_three_even_if_predicted_perfectly():
    classes = 100 * torch.eye(4).repeat_interleave(3, 0)
    assert batch_cross_entropy(classes.clone(), classes) == pytest.approx(math.log(3))
    alone = classes[:1].clone().requires_grad_()
    value = batch_cross_entropy(alone, classes[:1])
    value.backward()
    assert value == 0 and alone.grad.abs().sum() == 0


@pytest.mark.parametrize("labels", [[0, 4, 4, 2], [3]])
def test_separation_from_all_nodes_equals_slow_loops(labels):
    tree = random_tree(1, 3, 5)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    distances = 12 * torch.rand(len(labels), len(node_of), generator=torch.Generator().manual_seed(1))
    expected = []
    for level in range(3):
        nearest = [min(float(distances[b, p]) for p, node in enumerate(node_of.tolist())
                       if node != tree.path_ids(label)[level]) for b, label in enumerate(labels)]
        expected.append(-sum(min(one, 10) for one in nearest) / len(labels))
    found = level_losses(distances, distances, distances, torch.tensor(labels), node_of, tree.ancestors, tree.level_of,
                         10.0, rivals="all")
    torch.testing.assert_close(found["separation"], torch.tensor(expected))


def test_a_clip_is_pushed_off_its_own_ancestors():
    tree = random_tree(1, 2, 4)
    node_of = torch.arange(len(tree))
    distances = torch.full((1, len(tree)), 5.0)
    distances[0, tree.path_ids(2)[1]] = 1.0
    how = (torch.tensor([2]), node_of, tree.ancestors, tree.level_of, 10.0)
    assert level_losses(distances, distances, distances, *how, rivals="all")["separation"].tolist() == [-1, -5]
    assert level_losses(distances, distances, distances, *how)["separation"][0] == -5


def test_cluster_has_no_gradient_beyond_its_margin():
    tree = random_tree(1, 1, 2)
    distances = torch.tensor([[3.0, 1.0], [9.0, 20.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    how = (labels, torch.arange(2), tree.ancestors, tree.level_of, 10.0)
    found = level_losses(distances, distances, distances, *how, cluster_margin=8.0)["cluster"]
    found.sum().backward()
    assert found.tolist() == [(3 + 8) / 2] and distances.grad.tolist() == [[0.5, 0], [0, 0]]


def test_sparsity_is_the_sum_of_absolute_weights():
    assert sparsity(torch.tensor([[1.0, -2], [0.5, 0]])) == 3.5


# --- model, steps and schedule


def test_leaky_neck_and_random_last_layer():
    tree = random_tree(0, 2, 4)
    model = small_hipe(tree, neck="leaky")
    assert [type(layer) for layer in model.neck] == [nn.Conv3d, nn.LeakyReLU, nn.Conv3d, nn.LeakyReLU]
    assert model.neck[1].negative_slope == model.neck[3].negative_slope == 0.01
    other = HIPE(model.trunk, tree, embedded(tree, last_scale=None))
    n_prototypes = len(other.prototype_layer.node_of)
    assert float(other.score.last_layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / n_prototypes), rel=0.2)


def paper_trainer(model) -> Trainer:
    phases = {"warm": Phase("adam", 0, 0.01), "joint": Phase("sgd", 0.01, 0.01), "tune": Phase("adam", 0, 0.01)}
    weights = LossWeights(ce=[0.0], cluster=[0.8, 0.5], separation=[0.1], background=0.0, coverage=0.0, group=0.0,
                          batch_ce=1.0, l1=1e-4)
    return Trainer(model, phases, weights, margin=6.0, focus=1.0, sure=0.0, cluster_margin=6.0, rivals="all",
                   last_layer="joint")


def test_the_last_layer_learns_in_joint_steps_alone():
    model = small_hipe(random_tree(4, 3, 5), neck="leaky")
    run = paper_trainer(model)
    batch = next(iter(valid_clips([noise_batch([0, 3, 3, 4])], CPU)))
    for kind, moving in (("warm", {"neck", "prototype_layer"}),
                         ("joint", {"trunk", "neck", "prototype_layer", "score"})):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        scalars = run.step(Step(kind, 1, 0), 0.0, batch)
        moved = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert moved == moving
        assert {"batch_ce", "l1"} <= set(scalars)
    classes = to_ball(model.score.embeddings.points, 1.0)[batch["label"]]
    expected = batch_cross_entropy(model(batch["clip"]).evidence, classes)
    assert run.step(Step("joint", 1, 1), 0.0, batch)["batch_ce"] == pytest.approx(float(expected.detach()))


def test_a_batch_of_one_has_finite_losses():
    model = small_hipe(random_tree(4, 3, 5), neck="leaky")
    batch = next(iter(valid_clips([noise_batch([3])], CPU)))
    scalars = paper_trainer(model).step(Step("warm", 1, 0), 0.0, batch)
    assert all(value.isfinite() for value in scalars.values()) and scalars["batch_ce"] == 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_clips_of_a_push_are_normalised_twice():
    batch = noise_batch([0, 1])
    once = normalise(batch["clip"])
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    loader = NormalisedTwice([batch])
    found = next(iter(valid_clips(loader, CPU)))
    assert len(loader) == 1
    torch.testing.assert_close(found["clip"], (once - mean) / std, rtol=1e-4, atol=1e-4)


def test_no_push_after_the_last_epoch():
    published = {"n_epochs": 200, "warm_epochs": 9, "push_start": 10, "push_every": 10}
    assert push_epochs(**published, last_push=False) == list(range(10, 200, 10))
    assert push_epochs(n_epochs=3, warm_epochs=1, push_start=10, push_every=10, last_push=False) == []


# --- through main.py

SCHEDULE = ("--paper --warm_epochs 1 --n_epochs 4 --push_start 2 --push_every 1 --tune_iterations 2 --checkpoint 1 "
            "--batch_size 5")
CALL = "--n_threads 0 --no_cuda --no_img"


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    results = tmp_path_factory.mktemp("paper")
    call("--root_path", data, "--result_path", results, DATA, MODEL, SCHEDULE, CALL, "--inference")
    return results


def test_a_run_trains_pushes_and_predicts(whole):
    events = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] != "val"] == [
        "start", "warm", "joint", "push", "last", "joint", "push", "last", "joint"]
    assert all(math.isfinite(event["loss"]) for event in events if "loss" in event)
    assert len(json.loads((whole / "val.json").read_text())["results"]) == 4
    args = load_checkpoint(whole / "save_4.pth")["args"]
    assert args["paper"] and args["temporal_strides"] == [1, 2, 2, 2, 2]


def test_prototypes_move_on_after_a_push(whole):
    """In the tuning already; the last layer does not."""
    state = load_checkpoint(whole / "save_3.pth")
    events = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    tuned = [event for event in events if event["event"] == "last"]
    assert all("cluster_0" in event and "batch_ce" in event for event in tuned)
    assert state["push_record"]["epoch"] == 3 and state["push_record"]["maps"].shape[1] == 1  # one cell in time
    assert (state["push_record"]["distance"] >= 0).all()
    after = load_checkpoint(whole / "save_4.pth")
    assert after["push_record"]["epoch"] == 3
    assert not torch.equal(state["model"]["prototype_layer.prototypes"], after["model"]["prototype_layer.prototypes"])


def test_a_run_goes_on_to_the_same_bits(whole, data, tmp_path):
    for cut in ("save_2.pth", "save_3.pth"):
        results = tmp_path / cut
        results.mkdir()
        content = load_checkpoint(whole / cut)
        del content["args"]["push_repeats"]  # as of a version that has not had it
        save_checkpoint(results / cut, content)
        call("--resume_path auto --result_path", results, CALL)
        assert_same(results / "save_4.pth", whole / "save_4.pth")
    with pytest.raises(SystemExit):
        call("--resume_path", whole / "save_2.pth", "--result_path", tmp_path / "other", "--neck sigmoid", CALL)


def test_cutting_inside_the_tuning_changes_nothing(whole, data, tmp_path, monkeypatch):
    handler = steps.tune_prototypes

    def cut(work, step):
        handler(work, step)
        if step == Step("tune", 3, 0):
            work.run.done = step
            work.run.save("last.pth")
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "tune_prototypes", cut)
    with pytest.raises(SystemExit, match="130"):
        call("--root_path", data, "--result_path", tmp_path, DATA, MODEL, SCHEDULE, CALL)
    monkeypatch.undo()
    call("--resume_path auto --result_path", tmp_path, CALL)
    assert_same(tmp_path / "save_4.pth", whole / "save_4.pth")


@pytest.mark.parametrize("paper", [False, True])
def test_prototypes_of_a_node_may_become_the_same_patch_as_published(paper):
    assert resolved("--paper" if paper else "").push_repeats is paper and resolved("--push_repeats").push_repeats


def test_what_was_trained_so_can_be_explained(whole):
    explain_classes("--resume_path", whole / "save_4.pth", "--n_videos", "1")
    found = list((whole / "local_analysis").glob("*/explanation.json"))
    assert len(found) == 1
    shown = json.loads(found[0].read_text())["levels"][0]["prototypes"]
    assert shown and shown[0]["source"] is not None


def test_another_checkpoint_is_not_gone_on_with_as_paper(whole, data, tmp_path, capsys):
    call("--root_path", data, "--result_path", tmp_path, DATA, MODEL, CALL, "--trunk_epochs 1 --n_epochs 0")
    with pytest.raises(SystemExit):
        call("--paper --resume_path auto --result_path", tmp_path, CALL)
    assert "--paper" in capsys.readouterr().err
