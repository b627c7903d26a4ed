"""The augmentation recipe of a plan: which transforms, with which numbers, and what is drawn for a sample."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.intensity import (
    Brightness,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    IntensityTransform,
    InvertedGamma,
    LowResolution,
    Uniforms,
)
from framework.augmentation.spatial import SpatialDraw
from framework.errors import PlansError, UnknownNameError, did_you_mean
from framework.validation import between, read_block


@dataclass(frozen=True)
class Rotation:
    """Rotation about the patch centre; the range follows from the patch's shape unless `degrees` is given."""

    probability: float = field(default=0.2, metadata=between(0, 1))
    degrees: tuple[float, ...] | None = field(default=None, metadata={"ends": (-360.0, 360.0)})


@dataclass(frozen=True)
class Scaling:
    """Scaling by one factor for all axes; above 1 objects become smaller."""

    probability: float = field(default=0.2, metadata=between(0, 1))
    factor: tuple[float, ...] = field(default=(0.7, 1.4), metadata={"ends": (0.05, 20.0)})


@dataclass(frozen=True)
class Mirroring:
    """Mirrors every axis with the given probability; the axes follow from the patch unless `axes` names them.

    Prediction mirrors along the same axes, which multiplies its time by two for each.
    """

    probability: float = field(default=0.5, metadata=between(0, 1))
    axes: tuple[int, ...] | None = None


TRANSFORMS: dict[str, type] = {
    "rotation": Rotation,
    "scaling": Scaling,
    "noise": GaussianNoise,
    "blur": GaussianBlur,
    "brightness": Brightness,
    "contrast": Contrast,
    "low_resolution": LowResolution,
    "gamma_inverted": InvertedGamma,
    "gamma": Gamma,
    "mirroring": Mirroring,
}

PRESET_FOLDER = Path(__file__).resolve().parents[2] / "plans" / "augmentation"


@dataclass(frozen=True)
class AugmentationDraw:
    """What is done to one sample. Plain and printable.

    Attributes:
        spatial: rotation and scaling, or None where the patch is a plain crop.
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
    """Transforms in order: rotation and scaling first, then `intensities`, mirroring last.

    Attributes:
        geometry: of the patch.
        intensities: by name, in the order of application.
    """

    geometry: PatchGeometry
    rotation: Rotation | None = None
    scaling: Scaling | None = None
    intensities: dict[str, IntensityTransform] = field(default_factory=dict)
    mirroring: Mirroring | None = None

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
        numbers = expand_block(block, where, problems)
        transforms: dict[str, Any] = {}
        for name, entries in numbers.items():
            transform_class = _transform_class(name, where, problems)
            if transform_class is None:
                continue
            place = f"{where}.{name}"
            accepted = read_block(transform_class, entries, place, problems)
            _check_ranges(transform_class, accepted, place, problems)
            transforms[name] = transform_class(**accepted)
        rotation, scaling = transforms.pop("rotation", None), transforms.pop("scaling", None)
        mirroring = transforms.pop("mirroring", None)
        if mirroring is not None and mirroring.axes is not None:
            wrong = [axis for axis in mirroring.axes if axis not in range(geometry.num_axes)]
            if wrong or len(set(mirroring.axes)) < len(mirroring.axes):
                problems.append(
                    f"{where}.mirroring.axes: found {list(mirroring.axes)}, "
                    f"expected distinct axes of the patch, from 0 to {geometry.num_axes - 1}."
                )
        if problems:
            raise PlansError("\n".join(problems))
        return cls(geometry, rotation, scaling, transforms, mirroring)

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
        chosen: list[tuple[str, dict[str, Any]]] = []
        for name, transform in self.intensities.items():
            drawn = transform.draw(uniforms, num_channels, self.geometry)
            if drawn is not None:
                chosen.append((name, drawn))
        mirrored: tuple[int, ...] = ()
        if self.mirroring is not None:
            probability = self.mirroring.probability
            mirrored = tuple([axis for axis in self.mirror_axes if uniforms.chance(probability)])
        return AugmentationDraw(spatial, tuple(chosen), mirrored, seed)

    def _draw_spatial(self, uniforms: Uniforms) -> SpatialDraw | None:
        count = self.geometry.num_angles
        angles, scale = (0.0,) * count, 1.0
        if self.rotation is not None:
            chosen = uniforms.chance(self.rotation.probability)
            bounds = self.rotation.degrees or self.geometry.rotation_degrees
            drawn = tuple([uniforms.between(bounds) for _ in range(count)])
            angles = drawn if chosen else angles
        if self.scaling is not None:
            chosen, factor = uniforms.chance(self.scaling.probability), uniforms.between(self.scaling.factor)
            scale = factor if chosen else scale
        spatial = SpatialDraw(angles, scale)
        return spatial if spatial.is_rotated or scale != 1.0 else None

    def apply_intensities(self, image: Tensor, draw: AugmentationDraw) -> None:
        """Change the grey values of `image` (C, *patch) in place."""
        for position, (name, drawn) in enumerate(draw.intensities):
            self.intensities[name].apply(image, drawn, draw.noise_seed + position)


def preset_names() -> list[str]:
    """Presets that a plan can name."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.json"))


