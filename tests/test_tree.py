"""The class tree: ids, paths, distances, names, and what it says about a bad file."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hierarchy.tree import Hierarchy

ROOT = Path(__file__).resolve().parents[1]
CLASS_LIST = ROOT.parent / "shared" / "data" / "ucf101" / "ucfTrainTestlist" / "classInd.txt"

ROWS = [
    ["Skiing", "Snow", "Sports"],
    ["Cello", "Other", "Music"],
    ["Ice dancing", "Snow", "Sports"],
    ["Chess", "Other", "Sports"],
    ["Flute", "Other", "Music"],
    ["Snow", "Sleep", "Sports"],  # a class that shares its name with a parent
]


@pytest.fixture
def tree() -> Hierarchy:
    return Hierarchy.from_rows(ROWS)


@pytest.fixture(scope="module")
def ucf101() -> Hierarchy:
    return Hierarchy.from_csv(ROOT / "UCF-101_hierarchy.csv")


def write(folder: Path, text: str) -> Path:
    path = folder / "tree.csv"
    path.write_bytes(text.encode())
    return path


def slow_hops(hierarchy: Hierarchy, a: int, b: int) -> int:
    """Edges between two leaves, by climbing: Root included."""
    up_a, up_b = [*hierarchy.path_ids(a), "Root"], [*hierarchy.path_ids(b), "Root"]
    joint = next(node for node in up_a if node in up_b)
    return up_a.index(joint) + up_b.index(joint)


def test_nodes_go_level_by_level_in_order_of_the_rows(tree: Hierarchy) -> None:
    assert tree.names == (
        "Skiing", "Cello", "Ice dancing", "Chess", "Flute", "Snow",
        "Snow", "Other", "Other", "Sleep",
        "Sports", "Music",
    )  # fmt: skip
    assert tree.levels == (range(6), range(6, 10), range(10, 12))
    assert tree.level_of.tolist() == [0] * 6 + [1] * 4 + [2] * 2
    assert (len(tree), tree.n_leaves, tree.n_levels) == (12, 6, 3)
    assert tree.rows == ROWS


def test_two_parents_of_one_name_are_two_nodes(tree: Hierarchy) -> None:
    music, sports = tree.ancestors[1, 1], tree.ancestors[3, 1]
    assert music != sports
    assert tree.ancestors[4, 1] == music
    assert tree.full_name(int(music)) == "Other / Music"
    assert tree.full_name(int(sports)) == "Other / Sports"
    assert tree.full_name(0) == "Skiing"
    assert len({tree.full_name(node) for node in range(len(tree))}) == len(tree)


def test_ancestors_paths_children_and_leaves_agree(tree: Hierarchy) -> None:
    assert tree.ancestors.dtype == torch.int64
    assert tree.ancestors.tolist() == [[0, 6, 10], [1, 7, 11], [2, 6, 10], [3, 8, 10], [4, 7, 11], [5, 9, 10]]
    for leaf, row in enumerate(ROWS):
        assert tree.path(leaf) == tuple(row)
        assert list(tree.path_ids(leaf)) == tree.ancestors[leaf].tolist()
    assert tree.path(8) == ("Other", "Sports")
    assert tree.path_ids(8) == (8, 10)
    assert tree.children(10) == (6, 8, 9)
    assert tree.children(7) == (1, 4)
    assert tree.children(0) == ()
    for node in range(len(tree)):
        below = [leaf for leaf in range(6) if node in tree.path_ids(leaf)]
        assert tree.leaves_below(node).tolist() == below
        assert tree.membership[node].nonzero().flatten().tolist() == below
    assert tree.membership.shape == (12, 6)
    assert tree.membership.dtype == torch.float32
    assert (tree.membership.sum(0) == 3).all()


@pytest.mark.parametrize("which", ["tree", "ucf101"])
def test_hops_equal_climbing(which: str, request: pytest.FixtureRequest) -> None:
    hierarchy = request.getfixturevalue(which)
    hops = hierarchy.hops()
    assert hops.dtype == torch.int64
    leaves = range(hierarchy.n_leaves)
    assert hops.tolist() == [[slow_hops(hierarchy, a, b) for b in leaves] for a in leaves]


@pytest.mark.parametrize("rows", [[["a"]], [["a"], ["b"]], [["a", "b", "c", "d"]], [["a", "x"], ["b", "x"]]])
def test_any_number_of_levels(rows: list[list[str]]) -> None:
    hierarchy = Hierarchy.from_rows(rows)
    assert hierarchy.n_levels == len(rows[0])
    assert hierarchy.n_leaves == len(rows)
    assert hierarchy.ancestors.shape == (len(rows), len(rows[0]))
    assert hierarchy.hops().max() == (0 if len(rows) == 1 else 2)


def test_label_ignores_case_spaces_and_punctuation(tree: Hierarchy) -> None:
    for spelling in ("Ice dancing", "ice_dancing", "IceDancing", " ICE-dancing. "):
        assert tree.label(spelling) == 2
    assert tree.label("snow") == 5  # the class, not the parent


def test_label_proposes_the_nearest_names(ucf101: Hierarchy) -> None:
    with pytest.raises(ValueError, match=r"'PlayingViolins'.*nearest.*PlayingViolin\b"):
        ucf101.label("PlayingViolins")
    with pytest.raises(ValueError, match="qqq.* .+, .+, .+"):
        ucf101.label("qqq")
    with pytest.raises(ValueError, match="Ball"):  # a parent is no class
        ucf101.label("Ball")


def test_rows_rebuild_the_tree(ucf101: Hierarchy) -> None:
    again = Hierarchy.from_rows(ucf101.rows)
    assert again == ucf101
    assert hash(again) == hash(ucf101)
    assert again != Hierarchy.from_rows(ucf101.rows[::-1])
    assert pickle.loads(pickle.dumps(ucf101)) == ucf101
    assert copy.deepcopy(ucf101).names == ucf101.names


def test_nothing_can_be_changed(tree: Hierarchy) -> None:
    with pytest.raises(AttributeError, match="names"):
        tree.names = ()
    tree.rows[0][0] = "Sleeping"
    assert tree.rows == ROWS


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffa , "P, Q" ,Root\r\n\r\nb,R,Root\r\n')
    assert Hierarchy.from_csv(path).rows == [["a", "P, Q"], ["b", "R"]]
    path = write(tmp_path, "a,P,Everything\n")
    assert Hierarchy.from_csv(path, root="Everything").rows == [["a", "P"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,P,Root\nb,P,G,Root\n", r"tree\.csv:2: .*levels.*tree\.csv:1"),
        ("a,P,Root\n\nb,,Root\n", r"tree\.csv:3: .*empty"),
        ("a,P,Root\n,P,Root\n", r"tree\.csv:2: .*empty"),
        ("a,P,Root\nb,P,Root\na,Q,Root\n", r"tree\.csv:3: .*'a'.*tree\.csv:1"),
        ("Jump Rope,P,Root\njump-rope,Q,Root\n", r"tree\.csv:2: .*'jump-rope'"),
        ("class,parent,root\na,P,Root\n", r"tree\.csv:1: .*'root'.*header"),
        ("a,P,Root\nb,P,\n", r"tree\.csv:2: .*''"),
        ("Root\n", r"tree\.csv:1: .*name"),
        ("", r"tree\.csv: .*empty"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_csv(write(tmp_path, text))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        Hierarchy.from_csv(tmp_path / "nowhere.csv")
    (tmp_path / "picture.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match="picture.csv:1: .*UTF-8"):
        Hierarchy.from_csv(tmp_path / "picture.csv")


@pytest.mark.parametrize(("rows", "message"), [([], "at least one class"), ([["a"], ["a"]], "row 1: class 'a'.*row 0")])
def test_bad_rows(rows: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_rows(rows)


def test_ucf101_is_the_published_tree(ucf101: Hierarchy) -> None:
    assert [len(level) for level in ucf101.levels] == [101, 20, 5]
    sizes = {ucf101.names[node]: len(ucf101.leaves_below(node)) for node in range(101, 126)}
    assert sizes == {
        "Self-grooming": 5, "Working": 8, "Exercising/playing games": 7, "Non-strenuous": 4, "Strenuous": 12,
        "Two persons": 3, "More than two persons": 2, "Percussion": 4, "String": 5, "Wind": 1, "Gymnastics": 9,
        "Air": 3, "Ice or snow": 2, "Water": 7, "Target": 7, "Strength": 6, "Racket": 2, "Ball": 10, "Combat": 1,
        "Riding": 3, "Human-Object Interaction": 20, "Body-Motion Only": 16, "Human-Human Interaction": 5,
        "Playing Musical Instruments": 10, "Sports": 50,
    }  # fmt: skip
    assert ucf101.path(ucf101.label("Skijet")) == ("Skijet", "Water", "Sports")
    assert ucf101.path(ucf101.label("HandStandPushups"))[1:] == ("Strenuous", "Body-Motion Only")
    assert list(ucf101.names[:101]) == sorted(ucf101.names[:101], key=str.casefold)  # the official order is this one


def test_ucf101_has_the_official_order(ucf101: Hierarchy) -> None:
    if not CLASS_LIST.exists():
        pytest.skip(f"no {CLASS_LIST.name} beside the repository")
    official = [line.split()[1] for line in CLASS_LIST.read_text().splitlines() if line.strip()]
    assert list(ucf101.names[:101]) == official


def test_fit_script_starts_without_torch() -> None:
    code = "import sys, util_scripts.fit_embeddings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("rows", [[["a", "b"], 3], [["a", 1]], [None], ["ab"], [["a", ["b"]]]])
def test_rows_that_are_no_lists_of_names(rows):
    with pytest.raises(ValueError, match="row [01] is no list of names"):
        Hierarchy.from_rows(rows)
