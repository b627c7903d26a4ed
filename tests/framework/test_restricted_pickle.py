"""Pickles of strangers: plain values and arrays are read, anything that could run code is refused."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.checkpoint import load_checkpoint
from framework.data.restricted_pickle import UnsafePickleError, dumps, load_pickle, loads
from framework.errors import FoldwiseError

PLAIN = {
    "spacing": [np.float64(1.0), 2, 3.5],
    "bbox": [[0, 35], [0, 51]],
    "shape": (35, 51),
    (1, 2): np.arange(6).reshape(2, 3),
    3: [],
    "others": [None, True, 1 + 2j, b"bytes", "text", {1}, frozenset({2}), slice(1, 2), range(3)],
    "texts": np.array(["a", "bc"]),
    "ordered": collections.OrderedDict(a=1),
    "fortran": np.asfortranarray(np.eye(3, dtype=np.float32)),
    "integer": np.int64(5),
    "none": np.array([], np.int16),
}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_are_read_from_every_protocol(protocol: int) -> None:
    found = loads(pickle.dumps(PLAIN, protocol))
    assert repr(found) == repr(PLAIN)
    assert type(found["spacing"][0]) is np.float64


def test_names_of_older_numpy_are_read() -> None:
    old = dumps(PLAIN).replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(b"\x8c\x16", b"\x8c\x15")
    assert b"numpy._core" not in old
    content = pickle.dumps(np.arange(3), protocol=2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(loads(content), np.arange(3))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_name_other_things_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "case.pkl"
    path.write_bytes(pickle.dumps({"class_locations": Bomb()}, protocol))
    with pytest.raises(UnsafePickleError, match=r"case.pkl is refused: it names (posix|nt).system"):
        load_pickle(path)
    assert not Path("exploded").exists()


def test_builtin_functions_and_objects_in_arrays_are_refused() -> None:
    for value in (eval, getattr, print, np.array([Bomb()], dtype=object)):
        with pytest.raises(UnsafePickleError):
            loads(pickle.dumps(value))


def test_codecs_that_could_unpack_bombs_are_refused() -> None:
    content = b"c_codecs\nencode\n(Vx\nVzlib\ntR."
    with pytest.raises(UnsafePickleError, match="zlib"):
        loads(content)


def test_damaged_and_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "half.pkl").write_bytes(dumps(PLAIN)[:-20])
    (tmp_path / "empty.pkl").touch()
    for name in ("half.pkl", "empty.pkl"):
        with pytest.raises(FoldwiseError, match=f"{name} is truncated or damaged"):
            load_pickle(tmp_path / name)
    with pytest.raises(FoldwiseError, match="cannot be read"):
        load_pickle(tmp_path / "missing.pkl")


def test_what_is_written_is_read_by_the_ordinary_pickle() -> None:
    assert repr(pickle.loads(dumps(PLAIN))) == repr(PLAIN)


@pytest.mark.shared_data
def test_files_of_nnunet_are_read(shared_data: Path) -> None:
    folder = shared_data / "nnunet_reference"
    path = folder / "preprocessed" / "Dataset004_Hippocampus" / "nnUNetPlans_3d_fullres" / "hippocampus_001.pkl"
    properties = load_pickle(path)
    assert properties["shape_before_cropping"] == (35, 51, 35)
    assert properties["class_locations"][1].shape == (1324, 4)
    checkpoints = list((folder / "results").rglob("checkpoint_*.pth"))
    assert checkpoints
    assert load_checkpoint(checkpoints[0])["trainer_name"] == "nnUNetTrainer"
