"""Augmentation: draw every number first, then apply it, on any device."""

from __future__ import annotations

from framework.augmentation.block import preset_names
from framework.augmentation.geometry import PatchGeometry, mirror_axes
from framework.augmentation.recipe import Augmentation, AugmentationDraw
from framework.augmentation.spatial import SpatialDraw
from framework.augmentation.transform import IntensityTransform, Uniforms

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