def expand_block(block: str | dict[str, Any], where: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    """The numbers of every transform that takes place, with presets (which may build on others) filled in.

    Mistakes are appended to `problems`.
    """
    entries = {"preset": block} if isinstance(block, str) else dict(block)
    preset = entries.pop("preset", None)
    result: dict[str, dict[str, Any]] = {}
    if preset is not None:
        known = preset_names()
        if preset not in known:
            problems.append(str(UnknownNameError("augmentation preset", preset, known, where)))
        else:
            text = (PRESET_FOLDER / f"{preset}.json").read_text(encoding="utf-8")
            result = expand_block(json.loads(text), f"{where} (preset {preset})", problems)
    for name, numbers in entries.items():
        if numbers is None or numbers is False:
            if name not in TRANSFORMS and name not in result:
                problems.append(_unknown_transform(name, where))
            result.pop(name, None)
        elif numbers is True:
            result.setdefault(name, {})
        elif isinstance(numbers, dict):
            result[name] = {**result.get(name, {}), **numbers}
        else:
            problems.append(
                f"{where}.{name}: found {numbers!r}, expected an object with its numbers, or null to drop it."
            )
    return result


def _transform_class(name: str, where: str, problems: list[str]) -> type | None:
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        problems.append(_unknown_transform(name, where))
        return None
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        problems.append(f"{where}: transform '{name}' cannot be imported: {error}.")
        return None
    if not (isinstance(found, type) and issubclass(found, IntensityTransform) and dataclasses.is_dataclass(found)):
        problems.append(
            f"{where}: '{name}' is not a transform. Derive a dataclass from "
            "framework.augmentation.IntensityTransform and give it `draw` and `apply`."
        )
        return None
    return found


def _unknown_transform(name: str, where: str) -> str:
    known = ", ".join(TRANSFORMS)
    return (
        f"{where}: transform '{name}' is not known.{did_you_mean(name, TRANSFORMS)} "
        f"Known here: {known}; or package.module:Class."
    )


def _check_ranges(transform_class: type, accepted: dict[str, Any], where: str, problems: list[str]) -> None:
    """Ranges are two numbers in ascending order, within what the field allows; wrong ones are taken out."""
    for entry in dataclasses.fields(transform_class):
        ends = entry.metadata.get("ends")
        value = accepted.get(entry.name)
        if ends is None or value is None:
            continue
        low, high = ends
        if len(value) != 2 or not (low <= value[0] <= value[1] <= high):
            limit = f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
            problems.append(
                f"{where}.{entry.name}: found {list(value)}, expected [lowest, highest], two numbers{limit}."
            )
            del accepted[entry.name]
