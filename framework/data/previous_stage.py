"""Cascades: the segmentation of the previous stage, as the next one reads it.

``TRAINER__PLANS__PREVIOUS/predicted_next_stage/CONFIGURATION/CASE.b2nd`` is nnU-Net's: labels (X, Y, Z) on the
preprocessed grid of the next stage. They are cut, turned and mirrored with the case's own segmentation, and then
become one input channel for every foreground label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.data import blosc_format
from framework.errors import CaseError
from framework.files import write_bytes

FOLDER_NAME = "predicted_next_stage"


def prediction_folder(model_folder: Path, next_stage: str) -> Path:
    """Where a stage leaves what it predicts for the next one."""
    return model_folder / FOLDER_NAME / next_stage


def missing_predictions(folder: Path, cases: Sequence[str]) -> list[str]:
    """The cases that the previous stage has not segmented."""
    return [case for case in cases if not (folder / f"{case}.b2nd").is_file()]


def write_prediction(folder: Path, case: str, labels: np.ndarray, patch_size: Sequence[int]) -> None:
    """Write labels (X, Y, Z), uint8 or uint16, atomically; `patch_size` is that of the stage that predicts."""
    import blosc2

    block, chunk = blosc_format.block_and_chunk_shape((1, *labels.shape), patch_size, labels.itemsize)
    packed = blosc2.asarray(np.ascontiguousarray(labels), chunks=chunk[1:], blocks=block[1:], contiguous=True)
    write_bytes(folder / f"{case}.b2nd", packed.to_cframe())


def open_prediction(folder: Path, case: str, shape: Sequence[int]) -> Any:
    """A blosc2 array (X, Y, Z); nothing is unpacked until it is indexed.

    Raises:
        CaseError: the file is missing or damaged, or does not have the `shape` of the preprocessed case.
    """
    path = folder / f"{case}.b2nd"
    try:
        labels = blosc_format.open_packed(path)
    except OSError as error:
        raise CaseError(case, f"{path} cannot be read: {error}. Validate the previous stage again.") from error
    if tuple(labels.shape) != tuple(shape):
        raise CaseError(
            case,
            f"{path} has shape {tuple(labels.shape)}, the preprocessed case {tuple(shape)}. "
            "One of them is older than the other: validate the previous stage again.",
        )
    return labels


def one_hot(segmentation: Tensor, labels: Sequence[int], axis: int) -> Tensor:
    """float32 channels, one for each of `labels`, as a new axis at position `axis`."""
    return torch.stack([segmentation == label for label in labels], dim=axis).float()
