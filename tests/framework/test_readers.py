"""Readers by name: what the real nnU-Net reads from small files, and which reader is chosen for a file."""

from __future__ import annotations

import base64
import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from framework.data import nifti, nifti_space
from framework.data.image_io import (
    files_to_copy,
    read_images,
    read_segmentation,
    reader_name_for,
    write_segmentation,
)
from framework.data.restricted_pickle import dumps, loads
from framework.errors import CaseWarning, FoldwiseError

# Files made by nibabel, SimpleITK, tifffile and Pillow, and what nnU-Net 2.8.1 reads from them; written by
# tests/interop/compare_readers.py, which compares many more.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "readers.json").read_text())
READINGS = [(name, reader) for name, entry in GOLDEN.items() for reader in entry["read"]]


def unpack(name: str, folder: Path) -> Path:
    entry = GOLDEN[name]
    (folder / name).write_bytes(zlib.decompress(base64.b64decode(entry["content"])))
    if "side_file" in entry:
        (folder / name.replace("_0000.tif", ".json")).write_text(entry["side_file"])
    return folder / name


def assert_same_properties(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_same_properties(ours[key], value)
        elif isinstance(value, str):
            assert ours[key] == value
        else:
            np.testing.assert_allclose(ours[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::framework.errors.CaseWarning")
@pytest.mark.parametrize(("name", "reader"), READINGS)
def test_voxels_and_properties_are_those_of_nnunet(name: str, reader: str, tmp_path: Path) -> None:
    expected = GOLDEN[name]["read"][reader]
    array, properties = read_images([unpack(name, tmp_path)], reader)
    np.testing.assert_array_equal(array, np.reshape(expected["voxels"], expected["shape"]).astype(np.float32))
    assert_same_properties(properties, expected["properties"])
    assert_same_properties(loads(dumps(properties)), expected["properties"])


@pytest.mark.parametrize(
    ("name", "reader"), [(name, reader) for name, reader in READINGS if name.startswith("nifti") or "_i2_" in name]
)
def test_label_images_have_the_geometry_of_their_scan(name: str, reader: str, tmp_path: Path) -> None:
    array, properties = read_images([unpack(name, tmp_path)], reader)
    segmentation = np.arange(array[0].size).reshape(array[0].shape) % 5
    written = tmp_path / f"label{''.join(Path(name).suffixes)}"
    write_segmentation(segmentation, written, properties, reader)
    again, own = read_segmentation(written, reader)
    np.testing.assert_array_equal(again[0], segmentation)
    # A matrix, or lengths and a quaternion, in float32.
    assert_close_in_single_precision(properties, own)


def assert_close_in_single_precision(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in one.items():
        if isinstance(value, dict):
            assert_close_in_single_precision(value, other[key])
        elif not isinstance(value, str):
            np.testing.assert_allclose(other[key], value, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_formats_with_headers_of_text_keep_the_geometry(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    image = SimpleITK.GetImageFromArray(rng.normal(size=(3, 4, 5)).astype(np.float32))
    image.SetSpacing(rng.uniform(0.1, 3, 3).tolist())
    image.SetOrigin((rng.normal(size=3) * 100).tolist())
    image.SetDirection(np.linalg.qr(rng.normal(size=(3, 3)))[0].ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
    _, properties = read_images([tmp_path / f"a{ending}"])
    before = {path.name for path in tmp_path.iterdir()}
    write_segmentation(np.ones((3, 4, 5), int), tmp_path / f"label{ending}", properties)
    assert {path.name for path in tmp_path.iterdir()} - before == {f"label{ending}"}  # one file, whole
    written = SimpleITK.ReadImage(str(tmp_path / f"label{ending}"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), 1)
    source = SimpleITK.ReadImage(str(tmp_path / f"a{ending}"))
    assert written.GetOrigin() == source.GetOrigin()
    # NRRD stores the products of direction and spacing, which divide to the last bit but one.
    rounding = 0 if ending.startswith(".mh") else 1e-15
    assert written.GetDirection() == pytest.approx(source.GetDirection(), abs=rounding, rel=0)
    assert written.GetSpacing() == pytest.approx(source.GetSpacing(), rel=rounding, abs=0)


def test_nifti_written_without_itk_is_read_alike_by_itk(tmp_path: Path) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(np.uint16)
    affine = np.array([[0, -0.5, 0, 10], [0.75, 0, 0, -20.25], [0, 0, 3, 30], [0, 0, 0, 1]])
    for name in ("a.nii", "a.nii.gz"):
        nifti.write(tmp_path / name, array, affine)
        image = SimpleITK.ReadImage(str(tmp_path / name))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), array.transpose(2, 1, 0))
        assert image.GetSpacing() == (0.75, 0.5, 3.0)
        assert image.GetOrigin() == (-10.0, 20.25, 30.0)  # ITK counts to the left and posterior
        assert image.GetDirection() == (0, 1, 0, -1, 0, 0, 0, 0, 1)
        again, header = nifti.read(tmp_path / name)
        np.testing.assert_array_equal(again, array)
        np.testing.assert_array_equal(nifti_space.affine_of_header(header), affine)


def test_turning_to_ras_and_back_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(3, 4, 5))
    for _ in range(50):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.5, 3, 3)
        axes = nifti_space.axes_to_ras(affine)
        turned = nifti_space.reorient(array, axes)
        new = nifti_space.reoriented_affine(affine, array.shape, axes)
        np.testing.assert_array_equal(nifti_space.reorient_back(turned, axes), array)
        assert nifti_space.axes_to_ras(new) == nifti_space.UNCHANGED
        # The same voxel lies at the same place: look for the value of voxel (2, 1, 3).
        index = np.argwhere(turned == array[2, 1, 3])[0]
        np.testing.assert_allclose(new @ [*index, 1], affine @ [2, 1, 3, 1], atol=1e-12)


def test_what_the_nibabel_readers_cannot_read_is_told(tmp_path: Path) -> None:
    flat = SimpleITK.GetImageFromArray(np.zeros((4, 5), np.float32))
    SimpleITK.WriteImage(flat, str(tmp_path / "flat.nii"))
    with pytest.raises(FoldwiseError, match="has 2 dimensions, but the nibabel readers take 3D volumes only"):
        read_images([tmp_path / "flat.nii"], "NibabelIO")
    assert read_images([tmp_path / "flat.nii"])[0].shape == (1, 1, 4, 5)  # chosen by what is in it
    SimpleITK.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    with pytest.raises(FoldwiseError, match=r"read and write \.nii and \.nii\.gz only"):
        read_images([tmp_path / "flat.nrrd"], "NibabelIO")


def test_nifti_that_itk_does_not_read_points_to_the_reader_that_does(tmp_path: Path) -> None:
    path = unpack("nifti5.nii.gz", tmp_path)  # NIfTI-2
    with pytest.raises(FoldwiseError, match=r"ITK reads no NIfTI-2.*overwrite_image_reader_writer to NibabelIO"):
        read_images([path], "SimpleITKIO")
    sheared = np.eye(4)
    sheared[0, 1] = 0.4
    nifti.write(tmp_path / "sheared.nii.gz", np.ones((3, 4, 5), np.uint8), sheared)
    with pytest.raises(FoldwiseError, match=r"axes are not perpendicular.*overwrite_image_reader_writer to NibabelIO"):
        read_images([tmp_path / "sheared.nii.gz"], "SimpleITKIO")
    assert read_images([tmp_path / "sheared.nii.gz"], "NibabelIO")[1]["nibabel_stuff"]["original_affine"][
        0, 1
    ] == np.float32(0.4)


@pytest.mark.filterwarnings("ignore::framework.errors.CaseWarning")
def test_the_reader_is_the_first_of_nnunets_that_can_read_an_example(tmp_path: Path) -> None:
    volume, photograph = unpack("tiff77_int16_7_0000.tif", tmp_path), unpack("photograph_palette.tif", tmp_path)
    assert reader_name_for(".tif", example=volume) == "Tiff3DIO"
    assert reader_name_for(".tif", example=photograph) == "NaturalImage2DIO"
    assert reader_name_for(".tif", {"overwrite_image_reader_writer": "Tiff3DIO"}, photograph) == "Tiff3DIO"
    flat = SimpleITK.GetImageFromArray(np.zeros((4, 5), np.float32))
    SimpleITK.WriteImage(flat, str(tmp_path / "flat.nii"))
    assert reader_name_for(".nii", example=tmp_path / "flat.nii") == "SimpleITKIO"
    (tmp_path / "broken.tif").write_bytes(b"no image at all")
    with pytest.raises(FoldwiseError, match=r"broken.tif cannot be read, it may be truncated or damaged"):
        reader_name_for(".tif", example=tmp_path / "broken.tif")


def test_spacing_of_tiff_volumes_stands_in_a_side_file(tmp_path: Path) -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    write_segmentation(volume, tmp_path / "case_0001.tif", {"spacing": [3, 0.5, 0.7]}, "Tiff3DIO")
    assert json.loads((tmp_path / "case_0001.json").read_text()) == {"spacing": [3.0, 0.5, 0.7]}
    assert files_to_copy(tmp_path / "case_0001.tif", tmp_path / "copy.tif", "Tiff3DIO") == [
        (tmp_path / "case_0001.tif", tmp_path / "copy.tif"),
        (tmp_path / "case_0001.json", tmp_path / "copy.json"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array, properties = read_segmentation(tmp_path / "case_0001.tif", "Tiff3DIO")
    np.testing.assert_array_equal(array[0], volume)
    assert properties["spacing"] == [3.0, 0.5, 0.7]
    # As an image, the same file is channel 1 of a case whose side file is case.json.
    with pytest.warns(CaseWarning, match=r"case_0001.tif has no side file case.json with its spacing; 1 mm is assumed"):
        assert read_images([tmp_path / "case_0001.tif"], "Tiff3DIO")[1]["spacing"] == [1, 1, 1]
    (tmp_path / "case.json").write_text('{"spacing": [3, 0.5]}')
    with pytest.raises(FoldwiseError, match=r"case.json: 'spacing' is \[3, 0.5\], expected three positive numbers"):
        read_images([tmp_path / "case_0001.tif"], "Tiff3DIO")


def test_label_images_with_colours_or_lossy_compression_are_refused(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    for ending in (".png", ".jpg"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / f"a{ending}"))
    with pytest.raises(FoldwiseError, match=r"a.png is a colour image with 3 values .* Replace every colour"):
        read_segmentation(tmp_path / "a.png")
    with pytest.raises(FoldwiseError, match=r"a.jpg is a JPEG, which changes pixel values .* as .png"):
        read_segmentation(tmp_path / "a.jpg")
    with pytest.raises(FoldwiseError, match=r"/b.jpg is a JPEG"):
        write_segmentation(np.ones((1, 7, 9), int), tmp_path / "b.jpg", {"spacing": (999, 1, 1)}, "NaturalImage2DIO")
    assert read_images([tmp_path / "a.jpg"])[0].shape == (3, 1, 7, 9)  # a scan may be lossy
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    with pytest.raises(FoldwiseError, match=r"a.jpg cannot be read, it may be truncated or damaged"):
        read_images([tmp_path / "a.jpg"])


def test_images_without_voxels_are_refused(tmp_path: Path) -> None:
    nifti.write(tmp_path / "a_0000.nii.gz", np.zeros((0, 4, 5), np.uint8), np.eye(4))
    for read in (lambda path: read_images([path], "NibabelIO"), lambda path: read_segmentation(path, "NibabelIO")):
        with pytest.raises(FoldwiseError, match=r"holds no voxels \(its shape is \(5, 4, 0\)\)"):
            read(tmp_path / "a_0000.nii.gz")


def test_labels_that_fit_into_no_integer_of_32_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full((2, 3, 4), 1e12)), str(path))
    with pytest.raises(FoldwiseError, match=r"has values from 1000000000000 .* which are no labels"):
        read_segmentation(path)


def test_volumes_are_never_written_in_a_format_that_would_lose_slices_or_geometry(tmp_path: Path) -> None:
    volume = np.ones((2, 3, 4), int)
    with pytest.raises(FoldwiseError, match="a volume of 2 slices cannot be written as one photograph"):
        write_segmentation(volume, tmp_path / "a.png", {"spacing": (999, 1, 1)})
    with pytest.raises(FoldwiseError, match="say nothing of origin and direction"):
        write_segmentation(volume, tmp_path / "a.nii.gz", {"spacing": (3, 1, 1)})
    assert not list(tmp_path.iterdir())
