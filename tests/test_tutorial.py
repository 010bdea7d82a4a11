"""docs/tutorial.ipynb: its cells parse, what they name exists, its outputs are small; slow: they run."""

import ast
import copy
import json
from pathlib import Path

import pytest

from hierarchy.texts import read_json
from run import Explanation, HeatMap, HipeModel, Level, Prototype, WhatIf, load
from util_scripts import run_notebook
from util_scripts.run_notebook import code_of, read_notebook, run_cell

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
WORK = 'ROOT / "results" / "tutorial"'  # where its cells write
# By what a variable of the notebook is called, the class of what it holds.
HELD = {"model": HipeModel, "explanation": Explanation, "level": Level, "one": Prototype, "first": Prototype,
        "without": WhatIf, "heat": HeatMap}


@pytest.fixture(scope="module")
def notebook() -> dict:
    return read_notebook(NOTEBOOK)


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_cells_parse_and_name_what_exists(notebook):
    assert 10 <= len(code_cells(notebook)) <= 15
    asked = []
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(code_of(cell))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in HELD:
                asked.append((HELD[node.value.id], node.attr))
    for kind, name in asked:
        assert hasattr(kind, name) or name in getattr(kind, "__annotations__", {}) or f" {name}" in kind.__doc__ or (
            f"{name}:" in kind.__doc__), f"{kind.__name__}.{name}"
    assert {HipeModel, Explanation, HeatMap, WhatIf} <= {kind for kind, _ in asked}


def test_commands_of_cells_parse(notebook):
    from options.flags import parse_main

    flags = next(cell for cell in map(code_of, code_cells(notebook)) if "flags = " in cell)
    words = ast.literal_eval(next(node.value for node in ast.walk(ast.parse(flags)) if isinstance(node, ast.Assign)
                                  and node.targets[0].id == "flags"))
    _, given = parse_main(words.split())
    assert {"trunk_epochs", "file_type", "n_epochs"} <= given
    for module in ("make_demo_dataset", "ucf101_json"):
        assert (ROOT / "util_scripts" / f"{module}.py").is_file()
        assert any(f'"util_scripts.{module}"' in code_of(cell) for cell in code_cells(notebook))


def test_outputs_are_kept_and_small(notebook):
    assert NOTEBOOK.stat().st_size < 1_000_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not [name for name in ("home", "work", "root", "tmp") if f"/{name}/" in text] and "Traceback" not in text
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert set(kinds) == {"stream", "execute_result"}
    html = ["".join(output["data"]["text/html"]) for cell in cells for output in cell["outputs"]
            if "text/html" in output.get("data", {})]
    assert sum("data:image/jpeg" in one for one in html) == 2 and sum("<table" in one for one in html) >= 3


def test_the_runner_keeps_what_cells_print_and_show(tmp_path, capsys):
    class Shown:
        def _repr_html_(self):
            return "<b>1</b>\n2"

    names: dict = {"Shown": Shown}
    assert run_cell("x = 3\nprint(x)", "<cell>", names) == ("3\n", None) and names["x"] == 3
    assert run_cell("def f():\n    return x\nf() + 1", "<cell>", names) == ("", 4)
    shown = run_notebook.shown(run_cell("Shown()", "<cell>", names)[1])
    assert shown["text/html"] == ["<b>1</b>\n", "2"] and "Shown" in shown["text/plain"][0]
    cells = [{"cell_type": "markdown", "source": "# words"}, {"cell_type": "code", "source": ["a = 1\n", "a"]},
             {"cell_type": "code", "source": "import os\nprint(os.getcwd())\na + 1"}]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "cells": cells}))
    run_notebook.main([str(path)])
    first, second = read_json(path)["cells"][1:]
    assert first["outputs"][0]["data"]["text/plain"] == ["1"] and first["execution_count"] == 1
    assert [output["output_type"] for output in second["outputs"]] == ["stream", "execute_result"]
    assert second["outputs"][0]["text"] == [f"{tmp_path}\n"]
    path.write_text(json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": "1 / 0"}]}))
    with pytest.raises(ZeroDivisionError) as error:
        run_notebook.main([str(path)])
    assert "in code cell 1" in error.value.__notes__[0] and Path.cwd() != tmp_path
    capsys.readouterr()
    for content in ("[]", "no JSON"):
        path.write_text(content)
        with pytest.raises(SystemExit) as stop, run_notebook.user_errors():
            run_notebook.main([str(path)])
        assert stop.value.code == 2 and "n.ipynb" in capsys.readouterr().err


@pytest.mark.slow
def test_all_cells_run(notebook, tmp_path):
    """With a shorter training, which is all that a machine that does much else has time for."""
    content = copy.deepcopy(notebook)
    for cell in code_cells(content):
        code = code_of(cell).replace(WORK, f"Path({str(tmp_path)!r})").replace("page.relative_to(ROOT)", "page.name")
        for flag, n in (("--trunk_epochs 24", "--trunk_epochs 2"), ("--warm_epochs 8", "--warm_epochs 1"),
                        ("--n_epochs 8", "--n_epochs 1"), ('"--n_train_groups", 8', '"--n_train_groups", 3'),
                        ("_g09_c01", "_g04_c01")):  # the first of the test videos
            code = code.replace(flag, n)
        cell["source"] = code
    names = run_notebook.run_notebook(content, NOTEBOOK.parent)
    assert names["page"].is_file() and names["model"].path.parent == tmp_path / "model" and names["load"] is load
    for before, after in zip(code_cells(notebook), code_cells(content), strict=True):
        kinds = [[output["output_type"] for output in cell["outputs"]] for cell in (before, after)]
        assert kinds[0] == kinds[1], code_of(before)
