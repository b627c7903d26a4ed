"""How large the cases of a raw dataset are, before any of them is read."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

from framework.data.itk_lock import one_at_a_time
from framework.data.raw_dataset import RawCase

_NUM_HEADERS = 5
"""Headers that are read: the largest files have the largest images, apart from how well they compress."""


def values_of_largest(cases: Iterable[RawCase]) -> int:
    """Voxels times channels of the largest case, going by the headers of the largest files."""
    by_size = sorted(cases, key=lambda case: _size(case.images[0]), reverse=True)
    return max(len(case.images) * _values_in(case.images[0]) for case in by_size[:_NUM_HEADERS])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it will tell what is wrong


@one_at_a_time
def _values_in(path: Path) -> int:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return _size(path)  # a format of another reader; such files have at least one byte a value
    return prod(reader.GetSize()) * int(reader.GetNumberOfComponents())
