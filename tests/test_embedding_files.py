"""Embedding files: saving, loading, the published form, and which file a run uses."""

import math
import re
import sys
from pathlib import Path

import geoopt
import pytest
import torch
from embedding_cases import CURVATURES, ROOT, SMALL, UCF101, directions
from torch import Tensor

from hierarchy import (
    Hierarchy,
    evaluate_embedding,
    find_embeddings,
    fit_embeddings,
    load_embeddings,
    save_embeddings,
)
from hierarchy.measures import table
from util_scripts import fit_embeddings as script

pytestmark = pytest.mark.filterwarnings("error")


def published(path: Path, objects: list[str], embeddings: Tensor, **more: object) -> Path:
    torch.save({"objects": objects, "embeddings": embeddings, **more}, path)
    return path


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("hierarchy", [UCF101, SMALL, Hierarchy.from_rows([["Swing", "Swing"], ["b", "Swing"]])])
def test_what_was_saved_is_loaded(tmp_path: Path, hierarchy: Hierarchy, c: float) -> None:
    fitted = fit_embeddings(hierarchy, dim=12, c=c)
    save_embeddings(tmp_path / "new" / "emb.pth", fitted, hierarchy, c=c)
    loaded, loaded_c = load_embeddings(tmp_path / "new" / "emb.pth", hierarchy)
    assert loaded_c == c
    assert torch.equal(loaded, fitted)  # a run that is killed early goes on with the file
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["emb.pth"]


def test_the_points_in_the_ball_are_those_that_count(tmp_path: Path) -> None:
    """Where others moved them, or wrote the file without tangents."""
    fitted = fit_embeddings(SMALL, dim=6, c=0.5)
    save_embeddings(tmp_path / "emb.pth", fitted, SMALL, c=0.5)
    whole = torch.load(tmp_path / "emb.pth", weights_only=True)
    for other in ({"embeddings": whole["embeddings"] / 2}, {"tangents": fitted / 2}, {"tangents": "x"}):
        torch.save(whole | other, tmp_path / "other.pth")
        points, _ = load_embeddings(tmp_path / "other.pth", SMALL)
        ball = geoopt.PoincareBall(c=0.5).expmap0(points).double()
        torch.testing.assert_close(ball, (whole | other)["embeddings"])


