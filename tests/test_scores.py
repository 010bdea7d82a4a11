"""The temperature that is learnt, the one-hot head, and the benchmark that compares scores."""

import json
import sys
from pathlib import Path

import pytest
import torch
from program import CALL, DATA, MODEL, call, write_data
from tiny import random_tree, small_hipe
from trainers import take, trainer

from benchmarks import embeddings, scores
from hierarchy import ClassEmbeddings, Hierarchy, load_embeddings, one_hot
from run.model import model_of
from training.checkpoint import load_checkpoint

QUICK = "--trunk_epochs 1 --warm_epochs 1 --n_epochs 2 --push_start 2 --tune_iterations 2 --batch_size 6 --push_clips 1"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("kind", "moves"), [("trunk", False), ("warm", True), ("joint", True), ("tune", False)])
def test_the_temperature_is_learnt_with_the_prototypes(kind: str, moves: bool) -> None:
    model = small_hipe(random_tree(4, 3, 5))
    points = model.score.embeddings.points
    model.score.embeddings = ClassEmbeddings(points, 5, learn_temperature=True)
    before, start = model.score.last_layer.weight.clone(), model.score.embeddings.T.item()
    run = trainer(model)
    take(run, kind)
    assert (model.score.embeddings.T.item() != start) == moves
    assert torch.equal(before, model.score.last_layer.weight) == (kind == "trunk")
    assert torch.equal(model.score.embeddings.points, points)


def test_a_run_that_learns_its_temperature_goes_on(data: Path, tmp_path: Path) -> None:
    line = ("--root_path", data, DATA, MODEL, CALL, "--result_path", tmp_path)
    call(*line, QUICK, "--score hyperbolic --learn_T --checkpoint 1")
    checkpoint = load_checkpoint(tmp_path / "save_2.pth")
    assert checkpoint["args"]["learn_T"] is True
    model, _, _ = model_of(checkpoint, tmp_path)
    assert model.score.embeddings.log_factor != 0
    call("--resume_path auto --n_epochs 3", *line)
    assert load_checkpoint(tmp_path / "save_3.pth")["model"]["score.embeddings.log_factor"] != 0


def test_one_hot_classes_make_a_linear_head() -> None:
    tree = random_tree(1, 3, 7)
    points = one_hot(tree)
    assert points.shape == (len(tree), 7)
    head = ClassEmbeddings(points, 7, score="linear")
    v = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    logits = head(v)
    torch.testing.assert_close(logits, v * (logits[0, 0] / v[0, 0]))  # nothing but a scale
    assert head(head.points[:7]).softmax(-1).diagonal().min() >= 0.99
    for node in range(len(tree)):
        torch.testing.assert_close(points[node], points[tree.leaves_below(node)].mean(0))


def test_constructed_classes_are_no_linear_head(data: Path, tmp_path: Path, capsys) -> None:
    for more in ("", "--T 1"):
        with pytest.raises(SystemExit):
            call("--root_path", data, DATA, MODEL, CALL, "--result_path", tmp_path / "results", "--score linear", more)
        said = capsys.readouterr().err
        assert "linear score" in said and "--method one_hot" in said and "--emb_file" in said, said
        assert any(name in said for row in Hierarchy.from_csv(data / "tree.csv").rows for name in row[:1])


def test_figures_are_those_of_the_last_validation(tmp_path: Path) -> None:
    events = [{"event": "val", "top1": 0.1, "level_1": 0.2, "severity": 2.0, "loss": 3.0},
              {"event": "val", "top1": 0.5, "level_1": 0.75, "severity": 1.5, "loss": 0.7}, {"event": "last"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert scores.figures(tmp_path) == {"class": 0.5, "level 1": 0.75, "severity": 1.5, "-log p": 0.7}


@pytest.mark.parametrize(("words", "message"), [
    ([], "give --demo, --weizmann or both"), (["--demo", "."], "holds no demo; make one with"),
    (["--weizmann", "."], "has no folder videos/")])
def test_the_benchmark_says_what_it_needs(words: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scores", *words, "--work", str(tmp_path / "work")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        scores.main()


@pytest.mark.slow
def test_heads_are_compared_and_a_repeated_call_trains_nothing_again(data: Path, tmp_path: Path, capsys) -> None:
    line = ["--root_path", str(data), *f"{DATA} {MODEL} {CALL} {QUICK}".split()]
    compare = {"tree": data / "tree.csv", "work": tmp_path, "heads": ["hyperbolic", "one-hot"], "seeds": [1, 2]}
    scores.compare("tiny", line, **compare)
    table = capsys.readouterr().out
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| ")]
    assert [(row[0], row[1]) for row in rows[2:]] == [(f"| {head}", seed) for head in compare["heads"]
                                                     for seed in ("1", "2", "mean")]
    assert rows[0][2:] == ["class", "level 1", "level 2", "severity", "-log p |"]
    one, two, mean = (float(row[-1].strip(" |")) for row in rows[2:5])
    assert mean == pytest.approx((one + two) / 2, abs=2e-3)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("save_*.pth")}
    assert len(times) == 4 and len(list(tmp_path.rglob("trunk.pth"))) == 2
    assert torch.equal(load_checkpoint(next(tmp_path.glob("tiny_one-hot_1/save_*.pth")))["embedding"]["points"][:4],
                       load_embeddings(tmp_path / "one_hot.pth", Hierarchy.from_csv(data / "tree.csv"))[0][:4])
    scores.compare("tiny", line, **compare)
    assert capsys.readouterr().out == table
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("save_*.pth")}


def test_the_benchmark_of_embeddings_measures_a_tree() -> None:
    line = embeddings.measure(30, 5, 2.5, "constructive")
    assert len(line) == len(embeddings.COLUMNS)
    assert line[:2] == [30, 3] and line[3] == 5
    assert line[7:9] == [1.0, pytest.approx(0.03, abs=0.03)]
