"""Where the tiles of a sliding window lie, and how much each of their voxels counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

GAUSSIAN_PEAK = 10.0
"""Largest weight of a voxel, in the centre of a tile (nnU-Net's value)."""


def tile_starts(image_size: Sequence[int], tile_size: Sequence[int], step: float = 0.5) -> list[list[int]]:
    """First voxel of every tile, per axis: evenly spread, so that the last tile ends with the image.

    Args:
        image_size, tile_size: in voxels; no axis of the image is smaller than the tile.
        step: largest distance of neighbouring tiles, as a part of the tile size, in (0, 1].

    Example:
        >>> tile_starts((110,), (64,))
        [[0, 23, 46]]
    """
    starts = []
    for image, tile in zip(image_size, tile_size, strict=True):
        if image < tile or not 0 < step <= 1:
            raise ValueError(f"tiles of {tile} voxels with step {step} do not fit on an axis of {image}")
        last = image - tile
        num_tiles = math.ceil(last / (tile * step)) + 1
        # `round` takes halves to the even neighbour, as nnU-Net does.
        starts.append([round(i * last / max(num_tiles - 1, 1)) for i in range(num_tiles)])
    return starts


def tile_slices(starts: Sequence[Sequence[int]], tile_size: Sequence[int]) -> list[tuple[slice, ...]]:
    """The tiles as tuples of slices, the last axis changing fastest."""
    return [
        tuple(slice(start, start + size) for start, size in zip(corner, tile_size, strict=True))
        for corner in itertools.product(*starts)
    ]


def gaussian_weights(tile_size: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Weight of every voxel of a tile, float32: a Gaussian.

    Its standard deviation is an eighth of the tile. Networks see less context near the border of a tile, so
    those voxels count less. No weight is zero: a voxel that only one tile covers needs one.
    """
    weights = torch.full((1,) * len(tile_size), GAUSSIAN_PEAK, dtype=torch.float64)
    for axis, size in enumerate(tile_size):
        distance = torch.arange(size, dtype=torch.float64) - size // 2
        shape = [size if each == axis else 1 for each in range(len(tile_size))]
        weights = weights * torch.exp(-0.5 * (distance / (size / 8)) ** 2).view(shape)
    weights = weights.float()
    return weights.clamp_min(float(weights[weights > 0].min())).to(device)


def mirror_combinations(mirror_axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of these axes, the empty one first: what test-time mirroring averages over."""
    return [axes for count in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, count)]


def centre_padding(image_size: Sequence[int], smallest: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis until it has the length `smallest`; an odd one goes after."""
    missing = [max(0, least - size) for size, least in zip(image_size, smallest, strict=True)]
    return [(total // 2, total - total // 2) for total in missing]
