"""Scores of all cases in one line for each label: for reading, and as CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framework.data.labels import LabelKey
from framework.evaluation.csv_file import Field, write_csv
from framework.evaluation.evaluate import Evaluation
from framework.evaluation.metrics_table import HEADINGS, label_text
from framework.evaluation.statistics import (
    CONFIDENCE,
    NUM_RESAMPLES,
    SEED,
    Interval,
    bootstrap_interval,
    mean_over_cases,
    mean_over_labels,
    median_over_cases,
)

DISTANCES = ("HD95", "HD", "ASSD")
"""Infinite where a structure was missed: their median says something, their mean does not."""
_AGGREGATED = ("Dice", "IoU", "precision", "recall", "NSD", *DISTANCES, "difference_ml")
_ALL_LABELS = "mean over labels"


@dataclass(frozen=True)
class Aggregate:
    """One score of one label over all cases.

    Attributes:
        value: the median of distances, the mean of everything else.
        statistic: ``median`` or ``mean``.
        interval: of the value; None for fewer than two cases.
        num_cases: in which the score is defined.
        num_undefined: other cases.
        num_infinite: cases in which exactly one of reference and prediction is empty.
        deviation: standard deviation; NaN if a value is infinite.
        quartiles: first and third.
    """

    value: float
    statistic: str
    interval: Interval | None
    num_cases: int
    num_undefined: int
    num_infinite: int
    deviation: float
    quartiles: tuple[float, float]


def aggregate(values: np.ndarray, name: str) -> Aggregate:
    """One score, named as in `SCORE_NAMES`, over the cases (n,)."""
    defined = values[~np.isnan(values)]
    statistic = median_over_cases if name in DISTANCES else mean_over_cases
    finite = bool(np.isfinite(defined).all())
    low, high = np.quantile(defined, (0.25, 0.75), method="inverted_cdf") if len(defined) else (math.nan, math.nan)
    return Aggregate(
        value=float(statistic(defined[None])[0]) if len(defined) else math.nan,
        statistic="median" if name in DISTANCES else "mean",
        interval=bootstrap_interval(defined, statistic),
        num_cases=len(defined),
        num_undefined=len(values) - len(defined),
        num_infinite=int(np.isinf(defined).sum()),
        deviation=float(defined.std(ddof=1)) if len(defined) > 1 and finite else math.nan,
        quartiles=(float(low), float(high)),
    )


def aggregate_labels(evaluation: Evaluation) -> dict[LabelKey, dict[str, Aggregate]]:
    """Every score worth averaging, of each label."""
    present = [name for name in _AGGREGATED if all(name in values for values in _first_case(evaluation).values())]
    return {
        key: {name: aggregate(evaluation.values(name, key), name) for name in present} for key in evaluation.labels.keys
    }


def foreground_mean(evaluation: Evaluation, name: str) -> tuple[float, Interval | None]:
    """Mean over labels of the means over cases, as nnU-Net's foreground mean; labels that no case has are left out."""
    matrix = np.stack([evaluation.values(name, key) for key in evaluation.labels.keys], axis=1)
    return float(mean_over_labels(matrix[None])[0]), bootstrap_interval(matrix, mean_over_labels)


def text_table(evaluation: Evaluation, aggregates: Mapping[LabelKey, Mapping[str, Aggregate]]) -> str:
    """Several lines for a console."""
    first = _first_case(evaluation)
    surface = all("NSD" in values for values in first.values())
    tolerances = {values["tolerance_mm"] for values in first.values()} if surface else set()
    nsd = f"NSD at {tolerances.pop():g} mm" if len(tolerances) == 1 else "NSD"
    shown = (
        {"Dice": "Dice", "HD95": "HD95 (mm)", "ASSD": "ASSD (mm)", "NSD": nsd}
        if surface
        else {"Dice": "Dice", "IoU": "IoU"}
    )
    rows = [["label", "cases", *shown.values()], ["", "", *(_kind(name) for name in shown)]]
    for key, scores in aggregates.items():
        title = " ".join(filter(None, (label_text(key), evaluation.labels.names[key])))
        rows.append([title, str(scores["Dice"].num_cases), *(_aggregate_text(scores[name], name) for name in shown)])
    if len(aggregates) > 1:
        means = {name: foreground_mean(evaluation, name) for name in shown if name not in DISTANCES}
        rows.append([_ALL_LABELS, "", *(_with_interval(*means[name], name) if name in means else "" for name in shown)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{field:<{width}}" for field, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_explanations(evaluation, aggregates)])


def write_aggregates(
    path: Path | str, evaluation: Evaluation, aggregates: Mapping[LabelKey, Mapping[str, Aggregate]]
) -> None:
    """The same and more as CSV: one line for each label and score."""
    header = [
        "label", "name", "score", "statistic", "value", *interval_headings(),
        "standard deviation", "first quartile", "third quartile", "cases", "undefined", "infinite",
    ]  # fmt: skip
    rows: list[list[Field]] = [
        [
            label_text(key), evaluation.labels.names[key], HEADINGS.get(name, name), found.statistic, found.value,
            *interval_ends(found.interval), found.deviation, *found.quartiles,
            found.num_cases, found.num_undefined, found.num_infinite,
        ]
        for key, scores in aggregates.items()
        for name, found in scores.items()
    ]  # fmt: skip
    write_csv(path, header, rows)


def interval_headings() -> list[str]:
    return [f"{CONFIDENCE:.0%} low", f"{CONFIDENCE:.0%} high"]


def interval_ends(interval: Interval | None) -> list[float]:
    return [interval.low, interval.high] if interval is not None else [math.nan, math.nan]


def _first_case(evaluation: Evaluation) -> Mapping[LabelKey, Mapping[str, float]]:
    return next(iter(evaluation.cases.values()))


def _kind(name: str) -> str:
    return f"{'median' if name in DISTANCES else 'mean'} [{CONFIDENCE:.0%} CI]"


def _aggregate_text(found: Aggregate, name: str) -> str:
    return _with_interval(found.value, found.interval, name)


def _with_interval(value: float, interval: Interval | None, name: str) -> str:
    if math.isnan(value):
        return "-"
    digits = 2 if name in DISTANCES else 4
    ends = f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if interval else ""
    return f"{value:.{digits}f}{ends}"


def _explanations(evaluation: Evaluation, aggregates: Mapping[LabelKey, Mapping[str, Aggregate]]) -> list[str]:
    lines = []
    if len(evaluation.cases) > 1:
        lines.append(f"CI: percentile bootstrap over the cases, {NUM_RESAMPLES} resamples, seed {SEED}.")
    absent = sum(scores["Dice"].num_undefined for scores in aggregates.values())
    if absent:
        lines.append(
            f"{absent} time(s) a label is in neither reference nor prediction of a case: it has no score there and is "
            "left out of the mean."
        )
    one_sided = sum(scores["HD95"].num_infinite for scores in aggregates.values() if "HD95" in scores)
    if one_sided:
        lines.append(
            f"{one_sided} time(s) a label is only in the reference or only in the prediction: "
            "Dice and NSD 0, distances infinite."
        )
    return lines
