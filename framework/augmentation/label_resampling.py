"""Resampling of labels: at every voxel of a patch the label with the largest interpolated weight.

As if every label were resampled as its own image; only voxels between different labels need that computation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.grid import SLAB_VOXELS, Coordinates, in_patch_order, is_rotated, line, select, slabs
from framework.augmentation.transform import on_device

_MIXED = -32768
# A nearest label this close to the best one wins. nnU-Net compares weights in half precision, where such
# differences vanish, and gives ties to the nearest label.
_TIE_MARGIN = 2.5e-4
# Voxels whose corners are all looked at, at once: about 400 MB.
_DENSE_VOXELS = 1 << 22


def resample_labels(labels: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """The label of largest linearly interpolated weight at ``origin + matrix @ p``; ties go to the nearest.

    Args:
        labels: (K, *box) int16; the K arrays (slices, where those stand for channels) share the coordinates.
            Coordinates outside are moved to the border, so whatever lies there continues outwards.
        output: (K, *patch) int16, filled in place.
    """
    if labels.device.type == "cpu":
        _resample_where_labels_meet(labels, matrix, origin, output)
    else:
        resample_everywhere(labels, matrix, origin, output)


def _resample_where_labels_meet(labels: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """The least work: what lies between equal labels is copied. Reads results in between, which a GPU waits for."""
    lowest, highest = torch.aminmax(labels)
    if lowest.item() == highest.item():
        output.fill_(lowest.item())
        return
    if is_rotated(matrix):
        _gather_cells(_uniform_cells(labels), matrix, origin, output)
    else:
        labels, matrix, origin = in_patch_order(labels, matrix, origin)
        output.copy_(_select_cells(_uniform_cells(labels), matrix, origin, output.shape[1:]))
    for begin, end in slabs(output.shape[1:], output.device, max(1, 2 * SLAB_VOXELS // len(output))):
        part = output[:, begin:end]
        mixed = (part == _MIXED).nonzero(as_tuple=True)
        if len(mixed[0]):
            voxels = torch.stack(mixed)
            voxels[1] += begin
            part[mixed] = _strongest_label(labels, voxels, matrix, origin)


def resample_everywhere(labels: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """`resample_labels` for a GPU: the same steps for every voxel, and no result that the host has to wait for."""
    box, patch = labels.shape[1:], output.shape[1:]
    coordinates = Coordinates(matrix, origin, patch, labels.device)
    for begin, end in slabs(patch, labels.device, _DENSE_VOXELS):
        shape = (end - begin, *patch[1:])
        index = nearest_index = torch.zeros(shape, dtype=torch.int64, device=labels.device)
        weights: list[Tensor] = []
        for axis, length in enumerate(box):
            along = torch.empty(shape, dtype=torch.float32, device=labels.device)
            coordinates.write(axis, begin, end, along).clamp_(0, length - 1)
            lower = along.floor().clamp_(max=length - 2)
            upper_weight = along.sub_(lower)
            index = lower.to(torch.int64) + index * length
            nearest_index = (lower + (upper_weight > 0.5)).to(torch.int64) + nearest_index * length
            weights.append(upper_weight.view(-1))
        for array, target in zip(labels, output):
            flat = array.reshape(-1)
            nearest = flat.index_select(0, nearest_index.view(-1))
            corners, corner_weights = _corners(flat, index.view(-1), weights, box)
            target[begin:end] = _winner(corners, corner_weights, nearest).view(shape)


def _winner(corners: Tensor, weights: Tensor, nearest: Tensor) -> Tensor:
    """(M,) labels of largest total weight among the corners (corners, M), or `nearest` (M,) where it ties."""
    best_label, best_score = nearest, (weights * (corners == nearest)).sum(0).add_(_TIE_MARGIN)
    for candidate in corners:
        score = (weights * (corners == candidate)).sum(0)
        better = score > best_score
        best_label = torch.where(better, candidate, best_label)
        best_score = torch.where(better, score, best_score)
    return best_label


def _uniform_cells(labels: Tensor) -> Tensor:
    """(K, *box - 1) int16: the label of a cell of 2 x 2 (x 2) voxels that are all the same, else `_MIXED`."""
    shape = [length - 1 for length in labels.shape[1:]]
    cells = torch.empty((len(labels), *shape), dtype=labels.dtype, device=labels.device)
    code = torch.full((), _MIXED, dtype=labels.dtype, device=labels.device)
    for begin, end in slabs(shape, labels.device, 2 * SLAB_VOXELS):
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
        lower, _ = line(step, start, patch[axis], num_voxels, cells.device)
        cells = select(cells, 1 + axis, lower)
    return cells


def _gather_cells(cells: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    shape, patch = cells.shape[1:], output.shape[1:]
    flat = cells.reshape(len(cells), -1)
    coordinates = Coordinates(matrix, origin, patch, cells.device)
    for begin, end in slabs(patch, cells.device):
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


def _strongest_label(labels: Tensor, voxels: Tensor, matrix: np.ndarray, origin: np.ndarray) -> Tensor:
    """Labels (M,) for M voxels of the patch, given as (1 + axes, M): array and position."""
    num_axes = len(matrix)
    position = voxels[1:].to(torch.float64)
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
        result[open_voxels] = _winner(corners[:, open_voxels], corner_weights[:, open_voxels], result[open_voxels])
    return result


def _corners(flat: Tensor, index: Tensor, upper_weights: list[Tensor], box: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels and weights (2**axes, M) at the corners of the cells whose lowest corner is at `index`."""
    offsets = np.zeros(1, dtype=np.int64)
    weights = torch.ones((1, len(index)), device=index.device)
    for axis, upper in enumerate(upper_weights):
        offsets = np.concatenate([offsets, offsets + math.prod(box[axis + 1 :])])
        weights = torch.cat([weights * (1 - upper), weights * upper])
    places = index + on_device(offsets, index.device)[:, None]
    return flat.index_select(0, places.view(-1)).view(places.shape), weights
