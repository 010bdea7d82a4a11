"""How folders are looked through everywhere: in the order of the names, through links, past hidden entries."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# What systems, servers and archives leave in folders, beside names that begin with a dot
HIDDEN = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin",
          "system volume information", "lost+found", "__pycache__"}
NAMED = 5  # unreadable folders, and endings, that a line names


def is_litter(name: str) -> bool:
    """Whether a file or folder is one that systems leave unasked, which nobody misses."""
    return name.startswith("._") or name.casefold() in HIDDEN | {".ds_store"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's or an editor's: .DS_Store, ._clip.mp4, .ipynb_checkpoints, Thumbs.db."""
    return name.startswith(".") or name.casefold() in HIDDEN


def visible(folder: str | Path) -> list[os.DirEntry]:
    """The entries of a folder that are not hidden, in the order of their names; OSError where it cannot be read."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry) -> bool:
    """Whether an entry is a file, or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


@dataclass
class Walk:
    """The folders below a folder, itself first, through links, which end where they lead back.

    Iterating gives the path of each folder, its folders and its files by name, all in the order of their names; what is
    taken out of the list of folders is not looked into. A link is followed unless it leads to a folder that it lies in;
    one below another link also where it leads to what was seen.

    Args:
        root: the folder to begin with.
        once: follow no link to a folder that was seen.
    Attributes:
        unreadable: folders that cannot be read, in the order in which they were met.
    """

    root: Path
    once: bool = False
    unreadable: list[Path] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set, repr=False)

    def __iter__(self) -> Iterator[tuple[Path, list[str], list[str]]]:
        self.unreadable.clear()
        self._seen.clear()
        yield from self._below(Path(self.root), (), linked=False)

    def _below(self, folder: Path, above: tuple[tuple[int, int], ...], *,
               linked: bool) -> Iterator[tuple[Path, list[str], list[str]]]:
        try:
            status = os.stat(folder)
            entries = visible(folder)
        except OSError:
            self.unreadable.append(folder)
            return
        here = status.st_dev, status.st_ino
        self._seen.add(here)
        of = {entry.name: entry for entry in entries if is_folder(entry)}
        folders = list(of)
        yield folder, folders, [entry.name for entry in entries if entry.name not in of]
        for name in folders:
            below = folder / name
            link = of[name].is_symlink()
            if link:
                try:
                    status = os.stat(below)
                except OSError:
                    self.unreadable.append(below)
                    continue
                target = status.st_dev, status.st_ino
                if target in (*above, here) or ((linked or self.once) and target in self._seen):
                    continue
            yield from self._below(below, (*above, here), linked=linked or link)


def tell_unreadable(folders: Iterable[Path]) -> None:
    """Warn in one line of folders that cannot be read, where there are any."""
    folders = list(folders)
    if folders:
        more = f" and {len(folders) - NAMED} more" if len(folders) > NAMED else ""
        print(f"warning: cannot look into {', '.join(map(str, folders[:NAMED]))}{more}; look at the permissions",
              file=sys.stderr)


def tell_endings(folder: Path, names: Iterable[str], expected: str) -> None:
    """Tell in one line how many files have an ending that is none of those that are read, where there are any.

    Args:
        folder: that they are in. names: of the files. expected: what is read.
    """
    endings = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    if endings:
        parts = [f"{ending} {count}" for ending, count in endings.most_common(NAMED)]
        more = f", {len(endings) - NAMED} other endings" if len(endings) > NAMED else ""
        files = "1 file is" if endings.total() == 1 else f"{endings.total()} files are"
        print(f"{folder}: {files} left out, not being {expected}: {', '.join(parts)}{more}", file=sys.stderr)
