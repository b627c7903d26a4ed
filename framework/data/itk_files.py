"""SimpleITK as we use it: complete files only, plain tuples for geometry, errors that name the file."""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from framework.data import nifti, tiff
from framework.data.itk_lock import one_at_a_time
from framework.data.memory import refuse_impossible_size
from framework.errors import FoldwiseError

_ONE_FILE = {".mhd": ".mha", ".nhdr": ".nrrd"}
_GIPL_HEADER = 256  # bytes; begins with four lengths and the type of the voxels, 16 bits each, big-endian
_GIPL_BYTES = {15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}  # of a voxel, by type; all others have one


def read(path: Path) -> tuple[np.ndarray, dict[str, Any], int]:
    """Voxels in array order (read-only), {"spacing", "origin", "direction"} in ITK's order, values per voxel.

    Raises:
        FoldwiseError: the file is missing, truncated, or no image.
    """
    if not path.is_file():
        raise FoldwiseError(f"{path} does not exist.")
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    voxels = nifti.checked_voxels(path) if is_nifti else None
    _refuse_truncated_gipl(path)
    _refuse_other_files(path)
    # Without a name, all of ITK's readers in turn would look into the file first.
    return _read_with_itk(path, "NiftiImageIO" if is_nifti else "", voxels)


@one_at_a_time
def _read_with_itk(path: Path, image_io: str, voxels: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any], int]:
    """As `read`; `voxels` are taken in place of ITK's where it sees as many."""
    import SimpleITK

    try:
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO(image_io)
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _refuse_beyond_memory(path, reader)
        size = reader.GetSize()
        if voxels is not None and reader.GetNumberOfComponents() == 1 and math.prod(size) == voxels.size:
            return voxels.reshape(size[::-1]), geometry_of(reader), 1
        image = SimpleITK.ReadImage(str(path), imageIO=image_io)
    except RuntimeError as error:
        raise FoldwiseError(_reason(path, error)) from error
    return np.asarray(_Voxels(image)), geometry_of(image), image.GetNumberOfComponentsPerPixel()


