"""The whole program with the scores that decide at every branching: runs, cuts, merging, odd data, bad flags."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import in_processes
from program import DATA, ROWS, TREE, assert_same, call, cut, refused, write_data

from run.model import model_of
from training.checkpoint import load_checkpoint
from util_scripts import export

# Whatever other tests add to theirs: here the score is the default one.
MODEL = ("--model_depth 10 --resnet_widen_factor .125 --conv1_t_size 3 --spatial_strides 2 2 2 1 1 --sample_size 32 "
         "--sample_duration 8 --prototype_channels 4 --neck_channels 8 --prototypes_per_node 3 --emb_dim 8")
SCHEDULE = ("--trunk_epochs 1 --warm_epochs 1 --n_epochs 3 --push_start 2 --push_every 1 --tune_iterations 3 "
            "--checkpoint 1 --batch_size 6 --push_clips 2 --cache_features 0 --ways_clips 1 --sure 0 --no_val")
QUICK = "--trunk_epochs 1 --warm_epochs 0 --n_epochs 1 --tune_iterations 1 --batch_size 6 --push_clips 1 --no_val"
MERGING = "--merge_coverage .5 .4"  # on few clips of hardly trained features prototypes are much alike or nothing alike
CALL = "--n_threads 0 --no_cuda --no_img"
N_NODES = len(TREE)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def train(data: Path, results: Path, *more: str | Path, schedule: str = SCHEDULE) -> Path:
    call("--root_path", data, "--result_path", results, DATA, MODEL, schedule, CALL, *more)
    return results


def go_on(results: Path, *more: str) -> None:
    call("--resume_path auto --result_path", results, CALL, *more)


def events(results: Path) -> list[dict]:
    return [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]


def prototypes(results: Path) -> list[dict]:
    return json.loads((results / "prototypes.json").read_text())


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The results of an uninterrupted run with the default score, whose prototypes merge."""
    return train(data, tmp_path_factory.mktemp("whole"), MERGING)


# --- what a run writes


def test_a_run_merges_in_its_last_push_alone(whole):
    opts = json.loads((whole / "opts.json").read_text())
    assert (opts["score"], opts["neck"], opts["similarity"]) == ("tree", "levels", "exp")
    start, *_ = (event for event in events(whole) if event["event"] == "start")
    assert start["placed"] == start["prototypes"] == 3 * N_NODES and start["videos_of_a_way"] == 12
    first, last = (event for event in events(whole) if event["event"] == "push")
    assert (first["matched"], first["merged"]) == (3 * N_NODES, 0)
    assert last["merged"] > 0 and last["matched"] == 3 * N_NODES - last["merged"]
    for event in events(whole):
        assert all(torch.tensor(value).isfinite() for value in event.values() if isinstance(value, float))


