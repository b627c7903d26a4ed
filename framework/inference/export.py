"""From logits on the grid of the network to a label map, or probabilities, on the grid of the scan."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.data.image_io import write_segmentation
from framework.data.labels import Labels
from framework.data.restricted_pickle import dumps
from framework.errors import FoldwiseError, UnknownNameError
from framework.files import write_bytes
from framework.inference.axis_sampling import AxisSampling, linear_sampling
from framework.inference.label_map import winners_by_rows
from framework.inference.probability_files import probability_parts, save_probability_file, write_probability_file
from framework.inference.scan_grid import ScanGrid
from framework.plans import Configuration, Plans
from framework.preprocessing.resampling import RESAMPLING

__all__ = [
    "export_prediction",
    "label_map_from_logits",
    "probabilities_from_logits",
    "save_probability_file",
]

Logits = np.ndarray | Tensor


def label_map_from_logits(
    logits: Logits, properties: Mapping[str, Any], plans: Plans, configuration: Configuration, labels: Labels
) -> np.ndarray:
    """The label map that the network means, in the geometry of the scan.

    Beside the logits, memory holds the label map and a slab: see `framework.inference.label_map`.

    Args:
        logits: (K, X, Y, Z) on the preprocessed grid, of any float type. A tensor on a GPU is worked on there.
        properties: of the preprocessed case: ``spacing``, ``shape_before_cropping``,
            ``bbox_used_for_cropping`` and ``shape_after_cropping_and_before_resampling``.
        plans, configuration, labels: what the case was preprocessed with.

    Returns:
        The labels, of the shape that the reader gave to the scan; uint8, or uint16 from label 255 on.

    Raises:
        FoldwiseError: the properties contradict themselves, the logits are not finite or not one for each head.
    """
    grid, heads, axes = _prepared(logits, properties, plans, configuration, labels)
    return _label_map(grid, heads, axes, labels)


def probabilities_from_logits(
    logits: Logits, properties: Mapping[str, Any], plans: Plans, configuration: Configuration, labels: Labels
) -> np.ndarray:
    """Probability of every head in the geometry of the scan, (K, *scan shape) float32.

    Outside the box that preprocessing cropped to, background has probability 1 and every region 0. The
    arguments are those of `label_map_from_logits`.
    """
    grid, heads, axes = _prepared(logits, properties, plans, configuration, labels)
    probabilities = np.empty((len(heads), *grid.scan_shape), np.float32)
    for k, rows, part in probability_parts(heads, axes, grid, labels.has_regions):
        probabilities[k, rows] = part
    return probabilities


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
    grid, heads, axes = _prepared(logits, properties, plans, configuration, labels)
    label_map = _label_map(grid, heads, axes, labels)
    if save_probabilities:
        parts = (part for _, _, part in probability_parts(heads, axes, grid, labels.has_regions))
        write_probability_file(path.parent / f"{path.name}.npz", (len(heads), *grid.scan_shape), parts)
        write_bytes(path.parent / f"{path.name}.pkl", dumps(dict(properties)))
    write_segmentation(label_map, path.parent / (path.name + file_ending), dict(properties), plans.image_reader_writer)
    return label_map


def _prepared(
    logits: Logits, properties: Mapping[str, Any], plans: Plans, configuration: Configuration, labels: Labels
) -> tuple[ScanGrid, Tensor, list[AxisSampling]]:
    """Where the logits lie in the scan, the logits as a tensor, and how each of their axes is sampled."""
    grid = ScanGrid.of(properties, plans, configuration)
    heads = _as_tensor(logits)
    if heads.ndim != 4 or len(heads) != labels.num_heads or 0 in heads.shape:
        raise FoldwiseError(
            f"found logits of shape {tuple(heads.shape)}, expected (K, X, Y, Z) with K = {labels.num_heads}, one for "
            f"each head of these labels ({', '.join(labels.names)}). The network was trained with other labels, or the "
            "dataset.json is that of another dataset."
        )
    shapes = heads.shape[1:], grid.shape, grid.network_spacing, grid.spacing
    resample = _resampling(plans, configuration)
    axes = linear_sampling(*shapes, **configuration.resampling_fn_probabilities_kwargs)
    if axes is None:
        # Splines of a higher order overshoot, so that cells cannot be decided by their corners. No plans of nnU-Net
        # ask for them here, and this one time all heads are held at full size.
        heads = torch.from_numpy(
            resample(heads.cpu().float().numpy(), *shapes[1:], **configuration.resampling_fn_probabilities_kwargs)
        )
        axes = [AxisSampling.between(length, length, order=0) for length in grid.shape]
    return grid, heads, axes


def _label_map(grid: ScanGrid, heads: Tensor, axes: Sequence[AxisSampling], labels: Labels) -> np.ndarray:
    dtype = np.uint8 if max(labels.all_labels) < 255 else np.uint16
    # Softmax heads are labels themselves: these are consecutive. Of regions, winner 0 is none.
    values = np.array([0, *(labels.regions_class_order or ())], dtype) if labels.has_regions else None
    label_map = np.zeros(grid.scan_shape, dtype)
    box = grid.box_of(label_map)
    for rows, winners in winners_by_rows(heads, axes, labels.has_regions):
        found = winners.cpu().numpy()
        box[rows] = found if values is None else values[found]
    return label_map


def _resampling(plans: Plans, configuration: Configuration) -> Any:
    name = configuration.resampling_fn_probabilities
    if name not in RESAMPLING:
        raise UnknownNameError("resampling_fn_probabilities", name, RESAMPLING, plans.source)
    return RESAMPLING[name]


def _as_tensor(logits: Logits) -> Tensor:
    if not isinstance(logits, Tensor):
        if any(stride < 0 for stride in logits.strides):  # which torch does not know
            logits = logits.copy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")  # nothing is written to it
            logits = torch.from_numpy(logits)
    logits = logits.detach()
    return logits if logits.device.type in ("cpu", "cuda") else logits.cpu()
