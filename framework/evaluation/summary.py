"""Scores of predicted label images against references, as nnU-Net's summary.json."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.labels import LabelKey
from framework.errors import DatasetError
from framework.files import read_json, write_text


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


def write_summary(summary: Mapping[str, Any], path: Path | str) -> None:
    """Write summary.json in nnU-Net's form: sorted keys, indent 4, regions as "(1, 2, 3)".

    What is not a number is null, where nnU-Net writes a bare NaN, which is no JSON.
    """
    printable = {
        "foreground_mean": _with_null(summary["foreground_mean"]),
        "mean": {str(key): _with_null(metrics) for key, metrics in summary["mean"].items()},
        "metric_per_case": [
            {**case, "metrics": {str(key): _with_null(metrics) for key, metrics in case["metrics"].items()}}
            for case in summary["metric_per_case"]
        ],
    }
    write_text(path, json.dumps(printable, indent=4, sort_keys=True, allow_nan=False))


def read_summary(path: Path | str) -> dict[str, Any]:
    """Read a summary.json, of ours or of nnU-Net; labels become integers again, regions tuples, and null NaN.

    Raises:
        DatasetError: the file is missing, or no summary.
    """
    summary = read_json(path, error_type=DatasetError)
    try:
        summary["foreground_mean"] = _with_nan(summary["foreground_mean"])
        summary["mean"] = {_key(name): _with_nan(metrics) for name, metrics in summary["mean"].items()}
        for case in summary["metric_per_case"]:
            case["metrics"] = {_key(name): _with_nan(metrics) for name, metrics in case["metrics"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(
            f"{path} is no summary of scores ({type(error).__name__}: {error}). Run fw_evaluate on the folder again."
        ) from None
    return summary


def _with_null(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _with_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _key(name: str) -> LabelKey:
    numbers = tuple(int(part) for part in name.strip("()").split(",") if part.strip())
    return numbers if name.startswith("(") else numbers[0]
