"""Resampling of an image: linear interpolation where the voxels of a patch lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from framework.augmentation.grid import Coordinates, in_patch_order, is_rotated, line, select, slabs


def resample_image(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """Linear interpolation at ``origin + matrix @ p`` for every voxel p of `output`.

    Args:
        image: (C, *box) float32, with as many spatial axes as `matrix` has rows, two voxels or more each.
            Coordinates outside are moved to the border, so whatever lies there continues outwards.
        output: (C, *patch) float32, filled in place.
    """
    if not is_rotated(matrix):
        _resample_axes(*in_patch_order(image, matrix, origin), output)
    elif image.device.type == "cpu":
        _interpolate(image, matrix, origin, output)
    else:
        _grid_sample(image, matrix, origin, output)


def _resample_axes(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """Scaling and turning by right angles: one axis after the other."""
    device, patch = image.device, output.shape[1:]
    lines = []
    for axis, (length, num_voxels) in enumerate(zip(patch, image.shape[1:])):
        lower, weight = line(float(matrix[axis, axis]), float(origin[axis]), length, num_voxels, device)
        view = [1] * image.ndim
        view[1 + axis] = length
        lines.append((lower, (lower + 1).clamp_(max=num_voxels - 1), weight.view(view)))
    for begin, end in slabs(patch, device):
        lower, upper, weight = lines[0]
        slab = _between(image, 1, lower[begin:end], upper[begin:end], weight[:, begin:end])
        for axis, (lower, upper, weight) in enumerate(lines[1:], start=2):
            slab = _between(slab, axis, lower, upper, weight)
        output[:, begin:end] = slab


def _between(image: Tensor, axis: int, lower: Tensor, upper: Tensor, upper_weight: Tensor) -> Tensor:
    return select(image, axis, lower).lerp_(select(image, axis, upper), upper_weight)


def _interpolate(image: Tensor, matrix: np.ndarray, origin: np.ndarray, output: Tensor) -> None:
    """Half the time of grid_sample on a CPU, which computes voxel by voxel: here corners are gathered."""
    box, patch = image.shape[1:], output.shape[1:]
    coordinates = Coordinates(matrix, origin, patch, image.device)
    for begin, end in slabs(patch, image.device):
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
    coordinates = Coordinates(matrix * to_unit[:, None], start, patch, image.device)
    grid = torch.empty((*patch, len(box)), dtype=torch.float32, device=image.device)
    for axis in range(len(box)):
        coordinates.write(axis, 0, patch[0], grid[..., len(box) - 1 - axis])
    output.copy_(grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0])
