"""Transforms that replace a voxel by something computed from its neighbours: blur, median, sharpening."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.grid import SLAB_VOXELS
from framework.augmentation.median import median_of_cubes
from framework.augmentation.transform import (
    Drawn,
    IntensityTransform,
    Uniforms,
    chosen_channels,
    on_device,
    probability_field,
    range_field,
)

# Numbers that are sorted at once on a GPU; with their sorted copy and its indices 1 GB, whatever the patch.
_SORTED_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class GaussianBlur(IntensityTransform):
    """Blurs some channels, with an own width for every axis unless `same_for_all_axes`. Borders are reflected."""

    probability: float = probability_field(0.2)
    probability_per_channel: float = probability_field(0.5)
    sigma: tuple[float, ...] = range_field(0.5, 1.0, 1e-3, 100.0)
    same_for_all_axes: bool = False

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        sigmas: list[tuple[float, ...] | None] = []
        for _ in range(num_channels):
            use = uniforms.chance(self.probability_per_channel)
            widths = tuple(uniforms.between(self.sigma) for _ in range(geometry.num_axes))
            if self.same_for_all_axes:
                widths = widths[:1] * geometry.num_axes
            sigmas.append(widths if use else None)
        return {"sigmas": tuple(sigmas)} if chosen and any(sigmas) else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, sigmas in zip(image, drawn["sigmas"]):
            if sigmas is not None:
                for axis, sigma in enumerate(sigmas):
                    # Along another axis the parts do not depend on each other.
                    across = 0 if axis else 1
                    for part in channel.split(_rows_of_a_slab(channel, across), across):
                        part.copy_(_blur_axis(part, axis, sigma))


def blur_kernel(sigma: float) -> list[float]:
    """One half of a Gaussian kernel, from its centre outwards; the whole sums to 1.

    The length is nnU-Net's: the odd number nearest to 6 sigma + 0.5 (3 to 7 for its range of widths).
    """
    wanted = sigma * 6 + 0.5
    length = round(wanted)
    if length % 2 == 0:
        length += 1 if wanted >= length else -1
    half = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(length // 2 + 1)]
    total = half[0] + 2 * sum(half[1:])
    return [weight / total for weight in half]


def _rows_of_a_slab(channel: Tensor, axis: int) -> int:
    """How many rows along `axis` are treated at once, so that what comes in between stays small; all on a GPU."""
    if channel.device.type != "cpu":
        return channel.shape[axis]
    return max(1, SLAB_VOXELS * channel.shape[axis] // channel.numel())


def _blur_axis(channel: Tensor, axis: int, sigma: float) -> Tensor:
    half = blur_kernel(sigma)
    length, reach = channel.shape[axis], len(half) - 1
    if reach == 0 or length == 1:
        return channel
    position = np.arange(-reach, length + reach) % (2 * length - 2)
    padded = channel.index_select(axis, on_device(np.minimum(position, 2 * length - 2 - position), channel.device))
    blurred = padded.narrow(axis, reach, length) * half[0]
    for tap in range(1, reach + 1):
        blurred.add_(padded.narrow(axis, reach - tap, length), alpha=half[tap])
        blurred.add_(padded.narrow(axis, reach + tap, length), alpha=half[tap])
    return blurred


@dataclass(frozen=True)
class MedianFilter(IntensityTransform):
    """Replaces every voxel of some channels by the median of a cube about it; borders are mirrored.

    `size` is the edge of the cube in voxels. A cube of even edge begins one voxel earlier than it ends, and
    of an even count the upper one of the two middle values is taken, as `scipy.ndimage.median_filter` does.
    """

    probability: float = probability_field(0.2)
    probability_per_channel: float = probability_field(0.5)
    size: tuple[int, ...] = range_field(2, 7, 1, 15)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        sizes = [uniforms.integer(self.size[0], self.size[1]) for _ in range(num_channels)]
        return chosen_channels(uniforms, "sizes", chosen, self.probability_per_channel, sizes)

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, size in zip(image, drawn["sizes"]):
            if size is None:
                continue
            if channel.device.type == "cpu":
                channel.copy_(torch.from_numpy(median_of_cubes(channel.numpy(), size)))
            else:
                channel.copy_(median_by_sorting(channel, size))


def median_by_sorting(channel: Tensor, size: int) -> Tensor:
    """`median_of_cubes` for devices that sort fast."""
    padded = channel
    for axis, length in enumerate(channel.shape):
        position = np.arange(-(size // 2), length + size - size // 2 - 1) % (2 * length)
        padded = padded.index_select(axis, on_device(np.minimum(position, 2 * length - 1 - position), channel.device))
    count = size**channel.ndim
    rows = max(1, _SORTED_AT_ONCE // (count * math.prod(channel.shape[1:])))
    slabs = []
    for begin in range(0, channel.shape[0], rows):
        cubes = padded[begin : begin + rows + size - 1]
        for axis in range(channel.ndim):
            cubes = cubes.unfold(axis, size, 1)
        slabs.append(cubes.flatten(channel.ndim).sort(dim=-1).values[..., count // 2])
    return torch.cat(slabs)


@dataclass(frozen=True)
class Sharpening(IntensityTransform):
    """Subtracts a share of the Laplacian from some channels; borders are continued outwards."""

    probability: float = probability_field(0.2)
    probability_per_channel: float = probability_field(0.5)
    strength: tuple[float, ...] = range_field(0.1, 1.0, 0.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        strengths = [uniforms.between(self.strength) for _ in range(num_channels)]
        return chosen_channels(uniforms, "strengths", chosen, self.probability_per_channel, strengths)

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, strength in zip(image, drawn["strengths"]):
            if strength is not None:
                original = channel.clone()
                for inner, neighbour in _neighbours(channel.ndim):
                    # On the border a voxel counts as its own neighbour, and the difference is zero.
                    channel[inner].add_(original[inner], alpha=strength).sub_(original[neighbour], alpha=strength)


def _neighbours(num_axes: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For every direction: the voxels that have a neighbour there, and these neighbours."""
    for axis in range(num_axes):
        before = (slice(None),) * axis
        first, last = (*before, slice(None, -1)), (*before, slice(1, None))
        yield first, last
        yield last, first
