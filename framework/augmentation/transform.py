"""What all transforms of grey values share: where their numbers come from, and what they have to say.

A transform draws its numbers first, from uniform ones, and applies them later, in place. `draw` always
consumes the same count of numbers, so that a transform's probability has no effect on what the transforms
after it draw. `apply` works on any device and waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.geometry import PatchGeometry
from framework.validation import between

Drawn = dict[str, Any] | None


class Uniforms:
    """A stream of numbers, uniform in [0, 1), and what is made of them."""

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

    def integer(self, lowest: int, highest: int) -> int:
        """One of the integers from `lowest` to `highest`, both included."""
        return lowest + int((highest - lowest + 1) * self.next())

    def between_logarithms(self, bounds: tuple[float, ...]) -> float:
        """In the given range of positive numbers, with a uniform logarithm."""
        return math.exp(self.between((math.log(bounds[0]), math.log(bounds[1]))))

    def normal(self) -> float:
        """Of the standard normal distribution; consumes two numbers.

        Reference: Box & Muller (1958), A note on the generation of random normal deviates.
        """
        radius = math.sqrt(-2 * math.log(1 - self.next()))
        return radius * math.cos(2 * math.pi * self.next())


def probability_field(default: float) -> Any:
    """A field that holds a probability."""
    return field(default=default, metadata=between(0, 1))


def range_field(low: float, high: float, minimum: float, maximum: float = math.inf) -> Any:
    """A field that holds a range [low, high], whose ends must lie in [minimum, maximum]."""
    return field(default=(low, high), metadata={"ends": (minimum, maximum)})


@dataclass(frozen=True)
class IntensityTransform:
    """Base of all transforms of grey values; a subclass has a `probability` and the two methods below.

    One that changes the labels too overrides `apply_to_patch` in place of `apply`.
    """

    needs_cpu: ClassVar[bool] = False
    """Whether it computes on a CPU whatever the device; batches are then better finished by a worker."""

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

    def apply_to_patch(self, image: Tensor, labels: Tensor | None, drawn: dict[str, Any], seed: int) -> None:
        """Change `image` and, where need be, `labels` (1, *patch) int16, -1 outside of the image, in place.

        Args:
            labels: None where only the image is at hand.
        """
        self.apply(image, drawn, seed)


def chosen_channels(uniforms: Uniforms, key: str, chosen: bool, share: float, values: list[Any]) -> Drawn:
    """``{key: values}`` of the channels, None for those left alone; None if that is all of them.

    Args:
        chosen: whether the sample is changed at all.
        share: probability that a channel of a chosen sample is changed; 1 consumes no numbers.
    """
    used = [value if share >= 1 or uniforms.chance(share) else None for value in values]
    return {key: tuple(used)} if chosen and any(value is not None for value in used) else None


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A small array on a device, without waiting for what the device still has to do."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def powered(values: Tensor, exponent: float) -> Tensor:
    """``values ** exponent`` in place, for values in [0, 1].

    As exp(exponent * log): half the time of pow on a CPU, and log(0) = -inf still ends at 0.
    """
    return values.log_().mul_(exponent).exp_()
