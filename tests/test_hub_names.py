"""Names of the hub: what is fetched, what a stopped fetch left, and what is said where something is missing."""

import fnmatch
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from models import TRUNKS
from models.hub_files import FAMILIES, folder_of, is_hub_name, lacking, read_folder

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs requirements-transformers.txt")
NAME = "someone/network"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class Hub:
    """Stands in for the hub and its cache, each a folder; `asked` are the patterns of every fetch."""

    def __init__(self, root: Path) -> None:
        self.there, self.cache = root / "there", root / "cache"
        self.there.mkdir()
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.returns_parts = False  # as the library does where it cannot reach the hub

    def fill(self, folder: Path, *names: str) -> None:
        """Files of a repository; every one of weights holds a tensor of its name."""
        folder.mkdir(exist_ok=True)
        for name in names:
            if name in INDICES:
                stem, _, ending = name.removesuffix(".index.json").rpartition(".")
                parts = {f"{part}": f"{stem}-{part}.{ending}" for part in (1, 2)}
                (folder / name).write_text(json.dumps({"weight_map": parts}))
            elif name.endswith(".json"):
                (folder / name).write_text("{}")
            else:
                torch.save({name: torch.zeros(1)}, folder / name)

    def snapshot_download(self, name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert name == NAME
        if local_files_only:
            if not self.cache.is_dir():
                raise OSError("not in the cache")
            return str(self.cache)
        self.asked.append(allow_patterns)
        if self.error is not None and not self.returns_parts:
            raise self.error
        if self.error is None:
            self.cache.mkdir(exist_ok=True)
            for path in self.there.iterdir():
                if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                    shutil.copy(path, self.cache)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_names_and_paths():
    assert is_hub_name("MCG-NJU/videomae-base") and not is_hub_name("a/b/c") and not is_hub_name("w.pth")
    assert [name for name, trunk in TRUNKS.items() if trunk.on_hub] == list(FAMILIES)


SAFE, BIN = ["model.safetensors"], ["pytorch_model.bin"]
SAFE_PARTS = [INDICES[0], "model-1.safetensors", "model-2.safetensors"]
BIN_PARTS = [INDICES[1], "pytorch_model-1.bin", "pytorch_model-2.bin"]


@pytest.mark.parametrize(("files", "fetched"), [
    (SAFE, SAFE), (SAFE_PARTS, SAFE_PARTS), (BIN, BIN), (BIN_PARTS, BIN_PARTS), (SAFE + BIN, SAFE),
    (SAFE + BIN_PARTS, [*SAFE, INDICES[1]]), (SAFE_PARTS + BIN, SAFE_PARTS)])
def test_a_name_brings_what_is_needed_and_no_more(hub, files, fetched):
    """Of two kinds of weights safetensors; then the cache is asked alone."""
    hub.fill(hub.there, CONFIG, PROCESSOR, "README.md", "tf_model.h5", *files)
    lines = []
    folder = folder_of(NAME, lines.append)
    assert names_in(folder) == {CONFIG, PROCESSOR, *fetched} and len(lines) == 1 and "fetching" in lines[0]
    assert set(read_folder(folder)) == {name for name in fetched if not name.endswith(".json")}
    asked = len(hub.asked)
    assert folder_of(NAME, lines.append) == folder and len(hub.asked) == asked and len(lines) == 1


@pytest.mark.parametrize(("cached", "files", "missing"), [
    ([CONFIG], SAFE, SAFE[0]), ([CONFIG, PROCESSOR], BIN, SAFE[0]), (SAFE, SAFE, CONFIG), ([], SAFE, CONFIG),
    ([CONFIG, *SAFE_PARTS[:1]], SAFE_PARTS, SAFE_PARTS[1]), ([CONFIG, *SAFE_PARTS[:2]], SAFE_PARTS, SAFE_PARTS[2]),
    ([CONFIG, *BIN_PARTS[:2]], BIN_PARTS, BIN_PARTS[2])])
def test_what_a_stopped_fetch_left_is_completed(hub, cached, files, missing):
    hub.fill(hub.there, CONFIG, *files)
    hub.fill(hub.cache, *cached)
    assert lacking(hub.cache) == missing
    assert names_in(folder_of(NAME)) == {CONFIG, *cached, *files} and lacking(hub.cache) is None


@pytest.mark.parametrize("returns_parts", [False, True])
def test_a_half_filled_cache_without_a_network_is_one_sentence(hub, returns_parts):
    hub.fill(hub.cache, CONFIG, *SAFE_PARTS[:2])
    hub.error, hub.returns_parts = OSError("no route\nto host"), returns_parts
    with pytest.raises(ValueError, match="--pretrain_path someone/network: .*fetched") as caught:
        folder_of(NAME)
    assert ("model-2.safetensors is neither" in str(caught.value)) == returns_parts
    assert ("check the name" in str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("files", "missing"), [([CONFIG, "tf_model.h5"], "model.safetensors"), (SAFE, "config.json"),
                                                ([CONFIG, *SAFE_PARTS[:2]], "model-2.safetensors")])
def test_a_repository_that_lacks_something(hub, files, missing):
    hub.fill(hub.there, *files)
    with pytest.raises(ValueError, match=f"--pretrain_path someone/network: {missing} is neither"):
        folder_of(NAME)


def test_a_damaged_list_of_parts_is_named(hub):
    hub.fill(hub.cache, CONFIG)
    (hub.cache / INDICES[0]).write_text("<html>")
    hub.error, hub.returns_parts = OSError("offline"), True
    with pytest.raises(ValueError, match=r"index.json: cannot be read as JSON"):
        folder_of(NAME)


def test_the_hubs_words_come_last_and_end_at_a_word(hub):
    hub.error, lines = OSError("404 Client Error.\n" + "repository " * 40), []
    with pytest.raises(ValueError, match=r"check the name.*OSError: 404 Client Error\. .*repository \.\.\.\)$") as said:
        folder_of(NAME, lines.append)
    assert len(str(said.value)) < 450 and "fetching" in lines[0]


def test_without_the_library_it_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"requirements-transformers.txt"):
        folder_of(NAME)
