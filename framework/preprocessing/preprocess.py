"""From a raw case to what training reads: transpose, crop, normalise, resample, find the labels.

Normalising comes before resampling, so that interpolation cannot blur the border of the region with content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.case_files import packed_segmentation, write_case
from framework.data.image_io import check_case, files_to_copy
from framework.data.labels import Labels
from framework.data.raw_dataset import RawCase
from framework.errors import CaseError, FoldwiseError, PlansError, UnknownNameError, did_you_mean
from framework.files import copy_if_changed
from framework.plans import Configuration, Plans
from framework.preprocessing.class_sampling import keys_to_sample, sample_class_locations
from framework.preprocessing.crop import mark_outside, nonzero_box
from framework.preprocessing.normalisation import LARGEST_EXACT_CHANNEL, SCHEMES, normalised
from framework.preprocessing.resampling import RESAMPLING, new_shape

_RESAMPLING_ARGUMENTS = ("is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold")


def preprocess_array(
    image: np.ndarray | Sequence[np.ndarray],
    segmentation: np.ndarray | None,
    properties: Mapping[str, Any],
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Preprocess one case; the arguments stay as they are.

    Args:
        image: (C, X, Y, Z), or C arrays (X, Y, Z), in the order and type of the file.
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
    case = _Cropped.of(image, segmentation, properties, plans, [configuration])
    target = case.resampled_segmentation(configuration) if segmentation is not None else None
    result = dict(case.properties)
    if target is not None:
        result["class_locations"] = sample_class_locations(target, keys_to_sample(labels))
    return case.resampled_image(configuration), target, result


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
    keys = keys_to_sample(labels)
    try:
        cropped = _Cropped.of(image, segmentation, properties, plans, [configuration for configuration, _ in targets])
        # A large scan is let go of as soon as its last use is over: first the label map, packed it is small;
        # then the image.
        del image, segmentation
        for number, (configuration, folder) in enumerate(targets, start=1):
            target = cropped.resampled_segmentation(configuration)
            locations = sample_class_locations(target, keys)
            packed_target = packed_segmentation(target, configuration.patch_size)
            del target
            if number == len(targets):
                cropped.forget_segmentation()
            data = cropped.resampled_image(configuration)
            extended = {**cropped.properties, "class_locations": locations}
            if number == len(targets):
                del cropped
            write_case(folder, case.name, data, packed_target, extended, configuration.patch_size)
            del data
        for source, copy in files_to_copy(case.label, reference_file, reader):
            copy_if_changed(source, copy)
    except CaseError:
        raise
    except FoldwiseError as error:
        raise CaseError(case.name, str(error)) from error


class _Cropped:
    """A scan transposed and cut down to the region with content, still with its own values and voxels."""

    def __init__(
        self,
        channels: list[np.ndarray],
        segmentation: np.ndarray | None,
        inside: np.ndarray | None,
        spacing: list[float],
        properties: dict[str, Any],
        plans: Plans,
    ) -> None:
        self._channels, self._segmentation, self._inside = channels, segmentation, inside
        self._spacing, self._plans = spacing, plans
        self.properties = properties

    @classmethod
    def of(
        cls,
        image: np.ndarray | Sequence[np.ndarray],
        segmentation: np.ndarray | None,
        properties: Mapping[str, Any],
        plans: Plans,
        configurations: Sequence[Configuration],
    ) -> _Cropped:
        """Arguments as for `preprocess_array`. What is not changed is a view."""
        if segmentation is not None and segmentation.shape[1:] != image[0].shape:
            raise FoldwiseError(f"the segmentation has shape {segmentation.shape[1:]}, the image {image[0].shape}.")
        forward = plans.transpose_forward
        # float32 sums depend on the order in which voxels lie in memory: where they are taken (see
        # `normalisation`) it is nnU-Net's, a view of the whole image in float32.
        channels = [_in_float32_if_small(channel).transpose(forward) for channel in image]
        shape_before_cropping = channels[0].shape
        box, mask = nonzero_box(channels)
        inside_box = tuple(slice(*ends) for ends in box)
        channels = [channel[inside_box] for channel in channels]
        cropped = None
        if segmentation is not None:
            cropped = segmentation[0].transpose(forward)[inside_box]
            if mask is not None:
                cropped = cropped.astype(_smallest_type(cropped))
                mark_outside(cropped, mask)
        inside = None
        if any(_uses_mask(configuration) for configuration in configurations):
            inside = np.ones(channels[0].shape, bool) if mask is None else mask
            if mask is not None and cropped is not None:
                inside = cropped >= 0  # labels count as content, wherever they are
        geometry = {
            "shape_before_cropping": shape_before_cropping,
            "bbox_used_for_cropping": box,
            "shape_after_cropping_and_before_resampling": channels[0].shape,
        }
        spacing = [float(properties["spacing"][axis]) for axis in forward]
        return cls(channels, cropped, inside, spacing, {**properties, **geometry}, plans)

    def resampled_segmentation(self, settings: Configuration) -> np.ndarray:
        """(1, X, Y, Z) int16."""
        assert self._segmentation is not None
        resampled = self._resample(
            settings, self._segmentation[None], settings.resampling_fn_seg, settings.resampling_fn_seg_kwargs
        )
        return resampled.astype(np.int16, order="C")

    def forget_segmentation(self) -> None:
        """Free its memory."""
        self._segmentation = None

    def resampled_image(self, settings: Configuration) -> np.ndarray:
        """(C, X, Y, Z) float32, normalised."""
        channels = normalised(
            self._channels,
            self._inside,
            settings.normalization_schemes,
            settings.use_mask_for_norm,
            self._plans.foreground_intensity_properties,
        )
        return self._resample(settings, channels, settings.resampling_fn_data, settings.resampling_fn_data_kwargs)

    def _resample(self, settings: Configuration, array: Any, function: str, arguments: Mapping[str, Any]) -> np.ndarray:
        if function not in RESAMPLING:
            raise UnknownNameError("resampling function", function, RESAMPLING, self._plans.source)
        spacing = list(settings.spacing)
        if len(spacing) == 2:
            spacing.insert(0, self._spacing[0])  # slices stay as far apart as they are
        shape = new_shape(self._channels[0].shape, self._spacing, spacing)
        return RESAMPLING[function](array, shape, self._spacing, spacing, **arguments)


def _uses_mask(configuration: Configuration) -> bool:
    return any(
        masked and SCHEMES[scheme].uses_mask
        for scheme, masked in zip(configuration.normalization_schemes, configuration.use_mask_for_norm)
        if scheme in SCHEMES
    )


def _in_float32_if_small(channel: np.ndarray) -> np.ndarray:
    return channel.astype(np.float32, copy=False) if channel.size <= LARGEST_EXACT_CHANNEL else channel


def _smallest_type(labels: np.ndarray) -> type[np.signedinteger]:
    return np.int8 if labels.max(initial=0) <= np.iinfo(np.int8).max else np.int16


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
