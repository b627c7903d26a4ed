"""Where the voxels of a finer or coarser grid lie among those of another, axis by axis.

Linear interpolation is separable: three small tables say for every new voxel of an axis which two old ones it lies
between. The rule is that of `framework.preprocessing.resampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framework.preprocessing.label_resampling import nearest_index, sampling_coordinates
from framework.preprocessing.resampling import ANISOTROPY_THRESHOLD, lowres_axis

_LEAST_FILLED = 0.7
"""Cells are worth treating as one where at least this part of the voxels computed for them is there."""


@dataclass(frozen=True)
class AxisSampling:
    """The new voxels along one axis.

    Attributes:
        num_in: old voxels.
        nearest: (num_out,) the nearest old voxel of each new one.
        lower: (num_out,) the old voxel before each new one, or the nearest if the axis is not interpolated.
        weight: (num_out,) float32, of the voxel after `lower`; 0 if the axis is not interpolated.
        is_interpolated: False where voxels are only copied.
    """

    num_in: int
    nearest: np.ndarray
    lower: np.ndarray
    weight: np.ndarray
    is_interpolated: bool

    @classmethod
    def between(cls, num_in: int, num_out: int, order: int) -> AxisSampling:
        """Order 0 takes the nearest voxel, 1 interpolates linearly; there is nothing to do for equal lengths."""
        nearest = nearest_index(num_in, num_out)
        if order == 0 or num_in in (1, num_out):
            return cls(num_in, nearest, nearest, np.zeros(num_out, np.float32), False)
        coordinates = sampling_coordinates(num_in, num_out)
        lower = np.minimum(np.floor(coordinates).astype(np.intp), num_in - 2)
        return cls(num_in, nearest, lower, (coordinates - lower).astype(np.float32), True)

    @property
    def num_out(self) -> int:
        return len(self.nearest)

    @property
    def is_copied(self) -> bool:
        """True if the new voxels are the old ones."""
        return not self.is_interpolated and np.array_equal(self.nearest, np.arange(self.num_in))

    def planes(self, rows: slice) -> slice:
        """The old voxels that some of the new ones are made from."""
        return slice(int(self.lower[rows.start]), int(self.lower[rows.stop - 1]) + 1 + self.is_interpolated)

    def cells(self) -> AxisCells:
        """The new voxels, those together that lie between the same two old ones, if there are about equally many."""
        firsts, counts = np.unique(self.lower, return_index=True, return_counts=True)[1:]
        together = int(np.median(counts)) if self.is_interpolated else 1
        # The first and the last cell have more, because nothing is extrapolated; they become several places.
        starts = [np.arange(first, first + count, together) for first, count in zip(firsts, counts)]
        if self.num_out < _LEAST_FILLED * together * sum(map(len, starts)):
            starts, together = [np.arange(self.num_out)], 1
        last = np.repeat(firsts + counts - 1, [len(each) for each in starts]) if together > 1 else self.num_out
        targets = np.minimum(np.concatenate(starts) + np.arange(together)[:, None], last)
        return AxisCells(self.lower[targets[0]], self.weight[targets], targets, self.is_interpolated)


@dataclass(frozen=True)
class AxisCells:
    """I places along an axis, each between two old voxels, with P new voxels in each.

    Attributes:
        lower: (I,) old voxel before; on it where the axis is not interpolated.
        weights: (P, I) of the voxel after `lower`.
        targets: (P, I) the new voxels, ascending along I; a place that has fewer repeats its last one.
        is_interpolated: False where only `lower` counts.
    """

    lower: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    is_interpolated: bool

    def part(self, places: slice) -> tuple[slice, AxisCells]:
        """The new voxels of some successive places, and these places with targets that count from the first one."""
        rows = slice(int(self.targets[0, places.start]), int(self.targets[-1, places.stop - 1]) + 1)
        chosen = self.lower[places], self.weights[:, places], self.targets[:, places] - rows.start
        return rows, AxisCells(*chosen, self.is_interpolated)


def linear_sampling(
    shape: Sequence[int],
    new_shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    is_seg: bool = False,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = None,
    separate_z_anisotropy_threshold: float = ANISOTROPY_THRESHOLD,
) -> list[AxisSampling] | None:
    """One table for each axis, or None where these arguments of `resample` ask for more than linear interpolation."""
    apart = lowres_axis(spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    orders = [order_z if axis == apart else order for axis in range(len(shape))]
    if is_seg or max(orders) > 1:
        return None
    return [AxisSampling.between(*lengths) for lengths in zip(shape, new_shape, orders, strict=True)]


def resampled_rows(heads: Tensor, axes: Sequence[AxisSampling], axis: int, rows: slice) -> Tensor:
    """Some rows along one axis of interpolated volumes.

    Args:
        heads: (K, X, Y, Z) on the old grid.
        axes: tables for X, Y and Z.
        axis: 0 to 2, the axis that `rows` counts along.

    Returns:
        (K, ...) float32; all of the new grid along the other axes.
    """
    planes = axes[axis].planes(rows)
    values = heads.narrow(axis + 1, planes.start, planes.stop - planes.start).float()
    # Shrinking axes come first and the rows last: that makes the intermediate arrays small.
    others = sorted((i for i in range(3) if i != axis), key=lambda i: (axes[i].num_out / axes[i].num_in, -i))
    for each in others:
        values = _resampled_axis(values, each + 1, axes[each], slice(0, axes[each].num_out), 0)
    return _resampled_axis(values, axis + 1, axes[axis], rows, planes.start)


def _resampled_axis(values: Tensor, dim: int, axis: AxisSampling, rows: slice, first: int) -> Tensor:
    """`values` begin with the old voxel `first` along `dim`."""
    if axis.is_copied:
        return values
    lower = torch.from_numpy(axis.lower[rows] - first).to(values.device)
    before = values.index_select(dim, lower)
    if not axis.is_interpolated:
        return before
    weight = torch.from_numpy(axis.weight[rows]).to(values.device)
    return before.lerp_(values.index_select(dim, lower + 1), weight.view(-1, *(1,) * (values.ndim - dim - 1)))
