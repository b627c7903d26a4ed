"""Distances between the surfaces of two masks: Hausdorff, average, and the normalised surface Dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from framework.evaluation.surface_elements import element_areas, surface_elements

_ROUNDING = 1e-6
"""Relative. Distances are multiples of a spacing that a file stores as float32; ten voxels of 0.1 mm are 1 mm."""


@dataclass(frozen=True)
class SurfaceDistances:
    """For each surface element of one mask the distance to the nearest one of the other mask, and its area.

    Attributes:
        to_prediction: (N,) in mm, from each element of the reference; infinite if nothing was predicted.
        reference_areas: (N,) in mm^2 (mm in two dimensions).
        to_reference: (M,) in mm, from each predicted element; infinite if the reference is empty.
        predicted_areas: (M,)
    """

    to_prediction: np.ndarray
    reference_areas: np.ndarray
    to_reference: np.ndarray
    predicted_areas: np.ndarray

    def hausdorff(self, percent: float = 100) -> float:
        """The larger one of the two directed percentiles, in mm; 100 is the Hausdorff distance, 95 is HD95.

        A directed percentile is the smallest distance that so many percent of the surface, by area, stay within.
        Infinite if one of the masks is empty, NaN if both are.
        """
        directed = [
            _percentile(self.to_prediction, self.reference_areas, percent),
            _percentile(self.to_reference, self.predicted_areas, percent),
        ]
        return max((value for value in directed if not math.isnan(value)), default=math.nan)

    def average(self) -> float:
        """Average symmetric surface distance in mm: the mean over both surfaces together, by area.

        Infinite if one of the masks is empty, NaN if both are.
        """
        area = self.reference_areas.sum() + self.predicted_areas.sum()
        if area == 0:
            return math.nan
        total = self.to_prediction @ self.reference_areas + self.to_reference @ self.predicted_areas
        return float(total / area)

    def surface_dice(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of both surfaces, by area, that lies within `tolerance` mm of the other.

        0 if one of the masks is empty, NaN if both are.

        Reference:
            Nikolov et al. (2021), Clinically applicable segmentation of head and neck anatomy for radiotherapy,
            JMIR. doi:10.2196/26151; arXiv:1809.04430.
        """
        area = self.reference_areas.sum() + self.predicted_areas.sum()
        if area == 0:
            return math.nan
        limit = tolerance * (1 + _ROUNDING)
        within = self.reference_areas[self.to_prediction <= limit].sum()
        within += self.predicted_areas[self.to_reference <= limit].sum()
        return float(within / area)


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], ignored: np.ndarray | None = None
) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Surfaces are made of elements as in marching cubes, one in each cell between 2x2x2 voxels that they run through;
    distances are those between the centres of cells, exact for faces along the axes and within a voxel for all others,
    and an element counts with the area of the surface in it. An object that the border of the array cuts has a
    surface there.

    Args:
        reference, prediction: bool, of one shape: (X, Y, Z), or (Y, X) where surfaces are outlines.
        spacing: in mm, of each axis.
        ignored: bool; voxels of which nobody knows what they are. What is predicted there changes nothing: neither
            mask reaches into them. Elements beside them do not count, since they may only be where a mask was cut
            off, but the others are measured to them, since this is where a mask may go on.

    Reference:
        Nikolov et al. (2021), doi:10.2196/26151; the numbers are those of their surface-distance package. Podobnik &
        Vrtovec (2024), arXiv:2410.02630, discuss how programs differ.
    """
    if reference.shape != prediction.shape or len(spacing) != reference.ndim:
        raise ValueError(f"shapes {reference.shape} and {prediction.shape} do not fit the spacing {tuple(spacing)}")
    if ignored is not None:
        reference, prediction = reference & ~ignored, prediction & ~ignored
    first, second = surface_elements(reference), surface_elements(prediction)
    # A cell that lies within the ignored voxels altogether has no surface of the masks in any case.
    beside = surface_elements(ignored).cells if ignored is not None else np.empty(0, np.int64)
    areas = element_areas(spacing)
    to_prediction = _distances(first.cells, second.cells, reference.shape, spacing)
    to_reference = _distances(second.cells, first.cells, reference.shape, spacing)
    one, other = (~_members(elements.cells, beside) for elements in (first, second))
    return SurfaceDistances(
        to_prediction[one], areas[first.codes[one]], to_reference[other], areas[second.codes[other]]
    )


def _distances(cells: np.ndarray, others: np.ndarray, shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """From each cell to the nearest of the others, in mm."""
    if not len(others):
        return np.full(len(cells), math.inf)
    distances = np.zeros(len(cells))
    # Where the two surfaces coincide, mostly most of them, nothing has to be searched.
    apart = ~_members(cells, others)
    if apart.any():
        from scipy.spatial import cKDTree

        # Points of a grid share coordinates, which a balanced tree would be slow to split.
        tree = cKDTree(_points(others, shape, spacing), compact_nodes=False, balanced_tree=False)
        distances[apart] = tree.query(_points(cells[apart], shape, spacing))[0]
    return distances


def _points(cells: np.ndarray, shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    positions = np.unravel_index(cells, tuple(size + 1 for size in shape))
    return np.stack(positions, axis=1) * np.asarray(spacing, np.float64)


def _members(cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the cells are among the others; both ascend."""
    if not len(others):
        return np.zeros(len(cells), bool)
    places = np.searchsorted(others, cells)
    return others[np.minimum(places, len(others) - 1)] == cells


def _percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    if not len(distances):
        return math.nan
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    enough = covered >= percent / 100 * covered[-1] * (1 - 1e-12)
    return float(distances[order][np.argmax(enough)])
