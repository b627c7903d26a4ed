"""The index of class locations: the tables of all cases in one mapped file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.data.class_locations import ClassLocations, LocationIndex, compact_class_locations
from framework.data.store import CaseStore, list_cases, write_case
from tests.framework.test_store import PATCH, arrays

TABLES: dict[str, dict[Any, Any]] = {
    "a": {1: [[0, 1, 2, 3], [0, 4, 5, 6]], (1, 2): [[0, 7, 8, 9]], 2: []},
    "b": {1: [[0, 9, 9, 9]], 3: [[0, 1, 1, 1]]},
    "c": {},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for case, table in TABLES.items():
        write_case(tmp_path, case, *arrays(), {"class_locations": table}, PATCH)
    return tmp_path


def read(case: str) -> ClassLocations:
    return compact_class_locations(TABLES[case])


def index_of(folder: Path, cases: list[str] | None = None, max_bytes: int = 1 << 20) -> LocationIndex:
    index = LocationIndex.of_cases(folder, cases or list(TABLES), read, max_bytes)
    assert index is not None
    return index


def refuse(case: str) -> ClassLocations:
    raise AssertionError("read again")


def test_the_index_gives_the_table_of_every_case(folder: Path) -> None:
    index = index_of(folder)
    for case, expected in TABLES.items():
        assert case in index
        table = index[case]
        assert list(table) == list(expected)
        for key, rows in expected.items():
            np.testing.assert_array_equal(table[key], np.reshape(rows, (-1, 4)))
            assert table[key].dtype == np.int16
    assert "d" not in index


def test_it_is_read_once_for_a_dataset_and_again_when_a_case_has_changed(folder: Path) -> None:
    index_of(folder)
    assert LocationIndex.of_cases(folder, ["c", "b", "a"], refuse, 1 << 20) is not None
    os.utime(folder / "b.pkl", ns=(1, 1))
    with pytest.raises(AssertionError, match="read again"):
        LocationIndex.of_cases(folder, list(TABLES), refuse, 1 << 20)
    index_of(folder)
    assert len(list(folder.glob(".class_locations_*.npy"))) == 1
    assert list_cases(folder) == ["a", "b", "c"]


def test_a_damaged_index_is_made_anew(folder: Path) -> None:
    path = index_of(folder).path
    content = path.read_bytes()
    for part in (content[:-8], content[:100], b""):
        path.write_bytes(part)
        np.testing.assert_array_equal(index_of(folder)["b"][3], [[0, 1, 1, 1]])


def test_it_is_pickled_as_its_path_and_missed_if_it_is_gone(folder: Path) -> None:
    index = index_of(folder)
    pickled = pickle.dumps(index)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled)["a"][1], index["a"][1])
    index.path.unlink()
    assert pickle.loads(pickled) is None


def test_without_an_index_the_store_reads_case_by_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.data.store._MAX_LOCATION_BYTES", 1)
    store = CaseStore(folder, mode="packed")
    store.prepare()
    assert not list(folder.glob(".class_locations_*"))
    np.testing.assert_array_equal(store.class_locations("b")[3], [[0, 1, 1, 1]])


def test_large_coordinates_are_kept(tmp_path: Path) -> None:
    write_case(tmp_path, "a", *arrays(), {"class_locations": {1: [[0, 40_000, 1, 2]]}}, PATCH)
    store = CaseStore(tmp_path, mode="packed")
    store.prepare()
    np.testing.assert_array_equal(store.class_locations("a")[1], [[0, 40_000, 1, 2]])
