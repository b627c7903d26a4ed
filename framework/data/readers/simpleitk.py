"""Volumes through SimpleITK: NIfTI, NRRD, MetaImage, GIPL, and DICOM series."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from framework.data import dicom, itk_files
from framework.data.readers.base import SLICE_SPACING_FACTOR, ImageReader, Properties
from framework.errors import FoldwiseError


class SimpleITKIO(ImageReader):
    """Volumes in 2D, 3D, and 4D, whose first array axis is then the channel."""

    file_endings: tuple[str, ...] = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, geometry = _scalars(path)
        spacing = [abs(float(value)) for value in reversed(geometry["spacing"])]
        if array.ndim == 2:
            array, spacing = array[None, None], [max(spacing) * SLICE_SPACING_FACTOR, *spacing]
        elif array.ndim == 3:
            array = array[None]
        elif array.ndim == 4:
            spacing = spacing[1:]
        else:
            raise FoldwiseError(f"{path} has {array.ndim} dimensions, expected 2, 3 or 4.")
        return array, {"sitk_stuff": geometry, "spacing": spacing}

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        geometry = properties["sitk_stuff"]
        num_dimensions = len(geometry["spacing"])
        if num_dimensions == 2:
            segmentation = segmentation[0]
        elif num_dimensions == 4:
            geometry = itk_files.without_channel_axis(geometry)
        itk_files.write(segmentation, path, geometry)


class SimpleITKIOWithReorient(SimpleITKIO):
    """3D volumes, turned so that all have the same axes; written back as they were.

    nnU-Net has this class but never chooses it; dataset.json can ask for it by name.
    """

    file_endings = ()
    _orientation = "RAS"  # in ITK's letters, which name the side that an axis comes from

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, geometry = _scalars(path)
        if array.ndim != 3:
            raise FoldwiseError(f"{path} has {array.ndim} dimensions, but {type(self).__name__} reads 3D volumes only.")
        if not all(length > 0 and math.isfinite(length) for length in geometry["spacing"]):
            raise FoldwiseError(
                f"{path} says that its voxels measure {geometry['spacing']} mm, expected lengths above 0."
            )
        turned, new_geometry, original = itk_files.reoriented(array, geometry, self._orientation)
        spacing = [abs(float(value)) for value in reversed(new_geometry["spacing"])]
        return turned[None], {"sitk_stuff": {**new_geometry, "original_orientation": original}, "spacing": spacing}

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        geometry = properties["sitk_stuff"]
        turned, original_geometry, _ = itk_files.reoriented(segmentation, geometry, geometry["original_orientation"])
        itk_files.write(turned, path, original_geometry)


def _scalars(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    return dicom.read_series(path) if path.is_dir() else itk_files.read_scalars(path)
