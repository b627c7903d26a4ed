"""Where the voxels of a patch lie in the box that was read, for resampling: ``origin + matrix @ p``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.transform import on_device

# Output voxels that are resampled at once on a CPU: the coordinates of a slab stay in the cache.
SLAB_VOXELS = 1 << 17


def is_rotated(matrix: np.ndarray) -> bool:
    """Whether an axis of the box depends on more than one axis of the patch."""
    return bool((np.count_nonzero(matrix, axis=1) > 1).any())


def in_patch_order(array: Tensor, matrix: np.ndarray, origin: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The axes of `array` (C, *box) in the order of the patch's axes that they depend on, without copying.

    Args:
        matrix: not rotated; the returned one is diagonal.
    """
    if np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0:
        return array, matrix, origin
    order = np.abs(matrix).argmax(axis=0)
    return array.permute(0, *(1 + order).tolist()), matrix[order], origin[order]


def slabs(patch: Sequence[int], device: torch.device, num_voxels: int = 0) -> list[tuple[int, int]]:
    """(begin, end) along the first axis of `patch`; on a GPU the whole of it unless `num_voxels` is given."""
    if device.type != "cpu" and not num_voxels:
        return [(0, patch[0])]
    rows = max(1, (num_voxels or SLAB_VOXELS) // max(1, math.prod(patch[1:])))
    return [(begin, min(begin + rows, patch[0])) for begin in range(0, patch[0], rows)]


class Coordinates:
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
            self._first.append(on_device(first.astype(np.float32), device))
            self._rest.append(on_device(rest.astype(np.float32), device))

    def write(self, axis: int, begin: int, end: int, output: Tensor) -> Tensor:
        """Coordinates along `axis` of the box for rows `begin` to `end` of the patch."""
        return torch.add(self._first[axis][begin:end], self._rest[axis], out=output)


def line(step: float, start: float, length: int, num_voxels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower neighbour (int64) and weight of the upper one for coordinates along an axis, clamped to it."""
    coordinates = (start + step * np.arange(length)).clip(0, num_voxels - 1)
    lower = np.minimum(np.floor(coordinates), max(num_voxels - 2, 0))
    weight = (coordinates - lower).astype(np.float32)
    return on_device(lower.astype(np.int64), device), on_device(weight, device)


def select(array: Tensor, axis: int, index: Tensor) -> Tensor:
    """``array.index_select(axis, index)``."""
    if axis < array.ndim - 1:
        return array.index_select(axis, index)
    # Along the last axis this is six times as fast on a CPU.
    return array.gather(axis, index.expand(*array.shape[:-1], len(index)))
