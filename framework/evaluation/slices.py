"""Which slices of a case are worth looking at: the middle of the foreground, and where two label maps differ most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.data.labels import LabelKey

_MAX_LABEL_FOR_TABLE = 4096


@dataclass(frozen=True)
class SliceCounts:
    """Voxels of each slice, across each of the three array axes.

    Attributes:
        foreground: that have a label in the reference or the prediction.
        differing: that have another label in the prediction than in the reference; all 0 without a reference.
        dice: of each label or region over the whole case, NaN where it is in neither; empty without a reference.
        present: labels that occur in one of them.
    """

    foreground: tuple[np.ndarray, np.ndarray, np.ndarray]
    differing: tuple[np.ndarray, np.ndarray, np.ndarray]
    dice: dict[LabelKey, float]
    present: frozenset[int]

    def middle(self, axis: int) -> int:
        """The slice that has half of the foreground before it: one far voxel does not move it."""
        summed = np.cumsum(self.foreground[axis])
        if not summed[-1]:
            return len(summed) // 2
        return int(np.searchsorted(summed, (summed[-1] + 1) // 2))

    def worst(self, axis: int, number: int = 1) -> list[int]:
        """The slices that differ most, the worst first; where none differs, those with most foreground.

        Only slices with a difference (or with foreground) are named, so there may be fewer than `number`.
        """
        counts = self.differing[axis] if self.differing[axis].any() else self.foreground[axis]
        order = np.argsort(-counts, kind="stable")[:number]
        return [int(position) for position in order if counts[position]]


def count_slices(
    reference: Any, prediction: Any, keys: Iterable[LabelKey], ignore_label: int | None = None
) -> SliceCounts:
    """Count the voxels of two label maps slice by slice; beside them, memory holds one slice.

    Args:
        reference: (X, Y, Z) labels >= 0, or None.
        prediction: (X, Y, Z) labels >= 0.
        keys: labels, or tuples of labels that a region unites, whose Dice is wanted.
        ignore_label: voxels where the reference has this value do not count.
    """
    foreground, differing = _Projection(prediction.shape), _Projection(prediction.shape)
    joint = np.zeros((1, 1), np.int64)
    for x in range(prediction.shape[0]):
        predicted = np.asarray(prediction[x])
        true = predicted if reference is None else np.asarray(reference[x])
        labelled = (true != 0) | (predicted != 0)
        if ignore_label is not None and reference is not None:
            labelled &= true != ignore_label
        if not labelled.any():
            continue
        foreground.add(labelled, x)
        found, wanted = predicted[labelled].astype(np.int64), true[labelled].astype(np.int64)
        size = int(max(found.max(), wanted.max())) + 1
        if size > _MAX_LABEL_FOR_TABLE:
            raise ValueError(f"label {size - 1} was found; the highest that can be drawn is {_MAX_LABEL_FOR_TABLE - 1}")
        if size > len(joint):
            joint = np.pad(joint, (0, size - len(joint)))
        size = len(joint)
        joint += np.bincount(wanted * size + found, minlength=size * size).reshape(size, size)
        if reference is not None:
            different = (true != predicted) & labelled
            if different.any():
                differing.add(different, x)
    present = frozenset((np.flatnonzero(joint.sum(0) + joint.sum(1))).tolist()) - {0}
    dice = {} if reference is None else {key: _dice(joint, key) for key in keys}
    return SliceCounts(foreground.counts(), differing.counts(), dice, present)


class _Projection:
    """Voxels of a mask, counted slice by slice across the first axis and, looking along it, summed up."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._along = np.zeros(shape[0], np.int64)
        self._summed = np.zeros(shape[1:], np.int32)

    def add(self, mask: np.ndarray, x: int) -> None:
        self._along[x] = np.count_nonzero(mask)
        self._summed += mask

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._along, self._summed.sum(1, dtype=np.int64), self._summed.sum(0, dtype=np.int64)


def _dice(joint: np.ndarray, key: LabelKey) -> float:
    """From how often each label of the reference (rows) meets each of the prediction (columns)."""
    members = [label for label in (key if isinstance(key, tuple) else (key,)) if label < len(joint)]
    both = int(joint[np.ix_(members, members)].sum())
    each = int(joint[members].sum() + joint[:, members].sum())
    return 2 * both / each if each else math.nan
