"""Where the labels of a case lie in its image, and how they end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_MAX_CENTROID_VOXELS = 1_000_000
_MUCH = 0.5  # of the largest area; and of the area that slices on both sides of a gap have in common


@dataclass(frozen=True)
class LabelShape:
    """The foreground of a label image; tuples have one entry for each axis in array order."""

    centroids: dict[int, tuple[float, ...]]
    """Of every label, as a share of the image, from -0.5 to 0.5; 0 is the middle."""
    cut: tuple[float, ...]
    """How abruptly the foreground ends inside the image: the area of its first or last slice (the larger one),
    relative to its largest slice. Ends at the border of the image count as 0."""
    num_gaps: tuple[int, ...]
    """Slices without foreground between slices with much of it: slabs that were left out, not the space between two
    structures."""


def summarise_shape(segmentation: np.ndarray, foreground: np.ndarray) -> LabelShape | None:
    """Of labels (X, Y, Z) and the mask of those that count; None if there are none."""
    flat = np.flatnonzero(foreground)
    if not flat.size:
        return None
    cut, num_gaps = [], []
    for axis in range(foreground.ndim):
        areas = np.count_nonzero(foreground, axis=tuple(each for each in range(foreground.ndim) if each != axis))
        filled = np.flatnonzero(areas)
        first, last = int(filled[0]), int(filled[-1])
        ends = [areas[end] for end, border in ((first, 0), (last, len(areas) - 1)) if end != border]
        cut.append(float(max(ends, default=0) / areas.max()))
        num_gaps.append(_missing_slices(np.moveaxis(foreground, axis, 0), areas))
    return LabelShape(_centroids(segmentation, flat), tuple(cut), tuple(num_gaps))


def _missing_slices(slices: np.ndarray, areas: np.ndarray) -> int:
    """Slices in gaps with much foreground on both sides, in the same place."""
    filled = np.flatnonzero(areas)
    total = 0
    for before, after in pairwise(filled.tolist()):
        if after - before > 1 and min(areas[before], areas[after]) >= _MUCH * areas.max():
            common = np.count_nonzero(slices[before] & slices[after])
            total += int(after - before - 1) if common >= _MUCH * max(areas[before], areas[after]) else 0
    return total


def _centroids(segmentation: np.ndarray, flat: np.ndarray) -> dict[int, tuple[float, ...]]:
    flat = flat[:: max(1, flat.size // _MAX_CENTROID_VOXELS)]
    labels, index = np.unique(segmentation.ravel()[flat], return_inverse=True)
    counts = np.bincount(index)
    places = [
        (np.bincount(index, positions) / counts + 0.5) / size - 0.5
        for positions, size in zip(np.unravel_index(flat, segmentation.shape), segmentation.shape)
    ]
    return {int(label): tuple(float(place[row]) for place in places) for row, label in enumerate(labels)}
