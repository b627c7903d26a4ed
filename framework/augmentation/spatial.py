"""Rotation, scaling and turning: which voxels a moved patch needs, and where they lie.

A voxel at index p of the patch (measured from the patch centre) shows the image at ``centre + matrix @ p``.
Image and labels are then resampled by `resample_image` and `resample_labels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from framework.augmentation.label_resampling import resample_labels
from framework.augmentation.resampling import resample_image

__all__ = [
    "OUTSIDE_LABEL",
    "Box",
    "SpatialDraw",
    "origin_in_box",
    "resample_image",
    "resample_labels",
    "source_box",
]

OUTSIDE_LABEL = -1

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SpatialDraw:
    """A drawn rotation, scaling and turning; within the slices only where there are two scales.

    Axes are numbered among those that move: in patches of thick slices, 0 is the second axis.

    Attributes:
        angles_degrees: about each of the three axes, or one angle within the slices.
        scales: for each axis; above 1 the patch shows a larger part of the image, so objects become smaller.
        quarter_turns: (times, first axis, second axis), as `torch.rot90` turns the patch, or None.
        axis_order: as `torch.permute` exchanges the axes of the patch after that; empty to leave them.
    """

    angles_degrees: tuple[float, ...]
    scales: tuple[float, ...]
    quarter_turns: tuple[int, int, int] | None = None
    axis_order: tuple[int, ...] = ()

    @property
    def is_rotated(self) -> bool:
        """Whether any angle differs from zero."""
        return any(angle != 0 for angle in self.angles_degrees)

    @property
    def is_identity(self) -> bool:
        """Whether the patch is a plain crop."""
        moved = self.is_rotated or any(scale != 1 for scale in self.scales)
        return not (moved or self.quarter_turns or self.axis_order)

    def matrix(self) -> np.ndarray:
        """(2, 2) or (3, 3) float64: offsets in the patch -> offsets in the image."""
        return self._rotation() * np.array(self.scales) @ self._turning()

    def _rotation(self) -> np.ndarray:
        if len(self.scales) == 2:
            return _rotation_2d(math.radians(self.angles_degrees[0]))
        about = [math.radians(angle) for angle in self.angles_degrees]
        first, second, third = np.eye(3), np.eye(3), np.eye(3)
        first[1:, 1:] = _rotation_2d(about[0])
        # The middle axis turns the other way round, because it is written for right-handed axes.
        second[::2, ::2] = _rotation_2d(-about[1])
        third[:2, :2] = _rotation_2d(about[2])
        return third @ second @ first

    def _turning(self) -> np.ndarray:
        """Entries are 0, 1 and -1: voxels move without interpolation where there is nothing else."""
        turned = np.eye(len(self.scales))
        if self.quarter_turns is not None:
            times, first, second = self.quarter_turns
            once = np.eye(len(self.scales))
            once[[first, second]] = once[[second, first]]
            once[second] *= -1
            turned = np.linalg.matrix_power(once, times)
        if self.axis_order:
            # Column i is the unit vector of axis_order[i]: along axis i the result shows that axis.
            turned = turned @ np.eye(len(self.scales))[:, list(self.axis_order)]
        return turned


def _rotation_2d(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def source_box(
    corner: Sequence[int], patch_size: Sequence[int], image_shape: Sequence[int], matrix: np.ndarray | None
) -> Box:
    """The voxels that a patch needs, as (start, stop) for every axis; may reach outside of the image.

    Args:
        corner: first voxel of the patch in the image, before the transform. Three axes, like the next two.
        patch_size: of the patch to be made.
        image_shape: a transformed patch gets at most two voxels beyond it: further out all is the same.
        matrix: from `SpatialDraw.matrix`, acting on the last axes, or None for a plain crop.
    """
    box = [(int(start), int(start) + int(size)) for start, size in zip(corner, patch_size)]
    if matrix is None:
        return tuple(box)
    turned = len(matrix)
    first = len(box) - turned
    size = np.array(patch_size[first:], dtype=float)
    centre = np.array(corner[first:]) + (size - 1) / 2
    reach = np.abs(matrix) @ ((size - 1) / 2)
    for axis in range(turned):
        length = image_shape[first + axis]
        # Two and not one, so that what lies further out falls between equal voxels (see `_uniform_cells`).
        start = max(math.floor(centre[axis] - reach[axis] - 1e-4), -2)
        stop = min(math.floor(centre[axis] + reach[axis] + 1e-4) + 2, length + 2)
        start = min(start, length - 1)
        box[first + axis] = (start, max(stop, start + 2))
    return tuple(box)


def origin_in_box(corner: Sequence[int], patch_size: Sequence[int], box: Box, matrix: np.ndarray) -> np.ndarray:
    """Where voxel (0, ..., 0) of the patch lies in the array that was read for `box`, on the turned axes."""
    first = len(box) - len(matrix)
    size = np.array(patch_size[first:], dtype=float)
    centre = np.array(corner[first:]) + (size - 1) / 2 - np.array([start for start, _ in box[first:]])
    return centre - matrix @ ((size - 1) / 2)
