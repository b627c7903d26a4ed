"""Sampling where each label of a case is, once: training then centres patches on it without searching."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from framework.data.labels import LabelKey, Labels
from framework.data.value_counts import count_values

_SEED = 1234
_MIN_SAMPLES = 10_000
_VOXELS_AT_ONCE = 1 << 22
_MIN_SHARE = 0.01  # of a label's voxels, where that is more


def keys_to_sample(labels: Labels) -> tuple[LabelKey, ...]:
    """Labels or regions to sample; with an ignore label also all annotated voxels, under their own key."""
    if labels.ignore_label is None:
        return labels.foreground_keys
    return (*labels.foreground_keys, (-1, *labels.all_labels))


def sample_class_locations(
    segmentation: np.ndarray, keys: Iterable[LabelKey]
) -> dict[LabelKey, np.ndarray | list[int]]:
    """Voxels of each label or region, drawn without replacement; the same ones that nnU-Net draws.

    Args:
        segmentation: (1, X, Y, Z) integers.
        keys: labels, or tuples of labels for their union.

    Returns:
        For each key (n, 4) int64 rows [0, x, y, z], or an empty list where none of its voxels is there.
    """
    keys = list(keys)
    flat = segmentation.reshape(-1)
    counts = count_values(flat)
    random = np.random.RandomState(_SEED)
    searched: dict[int, list[_Search]] = {}
    found: dict[LabelKey, np.ndarray] = {}
    for key in keys:
        numbers = [counts.get(label, 0) for label in _members(key)]
        total = sum(numbers)
        if not total:
            continue
        num_samples = max(min(_MIN_SAMPLES, total), int(np.ceil(total * _MIN_SHARE)))
        # A number below `total` stands for a voxel: those of the first label in reading order, then those of the
        # second, and so on.
        drawn = random.choice(total, num_samples, replace=False)
        found[key] = np.empty(num_samples, np.int64)
        for label, end, number in zip(_members(key), np.cumsum(numbers).tolist(), numbers):
            slots = np.flatnonzero((drawn >= end - number) & (drawn < end))
            ranks = drawn[slots] - (end - number)
            order = np.argsort(ranks)
            searched.setdefault(label, []).append(_Search(ranks[order], slots[order], found[key]))
    _find(flat, searched)
    return {
        key: np.stack(np.unravel_index(found[key], segmentation.shape), axis=1) if key in found else [] for key in keys
    }


@dataclass(frozen=True)
class _Search:
    """Voxels of one label that are wanted: which ones in reading order, ascending, and where to note them."""

    ranks: np.ndarray
    slots: np.ndarray
    positions: np.ndarray


def _find(flat: np.ndarray, searched: dict[int, list[_Search]]) -> None:
    """Note the position of every wanted voxel, in one pass that needs little memory."""
    passed = dict.fromkeys(searched, 0)  # voxels of each label before this part
    labels = np.array(sorted(searched), flat.dtype)
    for start in range(0, flat.size, _VOXELS_AT_ONCE):
        part = flat[start : start + _VOXELS_AT_ONCE]
        positions = np.flatnonzero(np.isin(part, labels))
        values = part[positions]
        # sorted by label, in reading order within each
        positions = positions[np.argsort(values, kind="stable")] + start
        counts = count_values(values)
        for (label, number), end in zip(counts.items(), np.cumsum(list(counts.values())).tolist()):
            for search in searched[label]:
                first, last = np.searchsorted(search.ranks, (passed[label], passed[label] + number))
                chosen = search.ranks[first:last] - passed[label]
                search.positions[search.slots[first:last]] = positions[end - number : end][chosen]
            passed[label] += number


def _members(key: LabelKey) -> tuple[int, ...]:
    return key if isinstance(key, tuple) else (key,)