def test_what_stays_tells_what_it_stands_for(whole):
    rows, checkpoint = prototypes(whole), load_checkpoint(whole / "save_3.pth")
    assert [row["prototype"] for row in rows] == list(range(len(rows))) and len(rows) < 3 * N_NODES
    stands_for = [row["stands_for"] for row in rows]
    assert sorted(sum(stands_for, [])) == list(range(3 * N_NODES))  # every one of before, once
    for row in rows:
        node = next(node for node in range(N_NODES) if TREE.path(node) == tuple(row["node"]))
        assert {p // 3 for p in row["stands_for"]} == {node}
    counts = torch.tensor(checkpoint["counts"])
    assert int(counts.sum()) == len(rows) == len(checkpoint["model"]["score.omega"]) and int(counts.min()) >= 1
    assert checkpoint["push_record"]["stands_for"] == stands_for
    assert load_checkpoint(whole / "save_2.pth")["push_record"]["stands_for"] is None
    model, _, record = model_of(checkpoint, whole)
    assert model.prototype_layer.counts.tolist() == counts.tolist() and record.stands_for == stands_for
    spread = record.spread
    assert spread["others"].shape == (len(rows), 11) and spread["others"].dtype == torch.float16
    for p, row in enumerate(rows):
        below = sum(tuple(row["node"]) in {TREE.path(node) for node in TREE.path_ids(leaf)} for leaf in range(4))
        assert int(spread["n_own"][p]) == 3 * below - 1  # but its own video
        assert int(spread["n_others"][p]) == 12 - 3 * below


def test_nothing_is_merged_where_nothing_shall_be(data, tmp_path):
    train(data, tmp_path, "--no_merge", schedule=QUICK)
    rows = prototypes(tmp_path)
    assert len(rows) == 3 * N_NODES and not any("stands_for" in row for row in rows)
    assert events(tmp_path)[-2]["merged"] == 0


# --- going on


@pytest.mark.parametrize(("kind", "nth", "how"), [("push", 2, "term"), ("push", 2, "kill"), ("tune", 5, "term")])
def test_a_run_cut_around_the_last_push_ends_at_the_same_bits(data, whole, tmp_path, kind, nth, how):
    """Between merging and tuning, and amid the tuning."""
    with cut(kind, nth, how):
        train(data, tmp_path, MERGING)
    if how == "term":
        newest = load_checkpoint(tmp_path / "last.pth")
        assert newest["done"] == (["push", 3, 0] if kind == "push" else ["last", 3, 1])
        assert sum(newest["counts"]) == len(prototypes(whole))
    go_on(tmp_path)
    assert_same(tmp_path / "save_3.pth", whole / "save_3.pth")
    assert (tmp_path / "prototypes.json").read_bytes() == (whole / "prototypes.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "term"])
@pytest.mark.parametrize(("kind", "nth"), [("trunk", 1), ("warm", 1), ("warm", 2), ("joint", 1), ("joint", 2),
                                           ("push", 1), ("tune", 1), ("tune", 3), ("tune", 4), ("tune", 6)])
def test_a_run_cut_anywhere_ends_at_the_same_bits(data, whole, tmp_path, kind, nth, how):
    with cut(kind, nth, how):
        train(data, tmp_path, MERGING)
    train(data, tmp_path, MERGING, "--resume_path auto")
    assert_same(tmp_path / "save_3.pth", whole / "save_3.pth")


def test_a_finished_run_goes_on_with_the_prototypes_that_stayed(whole, tmp_path):
    """Without ways: those of before were other prototypes'."""
    shutil.copytree(whole, tmp_path / "more")
    go_on(tmp_path / "more", "--n_epochs 4")
    assert len(prototypes(tmp_path / "more")) <= len(prototypes(whole))
    joint = [event for event in events(tmp_path / "more") if event["event"] == "joint"][-1]
    assert joint["done"][1] == 4 and torch.tensor(joint["loss"]).isfinite()
    ways = load_checkpoint(whole / "save_2.pth")["ways"]
    assert {0} < set(ways.tolist()) <= {0, 1, 2}
    for path in (whole / "save_3.pth", tmp_path / "more" / "save_4.pth"):
        assert "ways" not in load_checkpoint(path)


# --- siblings in hyperbolic space


@pytest.fixture(scope="module")
def hyperbolic(data, tmp_path_factory) -> Path:
    return train(data, tmp_path_factory.mktemp("hyperbolic"), MERGING, "--score tree_hyperbolic", schedule=QUICK)


def test_hyperbolic_siblings(data, hyperbolic, tmp_path):
    checkpoint = load_checkpoint(hyperbolic / "save_1.pth")
    assert checkpoint["args"]["score"] == "tree_hyperbolic" and checkpoint["embedding"]["points"].shape == (N_NODES, 8)
    assert (hyperbolic / "embeddings.pth").is_file()
    with cut("push", 1, "term"):
        train(data, tmp_path, MERGING, "--score tree_hyperbolic", schedule=QUICK)
    go_on(tmp_path)
    assert_same(tmp_path / "save_1.pth", hyperbolic / "save_1.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tree", "tree_hyperbolic"])
def test_models_are_exported(whole, hyperbolic, tmp_path, capsys, name):
    path = whole / "save_3.pth" if name == "tree" else hyperbolic / "save_1.pth"
    export.main(["--resume_path", str(path), "--format", "export", str(tmp_path / "served.pt2")])
    assert "largest difference" in capsys.readouterr().out
    told = json.loads((tmp_path / "served.json").read_text())
    model, *_ = model_of(load_checkpoint(path), path)
    assert told["prototype_nodes"] == model.prototype_layer.node_of.tolist()
    served = torch.export.load(tmp_path / "served.pt2").module()
    log_probs, activations, _ = served(torch.randint(256, (3, 3, 8, 32, 32), dtype=torch.uint8))
    torch.testing.assert_close(log_probs, model.score(activations)[0], atol=1e-4, rtol=0)


# --- odd data


@pytest.mark.parametrize("score", ["tree", "tree_hyperbolic"])
@pytest.mark.parametrize("n_levels", [1, 3])
def test_one_class(tmp_path, n_levels, score):
    data = write_data(tmp_path / "data", rows=[ROWS[0][:n_levels]], n_train=2)
    train(data, tmp_path / "results", f"--inference --score {score}", schedule=QUICK)
    found = json.loads((tmp_path / "results" / "val.json").read_text())
    assert found["results"]["v_Run_g02_c01"][0]["score"] == 1


@pytest.mark.parametrize("score", ["tree", "tree_hyperbolic"])
def test_one_level(tmp_path, score):
    data = write_data(tmp_path / "data", rows=[row[:1] for row in ROWS[:3]], n_train=2)
    train(data, tmp_path / "results", f"--inference --score {score}", schedule=SCHEDULE)
    found = json.loads((tmp_path / "results" / "val.json").read_text())
    for guesses in found["results"].values():
        assert sum(guess["score"] for guess in guesses) == pytest.approx(1, abs=1e-5)


def test_batches_of_one(data, tmp_path):
    train(data, tmp_path, "--batch_size 1", schedule=QUICK)
    assert load_checkpoint(tmp_path / "save_1.pth")["done"] == ["last", 1, 0]


def test_a_class_without_videos_keeps_its_prototypes(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "jpg" / "Saw")
    train(tmp_path / "data", tmp_path / "results", MERGING, schedule=QUICK)
    rows = prototypes(tmp_path / "results")
    unmatched = [row for row in rows if row["video"] is None]
    assert {row["node"][0] for row in unmatched} == {"Saw", "Tool", "Thing"} and len(unmatched) == 9
    assert all(len(row["stands_for"]) == 1 for row in unmatched)


def test_prototypes_that_start_at_sampled_patches(data, tmp_path):
    train(data, tmp_path / "results", "--starts sampled --weight_start 1000", schedule=QUICK)
    checkpoint = load_checkpoint(tmp_path / "results" / "save_1.pth")
    assert "ways" not in checkpoint and bool(checkpoint["model"]["score.omega"].isfinite().all())


def test_ways_of_other_videos_are_forgotten(data, whole, tmp_path, capsys):
    """A video that is gone moves the numbers of all that follow."""
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(next((tmp_path / "data" / "jpg" / "Jump").iterdir()))
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(whole / "save_1.pth", results)
    assert "ways" in load_checkpoint(results / "save_1.pth")
    go_on(results, f"--root_path {tmp_path / 'data'}")
    assert "ways" in capsys.readouterr().err and "ways" not in load_checkpoint(results / "save_3.pth")


def test_a_rate_of_its_own_for_the_score_on_resuming(data, tmp_path):
    """An optimiser whose parameters are grouped in another way has nothing to remember."""
    never = "--no_last_push --push_start 9"
    results = train(data, tmp_path / "results", "--score hyperbolic --checkpoint 1", never,
                    schedule=QUICK.replace("--warm_epochs 0", "--warm_epochs 1"))
    go_on(results, "--warm_epochs 2 --n_epochs 2 --warm_score_learning_rate .1")
    checkpoint = load_checkpoint(results / "save_2.pth")
    assert len(checkpoint["optimizers"]["warm"][1]["param_groups"]) == 2


# --- bad input


@pytest.mark.parametrize(("more", "flag"), [
    ("--score hyperbolic --merge_coverage .9", "--merge_coverage"),
    ("--score hyperbolic --ways_weight 1", "--ways_weight"),
    ("--score hyperbolic --even_weight 1", "--even_weight"),
    ("--score hyperbolic --level_ce_weight 1", "--level_ce_weight"),
    ("--score hyperbolic --neck levels", "--neck"),
    ("--score tree --T 1", "--T"),
    ("--score tree_hyperbolic --T 1", "--T"),
    ("--score tree --learn_T", "--learn_T"),
    ("--score tree --group_weight .1", "--group_weight"),
    ("--similarity log --score tree", "--similarity"),
    ("--last_layer joint", "--last_layer"),
    ("--ways_weight -1", "--ways_weight"),
    ("--even_weight -1", "--even_weight"),
    ("--merge_coverage 0", "--merge_coverage"),
    ("--merge_coverage .9 1.1", "--merge_coverage"),
    ("--similarity_scale 0", "--similarity_scale"),
    ("--weight_start -1", "--weight_start"),
    ("--neck_channels 0", "--neck_channels"),
    ("--neck sigmoid --standardise", "--standardise"),
    ("--standardise --starts sampled", "--standardise"),
    ("--standardise --no_start", "--standardise"),
    ("--emb_file tree.csv", "--emb_file"),
    ("--weight_start inf", "--weight_start"),
    ("--paper --similarity exp", "--similarity"),
    ("--paper --score tree", "--score"),
])
def test_contradicting_flags(data, tmp_path, capsys, more, flag):
    error = refused(capsys, "--root_path", data, "--result_path", tmp_path / "results", DATA, MODEL, QUICK, CALL, more)
    assert flag in error, error
    assert not list(tmp_path.rglob("*.pth"))


def test_another_score_contradicts_a_checkpoint(whole, capsys):
    for more in ("--score tree_hyperbolic", "--similarity_scale 1", "--neck sigmoid", "--neck_channels 7",
                 "--prototypes_per_node 2"):
        error = refused(capsys, "--resume_path", whole / "save_3.pth", CALL, more)
        assert more.split()[0] in error and "contradicts" in error


# --- several processes


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_merge_as_one_does(data, tmp_path, size):
    """From the same weights, and so the same prototypes: those of the trunk epochs are trained by one process."""
    start = train(data, tmp_path / "start", "--merge_coverage 1 --trunk_optimizer sgd", schedule=QUICK)
    line = ("--pretrain_path", start / "trunk.pth", "--trunk_epochs 0 --warm_epochs 1 --n_epochs 1 --tune_iterations 2 "
            "--batch_size 6 --push_clips 2 --cache_features 0 --sure 0 --ways_clips 1 --no_val", MERGING)
    for n in (1, size):
        results = tmp_path / str(n)
        results.mkdir()
        ended = in_processes(n, lambda rank, results=results: train(data, results, *line, schedule=""), results)
        assert [one.code for one in ended] == [0] * n, "\n".join(one.said for one in ended)
    one, other = (prototypes(tmp_path / str(n)) for n in (1, size))
    assert len(one) < 3 * N_NODES
    keys = ("node", "stands_for", "video", "frames", "cell")
    assert [[row[key] for key in keys] for row in one] == [[row[key] for key in keys] for row in other]
    first, second = (load_checkpoint(tmp_path / str(n) / "save_1.pth") for n in (1, size))
    assert first["counts"] == second["counts"]
    torch.testing.assert_close(first["model"], second["model"], rtol=1e-3, atol=1e-3)
    for name in ("others", "own", "n_others", "n_own"):
        torch.testing.assert_close(first["push_record"]["spread"][name], second["push_record"]["spread"][name],
                                   rtol=1e-2, atol=1e-2)
