"""From voxels to millimetres in NIfTI's terms: axes run to the right, anterior and superior (RAS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from framework.data.nifti import Header

Axes = tuple[tuple[int, int], ...]
"""For every axis of the file: the axis of space nearest to it (0 right, 1 anterior, 2 superior), and +1 or -1."""

UNCHANGED: Axes = ((0, 1), (1, 1), (2, 1))

_ITK_TO_NIFTI = np.diag([-1.0, -1.0, 1.0])
"""ITK counts to the left and posterior."""


def affine_of_header(header: Header) -> np.ndarray:
    """(4, 4) float64: the matrix where the header has one, else the quaternion, else a guess from the spacing.

    The order, and the guess (first axis to the left, origin in the middle of the volume), are nibabel's.
    """
    affine = np.eye(4)
    if header.matrix_code > 0:
        affine[:3] = np.reshape(header.matrix, (3, 4))
        return affine
    lengths = np.array(header.spacing[:3], np.float64)
    if header.quaternion_code > 0:
        lengths[2] *= header.handedness
        affine[:3, :3] = _rotation(header.quaternion[:3], 3 * float(np.finfo(header.real).eps)) * lengths
        affine[:3, 3] = header.quaternion[3:]
        return affine
    lengths[0] *= -1
    affine[:3, :3] = np.diag(lengths)
    affine[:3, 3] = -(np.array(header.shape[:3]) - 1) / 2 * lengths
    return affine


def affine_of_itk(geometry: Mapping[str, Any]) -> np.ndarray:
    """(4, 4): the affine of a 3D image that ITK describes by spacing, origin and direction."""
    affine = np.eye(4)
    direction = np.reshape(geometry["direction"], (3, 3))
    affine[:3, :3] = _ITK_TO_NIFTI @ direction * np.asarray(geometry["spacing"])
    affine[:3, 3] = _ITK_TO_NIFTI @ np.asarray(geometry["origin"])
    return affine


def voxel_sizes(affine: np.ndarray) -> np.ndarray:
    """Lengths of the steps along the three axes of the file, in mm."""
    return np.sqrt((affine[:3, :3] ** 2).sum(0))


def axes_to_ras(affine: np.ndarray) -> Axes:
    """Which way the axes of the file run, for affines that are oblique or sheared as well.

    The rotation nearest to the affine (its polar decomposition) is matched with the axes of space, clearest
    match first; this is how nibabel decides.
    """
    matrix = affine[:3, :3]
    lengths = voxel_sizes(affine)
    lengths[lengths == 0] = 1
    left, _, right = np.linalg.svd(matrix / lengths)
    remaining = left @ right
    found: dict[int, tuple[int, int]] = {}
    for axis in np.argsort(-np.abs(remaining).max(0), kind="stable"):
        target = int(np.argmax(np.abs(remaining[:, axis])))
        found[int(axis)] = (target, -1 if remaining[target, axis] < 0 else 1)
        remaining[target] = 0
    return tuple(found[axis] for axis in range(3))


def reorient(array: np.ndarray, axes: Axes) -> np.ndarray:
    """A view of (X, Y, Z) whose axes run to the right, anterior and superior."""
    return array[_flips(axes)].transpose(_order(axes))


def reorient_back(array: np.ndarray, axes: Axes) -> np.ndarray:
    """The inverse of `reorient`."""
    return array.transpose([target for target, _ in axes])[_flips(axes)]


def reoriented_affine(affine: np.ndarray, shape: Sequence[int], axes: Axes) -> np.ndarray:
    """The affine that belongs to the array that `reorient` returns; `shape` is the one before."""
    undo = np.zeros((4, 4))
    undo[3, 3] = 1
    for axis, (target, sign) in enumerate(axes):
        undo[axis, target] = sign
        undo[axis, 3] = 0 if sign > 0 else shape[axis] - 1
    return affine @ undo


def _flips(axes: Axes) -> tuple[slice, ...]:
    return tuple(slice(None, None, sign) for _, sign in axes)


def _order(axes: Axes) -> list[int]:
    """For every axis of space, the axis of the file that is nearest to it."""
    targets = [target for target, _ in axes]
    return [targets.index(target) for target in range(3)]


def _rotation(quaternion: Sequence[float], rounding: float) -> np.ndarray:
    """(3, 3) from the b, c, d of a unit quaternion, whose a² is 0 if it is smaller than `rounding`."""
    b, c, d = (float(part) for part in quaternion)
    a_squared = 1 - (b * b + c * c + d * d)
    a = math.sqrt(a_squared) if a_squared > rounding else 0.0
    scale = 2 / (a * a + b * b + c * c + d * d)
    return np.array(
        [
            [1 - scale * (c * c + d * d), scale * (b * c - a * d), scale * (b * d + a * c)],
            [scale * (b * c + a * d), 1 - scale * (b * b + d * d), scale * (c * d - a * b)],
            [scale * (b * d - a * c), scale * (c * d + a * b), 1 - scale * (b * b + c * c)],
        ]
    )
