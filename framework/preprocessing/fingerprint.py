"""The fingerprint of a dataset: spacings, shapes and foreground intensities; all that planning looks at.

``dataset_fingerprint.json`` is nnU-Net's, with the same numbers: the same voxels are sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.data.image_io import check_case
from framework.data.labels import Labels
from framework.data.raw_dataset import RawCase, RawDataset
from framework.errors import DatasetError
from framework.preprocessing.crop import nonzero_box
from framework.preprocessing.parallel import CasePool, Progress
from framework.preprocessing.raw_record import RawRecord, raw_record
from framework.preprocessing.raw_size import values_of_largest

FILE_NAME = "dataset_fingerprint.json"

_NUM_SAMPLES = 100_000_000
"""Foreground voxels that are drawn from all cases together, in equal shares."""
_SEED = 1234
_DRAWS_AT_ONCE = 1 << 18  # they stay in the cache
_WIDEST_TABLE = 1 << 20

_BYTES_PER_VALUE = 32
"""In a worker: a voxel as it is stored and as float32, its label and mask, and sorting it if it is foreground."""
_BYTES_PER_SAMPLE = 24
"""A drawn index and what counting it takes."""


@dataclass(frozen=True)
class CaseFingerprint:
    """What one case contributes."""

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    """After cropping to the region with content."""
    relative_size: float
    """Voxels after cropping to voxels before."""
    samples: list[tuple[np.ndarray, np.ndarray]]
    """For each channel the distinct intensities drawn, and how often each; empty without foreground."""


def extract_fingerprint(
    raw_dataset: RawDataset,
    pool: CasePool,
    progress: Progress | None = None,
    records: dict[str, RawRecord] | None = None,
) -> dict[str, Any]:
    """The fingerprint of a raw dataset, as it stands in ``dataset_fingerprint.json``.

    Args:
        records: filled with the raw files of every case, see `framework.preprocessing.raw_record`.

    Raises:
        DatasetError: lists every case that cannot be used; or the dataset has no case, or no foreground.
    """
    if not raw_dataset.cases:
        raise DatasetError(f"{raw_dataset.folder} holds no training case. Add scans to imagesTr and labelsTr.")
    reader = raw_dataset.reader_name
    num_samples = _NUM_SAMPLES // len(raw_dataset.cases)
    num_channels = len(raw_dataset.channel_names)
    arguments = {
        name: (case, raw_dataset.labels, num_channels, reader, num_samples) for name, case in raw_dataset.cases.items()
    }
    memory = values_of_largest(raw_dataset.cases.values()) * _BYTES_PER_VALUE + num_samples * _BYTES_PER_SAMPLE
    found = pool.run(_recorded_fingerprint, arguments, "fingerprint", progress, bytes_per_case=memory)
    cases = [case for case, _ in found.values()]
    if records is not None:
        records.update({name: record for name, (_, record) in found.items()})
    return {
        "foreground_intensity_properties_per_channel": {
            str(channel): _statistics([case.samples[channel] for case in cases], raw_dataset)
            for channel in range(num_channels)
        },
        "median_relative_size_after_cropping": float(np.median([case.relative_size for case in cases])),
        "shapes_after_crop": [list(case.shape) for case in cases],
        "spacings": [list(case.spacing) for case in cases],
    }


def fingerprint_of_case(
    case: RawCase, labels: Labels, num_channels: int, reader: str, num_samples: int
) -> CaseFingerprint:
    """Read one case and take its contribution. CaseError if it cannot be used."""
    channels, segmentation, properties = check_case(case.images, case.label, labels, case.name, num_channels, reader)
    assert segmentation is not None  # training cases have labels
    box, _ = nonzero_box(channels, want_mask=False)
    inside = tuple(slice(*ends) for ends in box)
    cropped = [channel[inside] for channel in channels]
    return CaseFingerprint(
        spacing=tuple(float(length) for length in properties["spacing"]),
        shape=cropped[0].shape,
        relative_size=cropped[0].size / channels[0].size,
        samples=sample_foreground(cropped, segmentation[0][inside] > 0, num_samples),
    )


def _recorded_fingerprint(case: RawCase, *arguments: Any) -> tuple[CaseFingerprint, RawRecord]:
    record = raw_record(case)
    return fingerprint_of_case(case, *arguments), record


def sample_foreground(
    channels: Sequence[np.ndarray], foreground: np.ndarray, num_samples: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw foreground voxels with replacement, so that small and large cases count alike.

    Args:
        channels: (X, Y, Z) each, of any type.
        foreground: (X, Y, Z) mask.

    Returns:
        For each channel (distinct values, how often each was drawn). The draws are nnU-Net's; counting them
        needs far less memory than keeping them, since there are many more draws than voxels.
    """
    random = np.random.RandomState(_SEED)
    samples = []
    for channel in channels:
        values = channel[foreground]
        if not len(values):
            samples.append((values.astype(np.float32), np.zeros(0, np.int64)))
        elif np.issubdtype(values.dtype, np.integer) and int(values.max()) - int(values.min()) < _WIDEST_TABLE:
            samples.append(_draw_integers(random, values, num_samples))
        else:
            samples.append(_draw(random, values.astype(np.float32, copy=False), num_samples))
    return samples


