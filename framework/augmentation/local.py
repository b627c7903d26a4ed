"""Transforms that change a part of the patch: blank rectangles, and what fades out with distance from a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.transform import (
    Drawn,
    IntensityTransform,
    Uniforms,
    chosen_channels,
    on_device,
    powered,
    probability_field,
    range_field,
)


@dataclass(frozen=True)
class BlankRectangles(IntensityTransform):
    """Fills boxes of some channels with the mean of what they held.

    `size` is the range of a box's edge as a share of the patch's edge, the upper end excluded; `number` how
    many boxes a channel gets. A box may lie on another one, and then averages over it.
    """

    probability: float = probability_field(0.4)
    probability_per_channel: float = probability_field(0.5)
    number: tuple[int, ...] = range_field(1, 4, 1, 100)
    size: tuple[float, ...] = range_field(0.1, 0.33333333, 0.0, 1.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        channels = []
        for _ in range(num_channels):
            number = uniforms.integer(self.number[0], self.number[1])
            boxes = [self._draw_box(uniforms, geometry.patch_size) for _ in range(self.number[1])]
            channels.append(tuple(boxes[:number]))
        return chosen_channels(uniforms, "boxes", chosen, self.probability_per_channel, channels)

    def _draw_box(self, uniforms: Uniforms, patch_size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(start, stop) along every axis."""
        box = []
        for length in patch_size:
            lowest = _whole_share(length, self.size[0])
            edge = uniforms.integer(lowest, max(lowest, _whole_share(length, self.size[1]) - 1))
            start = uniforms.integer(0, length - edge)
            box.append((start, start + edge))
        return tuple(box)

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, boxes in zip(image, drawn["boxes"]):
            for box in boxes or ():
                inside = channel[tuple([slice(start, stop) for start, stop in box])]
                inside.copy_(inside.mean())


def _whole_share(length: int, share: float) -> int:
    """A share of an edge in whole voxels, rounded down, at least 1; 0.33333333 of 96 is 32."""
    return max(1, int(length * share + 1e-5))


@dataclass(frozen=True)
class _Local(IntensityTransform):
    """Acts most at a point and less with distance, as a Gaussian of an own width along every axis.

    `centre` is the range of the point along each axis, as a share of the patch's edge: 0 to 1 lies inside.
    `width` is the range of the standard deviation, likewise, with a uniform logarithm.
    """

    probability: float = probability_field(0.3)
    probability_per_channel: float = probability_field(0.5)
    centre: tuple[float, ...] = range_field(-0.5, 1.5, -10.0, 10.0)
    width: tuple[float, ...] = range_field(0.16666667, 1.0, 1e-3, 100.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        channels = []
        for _ in range(num_channels):
            centre = tuple([uniforms.between(self.centre) * length for length in geometry.patch_size])
            width = tuple([self._draw_width(uniforms, length) for length in geometry.patch_size])
            channels.append({"centre": centre, "width": width, **self._draw_amount(uniforms)})
        return chosen_channels(uniforms, "channels", chosen, self.probability_per_channel, channels)

    def _draw_width(self, uniforms: Uniforms, length: int) -> float:
        narrowest = _whole_share(length, self.width[0])
        return uniforms.between_logarithms((narrowest, max(narrowest, length * self.width[1])))

    def _draw_amount(self, uniforms: Uniforms) -> dict[str, float]:
        raise NotImplementedError


@dataclass(frozen=True)
class BrightnessGradient(_Local):
    """Adds a smooth hill or hollow of grey values to some channels; `strength` is its height."""

    strength: tuple[float, ...] = range_field(1.0, 5.0, 0.0)

    def _draw_amount(self, uniforms: Uniforms) -> dict[str, float]:
        sign = -1 if uniforms.chance(0.5) else 1
        return {"strength": sign * uniforms.between(self.strength)}

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, entry in zip(image, drawn["channels"]):
            if entry is not None:
                channel.add_(
                    hill(channel.shape, entry["centre"], entry["width"], channel.device), alpha=entry["strength"]
                )


@dataclass(frozen=True)
class LocalGamma(_Local):
    """Raises the grey values of some channels, mapped to [0, 1], to a power, fully at one point and less around.

    The exponent is from `low_exponent` or `high_exponent`, equally often. Darkest and brightest value stay.
    """

    low_exponent: tuple[float, ...] = range_field(0.01, 0.8, 1e-3)
    high_exponent: tuple[float, ...] = range_field(1.5, 4.0, 1e-3)

    def _draw_amount(self, uniforms: Uniforms) -> dict[str, float]:
        low = uniforms.chance(0.5)
        return {"exponent": uniforms.between(self.low_exponent if low else self.high_exponent)}

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, entry in zip(image, drawn["channels"]):
            if entry is not None:
                lowest, highest = torch.aminmax(channel)
                span = (highest - lowest).clamp_(min=1e-8)
                channel.sub_(lowest).div_(span)
                share = hill(channel.shape, entry["centre"], entry["width"], channel.device)
                channel.lerp_(powered(channel.clone(), entry["exponent"]), share).mul_(span).add_(lowest)


def hill(shape: Sequence[int], centre: Sequence[float], width: Sequence[float], device: torch.device) -> Tensor:
    """A Gaussian over a patch, stretched to [0, 1]; all zero where it is the same everywhere.

    Args:
        shape: of the patch.
        centre: along every axis in voxels, from the patch's edge; may lie outside.
        width: standard deviation along every axis in voxels.
    """
    from scipy.special import ndtr  # 15 MB and 0.1 s that most recipes do not need

    result, lowest = torch.ones((), device=device), 1.0
    for axis, length in enumerate(shape):
        # The Gaussian's mass in every voxel, relative to the largest: a product over the axes has maximum 1.
        edges = (np.arange(length + 1) - 0.5 - centre[axis]) / width[axis]
        lower, upper = edges[:-1], edges[1:]
        # Mirrored to below the centre, where the distribution function is small and its differences keep digits.
        above = lower > 0
        mass = ndtr(np.where(above, -lower, upper)) - ndtr(np.where(above, -upper, lower))
        mass /= mass.max()
        lowest *= float(mass.min())
        profile = on_device(mass.astype(np.float32), device)
        result = result.unsqueeze(-1) * profile
    return result.sub_(lowest).div_(max(1 - lowest, 1e-7))
