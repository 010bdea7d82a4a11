"""Every entry of MEASURES is complete, docs/MEASURES.md lists it, and a measure that changes is noticed."""

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from evaluation import decisions, faithfulness
from evaluation.measures import MEASURES, NEEDS, Measure, editions, listing
from evaluation.subjects import Decision, ExplainedClip, PrototypeSet
from judging.judge import offers
from judging.prototypes import _own_similarity, _peaks
from judging.randomised import randomise
from judging.scenes import DISTURBANCES, disturbed, moved_back

ROOT = Path(__file__).parents[1]
EDITIONS = Path(__file__).with_name("editions.json")  # by name: the edition and the fingerprint of its functions
PACKAGES = ("evaluation", "judging")  # whose functions belong to a measure that calls them
PREPARED = {  # functions that judging calls before some measures
    **{f"stable_{name}": (disturbed, moved_back, _peaks) for name in DISTURBANCES},
    "randomised": (randomise,), "max_sensitivity": (disturbed,), "lipschitz": (disturbed,),
    "consistency": (_peaks,), "consistent": (_peaks,), "self_similarity": (_own_similarity,)}


def parts(function: Callable, seen: set[str]) -> Iterator[str]:
    """What a function computes: its normalised source, that of all it calls in PACKAGES, and their constants."""
    if isinstance(function, functools.partial):
        yield repr((function.args, function.keywords))
    function = inspect.unwrap(getattr(function, "func", function))
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    seen.add(name)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except SyntaxError:  # a lambda in the middle of something
        yield function.__code__.co_code.hex() + repr(function.__code__.co_consts)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.annotation = None
    yield f"{name}: {ast.unparse(tree)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            values = [function.__globals__.get(node.id)]
        elif isinstance(node, ast.Attribute):
            base = function.__globals__.get(node.value.id) if isinstance(node.value, ast.Name) else None
            values = ([getattr(base, node.attr)] if isinstance(base, ModuleType) else
                      [vars(of).get(node.attr) for of in (ExplainedClip, Decision, PrototypeSet)])
        else:
            continue
        for value in values:
            value = getattr(value, "fget", getattr(value, "func", value))  # of a property
            if isinstance(value, FunctionType) and inspect.unwrap(value).__module__.startswith(PACKAGES):
                yield from parts(value, seen)
            elif isinstance(node, ast.Name) and isinstance(value, int | float | str | tuple):
                yield f"{node.id} = {value!r}"


def fingerprint(name: str, measure: Measure) -> str:
    """Eight letters of everything that makes a measure's values."""
    seen: set[str] = set()
    functions = [*PREPARED.get(name, ()), *filter(None, (measure.of_clip, measure.of_prototypes))]
    sources = sorted({part for function in functions for part in parts(function, seen)})
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:8]


def table() -> str:
    """The content of editions.json as it is to be."""
    return "{\n" + ",\n".join(f'"{name}": [{measure.edition}, "{fingerprint(name, measure)}"]'
                              for name, measure in MEASURES.items()) + "\n}\n"


def complaints(stored: dict[str, list]) -> list[str]:
    """What is wrong with a stored table of editions, measure by measure, and what to do."""
    wrong = []
    for name, measure in MEASURES.items():
        entry = [measure.edition, fingerprint(name, measure)]
        if name not in stored:
            wrong.append(f"{name} is new: store {entry} in {EDITIONS.name}")
        elif stored[name][1] != entry[1] and stored[name][0] == entry[0]:
            wrong.append(f"{name} changed (its function, one that it calls, or a constant of these): raise its edition "
                         f"in evaluation/measures.py if its values can change, then store that and {entry[1]} in "
                         f"{EDITIONS.name}")
        elif stored[name] != entry:
            wrong.append(f"{name} has a new edition: store {entry} in {EDITIONS.name}")
    return wrong + [f"{name} is no measure any more: remove it from {EDITIONS.name}" for name in stored
                    if name not in MEASURES]


def test_a_changed_measure_has_a_new_edition():
    wrong = complaints(json.loads(EDITIONS.read_text()))
    assert not wrong, "\n".join([*wrong, "", f"Once the editions are right, PYTHONPATH=. python {__file__} writes "
                                  f"{EDITIONS.name}, and prints the list of docs/MEASURES.md."])


def test_a_change_is_noticed(monkeypatch):
    """In the function itself, in one that it calls, and in a constant of that; comments are no change."""
    stored = json.loads(EDITIONS.read_text())
    monkeypatch.setitem(MEASURES, "box_only", replace(MEASURES["box_only"], of_clip=MEASURES["box_hidden"].of_clip))
    assert [text.split()[0] for text in complaints(stored)] == ["box_only"] and "raise" in complaints(stored)[0]
    monkeypatch.undo()
    monkeypatch.setitem(MEASURES, "box_only", replace(MEASURES["box_only"], edition=5))
    assert [text.split()[0] for text in complaints(stored)] == ["box_only"] and "[5, " in complaints(stored)[0]
    monkeypatch.undo()
    monkeypatch.setattr(faithfulness, "BLUR", 1 / 5)
    changed = {text.split()[0] for text in complaints(stored)}
    assert changed == {"insertion", "box_only", "box_hidden", "activation_box_only", "activation_box_hidden"}
    monkeypatch.undo()
    monkeypatch.setattr(decisions, "TOP", 4)
    assert {"silenced_three", "flips_three"} <= {text.split()[0] for text in complaints(stored)}
    monkeypatch.undo()
    assert "is new" in complaints({name: value for name, value in stored.items() if name != "purity"})[0]
    assert "remove" in complaints(stored | {"beauty": [1, "0"]})[0]


@pytest.mark.parametrize("name", MEASURES)
def test_an_entry_is_complete(name):
    measure = MEASURES[name]
    assert measure.edition >= 1 and measure.direction in (-1, 0, 1) and len(measure.meaning) > 10
    assert measure.needs <= set(NEEDS)
    assert any(name in editions(table) for table in ("explanations", "prototypes"))
    if measure.of_clip is not None:  # some explanation has it
        explanations = ("prototypes", "top_prototype", "random", "grad")
        assert any(measure.needs <= offers(one, with_prototypes=True) for one in explanations)


def test_every_need_is_told_and_used():
    assert set().union(*(measure.needs for measure in MEASURES.values())) == set(NEEDS)
    of_prototypes = {"first prototype", "prototype order", "level of prototypes", "ways"}
    assert not offers("grad", with_prototypes=False) & of_prototypes
    assert offers("prototypes", with_prototypes=True) & of_prototypes == of_prototypes - {"first prototype"}
    assert offers("chance", with_prototypes=True) == {"truth"}
    assert "disturbed clips" not in offers("3d_ep", with_prototypes=True)


def test_the_documents_list_the_measures():
    page = (ROOT / "docs" / "MEASURES.md").read_text(encoding="utf-8")
    assert listing() in page, "print(evaluation.measures.listing()) is the list of docs/MEASURES.md: put it there"


if __name__ == "__main__":
    EDITIONS.write_text(table())
    print(listing())
