"""The augmentation recipe of a plan: which transforms, with which numbers, and what is drawn for a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from framework.augmentation.block import build_transforms, expand_block
from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.spatial import SpatialDraw
from framework.augmentation.spatial_transforms import AxisExchange, Mirroring, QuarterTurns, Rotation, Scaling
from framework.augmentation.transform import IntensityTransform, Uniforms
from framework.errors import PlansError


@dataclass(frozen=True)
class AugmentationDraw:
    """What is done to one sample. Plain and printable.

    Attributes:
        spatial: rotation, scaling and turns, or None where the patch is a plain crop.
        intensities: (name, numbers) in the order of application.
        mirror_axes: axes of the patch that are mirrored last.
        noise_seed: for transforms that fill an image with noise.
    """

    spatial: SpatialDraw | None = None
    intensities: tuple[tuple[str, dict[str, Any]], ...] = ()
    mirror_axes: tuple[int, ...] = ()
    noise_seed: int = 0


@dataclass(frozen=True)
class Augmentation:
    """Transforms in order: what moves the patch first, then `intensities`, mirroring last.

    Attributes:
        geometry: of the patch.
        intensities: by name, in the order of application.
        one_of: names of transforms of which a sample gets at most one: one of them is picked, each equally
            likely, and then takes place with its own probability.
    """

    geometry: PatchGeometry
    rotation: Rotation | None = None
    scaling: Scaling | None = None
    quarter_turns: QuarterTurns | None = None
    axis_exchange: AxisExchange | None = None
    intensities: dict[str, IntensityTransform] = field(default_factory=dict)
    mirroring: Mirroring | None = None
    one_of: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def from_plans(
        cls, block: str | dict[str, Any], patch_size: Sequence[int], where: str = "augmentation"
    ) -> Augmentation:
        """Read the ``augmentation`` block of a plan.

        Args:
            block: a preset's name, or ``{"preset": name, transform: {numbers} | null, ...}``. null (or false)
                drops a transform of the preset. Without a preset only the named transforms take place.
            where: for messages.

        Raises:
            PlansError: unknown preset, transform or number, or a value out of range; lists every mistake.
        """
        problems: list[str] = []
        geometry = PatchGeometry.from_patch_size(patch_size)
        expanded = expand_block(block, where, problems)
        transforms = build_transforms(expanded, where, problems)
        moving = {
            name: transforms.pop(name, None)
            for name in ("rotation", "scaling", "quarter_turns", "axis_exchange", "mirroring")
        }
        mirroring = moving["mirroring"]
        if mirroring is not None and mirroring.axes is not None:
            wrong = [axis for axis in mirroring.axes if axis not in range(geometry.num_axes)]
            if wrong or len(set(mirroring.axes)) < len(mirroring.axes):
                problems.append(
                    f"{where}.mirroring.axes: found {list(mirroring.axes)}, "
                    f"expected distinct axes of the patch, from 0 to {geometry.num_axes - 1}."
                )
        if problems:
            raise PlansError("\n".join(problems))
        groups = [[name for name in group if name in transforms] for group in expanded.one_of]
        one_of = tuple(tuple(group) for group in groups if len(group) > 1)
        return cls(geometry, intensities=transforms, one_of=one_of, **moving)

    @property
    def needs_cpu(self) -> bool:
        """Whether a transform computes on the CPU whatever the device, so that workers had better finish batches."""
        return any(transform.needs_cpu for transform in self.intensities.values())

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes that training mirrors, and that prediction may mirror too; empty without mirroring."""
        if self.mirroring is None or self.mirroring.probability == 0:
            return ()
        return self.geometry.mirror_axes if self.mirroring.axes is None else tuple(sorted(self.mirroring.axes))

    def draw(self, rng: np.random.Generator, num_channels: int) -> AugmentationDraw:
        """Everything random about the augmentation of one sample."""
        seed = int(rng.integers(2**63))
        uniforms = Uniforms(rng)
        spatial = self._draw_spatial(uniforms)
        passed_over: set[str] = set()
        for group in self.one_of:
            picked = uniforms.integer(0, len(group) - 1)
            passed_over.update(name for place, name in enumerate(group) if place != picked)
        chosen: list[tuple[str, dict[str, Any]]] = []
        for name, transform in self.intensities.items():
            drawn = transform.draw(uniforms, num_channels, self.geometry)
            if drawn is not None and name not in passed_over:
                chosen.append((name, drawn))
        mirrored: tuple[int, ...] = ()
        if self.mirroring is not None:
            probability = self.mirroring.probability
            mirrored = tuple([axis for axis in self.mirror_axes if uniforms.chance(probability)])
        return AugmentationDraw(spatial, tuple(chosen), mirrored, seed)

    def _draw_spatial(self, uniforms: Uniforms) -> SpatialDraw | None:
        geometry = self.geometry
        drawn = SpatialDraw(
            (0.0,) * geometry.num_angles if self.rotation is None else self.rotation.draw(uniforms, geometry),
            (1.0,) * len(geometry.moving_axes) if self.scaling is None else self.scaling.draw(uniforms, geometry),
            None if self.quarter_turns is None else self.quarter_turns.draw(uniforms, geometry),
            () if self.axis_exchange is None else self.axis_exchange.draw(uniforms, geometry),
        )
        return None if drawn.is_identity else drawn

    def apply_intensities(self, image: Tensor, draw: AugmentationDraw, labels: Tensor | None = None) -> None:
        """Change the grey values of a patch in place.

        Args:
            image: (C, *patch) float32.
            labels: (1, *patch) int16, for transforms that change them too, such as those of batchgenerators.

        Raises:
            ValueError: there is such a transform, and no labels are given.
            PlansError: a transform of batchgenerators fails.
        """
        for position, (name, drawn) in enumerate(draw.intensities):
            self.intensities[name].apply_to_patch(image, labels, drawn, draw.noise_seed + position)
