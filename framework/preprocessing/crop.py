"""Cropping a scan to the region with content, and marking what lies outside of it."""

from __future__ import annotations

import numpy as np

OUTSIDE = -1
"""Label of voxels that are background and outside of the region with content."""


def nonzero_box(data: np.ndarray) -> tuple[list[list[int]], np.ndarray | None]:
    """Where a scan has content.

    Args:
        data: (C, X, Y, Z).

    Returns:
        The smallest box ``[[start, stop], ...]`` around all voxels that differ from 0 in any channel, and the
        mask (of the shape of the box) of these voxels with enclosed holes filled; None instead of a mask that
        is true everywhere. A scan without any content has the box of the whole image and a mask that is
        false.

    The holes are filled after cropping, which changes nothing: a hole is enclosed by content, so it lies
    inside the box, and what is open to a side of the box is open to the outside.
    """
    content = data[0] != 0
    for channel in data[1:]:
        content |= channel != 0
    box = [[0, length] for length in content.shape]
    if content.all():
        return box, None
    for axis in range(content.ndim):
        others = tuple(other for other in range(content.ndim) if other != axis)
        occupied = np.flatnonzero(content.any(axis=others))
        if not len(occupied):
            return box, content
        box[axis] = [int(occupied[0]), int(occupied[-1]) + 1]
    content = content[tuple(slice(*ends) for ends in box)]
    empty = ~content
    if not _touches_a_side(empty):
        return box, None  # every empty voxel is in an enclosed hole, as in most CT scans
    filled = _without_holes(content, empty)
    return box, None if filled.all() else filled


def crop_to_nonzero(
    data: np.ndarray, segmentation: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Cut a scan down to the region with content.

    Args:
        data: (C, X, Y, Z); the result is a view of it.
        segmentation: (1, X, Y, Z) labels, or None where there are none (prediction).

    Returns:
        Cropped data, segmentation, and the box ``[[start, stop], ...]``. In the segmentation (a copy),
        background voxels outside of the region with content are `OUTSIDE`. Without one it is 0 inside and
        `OUTSIDE` outside, int8.
    """
    box, mask = nonzero_box(data)
    inside_box = (slice(None), *(slice(*ends) for ends in box))
    data = data[inside_box]
    if segmentation is None:
        segmentation = np.zeros((1, *data.shape[1:]), np.int8)
    else:
        segmentation = segmentation[inside_box].copy()
    if mask is not None:
        segmentation[0][(segmentation[0] == 0) & ~mask] = OUTSIDE
    return data, segmentation, box


def _touches_a_side(mask: np.ndarray) -> bool:
    return any(mask.take(side, axis).any() for axis in range(mask.ndim) for side in (0, -1))


def _without_holes(content: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """`content` and every empty region that has no way, over faces of voxels, to a side of the array."""
    from scipy import ndimage

    # Same result as ndimage.binary_fill_holes, which spreads voxel by voxel and is several times slower.
    regions, _ = ndimage.label(empty)
    sides = [regions.take(side, axis).ravel() for axis in range(regions.ndim) for side in (0, -1)]
    is_open = np.zeros(regions.max() + 1, bool)
    is_open[np.concatenate(sides)] = True
    is_open[0] = False  # 0 is content
    return ~is_open[regions]
