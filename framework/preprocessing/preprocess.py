"""From a raw case to what training reads: transpose, crop, normalise, resample, find the labels.

Normalising comes before resampling, so that interpolation cannot blur the border of the region with content.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.image_io import check_case
from framework.data.labels import Labels
from framework.data.raw_dataset import RawCase
from framework.data.store import write_case
from framework.errors import CaseError, FoldwiseError, PlansError, UnknownNameError, did_you_mean
from framework.files import atomic_write
from framework.plans import Configuration, Plans
from framework.preprocessing.class_sampling import keys_to_sample, sample_class_locations
from framework.preprocessing.crop import crop_to_nonzero
from framework.preprocessing.normalisation import normalise
from framework.preprocessing.resampling import RESAMPLING, new_shape

_RESAMPLING_ARGUMENTS = ("is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold")


def preprocess_array(
    image: np.ndarray,
    segmentation: np.ndarray | None,
    properties: Mapping[str, Any],
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Preprocess one case; the arguments stay as they are.

    Args:
        image: (C, X, Y, Z), in the order of the file.
        segmentation: (1, X, Y, Z) labels; None for prediction.
        properties: of the image, with ``spacing`` in mm in the order of the file.

    Returns:
        - image (C, X, Y, Z) float32, transposed, cropped, normalised and resampled;
        - segmentation (1, X, Y, Z) int16 on the same grid, -1 outside of the region with content; or None;
        - the properties, and what is needed to go back (``shape_before_cropping``,
          ``bbox_used_for_cropping``, ``shape_after_cropping_and_before_resampling``, all transposed) or to
          sample (``class_locations``).

    Raises:
        PlansError, UnknownNameError: the plans ask for something that does not exist or does not fit the
            image.
        FoldwiseError: the segmentation does not have the shape of the image.
    """
    if segmentation is not None and segmentation.shape[1:] != image.shape[1:]:
        raise FoldwiseError(f"the segmentation has shape {segmentation.shape[1:]}, the image {image.shape[1:]}.")
    forward = plans.transpose_forward
    order = (0, *(axis + 1 for axis in forward))
    # Views of one copy up to here and in-place operations below: float32 sums depend on the order in which
    # voxels lie in memory, and this is nnU-Net's.
    data = image.astype(np.float32).transpose(order)
    spacing = [float(properties["spacing"][axis]) for axis in forward]
    shape_before_cropping = data.shape[1:]
    data, cropped, box = crop_to_nonzero(data, None if segmentation is None else segmentation.transpose(order))
    shape_before_resampling = data.shape[1:]
    normalise(
        data,
        cropped,
        configuration.normalization_schemes,
        configuration.use_mask_for_norm,
        plans.foreground_intensity_properties,
    )
    target_spacing = list(configuration.spacing)
    if len(target_spacing) == 2:
        target_spacing.insert(0, spacing[0])  # slices stay as far apart as they are
    shape = new_shape(shape_before_resampling, spacing, target_spacing)
    geometry = (shape, spacing, target_spacing)
    data = _resampled(data, geometry, configuration.resampling_fn_data, configuration.resampling_fn_data_kwargs, plans)
    result = {
        **properties,
        "shape_before_cropping": shape_before_cropping,
        "bbox_used_for_cropping": box,
        "shape_after_cropping_and_before_resampling": shape_before_resampling,
    }
    if segmentation is None:
        return np.ascontiguousarray(data), None, result
    resampled = _resampled(
        cropped, geometry, configuration.resampling_fn_seg, configuration.resampling_fn_seg_kwargs, plans
    )
    result["class_locations"] = sample_class_locations(resampled, keys_to_sample(labels))
    return np.ascontiguousarray(data), np.ascontiguousarray(resampled, dtype=np.int16), result


def preprocess_case(
    case: RawCase,
    labels: Labels,
    num_channels: int,
    reader: str,
    plans: Plans,
    targets: Sequence[tuple[Configuration, Path]],
    reference_file: Path,
) -> None:
    """Read one case, once, and write it for one or several configurations.

    Args:
        targets: (configuration, folder) pairs.
        reference_file: where the label image is copied to, so that evaluation does not need the raw data.

    Raises:
        CaseError: the case cannot be used; nothing of it was left half written.
    """
    image, segmentation, properties = check_case(case.images, case.label, labels, case.name, num_channels, reader)
    assert segmentation is not None  # training cases have labels
    assert case.label is not None
    try:
        for configuration, folder in targets:
            data, target, extended = preprocess_array(image, segmentation, properties, plans, configuration, labels)
            assert target is not None
            write_case(folder, case.name, data, target, extended, configuration.patch_size)
        copy_if_changed(case.label, reference_file)
    except CaseError:
        raise
    except FoldwiseError as error:
        raise CaseError(case.name, str(error)) from error


def check_supported(plans: Plans, configuration: Configuration) -> None:
    """UnknownNameError or PlansError if a configuration needs what is not there; before any case is read."""
    where = f"{plans.source}: configurations.{configuration.name}"
    if configuration.preprocessor_name != "DefaultPreprocessor":
        raise UnknownNameError(
            "preprocessor",
            configuration.preprocessor_name,
            ["DefaultPreprocessor"],
            f"{where}.preprocessor_name",
        )
    for kind in ("data", "seg", "probabilities"):
        name = getattr(configuration, f"resampling_fn_{kind}")
        if name not in RESAMPLING:
            raise UnknownNameError("resampling function", name, RESAMPLING, f"{where}.resampling_fn_{kind}")
        for key in getattr(configuration, f"resampling_fn_{kind}_kwargs"):
            if key not in _RESAMPLING_ARGUMENTS:
                hint = did_you_mean(key, _RESAMPLING_ARGUMENTS)
                raise PlansError(f"{where}.resampling_fn_{kind}_kwargs: '{key}' is not known.{hint}")


def _resampled(
    array: np.ndarray,
    geometry: tuple[Sequence[int], Sequence[float], Sequence[float]],
    function: str,
    arguments: Mapping[str, Any],
    plans: Plans,
) -> np.ndarray:
    if function not in RESAMPLING:
        raise UnknownNameError("resampling function", function, RESAMPLING, plans.source)
    return RESAMPLING[function](array, *geometry, **arguments)


def copy_if_changed(source: Path, target: Path) -> None:
    """Copy a file, unless the copy has its size and is not older."""
    wanted = source.stat()
    if target.is_file():
        found = target.stat()
        if found.st_size == wanted.st_size and found.st_mtime_ns >= wanted.st_mtime_ns:
            return
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
