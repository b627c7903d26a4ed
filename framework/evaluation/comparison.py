"""Two predictions of the same cases against each other: paired differences, and whether they may be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from framework.data.labels import LabelKey
from framework.errors import DatasetError
from framework.evaluation.aggregate import DISTANCES, interval_ends, interval_headings
from framework.evaluation.csv_file import Field, write_csv
from framework.evaluation.evaluate import Evaluation
from framework.evaluation.metrics_table import HEADINGS, label_text
from framework.evaluation.statistics import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Interval,
    bootstrap_interval,
    holm,
    mean_over_cases,
    median_over_cases,
    wilcoxon_signed_rank,
)

COMPARED = ("Dice", "NSD", "HD95", "ASSD")
_SIGNIFICANT = 0.05
_FEWEST_PAIRS = 6
"""With five pairs the smallest two-sided p value that the signed-rank test can give is 0.0625."""


@dataclass(frozen=True)
class Difference:
    """One score of one label: B minus A, over the cases where both have it.

    Attributes:
        value: mean difference, or median for distances.
        interval: of the value, by bootstrap over the pairs; None for fewer than two.
        num_pairs: cases where both scores are defined.
        num_left_out: other cases.
        p: of the Wilcoxon signed-rank test; NaN without pairs.
        corrected_p: after Holm's correction over the labels.
        effect: rank-biserial correlation, -1 to 1; above 0 if B has the larger values.
    """

    key: LabelKey
    score: str
    value: float
    interval: Interval | None
    num_pairs: int
    num_left_out: int
    p: float
    corrected_p: float
    effect: float

    @property
    def better(self) -> str:
        """``A`` or ``B`` if the difference is significant, else an empty string."""
        if not self.corrected_p < _SIGNIFICANT:
            return ""
        b_is_larger = self.effect > 0
        return "A" if b_is_larger == (self.score in DISTANCES) else "B"


def compare(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Differences of every label and score, in cases that both evaluations have.

    Raises:
        DatasetError: they have no case in common.
    """
    common = [case for case in first.cases if case in second.cases]
    if not common:
        raise DatasetError("The two predictions have no scored case in common, so they cannot be compared.")
    scores = [name for name in COMPARED if name in next(iter(first.cases[common[0]].values()))]
    found = []
    for score in scores:
        differences = {
            key: _difference(
                key,
                score,
                np.array([first.cases[case][key][score] for case in common], np.float64),
                np.array([second.cases[case][key][score] for case in common], np.float64),
            )
            for key in first.labels.keys
        }
        corrected = holm([difference.p for difference in differences.values()])
        found += [replace(difference, corrected_p=p) for difference, p in zip(differences.values(), corrected)]
    return found


def _difference(key: LabelKey, score: str, first: np.ndarray, second: np.ndarray) -> Difference:
    defined = ~np.isnan(first) & ~np.isnan(second)
    with np.errstate(invalid="ignore"):
        # Where both missed a structure, both distances are infinite: a tie.
        differences = np.where(first == second, 0.0, second - first)[defined]
    statistic = median_over_cases if score in DISTANCES else mean_over_cases
    p, effect = wilcoxon_signed_rank(differences) if len(differences) else (math.nan, math.nan)
    return Difference(
        key,
        score,
        value=float(statistic(differences[None])[0]) if len(differences) else math.nan,
        interval=bootstrap_interval(differences, statistic),
        num_pairs=len(differences),
        num_left_out=len(first) - len(differences),
        p=p,
        corrected_p=p,
        effect=effect,
    )


def comparison_text(differences: Sequence[Difference], names: Mapping[LabelKey, str]) -> str:
    """A sentence for each label and score."""
    num_labels = len(names)
    lines = [_sentence(difference, names[difference.key]) for difference in differences]
    lines.append(
        f"Differences are B minus A. [..]: {CONFIDENCE:.0%} percentile bootstrap over the pairs, {NUM_RESAMPLES} "
        "resamples. p: Wilcoxon signed-rank test, two-sided"
        + (f", with Holm's correction over {num_labels} labels." if num_labels > 1 else ".")
    )
    return "\n".join(lines)


def _sentence(difference: Difference, name: str) -> str:
    what = f"{difference.score}, label {label_text(difference.key)}{f' ({name})' if name else ''}"
    if not difference.num_pairs:
        return f"{what}: no case has this score in both predictions."
    digits, unit = (2, " mm") if difference.score in DISTANCES else (4, "")
    size = f"{difference.value:+.{digits}f}{unit}"
    if difference.interval is not None:
        size += f" [{difference.interval.low:+.{digits}f}, {difference.interval.high:+.{digits}f}]"
    if difference.num_pairs < _FEWEST_PAIRS:
        verdict = "too few pairs for a test"
    elif difference.better:
        verdict = f"{difference.better} is better"
    else:
        verdict = "no difference was shown"
    left_out = f", {difference.num_left_out} left out" if difference.num_left_out else ""
    return (
        f"{what}: {verdict} ({_statistic(difference.score)} difference {size}, {difference.num_pairs} pairs{left_out}, "
        f"p = {difference.corrected_p:.2g}, effect {difference.effect:+.2f})."
    )


def write_comparison(path: Path | str, differences: Sequence[Difference], names: Mapping[LabelKey, str]) -> None:
    """One line for each label and score, as CSV."""
    header = [
        "label", "name", "score", "statistic", "B minus A", *interval_headings(),
        "pairs", "left out", "p", "p (Holm)", "rank-biserial correlation", "better",
    ]  # fmt: skip
    rows: list[list[Field]] = [
        [
            label_text(each.key), names[each.key], HEADINGS.get(each.score, each.score), _statistic(each.score),
            each.value, *interval_ends(each.interval),
            each.num_pairs, each.num_left_out, each.p, each.corrected_p, each.effect, each.better,
        ]
        for each in differences
    ]  # fmt: skip
    write_csv(path, header, rows)


def _statistic(score: str) -> str:
    return "median" if score in DISTANCES else "mean"