def test_the_file_is_the_same_whichever_process_wrote_it(tmp_path: Path, monkeypatch) -> None:
    fitted = fit_embeddings(SMALL, dim=6, c=0.5)
    save_embeddings(tmp_path / "one.pth", fitted, SMALL, c=0.5)
    monkeypatch.setattr("os.getpid", lambda: 1)
    save_embeddings(tmp_path / "two.pth", fitted, SMALL, c=0.5)
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_a_full_disk_is_told_of(tmp_path: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr("hierarchy.files.torch.save", full)
    with pytest.raises(OSError, match="emb.pth: cannot be written"):
        save_embeddings(tmp_path / "emb.pth", fit_embeddings(SMALL, dim=6), SMALL, c=1.0)
    assert not list(tmp_path.iterdir())


def test_the_file_is_the_published_form_in_the_ball(tmp_path: Path) -> None:
    fitted = fit_embeddings(SMALL, dim=6, c=0.5)
    save_embeddings(tmp_path / "emb.pth", fitted, SMALL, c=0.5, edge=3.0)
    content = torch.load(tmp_path / "emb.pth", weights_only=True)
    assert content["objects"] == ["a", "b", "c", "d", "e", "P", "Q", "Other / Y", "Other / X", "X", "Y"]
    assert content["embeddings"].dtype == torch.float64
    torch.testing.assert_close(content["embeddings"], geoopt.PoincareBall(c=0.5).expmap0(fitted).double())
    assert (content["c"], content["edge"], content["rows"]) == (0.5, 3.0, SMALL.rows)


PUBLISHED = {  # names of the published UCF-101 embedding that are not the tree's
    "BaseballPitch": "Basketball Pitch",
    "Basketball": "Basketball Shooting",
    "Billiards": "Billiards Shot",
    "Mixing": "Mixing Batter",
    "SalsaSpin": "Salsa Spins",
    "WalkingWithDog": "Walking with a dog",
    "Percussion": "Precussion",
    "Gymnastics": "Gymnatics",
    "Two persons": "Two persons interaction",
    **{name: f"{name} sports" for name in ("Air", "Ice or snow", "Water", "Target", "Strength", "Racket", "Ball")},
}


def published_ucf101(path: Path, *, root: bool, spaced: bool) -> Tensor:
    """A file of the published names and shapes: (126, 300), every leaf at norm .996 of the ball, in another order.

    Returns the tangent vectors (126, 300) that the tree's nodes must get.
    """
    norm = torch.cat([torch.full((101, 1), 0.996), torch.full((20, 1), 0.9), torch.full((5, 1), 0.5)]).double()
    in_ball = directions(126, 300, seed=5) * norm
    order = torch.randperm(126, generator=torch.Generator().manual_seed(0))
    objects = [PUBLISHED.get(UCF101.names[node], UCF101.names[node]) for node in order]
    if spaced:  # "Apply Eye Makeup"
        objects = [re.sub("(?<=[a-z])(?=[A-Z])", " ", name) for name in objects]
    rows = in_ball[order]
    if root:
        objects, rows = [*objects, "Root"], torch.cat([rows, torch.zeros(1, 300, dtype=torch.float64)])
    published(path, objects, rows)
    return torch.atanh(norm) * in_ball / norm


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("spaced", [False, True])
def test_the_published_file_is_read_by_name(tmp_path: Path, root: bool, spaced: bool) -> None:
    expected = published_ucf101(tmp_path / "emb.pth", root=root, spaced=spaced)
    loaded, c = load_embeddings(tmp_path / "emb.pth", UCF101)
    assert c == 1
    torch.testing.assert_close(loaded, expected)


def test_the_published_file_is_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    published_ucf101(tmp_path / "emb.pth", root=True, spaced=False)
    tree = ROOT / "UCF-101_hierarchy.csv"
    monkeypatch.setattr(sys, "argv", ["fit_embeddings", str(tree), str(tmp_path / "emb.pth"), "--measure"])
    script.main()
    assert "126 nodes in 300 dimensions, c = 1\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["emb.pth"]


def test_unknown_classes_are_an_error_and_unknown_ancestors_a_warning(tmp_path: Path) -> None:
    fitted = fit_embeddings(SMALL, dim=6)
    in_ball = geoopt.PoincareBall().expmap0(fitted)
    objects = [SMALL.full_name(node) for node in range(len(SMALL))]
    with pytest.raises(ValueError, match=r"emb.pth: .*\(b, d\)"):
        load_embeddings(published(tmp_path / "emb.pth", ["a", "?", "c", "!", *objects[4:]], in_ball), SMALL)
    objects[5] = "Something else"
    path = published(tmp_path / "emb.pth", objects, in_ball)
    with pytest.warns(UserWarning, match=r"emb.pth: .*\(P\)"):
        loaded, _ = load_embeddings(path, SMALL)
    torch.testing.assert_close(loaded[5], fitted[:2].mean(0))
    torch.testing.assert_close(torch.cat([loaded[:5], loaded[6:]]), torch.cat([fitted[:5], fitted[6:]]))


@pytest.mark.parametrize("c", [1.0, 0.25])
def test_points_beyond_the_ball_are_pulled_back_aloud(tmp_path: Path, c: float) -> None:
    ray = directions(len(SMALL), 6, seed=0)
    norm = torch.full((len(SMALL), 1), 0.9, dtype=torch.float64)
    norm[:3, 0] = torch.tensor([1.0 + 1e-7, 3.0, 1 - 1e-7])
    objects = [SMALL.full_name(node) for node in range(len(SMALL))]
    path = published(tmp_path / "emb.pth", objects, ray * norm / math.sqrt(c), c=c)
    with pytest.warns(UserWarning, match="3 of 11 points"):
        loaded, _ = load_embeddings(path, SMALL)
    radius = 2 * math.sqrt(c) * loaded.norm(dim=-1)
    torch.testing.assert_close(radius[:3], torch.full((3,), 2 * math.atanh(1 - 1e-5), dtype=torch.float64))
    torch.testing.assert_close(radius[3:], torch.full((8,), 2 * math.atanh(0.9), dtype=torch.float64))
    torch.testing.assert_close(loaded / loaded.norm(dim=-1, keepdim=True), ray)


def test_points_that_the_ball_cannot_hold_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="radius 40 .*--edge"):
        save_embeddings(tmp_path / "emb.pth", directions(len(SMALL), 6, seed=0) * 20, SMALL, c=1.0)
    assert not list(tmp_path.iterdir())


