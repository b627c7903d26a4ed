"""Whether labels follow the image: at their borders the brightness changes more than next to them."""

from __future__ import annotations

import numpy as np

_MAX_PAIRS = 30_000  # of neighbouring voxels with different labels, for each axis
_MIN_PAIRS = 50
_SHIFTS = (3, 5)  # voxels; wider than the blur of an edge, narrower than most structures
_SEED = 0


def border_sharpness(image: np.ndarray, segmentation: np.ndarray) -> float | None:
    """Mean change of brightness across label borders, relative to the same borders moved a few voxels.

    Well above 1 where the labels follow edges of the image; about 1 where they have nothing to do with it, as with
    the labels of another scan. How far above depends on the structures, so compare it only within a dataset.

    Args:
        image: (X, Y, Z), finite.
        segmentation: (X, Y, Z) integers.

    Returns:
        None where there are too few borders to tell.
    """
    image = np.asarray(image)
    random = np.random.default_rng(_SEED)
    inside, outside = [], []
    for axis in range(segmentation.ndim):
        if segmentation.shape[axis] < 2:
            continue
        lengthwise = np.moveaxis(segmentation, axis, 0)
        differs = np.moveaxis(lengthwise[1:] != lengthwise[:-1], 0, axis)
        flat = np.flatnonzero(differs)
        if flat.size > _MAX_PAIRS:
            flat = np.sort(random.choice(flat, _MAX_PAIRS, replace=False))
        first = np.stack(np.unravel_index(flat, differs.shape), axis=1)
        second = first.copy()
        second[:, axis] += 1
        inside.append(first)
        outside.append(second)
    if sum(map(len, inside)) < _MIN_PAIRS:
        return None
    here, there = np.concatenate(inside), np.concatenate(outside)
    at_borders = _mean_change(image, here, there)
    moved = []
    for axis in range(segmentation.ndim):
        for length in _SHIFTS:
            for shift in (-length, length):
                offset = np.zeros(segmentation.ndim, int)
                offset[axis] = shift
                change = _mean_change(image, here + offset, there + offset)
                if change is not None:
                    moved.append(change)
    if at_borders is None or not moved or not np.mean(moved) > 0:
        return None
    return float(at_borders / np.mean(moved))


def _mean_change(image: np.ndarray, here: np.ndarray, there: np.ndarray) -> float | None:
    """Mean absolute difference of pairs of voxels; None if too few of them lie in the image."""
    size = np.array(image.shape)
    within = ((here >= 0) & (here < size) & (there >= 0) & (there < size)).all(axis=1)
    if within.sum() < _MIN_PAIRS:
        return None
    first, second = image[tuple(here[within].T)], image[tuple(there[within].T)]
    return float(np.abs(first.astype(np.float64) - second.astype(np.float64)).mean())
