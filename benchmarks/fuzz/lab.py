"""Where cases run: the sound material, a fresh copy of it for each case, and what a case found."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz import material


@dataclass(frozen=True)
class Fault:
    """What a case found wrong. where: the command line and what was done to it. what: in words. text: that was printed.
    """

    where: str
    what: str
    text: str = ""


@dataclass
class Found:
    """The result of a case.

    Attributes:
        n: inputs that were spoilt, kills, full disks or lost processes. ends: how scripts ended, by a word.
    """

    n: int = 0
    ends: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class Lab:
    """A folder of a process of its own.

    Attributes:
        material: the sound inputs, which no case changes. work: of the running case. log: what it prints.
        references: outputs of runs that nothing disturbed, with the seconds that they took, by name.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.material, self.work = root, root / "material", root / "case"
        self.log = root / "printed.txt"
        self.references: dict[str, tuple[Path, float]] = {}
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        material.make(self.material, self.log)
        self.files = sorted(path for path in self.material.rglob("*") if path.is_file())

    def fresh(self, entries: Collection[str] | None = None) -> Path:
        """A new copy of the material to work in, or of some entries of it."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for path in self.material.iterdir():
            if entries is None or path.name in entries:
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, self.work / path.name)
        return self.work

    def close(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.root, ignore_errors=True)


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and inode of every file and link in a folder, which tell whether something wrote to it."""
    found = {}
    for place, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(place, name)
            about = os.lstat(path)
            found[os.path.relpath(path, folder)] = (about.st_size, about.st_mtime_ns, about.st_ino)
    return found
