"""Post-processing: of some labels together, only the largest connected component is kept.

The rule that decides for which labels this is done is nnU-Net's (Isensee et al. 2021, nnU-Net, Nature Methods 18,
doi:10.1038/s41592-020-01008-z): where it improves the scores of the cross-validation, first for all foreground
together, then for each label or region.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from framework.data.labels import LabelKey, Labels
from framework.evaluation.overlap import overlap_metrics
from framework.selection.pieces import Pieces, find_pieces

ALL_FOREGROUND = "all foreground"


@dataclass(frozen=True)
class KeepLargest:
    """Keep the largest component of the union of `labels`; the others become background."""

    labels: tuple[int, ...]
    name: str = ""
    """For people: the name of the label or region, or `ALL_FOREGROUND`."""
    one_region: bool = False
    """Whether `labels` is written as one region rather than as several labels; it makes no difference."""


@dataclass(frozen=True)
class Decision:
    """A step that was tried on the cross-validation."""

    step: KeepLargest
    accepted: bool
    dice_before: float
    dice_after: float
    """Mean Dice of all foreground for `ALL_FOREGROUND`, else that of the label or region."""


def apply_steps(label_map: np.ndarray, steps: Sequence[KeepLargest]) -> np.ndarray:
    """The label map after all steps, one after the other.

    Args:
        label_map: (X, Y, Z) integers >= 0.

    Returns:
        A new array, or `label_map` itself if there was nothing to remove.
    """
    if not steps:
        return label_map
    pieces = find_pieces(label_map)
    present = pieces.all_present()
    for step in steps:
        present = pieces.keep_largest(step.labels, present)
    return pieces.without_removed(label_map, present)


class ScoredCase:
    """One case of a cross-validation, reduced to its pieces and to how many voxels of each overlap which label.

    Every question about post-processing is answered from this; the arrays are not needed again.

    Args:
        prediction, reference: (X, Y, Z) integers >= 0 of one shape.
        keys: the labels or regions that are scored.
        ignore_label: voxels where the reference has this value do not count.
    """

    def __init__(
        self,
        prediction: np.ndarray,
        reference: np.ndarray,
        keys: Sequence[LabelKey],
        ignore_label: int | None = None,
    ) -> None:
        self.pieces: Pieces = find_pieces(prediction)
        valid = _counts(reference)
        if ignore_label is not None and ignore_label < len(valid):
            valid[ignore_label] = 0
        self.num_voxels = int(valid.sum())
        # Which labels belong to which key: (keys, labels of the prediction), (keys, labels of the reference)
        num_labels = int(self.pieces.labels.max(initial=0)) + 1
        self._predicted_in = _membership(keys, num_labels)
        self._reference_in = _membership(keys, len(valid))
        self.num_reference = self._reference_in @ valid
        inside = prediction[self.pieces.box]
        found = reference[self.pieces.box][inside != 0].astype(np.int64)
        # (piece, label of the reference, number of voxels), without empty ones
        numbers = self.pieces.of_foreground * len(valid) + found
        if ignore_label is not None:
            numbers = numbers[found != ignore_label]
        pairs, self._number = _distinct(numbers, len(self.pieces.labels) * len(valid))
        self._piece, self._label = np.divmod(pairs, len(valid))
        # of_foreground is as large as the prediction; from here on only the graph is needed
        self.pieces = Pieces((), self.pieces.labels, self.pieces.sizes, self.pieces.touching, pairs[:0])

    def overlap(self, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each key: voxels in both maps, and voxels of the prediction, if only these pieces are left."""
        left = present[self._piece]
        piece, label, number = self._piece[left], self._label[left], self._number[left]
        shape = (self._predicted_in.shape[1], self._reference_in.shape[1])
        flat = self.pieces.labels[piece].astype(np.int64) * shape[1] + label
        joint = np.bincount(flat, number, minlength=shape[0] * shape[1]).reshape(shape)
        rows = self._predicted_in @ joint
        return np.rint((rows * self._reference_in).sum(1)).astype(np.int64), np.rint(rows.sum(1)).astype(np.int64)

    def dice(self, present: np.ndarray) -> np.ndarray:
        """Dice of each key; NaN where it is in neither map."""
        both, predicted = self.overlap(present)
        total = predicted + self.num_reference
        return np.divide(2 * both, total, out=np.full(len(total), math.nan), where=total > 0)

    def metrics(self, keys: Sequence[LabelKey], present: np.ndarray) -> dict[LabelKey, dict[str, float]]:
        """All that summary.json says of a case, for each key."""
        scores: dict[LabelKey, dict[str, float]] = {}
        for key, both, predicted, wanted in zip(keys, *self.overlap(present), self.num_reference):
            scores[key] = overlap_metrics(int(both), int(predicted), int(wanted), self.num_voxels)
        return scores


