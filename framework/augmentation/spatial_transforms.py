"""What moves a patch as a whole, with its labels: rotation, scaling, turns, exchanged axes, mirroring.

All but mirroring become one matrix, so that voxels are interpolated once; mirroring comes after the grey values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, permutations

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.transform import Uniforms, probability_field, range_field


@dataclass(frozen=True)
class Rotation:
    """Rotation about the patch centre; the range follows from the patch's shape unless `degrees` is given.

    A chosen sample is turned about each axis with `probability_per_axis`, by an own angle.
    """

    probability: float = probability_field(0.2)
    probability_per_axis: float = probability_field(1.0)
    degrees: tuple[float, ...] | None = field(default=None, metadata={"ends": (-360.0, 360.0)})

    def draw(self, uniforms: Uniforms, geometry: PatchGeometry) -> tuple[float, ...]:
        """An angle about each axis."""
        chosen = uniforms.chance(self.probability)
        limits = self.degrees or geometry.rotation_degrees
        angles = [uniforms.between(limits) for _ in range(geometry.num_angles)]
        if self.probability_per_axis < 1:
            angles = [angle if uniforms.chance(self.probability_per_axis) else 0.0 for angle in angles]
        return tuple(angles) if chosen else (0.0,) * geometry.num_angles


@dataclass(frozen=True)
class Scaling:
    """Scaling by one factor for all axes, or by an own one for each; above 1 objects become smaller."""

    probability: float = probability_field(0.2)
    factor: tuple[float, ...] = range_field(0.7, 1.4, 0.05, 20.0)
    same_for_all_axes: bool = True

    def draw(self, uniforms: Uniforms, geometry: PatchGeometry) -> tuple[float, ...]:
        """A factor for each moving axis."""
        chosen, count = uniforms.chance(self.probability), len(geometry.moving_axes)
        if self.same_for_all_axes:
            factors = [uniforms.between(self.factor)] * count
        else:
            factors = [uniforms.between(self.factor) for _ in range(count)]
        return tuple(factors) if chosen else (1.0,) * count


@dataclass(frozen=True)
class QuarterTurns:
    """Turns by 0, 1, 2 or 3 right angles in the plane of two axes of equal length; others stay as they are."""

    probability: float = probability_field(0.5)

    def draw(self, uniforms: Uniforms, geometry: PatchGeometry) -> tuple[int, int, int] | None:
        """(times, first axis, second axis)."""
        planes = list(combinations(geometry.equal_axes, 2))
        if not planes:
            return None
        chosen, times = uniforms.chance(self.probability), uniforms.integer(0, 3)
        first, second = planes[uniforms.integer(0, len(planes) - 1)]
        return (times, first, second) if chosen and times else None


@dataclass(frozen=True)
class AxisExchange:
    """Puts axes of equal length into a random order, which may be the one they had."""

    probability: float = probability_field(0.5)

    def draw(self, uniforms: Uniforms, geometry: PatchGeometry) -> tuple[int, ...]:
        """The order of all moving axes; empty where it is left alone."""
        axes = geometry.equal_axes
        if not axes:
            return ()
        orders = list(permutations(axes))
        chosen, order = uniforms.chance(self.probability), orders[uniforms.integer(0, len(orders) - 1)]
        if not chosen or order == axes:
            return ()
        moved = dict(zip(axes, order))
        return tuple(moved.get(axis, axis) for axis in range(len(geometry.moving_axes)))


@dataclass(frozen=True)
class Mirroring:
    """Mirrors every axis with the given probability; the axes follow from the patch unless `axes` names them.

    Prediction mirrors along the same axes, which multiplies its time by two for each.
    """

    probability: float = probability_field(0.5)
    axes: tuple[int, ...] | None = None
