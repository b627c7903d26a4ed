"""Readers of image files, under the names that nnU-Net writes into plans and dataset.json.

A further file format is one more class, and one more line in `READERS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.data.readers.base import SLICE_SPACING_FACTOR, ImageReader, Properties
from framework.data.readers.nibabel_style import NibabelIO, NibabelIOWithReorient
from framework.data.readers.photographs import LOSSY_ENDINGS, NaturalImage2DIO
from framework.data.readers.simpleitk import SimpleITKIO, SimpleITKIOWithReorient
from framework.data.readers.tiff_volumes import Tiff3DIO
from framework.errors import DatasetError, FoldwiseError, UnknownNameError
from framework.validation import shown

READERS: dict[str, type[ImageReader]] = {
    reader.__name__: reader
    for reader in (
        NaturalImage2DIO,
        SimpleITKIO,
        Tiff3DIO,
        NibabelIO,
        NibabelIOWithReorient,
        SimpleITKIOWithReorient,
    )
}
"""Readers by the name that plans and dataset.json use; the order is nnU-Net's order of preference."""

_OTHERS: dict[str, type[ImageReader]] = {
    # SimpleITK opens many formats that it is not the first choice for.
    **dict.fromkeys((".nii", ".mhd", ".nhdr"), SimpleITKIO),
    ".tiff": NaturalImage2DIO,
}
"""Endings that nnU-Net does not know, or only for a kind of image that a file turned out not to be."""


def reader_by_name(name: str, where: str | Path = "") -> ImageReader:
    """The reader that a plans file or dataset.json names.

    Raises:
        UnknownNameError: lists the readers there are.
    """
    if name not in READERS:
        raise UnknownNameError("image reader", name, READERS, where)
    return READERS[name]()


def reader_name_for(
    file_ending: str, dataset_json: Mapping[str, Any] | None = None, example: Path | str | None = None
) -> str:
    """The name of the reader for a file ending, or the one that dataset.json asks for.

    Args:
        example: an image of the dataset. Where several readers know the ending (.tif: photographs or
            volumes), the first that can read it is chosen; without one, the first.

    Raises:
        DatasetError: no reader knows the ending; lists the endings that are known.
        FoldwiseError: no reader can read the example; with the reason that the first one gave.
    """
    wanted = (dataset_json or {}).get("overwrite_image_reader_writer")
    if wanted and wanted != "None":
        if not isinstance(wanted, str) or wanted not in READERS:
            raise UnknownNameError(
                "image reader", shown(wanted), READERS, "dataset.json: overwrite_image_reader_writer"
            )
        return str(wanted)
    ending = file_ending.lower()
    if ending in LOSSY_ENDINGS:
        raise DatasetError(
            f"file_ending '{file_ending}' cannot be used: label images have it too, and JPEG changes their values. "
            "Convert the images to .png."
        )
    fitting = [reader for reader in READERS.values() if ending in reader.file_endings]
    if ending in _OTHERS:
        fitting.append(_OTHERS[ending])
    if not fitting:
        known = sorted({*_OTHERS, *(ending for reader in READERS.values() for ending in reader.file_endings)})
        raise DatasetError(
            f"file_ending '{file_ending}' cannot be read. Known: {', '.join(known)}. Convert the images to one of them."
        )
    if example is None or len(fitting) == 1:
        return fitting[0].__name__
    return _first_that_reads(fitting, Path(example)).__name__


def reader_for_file(path: Path) -> ImageReader:
    """The reader for one file, by its ending and, where that leaves a choice, by what is in it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])
    if path.is_dir():
        return SimpleITKIO()  # a DICOM series
    if ending in LOSSY_ENDINGS:
        return NaturalImage2DIO()
    ambiguous = ending in (".tif", ".tiff", ".nii") and path.is_file()
    return reader_by_name(reader_name_for(ending, example=path if ambiguous else None))


def reader_for_properties(properties: Properties, path: Path) -> ImageReader:
    """The reader that made `properties`, so that it can write them; for `path` where several could."""
    if "nibabel_stuff" in properties:
        turned = "reoriented_affine" in properties["nibabel_stuff"]
        return NibabelIOWithReorient() if turned else NibabelIO()
    if "sitk_stuff" in properties:
        turned = "original_orientation" in properties["sitk_stuff"]
        return SimpleITKIOWithReorient() if turned else SimpleITKIO()
    reader = NaturalImage2DIO() if tuple(properties["spacing"]) == (SLICE_SPACING_FACTOR, 1, 1) else Tiff3DIO()
    if not path.name.lower().endswith((*NaturalImage2DIO.file_endings, *Tiff3DIO.file_endings)):
        raise FoldwiseError(
            f"{path} cannot be written: the properties say nothing of origin and direction. Pass those that "
            "read_images returned for the scan."
        )
    return reader


def _first_that_reads(readers: list[type[ImageReader]], example: Path) -> type[ImageReader]:
    reasons = []
    for reader in readers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said again when the case itself is read
                reader().read(example)
            return reader
        except FoldwiseError as error:
            reasons.append(error)
    raise reasons[0]
