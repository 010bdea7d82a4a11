"""Tables of means and deviations as CSV, Markdown and LaTeX, with marks where heat does not depend on the model."""

import csv
import io
import statistics

import pytest

from benchmarks.formats import DASH, Table, of_seeds
from evaluation.summary import MARK

FIGURES = {"softmax head": [{"accuracy, class": 0.5, "insertion ↑: grad, class": 0.25,
                             "randomised ↓: grad, class": 0.9, "randomised ↓: grad_cam x, class": 0.1,
                             "insertion ↑: grad_cam x, class": 0.5}],
           "ours": [{"accuracy, class": 0.9, "sharing ↑, over prototypes: prototypes, parent": 0.7},
                    {"accuracy, class": 0.7, "sharing ↑, over prototypes: prototypes, parent": None}]}


@pytest.fixture
def table():
    return of_seeds("Ours & theirs, 100 %", FIGURES)


def test_cells_are_means_and_deviations_over_seeds(table):
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    of = {(row["row"], row["column"]): row for row in rows}
    one = of["accuracy, class", "ours"]
    assert float(one["mean"]) == pytest.approx(0.8) and int(one["n"]) == 2
    assert float(one["deviation"]) == pytest.approx(statistics.stdev((0.9, 0.7)), rel=1e-5)
    assert of["accuracy, class", "softmax head"]["deviation"] == "0"
    assert int(of["sharing ↑, over prototypes: prototypes, parent", "ours"]["n"]) == 1
    text = table.markdown()
    assert "| accuracy, class | 0.500 | 0.800 ± 0.141 |" in text
    assert f"| insertion ↑: grad_cam x, class | 0.500 | {DASH} |" in text


def test_what_does_not_depend_on_the_model_is_marked_in_every_row_and_format(table):
    assert table.marked == {"insertion ↑: grad, class", "randomised ↓: grad, class"}
    text = table.markdown()
    assert f"| insertion ↑: grad, class {MARK} |" in text and "shuffled weights" in text
    assert r"insertion $\uparrow$: grad, class $^\dagger$" in table.latex()
    assert {row["row"] for row in csv.DictReader(io.StringIO(table.csv())) if row["marked"] == "1"} == table.marked
    free = of_seeds("", {"ours": FIGURES["ours"]})
    assert MARK not in free.markdown() and not free.marked


def test_latex_escapes_what_it_would_read(table):
    text = table.latex()
    assert r"Ours \& theirs, 100 \%" in text and r"grad\_cam x" in text and r"\toprule" in text
    assert all(line.count("&") - line.count(r"\&") == 2 for line in text.splitlines() if line.endswith(r"\\"))


def test_three_files_are_written(table, tmp_path):
    table.write(tmp_path / "new", "results", command="python -m benchmarks.x")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"README.md", "results.csv", "results.md",
                                                                   "results.tex"}
    assert "| `python -m benchmarks.x` |" in (tmp_path / "new" / "README.md").read_text()
    assert (tmp_path / "new" / "results.csv").read_text() == table.csv()


def test_a_table_of_nothing_has_its_title():
    assert Table("Nothing", {}).markdown().startswith("### Nothing")
