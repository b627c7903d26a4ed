"""Resizing label maps: every voxel gets the label that has the largest share of it by linear interpolation.

Interpolating one indicator image for each label costs as many passes over the volume as there are labels.
But where all voxels around a sampling point agree, there is nothing to decide; so only the points between
different labels are looked at, all labels at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

_POINTS_AT_ONCE = 1 << 17


def sampling_coordinates(num_in: int, num_out: int) -> np.ndarray:
    """Where the centres of the new voxels of an axis lie, in old voxels; none is outside of the image."""
    coordinates = (np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5
    return np.clip(coordinates, 0, num_in - 1)


def nearest_index(num_in: int, num_out: int) -> np.ndarray:
    """The old voxel that is nearest to each new one; the later one of two equally near."""
    return np.floor(sampling_coordinates(num_in, num_out) + 0.5).astype(np.intp)


def resize_labels(labels: np.ndarray, shape: Sequence[int], order: int = 1) -> np.ndarray:
    """A label map on a grid of another shape over the same space.

    Args:
        labels: integers, any number of axes.
        shape: the new lengths; axes that keep theirs are not interpolated.
        order: 0 takes the nearest voxel; 1 the label whose linearly interpolated indicator is largest. Where
            two are equal, the label of the nearest voxel if it is one of them, else the smallest.
    """
    lengths = list(zip(labels.shape, shape, strict=True))
    result = labels[np.ix_(*(nearest_index(*pair) for pair in lengths))]
    if order == 0:
        return result
    axes = [axis for axis, (num_in, num_out) in enumerate(lengths) if num_in != num_out]
    # first voxel of the pair around each new voxel, along each axis
    lower = [
        np.floor(sampling_coordinates(*pair)).astype(np.intp) if axis in axes else np.arange(pair[0])
        for axis, pair in enumerate(lengths)
    ]
    points = np.nonzero(_mixed_cells(labels, axes)[np.ix_(*lower)])
    for start in range(0, len(points[0]), _POINTS_AT_ONCE):
        chosen = tuple(index[start : start + _POINTS_AT_ONCE] for index in points)
        result[chosen] = _largest_share(labels, lengths, axes, lower, chosen, result[chosen])
    return result


def _mixed_cells(labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """True at a voxel if it and its next neighbours along `axes`, diagonals included, are not all equal."""
    lowest, highest = labels, labels
    for axis in axes:
        following = np.minimum(np.arange(labels.shape[axis]) + 1, labels.shape[axis] - 1)
        lowest = np.minimum(lowest, lowest.take(following, axis))
        highest = np.maximum(highest, highest.take(following, axis))
    return lowest != highest


def _largest_share(
    labels: np.ndarray,
    lengths: Sequence[tuple[int, int]],
    axes: Sequence[int],
    lower: Sequence[np.ndarray],
    points: tuple[np.ndarray, ...],
    nearest: np.ndarray,
) -> np.ndarray:
    """The winning label at each of N new voxels, given as one array of indices for each axis."""
    # for each axis: old voxels and their weights, the two of the pair in turn
    indices: list[tuple[np.ndarray, ...]] = []
    weights: list[tuple[np.ndarray, ...]] = []
    for axis, (num_in, num_out) in enumerate(lengths):
        first = lower[axis][points[axis]]
        if axis in axes:
            # The second weight is computed from the first, as scipy does: equal shares stay equal to the last
            # bit.
            weight = 1.0 - (sampling_coordinates(num_in, num_out) - lower[axis])[points[axis]]
            indices.append((first, np.minimum(first + 1, num_in - 1)))
            weights.append((weight, 1.0 - weight))
        else:
            indices.append((first,))
            weights.append((np.ones(len(first)),))
    corners = [labels[corner] for corner in itertools.product(*indices)]
    shares = []
    for factors in itertools.product(*weights):
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        shares.append(product)

    def share_of(candidate: np.ndarray) -> np.ndarray:
        total = np.zeros(len(candidate))
        for corner, share in zip(corners, shares):
            total += np.where(corner == candidate, share, 0.0)
        return total

    best, winner = np.full(len(nearest), -1.0), nearest
    for candidate in corners:
        share = share_of(candidate)
        better = (share > best) | ((share == best) & (candidate < winner))
        winner, best = np.where(better, candidate, winner), np.maximum(best, share)
    return np.where(share_of(nearest) == best, nearest, winner)
