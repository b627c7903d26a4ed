"""Cropping a scan to the region with content, and marking what lies outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

OUTSIDE = -1
"""Label of voxels that are background and outside of the region with content."""

_VOXELS_AT_ONCE = 1 << 24


def nonzero_box(
    channels: np.ndarray | Sequence[np.ndarray], want_mask: bool = True
) -> tuple[list[list[int]], np.ndarray | None]:
    """Where a scan has content.

    Args:
        channels: (C, X, Y, Z), or C arrays (X, Y, Z).
        want_mask: without it only the box is looked for, which is far less work; there is None for the mask.

    Returns:
        The smallest box ``[[start, stop], ...]`` around all voxels that differ from 0 in any channel, and the
        mask (of the shape of the box) of these voxels with enclosed holes filled; None instead of a mask that
        is true everywhere. A scan without any content has the box of the whole image and a mask that is
        false.

    The holes are filled after cropping, which changes nothing: a hole is enclosed by content, so it lies
    inside the box, and what is open to a side of the box is open to the outside.
    """
    content = channels[0] != 0
    for channel in channels[1:]:
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
    if not want_mask:
        return box, None
    content = np.ascontiguousarray(content[tuple(slice(*ends) for ends in box)])
    if all(content.take(side, axis).all() for axis in range(content.ndim) for side in (0, -1)):
        return box, None  # every empty voxel is in an enclosed hole, as in most CT scans
    fill_holes(content)
    return box, None if content.all() else content


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
    mark_outside(segmentation[0], mask)
    return data, segmentation, box


def mark_outside(segmentation: np.ndarray, mask: np.ndarray | None) -> None:
    """Set background voxels (X, Y, Z) that are not in the mask of `nonzero_box` to `OUTSIDE`, in place."""
    if mask is None:
        return
    for labels, inside in zip(segmentation, mask):  # slice by slice: needs no further masks of the whole image
        labels[(labels == 0) & ~inside] = OUTSIDE


def fill_holes(content: np.ndarray) -> None:
    """Add to a mask every empty region that has no way, over faces of voxels, to a side of the array.

    The result of ``scipy.ndimage.binary_fill_holes``, in place. That spreads voxel by voxel and is several
    times slower; here the empty regions are labelled, slab by slab, since labels need four bytes a voxel.
    """
    from scipy import ndimage

    num_rows = max(1, _VOXELS_AT_ONCE // prod(content.shape[1:]))
    slabs = [slice(start, min(start + num_rows, len(content))) for start in range(0, len(content), num_rows)]
    offsets = [0]  # regions are numbered through over all slabs; 0 is content
    open_regions: list[np.ndarray] = []
    touching: list[np.ndarray] = []  # pairs of regions that are one, on both sides of a border between slabs
    below: np.ndarray | None = None
    for slab in slabs:
        regions, num_regions = ndimage.label(~content[slab])
        offset = offsets[-1]
        sides = [regions.take(side, axis) for axis in range(1, regions.ndim) for side in (0, -1)]
        sides += [regions[0]] if slab is slabs[0] else []
        sides += [regions[-1]] if slab is slabs[-1] else []
        open_regions += [_numbered(np.unique(side), offset) for side in sides]
        first = np.where(regions[0] > 0, regions[0] + offset, 0)
        if below is not None:
            both = (below > 0) & (first > 0)
            touching.append(np.unique(np.stack([below[both], first[both]]), axis=1))
        below = np.where(regions[-1] > 0, regions[-1] + offset, 0)
        offsets.append(offset + num_regions)
        if len(slabs) == 1:
            only = regions
    parts = np.arange(offsets[-1] + 1)
    if touching:
        from scipy import sparse

        pairs = np.concatenate(touching, axis=1)
        size = (len(parts), len(parts))
        graph = sparse.coo_matrix((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=size)
        parts = sparse.csgraph.connected_components(graph, directed=False)[1]
    is_open = np.isin(parts, parts[np.concatenate(open_regions)])
    is_open[0] = False
    for slab, offset, end in zip(slabs, offsets, offsets[1:]):
        regions = only if len(slabs) == 1 else ndimage.label(~content[slab])[0]
        closed = ~np.concatenate([is_open[:1], is_open[offset + 1 : end + 1]])
        np.take(closed, regions, out=content[slab], mode="clip")


def _numbered(regions: np.ndarray, offset: int) -> np.ndarray:
    """Numbers within a slab as numbers over all slabs, without content."""
    return regions[regions > 0] + offset
