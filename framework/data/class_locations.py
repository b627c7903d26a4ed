"""Where the foreground of a case is: a table of voxels for every label or region, small enough to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framework.data.labels import LabelKey

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


def _plain_key(key: Any) -> LabelKey:
    return tuple(int(value) for value in key) if isinstance(key, (tuple, list)) else int(key)
