"""Transforms of grey values that treat all voxels of a channel alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.transform import (
    Drawn,
    IntensityTransform,
    Uniforms,
    chosen_channels,
    powered,
    probability_field,
    range_field,
)
from framework.validation import at_least


@dataclass(frozen=True)
class GaussianNoise(IntensityTransform):
    """Adds noise of one standard deviation to all channels.

    nnU-Net calls the drawn number a variance and uses it as a standard deviation; so does this. One seed gives
    one field of noise on a CPU and another one on a GPU.
    """

    probability: float = probability_field(0.1)
    standard_deviation: tuple[float, ...] = range_field(0.0, 0.1, 0.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen, value = uniforms.chance(self.probability), uniforms.between(self.standard_deviation)
        return {"standard_deviation": value} if chosen else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        # The device's own generator: noise made on the CPU would have to wait for its way to a GPU.
        generator = torch.Generator(image.device).manual_seed(seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        image.add_(noise, alpha=drawn["standard_deviation"])


@dataclass(frozen=True)
class Brightness(IntensityTransform):
    """Multiplies every channel by its own factor."""

    probability: float = probability_field(0.15)
    factor: tuple[float, ...] = range_field(0.75, 1.25, 0.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        factors = tuple(uniforms.around_one(self.factor) for _ in range(num_channels))
        return {"factors": factors} if chosen else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, factor in zip(image, drawn["factors"]):
            channel.mul_(factor)


@dataclass(frozen=True)
class BrightnessShift(IntensityTransform):
    """Adds a number to some channels, from a normal distribution about 0."""

    probability: float = probability_field(0.1)
    probability_per_channel: float = probability_field(0.5)
    standard_deviation: float = field(default=0.5, metadata=at_least(0))

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        shifts = [self.standard_deviation * uniforms.normal() for _ in range(num_channels)]
        return chosen_channels(uniforms, "shifts", chosen, self.probability_per_channel, shifts)

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, shift in zip(image, drawn["shifts"]):
            if shift is not None:
                channel.add_(shift)


@dataclass(frozen=True)
class Contrast(IntensityTransform):
    """Stretches some channels about their mean and, unless `keep_range` is off, cuts them back to their old range."""

    probability: float = probability_field(0.15)
    probability_per_channel: float = probability_field(1.0)
    factor: tuple[float, ...] = range_field(0.75, 1.25, 0.0)
    keep_range: bool = True

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        factors = [uniforms.around_one(self.factor) for _ in range(num_channels)]
        return chosen_channels(uniforms, "factors", chosen, self.probability_per_channel, factors)

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, factor in zip(image, drawn["factors"]):
            if factor is None:
                continue
            mean = channel.mean()
            low, high = torch.aminmax(channel)
            channel.sub_(mean).mul_(factor).add_(mean)
            if self.keep_range:
                torch.clamp(channel, low, high, out=channel)


@dataclass(frozen=True)
class UnclippedContrast(Contrast):
    """`Contrast` whose darkest and brightest values move as well."""

    keep_range: bool = False


@dataclass(frozen=True)
class LowResolution(IntensityTransform):
    """Samples some channels down (nearest voxel) and up again (linear), as if scanned more coarsely."""

    probability: float = probability_field(0.25)
    probability_per_channel: float = probability_field(0.5)
    zoom: tuple[float, ...] = range_field(0.5, 1.0, 1e-3, 1.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        thick_slices = geometry.in_plane and geometry.num_axes == 3
        zooms: list[tuple[float, ...] | None] = []
        for _ in range(num_channels):
            use, zoom = uniforms.chance(self.probability_per_channel), uniforms.between(self.zoom)
            # Thick slices are coarse already across.
            zoomed = (1.0, zoom, zoom) if thick_slices else (zoom,) * geometry.num_axes
            zooms.append(zoomed if use else None)
        return {"zooms": tuple(zooms)} if chosen and any(zooms) else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        linear = "bilinear" if image.ndim == 3 else "trilinear"
        for channel, zooms in zip(image, drawn["zooms"]):
            if zooms is not None:
                coarse = [max(1, round(length * zoom)) for length, zoom in zip(channel.shape, zooms)]
                small = interpolate(channel[None, None], coarse, mode="nearest-exact")
                channel.copy_(interpolate(small, channel.shape, mode=linear)[0, 0])


@dataclass(frozen=True)
class Gamma(IntensityTransform):
    """Raises every channel, mapped to [0, 1], to a power; mean and standard deviation stay as they were."""

    probability: float = probability_field(0.3)
    exponent: tuple[float, ...] = range_field(0.7, 1.5, 1e-3)
    inverted: bool = False

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        exponents = tuple(uniforms.around_one(self.exponent) for _ in range(num_channels))
        return {"exponents": exponents} if chosen else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, exponent in zip(image, drawn["exponents"]):
            _gamma(channel, exponent, self.inverted)


@dataclass(frozen=True)
class InvertedGamma(Gamma):
    """`Gamma` on the negative image: changes the other end of the grey values."""

    probability: float = probability_field(0.1)
    inverted: bool = True


def _gamma(channel: Tensor, exponent: float, inverted: bool) -> None:
    tiny = 1e-7
    low, high = torch.aminmax(channel)
    mean, deviation = _mean_and_deviation(channel)
    span = (high - low).clamp_(min=tiny)
    # Everything below folds nnU-Net's steps (negate, map, power, map back, restore, negate) into few passes.
    if inverted:
        channel.neg_().add_(high)
    else:
        channel.sub_(low)
    powered(channel.div_(span).clamp_(min=0), exponent)
    new_mean, new_deviation = _mean_and_deviation(channel)
    factor = deviation / (new_deviation * (high - low)).clamp_(min=tiny) * (high - low)
    if inverted:
        factor.neg_()
    channel.sub_(new_mean).mul_(factor).add_(mean)


def _mean_and_deviation(channel: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased, as `Tensor.std`, which takes several times as long on a CPU."""
    mean = channel.mean()
    squares = torch.linalg.vector_norm(channel - mean)
    return mean, squares / math.sqrt(max(channel.numel() - 1, 1))
