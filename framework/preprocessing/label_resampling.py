"""Resizing label maps: every voxel gets the label that has the largest share of it by linear interpolation.

Interpolating one indicator image for each label costs as many passes over the volume as there are labels.
But where all voxels around a sampling point agree, there is nothing to decide; so only the points between
different labels are looked at, all labels at once. The volume is done in slabs, so that little memory is
needed beside the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

_POINTS_AT_ONCE = 1 << 17
_VOXELS_AT_ONCE = 1 << 22


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
    axes = [_Axis.between(*pair) for pair in zip(labels.shape, shape, strict=True)]
    result = np.empty(tuple(shape), labels.dtype)
    num_rows = max(1, _VOXELS_AT_ONCE // max(1, prod(shape[1:]), prod(labels.shape[1:])))
    for start in range(0, shape[0], num_rows):
        rows = slice(start, min(start + num_rows, shape[0]))
        slab, first = axes[0].part(rows)
        _resize_slab(labels[slab], [first, *axes[1:]], order, result[rows])
    return result


@dataclass(frozen=True)
class _Axis:
    """Where each of the new voxels along an axis lies among the old ones.

    Attributes:
        nearest, lower, upper: old voxels; the new one lies between the last two.
        lower_weight: of `lower`; that of `upper` is what is missing to 1.
        is_resized: if not, `lower` says all.
    """

    nearest: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray
    is_resized: bool

    @classmethod
    def between(cls, num_in: int, num_out: int) -> _Axis:
        coordinates = sampling_coordinates(num_in, num_out)
        lower = np.floor(coordinates).astype(np.intp)
        upper = np.minimum(lower + 1, num_in - 1)
        return cls(nearest_index(num_in, num_out), lower, upper, 1.0 - (coordinates - lower), num_in != num_out)

    def part(self, rows: slice) -> tuple[slice, _Axis]:
        """The old voxels that some of the new ones need, and how these lie among them."""
        start, stop = int(self.lower[rows.start]), int(self.upper[rows.stop - 1]) + 1
        nearest, lower, upper = (index[rows] - start for index in (self.nearest, self.lower, self.upper))
        return slice(start, stop), _Axis(nearest, lower, upper, self.lower_weight[rows], self.is_resized)


def _resize_slab(labels: np.ndarray, axes: Sequence[_Axis], order: int, result: np.ndarray) -> None:
    result[...] = _taken(labels, [axis.nearest for axis in axes])
    if order == 0:
        return
    # An axis of one voxel has nothing to lie between.
    resized = [number for number, axis in enumerate(axes) if axis.is_resized and labels.shape[number] > 1]
    mixed = _mixed_cells(labels, resized)
    # A new voxel on the last old one has no cell of its own; looking into the one before does no harm.
    cells = [np.minimum(axis.lower, length - 1) for axis, length in zip(axes, mixed.shape)]
    points = np.nonzero(_taken(mixed, cells))
    for start in range(0, len(points[0]), _POINTS_AT_ONCE):
        chosen = tuple(index[start : start + _POINTS_AT_ONCE] for index in points)
        result[chosen] = _largest_share(labels, axes, chosen, result[chosen])


def _taken(array: np.ndarray, indices: Sequence[np.ndarray]) -> np.ndarray:
    """``array[np.ix_(*indices)]``, faster: whole rows are copied where that is possible."""
    for axis, index in enumerate(indices):
        if len(index) != array.shape[axis] or (np.diff(index) != 1).any():
            array = array.take(index, axis)
    return array


def _mixed_cells(labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """True at a voxel if it and its next neighbours along `axes`, diagonals included, are not all equal; the last
    voxel along each of `axes` has none and is left out."""
    mixed = np.zeros(labels.shape, bool)
    for axis in axes:
        first, second = _pairs(labels, axis)
        differ = first != second
        for done in axes[: axes.index(axis)]:
            differ = _pairs(differ, done)[0]  # one side of the cell: that both are equal is known already
        before, after = _pairs(mixed, axis)
        mixed = before | after
        mixed |= differ
    return mixed


def _pairs(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Every voxel but the last along an axis, and the one after each."""
    return tuple(array[(slice(None),) * axis + (part,)] for part in (slice(None, -1), slice(1, None)))  # type: ignore[return-value]


def _largest_share(
    labels: np.ndarray, axes: Sequence[_Axis], points: tuple[np.ndarray, ...], nearest: np.ndarray
) -> np.ndarray:
    """The winning label at each of N new voxels, given as one array of indices for each axis."""
    # for each axis: old voxels and their weights, the two of the pair in turn
    indices: list[tuple[np.ndarray, ...]] = []
    weights: list[tuple[np.ndarray, ...]] = []
    for axis, point in zip(axes, points):
        if axis.is_resized:
            # The second weight is computed from the first, as scipy does: equal shares stay equal to the last
            # bit.
            weight = axis.lower_weight[point]
            indices.append((axis.lower[point], axis.upper[point]))
            weights.append((weight, 1.0 - weight))
        else:
            indices.append((axis.lower[point],))
            weights.append((np.ones(len(point)),))
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
