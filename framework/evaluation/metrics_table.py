"""metrics.csv: one line for each case and label, with every score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from framework.data.labels import LabelKey
from framework.evaluation.csv_file import write_csv
from framework.evaluation.scores import SCORE_NAMES

HEADINGS = {
    "reference_ml": "reference volume (ml)",
    "predicted_ml": "predicted volume (ml)",
    "difference_ml": "volume difference (ml)",
    "HD95": "HD95 (mm)",
    "HD": "HD (mm)",
    "ASSD": "ASSD (mm)",
    "tolerance_mm": "NSD tolerance (mm)",
    "TP": "TP (voxels)",
    "FP": "FP (voxels)",
    "FN": "FN (voxels)",
    "TN": "TN (voxels)",
    "n_pred": "n_pred (voxels)",
    "n_ref": "n_ref (voxels)",
}
"""Columns whose names need a unit; the others are shares between 0 and 1."""


def write_metrics_table(
    path: Path | str,
    cases: Mapping[str, Mapping[LabelKey, Mapping[str, float]]],
    names: Mapping[LabelKey, str],
) -> None:
    """Write the scores of all cases as CSV.

    A score that is not defined is an empty field, an infinite distance is ``inf``. A region is written with its
    labels, as ``1+2``.

    Args:
        cases: for each case the scores of each label or region, as `score_volumes` returns them.
        names: of the labels and regions.

    Raises:
        FoldwiseError: the file cannot be written.
    """
    present = {name for scores in cases.values() for values in scores.values() for name in values}
    columns = [name for name in SCORE_NAMES if name in present]
    write_csv(
        path,
        ["case", "label", "name", *(HEADINGS.get(name, name) for name in columns)],
        (
            [case, label_text(key), names.get(key, ""), *(values.get(name, math.nan) for name in columns)]
            for case, scores in cases.items()
            for key, values in scores.items()
        ),
    )


def label_text(key: LabelKey) -> str:
    """``3``, or ``1+2`` for a region."""
    return "+".join(str(label) for label in (key if isinstance(key, tuple) else (key,)))
