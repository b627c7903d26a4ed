"""SimpleITK as we use it: complete files only, plain tuples for geometry, errors that name the file."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from framework.data import nifti
from framework.errors import FoldwiseError


def read(path: Path) -> tuple[np.ndarray, dict[str, Any], int]:
    """Voxels in array order, {"spacing", "origin", "direction"} in ITK's order, and values per voxel.

    Raises:
        FoldwiseError: the file is missing, truncated, or no image.
    """
    import SimpleITK

    if not path.is_file():
        raise FoldwiseError(f"{path} does not exist.")
    voxels = nifti.checked_voxels(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    try:
        if voxels is not None:
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            if reader.GetNumberOfComponents() == 1 and math.prod(reader.GetSize()) == voxels.size:
                return voxels.reshape(reader.GetSize()[::-1]), _geometry(reader), 1
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise FoldwiseError(f"{path} cannot be read, it may be truncated or damaged: {_last_line(error)}") from error
    return SimpleITK.GetArrayFromImage(image), _geometry(image), image.GetNumberOfComponentsPerPixel()


def read_photograph(path: Path) -> tuple[np.ndarray, dict[str, Any], int]:
    """As `read`, for PNG, BMP and TIF, undoing what ITK makes of one-bit and palette images."""
    array, geometry, num_components = read(path)
    with open(path, "rb") as file:
        header = file.read(32)
    if header[1:4] == b"PNG" and header[24] == 1 and num_components == 1:
        # ITK spreads one bit over the range of a byte, but a mask of zeros and ones was meant.
        array = (array > 0).astype(np.uint8)
    elif header[:2] == b"BM" and struct.unpack_from("<H", header, 28)[0] <= 8 and num_components == 3:
        # A grey BMP is stored with a grey palette, which ITK applies.
        red, green, blue = np.moveaxis(array, -1, 0)
        if (red == green).all() and (red == blue).all():
            array, num_components = np.ascontiguousarray(red), 1
    return array, geometry, num_components


def write(array: np.ndarray, path: Path, geometry: dict[str, Any]) -> None:
    """Write voxels in array order, compressed; `geometry` as `read` returned it, or empty.

    Raises:
        OSError: the file cannot be written completely, for example on a full disk.
    """
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array))
    if geometry:
        image.SetSpacing([float(value) for value in geometry["spacing"]])
        image.SetOrigin([float(value) for value in geometry["origin"]])
        image.SetDirection([float(value) for value in geometry["direction"]])
    try:
        SimpleITK.WriteImage(image, str(path), True)
    except RuntimeError as error:
        raise OSError(f"the image writer failed, is the disk full? ({_last_line(error)})") from error
    if path.name.lower().endswith((".nii", ".nii.gz")):
        # ITK's NIfTI writer does not notice a full disk.
        try:
            nifti.refuse_truncated(path)
        except FoldwiseError as error:
            raise OSError("less was written than should be, is the disk full?") from error


def without_channel_axis(geometry: dict[str, Any]) -> dict[str, Any]:
    """The geometry of one channel of a 4D file, whose last ITK axis is the channel."""
    direction = np.asarray(geometry["direction"]).reshape(4, 4)[:3, :3]
    return {
        "spacing": tuple(geometry["spacing"][:3]),
        "origin": tuple(geometry["origin"][:3]),
        "direction": tuple(direction.ravel().tolist()),
    }


def _geometry(image: Any) -> dict[str, Any]:
    return {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
