"""NIfTI as nnU-Net reads it through nibabel: the same voxels, spacing and properties, without nibabel.

What differs from SimpleITK: which of the header's descriptions of space counts, and where the spacing
comes from. Arrays are in ITK's order here too, so a model sees the same axes with either reader.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from framework.data import dicom, nifti, nifti_space
from framework.data.readers.base import ImageReader, Properties
from framework.errors import FoldwiseError


class NibabelIO(ImageReader):
    """3D NIfTI in the axes of the file."""

    file_endings = (".nii", ".nii.gz")

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, affine, spacing, _ = _volume(path)
        properties = {"nibabel_stuff": {"original_affine": affine}, "spacing": spacing[::-1]}
        return array.transpose(2, 1, 0)[None], properties

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        _refuse_other_formats(path)
        nifti.write(path, segmentation.transpose(2, 1, 0), properties["nibabel_stuff"]["original_affine"])


class NibabelIOWithReorient(ImageReader):
    """3D NIfTI, turned so that the axes run to the right, anterior and superior; written back as they were."""

    file_endings = NibabelIO.file_endings

    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        array, affine, spacing, real = _volume(path)
        axes = nifti_space.axes_to_ras(affine)
        turned_affine = nifti_space.reoriented_affine(affine, array.shape, axes)
        if axes != nifti_space.UNCHANGED:
            # As nibabel does: the header gets the lengths of the new affine, in its own precision.
            spacing = [float(length) for length in nifti_space.voxel_sizes(turned_affine).astype(real)]
        turned = nifti_space.reorient(array, axes)
        stuff = {"original_affine": affine, "reoriented_affine": turned_affine}
        return turned.transpose(2, 1, 0)[None], {"nibabel_stuff": stuff, "spacing": spacing[::-1]}

    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        _refuse_other_formats(path)
        affine = properties["nibabel_stuff"]["original_affine"]
        turned = nifti_space.reorient_back(segmentation.transpose(2, 1, 0), nifti_space.axes_to_ras(affine))
        nifti.write(path, turned, affine)


def _volume(path: Path) -> tuple[np.ndarray, np.ndarray, list[float], str]:
    """Voxels, affine and spacing in the order of the file, which is the reverse of ours, and the header's precision."""
    if path.is_dir():
        array, geometry = dicom.read_series(path)
        return array.transpose(2, 1, 0), nifti_space.affine_of_itk(geometry), list(geometry["spacing"]), "d"
    if not path.is_file():
        raise FoldwiseError(f"{path} does not exist.")
    _refuse_other_formats(path)
    array, header = nifti.read(path)
    # A fourth axis of length 1 is how some programs write a volume.
    shape = header.shape[:3] if set(header.shape[3:]) == {1} else header.shape
    if len(shape) != 3:
        raise FoldwiseError(
            f"{path} has {len(shape)} dimensions, but the nibabel readers take 3D volumes only. Set "
            "overwrite_image_reader_writer in dataset.json to SimpleITKIO, which reads 2D and 4D files as well."
        )
    volume = array.reshape(shape, order="F")
    affine = nifti_space.affine_of_header(header)
    if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
        raise FoldwiseError(
            f"{path} has an affine matrix that says of no voxel where it lies: {affine[:3].tolist()}. Correct its "
            "header, or export it again."
        )
    return volume, affine, list(header.spacing[:3]), header.real


def _refuse_other_formats(path: Path) -> None:
    if not path.name.lower().endswith(NibabelIO.file_endings):
        raise FoldwiseError(f"{path}: the nibabel readers read and write .nii and .nii.gz only.")
