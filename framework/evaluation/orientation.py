"""Which way a volume lies in the body, and how its slices are turned to be shown as radiologists show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from framework.data import itk_files

OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}
_OBLIQUE_FROM_DEGREES = 5.0


@dataclass(frozen=True)
class Orientation:
    """Where the axes of an array point in the body.

    Attributes:
        towards: for each array axis the side that its index grows towards, of L R, P A, S I.
        oblique_degrees: the largest angle between an axis and the axis of the body it is named after.
    """

    towards: tuple[str, str, str]
    oblique_degrees: float = 0.0

    def __str__(self) -> str:
        return "".join(self.towards)

    @property
    def is_oblique(self) -> bool:
        return self.oblique_degrees >= _OBLIQUE_FROM_DEGREES


def orientation_of(properties: Mapping[str, Any] | None) -> Orientation | None:
    """From what a reader says of an image; None for formats and images that say nothing (TIFF, PNG, 2D)."""
    direction = _direction(properties or {})
    if direction is None:
        return None
    # Columns are the axes of the file, rows L, P and S. Of all ways to give each axis a side of its own, the one that
    # fits best: two axes at 45 degrees must not get the same name.
    best = max(permutations(range(3)), key=lambda order: sum(abs(direction[order[j], j]) for j in range(3)))
    cosines = [float(direction[best[j], j]) for j in range(3)]
    sides = [("L", "R"), ("P", "A"), ("S", "I")]
    letters = [sides[best[j]][cosines[j] < 0] for j in range(3)]
    angles = np.degrees(np.arccos(np.clip(np.abs(cosines), 0, 1)))
    first, second, third = letters[::-1]  # arrays have the axes of files in reverse
    return Orientation((first, second, third), float(angles.max()))


@dataclass(frozen=True)
class View:
    """How slices across one array axis are shown; `row_axis` runs down the picture and `column_axis` to the right."""

    name: str
    axis: int
    row_axis: int
    column_axis: int
    flip_rows: bool
    flip_columns: bool
    sides: tuple[str, str, str, str] | None
    """What lies on the left, right, top and bottom; None where the orientation is not known."""

    def plane(self, volume: Any, position: int) -> np.ndarray:
        """(rows, columns) of the slice, the first row on top. Reads nothing but this slice."""
        index: list[Any] = [slice(None)] * 3
        index[self.axis] = position
        plane = np.asarray(volume[tuple(index)])
        if self.row_axis > self.column_axis:
            plane = plane.T
        return plane[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def view_across(axis: int, orientation: Orientation | None) -> View:
    """The radiological view across an array axis: the patient's right on the left of the picture, front or head on top.

    Without an orientation the later array axis runs to the right and the earlier one down.
    """
    earlier, later = (each for each in range(3) if each != axis)
    if orientation is None:
        return View(f"across {'XYZ'[axis]}", axis, earlier, later, False, False, None)
    towards = orientation.towards
    name = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}[towards[axis]]
    wanted_right, wanted_down = {"axial": ("L", "P"), "coronal": ("L", "I"), "sagittal": ("P", "I")}[name]
    columns = later if towards[later] in (wanted_right, OPPOSITE[wanted_right]) else earlier
    rows = earlier if columns == later else later
    return View(
        name,
        axis,
        rows,
        columns,
        flip_rows=towards[rows] != wanted_down,
        flip_columns=towards[columns] != wanted_right,
        sides=(OPPOSITE[wanted_right], wanted_right, OPPOSITE[wanted_down], wanted_down),
    )


def _direction(properties: Mapping[str, Any]) -> np.ndarray | None:
    """(3, 3): column j is where axis j of the file points, in ITK's L, P and S."""
    if "nibabel_stuff" in properties:
        affines = properties["nibabel_stuff"]
        affine = np.asarray(affines.get("reoriented_affine", affines["original_affine"]), float)
        # nibabel counts to the right and to the front, ITK to the left and to the back.
        axes = np.diag((-1.0, -1.0, 1.0)) @ affine[:3, :3]
        lengths = np.linalg.norm(axes, axis=0)
        return axes / lengths if (lengths > 0).all() else None
    geometry = properties.get("sitk_stuff")
    if not geometry:
        return None
    if len(geometry["spacing"]) == 4:
        geometry = itk_files.without_channel_axis(geometry)
    if len(geometry["direction"]) != 9:
        return None
    return np.asarray(geometry["direction"], float).reshape(3, 3)
