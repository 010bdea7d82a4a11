"""A slice of the campaign that tries to break the program, and that it would notice what it looks for."""

import argparse
import json
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fuzz import disks, inputs, kills, pairs
from benchmarks.fuzz.campaign import campaign, main, parse
from benchmarks.fuzz.forked import import_all, run, start
from benchmarks.fuzz.lab import Fault, Found, Lab, stamps
from benchmarks.fuzz.ledger import Ledger
from benchmarks.fuzz.lines import LINES
from benchmarks.fuzz.runs import SCENARIOS, half_written, same
from benchmarks.fuzz.spoiling import FILES, mutated, spoil_file, spoil_folder, spoilt_bytes

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    import_all()
    made = Lab(tmp_path_factory.mktemp("fuzz") / "lab")
    yield made
    made.close()


def assert_sound(case, lab: Lab, seeds) -> list[Found]:
    found = [case(lab, seed) for seed in seeds]
    faults = [(seed, fault) for seed, one in zip(seeds, found, strict=True) for fault in one.faults]
    assert not faults, "\n".join(f"seed {seed}: {fault.what}: {fault.where}\n{fault.text}" for seed, fault in faults)
    return found


@pytest.mark.parametrize(("case", "n"), [(inputs.case, 10), (kills.case, 1), (disks.case, 1)])
def test_a_slice_of_the_campaign(lab, case, n):
    assert sum(one.n for one in assert_sound(case, lab, range(n))) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("case", "n"), [(inputs.case, 150), (kills.case, 12), (disks.case, 12), (pairs.case, 5)])
def test_a_larger_slice_of_the_campaign(lab, case, n):
    assert_sound(case, lab, range(1000, 1000 + n))


@pytest.mark.slow
def test_sound_inputs_are_taken(lab):
    """Else a script would be refused for something that nobody spoilt."""
    for line in LINES:
        ended = run(line.script, line.words, folder=lab.fresh(), log=lab.log)
        assert ended.code == 0 and not ended.fault, f"{line}: {ended.text[-1000:]}"


# --- what the campaign looks for is noticed


def script(monkeypatch, function) -> str:
    """A module with this function as its main."""
    module = types.ModuleType("a_script")
    module.main = function
    monkeypatch.setitem(sys.modules, "a_script", module)
    return "a_script"


def refuses() -> None:
    raise ValueError("x.json: not JSON; write it again")


def breaks() -> None:
    raise KeyError("x")


def hangs() -> None:
    time.sleep(600)


def crashes() -> None:
    os.abort()


def says_two_things() -> None:
    print("error: this", file=sys.stderr)
    raise ValueError("that")


def leaves() -> None:
    sys.exit(3)


def eats() -> None:  # which is one sentence
    bytearray(1 << 33)


@pytest.mark.parametrize(("function", "code", "fault"), [
    (lambda: print("done"), 0, ""), (refuses, 2, ""), (breaks, 1, "traceback: KeyError: 'x'"), (hangs, -9, "hangs"),
    (crashes, -6, "crashes: SIGABRT"), (says_two_things, 2, "without one line"), (leaves, 3, "exit code 3"),
    (eats, 2, "")])
def test_ends_that_no_script_may_have(monkeypatch, tmp_path, function, code, fault):
    ended = run(script(monkeypatch, function), [], folder=tmp_path, log=tmp_path / "log.txt",
                seconds=1.0 if function is hangs else 60.0)
    assert ended.code == code and (fault in ended.fault if fault else ended.fault == "")


def test_a_killed_script_takes_what_it_started_with_it(monkeypatch, tmp_path):
    def forks() -> None:
        if not os.fork():
            time.sleep(2)
            Path("late").touch()
        time.sleep(5)

    fork = start(script(monkeypatch, forks), [], folder=tmp_path, log=tmp_path / "log.txt")
    time.sleep(0.3)
    fork.kill()
    assert fork.end().code == -9
    time.sleep(2.2)
    assert not (tmp_path / "late").exists()


def test_changed_inputs_are_noticed(lab, monkeypatch):
    def writes() -> None:
        path = sorted(path for path in Path().rglob("*.json") if path.is_file())[-1]
        path.write_text("changed by the script")

    line, = [line for line in LINES if line.script.endswith("something_json")]
    monkeypatch.setattr(sys.modules[line.script], "main", writes)
    monkeypatch.setattr(inputs, "LINES", (line,))
    monkeypatch.setattr(inputs, "spoil", lambda *_: [])
    fault, = inputs.case(lab, 0).faults
    assert "changes its input: something/" in fault.what


