"""benchmarks/tables.py: what a benchmark prints becomes CSV, with a line for each file in the folder's index."""

import sys

import pytest

from benchmarks import tables

PRINTED = """8 clips of 16 x 112 x 112, cpu

| way | clips a second |
| --- | ---: |
| plain, float32 | 9.4 |
| **bf16** | 17.4 |

ratio 1.85

| what | a \\| b |
| --- | --- |
| one, "two" |

| no table, for it has no rule |
| 1 |
"""


@pytest.fixture
def words(monkeypatch):
    def say(*values):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, values)])
    return say


def test_markdown_tables_are_read():
    first, second = tables.tables_in(PRINTED)
    assert first == ("8 clips of 16 x 112 x 112, cpu", [["way", "clips a second"], ["plain, float32", "9.4"],
                                                        ["bf16", "17.4"]])
    assert second == ("ratio 1.85", [["what", "a | b"], ['one, "two"']])


def test_tables_become_files_and_lines_of_the_index(tmp_path, words, capsys):
    for _ in range(2):
        words("--batch_size", 2, "--save", tmp_path / "new", "--no_cuda")
        with tables.saved_tables("inference"):
            assert sys.argv == ["x", "--batch_size", "2", "--no_cuda"]
            print(PRINTED)
    assert PRINTED in capsys.readouterr().out
    rows = tables.read_csv(tmp_path / "new" / "inference_2.csv")
    assert rows == [["what", "a | b"], ['one, "two"', ""]]
    index = (tmp_path / "new" / "README.md").read_text()
    lines = [line for line in index.splitlines() if line.startswith("| [")]
    assert [line.split("]")[0] for line in lines] == ["| [inference.csv", "| [inference_2.csv"]
    assert all("`python -m benchmarks.inference --batch_size 2 --no_cuda`" in line and "PyTorch" in line
               for line in lines)


def test_a_file_can_be_named(tmp_path, words):
    words(f"--save={tmp_path / 'actors_1_2.csv'}")
    with tables.saved_tables("weizmann"):
        print(PRINTED)
    assert {path.name for path in tmp_path.iterdir()} == {"actors_1_2.csv", "actors_1_2_2.csv", "README.md"}


def test_tables_have_names_of_their_own(tmp_path, words):
    words("--save", tmp_path)
    with tables.saved_tables("schedule", "schedule_passes", "schedule"):
        print(PRINTED, PRINTED, sep="\n")
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        "schedule_passes.csv", "schedule.csv", "schedule_passes_3.csv", "schedule_passes_4.csv"}
    assert tables.read_csv(tmp_path / "schedule.csv")[0] == ["what", "a | b"]


def test_without_the_flag_nothing_is_written(tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words("--batch_size", 2)
    with tables.saved_tables("inference"):
        print(PRINTED)
    assert not list(tmp_path.iterdir())


def test_rows_may_be_added_to_those_that_are_there(tmp_path, words):
    """Rows of the same first cells are replaced; a table of other columns goes beside it; the index tells of all."""
    def measured(command: str, *rows: str) -> None:
        words(command, "--save", tmp_path)
        with tables.saved_tables("x", keys=2):
            print("title", "", *rows, "", sep="\n")

    head = "| a | b | c |\n| --- | --- | --- |"
    measured("--first", head, "| one | 1 | old |", "| two | 1 | old |")
    measured("--second", head, "| two | 1 | new |", "| one | 2 | new |")
    measured("--third", head.replace("c", "d"), "| one | 1 | other |")
    measured("--fourth", head.replace("c", "d"), "| three | 1 | other |")
    assert tables.read_csv(tmp_path / "x.csv") == [["a", "b", "c"], ["one", "1", "old"], ["one", "2", "new"],
                                                   ["two", "1", "new"]]
    assert tables.read_csv(tmp_path / "x_2.csv") == [["a", "b", "d"], ["one", "1", "other"], ["three", "1", "other"]]
    first, second = (line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| ["))
    assert "`python -m benchmarks.x --first`; `python -m benchmarks.x --second`" in first and "--third" not in first
    assert "--third" in second and "--fourth" in second and second.count("title") == 1
    words("--fifth", "--save", tmp_path)
    with tables.saved_tables("x"):
        print(head, "| one | 1 | alone |", sep="\n")
    assert tables.read_csv(tmp_path / "x.csv")[1:] == [["one", "1", "alone"]]
    assert "--first" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("given", [["--save"], ["--save", "--no_cuda"]])
def test_a_flag_without_a_place_is_refused(words, given):
    words(*given)
    with pytest.raises(ValueError, match="--save"), tables.saved_tables("inference"):
        pytest.fail("the benchmark ran")


def test_no_table_is_said(tmp_path, words):
    words("--save", tmp_path)
    with pytest.raises(ValueError, match="no table"), tables.saved_tables("inference"):
        print("nothing")
    assert not list(tmp_path.iterdir())


def test_a_failed_benchmark_leaves_the_tables_as_they_are(tmp_path, words):
    words("--save", tmp_path)
    with pytest.raises(ValueError, match="too large"), tables.saved_tables("inference"):
        print(PRINTED)
        raise ValueError("too large")
    assert not list(tmp_path.iterdir()) and sys.argv == ["x", "--save", str(tmp_path)]
