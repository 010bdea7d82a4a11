"""Pickles of numpy arrays and plain types, read without running anything that they name."""

import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

KINDS = "biufcSU"  # of numbers, truth values and strings; an array of objects could hold anything


class _Foreign(Exception):
    """Something in a pickle that is neither an array nor a plain type."""


class _Dtype:
    """A dtype as it is pickled: its letters first, then its state, of which only the byte order is taken.

    numpy's own `dtype.__setstate__` believes flags that make it follow raw bytes as pointers.
    """

    def __init__(self, letters: str | bytes, *_: object) -> None:
        self.value = np.dtype(letters.decode("ascii") if isinstance(letters, bytes) else str(letters))
        if self.value.kind not in KINDS or self.value.fields is not None:
            raise _Foreign(f"an array of type {letters!r}")

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


def _array(shape: tuple, dtype: _Dtype, data: bytes | str, *, fortran: bool) -> np.ndarray:
    raw = data.encode("latin1") if isinstance(data, str) else data  # a string of Python 2
    values = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")
    return values.astype(dtype.value.newbyteorder("="))  # a copy, which can be written to


class _Array:
    """An array as it is pickled: empty first, then its state."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, fortran, data = state
        self.value = _array(shape, dtype, data, fortran=bool(fortran))


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(buffer: bytes, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    return _array(shape, dtype, buffer, fortran=order == "F")


def _scalar(dtype: _Dtype, data: bytes | str) -> object:
    return _array((), dtype, data, fortran=False)[()]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Foreign(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


# what pickled arrays name, and what stands in for it here; numpy 2 writes numpy._core instead of numpy.core
_GLOBALS: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"numpy.{core}.{module}", name): function for core in ("core", "_core") for module, name, function in
       (("multiarray", "_reconstruct", _reconstruct), ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer))}}


class Record:
    """What a checkpoint keeps of the flags that it was made with: fields without a class of their own."""

    def __setstate__(self, fields: dict) -> None:
        self.fields = fields


def stand_ins(names: Iterable[str]) -> list[tuple[Callable, str]] | None:
    """What stands in for names in a pickle, as `torch.serialization.safe_globals` takes it.

    Args:
        names: dotted, of what torch does not open.
    Returns:
        None where one of them is neither of numpy's arrays and numbers nor a namespace of flags.
    """
    found = {name: Record if name.endswith(".Namespace") else _GLOBALS.get(tuple(name.rsplit(".", 1)))
             for name in names}
    return None if None in found.values() else [(value, name) for name, value in found.items()]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _GLOBALS:
            raise _Foreign(f"{module}.{name}")
        return _GLOBALS[module, name]


def plain(content: object) -> object:
    """The content with arrays in place of what stands in for them."""
    if isinstance(content, _Array | _Dtype):
        return content.value
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(plain(value) for value in content)
    return content


def read_arrays(file: Path | bytes | BinaryIO, source: str | Path) -> object:
    """Read a pickle that holds dicts, lists, tuples, numbers, strings and numpy arrays, and nothing else.

    Args:
        file: a path, the bytes of a pickle, or an open file; Python 2's pickles are read, too.
        source: the name of the file, for what is said of it.
    Returns:
        what is pickled; arrays are in the machine's byte order and can be written to.
    Raises:
        ValueError: naming the file, where it holds anything else (which is not run), or is no pickle.
    """
    if isinstance(file, Path):
        file = file.read_bytes()
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        return plain(_Unpickler(stream, encoding="latin1").load())
    except _Foreign as error:
        raise ValueError(f"{source}: a pickle with more than numpy arrays and plain types ({error}), which could run "
                         "any code and is not opened; fetch the file again from where it was published") from error
    except Exception as error:  # a broken pickle raises a dozen kinds
        raise ValueError(f"{source}: cannot be read as a pickle of numpy arrays; it may be truncated, or something "
                         f"else: fetch it again ({type(error).__name__})") from error
