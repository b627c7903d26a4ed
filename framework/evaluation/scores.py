"""All scores of one predicted label map against its reference: overlap, volumes, surface distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from framework.data.labels import LabelKey
from framework.data.readers.base import SLICE_SPACING_FACTOR
from framework.evaluation.overlap import Metrics, score_case
from framework.evaluation.surface_distances import surface_distances

VOLUME_NAMES = ("reference_ml", "predicted_ml", "difference_ml")
SURFACE_NAMES = ("HD95", "HD", "ASSD", "NSD", "tolerance_mm")
SCORE_NAMES = (
    "Dice", "IoU", "precision", "recall", *VOLUME_NAMES, *SURFACE_NAMES, "TP", "FP", "FN", "TN", "n_pred", "n_ref"
)  # fmt: skip
"""Every score of a label, in the order of tables. Distances are in mm, volumes in ml, the rest are shares or voxels."""

Tolerances = float | Mapping[LabelKey, float]
"""In mm, for all labels or for each."""


def score_volumes(
    reference: np.ndarray,
    prediction: np.ndarray,
    keys: Sequence[LabelKey],
    spacing: Sequence[float],
    *,
    ignore_label: int | None = None,
    tolerance_mm: Tolerances = 1.0,
    surface: bool = True,
) -> dict[LabelKey, Metrics]:
    """Scores of each label or region.

    Args:
        reference, prediction: (X, Y, Z) or (1, X, Y, Z) integers of one shape. A map of one slice is scored in two
            dimensions: its surface is an outline.
        keys: labels, or tuples of labels that a region unites.
        spacing: in mm, of X, Y, Z.
        ignore_label: voxels where the reference has this value count nowhere, see `surface_distances`.
        tolerance_mm: up to which distance surfaces count as equal in the normalised surface Dice.
        surface: False leaves out `SURFACE_NAMES`, which take most of the time.

    Returns:
        `SCORE_NAMES` of each key. What is not defined is NaN: everything but volumes and counts where a label is in
        neither map, precision where nothing was predicted, recall where nothing was to be found, and volumes of
        images without depth. If a label is in one of the maps only, Dice, IoU and NSD are 0 and distances infinite
        (Maier-Hein et al. 2024, Metrics Reloaded, Nature Methods, doi:10.1038/s41592-023-02151-z: the worst value).

    Raises:
        ValueError: the two shapes differ.
    """
    reference, prediction = _volume(reference), _volume(prediction)
    scores = score_case(prediction, reference, keys, ignore_label)
    millilitres = _voxel_volume(spacing)
    boxes = _Boxes(reference, prediction, keys) if surface else None
    for key, values in scores.items():
        tp, n_pred, n_ref = values["TP"], values["n_pred"], values["n_ref"]
        values["precision"] = tp / n_pred if n_pred else math.nan
        values["recall"] = tp / n_ref if n_ref else math.nan
        values["reference_ml"] = n_ref * millilitres
        values["predicted_ml"] = n_pred * millilitres
        values["difference_ml"] = (n_pred - n_ref) * millilitres
        if boxes is not None:
            tolerance = tolerance_mm[key] if isinstance(tolerance_mm, Mapping) else tolerance_mm
            values |= _surface_scores(reference, prediction, key, boxes.of(key), spacing, ignore_label, tolerance)
    return {key: {name: values[name] for name in SCORE_NAMES if name in values} for key, values in scores.items()}


def _surface_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    key: LabelKey,
    box: tuple[slice, ...] | None,
    spacing: Sequence[float],
    ignore_label: int | None,
    tolerance: float,
) -> Metrics:
    if box is None:
        return dict.fromkeys(SURFACE_NAMES[:-1], math.nan) | {"tolerance_mm": tolerance}
    wanted, predicted = mask_of(reference[box], key), mask_of(prediction[box], key)
    ignored = reference[box] == ignore_label if ignore_label is not None else None
    kept = _axes_with_depth(reference.shape)
    flat = tuple(slice(None) if axis in kept else 0 for axis in range(reference.ndim))
    distances = surface_distances(
        wanted[flat],
        predicted[flat],
        [spacing[axis] for axis in kept],
        ignored[flat] if ignored is not None and ignored.any() else None,
    )
    return {
        "HD95": distances.hausdorff(95),
        "HD": distances.hausdorff(),
        "ASSD": distances.average(),
        "NSD": distances.surface_dice(tolerance),
        "tolerance_mm": tolerance,
    }


def mask_of(labels: np.ndarray, key: LabelKey) -> np.ndarray:
    """Where a label map has this label, or one of the labels of this region."""
    members = key if isinstance(key, tuple) else (key,)
    mask = labels == members[0]
    for label in members[1:]:
        mask |= labels == label
    return mask


class _Boxes:
    """The smallest box that holds a label in both maps; all surfaces of the label lie in it."""

    def __init__(self, reference: np.ndarray, prediction: np.ndarray, keys: Sequence[LabelKey]) -> None:
        from scipy.ndimage import find_objects

        highest = max((label for key in keys for label in (key if isinstance(key, tuple) else (key,))), default=0)
        self._shape = reference.shape
        self._found = [find_objects(labels, highest) if highest else [] for labels in (reference, prediction)]

    def of(self, key: LabelKey) -> tuple[slice, ...] | None:
        """None if the label is in neither map."""
        members = key if isinstance(key, tuple) else (key,)
        if 0 in members:
            return tuple(slice(0, size) for size in self._shape)
        boxes = [box for found in self._found for label in members if (box := found[label - 1]) is not None]
        if not boxes:
            return None
        # One voxel more on each side shows ignored voxels beside the label.
        return tuple(
            slice(max(0, min(part.start for part in parts) - 1), min(size, max(part.stop for part in parts) + 1))
            for parts, size in zip(zip(*boxes), self._shape)
        )


def _volume(labels: np.ndarray) -> np.ndarray:
    return labels[0] if labels.ndim == 4 and len(labels) == 1 else labels


def _axes_with_depth(shape: Sequence[int]) -> list[int]:
    """All three axes, or the two within the slice."""
    for axis, size in enumerate(shape):
        if size == 1:
            return [other for other in range(len(shape)) if other != axis]
    return list(range(len(shape)))


def _voxel_volume(spacing: Sequence[float]) -> float:
    """In ml; NaN for images without depth, whose first axis has a symbolic spacing."""
    if spacing[0] >= 0.999 * SLICE_SPACING_FACTOR * max(spacing[1:]):
        return math.nan
    return float(np.prod(spacing)) / 1000
