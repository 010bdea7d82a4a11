"""Prototypes are removed by a rule or by number; what is left predicts, explains and goes on; the cost is printed."""

import json
import re

import pytest
import torch
from program import CALL, QUICK, ROWS, call, explain_ancestors, explain_classes, train
from tiny import random_tree, small_hipe

from hierarchy.tree import Hierarchy
from options.errors import user_errors
from options.flags import parse_main
from run.model import model_of
from training.checkpoint import load_checkpoint, save_checkpoint
from util_scripts import prune


def prune_it(*words) -> None:
    with user_errors():
        prune.main([*map(str, words), "--no_cuda", "--n_threads", "0"])


@pytest.mark.parametrize("seed", range(3))
def test_own_among_nearest_equals_slow_loops(seed):
    tree = random_tree(seed, 3, 6)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (20,), generator=generator)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    distances = torch.rand(20, len(node_of), generator=generator)
    found = prune.own_among_nearest(distances, labels, node_of, tree.ancestors, tree.level_of, 5)
    for p, node in enumerate(node_of.tolist()):
        nearest = sorted(range(20), key=lambda video: float(distances[video, p]))[:5]
        assert found[p] == sum(node in tree.path_ids(int(labels[video])) for video in nearest)
    whole_set = prune.own_among_nearest(distances, labels, node_of, tree.ancestors, tree.level_of, 99)
    assert whole_set[-1] == sum(tree.path_ids(int(label))[-1] == int(node_of[-1]) for label in labels)


def test_the_best_of_every_node_stays():
    own, node_of = torch.tensor([3, 1, 2, 2, 0, 0, 6]), torch.tensor([0, 0, 1, 1, 2, 2, 4])
    assert prune.staying(own, node_of, 5, 3).tolist() == [True, False, True, False, True, False, True]
    assert prune.staying(own, node_of, 5, 0).all()
    assert prune.staying(own, node_of, 5, 7).tolist() == [True, False, True, False, True, False, True]


@pytest.mark.parametrize("flag", ["forbid", "keep"])
def test_prototypes_go_or_stay_by_number(flag):
    tree = random_tree(0, 3, 6)
    node_of = torch.arange(len(tree)).repeat_interleave(3)
    numbers = {"forbid": [4, 1, 0, 4], "keep": [p for p in range(len(node_of)) if p not in (0, 1, 4)] + [2]}[flag]
    stays = prune.named(flag, numbers, node_of, tree)
    assert (~stays).nonzero()[:, 0].tolist() == [0, 1, 4]


@pytest.mark.parametrize(("flag", "numbers", "said"), [
    ("forbid", [3, 18], "18"), ("forbid", [-1], "-1"), ("keep", [99], "99"), ("forbid", [1, 4, 2, 3], "2, 3"),
    ("keep", [0, *range(4, 18)], "2, 3")])
def test_numbers_that_cannot_go_or_stay_are_named(flag, numbers, said):
    tree = Hierarchy.from_rows(ROWS)
    node_of = torch.arange(len(tree)).repeat_interleave(2)
    with pytest.raises(ValueError, match=re.escape(f"--{flag}")) as caught:
        prune.named(flag, numbers, node_of, tree)
    assert said in str(caught.value)
    assert said != "2, 3" or "Jump" in str(caught.value)


def test_only_the_weights_are_tuned():
    tree = random_tree(0, 3, 6)
    model = small_hipe(tree)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args, _ = parse_main(["--level_ce_weight", "1"])
    args.last_learning_rate, args.group_weight = 0.05, 0.0
    generator = torch.Generator().manual_seed(0)
    prune.retune(model, torch.rand(12, len(model.prototype_layer.node_of), generator=generator),
                 torch.randint(6, (12,), generator=generator), args, 2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"score.last_layer.weight"}


def run_of(data, tmp_path, score):
    """A run whose nodes have two prototypes each: nothing is merged."""
    more = "" if score == "hyperbolic" else "--no_merge"
    return train(data, tmp_path / "run", f"--score {score} {more}", schedule=QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["tree", "tree_hyperbolic", "hyperbolic"])
