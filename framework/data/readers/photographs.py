"""Photographs and microscopy in 2D: PNG, BMP, TIFF and JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from framework.data import itk_files, tiff
from framework.data.readers.base import SLICE_SPACING_FACTOR, ImageReader, Properties
from framework.errors import FoldwiseError

LOSSY_ENDINGS = (".jpg", ".jpeg")
"""Good enough for a scan; a label image would come back with labels that nobody drew."""


class NaturalImage2DIO(ImageReader):
    """2D images, grey or RGB(A); colours become channels (alpha too, as in nnU-Net), pixels have no size."""

    file_endings = (".png", ".bmp", ".tif")

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        if path.is_dir():
            raise FoldwiseError(f"{path} is a folder; NaturalImage2DIO reads photographs, no DICOM series.")
        array, num_components = itk_files.read_photograph(path)
        if array.ndim == 3 and num_components == 1 and len(array) in (3, 4):
            # Colours that are stored one after the other. nnU-Net takes every stack of three or four for that.
            return array[:, None], {"spacing": (SLICE_SPACING_FACTOR, 1, 1)}
        if array.ndim != 2 + (num_components > 1):
            raise FoldwiseError(
                f"{path} is a stack of images, but NaturalImage2DIO reads single ones. Convert it to .nii.gz, or set "
                "overwrite_image_reader_writer in dataset.json (Tiff3DIO for .tif, otherwise SimpleITKIO)."
            )
        channels = array[None] if num_components == 1 else np.moveaxis(array, -1, 0)
        return channels[:, None], {"spacing": (SLICE_SPACING_FACTOR, 1, 1)}

    def read_label(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, properties = self.read(path)
        if len(array) > 1:
            raise FoldwiseError(
                f"{path} is a colour image with {len(array)} values in every pixel, but a label image has one: 0, 1, "
                "2, ... as in dataset.json. Replace every colour by the number of its label and save it as grey."
            )
        return array, properties

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        if len(segmentation) != 1:
            raise FoldwiseError(f"{path}: a volume of {len(segmentation)} slices cannot be written as one photograph.")
        if path.name.lower().endswith((".tif", ".tiff")):
            tiff.write(path, segmentation[0])
        else:
            itk_files.write(segmentation[0], path, {})


def refuse_lossy(path: Path) -> None:
    """FoldwiseError for a label image in a format that changes its values."""
    if path.name.lower().endswith(LOSSY_ENDINGS):
        raise FoldwiseError(
            f"{path} is a JPEG, which changes pixel values when it is saved: labels would appear that nobody drew. "
            "Store label images as .png; if this one was drawn by hand, export it again from the original."
        )
