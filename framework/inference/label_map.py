"""Which head of a network wins at every voxel of a finer (or coarser) grid, without interpolating most of them.

Linear interpolation mixes the values at the corners of a cell with positive weights. If the same head is largest at
all corners, it is therefore largest everywhere in the cell; likewise for regions, if the same head is the last
positive one. So winners are found on the grid of the network first, and heads are interpolated only in the few cells
whose corners disagree. This loses nothing: labels are those of full interpolation but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from framework.errors import NonFiniteError
from framework.inference.axis_sampling import AxisCells, AxisSampling

# What the cache of a core holds, or what keeps a GPU busy.
_INTERPOLATED_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 24}
_COMPARED_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 21}
_VOXELS_AT_ONCE = 1 << 21
_VALUES_COPIED_AT_ONCE = 1 << 24
"""Of logits whose type or layout has to be changed; at least two planes of all heads."""


def winners_by_rows(heads: Tensor, axes: Sequence[AxisSampling], regions: bool) -> Iterator[tuple[slice, Tensor]]:
    """The winning head at every voxel of the new grid, a few rows of its first axis at a time.

    Args:
        heads: (K, X, Y, Z) logits of any float type, on the CPU or a GPU.
        axes: how X, Y and Z are sampled.
        regions: False: the winner is the head with the largest value, the first of equal ones; 0 to K - 1.
            True: it is one more than the last head with a positive value, or 0 if there is none.

    Yields:
        Rows of the first axis, and the winners in them (rows, Y', Z') on the device of `heads`.

    Raises:
        NonFiniteError: `heads` hold values that are not finite.
    """
    export = _Winners(heads, axes, regions)
    num_places = len(export.cells[0].lower)
    num_voxels = prod(axis.num_out for axis in axes)
    step = max(1, int(num_places * min(_VOXELS_AT_ONCE / num_voxels, _VALUES_COPIED_AT_ONCE / heads.numel())))
    for start in range(0, num_places, step):
        yield export.of_places(slice(start, min(start + step, num_places)))


def winners_on_own_grid(heads: Tensor, regions: bool) -> Tensor:
    """(X, Y, Z) winners at the voxels of (K, X, Y, Z), as `winners_by_rows` defines them."""
    num_heads = len(heads)
    winners = torch.empty(heads.shape[1:], dtype=_index_type(num_heads), device=heads.device)
    step = max(1, _VALUES_COPIED_AT_ONCE // (num_heads * prod(heads.shape[2:])))
    for start in range(0, heads.shape[1], step):
        slab = heads[:, start : start + step].float().reshape(num_heads, -1)
        _check_finite(slab)
        winners[start : start + step].view(-1).copy_(_largest(slab, regions))
    return winners


class _Winners:
    """What is known from the grid of the network, and how the rest is found.

    Attributes:
        own: (X, Y, Z) winners at its voxels.
        mixed: where the corners of its cells disagree.
        cells: the new voxels along each axis.
    """

    def __init__(self, heads: Tensor, axes: Sequence[AxisSampling], regions: bool) -> None:
        self.heads, self.axes, self.regions = heads, axes, regions
        self.own = winners_on_own_grid(heads, regions)
        self.mixed = _mixed_cells(self.own, axes)
        self.cells = [axis.cells() for axis in axes]

    def of_places(self, part: slice) -> tuple[slice, Tensor]:
        """Rows of the new grid at some successive places of its first axis, and their winners."""
        rows, first = self.cells[0].part(part)
        cells = [first, *self.cells[1:]]
        winners = _taken(self.own, [self.axes[0].nearest[rows], self.axes[1].nearest, self.axes[2].nearest])
        undecided = _taken(self.mixed, [each.lower for each in cells]).nonzero(as_tuple=True)
        if len(undecided[0]):
            self._decide(cells, undecided, winners)
        return rows, winners

    def _decide(self, cells: Sequence[AxisCells], undecided: Sequence[Tensor], winners: Tensor) -> None:
        """Correct the winners in some cells, each given by its place along each axis."""
        low, high = int(cells[0].lower[0]), int(cells[0].lower[-1]) + 1 + cells[0].is_interpolated
        slab = self.heads[:, low:high].float()
        strides = prod(slab.shape[2:]), slab.shape[3], 1
        axes = [_Places(*each, slab.device) for each in zip(cells, (low, 0, 0), strides)]
        largest = max(prod(axis.num_corners for axis in axes), prod(len(axis.targets) for axis in axes))
        at_once = max(1, _INTERPOLATED_AT_ONCE[slab.device.type] // (len(slab) * largest))
        values = slab.reshape(len(slab), -1)
        for chosen in zip(*(index.split(at_once) for index in undecided)):
            voxels, mix = _interpolated(values, axes, chosen, winners.shape)
            winners.view(-1).scatter_(0, voxels, _largest(mix, self.regions).to(winners.dtype))


class _Places:
    """`AxisCells` as tensors, for one axis of a slab.

    Attributes:
        lower: (I,) where the voxels before lie in the slab, counted along this axis alone.
        stride: from one voxel of the slab to the next.
        weights, targets: as there.
    """

    def __init__(self, cells: AxisCells, first: int, stride: int, device: torch.device) -> None:
        self.lower = torch.from_numpy((cells.lower - first) * stride).to(device)
        self.stride = stride
        self.weights = torch.from_numpy(cells.weights).to(device)
        self.targets = torch.from_numpy(cells.targets).to(device)
        self.num_corners = 2 if cells.is_interpolated else 1


def _interpolated(
    values: Tensor, axes: Sequence[_Places], chosen: Sequence[Tensor], shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The new voxels in N cells of a slab, as indices into an array of `shape`, and all heads there.

    Args:
        values: (K, voxels of the slab).
        chosen: (N,) places, for each axis.

    Returns:
        (M,) and (K, M).
    """
    corners = axes[0].lower[chosen[0]] + axes[1].lower[chosen[1]] + axes[2].lower[chosen[2]]
    for axis in axes:
        corners = torch.stack([corners + axis.stride * corner for corner in range(axis.num_corners)], -2)
    mix = values.new_empty(len(values), *corners.shape)
    for head, found in zip(values, mix):  # for all heads at once, torch would copy the whole slab first
        torch.index_select(head, 0, corners.view(-1), out=found.view(-1))
    # (K, 2, 2, 2, N) becomes (K, 2, 2, P, N) and so on: each axis in turn loses its corners in front and finds its P
    # voxels behind.
    for axis, index in zip(axes, chosen):
        before = mix[:, 0].unsqueeze(-2)
        mix = torch.lerp(before, mix[:, 1].unsqueeze(-2), axis.weights[:, index]) if axis.num_corners > 1 else before
    x, y, z = (axis.targets[:, index] for axis, index in zip(axes, chosen))
    voxels = (x[:, None, None] * shape[1] + y[:, None]) * shape[2] + z
    return voxels.view(-1), mix.reshape(len(values), -1)


