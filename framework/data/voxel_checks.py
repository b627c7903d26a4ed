"""Values that cannot be trained on: NaN in scans, labels that are no integers or that dataset.json does not name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framework.data.labels import Labels
from framework.data.value_counts import count_values
from framework.errors import CaseError, FoldwiseError


def integer_labels(array: np.ndarray, path: Path | str) -> np.ndarray:
    """Labels as int8, int16 or int32, whichever suffices; whole numbers that are stored as floats too.

    Raises:
        FoldwiseError: a value is no integer, or too large for a label.
    """
    if not np.issubdtype(array.dtype, np.integer):
        rounded = np.rint(array)
        broken = ~(rounded == array)  # also true for NaN
        if broken.any():
            example = array[broken][0]
            raise FoldwiseError(
                f"{path} has {int(broken.sum())} voxels whose label is no integer, for example {example:g}. "
                "Labels were probably interpolated; resample label images with nearest neighbours."
            )
        array = rounded
    low, high = int(array.min()), int(array.max())
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind, order="C", copy=False)
    raise FoldwiseError(f"{path} has values from {low} to {high}, which are no labels. Is this the label image?")


def check_channels_and_values(
    channels: Sequence[np.ndarray], case: str, num_channels: int | None, images: Sequence[Path | str]
) -> None:
    """CaseError if the channels (X, Y, Z) are too few or too many, or have NaN or infinite voxels."""
    if num_channels is not None and len(channels) != num_channels:
        files = ", ".join(str(path) for path in images)
        raise CaseError(
            case,
            f"{len(channels)} channel(s) were read from {files}, but dataset.json names {num_channels}.",
        )
    for number, channel in enumerate(channels):
        if np.issubdtype(channel.dtype, np.integer):
            continue
        # The sum is not finite if any voxel is not: one pass, no mask.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(channel.sum(dtype=np.float64))
        if not suspicious:
            continue
        num_nan, num_infinite = int(np.isnan(channel).sum()), int(np.isinf(channel).sum())
        if num_nan or num_infinite:
            path = images[number] if len(images) == len(channels) else images[0]
            raise CaseError(
                case,
                f"{path} has {num_nan} NaN and {num_infinite} infinite voxels. Replace them, for example "
                "by 0 or the smallest value of the scan.",
            )


def check_label_values(segmentation: np.ndarray, labels: Labels, path: Path | str) -> None:
    """FoldwiseError if `segmentation` (integers) holds a value that dataset.json does not name."""
    found = count_values(segmentation)
    unknown = {value: number for value, number in found.items() if value not in labels.allowed_values}
    if unknown:
        listed = ", ".join(f"{value} ({number} voxels)" for value, number in list(unknown.items())[:8])
        named = ", ".join(f"{name}={value}" for name, value in labels.names.items())
        hint = " A mask with 0 and 255 must be stored as 0 and 1." if set(found) == {0, 255} else ""
        raise FoldwiseError(
            f"{path} has label values that dataset.json does not name: {listed}. Named there: {named}. "
            f"Add them to 'labels' or correct the label image.{hint}"
        )
