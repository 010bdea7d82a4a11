"""Every script's word on a flag that is wrong."""

import runpy
import sys

import pytest

from tests.test_architecture import MODULES

SCRIPTS = sorted(name for name, path in MODULES.items() if "__main__" in path.read_text())


def said(script: str, argv: list[str], capsys, monkeypatch) -> str:
    """What a script prints on stderr before it exits with code 2, started as a program."""
    monkeypatch.setattr(sys, "argv", [str(MODULES[script]), *argv])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(MODULES[script]), run_name="__main__")
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_flag_is_one_sentence_that_names_it(script, capsys, monkeypatch):
    needed = {"util_scripts.prune": ["--resume_path", "save_1.pth"]}.get(script, [])
    text = said(script, [*needed, "--no_such_flag"], capsys, monkeypatch)
    assert text.startswith("error: ") and text.count("\n") == 1 and len(text) < 200


def test_what_a_script_needs_is_asked_for(capsys, monkeypatch):
    text = said("util_scripts.eval_accuracy", [], capsys, monkeypatch)
    assert text == "error: the following arguments are required: annotation, result; see eval_accuracy.py --help\n"


def test_a_number_that_is_none_is_named(capsys, monkeypatch):
    text = said("util_scripts.eval_accuracy", ["a.json", "val.json", "-k", "two"], capsys, monkeypatch)
    assert text == "error: -k: invalid int value: 'two'; see eval_accuracy.py --help\n"
