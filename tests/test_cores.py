"""Cores that are ours, threads that sleep while they wait, and how many loader processes there is memory for."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from media import shades, write_video
from program import ROOT

from machine import cores, openmp, shared_memory

OWN = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")


@needs_affinity
def test_the_cores_of_this_process():
    allowed = os.sched_getaffinity(0)
    assert 1 <= cores.cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("membership", "files", "expected"), [
    ("0::/", {"cpu.max": "max 100000"}, math.inf),
    ("0::/", {"cpu.max": "150000 100000"}, 1.5),
    ("0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "50000 100000"}, 0.5),
    ("0::/job/step", {"job/step/cpu.max": "100000 100000", "job/cpu.max": "400000 100000"}, 1.0),
    ("4:memory:/m\n3:cpu,cpuacct:/docker/x", {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000",
                                             "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"}, 2.5),
    ("3:cpu,cpuacct:/docker/x", {"cpu,cpuacct/cpu.cfs_quota_us": "200000",  # seen from within the container
                                 "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2.0),
    ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ("0::/", {"cpu.max": "nonsense"}, math.inf), ("5:memory:/m", {}, math.inf)])
def test_a_quota_of_time(tmp_path, monkeypatch, membership, files, expected):
    (tmp_path / "own").write_text(membership + "\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "own")
    assert cores.quota() == expected
    assert cores.cores() == max(1, math.ceil(min(OWN, expected)))


def test_without_cgroups_there_is_no_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "nowhere")
    assert cores.quota() == math.inf


def test_no_source_counts_the_cores_of_the_machine():
    """But the one function that counts ours."""
    for path in ROOT.rglob("*.py"):
        if not {".venv", "tests"} & set(path.relative_to(ROOT).parts) and path.name != "cores.py":
            assert "cpu_count" not in path.read_text(encoding="utf-8"), path


COUNTED = """
import sys
from util_scripts import generate_video_jpgs
pool = generate_video_jpgs.process_pool
def counted(n):
    print("processes:", n)
    return pool(n)
generate_video_jpgs.process_pool = counted
generate_video_jpgs.main(sys.argv[1:])
"""


@needs_affinity
def test_a_script_starts_as_many_processes_as_cores_are_ours(tmp_path):
    for i in range(3):
        write_video(tmp_path / "avi" / f"{i}.avi", shades(4))
    own = min(os.sched_getaffinity(0))
    ran = subprocess.run([sys.executable, "-c", COUNTED, str(tmp_path / "avi"), str(tmp_path / "jpg"), "kinetics"],
                         cwd=ROOT, capture_output=True, text=True, check=False,
                         preexec_fn=lambda: os.sched_setaffinity(0, {own}))
    assert ran.returncode == 0 and "processes: 1\n" in ran.stdout and "3 videos converted" in ran.stdout, ran


# --- threads that wait


def environment(**more: str) -> dict[str, str]:
    """This process's, without what it says of threads."""
    return {name: value for name, value in os.environ.items()
            if name not in (*openmp.CHOSEN, "OMP_NUM_THREADS")} | more


def spins(code: str, **more: str) -> subprocess.CompletedProcess:
    """What a Python of its own says of OpenMP's settings, by OpenMP's own words, too."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
                          env=environment(**more))


SAID = "\nimport os; print(*(os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_WAIT_POLICY')))"


@pytest.mark.parametrize("script", sorted(path.stem for path in ROOT.glob("*.py")))
def test_every_root_script_sets_it_before_torch_is_imported(script):
    ran = spins(f"import {script}, sys; assert 'torch' not in sys.modules" + SAID)
    assert ran.stdout.split() == ["1000", "1", "None"] and not ran.stderr, ran


@pytest.mark.parametrize("package", ["util_scripts", "benchmarks", "options"])
def test_other_scripts_set_it_with_their_package(package):
    ran = spins(f"import {package}" + SAID)
    assert ran.stdout.split() == ["1000", "1", "None"], ran


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7"),
                                             ("KMP_BLOCKTIME", "0")])
def test_what_the_user_has_set_stays(name, value):
    ran = spins("import options" + SAID, **{name: value})
    expected = {"GOMP_SPINCOUNT": "None", "KMP_BLOCKTIME": "None", "OMP_WAIT_POLICY": "None"} | {name: value}
    assert ran.stdout.split() == list(expected.values()) and not ran.stderr


def test_as_many_threads_as_a_quota_pays_for(monkeypatch):
    monkeypatch.setattr(openmp, "cores", lambda: 3)
    monkeypatch.setattr(openmp, "visible", lambda: 64)
    monkeypatch.setattr(openmp.os, "environ", {"OMP_WAIT_POLICY": "PASSIVE"})
    openmp.prepare_threads()
    assert openmp.os.environ == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "3"}
    openmp.os.environ["OMP_NUM_THREADS"] = "8"
    openmp.prepare_threads()
    assert openmp.os.environ["OMP_NUM_THREADS"] == "8"


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
def test_openmp_reads_it():
    """GNU's OpenMP prints what it goes by when it is loaded; it is the one that PyTorch ships."""
    ran = spins("import main, torch", OMP_DISPLAY_ENV="verbose")
    if "GOMP_SPINCOUNT" not in ran.stderr:
        pytest.skip("this PyTorch has another OpenMP")
    assert "GOMP_SPINCOUNT = '1000'" in ran.stderr, ran.stderr


@pytest.mark.slow
def test_where_torch_came_first_a_line_says_what_to_set():
    ran = spins("import torch, options" + SAID)
    assert ran.stdout.split()[0] == "1000"  # of the processes that are started
    lines = ran.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: ") and "GOMP_SPINCOUNT=1000" in lines[0]
    for more in ({"OMP_NUM_THREADS": "1"}, {"GOMP_SPINCOUNT": "1000"}):
        assert not spins("import torch, options", **more).stderr


# --- shared memory


@pytest.mark.parametrize(("free", "n", "batch", "expected"), [
    (1 << 40, 4, 77 << 20, (4, 4)), (64 << 20, 4, 77 << 20, (0, 0)), (64 << 20, 4, 10 << 20, (2, 1)),
    (64 << 20, 2, 4 << 20, (2, 3)), (64 << 20, 0, 1, (0, 0)), (0, 4, 0, (4, 4)), (0, 4, 1, (0, 0))])
def test_loader_processes_fit_into_shared_memory(monkeypatch, capsys, free, n, batch, expected):
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    monkeypatch.setattr(shared_memory, "_said", set())
    monkeypatch.setattr(shared_memory, "free_files", lambda: math.inf)
    found = shared_memory.fitting(n, batch)
    assert found == expected and found[0] * found[1] * batch <= free / 2
    shared_memory.fitting(n, batch)  # is told of once
    assert capsys.readouterr().err.count("/dev/shm") == (found[0] < n)


@pytest.mark.parametrize(("limit", "expected"), [(math.inf, (8, 4)), (1024, (8, 4)), (128, (5, 1)), (60, (2, 1)),
                                                 (30, (0, 0)), (5, (0, 0))])
def test_loader_processes_fit_into_the_limit_of_open_files(monkeypatch, capsys, limit, expected):
    monkeypatch.setattr(shared_memory, "free_files", lambda: limit)
    monkeypatch.setattr(shared_memory, "_said", set())
    assert shared_memory.fitting(8, 0) == expected
    assert ("ulimit" in capsys.readouterr().err) == (expected[0] < 8)


def test_without_shared_memory_to_look_at(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "FOLDER", str(Path(tmp_path, "nowhere")))
    assert shared_memory.fitting(3, 1 << 40) == (3, 4)
