"""Scans and label images as arrays, in nnU-Net's conventions: (C, X, Y, Z) in array order, spacing likewise.

Readers are small classes under the names that nnU-Net writes into plans and dataset.json; a further file
format is one more class and one more line in `READERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data import itk_files
from framework.data.labels import Labels
from framework.errors import CaseError, DatasetError, FoldwiseError, UnknownNameError
from framework.files import atomic_write

Properties = dict[str, Any]
"""What is needed to write a segmentation onto the grid of a scan; ``spacing`` is in array order, in mm."""

_SLICE_SPACING_FACTOR = 999
"""2D images get a first axis this many times as coarse as their pixels, as in nnU-Net."""

_SPACING_TOLERANCE = 1e-3
"""Relative; keeps two grids within half a voxel of each other over 500 voxels."""
_ORIGIN_TOLERANCE = 0.1
"""In voxels of the finest axis; writers that store positions as float32 differ by far less."""
_DIRECTION_TOLERANCE = 1e-3


class ImageReader(ABC):
    """Reads and writes one family of file formats."""

    file_endings: tuple[str, ...]

    @abstractmethod
    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        """One file as (C, X, Y, Z) in the type of the file, with its properties.

        Raises:
            FoldwiseError: the file is missing, damaged, or of a kind this reader does not know.
        """

    @abstractmethod
    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        """Write (X, Y, Z) integers to `path`, with the geometry in `properties`."""


class SimpleITKIO(ImageReader):
    """Volumes in 2D, 3D, and 4D, whose first array axis is then the channel."""

    file_endings = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, geometry, num_components = itk_files.read(path)
        if num_components > 1:
            raise FoldwiseError(
                f"{path} has {num_components} values in every voxel (a colour or vector image). Save each as "
                "a scan of its own, CASE_0000, CASE_0001, ..."
            )
        spacing = [abs(float(value)) for value in reversed(geometry["spacing"])]
        if array.ndim == 2:
            array, spacing = array[None, None], [max(spacing) * _SLICE_SPACING_FACTOR, *spacing]
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


class NaturalImage2DIO(ImageReader):
    """Photographs and microscopy in 2D, grey or RGB(A); colours become channels, pixels have no size."""

    file_endings = (".png", ".bmp", ".tif")

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, _, num_components = itk_files.read_photograph(path)
        if array.ndim != 2 + (num_components > 1):
            raise FoldwiseError(
                f"{path} is a stack of images, but NaturalImage2DIO reads single ones. "
                "Convert it to .nii.gz, or set overwrite_image_reader_writer in dataset.json."
            )
        channels = array[None] if num_components == 1 else np.moveaxis(array, -1, 0)
        return channels[:, None], {"spacing": (_SLICE_SPACING_FACTOR, 1, 1)}

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        itk_files.write(segmentation[0], path, {})


READERS: dict[str, type[ImageReader]] = {reader.__name__: reader for reader in (NaturalImage2DIO, SimpleITKIO)}
"""Readers by the name that plans and dataset.json use; the order is the order of preference."""


def reader_by_name(name: str, where: str | Path = "") -> ImageReader:
    """The reader that a plans file or dataset.json names.

    Raises:
        UnknownNameError: lists the readers there are.
    """
    if name not in READERS:
        raise UnknownNameError("image reader", name, READERS, where)
    return READERS[name]()


def reader_name_for(file_ending: str, dataset_json: Mapping[str, Any] | None = None) -> str:
    """The name of the reader for a file ending, or the one that dataset.json asks for.

    Raises:
        DatasetError: no reader knows the ending; lists the endings that are known.
    """
    wanted = (dataset_json or {}).get("overwrite_image_reader_writer")
    if wanted and wanted != "None":
        if wanted not in READERS:
            raise UnknownNameError("image reader", wanted, READERS, "dataset.json: overwrite_image_reader_writer")
        return str(wanted)
    for name, reader in READERS.items():
        if file_ending.lower() in reader.file_endings:
            return name
    # SimpleITK opens many formats that it is not the first choice for; uncompressed NIfTI is the common one.
    if file_ending.lower() in (".nii", ".mhd", ".nhdr", ".nrrd.gz", ".img", ".hdr"):
        return SimpleITKIO.__name__
    known = sorted({ending for reader in READERS.values() for ending in reader.file_endings})
    raise DatasetError(
        f"file_ending '{file_ending}' cannot be read. Known: {', '.join(known)}. Convert the images to one of them."
    )


def read_images(paths: Sequence[Path | str], reader: str | None = None) -> tuple[np.ndarray, Properties]:
    """All channels of one case.

    Args:
        paths: one file for each channel, or one file with all of them.
        reader: name of the reader; by default the one for the file ending.

    Returns:
        (C, X, Y, Z) float32, and the properties of the first channel.

    Raises:
        FoldwiseError: a file cannot be read, or the channels lie on different grids.
    """
    files = [Path(path) for path in paths]
    read = _reader_for(files[0], reader).read
    arrays, properties = zip(*(read(file) for file in files))
    for file, array, own in zip(files[1:], arrays[1:], properties[1:]):
        differences = geometry_differences(arrays[0].shape[1:], properties[0], array.shape[1:], own)
        if differences:
            raise FoldwiseError(_grid_message(file, files[0], differences, "channels"))
    stacked = np.empty((sum(len(array) for array in arrays), *arrays[0].shape[1:]), np.float32)
    np.concatenate(arrays, out=stacked, casting="unsafe")
    return stacked, properties[0]


def read_segmentation(path: Path | str, reader: str | None = None) -> tuple[np.ndarray, Properties]:
    """A label image as (1, X, Y, Z) int16 (int32 where a value needs it), and its properties.

    Raises:
        FoldwiseError: the file cannot be read, has several channels, or values that are no integers.
    """
    path = Path(path)
    array, properties = _reader_for(path, reader).read(path)
    if len(array) != 1:
        raise FoldwiseError(f"{path} has {len(array)} channels, but a label image has one value in every voxel.")
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
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    fits = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    return array.astype(np.int16 if fits else np.int32), properties


def write_segmentation(
    segmentation: np.ndarray, path: Path | str, properties: Properties, reader: str | None = None
) -> None:
    """Write a label map with the geometry of its scan, atomically.

    Args:
        segmentation: (X, Y, Z) integers >= 0; stored as uint8 if all are below 255, else as uint16.
        properties: as `read_images` returned them for the scan.
    """
    path = Path(path)
    if segmentation.ndim != 3:
        raise ValueError(f"expected a label map of shape (X, Y, Z), found {segmentation.shape}; 2D is (1, Y, X)")
    compact = np.uint8 if segmentation.max(initial=0) < 255 else np.uint16
    with atomic_write(path) as temporary:
        _reader_for(path, reader).write_segmentation(segmentation.astype(compact, copy=False), temporary, properties)


def check_case(
    images: Sequence[Path | str],
    label: Path | str | None,
    labels: Labels,
    case: str,
    num_channels: int | None = None,
    reader: str | None = None,
) -> tuple[np.ndarray, np.ndarray | None, Properties]:
    """Read a case and make sure that it can be trained on.

    Returns:
        Image (C, X, Y, Z) float32, segmentation (1, X, Y, Z) or None, properties of the image: what was read,
        so that nothing has to be read twice.

    Raises:
        CaseError: names the case, the file, and the first thing that is wrong with it.
    """
    try:
        data, properties = read_images(images, reader)
        check_channels_and_values(data, case, num_channels, images)
        if label is None:
            return data, None, properties
        segmentation, label_properties = read_segmentation(label, reader)
        differences = geometry_differences(data.shape[1:], properties, segmentation.shape[1:], label_properties)
        if differences:
            raise FoldwiseError(_grid_message(Path(label), Path(images[0]), differences, "label image and scan"))
        check_label_values(segmentation, labels, label)
    except CaseError:
        raise
    except FoldwiseError as error:
        raise CaseError(case, str(error)) from error
    return data, segmentation, properties


def check_channels_and_values(
    data: np.ndarray, case: str, num_channels: int | None, images: Sequence[Path | str]
) -> None:
    """CaseError if `data` (C, X, Y, Z) has a wrong number of channels, or NaN or infinite voxels."""
    if num_channels is not None and len(data) != num_channels:
        raise CaseError(
            case,
            f"{len(data)} channel(s) were read from {_joined(images)}, but dataset.json names {num_channels}.",
        )
    # The sum is not finite if any voxel is not: one pass, no mask.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(data.sum(dtype=np.float64))
    if suspicious:
        for channel, image in enumerate(data):
            num_nan, num_infinite = int(np.isnan(image).sum()), int(np.isinf(image).sum())
            if num_nan or num_infinite:
                path = images[channel] if len(images) == len(data) else images[0]
                raise CaseError(
                    case,
                    f"{path} has {num_nan} NaN and {num_infinite} infinite voxels. Replace them, for example "
                    "by 0 or the smallest value of the scan.",
                )


def check_label_values(segmentation: np.ndarray, labels: Labels, path: Path | str) -> None:
    """FoldwiseError if `segmentation` (integers) holds a value that dataset.json does not name."""
    low, high = int(segmentation.min()), int(segmentation.max())
    allowed = labels.allowed_values
    if low >= 0 and high < 1 << 16:
        counts = np.bincount(segmentation.ravel())
        found = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    else:
        values, numbers = np.unique(segmentation, return_counts=True)
        found = {int(value): int(number) for value, number in zip(values, numbers)}
    unknown = {value: number for value, number in found.items() if value not in allowed}
    if unknown:
        listed = ", ".join(f"{value} ({number} voxels)" for value, number in list(unknown.items())[:8])
        named = ", ".join(f"{name}={value}" for name, value in labels.names.items())
        hint = " A mask with 0 and 255 must be stored as 0 and 1." if set(found) == {0, 255} else ""
        raise FoldwiseError(
            f"{path} has label values that dataset.json does not name: {listed}. Named there: {named}. "
            f"Add them to 'labels' or correct the label image.{hint}"
        )


def geometry_differences(
    shape: Sequence[int], properties: Properties, other_shape: Sequence[int], other_properties: Properties
) -> list[str]:
    """How two grids differ: shape, spacing, origin, direction; an empty list if they are one grid."""
    found = []
    if tuple(shape) != tuple(other_shape):
        found.append(f"shape {tuple(other_shape)} instead of {tuple(shape)}")
    spacing, other_spacing = np.asarray(properties["spacing"]), np.asarray(other_properties["spacing"])
    if not np.allclose(other_spacing, spacing, rtol=_SPACING_TOLERANCE, atol=0):
        found.append(f"spacing {_rounded(other_spacing)} instead of {_rounded(spacing)} mm")
    first, second = properties.get("sitk_stuff"), other_properties.get("sitk_stuff")
    if first and second and len(first["origin"]) == len(second["origin"]):
        for name, tolerance in (
            ("origin", _ORIGIN_TOLERANCE * min(first["spacing"])),
            ("direction", _DIRECTION_TOLERANCE),
        ):
            one, other = np.asarray(first[name]), np.asarray(second[name])
            if not np.allclose(other, one, rtol=0, atol=tolerance):
                found.append(f"{name} {_rounded(other)} instead of {_rounded(one)}")
    return found


def check_same_geometry(
    path: Path | str,
    shape: Sequence[int],
    properties: Properties,
    other: Path | str,
    reader: str | None = None,
) -> None:
    """FoldwiseError if the image in file `other` does not lie on the grid of `path`, given by shape and "
    "properties."""
    array, own = _reader_for(Path(other), reader).read(Path(other))
    differences = geometry_differences(shape, properties, array.shape[1:], own)
    if differences:
        raise FoldwiseError(_grid_message(Path(other), Path(path), differences, "two images"))


def _reader_for(path: Path, name: str | None) -> ImageReader:
    if name is not None:
        return reader_by_name(name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])
    return reader_by_name(reader_name_for(ending))


def _grid_message(path: Path, reference: Path, differences: list[str], what: str) -> str:
    return (
        f"{path} does not lie on the grid of {reference}: {'; '.join(differences)}. "
        f"The {what} of a case must share one grid; resample one onto the other."
    )


def _rounded(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _joined(paths: Sequence[Path | str]) -> str:
    return ", ".join(str(path) for path in paths)
