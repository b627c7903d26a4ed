"""Transforms of grey values. Each draws its numbers first, from uniform ones, and then applies them in place.

`draw` always consumes the same count of numbers, so that a transform's probability has no effect on what the
transforms after it draw. `apply` works on any device, waits for nothing, and gives equal results on
every device up to rounding; noise is drawn on the CPU for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from framework.augmentation.geometry import PatchGeometry
from framework.validation import between

Drawn = dict[str, Any] | None


class Uniforms:
    """A stream of numbers, uniform in [0, 1)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers: Iterator[float] = iter(())

    def next(self) -> float:
        """The next number; drawn in blocks, because single draws cost more than all else here."""
        for number in self._numbers:
            return number
        self._numbers = iter(self._rng.random(32).tolist())
        return next(self._numbers)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.next() < probability

    def between(self, bounds: tuple[float, ...]) -> float:
        """Uniform in the given range."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.next()

    def around_one(self, bounds: tuple[float, ...]) -> float:
        """Below or above 1 equally often, uniform on either side; consumes two numbers."""
        low, high = bounds
        below = self.next() < 0.5 and low < 1
        return self.between((low, min(1.0, high)) if below else (max(low, 1.0), max(high, low)))


def _probability(default: float) -> Any:
    return field(default=default, metadata=between(0, 1))


def _bounds(low: float, high: float, minimum: float, maximum: float = math.inf) -> Any:
    """A range [low, high] whose ends must lie in [minimum, maximum]."""
    return field(default=(low, high), metadata={"ends": (minimum, maximum)})


@dataclass(frozen=True)
class IntensityTransform:
    """Base of all transforms of grey values; a subclass has a `probability` and the two methods below."""

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        """Numbers for one sample, plain and printable, or None if this sample is left alone.

        Args:
            num_channels: C of the image.
            geometry: of the patch.
        """
        raise NotImplementedError

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        """Change `image` (C, *patch) float32 in place. `seed` is the sample's own, for noise."""
        raise NotImplementedError


@dataclass(frozen=True)
class GaussianNoise(IntensityTransform):
    """Adds noise of one standard deviation to all channels.

    nnU-Net calls the drawn number a variance and uses it as a standard deviation; so does this.
    """

    probability: float = _probability(0.1)
    standard_deviation: tuple[float, ...] = _bounds(0.0, 0.1, 0.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen, value = uniforms.chance(self.probability), uniforms.between(self.standard_deviation)
        return {"standard_deviation": value} if chosen else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(image.shape, generator=generator)
        image.add_(noise.to(image.device, non_blocking=True), alpha=drawn["standard_deviation"])


@dataclass(frozen=True)
class GaussianBlur(IntensityTransform):
    """Blurs some channels, with an own width for every axis. Borders are reflected."""

    probability: float = _probability(0.2)
    probability_per_channel: float = _probability(0.5)
    sigma: tuple[float, ...] = _bounds(0.5, 1.0, 1e-3, 100.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        sigmas: list[tuple[float, ...] | None] = []
        for _ in range(num_channels):
            use = uniforms.chance(self.probability_per_channel)
            widths = tuple(uniforms.between(self.sigma) for _ in range(geometry.num_axes))
            sigmas.append(widths if use else None)
        return {"sigmas": tuple(sigmas)} if chosen and any(sigmas) else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, sigmas in zip(image, drawn["sigmas"]):
            if sigmas is not None:
                blurred = channel
                for axis, sigma in enumerate(sigmas):
                    blurred = _blur_axis(blurred, axis, sigma)
                channel.copy_(blurred)


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


def _blur_axis(channel: Tensor, axis: int, sigma: float) -> Tensor:
    half = blur_kernel(sigma)
    length, reach = channel.shape[axis], len(half) - 1
    if reach == 0 or length == 1:
        return channel
    position = np.arange(-reach, length + reach) % (2 * length - 2)
    reflected = torch.from_numpy(np.minimum(position, 2 * length - 2 - position)).to(channel.device)
    padded = channel.index_select(axis, reflected)
    blurred = padded.narrow(axis, reach, length) * half[0]
    for tap in range(1, reach + 1):
        blurred.add_(padded.narrow(axis, reach - tap, length), alpha=half[tap])
        blurred.add_(padded.narrow(axis, reach + tap, length), alpha=half[tap])
    return blurred


@dataclass(frozen=True)
class Brightness(IntensityTransform):
    """Multiplies every channel by its own factor."""

    probability: float = _probability(0.15)
    factor: tuple[float, ...] = _bounds(0.75, 1.25, 0.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        factors = tuple(uniforms.around_one(self.factor) for _ in range(num_channels))
        return {"factors": factors} if chosen else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, factor in zip(image, drawn["factors"]):
            channel.mul_(factor)


@dataclass(frozen=True)
class Contrast(IntensityTransform):
    """Stretches every channel about its mean and cuts it back to its old range."""

    probability: float = _probability(0.15)
    factor: tuple[float, ...] = _bounds(0.75, 1.25, 0.0)

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        chosen = uniforms.chance(self.probability)
        factors = tuple(uniforms.around_one(self.factor) for _ in range(num_channels))
        return {"factors": factors} if chosen else None

    def apply(self, image: Tensor, drawn: dict[str, Any], seed: int) -> None:
        for channel, factor in zip(image, drawn["factors"]):
            mean = channel.mean()
            low, high = torch.aminmax(channel)
            channel.sub_(mean).mul_(factor).add_(mean)
            torch.clamp(channel, low, high, out=channel)


@dataclass(frozen=True)
class LowResolution(IntensityTransform):
    """Samples some channels down (nearest voxel) and up again (linear), as if scanned more coarsely."""

    probability: float = _probability(0.25)
    probability_per_channel: float = _probability(0.5)
    zoom: tuple[float, ...] = _bounds(0.5, 1.0, 1e-3, 1.0)

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

    probability: float = _probability(0.3)
    exponent: tuple[float, ...] = _bounds(0.7, 1.5, 1e-3)
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

    probability: float = _probability(0.1)
    inverted: bool = True


def _gamma(channel: Tensor, exponent: float, inverted: bool) -> None:
    tiny = 1e-7
    low, high = torch.aminmax(channel)
    mean, deviation = _mean_and_deviation(channel)
    span = (high - low).clamp_(min=tiny)
    # Everything below folds nnU-Net's steps (negate, map, power, map back, restore, negate) into few passes.
    # The power is exp(exponent * log): half the time of pow, and log(0) = -inf still ends at 0.
    if inverted:
        channel.neg_().add_(high)
    else:
        channel.sub_(low)
    channel.div_(span).clamp_(min=0).log_().mul_(exponent).exp_()
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
