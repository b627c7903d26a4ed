"""Whether two images lie on one grid, and what to say if they do not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framework.data.readers.base import Properties
from framework.errors import CaseWarning, FoldwiseError

_SPACING_TOLERANCE = 1e-3
"""Relative; keeps two grids within half a voxel of each other over 500 voxels."""
_ORIGIN_TOLERANCE = 0.1
"""In voxels of the finest axis; writers that store positions as float32 differ by far less."""
_DIRECTION_TOLERANCE = 1e-3


def geometry_differences(
    shape: Sequence[int], properties: Properties, other_shape: Sequence[int], other_properties: Properties
) -> list[str]:
    """How two grids differ: shape, spacing, origin, direction; an empty list if they are one grid."""
    return [
        *_differences_of_size(shape, properties, other_shape, other_properties),
        *_differences_of_place(properties, other_properties),
    ]


def check_grid(
    path: Path,
    shape: Sequence[int],
    properties: Properties,
    reference: Path,
    reference_shape: Sequence[int],
    reference_properties: Properties,
    what: str,
) -> None:
    """Make sure that an image can be laid voxel by voxel over a reference.

    Origin and direction say where a grid lies in space, which neither training nor prediction uses: where only
    they differ, headers were often lost on the way, so this is a warning, as in nnU-Net.

    Args:
        shape, reference_shape: (X, Y, Z).
        what: the two images in words, such as "channels".

    Raises:
        FoldwiseError: shape or spacing differ.
    """
    size = _differences_of_size(reference_shape, reference_properties, shape, properties)
    place = _differences_of_place(reference_properties, properties)
    if size:
        raise FoldwiseError(
            f"{path} does not lie on the grid of {reference}: {'; '.join(size + place)}. "
            f"The {what} of a case must share one grid; resample one onto the other."
        )
    if place:
        warnings.warn(
            CaseWarning(
                f"{path} lies elsewhere in space than {reference}: {'; '.join(place)}. The {what} are used voxel by "
                "voxel as if they fitted. Look at them on top of each other: if they fit, copy the header of one to "
                "the other; if not, resample one onto the other."
            ),
            stacklevel=2,
        )


def _differences_of_size(
    shape: Sequence[int], properties: Properties, other_shape: Sequence[int], other_properties: Properties
) -> list[str]:
    found = []
    if tuple(shape) != tuple(other_shape):
        found.append(f"shape {tuple(other_shape)} instead of {tuple(shape)}")
    spacing, other_spacing = np.asarray(properties["spacing"]), np.asarray(other_properties["spacing"])
    if not np.allclose(other_spacing, spacing, rtol=_SPACING_TOLERANCE, atol=0):
        found.append(f"spacing {_rounded(other_spacing)} instead of {_rounded(spacing)} mm")
    return found


def _differences_of_place(properties: Properties, other_properties: Properties) -> list[str]:
    first, second = _placement(properties), _placement(other_properties)
    if first is None or second is None or len(first[0]) != len(second[0]):
        return []
    finest = min(properties["spacing"])
    found = []
    for name, one, other, tolerance in (
        ("origin", first[0], second[0], _ORIGIN_TOLERANCE * finest),
        ("direction", first[1], second[1], _DIRECTION_TOLERANCE),
    ):
        if not np.allclose(other, one, rtol=0, atol=tolerance):
            found.append(f"{name} {_rounded(other)} instead of {_rounded(one)}")
    return found


def _placement(properties: Properties) -> tuple[np.ndarray, np.ndarray] | None:
    """Origin and direction; None for formats that know none."""
    if "sitk_stuff" in properties:
        geometry = properties["sitk_stuff"]
        return np.asarray(geometry["origin"]), np.asarray(geometry["direction"])
    if "nibabel_stuff" in properties:
        affines = properties["nibabel_stuff"]
        affine = affines.get("reoriented_affine", affines["original_affine"])
        steps = affine[:3, :3]
        return affine[:3, 3], (steps / np.linalg.norm(steps, axis=0)).ravel()
    return None


def _rounded(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