@dataclass(frozen=True)
class Determined:
    """What was decided, and the evidence."""

    decisions: tuple[Decision, ...]
    before: dict[str, dict[LabelKey, dict[str, float]]]
    after: dict[str, dict[LabelKey, dict[str, float]]]
    """Metrics of each case before and after all accepted steps."""

    @property
    def steps(self) -> tuple[KeepLargest, ...]:
        return tuple(decision.step for decision in self.decisions if decision.accepted)


def determine_steps(cases: Mapping[str, ScoredCase], labels: Labels) -> Determined:
    """Decide which steps improve the cross-validation.

    All foreground together: if the mean Dice of all labels rises, and that of no label falls. Then, if there are
    several, each label or region in the order of dataset.json: if its own mean Dice rises; on top of what has been
    accepted so far.

    Args:
        cases: all of the cross-validation, scored for ``labels.foreground_keys``.
    """
    keys = labels.foreground_keys
    start = {name: case.pieces.all_present() for name, case in cases.items()}
    present, dice = start, _mean_dice(cases, start)
    decisions = []
    for index, step in [(None, _whole(labels)), *enumerate(_single_steps(labels))]:
        tried = {name: case.pieces.keep_largest(step.labels, present[name]) for name, case in cases.items()}
        new = _mean_dice(cases, tried)
        if index is None:
            before, after = float(dice.mean()), float(new.mean())
            accepted = after > before and not bool((new < dice).any())
        else:
            before, after = float(dice[index]), float(new[index])
            accepted = after > before
        decisions.append(Decision(step, accepted, before, after))
        if accepted:
            present, dice = tried, new
    return Determined(
        tuple(decisions),
        {name: case.metrics(keys, start[name]) for name, case in cases.items()},
        {name: case.metrics(keys, present[name]) for name, case in cases.items()},
    )


def _whole(labels: Labels) -> KeepLargest:
    return KeepLargest(labels.foreground_labels, ALL_FOREGROUND)


def _single_steps(labels: Labels) -> list[KeepLargest]:
    if len(labels.foreground_keys) < 2:
        return []
    return [
        KeepLargest(key if isinstance(key, tuple) else (key,), name, isinstance(key, tuple))
        for key, name in zip(labels.foreground_keys, labels.foreground_names)
    ]


def _mean_dice(cases: Mapping[str, ScoredCase], present: Mapping[str, np.ndarray]) -> np.ndarray:
    """(keys,) mean over the cases in which it is defined, added up as for summary.json."""
    table = np.stack([case.dice(present[name]) for name, case in cases.items()])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)  # a label that no case has
        return np.array([np.nanmean(np.ascontiguousarray(column)) for column in table.T])


def _membership(keys: Sequence[LabelKey], num_labels: int) -> np.ndarray:
    """(keys, labels) 1 where the key unites the label."""
    table = np.zeros((len(keys), num_labels))
    for row, key in zip(table, keys):
        row[[label for label in (key if isinstance(key, tuple) else (key,)) if label < num_labels]] = 1
    return table


def _counts(label_map: np.ndarray) -> np.ndarray:
    from framework.data.value_counts import count_values

    found = count_values(label_map)
    counts = np.zeros(max(found, default=0) + 1, np.int64)
    counts[list(found)] = list(found.values())
    return counts


def _distinct(numbers: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The different ones of integers below `limit`, ascending, and how often each comes."""
    if limit > 4 * len(numbers):  # sorting is slower, but needs no table
        return np.unique(numbers, return_counts=True)
    table = np.bincount(numbers, minlength=limit)
    found = np.flatnonzero(table)
    return found, table[found]
