"""Pickles of cases that were made to run code or to fill the memory."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.data.case_files import read_properties
from framework.data.restricted_pickle import UnsafePickleError, dumps, load_pickle, loads
from framework.errors import CaseError, FoldwiseError
from tests.safety.bounds import at_most

MIB = 1 << 20
LENGTH = b"\x8a\x06" + (10**12).to_bytes(6, "little")
HUGE = struct.pack("<Q", 10**12)
LARGE_INDEX = struct.pack("<I", 2**31)


class Runs:
    """Would create a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it ran",)


def test_memory_beyond_a_bound_is_noticed():
    with pytest.raises(AssertionError, match="MiB were taken"), at_most(50 * MIB):
        bytearray(b"\x01") * (100 * MIB)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_case_that_would_run_code_is_refused_and_not_run(protocol: int, tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"spacing": Runs()}, protocol))
    with pytest.raises(CaseError, match=r"case 'a': .*is refused: it names (posix|nt).mkdir"):
        read_properties(tmp_path, "a")
    assert not Path("it ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cposix\nsystem\n(Vtouch ran\ntR.",
        b"(Vtouch ran\niposix\nsystem\n.",
        b"(cposix\nsystem\nVtouch ran\no.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x09touch ran\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x04pass\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x0alist.clear\x93.",
        b"cbuiltins\ngetattr\n.",
        b"cframework.data.restricted_pickle\nloads\n(C\x01.tR.",
        b"Pid\n.",
        b"\x82\x01.",
        b"cnumpy\nndarray\n}Vx\nK\x01sb.",
        b"cnumpy\ndtype\n(Vf8\ntR}Vx\nK\x01sb.",
        b"ccollections\nOrderedDict\n)R}Vclear\nK\x01sb.",
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
    ],
)
def test_every_way_to_name_or_change_something_is_refused(content: bytes):
    with pytest.raises(FoldwiseError):
        loads(content)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\nbytearray\n" + LENGTH + b"\x85R.",
        b"cbuiltins\nbytes\n" + LENGTH + b"\x85R.",
        b"cbuiltins\nset\ncbuiltins\nrange\n" + LENGTH + b"\x85R\x85R.",
        b"cbuiltins\nrange\n" + LENGTH + b"\x85R.",
        b"cnumpy\nndarray\n" + LENGTH + b"\x85R.",
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + LENGTH + b"\x85C\x01b\x87R.",
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n(VV2000000000\ntR\x85R.",
        b"cnumpy\ndtype\n(VO\ntR.",
        b"\x80\x05\x96" + HUGE + b"x.",
        b"\x80\x04\x8e" + HUGE + b"x.",
        b"\x80\x04\x8d" + HUGE + b"x.",
        b"\x80\x04\x95" + HUGE + b"N.",
        b"\x80\x02Nr" + LARGE_INDEX + b".",
        b"\x80\x02]r" + LARGE_INDEX + b"0j" + LARGE_INDEX + b".",
    ],
    ids=range(14),
)
def test_a_few_bytes_cannot_ask_for_a_terabyte(content: bytes):
    with at_most(60 * MIB):
        try:
            value = loads(content)
        except FoldwiseError:
            return
    assert value in (None, [])  # a place of its own far away, which costs nothing here


def test_an_array_cannot_be_larger_than_its_content():
    rebuild = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00tC\x01b\x87R"
    for kind, content in ((b"Vf8\n", b"C\x08" + bytes(8)), (b"VU9999\n", b"C\x01x"), (b"Vi1\n", b"]")):
        state = b"(K\x01" + LENGTH + b"\x85cnumpy\ndtype\n(" + kind + b"tR\x89" + content + b"tb."
        with at_most(60 * MIB), pytest.raises(FoldwiseError):
            loads(rebuild + state)


def test_keys_of_nested_tuples_end():
    """The hash of a tuple of tuples that are each there twice takes twice as long a level."""
    tuples = b"K\x01" + b"2\x86" * 60
    for content in (b"}" + tuples + b"K\x01s.", b"\x80\x04\x8f(" + tuples + b"\x90.", b"(" + tuples + b"K\x01d."):
        with pytest.raises(UnsafePickleError, match="nested tuples"):
            loads(content)


def test_lists_may_hold_themselves_and_be_nested_deeply():
    circle = loads(b"]q\x00h\x00a.")
    assert circle[0] is circle
    nested = loads(b"]" * 20_000 + b"a" * 19_999 + b".")
    assert len(nested) == 1


def test_a_huge_file_is_not_read(tmp_path: Path):
    with open(tmp_path / "huge.pkl", "wb") as file:
        file.truncate(1 << 40)
    with at_most(20 * MIB), pytest.raises(FoldwiseError, match=r"huge.pkl is refused: it has \d+ bytes"):
        load_pickle(tmp_path / "huge.pkl")


def test_what_is_no_dict_is_told(tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(dumps([1]))
    with pytest.raises(CaseError, match="holds a list, expected a dict"):
        read_properties(tmp_path, "a")


def test_arrays_of_every_kind_come_back():
    values = [np.arange(6).reshape(2, 3), np.array(["ab", "c"]), np.array([True]), np.ones(2, ">f4"), np.ones((0, 4))]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for found, value in zip(loads(pickle.dumps(values, protocol)), values):
            np.testing.assert_array_equal(found, value)
            assert type(found) is np.ndarray
            # numpy itself turns the bytes of old protocols into the order of this machine.
            assert found.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
