"""--version of every root script: one line, from pyproject.toml, without importing PyTorch."""

import re
import subprocess
import sys
import tomllib

import pytest
import torch
from program import ROOT

from options import version

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def test_the_version_is_the_projects():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version.program_version() == stated
    assert version.versions().startswith(f"hipe {stated}, PyTorch {torch.__version__.partition('+')[0]}")
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == stated, "CITATION.cff states another version"
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading[1] == stated, "CHANGELOG.md has no section of this version at its top"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_root_script_prints_it(script):
    code = ("import runpy, sys\nsys.argv = sys.argv[1:]\ntry:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "finally:\n    assert 'torch' not in sys.modules, 'imports PyTorch'")
    ran = subprocess.run([sys.executable, "-c", code, str(ROOT / script), "--version"], capture_output=True, text=True,
                         check=False, cwd=ROOT)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{version.versions()}\n", "")


@pytest.mark.parametrize("content", [None, "", "[project]\nname = 'hipe'\n", "[project\n"])
def test_a_project_that_states_none_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(version, "PROJECT", tmp_path / "pyproject.toml")
    if content is not None:
        version.PROJECT.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match="pyproject.toml"):
        version.program_version()