def _draw_integers(
    random: np.random.RandomState, values: np.ndarray, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values drawn, as float32, and how often each was; by a table over all values that may occur."""
    lowest = int(values.min())
    table = np.zeros(int(values.max()) - lowest + 1, np.int64)
    # As small as can be: draws jump about in it.
    places = (values.astype(np.int64) - lowest).astype(np.min_scalar_type(len(table)))
    for drawn in _draws(random, len(values), num_samples, _DRAWS_AT_ONCE):
        table += np.bincount(places[drawn], minlength=len(table))
    present = np.flatnonzero(table)
    return (present + lowest).astype(np.float32), table[present]


def _draw(random: np.random.RandomState, values: np.ndarray, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_draw_integers`, for any values."""
    times = np.zeros(len(values), np.int32)
    for drawn in _draws(random, len(values), num_samples, max(_DRAWS_AT_ONCE, len(values))):
        times += np.bincount(drawn, minlength=len(values)).astype(np.int32)
    distinct, inverse = np.unique(values, return_inverse=True)
    counts = np.bincount(inverse, times, len(distinct))
    return distinct[counts > 0], counts[counts > 0].astype(np.int64)


def _draws(random: np.random.RandomState, length: int, number: int, at_once: int) -> Iterator[np.ndarray]:
    """What RandomState.choice would draw from `length` things; in parts it is the same."""
    for start in range(0, number, at_once):
        yield random.randint(0, length, min(at_once, number - start))


def _statistics(samples: list[tuple[np.ndarray, np.ndarray]], raw_dataset: RawDataset) -> dict[str, float]:
    """Statistics over the draws of all cases together, for one channel."""
    pooled = np.concatenate([values for values, _ in samples])
    if not len(pooled):
        raise DatasetError(
            f"{raw_dataset.folder / 'labelsTr'}: no label image has any foreground, so there is nothing "
            "to learn. Check the label values against 'labels' in dataset.json."
        )
    values, inverse = np.unique(pooled, return_inverse=True)
    counts = np.bincount(inverse, np.concatenate([number for _, number in samples]), len(values))
    ends = np.cumsum(counts)
    exact = values.astype(np.float64)
    mean = float(np.average(exact, weights=counts))
    # nnU-Net computes in float32, with the mean rounded to it
    variance = float(np.average((exact - mean) ** 2, weights=counts))
    return {
        "max": float(values[-1]),
        "mean": float(np.float32(mean)),
        "median": _percentile(values, ends, 50.0),
        "min": float(values[0]),
        "percentile_00_5": _percentile(values, ends, 0.5),
        "percentile_99_5": _percentile(values, ends, 99.5),
        "std": float(np.float32(np.sqrt(variance))),
    }


def _percentile(values: np.ndarray, ends: np.ndarray, percentile: float) -> float:
    """Percentile (linear between neighbours) of sorted distinct `values` that reach up to rank `ends`."""
    position = percentile / 100 * (ends[-1] - 1)
    below = np.floor(position)
    first, second = values[np.searchsorted(ends, [below, min(below + 1, ends[-1] - 1)], side="right")]
    return float(first + (second - first) * (position - below))
