"""Where the tiles of a sliding window lie, and how much each of their voxels counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """One place of the window.

    Attributes:
        source: where its voxels lie in the image, which is padded where it is smaller than a tile.
        target: where those that are no padding lie in the image as it was.
        inner: which voxels of the tile that is.
        weights: how much they count: one vector per axis, whose outer product it is; None where all count fully.
    """

    source: tuple[slice, ...]
    target: tuple[slice, ...]
    inner: tuple[slice, ...]
    weights: tuple[Tensor, ...] | None


def lay_tiles(
    image_size: Sequence[int], tile_size: Sequence[int], step: float = 0.5, use_gaussian: bool = True
) -> list[Tile]:
    """All tiles of an image, the last axis changing fastest.

    Their weights add up to one in every voxel of the image, so that the weighted sum of all tiles is the weighted
    mean and no second volume need count the weights.
    """
    padding = centre_padding(image_size, tile_size)
    padded_size = [size + before + after for size, (before, after) in zip(image_size, padding)]
    starts = tile_starts(padded_size, tile_size, step)
    weights = [
        tile_weights(starts_of_axis, size, use_gaussian) if len(starts_of_axis) > 1 else torch.ones(1, size)
        for starts_of_axis, size in zip(starts, tile_size)
    ]
    inner = tuple(slice(before, size - after) for (before, after), size in zip(padding, tile_size))
    overlap = any(bool((weights_of_axis != 1).any()) for weights_of_axis in weights)
    tiles = []
    for places in itertools.product(*(range(len(starts_of_axis)) for starts_of_axis in starts)):
        corner = [starts_of_axis[place] for starts_of_axis, place in zip(starts, places)]
        tiles.append(
            Tile(
                source=tuple(slice(start, start + size) for start, size in zip(corner, tile_size)),
                target=tuple(
                    slice(start, start + part.stop - part.start) for start, part in zip(corner, inner, strict=True)
                ),
                inner=inner,
                weights=tuple(each[place][part] for each, place, part in zip(weights, places, inner))
                if overlap
                else None,
            )
        )
    return tiles


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
        # Half a slice is no distance: without the limit every slice of a 2D network would be predicted twice.
        num_tiles = math.ceil(last / max(1, tile * step)) + 1
        # `round` takes halves to the even neighbour, as nnU-Net does.
        starts.append([round(i * last / max(num_tiles - 1, 1)) for i in range(num_tiles)])
    return starts


def tile_weights(starts: Sequence[int], tile_size: int, use_gaussian: bool = True) -> Tensor:
    """Weights along one axis, (tiles, tile_size) float32; in each voxel those of all tiles add up to one.

    Before they are made to add up, they are a Gaussian around voxel `tile_size` // 2 with a standard deviation
    of an eighth of the tile: networks see less context near the border of a tile, so those voxels count less.
    The Gaussian of a tile is the product of those of its axes, and tiles lie on a grid. So the sum over all tiles
    is the product of the sums over axes, and what adds up along each axis adds up in space. No voxel is without
    weight: the smallest is e^-8 of the largest along each axis.
    """
    distance = torch.arange(tile_size, dtype=torch.float64) - tile_size // 2
    profile = torch.exp(-0.5 * (distance / (tile_size / 8)) ** 2) if use_gaussian else torch.ones_like(distance)
    total = torch.zeros(max(starts) + tile_size, dtype=torch.float64)
    for start in starts:
        total[start : start + tile_size] += profile
    return torch.stack([profile / total[start : start + tile_size] for start in starts]).float()


def mirror_combinations(mirror_axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of these axes, the empty one first: what test-time mirroring averages over."""
    return [axes for count in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, count)]


def centre_padding(image_size: Sequence[int], smallest: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis until it has the length `smallest`; an odd one goes after."""
    missing = [max(0, least - size) for size, least in zip(image_size, smallest, strict=True)]
    return [(total // 2, total - total // 2) for total in missing]