def _largest(values: Tensor, regions: bool) -> Tensor:
    """(M,) winners of (K, M), in a type that is fast to compare."""
    at_once = _COMPARED_AT_ONCE[values.device.type]
    if values.shape[1] > at_once:
        return torch.cat([_largest(part, regions) for part in values.split(at_once, dim=1)])
    threshold = torch.zeros_like(values[0]) if regions else values[0].clone()
    winner, claim = torch.zeros_like(threshold), torch.empty_like(threshold)
    for k in range(0 if regions else 1, len(values)):
        # Numbers of heads ascend, so the maximum is the last head with a claim. Comparing in the type of the values
        # and multiplying is many times faster than masks are.
        claim.copy_(values[k]).gt_(threshold).mul_(k + 1 if regions else k)
        torch.maximum(winner, claim, out=winner)
        if not regions:
            torch.maximum(threshold, values[k], out=threshold)
    return winner


def _mixed_cells(winners: Tensor, axes: Sequence[AxisSampling]) -> Tensor:
    """True where the corners of a cell do not all have the same winner; one entry less than voxels along each axis
    that is interpolated."""
    lowest = highest = winners
    for dim, axis in enumerate(axes):
        if axis.is_interpolated:
            num_cells = axis.num_in - 1
            lowest = torch.minimum(lowest.narrow(dim, 0, num_cells), lowest.narrow(dim, 1, num_cells))
            highest = torch.maximum(highest.narrow(dim, 0, num_cells), highest.narrow(dim, 1, num_cells))
    return lowest != highest


def _taken(array: Tensor, indices: Sequence) -> Tensor:
    """``array[indices[0]][:, indices[1]][:, :, indices[2]]``; the array grows as late as possible."""
    low, high = int(indices[0][0]), int(indices[0][-1]) + 1
    array = array[low:high]
    for dim, index in ((2, indices[2]), (1, indices[1]), (0, indices[0] - low)):
        array = array.index_select(dim, torch.from_numpy(index).to(array.device))
    return array


def _check_finite(values: Tensor) -> None:
    # The sum is not finite if one value is not, and far cheaper than looking at each.
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        raise NonFiniteError(
            f"{int((~values.isfinite()).sum())} of {values.numel()} logits in one part of the scan are not finite, so "
            "no label can be told from them. Training may have diverged, or half precision is too small for this "
            "network: look at its losses, or predict in float32 (on the CPU)."
        )


def _index_type(num_heads: int) -> torch.dtype:
    return torch.uint8 if num_heads < 256 else torch.int32