def read_scalars(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """As `read`, for images with one value in every voxel.

    Raises:
        FoldwiseError: also for colour and vector images.
    """
    array, geometry, num_components = read(path)
    if num_components > 1:
        raise FoldwiseError(
            f"{path} has {num_components} values in every voxel (a colour or vector image). Save each as "
            "a scan of its own, CASE_0000, CASE_0001, ..."
        )
    return array, geometry


def read_photograph(path: Path) -> tuple[np.ndarray, int]:
    """Pixels of a PNG, BMP, JPEG or TIF, colours last, and values per pixel; one-bit images become 0 and 1."""
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return tiff.read(path)
    if name.endswith((".bmp", ".jpg", ".jpeg")):
        return _read_with_pillow(path)
    array, _, num_components = read(path)
    with open(path, "rb") as file:
        header = file.read(32)
    if header[1:4] == b"PNG" and header[24] == 1 and num_components == 1:
        # ITK spreads one bit over the range of a byte, but a mask of zeros and ones was meant.
        array = (array > 0).astype(np.uint8)
    return array, num_components


def _read_with_pillow(path: Path) -> tuple[np.ndarray, int]:
    """ITK leaves out the alpha of a BMP, colours its grey palettes, and upsamples the colours of JPEG coarsely."""
    from PIL import Image

    if not path.is_file():
        raise FoldwiseError(f"{path} does not exist.")
    try:
        with Image.open(path) as image:
            array = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    # Pillow's decoders raise all of these for damaged files.
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        OverflowError,
        MemoryError,
        struct.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise FoldwiseError(f"{path} cannot be read, it may be truncated or damaged: {error}.") from error
    array = array.astype(np.uint8) if array.dtype == bool else array
    return array, 1 if array.ndim == 2 else array.shape[-1]


def write(array: np.ndarray, path: Path, geometry: dict[str, Any]) -> None:
    """Write voxels in array order, compressed; `geometry` as `read` returned it, or empty.

    Raises:
        OSError: the file cannot be written completely, for example on a full disk.
    """
    # The two-file formats are written as one file: a second one would not be renamed along with the first.
    whole = path.with_suffix(_ONE_FILE.get(path.suffix.lower(), path.suffix))
    try:
        _write_with_itk(array, whole, geometry)
        os.replace(whole, path)
    except RuntimeError as error:
        whole.unlink(missing_ok=True)
        raise OSError(f"the image writer failed, is the disk full? ({last_line(error)})") from error
    # ITK's writers of NIfTI and GIPL do not notice a full disk.
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            nifti.refuse_truncated(path)
        _refuse_truncated_gipl(path)
    except FoldwiseError as error:
        raise OSError("less was written than should be, is the disk full?") from error


@one_at_a_time
def _write_with_itk(array: np.ndarray, path: Path, geometry: dict[str, Any]) -> None:
    import SimpleITK

    SimpleITK.WriteImage(_image(array, geometry), str(path), True)


@one_at_a_time
def reoriented(array: np.ndarray, geometry: dict[str, Any], orientation: str) -> tuple[np.ndarray, dict[str, Any], str]:
    """A 3D volume turned to an orientation in ITK's letters ("RAS"), its geometry, and its orientation before."""
    import SimpleITK

    image = _image(array, geometry)
    before = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    turned = SimpleITK.DICOMOrient(image, orientation)
    return SimpleITK.GetArrayFromImage(turned), geometry_of(turned), before


def without_channel_axis(geometry: dict[str, Any]) -> dict[str, Any]:
    """The geometry of one channel of a 4D file, whose last ITK axis is the channel."""
    direction = np.asarray(geometry["direction"]).reshape(4, 4)[:3, :3]
    return {
        "spacing": tuple(geometry["spacing"][:3]),
        "origin": tuple(geometry["origin"][:3]),
        "direction": tuple(direction.ravel().tolist()),
    }


def geometry_of(image: Any) -> dict[str, Any]:
    """{"spacing", "origin", "direction"} of an image, or of a reader that has read its header."""
    return {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}


def _refuse_truncated_gipl(path: Path) -> None:
    """FoldwiseError if a GIPL file holds fewer voxels than its header announces; ITK fills them up in silence."""
    if not path.name.lower().endswith(".gipl"):
        return
    with open(path, "rb") as file:
        header = file.read(_GIPL_HEADER)
    fields = struct.unpack_from(">5H", header.ljust(_GIPL_HEADER, b"\0"))
    announced = math.prod(max(1, length) for length in fields[:4]) * _GIPL_BYTES.get(fields[4], 1) + _GIPL_HEADER
    if path.stat().st_size < announced:
        raise FoldwiseError(
            f"{path} is truncated: its header announces {announced} bytes, it holds {path.stat().st_size}. "
            "Copy or export it again."
        )


def _refuse_beyond_memory(path: Path, reader: Any) -> None:
    """ITK takes the memory that a header announces before it looks for the voxels."""
    import SimpleITK

    bits = 64 if "64" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()) else 32
    refuse_impossible_size(math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * bits // 8, path)


_ITS_DATA = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file\s*:)\s*([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
_LONGEST_TEXT_HEADER = 1 << 20


def _refuse_other_files(path: Path) -> None:
    """FoldwiseError for a MetaImage or NRRD header that takes its voxels from a file elsewhere."""
    if not path.name.lower().endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
        return
    with open(path, "rb") as file:
        header = file.read(_LONGEST_TEXT_HEADER)
    if header.startswith(b"NRRD"):
        header = re.split(rb"\r?\n\r?\n", header, maxsplit=1)[0]
    found = _ITS_DATA.search(header)
    name = found[1].strip() if found else b""
    if b"/" in name or b"\\" in name or name.upper().startswith(b"LIST") or b"%" in name:
        raise FoldwiseError(
            f"{path} takes its voxels from {name[:200]!r}. Only a file beside it is read: move the files into one "
            "folder, or save the image as one file."
        )


class _Voxels:
    """The voxels of an ITK image for numpy, without a copy; the array keeps the image alive."""

    def __init__(self, image: Any) -> None:
        import SimpleITK

        view = SimpleITK.GetArrayViewFromImage(image)
        self._image, self._view = image, view
        self.__array_interface__ = view.__array_interface__


def _reason(path: Path, error: Exception) -> str:
    said = last_line(error)
    otherwise = "or set overwrite_image_reader_writer to NibabelIO in dataset.json."
    if "orthonormal" in said:
        return f"{path}: its axes are not perpendicular to each other, which ITK refuses. Resample it, {otherwise}"
    if "is not recognized as a NIFTI file" in said:
        return f"{path} is no NIfTI-1 file; ITK reads no NIfTI-2. Convert it, {otherwise}"
    return f"{path} cannot be read, it may be truncated or damaged: {said}"


def _image(array: np.ndarray, geometry: dict[str, Any]) -> Any:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array), isVector=False)
    if geometry:
        image.SetSpacing([float(value) for value in geometry["spacing"]])
        image.SetOrigin([float(value) for value in geometry["origin"]])
        image.SetDirection([float(value) for value in geometry["direction"]])
    return image


def last_line(error: Exception) -> str:
    """What ITK has to say, without its call stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
