"""Ways to spoil an input: bytes, texts, names, links, and values inside of JSON files and checkpoints."""

import contextlib
import copy
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMES = ("../../etc", "/etc/passwd", "ünï-çødé-动作", "a\nb", "..", ".", "", "x" * 3000, "\ud800", "a\0b", "%s{0}",
         "-x")
VALUES = (None, True, -1, 0, 3.5, 10**30, float("nan"), float("inf"), "", "training", [], {}, [[]], ["segment"], *NAMES)
SHAPES = ((), (0,), (1,), (3, 3), (1, 0, 2))
HUGE = 256 << 20  # bytes of a sparse file
FOREIGN = (b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n", b"{}", b"[]", b"null", b"\x1f\x8b\x08\0",
           b"PK\3\4",
           b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", b"\x00" * 4096, b"\xff\xfe",
           b"a,b,c\n1,2\n", b"\n" * 50, "Größe\n".encode("latin-1"))


def _flipped(data: bytes, rng: np.random.Generator, n: int, first: int) -> bytes:
    values = np.frombuffer(data, dtype=np.uint8).copy()
    values[rng.integers(min(first, len(values)), size=n)] ^= np.uint8(1 << rng.integers(8))
    return values.tobytes()


def spoilt_bytes(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """How bytes were spoilt, and the spoilt ones: cut off, flipped, overwritten, doubled, replaced or encoded anew."""
    kind = rng.integers(11)
    if kind == 0 or len(data) < 2:
        return "emptied", b""
    at, other = (int(value) for value in rng.integers(1, len(data), size=2))
    if kind == 1:
        return "cut off", data[:at]
    if kind == 2:
        return "without its beginning", data[at:]
    if kind == 3:
        return "with bytes inserted", data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]
    if kind == 4:
        return "with a bit flipped at its beginning", _flipped(data, rng, 1, 400)
    if kind == 5:
        return "with bits flipped", _flipped(data, rng, max(len(data) // 50, 1), len(data))
    if kind == 6:
        return "doubled", data + data
    if kind == 7:
        return "replaced", FOREIGN[rng.integers(len(FOREIGN))]
    if kind == 8:
        low, high = sorted((at, other))
        return "with a hole", data[:low] + bytes(high - low) + data[high:]
    if kind == 9:
        low, high = sorted((at, other))
        return "with a part lost", data[:low] + data[high:]
    text = data.decode("latin-1")
    encoding = ("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp037")[rng.integers(5)]
    return f"encoded as {encoding}", text.encode(encoding, errors="replace")


def mutated(value: object, rng: np.random.Generator) -> object:
    """A copy of nested dicts and lists with something in it lost, renamed or replaced."""
    value = copy.deepcopy(value)
    where, step = None, value
    key: object = None
    while isinstance(step, dict | list) and step and (where is None or rng.random() < 0.75):
        where = step
        key = list(where)[rng.integers(len(where))] if isinstance(where, dict) else int(rng.integers(len(where)))
        step = where[key]
    if where is None:
        return copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    kind = rng.integers(4)
    if kind == 0:
        del where[key]
    elif kind == 1 and isinstance(where, dict):
        where[NAMES[rng.integers(len(NAMES))]] = where.pop(key)
    elif isinstance(step, Tensor) and kind < 3:
        where[key] = _other_tensor(step, rng)
    else:
        where[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return value


def _other_tensor(value: Tensor, rng: np.random.Generator) -> Tensor:
    kind = rng.integers(5)
    if kind == 0:
        return torch.zeros(SHAPES[rng.integers(len(SHAPES))])
    if kind == 1:
        return value.half() if value.is_floating_point() else value.float()
    if kind == 2:
        return torch.full_like(value, float("nan")) if value.is_floating_point() else value + 1000
    if kind == 3:
        return value.flatten()[:-1]
    return value.to(torch.int64)


def _mutate_json(path: Path, rng: np.random.Generator) -> str:
    content = json.loads(path.read_text())
    for _ in range(int(rng.integers(1, 4))):
        content = mutated(content, rng)
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
    return "with other values"


def _mutate_checkpoint(path: Path, rng: np.random.Generator) -> str:
    content = torch.load(path, map_location="cpu", weights_only=True)
    for _ in range(int(rng.integers(1, 3))):
        content = mutated(content, rng)
    with warnings.catch_warnings(), contextlib.suppress(UnicodeEncodeError):  # a name that no pickle can hold
        warnings.simplefilter("ignore")
        torch.save(content, buffer := io.BytesIO())
        path.write_bytes(buffer.getvalue())
    return "with other values"


def _spoil_bytes(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    how, data = spoilt_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    return how


def _swap(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    other = others[rng.integers(len(others))]
    path.write_bytes(other.read_bytes())
    return f"swapped for {other.name}"


def _enlarge(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    with open(path, "r+b") as file:
        file.truncate(HUGE)
    return f"{HUGE >> 20} MB large"


def _remove(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    path.unlink()
    return "removed"


def _rename(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    endings = (f"-{path.name}", path.name.upper(), f"{path.name}.txt", path.stem, f" {path.name} ", f".{path.name}",
               f"Größe {path.name}", f"a{os.sep}{path.name}", f"{path.name}\n", "%s{0}")
    other = path.parent / endings[rng.integers(len(endings))]
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    return f"renamed to {other.name!r}"


def _folder_instead(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    path.unlink()
    path.mkdir()
    return "replaced by a folder"


def _link_instead(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    path.unlink()
    target = ("nowhere", path.name, "..", ".")[rng.integers(4)]
    path.symlink_to(target)
    return f"replaced by a link to {target}"


FILES: tuple[Callable[[Path, np.random.Generator, Sequence[Path]], str], ...] = (
    *[_spoil_bytes] * 8, _swap, _swap, _enlarge, _remove, _rename, _rename, _folder_instead, _link_instead)
INSIDE = {".json": _mutate_json, ".pth": _mutate_checkpoint}


def spoil_file(path: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    """Spoil a file; in words how."""
    if path.suffix in INSIDE and rng.random() < 0.5:
        with contextlib.suppress(Exception):  # a file that was spoilt already cannot be read
            return INSIDE[path.suffix](path, rng)
    return FILES[rng.integers(len(FILES))](path, rng, others)


def spoil_folder(folder: Path, rng: np.random.Generator, others: Sequence[Path]) -> str:
    """Spoil what a folder holds, and not a file of it; in words how."""
    inner = sorted(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()) or [folder]
    place = [folder, *inner][rng.integers(len(inner) + 1)]
    kind = rng.integers(6)
    if kind == 0:
        link = place / "again"
        link.unlink(missing_ok=True)
        link.symlink_to(("..", ".", "again", "nowhere", "../..")[rng.integers(5)])
        return f"with a link that leads back in {place.name}"
    if kind == 1:
        for name in (".DS_Store", "._x", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"\0\0\0\1Bud1")
        (place / ".ipynb_checkpoints").mkdir(exist_ok=True)
        return f"with hidden entries in {place.name}"
    if kind == 2:
        shutil.rmtree(place)
        place.mkdir()
        return f"with {place.name} empty"
    if kind == 3:
        shutil.rmtree(place)
        place.write_bytes(b"a file\n")
        return f"with a file in place of {place.name}"
    if kind == 4:
        shutil.copytree(place, place.with_name(f"-{place.name} (copy)"), symlinks=True, dirs_exist_ok=True)
        return f"with a copy of {place.name}"
    other = others[rng.integers(len(others))]
    shutil.copy(other, place / f"strange {other.name}")
    return f"with {other.name} in {place.name}"