def test_named_prototypes_go_for_good(data, tmp_path, score, capsys):
    """By the command line from training on: what is left is inferred with, explained with, resumed and pruned again."""
    run = run_of(data, tmp_path, score)
    bytes_before = (run / "save_1.pth").read_bytes()
    capsys.readouterr()
    prune_it("--resume_path", run / "save_1.pth", "--forbid", 1, 6, 1)
    out = capsys.readouterr().out
    assert "16 of 18" in out and "1 (Run)" in out and "6 (Saw)" in out
    assert len(re.findall(r"^\| \d( \| -?\d+\.\d{4}){3} \|$", out, re.MULTILINE)) == 2 * 3  # before, without, tuned
    assert (run / "save_1.pth").read_bytes() == bytes_before
    new = run / "pruned" / "save_1.pth"
    earlier = [p for p in range(18) if p not in (1, 6)]
    rows = json.loads((new.parent / "prototypes.json").read_text())
    old_rows = json.loads((run / "prototypes.json").read_text())
    assert [row["earlier"] for row in rows] == earlier and [row["prototype"] for row in rows] == list(range(16))
    for row in rows:
        assert row["video"] == old_rows[row["earlier"]]["video"] and row["node"] == old_rows[row["earlier"]]["node"]
    model, _, record = model_of(load_checkpoint(new), new)
    old, _, whole_record = model_of(load_checkpoint(run / "save_1.pth"), run)
    assert torch.equal(model.prototype_layer.prototypes, old.prototype_layer.prototypes[earlier])
    assert torch.equal(record.spread["own"], whole_record.spread["own"][earlier])

    call("--resume_path", new, "--no_train --no_val --inference", CALL)
    assert len(json.loads((new.parent / "val.json").read_text())["results"]) == 4
    explain_classes("--resume_path", new, "--n_videos", "1")
    explain_ancestors("--resume_path", new, "--n_videos", "1")
    assert len(list(new.parent.glob("local_analysis*/*/explanation.json"))) == 2
    prune_it("--resume_path", new, "--keep", *range(15), "--retune", 0, "--out", tmp_path / "twice.pth")
    twice = load_checkpoint(tmp_path / "twice.pth")["push_record"]
    assert twice["earlier"].tolist() == list(range(15)) and len(twice["video"]) == 15
    call("--resume_path", new, "--result_path", tmp_path / "more", CALL, "--n_epochs 2")
    assert sum(load_checkpoint(tmp_path / "more" / "save_2.pth")["counts"]) == 16


@pytest.fixture(scope="module")
def unmerged(data, tmp_path_factory):
    return run_of(data, tmp_path_factory.mktemp("unmerged"), "tree_hyperbolic")


