"""Augmentation: draw every number first, then apply it, on any device."""

from __future__ import annotations

from framework.augmentation.geometry import PatchGeometry, mirror_axes
from framework.augmentation.intensity import IntensityTransform, Uniforms
from framework.augmentation.recipe import Augmentation, AugmentationDraw, preset_names
from framework.augmentation.spatial import SpatialDraw

__all__ = [
    "Augmentation",
    "AugmentationDraw",
    "IntensityTransform",
    "PatchGeometry",
    "SpatialDraw",
    "Uniforms",
    "mirror_axes",
    "preset_names",
]
