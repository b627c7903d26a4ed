"""From logits on the grid of the network to a label map, or probabilities, on the grid of the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from framework.data.image_io import write_segmentation
from framework.data.labels import Labels
from framework.data.restricted_pickle import dumps
from framework.errors import UnknownNameError
from framework.files import atomic_write, write_bytes
from framework.plans import Configuration, Plans
from framework.preprocessing.resampling import RESAMPLING

Logits = np.ndarray | Tensor


def label_map_from_logits(
    logits: Logits, properties: Mapping[str, Any], plans: Plans, configuration: Configuration, labels: Labels
) -> np.ndarray:
    """The label map that the network means, in the geometry of the scan.

    Heads are resampled one after the other and compared with the best so far, so that memory holds one head
    at full size, however many there are.

    Args:
        logits: (K, X, Y, Z) on the preprocessed grid.
        properties: of the preprocessed case: ``spacing``, ``shape_before_cropping``,
            ``bbox_used_for_cropping`` and ``shape_after_cropping_and_before_resampling``.
        plans, configuration, labels: what the case was preprocessed with.

    Returns:
        The labels, of the shape that the reader gave to the scan; uint8, or uint16 from label 255 on.
    """
    heads = _as_array(logits)
    if tuple(properties["shape_after_cropping_and_before_resampling"]) == heads.shape[1:]:
        cropped = labels.segmentation_from_logits(heads)
    else:
        cropped = _resampled_label_map(heads, properties, plans, configuration, labels)
    dtype = np.uint8 if max(labels.all_labels) < 255 else np.uint16
    whole = np.zeros(tuple(properties["shape_before_cropping"]), dtype)
    whole[_box(properties)] = cropped
    return np.ascontiguousarray(whole.transpose(plans.transpose_backward))


def probabilities_from_logits(
    logits: Logits, properties: Mapping[str, Any], plans: Plans, configuration: Configuration, labels: Labels
) -> np.ndarray:
    """Probability of every head in the geometry of the scan, (K, *scan shape) float32.

    Outside the box that preprocessing cropped to, background has probability 1 and every region 0. The
    arguments are those of `label_map_from_logits`.
    """
    heads = _as_array(logits)
    whole = np.zeros((len(heads), *properties["shape_before_cropping"]), np.float32)
    box = _box(properties)
    inside = whole[(slice(None), *box)]
    for k in range(len(heads)):
        inside[k] = _resampled(heads[k : k + 1], properties, plans, configuration)[0]
    if labels.has_regions:
        np.negative(inside, out=inside)
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and its inverse rightly 0
            np.exp(inside, out=inside)
        inside += 1
        np.reciprocal(inside, out=inside)
    else:
        inside -= inside.max(0)
        np.exp(inside, out=inside)
        inside /= inside.sum(0)
        outside = np.ones(whole.shape[1:], bool)
        outside[box] = False
        whole[0][outside] = 1
    return np.ascontiguousarray(whole.transpose(0, *(axis + 1 for axis in plans.transpose_backward)))


def export_prediction(
    logits: Logits,
    properties: Mapping[str, Any],
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
    path: Path | str,
    *,
    file_ending: str,
    save_probabilities: bool = False,
) -> np.ndarray:
    """Write the prediction of one case.

    Args:
        path: where to, without the ending: OUT/CASE writes OUT/CASE.nii.gz (the label map) and with
            `save_probabilities` OUT/CASE.npz (``probabilities``) and OUT/CASE.pkl (the properties) before it,
            so that a label map on the disk means that the case is complete.
        file_ending: of the label map, such as ".nii.gz".

    Returns:
        The label map. The other arguments are those of `label_map_from_logits`.
    """
    path = Path(path)
    if save_probabilities:
        probabilities = probabilities_from_logits(logits, properties, plans, configuration, labels)
        label_map = np.asarray(labels.segmentation_from_probabilities(probabilities))
        save_probability_file(path.parent / f"{path.name}.npz", probabilities)
        write_bytes(path.parent / f"{path.name}.pkl", dumps(dict(properties)))
    else:
        label_map = label_map_from_logits(logits, properties, plans, configuration, labels)
    write_segmentation(label_map, path.parent / (path.name + file_ending), dict(properties), plans.image_reader_writer)
    return label_map


def save_probability_file(path: Path | str, probabilities: np.ndarray) -> None:
    """Write (K, X, Y, Z) float32 as nnU-Net's compressed CASE.npz, atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, probabilities=probabilities.astype(np.float32, copy=False))


def _resampled_label_map(
    heads: np.ndarray,
    properties: Mapping[str, Any],
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
) -> np.ndarray:
    """(X, Y, Z) labels on the cropped grid before resampling; the rules are those of `Labels`."""
    first = _resampled(heads[:1], properties, plans, configuration)[0]
    if labels.has_regions:
        values: Sequence[int] = labels.regions_class_order or ()
        label_map = np.where(first > 0, values[0], 0).astype(np.int16)
        for k in range(1, len(heads)):
            label_map[_resampled(heads[k : k + 1], properties, plans, configuration)[0] > 0] = values[k]
        return label_map
    best, label_map = first, np.zeros(first.shape, np.int16)
    for k in range(1, len(heads)):
        candidate = _resampled(heads[k : k + 1], properties, plans, configuration)[0]
        label_map[candidate > best] = k
        np.maximum(best, candidate, out=best)
    return label_map


def _resampled(
    heads: np.ndarray, properties: Mapping[str, Any], plans: Plans, configuration: Configuration
) -> np.ndarray:
    """(K, X, Y, Z) on the cropped grid before resampling, float32."""
    name = configuration.resampling_fn_probabilities
    if name not in RESAMPLING:
        raise UnknownNameError("resampling_fn_probabilities", name, RESAMPLING, plans.source)
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    shape = tuple(int(size) for size in properties["shape_after_cropping_and_before_resampling"])
    # A 2D configuration has no spacing along the slices: they are never resampled.
    current = list(configuration.spacing)
    current = spacing[: len(spacing) - len(current)] + current
    return RESAMPLING[name](heads, shape, current, spacing, **configuration.resampling_fn_probabilities_kwargs)


def _as_array(logits: Logits) -> np.ndarray:
    return logits.detach().cpu().float().numpy() if isinstance(logits, Tensor) else logits


def _box(properties: Mapping[str, Any]) -> tuple[slice, ...]:
    return tuple(slice(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"])


def to_scan_grid(
    data: np.ndarray, properties: Mapping[str, Any], plans: Plans, configuration: Configuration
) -> np.ndarray:
    """A preprocessed image (C, X, Y, Z) on the grid of its scan, 0 where it was cropped; for pictures."""
    whole = np.zeros((len(data), *properties["shape_before_cropping"]), np.float32)
    whole[(slice(None), *_box(properties))] = _resampled(np.asarray(data), properties, plans, configuration)
    return np.ascontiguousarray(whole.transpose(0, *(axis + 1 for axis in plans.transpose_backward)))
