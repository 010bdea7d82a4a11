"""Pickles of arrays are read as numpy reads them, and nothing that they name is run."""

import os
import pickle
from datetime import timedelta

import numpy as np
import pytest

from models.arrays import read_arrays

DRAW = np.random.default_rng(0)
CONTENT = {"a": {"kernel": DRAW.normal(size=(2, 3, 4)).astype(np.float32),
                 "turned": np.asfortranarray(DRAW.normal(size=(3, 5)))},
           "list": [np.arange(6, dtype=np.int16).reshape(2, 3), 3, "name", None, 2.5, True],
           "big": np.arange(4, dtype=">i4"), "empty": np.zeros((0, 4), np.uint8), "one": np.float32(1.5),
           "pair": (np.array(7), np.array(["ab", "c"])), "scalar": np.int64(9)}


def same(ours, theirs):
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            same(*pair)
    elif isinstance(theirs, np.ndarray):
        assert type(ours) is np.ndarray and ours.flags.writeable and ours.dtype.isnative
        assert ours.dtype == theirs.dtype.newbyteorder("=") and np.array_equal(ours, theirs)
    else:
        assert type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_what_numpy_writes(tmp_path, protocol):
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    same(read_arrays(path, path), CONTENT)
    with path.open("rb") as file:
        same(read_arrays(file, path), CONTENT)


def test_reads_python_2():
    # np.arange(3, dtype="<i2") by Python 2.7 and numpy 1.16, protocol 2: raw bytes are a string
    written = (b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85"
               b"q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x03\x85q\x08cnumpy\ndtype\nq\tU\x02i2q\nK\x00K\x01\x87q\x0bRq"
               b"\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0ebI00\nU\x06\x00\x00\x01\x00\xff\xffq"
               b"\x0ftq\x10bs.")
    assert read_arrays(written, "old.pkl")["a"].tolist() == [0, 1, -1]


class Runs:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refuses_what_could_run_code(tmp_path, protocol):
    proof = tmp_path / "proof"
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"a": np.zeros(2), "b": [Runs(os.mkdir, str(proof))]}, protocol=protocol))
    with pytest.raises(ValueError, match=r"bad\.pkl.*mkdir.*not opened"):
        read_arrays(path, path)
    assert not proof.exists()
    path.write_bytes(pickle.dumps(Runs(os.system, f"mkdir {proof}"), protocol=protocol))
    with pytest.raises(ValueError, match=r"bad\.pkl.*system.*not opened"):
        read_arrays(path, path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [timedelta(1), np.array([Runs(os.getcwd)], object), np.zeros(2, "f4,i2"),
                                     np.zeros(2, "M8[s]"), Runs(eval, "1"), Runs(getattr, "", "upper")])
def test_refuses_other_types(content):
    with pytest.raises(ValueError, match=r"x\.pkl"):
        read_arrays(pickle.dumps({"a": content}), "x.pkl")


def test_a_forged_type_is_not_believed():
    whole = pickle.dumps({"a": np.arange(2, dtype="<i8")}, protocol=2)
    with pytest.raises(ValueError, match=r"x\.pkl"):  # addresses as objects
        read_arrays(whole.replace(b"i8", b"O8"), "x.pkl")


def test_refuses_broken_files():
    whole = pickle.dumps(CONTENT, protocol=4)
    for broken in (b"", whole[:-1], whole[: len(whole) // 2], b"\x80\x04", b"PK\x03\x04",
                   whole.replace(b"K\x02", b"K\x07")):
        with pytest.raises(ValueError, match=r"x\.pkl.*truncated.*again"):
            read_arrays(broken, "x.pkl")
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"x\.pkl"):
        read_arrays(pickle.dumps(endless), "x.pkl")
