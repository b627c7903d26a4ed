"""Rotation and scaling: which voxels a turned patch needs, and how image and labels are resampled.

A voxel at index p of the patch (measured from the patch centre) shows the image at ``centre + matrix @ p``.
The image is interpolated linearly. For labels the value with the largest interpolated weight wins, as if
every label were resampled as its own image; only voxels between different labels need that computation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

OUTSIDE_LABEL = -1
# Output voxels that are resampled at once on a CPU: the coordinates of a slab stay in the cache.
_SLAB_VOXELS = 1 << 17
_MIXED = -32768
# A nearest label this close to the best one wins. nnU-Net compares weights in half precision, where such
# differences vanish, and gives ties to the nearest label.
_TIE_MARGIN = 2.5e-4

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SpatialDraw:
    """A drawn rotation and scaling.

    Attributes:
        angles_degrees: about axes 0, 1, 2 of the patch; one angle within the slices if there is only one.
        scale: above 1 the patch shows a larger part of the image, so objects become smaller.
    """

    angles_degrees: tuple[float, ...]
    scale: float

    @property
    def is_rotated(self) -> bool:
        """Whether any angle differs from zero."""
        return any(angle != 0 for angle in self.angles_degrees)

    def matrix(self) -> np.ndarray:
        """(2, 2) or (3, 3) float64: offsets in the patch -> offsets in the image."""
        if len(self.angles_degrees) == 1:
            return _rotation_2d(math.radians(self.angles_degrees[0])) * self.scale
        about = [math.radians(angle) for angle in self.angles_degrees]
        first, second, third = np.eye(3), np.eye(3), np.eye(3)
        first[1:, 1:] = _rotation_2d(about[0])
        # The middle axis turns the other way round, because it is written for right-handed axes.
        second[::2, ::2] = _rotation_2d(-about[1])
        third[:2, :2] = _rotation_2d(about[2])
        return third @ second @ first * self.scale


def _rotation_2d(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def source_box(
    corner: Sequence[int], patch_size: Sequence[int], image_shape: Sequence[int], matrix: np.ndarray | None
) -> Box:
    """The voxels that a patch needs, as (start, stop) for every axis; may reach outside of the image.

    Args:
        corner: first voxel of the patch in the image, before the transform. Three axes, like the next two.
        patch_size: of the patch to be made.
        image_shape: a transformed patch gets at most two voxels beyond it: further out all is the same.
        matrix: from `SpatialDraw.matrix`, acting on the last axes, or None for a plain crop.
    """
    box = [(int(start), int(start) + int(size)) for start, size in zip(corner, patch_size)]
    if matrix is None:
        return tuple(box)
    turned = len(matrix)
    first = len(box) - turned
    size = np.array(patch_size[first:], dtype=float)
    centre = np.array(corner[first:]) + (size - 1) / 2
    reach = np.abs(matrix) @ ((size - 1) / 2)
    for axis in range(turned):
        length = image_shape[first + axis]
        # Two and not one, so that what lies further out falls between equal voxels (see `_uniform_cells`).
        start = max(math.floor(centre[axis] - reach[axis] - 1e-4), -2)
        stop = min(math.floor(centre[axis] + reach[axis] + 1e-4) + 2, length + 2)
        start = min(start, length - 1)
        box[first + axis] = (start, max(stop, start + 2))
    return tuple(box)


def origin_in_box(corner: Sequence[int], patch_size: Sequence[int], box: Box, matrix: np.ndarray) -> np.ndarray:
    """Where voxel (0, ..., 0) of the patch lies in the array that was read for `box`, on the turned axes."""
    first = len(box) - len(matrix)
    size = np.array(patch_size[first:], dtype=float)
    centre = np.array(corner[first:]) + (size - 1) / 2 - np.array([start for start, _ in box[first:]])
    return centre - matrix @ ((size - 1) / 2)


def resample_image(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """Linear interpolation at ``origin + matrix @ p`` for every voxel p of `output`.

    Args:
        image: (C, *box) float32, with as many spatial axes as `matrix` has rows, two voxels or more each.
            Coordinates outside are moved to the border, so whatever lies there continues outwards.
        output: (C, *patch) float32, filled in place.
    """
    if _is_diagonal(matrix):
        _resample_axes(image, matrix, origin, output)
    elif image.device.type == "cpu":
        _interpolate(image, matrix, origin, output)
    else:
        _grid_sample(image, matrix, origin, output)


def resample_labels(labels: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """The label of largest linearly interpolated weight at ``origin + matrix @ p``; ties go to the nearest.

    Args:
        labels: (K, *box) int16; the K arrays (slices, where those stand for channels) share the coordinates.
            Coordinates outside are moved to the border, so whatever lies there continues outwards.
        output: (K, *patch) int16, filled in place.
    """
    lowest, highest = torch.aminmax(labels)
    if labels.device.type == "cpu" and lowest.item() == highest.item():
        output.fill_(lowest.item())
        return
    cells = _uniform_cells(labels)
    if _is_diagonal(matrix):
        codes = _select_cells(cells, matrix, origin, output.shape[1:])
    else:
        codes = _gather_cells(cells, matrix, origin, output.shape[1:])
    output.copy_(codes)
    mixed = (codes == _MIXED).nonzero(as_tuple=True)
    if len(mixed[0]):
        output[mixed] = _strongest_label(labels, torch.stack(mixed), matrix, origin)


def _is_diagonal(matrix: np.ndarray) -> bool:
    return not np.any(matrix - np.diag(np.diag(matrix)))


def _slabs(patch: Sequence[int], device: torch.device, num_voxels: int = 0) -> list[tuple[int, int]]:
    rows = max(1, (num_voxels or _SLAB_VOXELS) // max(1, math.prod(patch[1:])))
    if device.type != "cpu":
        rows = patch[0]
    return [(begin, min(begin + rows, patch[0])) for begin in range(0, patch[0], rows)]


class _Coordinates:
    """``start + step @ p`` along every axis of the box, for slabs of the patch.

    The coordinates of an affine map are sums of one line per axis of the patch, so that a slab costs
    one addition a voxel.
    """

    def __init__(self, step: np.ndarray, start: np.ndarray, patch: Sequence[int], device: torch.device) -> None:
        self._first: list[Tensor] = []
        self._rest: list[Tensor] = []
        for factors, offset in zip(step, start):
            lines = [np.arange(length) * factor for factor, length in zip(factors, patch)]
            rest = lines[1] if len(lines) == 2 else lines[1][:, None] + lines[2]
            first = (lines[0] + offset).reshape(-1, *[1] * rest.ndim)
            # Sums in float64 up to here: an offset of some hundred voxels would cost digits otherwise.
            self._first.append(torch.from_numpy(first.astype(np.float32)).to(device))
            self._rest.append(torch.from_numpy(rest.astype(np.float32)).to(device))

    def write(self, axis: int, begin: int, end: int, output: Tensor) -> Tensor:
        """Coordinates along `axis` of the box for rows `begin` to `end` of the patch."""
        return torch.add(self._first[axis][begin:end], self._rest[axis], out=output)


def _line(step: float, start: float, length: int, num_voxels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower neighbour (int64) and weight of the upper one for coordinates along an axis, clamped to it."""
    coordinates = (start + step * np.arange(length)).clip(0, num_voxels - 1)
    lower = np.minimum(np.floor(coordinates), max(num_voxels - 2, 0))
    weight = (coordinates - lower).astype(np.float32)
    return torch.from_numpy(lower.astype(np.int64)).to(device), torch.from_numpy(weight).to(device)