def test_files_that_are_not_whole_are_noticed(lab, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for path in lab.files:
        if path.parent.name == "results" or path.name in ("image_00001.jpg", "index.npy") or path.suffix == ".hdf5":
            (out / path.name).write_bytes(path.read_bytes())
    assert half_written(out) == []
    for name in ("save_1.pth", "trunk.pth", "val.json", "report.html", "image_00001.jpg", "index.npy"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:len(whole) // 2])
        assert any(name in one for one in half_written(out)), name
        (out / f"{name}.part").write_bytes(whole[:9])
        (out / name).write_bytes(whole)
    assert half_written(out) == []


def test_other_bits_are_noticed():
    content = {"a": [torch.zeros(3), {"b": float("nan")}], "c": "x"}
    assert same(content, {"a": [torch.zeros(3), {"b": float("nan")}], "c": "x"}) == ""
    for other in ({"a": [torch.zeros(3), {"b": 1.0}], "c": "x"}, {"a": [torch.zeros(3).half(), {"b": float("nan")}],
                  "c": "x"}, {"a": [torch.tensor([0, 0, 1e-30]), {"b": float("nan")}], "c": "x"}, {"a": [], "c": "x"}):
        assert same(content, other)


def test_a_run_that_is_not_resumed_to_the_same_bits_is_noticed(lab, monkeypatch):
    from benchmarks.fuzz import runs
    expected, seconds, size = runs.reference(lab, "annotation")
    for name in SCENARIOS:
        monkeypatch.setitem(lab.references, name, ({**expected, "more": b""}, seconds, size))
    monkeypatch.setattr(kills, "NAMES", ("annotation",))
    assert "other bits" in kills.case(lab, 0).faults[-1].what


# --- how inputs are spoilt


def test_every_way_to_spoil_a_file_or_a_folder_changes_it(lab):
    hows = set()
    for seed in range(400):
        how, spoilt = spoilt_bytes(bytes(range(256)) * 4, np.random.default_rng(seed))
        hows.add(how.partition(" as ")[0])
        assert isinstance(spoilt, bytes) and len(spoilt) < 1 << 20
    assert len(hows) == 11
    for way in dict.fromkeys(FILES):
        folder = lab.fresh({"tree.csv"})
        before = stamps(folder)
        way(folder / "tree.csv", np.random.default_rng(3), lab.files)
        assert stamps(folder) != before, way
    for seed in range(12):
        folder = lab.fresh({"ucf"})
        before = {*folder.rglob("*")}
        spoil_folder(folder / "ucf", np.random.default_rng(seed), lab.files)
        assert {*folder.rglob("*")} != before


def test_cases_are_seeded(lab):
    spoilt = []
    for _ in range(2):
        path = lab.fresh({"ucf101_01.json"}) / "ucf101_01.json"
        told = spoil_file(path, np.random.default_rng(1), lab.files)
        spoilt.append((told, path.read_bytes() if path.is_file() else b""))
    assert spoilt[0] == spoilt[1]
    content = {"a": [1, {"b": torch.zeros(3)}]}
    assert mutated(content, np.random.default_rng(0)) is not content and content["a"][0] == 1


# --- counts


def test_counts_add_up_and_go_into_a_page(tmp_path):
    for seed in range(2):
        ledger = Ledger(tmp_path / "counts")
        assert ledger.next_seed("kills") == seed
        ledger.add("kills", seed, Found(3, ["killed"], [Fault("where", "what")] * seed), seconds=1.5, repeat="again")
    row, = [line for line in Ledger(tmp_path / "counts").table().splitlines() if line.startswith("| kills")]
    assert row == "| kills | 2 | 6 kills | killed: 2 | 1 | 0.1 |"
    fault, = map(json.loads, (tmp_path / "counts" / "faults.jsonl").read_text().splitlines())
    assert (fault["seed"], fault["what"], fault["repeat"]) == (1, "what", "again")
    page = tmp_path / "page.md"
    page.write_text("# A\n\n## Counts\n\nold\n\n## B\n\nmore\n")
    ledger.write_into(page)
    ledger.write_into(page)
    assert page.read_text() == f"# A\n\n## Counts\n\n{ledger.table()}\n\n## B\n\nmore\n"
    (tmp_path / "counts" / "counts.json").write_text("{")
    with pytest.raises(ValueError, match=r"counts\.json"):
        Ledger(tmp_path / "counts")


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inputs, "case", lambda lab, seed: Found(1, ["exit code 0"], [Fault("a", "b")] * (seed == 5)))
    monkeypatch.setattr("benchmarks.fuzz.lab.Lab", lambda folder: None)
    out = ["--out", str(tmp_path / "counts")]
    ledger = campaign(parse(["--kinds", "inputs", "--cases", "3", *out]))
    assert ledger.counts["inputs"]["cases"] == 3 and ledger.n_faults_now == 0
    with pytest.raises(SystemExit) as ended:
        main(["--kinds", "inputs", "--cases", "3", *out])
    assert ended.value.code == 1 and "--kinds inputs --seed 5 --cases 1" in capsys.readouterr().out
    main(["--only_counts", *out])
    assert "| inputs | 6 | 6 spoilt inputs | exit code 0: 6 | 1 |" in capsys.readouterr().out
    assert isinstance(parse([]), argparse.Namespace)