def test_what_is_no_embedding_file(tmp_path: Path) -> None:
    path = tmp_path / "emb.pth"
    with pytest.raises(FileNotFoundError, match="emb.pth"):
        load_embeddings(path, SMALL)
    path.write_text("a,b,c\n")
    with pytest.raises(ValueError, match="emb.pth: not an embedding file"):
        load_embeddings(path, SMALL)
    unsafe = {"objects": ["a"], "embeddings": torch.zeros(1, 3), "code": Path("runs/when/loaded")}
    uncounted = {"objects": 5, "embeddings": torch.zeros(5, 3)}
    for content in ({"state_dict": {}}, torch.zeros(3), {"objects": ["a"], "embeddings": "b"}, unsafe, uncounted):
        torch.save(content, path)
        with pytest.raises(ValueError, match="emb.pth: not an embedding file"):
            load_embeddings(path, SMALL)
    with pytest.raises(ValueError, match=r"emb.pth: .*\(2, 3\)"):
        load_embeddings(published(path, ["a"], torch.zeros(2, 3)), SMALL)
    with pytest.raises(ValueError, match=r"emb.pth: .*\(1, 0\)"):
        load_embeddings(published(path, ["a"], torch.zeros(1, 0)), SMALL)
    with pytest.raises(ValueError, match="emb.pth: .* finite"):
        load_embeddings(published(path, ["a"], torch.full((1, 3), math.nan)), SMALL)
    for c in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"emb.pth: .*{c:g}"):
            load_embeddings(published(path, ["a"], torch.zeros(1, 3), c=c), SMALL)


def test_embeddings_are_looked_for_in_order(tmp_path: Path) -> None:
    fitted = {}
    for seed, name in enumerate(["given", "shipped"]):
        fitted[name] = fit_embeddings(SMALL, dim=3, seed=seed)
        save_embeddings(tmp_path / name, fitted[name], SMALL, c=1.0, edge=3.0)
    places = {"shipped": tmp_path / "shipped", "cache": tmp_path / "results" / "cache"}
    wanted = {"dim": 3, "c": 1.0, "edge": 3.0}

    def found(hierarchy: Hierarchy = SMALL, emb_file: Path | None = None, **options: float) -> Tensor:
        return find_embeddings(hierarchy, emb_file=emb_file, **places, **wanted | options)[0]

    torch.testing.assert_close(found(emb_file=tmp_path / "given", dim=7), fitted["given"])
    torch.testing.assert_close(found(), fitted["shipped"])
    assert not places["cache"].exists()
    reordered = Hierarchy.from_rows(SMALL.rows[::-1])  # the same tree
    torch.testing.assert_close(found(reordered)[:5], fitted["shipped"][:5].flip(0))
    assert not places["cache"].exists()

    for options in ({"dim": 5}, {"c": 0.5}, {"edge": 2.0}):
        torch.testing.assert_close(found(**options), fit_embeddings(SMALL, **wanted | options))
    moved = Hierarchy.from_rows([["a", "Q", "X"], ["b", "P", "X"], *SMALL.rows[2:]])  # the same names, another tree
    torch.testing.assert_close(found(moved), fit_embeddings(moved, **wanted))

    kept = places["cache"].stat().st_mtime_ns
    torch.testing.assert_close(found(moved), fit_embeddings(moved, **wanted))
    assert places["cache"].stat().st_mtime_ns == kept  # read, not written again
    places["cache"].write_text("half a file")
    torch.testing.assert_close(found(moved), fit_embeddings(moved, **wanted))
    torch.testing.assert_close(load_embeddings(places["cache"], moved)[0], fit_embeddings(moved, **wanted))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        found(emb_file=tmp_path / "nowhere")


def test_the_shipped_file_is_what_the_script_writes() -> None:
    shipped = ROOT / "hierarchy" / "UCF-101_embeddings.pth"
    assert shipped.stat().st_size < 1e6
    found, c = find_embeddings(UCF101, emb_file=None, shipped=shipped, cache=None, dim=300, c=1.0, edge=3.0)
    assert c == 1
    torch.testing.assert_close(found, load_embeddings(shipped, UCF101)[0], rtol=0, atol=0)
    torch.testing.assert_close(found, fit_embeddings(UCF101), rtol=1e-9, atol=1e-9)
    figures = table(evaluate_embedding(found, UCF101, c=c))
    assert shipped.with_suffix(".md").read_text().endswith(f"\n\n{figures}\n")