def _resample_axes(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """Scaling without rotation: one axis after the other."""
    for axis in range(len(matrix)):
        length, num_voxels = output.shape[1 + axis], image.shape[1 + axis]
        step, start = float(matrix[axis, axis]), float(origin[axis])
        lower, weight = _line(step, start, length, num_voxels, image.device)
        view = [1] * image.ndim
        view[1 + axis] = length
        below = _select(image, 1 + axis, lower)
        above = _select(image, 1 + axis, (lower + 1).clamp_(max=num_voxels - 1))
        image = below.lerp_(above, weight.view(view))
    output.copy_(image)


def _interpolate(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """Half the time of grid_sample on a CPU, which computes voxel by voxel: here corners are gathered."""
    box, patch = image.shape[1:], output.shape[1:]
    coordinates = _Coordinates(matrix, origin, patch, image.device)
    for begin, end in _slabs(patch, image.device):
        index = torch.zeros((end - begin, *patch[1:]), dtype=torch.int32)
        weights = []
        for axis, length in enumerate(box):
            along = coordinates.write(axis, begin, end, torch.empty(index.shape)).clamp_(0, length - 1)
            lower = along.floor().clamp_(max=length - 2)
            index.mul_(length).add_(lower.to(torch.int32))
            weights.append(along.sub_(lower).view(-1))
        for channel, target in zip(image, output):
            values = _between_corners(channel.reshape(-1), index.view(-1), box, weights)
            target[begin:end] = values.view(index.shape)


def _between_corners(flat: Tensor, index: Tensor, box: Sequence[int], weights: list[Tensor]) -> Tensor:
    """Interpolate along the first of `box`'s axes between what is interpolated along the others."""
    stride = math.prod(box[1:])
    if len(box) == 1:
        lower, upper = flat.index_select(0, index), flat[stride:].index_select(0, index)
    else:
        lower = _between_corners(flat, index, box[1:], weights[1:])
        upper = _between_corners(flat[stride:], index, box[1:], weights[1:])
    return lower.lerp_(upper, weights[0])


def _grid_sample(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    box, patch = image.shape[1:], output.shape[1:]
    # grid_sample wants coordinates in [-1, 1] from edge to edge, last axis first.
    to_unit = 2.0 / np.array(box, dtype=float)
    start = (origin + 0.5) * to_unit - 1.0
    coordinates = _Coordinates(matrix * to_unit[:, None], start, patch, image.device)
    grid = torch.empty((*patch, len(box)), dtype=torch.float32, device=image.device)
    for axis in range(len(box)):
        coordinates.write(axis, 0, patch[0], grid[..., len(box) - 1 - axis])
    output.copy_(grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0])


def _uniform_cells(labels: Tensor) -> Tensor:
    """(K, *box - 1) int16: the label of a cell of 2 x 2 (x 2) voxels that are all the same, else `_MIXED`."""
    shape = [length - 1 for length in labels.shape[1:]]
    cells = torch.empty((len(labels), *shape), dtype=labels.dtype, device=labels.device)
    code = torch.full((), _MIXED, dtype=labels.dtype, device=labels.device)
    for begin, end in _slabs(shape, labels.device, 2 * _SLAB_VOXELS):
        voxels = labels[:, begin : end + 1]
        mixed = voxels[:, :-1] != voxels[:, 1:]
        for axis in range(2, labels.ndim):
            count = labels.shape[axis] - 1
            mixed = mixed.narrow(axis, 0, count) | mixed.narrow(axis, 1, count)
            # One row of the cell is enough: that its rows are equal is known already.
            edges = voxels.narrow(1, 0, end - begin)
            for done in range(2, axis):
                edges = edges.narrow(done, 0, labels.shape[done] - 1)
            mixed |= edges.narrow(axis, 0, count) != edges.narrow(axis, 1, count)
        lowest = voxels[(slice(None), *(slice(0, length) for length in mixed.shape[1:]))]
        torch.where(mixed, code, lowest, out=cells[:, begin:end])
    return cells


def _select_cells(cells: Tensor, matrix: np.ndarray, origin: np.ndarray, patch: Sequence[int]) -> Tensor:
    for axis in range(len(matrix)):
        num_voxels = cells.shape[1 + axis] + 1
        start, step = float(origin[axis]), float(matrix[axis, axis])
        lower, _ = _line(step, start, patch[axis], num_voxels, cells.device)
        cells = _select(cells, 1 + axis, lower)
    return cells


def _select(array: Tensor, axis: int, index: Tensor) -> Tensor:
    if axis < array.ndim - 1:
        return array.index_select(axis, index)
    # Along the last axis this is six times as fast on a CPU.
    return array.gather(axis, index.expand(*array.shape[:-1], len(index)))


def _gather_cells(cells: Tensor, matrix: np.ndarray, origin: np.ndarray, patch: Sequence[int]) -> Tensor:
    num_arrays, shape = cells.shape[0], cells.shape[1:]
    flat = cells.reshape(num_arrays, -1)
    output = torch.empty((num_arrays, *patch), dtype=cells.dtype, device=cells.device)
    coordinates = _Coordinates(matrix, origin, patch, cells.device)
    for begin, end in _slabs(patch, cells.device):
        slab = (end - begin, *patch[1:])
        along = torch.empty(slab, dtype=torch.float32, device=cells.device)
        index = torch.zeros(slab, dtype=torch.int32, device=cells.device)
        for axis, length in enumerate(shape):
            coordinates.write(axis, begin, end, along)
            # Truncation is floor here, since the clamp leaves nothing below zero.
            index.mul_(length).add_(along.clamp_(0, length - 1).to(torch.int32))
        # One array at a time: selecting from a single row is the fast case on a CPU.
        for source, target in zip(flat, output):
            target[begin:end] = source.index_select(0, index.view(-1)).view(slab)
    return output


def _strongest_label(labels: Tensor, voxels: Tensor, matrix: np.ndarray, origin: np.ndarray) -> Tensor:
    """Labels (M,) for M voxels of the patch, given as (1 + axes, M): array and position."""
    num_axes = len(matrix)
    position = voxels[1:].to(torch.float64 if labels.device.type == "cpu" else torch.float32)
    index, nearest_index = voxels[0], voxels[0]
    weights: list[Tensor] = []
    for axis in range(num_axes):
        length = labels.shape[1 + axis]
        coordinate = position[0] * float(matrix[axis, 0])
        for other in range(1, num_axes):
            coordinate.add_(position[other], alpha=float(matrix[axis, other]))
        coordinate.add_(float(origin[axis])).clamp_(0, length - 1)
        lower = coordinate.floor().clamp_(max=length - 2)
        upper_weight = coordinate.sub_(lower).to(torch.float32)
        lower_index = lower.to(torch.int64)
        index = lower_index.add(index, alpha=length)
        nearest_index = lower_index.add_(upper_weight > 0.5).add_(nearest_index, alpha=length)
        weights.append(upper_weight)
    flat = labels.reshape(-1)
    result = flat.index_select(0, nearest_index)
    corners, corner_weights = _corners(flat, index, weights, labels.shape[1:])
    score = (corner_weights * (corners == result)).sum(0)
    # More than half of the weight cannot be beaten; this settles most voxels.
    open_voxels = (score < 0.5).nonzero()[:, 0]
    if len(open_voxels):
        corners, corner_weights = corners[:, open_voxels], corner_weights[:, open_voxels]
        scores = ((corners[:, None] == corners) * corner_weights).sum(1)
        best_score, best = scores.max(0)
        best_label = corners.gather(0, best[None])[0]
        near = best_score <= score[open_voxels] + _TIE_MARGIN
        result[open_voxels] = torch.where(near, result[open_voxels], best_label)
    return result


def _corners(flat: Tensor, index: Tensor, upper_weights: list[Tensor], box: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels and weights (2**axes, M) at the corners of the cells whose lowest corner is at `index`."""
    offsets = torch.zeros(1, dtype=torch.int64)
    weights = torch.ones((1, len(index)), device=index.device)
    for axis, upper in enumerate(upper_weights):
        offsets = torch.cat([offsets, offsets + math.prod(box[axis + 1 :])])
        weights = torch.cat([weights * (1 - upper), weights * upper])
    places = index + offsets.to(index.device)[:, None]
    return flat.index_select(0, places.view(-1)).view(places.shape), weights