@pytest.fixture(scope="module")
def pruned(unmerged, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "save_1.pth"
    prune_it("--resume_path", unmerged / "save_1.pth", "--nearest", 4, "--least", 3, "--out", out)
    return out


def test_without_tuning_the_score_is_what_keeping_makes_it(unmerged, tmp_path):
    """The prototypes that stay say what they said: of the score nothing but the named numbers is gone."""
    path = tmp_path / "pruned.pth"
    prune_it("--resume_path", unmerged / "save_1.pth", "--forbid", 0, 17, "--retune", 0, "--out", path)
    old, _, _ = model_of(load_checkpoint(unmerged / "save_1.pth"), unmerged)
    new, _, _ = model_of(load_checkpoint(path), path)
    activations = torch.rand(3, 18, generator=torch.Generator().manual_seed(0))
    activations[:, [0, 17]] = 0
    torch.testing.assert_close(new.score(activations[:, 1:17])[0], old.score(activations)[0])


def test_a_pruned_run_knows_no_ways_and_goes_on(unmerged, tmp_path):
    """Their prototypes may be gone."""
    checkpoint = load_checkpoint(unmerged / "save_1.pth")
    save_checkpoint(tmp_path / "save_1.pth", checkpoint | {"ways": torch.tensor([0, 1, -1] * 4)})
    prune_it("--resume_path", tmp_path / "save_1.pth", "--forbid", 0, 3, "--retune", 0)
    path = tmp_path / "pruned" / "save_1.pth"
    assert "ways" not in load_checkpoint(path)
    call("--resume_path", path, CALL, "--n_epochs 2 --ways_weight 1")
    assert "ways" not in load_checkpoint(path.with_name("save_2.pth"))


def test_a_pruned_checkpoint_is_the_rest_of_the_old_one(unmerged, pruned):
    old, new = load_checkpoint(unmerged / "save_1.pth"), load_checkpoint(pruned)
    before, _, record = model_of(old, unmerged)
    after, hierarchy, less = model_of(new, pruned)
    n = len(after.prototype_layer.node_of)
    assert 9 <= n < len(before.prototype_layer.node_of)  # of 9 nodes
    assert (after.prototype_layer.counts >= 1).all() and int(after.prototype_layer.counts.sum()) == n
    places = [next(i for i, row in enumerate(before.prototype_layer.prototypes) if torch.equal(row, prototype)
                   and before.prototype_layer.node_of[i] == after.prototype_layer.node_of[j]
                   and record.distance[i] == less.distance[j])  # two of a node may have come to the same patch
              for j, prototype in enumerate(after.prototype_layer.prototypes)]
    assert less.video == [record.video[i] for i in places]
    for name in ("frames", "crop", "cell", "distance", "maps"):
        assert torch.equal(getattr(less, name), getattr(record, name)[places])
    for level, nodes in enumerate(hierarchy.levels):
        assert set(after.prototype_layer.node_of[after.prototype_layer.level(level)].tolist()) == set(nodes)


def test_without_tuning_only_weights_are_gone(whole, tmp_path):
    words = ("--nearest", 4, "--least", 3, "--retune", 0, "--out", tmp_path / "x")
    prune_it("--resume_path", whole / "save_3.pth", *words)
    old, _, _ = model_of(load_checkpoint(whole / "save_3.pth"), whole)
    new, _, record = model_of(load_checkpoint(tmp_path / "x"), tmp_path)
    assert torch.equal(new.score.omega, old.score.omega[record.earlier])
    for name, value in new.trunk.state_dict().items():
        assert torch.equal(value, old.trunk.state_dict()[name])


def test_what_it_cost_is_told(whole, tmp_path, capsys):
    words = ("--nearest", 6, "--least", 0, "--retune", 0, "--out", tmp_path / "all")
    prune_it("--resume_path", whole / "save_3.pth", *words)
    out = capsys.readouterr().out
    n = sum(load_checkpoint(whole / "save_3.pth")["counts"])
    assert f"{n} of {n} prototypes" in out
    for line in re.findall(r"^\| \d \|.*$", out, re.MULTILINE):  # nothing was removed, so nothing was lost
        _, _, before, after, _ = line.split("|")
        assert before == after
    assert out.count("| before | without them |") == 2


def test_groups_held_out_to_calibrate_on_stay_held_out(whole, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(whole / "save_3.pth")
    seen, even_clips = [], prune.even_clips

    def noted(args, videos, *rest, **how):
        seen.append({video.name for video in videos})
        return even_clips(args, videos, *rest, **how)

    monkeypatch.setattr(prune, "even_clips", noted)
    held_out = ["v_Run_g01_c01"]
    for name, groups in (("all", []), ("fewer", held_out)):
        save_checkpoint(tmp_path / f"{name}.pth", checkpoint | {"held_out": groups})
        prune_it("--resume_path", tmp_path / f"{name}.pth", "--retune", 0, "--out", tmp_path / "out.pth")
    training = [names for names in seen if names & seen[0]]  # the first is of training videos
    assert training[0] - training[1] == set(held_out) and len(training) == 2


def test_a_pruned_model_predicts_explains_and_goes_on(pruned, tmp_path):
    call("--resume_path", pruned, "--no_train --no_val --inference", CALL)
    assert len(json.loads((pruned.parent / "val.json").read_text())["results"]) == 4
    rows = json.loads((pruned.parent / "prototypes.json").read_text())
    assert len(rows) == sum(load_checkpoint(pruned)["counts"])
    explain_classes("--resume_path", pruned, "--n_videos", "1")
    explain_ancestors("--resume_path", pruned, "--n_videos", "1")
    assert len(list(pruned.parent.glob("local_analysis*/*/explanation.json"))) == 2
    call("--resume_path", pruned, "--result_path", tmp_path, CALL, "--n_epochs 2 --orthogonality_weight .1")
    counts = load_checkpoint(tmp_path / "save_2.pth")["counts"]
    assert counts == load_checkpoint(pruned)["counts"]
    prune_it("--resume_path", tmp_path / "save_2.pth", "--nearest", 4, "--least", 4)  # once more
    assert (tmp_path / "pruned" / "save_2.pth").is_file()


@pytest.mark.parametrize(("words", "said"), [
    (("--nearest", 2, "--least", 3), "--least"), (("--forbid", 1, "--keep", 2), "--keep"),
    (("--forbid", 1, "--least", 2), "--least"), (("--keep", 1, "--nearest", 2), "--nearest"),
    (("--forbid", 1000), "1000"), (("--keep", -1), "-1"), (("--keep", 0), "Jump"), (("--forbid", "x"), "--forbid"),
    (("--forbid", *range(9)), "Run"), (("--out", "save_3.pth"), "--out"), ((), "--resume_path"),
    (("--resume_path", "trunk.pth"), "trunk.pth")])
def test_bad_input_is_one_sentence(whole, capsys, words, said, monkeypatch):
    monkeypatch.chdir(whole)
    words = list(words) if "--resume_path" in words or not words else ["--resume_path", whole / "save_3.pth", *words]
    with pytest.raises(SystemExit) as caught:
        prune_it(*words)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and said in error and error.startswith("error: ")
    assert not (whole / "pruned").exists()
