"""Counting labels without a copy of the label map."""

from __future__ import annotations

import numpy as np

_VOXELS_AT_ONCE = 1 << 22
_WIDEST_TABLE = 1 << 20


def count_values(array: np.ndarray) -> dict[int, int]:
    """Voxels of each value that occurs, in ascending order of the values.

    Args:
        array: integers of any shape.
    """
    flat = array.reshape(-1)
    counts: dict[int, int] = {}
    for start in range(0, flat.size, _VOXELS_AT_ONCE):
        part = flat[start : start + _VOXELS_AT_ONCE].astype(np.int64)
        lowest = int(part.min())
        if int(part.max()) - lowest < _WIDEST_TABLE:
            part -= lowest
            numbers = np.bincount(part)
            present = np.flatnonzero(numbers)
            values, numbers = present + lowest, numbers[present]
        else:
            values, numbers = np.unique(part, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist()):
            counts[value] = counts.get(value, 0) + number
    return dict(sorted(counts.items()))
