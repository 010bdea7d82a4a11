"""Files that are either whole or not there: written beside their place, and moved into it when they are complete."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

LONGEST_NAME = 255  # bytes
REMEDY, ELSEWHERE = "free some space, or choose another folder", "choose another folder"
SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EIO}  # reasons to which space may be the remedy
# What h5py, torch and numpy say of a full disk
_FULL = re.compile(r"file write failed|PytorchStreamWriter failed|problem writing element|requested and \d+ written")
# Written by `replacing`, as `part_of` names it; what others call so stays.
_PART = re.compile(r"(?:.+\.(?:pth|jsonl?|html|gif|webp|png|np[yz]|csv|md|tex)|[0-9a-f]{64})\.(\d+)\.part")


@contextlib.contextmanager
def replacing(path: str | Path, *, part: Path | None = None, durable: bool = True) -> Iterator[Path]:
    """Write a file atomically, by a library that wants a path: beside the target, and moved over it at the end.

    Args:
        path: the target; its folder is made.
        part: where it is written first, if no other process writes there (default: a name of this process's).
        durable: have it on the disk before it is moved, so that it is whole even after a power cut.
    Returns:
        a context whose value is the path to write to.
    Raises:
        OSError: naming the target, where it cannot be written; the old file is then unchanged.
    """
    path = Path(path)
    part = part or part_of(path)
    try:
        with naming(path, RuntimeError):  # torch and h5py report a full disk as one
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            if durable:
                with open(part, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_whole(path: str | Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write a file atomically: see `replacing`.

    Args:
        path: the target. write: a function that writes to a binary file.
    Raises:
        OSError: naming the file, where it cannot be written; the old file is then unchanged.
    """
    with replacing(path, durable=durable) as part, open(part, "wb") as file:
        write(file)


def write_bytes(path: str | Path, content: bytes, *, durable: bool = False) -> None:
    """Write bytes atomically: see `replacing`."""
    write_whole(path, lambda file: file.write(content), durable=durable)


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Write a text in UTF-8 atomically: see `replacing`. What UTF-8 cannot encode becomes a question mark."""
    write_bytes(path, text.encode("utf-8", "replace"), durable=durable)


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a text file, or leave the file as it was.

    Raises:
        OSError: naming the file, where it cannot be written.
    """
    with naming(path), open(path, "ab", buffering=0) as file:
        before, content = file.tell(), line.encode() + b"\n"
        try:
            write_fully(file, content)
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def write_fully(file: RawIOBase, content: bytes | memoryview) -> None:
    """Write all of some bytes to a file without a buffer, which takes a part of them on a disk that is nearly full."""
    left = memoryview(content).cast("B")
    while len(left):
        left = left[file.write(left):]


@contextlib.contextmanager
def naming(path: str | Path, *also: type[Exception], remedy: str | None = None) -> Iterator[None]:
    """Make of any failure to write an OSError that names the file, and tells what to do.

    Args:
        also: kinds of errors, beside OSError, that mean the same here. remedy: the second half of the sentence, where
            space falls short or may do so; None for the usual ones.
    """
    try:
        yield
    except (OSError, *also) as error:
        number = _errno_of(error)
        usual = ELSEWHERE if number is not None and number not in SPACE else REMEDY
        raise OSError(f"{path}: cannot be written ({reason(error)}); {remedy or usual}") from error


def reason(error: BaseException) -> str:
    """In a few words why something could not be written."""
    if isinstance(error, FileExistsError | NotADirectoryError):  # of the folders above it
        return "a part of its path is a file"
    if (number := _errno_of(error)) is not None:
        return os.strerror(number)  # not its own words, of which h5py makes several lines
    text = " ".join(str(error).split())
    code = re.search(r"errno = (\d+)", text)  # of h5py
    full = _FULL.search(text)
    return os.strerror(int(code[1]) if code else errno.ENOSPC) if code or full else text or type(error).__name__


def _errno_of(error: BaseException | None) -> int | None:
    """The system's number of an error, or of what caused it: torch's own words about a full disk name its sources."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in errno.errorcode:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def check_writable(folder: str | Path) -> None:
    """Make a folder, and try to write to it, before the work whose result is to lie there.

    Raises:
        OSError: naming the folder, where that fails.
    """
    folder = Path(folder)
    with naming(folder, remedy="choose another path, or look at its permissions"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def part_of(path: Path) -> Path:
    """Where a file is written before it is complete: beside it, by a name of this process's."""
    ending = f".{os.getpid()}.part"
    name = path.name
    if len(os.fsencode(name + ending)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(name + ending)


def sweep(folder: str | Path, untouched: float = 3600) -> None:
    """Remove the incomplete files that killed processes left in a folder.

    A file that was written to recently stays: its process may run on another machine that shares the disk.

    Args:
        untouched: seconds since the last write after which a file is removed.
    """
    for path in Path(folder).glob("*.part"):
        match = _PART.fullmatch(path.name)
        with contextlib.suppress(OSError):  # another process removed it first, or only its owner may
            if match and not _runs(int(match[1])) and time.time() - path.stat().st_mtime > untouched:
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
