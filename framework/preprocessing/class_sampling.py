"""Sampling where each label of a case is, once: training then centres patches on it without searching."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from framework.data.labels import LabelKey, Labels

_SEED = 1234
_MIN_SAMPLES = 10_000
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
    random = np.random.RandomState(_SEED)
    wanted = {label for key in keys for label in _members(key)}
    flat = segmentation.ravel()
    positions = np.flatnonzero(np.isin(flat, list(wanted)))
    values = flat[positions]
    # sorted by label, in reading order within each
    positions = positions[np.argsort(values, kind="stable")]
    present, counts = np.unique(values, return_counts=True)
    ends = dict(zip(present.tolist(), np.cumsum(counts).tolist()))
    starts = {label: ends[label] - count for label, count in zip(present.tolist(), counts.tolist())}

    locations: dict[LabelKey, np.ndarray | list[int]] = {}
    for key in keys:
        parts = [positions[starts[label] : ends[label]] for label in _members(key) if label in ends]
        total = sum(len(part) for part in parts)
        if not total:
            locations[key] = []
            continue
        num_samples = max(min(_MIN_SAMPLES, total), int(np.ceil(total * _MIN_SHARE)))
        drawn = random.choice(total, num_samples, replace=False)
        chosen = (parts[0] if len(parts) == 1 else np.concatenate(parts))[drawn]
        locations[key] = np.stack(np.unravel_index(chosen, segmentation.shape), axis=1)
    return locations


def _members(key: LabelKey) -> tuple[int, ...]:
    return key if isinstance(key, tuple) else (key,)
