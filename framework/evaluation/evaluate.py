"""Scores of all predicted label images of a folder; a case that cannot be scored does not stop the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.case_warnings import collected_case_warnings
from framework.data.geometry import check_grid
from framework.data.image_io import Properties, read_segmentation
from framework.data.labels import LabelKey
from framework.data.value_counts import count_values
from framework.errors import FoldwiseError
from framework.evaluation.case_pairs import CasePairs
from framework.evaluation.cases import Progress, for_each_case
from framework.evaluation.overlap import OVERLAP_NAMES, Metrics
from framework.evaluation.scored_labels import ScoredLabels
from framework.evaluation.scores import Tolerances, score_volumes
from framework.evaluation.summary import summarise


@dataclass(frozen=True)
class Evaluation:
    """Scores of some predictions.

    Attributes:
        labels: that were scored.
        cases: for each case `framework.evaluation.scores.SCORE_NAMES` of each label or region.
        files: reference and prediction of each of these cases.
        failures: why other cases could not be scored.
        remarks: what is odd about cases that were scored.
    """

    labels: ScoredLabels
    cases: dict[str, dict[LabelKey, Metrics]]
    files: dict[str, tuple[Path, Path]]
    failures: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """In nnU-Net's form, with exactly its metrics; for `write_summary`."""
        return summarise(
            [
                {
                    "metrics": {key: {name: values[name] for name in OVERLAP_NAMES} for key, values in scores.items()},
                    "prediction_file": str(self.files[case][1]),
                    "reference_file": str(self.files[case][0]),
                }
                for case, scores in self.cases.items()
            ]
        )

    def values(self, name: str, key: LabelKey) -> np.ndarray:
        """One score of one label, in the order of the cases."""
        return np.array([scores[key][name] for scores in self.cases.values()], np.float64)


def evaluate_pairs(
    pairs: CasePairs,
    labels: ScoredLabels,
    *,
    tolerance_mm: Tolerances = 1.0,
    surface: bool = True,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Read and score all pairs of label images.

    Args:
        tolerance_mm, surface: see `score_volumes`.
        num_threads: cases in work at once. Threads suffice, since counting and searching run outside of Python's
            lock; each needs memory for two label maps.
    """

    def score(case: str) -> tuple[dict[LabelKey, Metrics], list[str]]:
        with collected_case_warnings() as remarks:
            reference, prediction, properties = read_pair(case, *pairs.files[case], labels)
        scores = score_volumes(
            reference,
            prediction,
            labels.keys,
            properties["spacing"],
            ignore_label=labels.ignore_label,
            tolerance_mm=tolerance_mm,
            surface=surface,
        )
        return scores, remarks

    outcome = for_each_case(pairs.files, score, num_threads=num_threads, what="scored", progress=progress)
    results = outcome.results
    return Evaluation(
        labels,
        cases={case: scores for case, (scores, _) in results.items()},
        files={case: pairs.files[case] for case in results},
        failures=outcome.failures,
        remarks={case: remarks for case, (_, remarks) in results.items() if remarks},
    )


def read_pair(
    case: str, reference_file: Path, prediction_file: Path, labels: ScoredLabels
) -> tuple[np.ndarray, np.ndarray, Properties]:
    """Reference and prediction as (1, X, Y, Z), and the properties of the reference.

    Warns with `CaseWarning` where only origin or direction of the two differ.

    Raises:
        FoldwiseError: a file cannot be read, or they do not lie on one grid.
        CaseError: they hold a value that is no label.
    """
    reference, properties = read_segmentation(reference_file, labels.reader)
    prediction, own = read_segmentation(prediction_file, labels.reader)
    check_grid(
        prediction_file,
        prediction.shape[1:],
        own,
        reference_file,
        reference.shape[1:],
        properties,
        "reference and prediction",
    )
    labels.check_values(reference, reference_file, case)
    labels.check_values(prediction, prediction_file, case)
    return reference, prediction, properties


def labels_in_references(
    pairs: CasePairs, ignore_label: int | None = None, num_threads: int = 1, progress: Progress | None = None
) -> ScoredLabels:
    """All values but 0 that occur in references, for want of a dataset.json."""

    def values(case: str) -> set[int]:
        return set(count_values(read_segmentation(pairs.files[case][0])[0]))

    # A reference that cannot be read is a failure of its case when it is scored.
    found = for_each_case(
        pairs.files, values, num_threads=num_threads, what="looking for labels", progress=progress
    ).results
    ignored = set() if ignore_label is None else {ignore_label}
    present = sorted(set().union(*found.values()) - {0} - ignored)
    if found and not present:
        raise FoldwiseError(
            f"the {len(found)} references hold no label but background, so nothing can be scored. "
            "Name the labels with -l 1 2, or a dataset.json with -djfile."
        )
    return ScoredLabels(dict.fromkeys(present, ""), ignore_label, frozenset({0, *present, *ignored}), "the references")
