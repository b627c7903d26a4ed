"""3D TIFF with nnU-Net's side files for the spacing, which the format itself has no agreed place for."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from framework.data import tiff
from framework.data.readers.base import ImageReader, Properties
from framework.errors import CaseWarning, FoldwiseError
from framework.files import read_json, write_json

_CHANNEL = re.compile(r"_\d{4}$")


class Tiff3DIO(ImageReader):
    """Stacks of grey images. CASE.json beside CASE_0000.tif, and beside the label image CASE.tif, holds
    ``{"spacing": [Z, Y, X]}`` in mm and in array order; without it the spacing is taken to be 1."""

    file_endings = (".tif", ".tiff")

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        # The channels of a case share one side file.
        return self._read(path, path.with_name(_CHANNEL.sub("", path.stem) + ".json"))

    def read_label(self, path: Path) -> tuple[np.ndarray, Properties]:
        return self._read(path, self.companion(path))

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        tiff.write(path, segmentation)

    def companion(self, label: Path) -> Path:
        return label.with_name(label.stem + ".json")

    def write_companion(self, label: Path, properties: Properties) -> None:
        write_json(self.companion(label), {"spacing": [float(length) for length in properties["spacing"]]})

    def _read(self, path: Path, side_file: Path) -> tuple[np.ndarray, Properties]:
        if path.is_dir():
            raise FoldwiseError(f"{path} is a folder; Tiff3DIO reads .tif stacks, no DICOM series.")
        array, num_components = tiff.read(path)
        if num_components > 1:
            raise FoldwiseError(
                f"{path} is a colour image, but Tiff3DIO reads grey stacks. Save every colour as a channel of its own, "
                "CASE_0000.tif, CASE_0001.tif, ...; for 2D photographs set overwrite_image_reader_writer in "
                "dataset.json to NaturalImage2DIO."
            )
        if array.ndim == 2:
            array = array[None]  # a stack of one slice, as most programs write it
        return array[None], {"spacing": _spacing(path, side_file)}


def _spacing(path: Path, side_file: Path) -> list[float]:
    if not side_file.is_file():
        warnings.warn(
            CaseWarning(
                f"{path} has no side file {side_file.name} with its spacing; 1 mm is assumed along all axes. If that "
                'is wrong, write {"spacing": [Z, Y, X]} (in mm, in the order of the array) into that file.'
            ),
            stacklevel=2,
        )
        return [1.0, 1.0, 1.0]
    content = read_json(side_file)
    spacing = content.get("spacing") if isinstance(content, dict) else None
    lengths = spacing if isinstance(spacing, list) else []
    if len(lengths) != 3 or not all(isinstance(length, (int, float)) and length > 0 for length in lengths):
        raise FoldwiseError(
            f"{side_file}: 'spacing' is {spacing!r}, expected three positive numbers in mm, in the order of the "
            'array: {"spacing": [Z, Y, X]}.'
        )
    return [float(length) for length in lengths]
