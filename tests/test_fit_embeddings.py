"""The script util_scripts.fit_embeddings."""

import re
import subprocess
import sys
from pathlib import Path

import geoopt  # noqa: F401 - warns when it is first imported
import pytest
import torch
from embedding_cases import ROOT, SMALL, UCF101

from hierarchy import (
    ClassEmbeddings,
    Hierarchy,
    evaluate_embedding,
    fit_embeddings,
    load_embeddings,
    one_hot,
)
from util_scripts import fit_embeddings as script

pytestmark = pytest.mark.filterwarnings("error")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fit_embeddings", *map(str, arguments)])
    script.main()


def test_script_writes_and_measures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "util_scripts.fit_embeddings", "UCF-101_hierarchy.csv", str(tmp_path / "out.pth")]
    done = subprocess.run([*command, "--dim", "120"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "126 nodes in 120 dimensions" in done.stdout
    assert "| 1 |" in re.sub(" +", " ", next(line for line in done.stdout.splitlines() if "mAP" in line))
    assert done.stdout == (tmp_path / "out.md").read_text()
    loaded, c = load_embeddings(tmp_path / "out.pth", UCF101)
    assert loaded.shape == (126, 120)
    assert evaluate_embedding(loaded, UCF101) == evaluate_embedding(loaded, UCF101, c=c)


def test_script_takes_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--dim", 8, "--c", 0.5, "--edge", 4, "--seed", 3]
    run(monkeypatch, ROOT / "UCF-101_hierarchy.csv", tmp_path / "out.pth", *options)
    loaded, c = load_embeddings(tmp_path / "out.pth", UCF101)
    assert c == 0.5
    torch.testing.assert_close(loaded, fit_embeddings(UCF101, dim=8, c=0.5, edge=4.0, seed=3), rtol=1e-6, atol=1e-6)


def test_script_reports_bad_input_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("a,P,Root\nb,Root\n")
    tree = ROOT / "UCF-101_hierarchy.csv"
    for arguments, message in [
        ((tmp_path / "none.csv",), "none.csv"),
        ((tmp_path / "bad.csv",), "bad.csv:2"),
        ((tree, "--edge", 50), "--edge 10"),
        ((tree, "--dim", 1), "dim"),
        ((tree, "--dim", 10**8), "--dim 100000000"),
        ((tree, "--c", "inf"), "--c inf"),
        ((tree, "--c", "1e-320"), "--c 9.99989e-321"),
        ((tree, "--method", "one_hot", "--dim", 300), "--dim 300"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, arguments[0], tmp_path / "out.pth", *arguments[1:])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()


def test_script_writes_over_nothing_but_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree.csv"
    tree.write_text("".join(",".join([*row, "Root"]) + "\n" for row in SMALL.rows))
    (tmp_path / "notes.md").write_text("What I know of it.\n")
    (tmp_path / "folder.png").mkdir()
    torch.save({"model": {}}, tmp_path / "save_200.pth")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for out, more, message in [
        ("tree.csv", (), "tree.csv"),
        ("out.md", (), "out.md"),
        ("notes.pth", (), "notes.md"),
        ("save_200.pth", (), "save_200.pth"),
        ("folder.png", (), "folder.png"),
        ("folder.png", ("--measure",), "folder.png"),
        ("", (), f"{tmp_path}:"),
        ("out.pth", ("--plot", tmp_path / "tree.jpg"), "tree.jpg"),
        ("out.pth", ("--plot", tmp_path / "folder.png"), "folder.png"),
        ("out.png", ("--plot", tmp_path / "out.png"), "out.png"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, tree, tmp_path / out, *more)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    for dim in (6, 7):  # its own table it replaces
        run(monkeypatch, tree, tmp_path / "out.pth", "--dim", dim)
    assert (tmp_path / "out.md").read_text().startswith("out.pth: 11 nodes in 7 dimensions")


@pytest.mark.parametrize("hierarchy", [UCF101, SMALL, Hierarchy.from_rows([["a", "b"]])])
def test_script_writes_one_hot_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hierarchy: Hierarchy
) -> None:
    (tmp_path / "tree.csv").write_text("".join(",".join([*row, "Root"]) + "\n" for row in hierarchy.rows))
    run(monkeypatch, tmp_path / "tree.csv", tmp_path / "out.pth", "--method", "one_hot")
    loaded, _ = load_embeddings(tmp_path / "out.pth", hierarchy)
    torch.testing.assert_close(loaded, one_hot(hierarchy))
    ClassEmbeddings(loaded, hierarchy.n_leaves, score="linear").check(hierarchy.names)
    assert "one_hot\n" in (tmp_path / "out.md").read_text()


def test_script_draws_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree.csv").write_text("".join(",".join([*row, "Root"]) + "\n" for row in SMALL.rows))
    options = ["--dim", 6, "--method", "both", "--epochs", 2, "--plot", tmp_path / "plots" / "tree.png"]
    run(monkeypatch, tmp_path / "tree.csv", tmp_path / "out.pth", *options)
    assert (tmp_path / "plots" / "tree.png").read_bytes()[:4] == b"\x89PNG"
    assert "edge = 3, both" in (tmp_path / "out.md").read_text()
