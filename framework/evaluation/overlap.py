"""Overlap of two label maps: how many voxels of each label lie in which label of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from framework.data.labels import LabelKey
from framework.data.value_counts import count_values

Metrics = dict[str, float]

OVERLAP_NAMES = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")
"""What nnU-Net counts for each label, and all that its summary.json holds."""

_VOXELS_AT_ONCE = 1 << 20
_WIDEST_TABLE = 1 << 10


def score_case(
    prediction: np.ndarray, reference: np.ndarray, keys: Sequence[LabelKey], ignore_label: int | None = None
) -> dict[LabelKey, Metrics]:
    """Overlap of two label maps for each label or region.

    Args:
        prediction, reference: integers of the same shape.
        keys: labels, or tuples of labels that a region unites.
        ignore_label: voxels where the reference has this value are left out; None for none.

    Returns:
        The metrics of each key; Dice and IoU are NaN where a label is in neither map.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"the prediction has the shape {prediction.shape}, the reference {reference.shape}")
    # One joint histogram answers for all labels and regions; counting voxel by voxel happens once.
    reference_values, predicted_values, joint = _joint_histogram(reference, prediction)
    if ignore_label is not None:
        joint[reference_values == ignore_label] = 0
    num_voxels = int(joint.sum())
    scores: dict[LabelKey, Metrics] = {}
    for key in keys:
        members = key if isinstance(key, tuple) else (key,)
        rows, columns = np.isin(reference_values, members), np.isin(predicted_values, members)
        both, wanted, predicted = joint[np.ix_(rows, columns)].sum(), joint[rows].sum(), joint[:, columns].sum()
        scores[key] = overlap_metrics(int(both), int(predicted), int(wanted), num_voxels)
    return scores


def overlap_metrics(tp: int, n_pred: int, n_ref: int, num_voxels: int) -> Metrics:
    """`OVERLAP_NAMES` from counts of voxels: in both maps, in the prediction, in the reference, and all."""
    union = n_pred + n_ref - tp
    return {
        "Dice": 2 * tp / (n_pred + n_ref) if union else math.nan,
        "IoU": tp / union if union else math.nan,
        "TP": tp,
        "FP": n_pred - tp,
        "FN": n_ref - tp,
        "TN": num_voxels - union,
        "n_pred": n_pred,
        "n_ref": n_ref,
    }


def _joint_histogram(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values of each map, and how often each pair of them meets in a voxel. Needs no copy of the maps."""
    first, second = reference.reshape(-1), prediction.reshape(-1)
    highest = max(int(first.max(initial=0)), int(second.max(initial=0)))
    lowest = min(int(first.min(initial=0)), int(second.min(initial=0)))
    rows = columns = np.arange(highest + 1)
    # A stray value such as 65535 must not ask for a table of its square.
    sparse = lowest < 0 or highest >= _WIDEST_TABLE
    if sparse:
        rows, columns = np.array(list(count_values(first))), np.array(list(count_values(second)))
    joint = np.zeros(len(rows) * len(columns), np.int64)
    for start in range(0, first.size, _VOXELS_AT_ONCE):
        row, column = first[start : start + _VOXELS_AT_ONCE], second[start : start + _VOXELS_AT_ONCE]
        if sparse:
            row, column = np.searchsorted(rows, row), np.searchsorted(columns, column)
        joint += np.bincount(row.astype(np.int64) * len(columns) + column, minlength=len(joint))
    return rows, columns, joint.reshape(len(rows), len(columns))
