"""Where the foreground of a case is: a table of voxels for every label or region, and an index of many tables."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.labels import LabelKey
from framework.files import atomic_write

ClassLocations = dict[LabelKey, np.ndarray]
"""Foreground key -> (n, 4) rows [0, x, y, z] in the preprocessed array; n may be 0."""


def compact_class_locations(table: Mapping[Any, Any]) -> ClassLocations:
    """The ``class_locations`` of a case file in the smallest integer type that holds them.

    nnU-Net stores int64, and an empty list where a label does not occur; int16 is a quarter of that.
    """
    compact: ClassLocations = {}
    for key, rows in table.items():
        array = np.asarray(rows).reshape(-1, 4)
        highest = int(array.max(initial=0))
        kind = np.int16 if highest <= np.iinfo(np.int16).max else np.int32
        compact[_plain_key(key)] = np.ascontiguousarray(array, dtype=kind)
    return compact


def num_bytes(table: ClassLocations) -> int:
    """Memory that the arrays of a table take."""
    return sum(rows.nbytes for rows in table.values())


class LocationIndex:
    """The class locations of many cases in one file that is mapped into memory.

    All processes share its pages, whichever way they were started, and none has to read the cases' pickles.

    The file is a numpy array of bytes: the length of a JSON header, the header (cases, keys, integer type),
    the number of voxels for every case and key (int64, -1 where a case does not have the key), and the rows.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError, EOFError, ValueError, KeyError: the file is missing or damaged.
        """
        self.path = path
        content = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        start = 8 + int(content[:8].view(np.int64)[0])
        header = json.loads(content[8:start].tobytes())
        self._cases = {case: number for number, case in enumerate(header["cases"])}
        self._keys = [_plain_key(key) for key in header["keys"]]
        shape = (len(self._cases), len(self._keys))
        stop = start + 8 * shape[0] * shape[1]
        self._counts = content[start:stop].view(np.int64).reshape(shape)
        self._rows = content[stop:].view(header["dtype"]).reshape(-1, 4)
        self._stops = np.cumsum(self._counts.clip(min=0)).reshape(shape)
        if self._stops[-1, -1] != len(self._rows):
            raise ValueError(f"{path} is incomplete")

    def __contains__(self, case: str) -> bool:
        return case in self._cases

    def __getitem__(self, case: str) -> ClassLocations:
        number = self._cases[case]
        counts, stops = self._counts[number].tolist(), self._stops[number].tolist()
        return {
            key: self._rows[stop - count : stop] for key, count, stop in zip(self._keys, counts, stops) if count >= 0
        }

    def __reduce__(self) -> tuple[Callable[[Path], LocationIndex | None], tuple[Path]]:
        return _reopened, (self.path,)

    @classmethod
    def of_cases(
        cls, folder: Path, cases: Sequence[str], read: Callable[[str], ClassLocations], max_bytes: int
    ) -> LocationIndex | None:
        """The index of some cases of a folder, written there first if it is not there or cases have changed.

        Args:
            folder: where ``CASE.pkl`` is. The index is a hidden ``.npy`` beside them, which nnU-Net passes over.
            read: the table of one case.
            max_bytes: of memory that writing may take.

        Returns:
            None if there would be nothing in it, it would be too large, or the folder cannot be written.
        """
        cases = sorted(cases)
        facts = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (folder / f"{case}.pkl" for case in cases)]
        if sum(size for size, _ in facts) / _PICKLED_TO_COMPACT > max_bytes:
            return None
        digest = hashlib.blake2b(repr((cases, facts)).encode(), digest_size=8).hexdigest()
        path = folder / f"{_INDEX_NAME}{digest}.npy"
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
            return cls(path)
        tables = [read(case) for case in cases]
        if not any(tables):
            return None
        try:
            with atomic_write(path) as temporary:
                np.save(temporary, _as_bytes(cases, tables))
        except ValueError:  # a disk that is full or cannot be written; the training can do without
            return None
        for other in folder.glob(f"{_INDEX_NAME}*.npy"):
            if other != path:
                with contextlib.suppress(OSError):
                    other.unlink()
        return cls(path)


_INDEX_NAME = ".class_locations_"
_PICKLED_TO_COMPACT = 4  # int64 in the pickles, int16 here


def _reopened(path: Path) -> LocationIndex | None:
    # Another training may have replaced it; then the tables are read one by one.
    try:
        return LocationIndex(path)
    except (OSError, EOFError, ValueError):
        return None


def _as_bytes(cases: Sequence[str], tables: Sequence[ClassLocations]) -> np.ndarray:
    keys = list(dict.fromkeys(key for table in tables for key in table))
    counts = np.array([[len(table[key]) if key in table else -1 for key in keys] for table in tables], np.int64)
    dtype = np.result_type(np.int16, *(rows.dtype for table in tables for rows in table.values()))
    rows = [table[key].astype(dtype, copy=False) for table in tables for key in keys if key in table]
    header = json.dumps({"cases": list(cases), "keys": keys, "dtype": dtype.str}).encode()
    header += b" " * (-len(header) % 8)  # what follows is aligned
    parts = [np.array([len(header)], np.int64), np.frombuffer(header, np.uint8), counts, *rows]
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def _plain_key(key: Any) -> LabelKey:
    return tuple(int(value) for value in key) if isinstance(key, (tuple, list)) else int(key)
