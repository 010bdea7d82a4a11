"""One thread for all tests: their tensors are small, and the same bits are asked for in this process and in others."""

import importlib.util
import os

os.environ["OMP_NUM_THREADS"] = "1"

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.fuzz.forked import forks_have_own_bars

forks_have_own_bars()  # tests kill forks


def pytest_collection_modifyitems(items):
    """Skip tests of trunks whose library is not here."""
    if importlib.util.find_spec("transformers") is not None:
        return
    from models import TRUNKS

    skip = pytest.mark.skip(reason="needs requirements-transformers.txt")
    for item in items:
        named = getattr(getattr(item, "callspec", None), "params", {}).values()
        if any(value in TRUNKS and TRUNKS[value].on_hub for value in named if isinstance(value, str)):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    from program import write_data  # with all scripts, which tests of a part need not wait for

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own_data(data, tmp_path) -> Path:
    """A copy to spoil."""
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory) -> Path:
    """The results of an uninterrupted run."""
    from program import train

    return train(data, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def embedded(data, tmp_path_factory) -> Path:
    """The same with a score in embedding space."""
    from program import train

    return train(data, tmp_path_factory.mktemp("embedded"), "--score hyperbolic")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser."""
    import browser

    if browser.find() is None:
        assert os.environ.get("CI") != "true", "no Chromium; apt-get install chromium"
        pytest.skip("no Chromium on this machine (apt-get install chromium), so pages are not looked at")
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
