"""Prototypes that are not their node's own are removed, and what is left predicts, explains and says what it cost."""

import json
import re

import pytest
import torch
from test_main import CALL, call, data, explain_ancestors, explain_classes, train, whole  # noqa: F401
from tiny import random_tree

import build
from training.checkpoint import load_checkpoint, save_checkpoint
from util_scripts import prune
from util_scripts.errors import user_errors


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


@pytest.fixture(scope="module")
def pruned(whole, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("pruned") / "save_3.pth"
    prune_it("--resume_path", whole / "save_3.pth", "--nearest", 4, "--least", 3, "--out", out)
    return out


def test_a_pruned_checkpoint_is_the_rest_of_the_old_one(whole, pruned):  # noqa: F811
    old, new = load_checkpoint(whole / "save_3.pth"), load_checkpoint(pruned)
    before, _, record = build.model_of(old, whole)
    after, hierarchy, less = build.model_of(new, pruned)
    n = len(after.prototype_layer.node_of)
    assert 9 <= n < len(before.prototype_layer.node_of) == 18  # of 9 nodes
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


def test_without_tuning_only_columns_are_gone(whole, tmp_path):  # noqa: F811
    words = ("--nearest", 4, "--least", 3, "--retune", 0, "--out", tmp_path / "x")
    prune_it("--resume_path", whole / "save_3.pth", *words)
    old, _, _ = build.model_of(load_checkpoint(whole / "save_3.pth"), whole)
    new, _, _ = build.model_of(load_checkpoint(tmp_path / "x"), tmp_path)
    columns = old.score.last_layer.weight.T.tolist()
    assert all(column in columns for column in new.score.last_layer.weight.T.tolist())
    for name, value in new.trunk.state_dict().items():
        assert torch.equal(value, old.trunk.state_dict()[name])


def test_what_it_cost_is_told(whole, tmp_path, capsys):  # noqa: F811
    words = ("--nearest", 6, "--least", 0, "--retune", 0, "--out", tmp_path / "all")
    prune_it("--resume_path", whole / "save_3.pth", *words)
    out = capsys.readouterr().out
    assert "18 of 18 prototypes" in out
    for line in re.findall(r"^\| \d \|.*$", out, re.MULTILINE):  # nothing was removed, so nothing was lost
        _, _, before, after, _ = line.split("|")
        assert before == after
    assert "| before | pruned |" in out


def test_groups_held_out_to_calibrate_on_stay_held_out(whole, tmp_path, monkeypatch):  # noqa: F811
    checkpoint = load_checkpoint(whole / "save_3.pth")
    seen, even_clips = [], build.even_clips
    monkeypatch.setattr(build, "even_clips", lambda args, videos, *rest: seen.append({video.name for video in videos})
                        or even_clips(args, videos, *rest))
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
    call("--resume_path", pruned, "--result_path", tmp_path, CALL, "--n_epochs 4 --orthogonality_weight .1")
    counts = load_checkpoint(tmp_path / "save_4.pth")["counts"]
    assert counts == load_checkpoint(pruned)["counts"]
    prune_it("--resume_path", tmp_path / "save_4.pth", "--nearest", 4, "--least", 4)  # once more
    assert (tmp_path / "pruned" / "save_4.pth").is_file()


@pytest.mark.parametrize(("words", "said"), [
    (("--nearest", 2, "--least", 3), "--least"), (("--out", "save_3.pth"), "--out"), ((), "--resume_path"),
    (("--resume_path", "trunk.pth"), "trunk.pth")])
def test_bad_input_is_one_sentence(whole, capsys, words, said, monkeypatch):  # noqa: F811
    monkeypatch.chdir(whole)
    words = list(words) if "--resume_path" in words or not words else ["--resume_path", whole / "save_3.pth", *words]
    with pytest.raises(SystemExit) as caught:
        prune_it(*words)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and said in error and error.startswith("error: ")
