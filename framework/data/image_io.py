"""Scans and label images as arrays, in nnU-Net's conventions: (C, X, Y, Z) in array order, spacing likewise.

File formats live in `framework.data.readers`, comparing grids in `framework.data.geometry`, checking values in
`framework.data.voxel_checks`; what other rooms use of them can be imported from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framework.data.geometry import check_grid, geometry_differences
from framework.data.labels import Labels
from framework.data.readers import (
    READERS,
    ImageReader,
    NaturalImage2DIO,
    Properties,
    SimpleITKIO,
    reader_by_name,
    reader_for_file,
    reader_for_properties,
    reader_name_for,
)
from framework.data.readers.photographs import refuse_lossy
from framework.data.voxel_checks import check_channels_and_values, check_label_values, integer_labels
from framework.errors import CaseError, FoldwiseError
from framework.files import atomic_write

__all__ = [
    "READERS",
    "ImageReader",
    "NaturalImage2DIO",
    "Properties",
    "SimpleITKIO",
    "check_case",
    "check_channels_and_values",
    "check_label_values",
    "check_same_geometry",
    "files_to_copy",
    "geometry_differences",
    "read_channels",
    "read_images",
    "read_segmentation",
    "reader_by_name",
    "reader_name_for",
    "write_segmentation",
]


def read_channels(paths: Sequence[Path | str], reader: str | None = None) -> tuple[list[np.ndarray], Properties]:
    """All channels of one case, in the types of the files.

    Warns with `CaseWarning` where the origin or direction of channels differ.

    Args:
        paths: one file (or folder with a DICOM series) for each channel, or one file with all of them.
        reader: name of the reader; by default the one for the file.

    Returns:
        (X, Y, Z) for each channel, which may be read-only, and the properties of the first channel.

    Raises:
        FoldwiseError: a file cannot be read, or the channels differ in shape or spacing.
    """
    files = [Path(path) for path in paths]
    read = _reader_for(files[0], reader).read
    try:
        arrays, properties = zip(*(read(file) for file in files))
    except MemoryError:
        raise FoldwiseError(f"{files[0]} does not fit into the memory with what is there already.") from None
    for file, array, own in zip(files, arrays, properties):
        _refuse_impossible(array, own, file)
        if file != files[0]:
            check_grid(file, array.shape[1:], own, files[0], arrays[0].shape[1:], properties[0], "channels")
    return [channel for array in arrays for channel in array], properties[0]


def read_images(paths: Sequence[Path | str], reader: str | None = None) -> tuple[np.ndarray, Properties]:
    """As `read_channels`, but as one array (C, X, Y, Z) float32."""
    channels, properties = read_channels(paths, reader)
    stacked = np.empty((len(channels), *channels[0].shape), np.float32)
    np.stack(channels, out=stacked, casting="unsafe")
    return stacked, properties


def read_segmentation(path: Path | str, reader: str | None = None) -> tuple[np.ndarray, Properties]:
    """A label image as (1, X, Y, Z) signed integers, no larger than the labels need, and its properties.

    Raises:
        FoldwiseError: the file cannot be read, has several channels or colours, or values that are no integers.
    """
    path = Path(path)
    refuse_lossy(path)
    array, properties = _reader_for(path, reader).read_label(path)
    if len(array) != 1:
        raise FoldwiseError(f"{path} has {len(array)} channels, but a label image has one value in every voxel.")
    _refuse_impossible(array, properties, path)
    return integer_labels(array, path), properties


def write_segmentation(
    segmentation: np.ndarray, path: Path | str, properties: Properties, reader: str | None = None
) -> None:
    """Write a label map with the geometry of its scan, atomically.

    Args:
        segmentation: (X, Y, Z) integers >= 0; stored as uint8 if all are below 255, else as uint16.
        properties: as `read_images` returned them for the scan.
    """
    path = Path(path)
    refuse_lossy(path)
    if segmentation.ndim != 3:
        raise ValueError(f"expected a label map of shape (X, Y, Z), found {segmentation.shape}; 2D is (1, Y, X)")
    compact = np.uint8 if segmentation.max(initial=0) < 255 else np.uint16
    writer = reader_by_name(reader) if reader is not None else reader_for_properties(properties, path)
    # The companion first: a label image on the disk means that the case is complete.
    writer.write_companion(path, properties)
    with atomic_write(path) as temporary:
        writer.write_segmentation(segmentation.astype(compact, copy=False), temporary, properties)


def files_to_copy(label: Path, copy: Path, reader: str) -> list[tuple[Path, Path]]:
    """(file, its copy) for a label image, and for what lies beside it and belongs to it: the spacing of a 3D TIFF."""
    companion_of = reader_by_name(reader).companion
    companion, its_copy = companion_of(label), companion_of(copy)
    if companion is not None and its_copy is not None and companion.is_file():
        return [(label, copy), (companion, its_copy)]
    return [(label, copy)]


def check_case(
    images: Sequence[Path | str],
    label: Path | str | None,
    labels: Labels,
    case: str,
    num_channels: int | None = None,
    reader: str | None = None,
) -> tuple[list[np.ndarray], np.ndarray | None, Properties]:
    """Read a case and make sure that it can be trained on.

    Warns with `CaseWarning` where the origin or direction of its images differ.

    Returns:
        Channels as from `read_channels`, segmentation (1, X, Y, Z) or None, properties of the image: what was
        read, so that nothing has to be read twice.

    Raises:
        CaseError: names the case, the file, and the first thing that is wrong with it.
    """
    try:
        channels, properties = read_channels(images, reader)
        check_channels_and_values(channels, case, num_channels, images)
        if label is None:
            return channels, None, properties
        segmentation, own = read_segmentation(label, reader)
        what = "label image and scan"
        check_grid(Path(label), segmentation.shape[1:], own, Path(images[0]), channels[0].shape, properties, what)
        check_label_values(segmentation, labels, label)
    except CaseError:
        raise
    except FoldwiseError as error:
        raise CaseError(case, str(error)) from error
    return channels, segmentation, properties


def check_same_geometry(
    path: Path | str,
    shape: Sequence[int],
    properties: Properties,
    other: Path | str,
    reader: str | None = None,
) -> None:
    """Check that the image in file `other` lies on the grid of `path`, given by shape (X, Y, Z) and properties.

    Warns with `CaseWarning` where only origin or direction differ.

    Raises:
        FoldwiseError: shape or spacing differ.
    """
    array, own = _reader_for(Path(other), reader).read(Path(other))
    check_grid(Path(other), array.shape[1:], own, Path(path), shape, properties, "two images")


def _reader_for(path: Path, name: str | None) -> ImageReader:
    return reader_by_name(name) if name is not None else reader_for_file(path)


def _refuse_impossible(array: np.ndarray, properties: Properties, path: Path) -> None:
    """FoldwiseError for an image without voxels, or with voxels that have no size."""
    if array.size == 0:
        raise FoldwiseError(f"{path} holds no voxels (its shape is {array.shape[1:]}). Export it again.")
    if not all(math.isfinite(length) and length > 0 for length in properties["spacing"]):
        raise FoldwiseError(
            f"{path} says that its voxels measure {tuple(properties['spacing'])} mm; expected lengths above 0. Correct "
            "its header, or export it again."
        )
