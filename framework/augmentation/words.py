"""What was drawn for a sample, in a few words for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.recipe import AugmentationDraw
from framework.augmentation.spatial import SpatialDraw


def in_words(draw: AugmentationDraw, geometry: PatchGeometry) -> list[str]:
    """One phrase for each thing done, in order: ``["rot 12°", "scale 0.8", "gamma 1.3", "mirror XZ"]``."""
    axes = "XYZ"[-geometry.num_axes :]
    phrases = [] if draw.spatial is None else _spatial_in_words(draw.spatial, [axes[i] for i in geometry.moving_axes])
    phrases += [_intensity_in_words(name, drawn) for name, drawn in draw.intensities]
    if draw.mirror_axes:
        phrases.append("mirror " + "".join(axes[axis] for axis in draw.mirror_axes))
    return phrases


def _spatial_in_words(spatial: SpatialDraw, axes: list[str]) -> list[str]:
    phrases = []
    if spatial.is_rotated:
        phrases.append("rot " + "/".join(f"{angle:.0f}" for angle in spatial.angles_degrees) + "°")
    if any(scale != 1 for scale in spatial.scales):
        same = len(set(spatial.scales)) == 1
        phrases.append("scale " + "/".join(f"{scale:.2f}" for scale in spatial.scales[: 1 if same else None]))
    if spatial.quarter_turns is not None:
        times, first, second = spatial.quarter_turns
        phrases.append(f"turn {90 * times}° in {axes[first]}{axes[second]}")
    if spatial.axis_order:
        phrases.append("axes " + "".join(axes[axis] for axis in spatial.axis_order))
    return phrases


def _intensity_in_words(name: str, drawn: dict[str, Any]) -> str:
    word = name.rpartition(":")[2].removesuffix("Transform").replace("_", " ")
    numbers = set(_numbers(drawn))
    if len(numbers) != 1:
        return word  # which says enough where there are several numbers to it
    number = numbers.pop()
    return f"{word} {number}" if isinstance(number, int) else f"{word} {number:.2f}"


def _numbers(drawn: Any) -> Iterator[int | float]:
    if isinstance(drawn, dict):
        drawn = tuple(drawn.values())
    if isinstance(drawn, tuple):
        for entry in drawn:
            yield from _numbers(entry)
    elif isinstance(drawn, (int, float)):
        yield drawn
