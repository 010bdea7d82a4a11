"""What is killed, and what disks fill under: scripts that write, and when their output is whole and the same."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.fuzz.forked import run
from benchmarks.fuzz.lab import Lab
from benchmarks.fuzz.material import CALL, DATA, MODEL, words
from datasets.reading.packed import PackedFrames, packed_places
from training.checkpoint import load_checkpoint, newest_whole

SCHEDULE = words("--trunk_epochs 2 --warm_epochs 1 --n_epochs 3 --push_start 2 --push_every 1 --tune_iterations 2",
                 "--checkpoint 1 --batch_size 4 --push_clips 1 --ways_clips 1 --inference")
FROZEN = words("--ft_begin_module fc --trunk_epochs 1 --warm_epochs 1")
MODELS = ("trunk.pth", *(f"save_{epoch}.pth" for epoch in range(1, 4)))


@dataclass(frozen=True)
class Scenario:
    """A script that writes into `out`.

    Attributes:
        script, words: of the command line, which goes on where it was killed when it is called again.
        canonical: from `out` to what has to be equal in the end, by name.
        ready: what is written before the first call, by a copy of a part of the material, "" for nothing.
        trains: whether `out` holds checkpoints.
    """

    script: str
    words: tuple[str, ...]
    canonical: Callable[[Path], dict]
    ready: str = ""
    trains: bool = False


def flat(value: object, name: str = "") -> dict[str, object]:
    """The leaves of nested dicts and lists by their paths."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for inner, one in items for key, leaf in flat(one, f"{name}/{inner}").items()}
    return {name: value}


def same(one: dict, other: dict) -> str:
    """The first name at which two results of `canonical` differ; "" where they are equal to the bit."""
    first, second = flat(one), flat(other)
    if first.keys() != second.keys():
        return f"{sorted(first.keys() ^ second.keys(), key=str)[:3]}"
    for name, value in first.items():
        theirs = second[name]
        if isinstance(value, Tensor) or isinstance(theirs, Tensor):
            if not (type(value) is type(theirs) and value.dtype == theirs.dtype and torch.equal(value, theirs)):
                return name
        elif value != theirs and not (value != value and theirs != theirs):  # nan
            return name
    return ""


def trained(out: Path) -> dict:
    """Checkpoints without their flags, prototypes, and predictions."""
    content: dict[str, object] = {name: {key: value for key, value in load_checkpoint(out / name).items()
                                         if key != "args"} for name in MODELS}
    return content | {name: (out / name).read_text() for name in ("prototypes.json", "val.json")}


def as_bytes(out: Path) -> dict:
    """The bytes of every file."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
            and not path.name.endswith(".part")}


def as_packed(out: Path) -> dict:
    """The frames of every video of a pack, wherever in it they lie."""
    reader = PackedFrames()
    return {place: reader.frames(out / place) for place in packed_places(out)}


def as_page(out: Path) -> dict:
    """The report."""
    return {"report.html": (out / "report.html").read_text()}


_TRAIN = [*DATA, "--result_path", "out", "--resume_path", "auto", *MODEL, *SCHEDULE, *CALL]
SCENARIOS = {
    "training": Scenario("main", tuple(_TRAIN), trained, trains=True),
    "training in embedding space": Scenario("main", (*_TRAIN, "--score", "hyperbolic"), trained, trains=True),
    "training on stored features": Scenario("main", (*_TRAIN, *FROZEN, "--pretrain_path", "weights.pth"), trained,
                                            trains=True),
    "embeddings": Scenario("util_scripts.fit_embeddings", ("tree.csv", "out/e.pth", "--dim", "8", "--epochs", "200"),
                           as_bytes),
    "packing": Scenario("util_scripts.pack_frames", ("jpg", "out", "--shard_gb", "3e-5"), as_packed),
    "HDF5": Scenario("util_scripts.generate_video_hdf5", ("jpg", "out", "--n_jobs", "1"), as_bytes),
    "frames": Scenario("util_scripts.generate_video_jpgs", ("video", "out", "ucf101", "--n_jobs", "1", "--size", "24"),
                       as_bytes),
    "annotation": Scenario("util_scripts.ucf101_json", ("ucf", "jpg", "out"), as_bytes),
    "report": Scenario("util_scripts.make_report", ("--result_path", "out"), as_page, ready="results")}


def _last_line_apart(path: Path) -> None:
    for line in path.read_text().splitlines()[:-1]:
        json.loads(line)


def _page(path: Path) -> None:
    if not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("ends in the middle")


def _hdf5(path: Path) -> None:
    with h5py.File(path) as file:
        list(file)


def _picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


CHECKS: dict[str, Callable[[Path], object]] = {
    ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".json": lambda path: json.loads(path.read_text()), ".jsonl": _last_line_apart, ".html": _page,
    ".npy": lambda path: np.load(path, allow_pickle=False), ".hdf5": _hdf5, ".jpg": _picture, ".png": _picture}


def half_written(out: Path) -> list[str]:
    """Files with a final name that cannot be read, and the newest checkpoint where it cannot."""
    broken = []
    for path in sorted(out.rglob("*")) if out.is_dir() else ():
        inside = path.relative_to(out).parts
        if path.is_file() and path.suffix in CHECKS and not any(
                part.startswith(".") or part.endswith(".part") for part in inside):
            try:
                CHECKS[path.suffix](path)
            except Exception as error:  # whatever a reader raises, the file is not whole
                broken.append(f"{'/'.join(inside)} ({type(error).__name__}: {error})")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            newest_whole(out)
        except Warning as error:
            broken.append(f"newest checkpoint: {error}")
    return broken


def ready(lab: Lab, scenario: Scenario) -> Path:
    """A fresh copy of the material, with `out` as the scenario finds it; the folder."""
    folder = lab.fresh({*scenario.words, scenario.ready})
    (folder / scenario.ready).rename(folder / "out") if scenario.ready else (folder / "out").mkdir()
    if scenario.ready:
        (folder / "out" / "report.html").unlink(missing_ok=True)
    return folder


def reference(lab: Lab, name: str) -> tuple[dict, float, int]:
    """What a scenario comes to that nothing disturbs, the seconds that it takes, and its bytes."""
    if name not in lab.references:
        scenario = SCENARIOS[name]
        folder = ready(lab, scenario)
        ended = run(scenario.script, scenario.words, folder=folder, log=lab.log)
        if ended.code:
            raise RuntimeError(f"{name}: exit code {ended.code} on sound inputs: {ended.text[-2000:]}")
        size = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
        lab.references[name] = scenario.canonical(folder / "out"), ended.seconds, size
    return lab.references[name]
