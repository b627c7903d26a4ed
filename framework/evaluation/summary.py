"""Scores of predicted label images against references, as nnU-Net's summary.json."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.image_io import geometry_differences, read_segmentation
from framework.data.labels import LabelKey
from framework.errors import CaseError, DatasetError
from framework.files import read_json, write_text

Metrics = dict[str, float]
"""``Dice``, ``IoU`` and the counts ``TP``, ``FP``, ``FN``, ``TN``, ``n_pred``, ``n_ref`` of one label."""


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
    size = int(max(prediction.max(initial=0), reference.max(initial=0))) + 1
    joint = np.bincount(reference.ravel().astype(np.int64) * size + prediction.ravel(), minlength=size * size).reshape(
        size, size
    )
    if ignore_label is not None and ignore_label < size:
        joint[ignore_label] = 0
    num_voxels = int(joint.sum())
    scores: dict[LabelKey, Metrics] = {}
    for key in keys:
        members = [label for label in (key if isinstance(key, tuple) else (key,)) if label < size]
        tp = int(joint[np.ix_(members, members)].sum())
        fn = int(joint[members].sum()) - tp
        fp = int(joint[:, members].sum()) - tp
        union = tp + fp + fn
        scores[key] = {
            "Dice": 2 * tp / (union + tp) if union else math.nan,
            "IoU": tp / union if union else math.nan,
            "TP": tp,
            "FP": fp,
            "FN": fn,
            "TN": num_voxels - union,
            "n_pred": tp + fp,
            "n_ref": tp + fn,
        }
    return scores


def summarise(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over cases and over labels.

    Args:
        cases: one dict a case with ``metrics`` ({key: metrics}), ``prediction_file`` and ``reference_file``.

    Returns:
        nnU-Net's summary: ``metric_per_case`` as given, ``mean`` over the cases for each key (cases where it
        is NaN are left out), ``foreground_mean`` over the keys (a label that no case has makes it NaN).
    """
    if not cases:
        raise DatasetError("There are no cases to summarise.")
    keys = list(cases[0]["metrics"])
    names = list(cases[0]["metrics"][keys[0]]) if keys else []
    with warnings.catch_warnings():
        # A label that no case has: its mean is NaN, as it should be.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        mean = {
            key: {name: float(np.nanmean([case["metrics"][key][name] for case in cases])) for name in names}
            for key in keys
        }
    foreground = [metrics for key, metrics in mean.items() if key != 0]
    foreground_mean = {
        name: sum(metrics[name] for metrics in foreground) / len(foreground) if foreground else math.nan
        for name in names
    }
    return {"metric_per_case": list(cases), "mean": mean, "foreground_mean": foreground_mean}


def evaluate_folder(
    reference_folder: Path | str,
    prediction_folder: Path | str,
    keys: Sequence[LabelKey],
    *,
    file_ending: str = ".nii.gz",
    ignore_label: int | None = None,
    reader: str | None = None,
    num_threads: int = 1,
) -> dict[str, Any]:
    """Score every prediction in a folder against the reference of the same file name.

    Args:
        keys: labels or regions to score.
        file_ending: of predictions and references.
        ignore_label: see `score_case`.
        reader: name of the image reader; None chooses by the file ending.
        num_threads: cases that are read and scored at once.

    Returns:
        As `summarise`, in the order of file names.

    Raises:
        DatasetError: there are no predictions, or some have no reference; lists them.
        CaseError: prediction and reference do not lie on the same grid.
    """
    reference_folder, prediction_folder = Path(reference_folder), Path(prediction_folder)
    names = sorted(
        path.name
        for path in prediction_folder.glob(f"*{file_ending}")
        if path.is_file() and not path.name.startswith(".")
    )
    if not names:
        raise DatasetError(
            f"{prediction_folder} holds no files that end in {file_ending}, so there is nothing to evaluate."
        )
    missing = [name for name in names if not (reference_folder / name).is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(names)} predictions in {prediction_folder} have no reference of the "
            f"same name in {reference_folder}: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )

    def score(name: str) -> dict[str, Any]:
        return score_files(
            reference_folder / name,
            prediction_folder / name,
            keys,
            case=name.removesuffix(file_ending),
            ignore_label=ignore_label,
            reader=reader,
        )

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        return summarise(list(pool.map(score, names)))


def score_files(
    reference_file: Path | str,
    prediction_file: Path | str,
    keys: Sequence[LabelKey],
    *,
    case: str,
    ignore_label: int | None = None,
    reader: str | None = None,
) -> dict[str, Any]:
    """One entry of ``metric_per_case``.

    Raises:
        CaseError: the two files do not lie on the same grid; says how they differ.
    """
    reference, reference_properties = read_segmentation(reference_file, reader)
    prediction, properties = read_segmentation(prediction_file, reader)
    if reference.shape != prediction.shape:
        differences = geometry_differences(reference.shape, reference_properties, prediction.shape, properties)
        raise CaseError(
            case,
            f"{prediction_file} does not lie on the grid of {reference_file}: {'; '.join(differences)}. "
            "Predict on the images that the references were drawn on.",
        )
    return {
        "metrics": score_case(prediction, reference, keys, ignore_label),
        "prediction_file": str(prediction_file),
        "reference_file": str(reference_file),
    }


def write_summary(summary: Mapping[str, Any], path: Path | str) -> None:
    """Write summary.json as nnU-Net does: sorted keys, indent 4, regions as "(1, 2, 3)", NaN unquoted."""
    printable = {
        "foreground_mean": summary["foreground_mean"],
        "mean": {str(key): metrics for key, metrics in summary["mean"].items()},
        "metric_per_case": [
            {**case, "metrics": {str(key): metrics for key, metrics in case["metrics"].items()}}
            for case in summary["metric_per_case"]
        ],
    }
    write_text(path, json.dumps(printable, indent=4, sort_keys=True))


def read_summary(path: Path | str) -> dict[str, Any]:
    """Read a summary.json, of ours or of nnU-Net; labels become integers again, and regions tuples."""
    summary = read_json(path)
    summary["mean"] = {_key(name): metrics for name, metrics in summary["mean"].items()}
    for case in summary["metric_per_case"]:
        case["metrics"] = {_key(name): metrics for name, metrics in case["metrics"].items()}
    return summary


def _key(name: str) -> LabelKey:
    numbers = tuple(int(part) for part in name.strip("()").split(",") if part.strip())
    return numbers if name.startswith("(") else numbers[0]
