"""Reading and writing scans: nnU-Net's axis order and geometry, and refusal of what cannot be trained on."""

from __future__ import annotations

import gzip
import multiprocessing
import resource
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from framework.data.image_io import (
    check_case,
    check_same_geometry,
    geometry_differences,
    read_images,
    read_segmentation,
    reader_by_name,
    reader_name_for,
    write_segmentation,
)
from framework.data.labels import Labels
from framework.errors import CaseError, CaseWarning, DatasetError, FoldwiseError, UnknownNameError

LABELS = Labels({"background": 0, "liver": 1, "tumour": 2})
GEOMETRY = {"spacing": (0.7, 0.7, 1.5), "origin": (0, 0, 0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}
DIRECTION = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def save(
    path: Path,
    array: np.ndarray,
    spacing: tuple[float, ...] = (0.5, 0.75, 3.0),
    origin: tuple[float, ...] = (-10.0, 5.0, 7.5),
    direction: tuple[float, ...] = DIRECTION,
    **kwargs: Any,
) -> Path:
    image = SimpleITK.GetImageFromArray(array, **kwargs)
    num_dimensions = image.GetDimension()
    image.SetSpacing(spacing[:num_dimensions])
    image.SetOrigin(origin[:num_dimensions])
    if num_dimensions == 3:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path))
    return path


def scan(seed: int = 0, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def label_map(shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".nii", ".mhd", ".nhdr"])
def test_volumes_come_in_array_order_with_spacing_to_match(tmp_path: Path, ending: str) -> None:
    first, second = scan(0), scan(1)
    paths = [save(tmp_path / f"a_000{i}{ending}", array) for i, array in enumerate((first, second))]
    data, properties = read_images(paths, "SimpleITKIO")
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data, np.stack([first, second]))
    assert properties["spacing"] == [3.0, 0.75, 0.5]
    assert properties["sitk_stuff"]["spacing"] == (0.5, 0.75, 3.0)
    assert properties["sitk_stuff"]["origin"] == (-10.0, 5.0, 7.5)
    np.testing.assert_allclose(properties["sitk_stuff"]["direction"], DIRECTION, atol=1e-6)


def test_flat_images_get_a_coarse_first_axis(tmp_path: Path) -> None:
    array = scan(shape=(5, 6))
    data, properties = read_images([save(tmp_path / "a_0000.nii.gz", array)])
    np.testing.assert_array_equal(data, array[None, None])
    assert properties["spacing"] == [0.75 * 999, 0.75, 0.5]
    write_segmentation(np.ones((1, 5, 6), int), tmp_path / "out.nii.gz", properties)
    written = SimpleITK.ReadImage(str(tmp_path / "out.nii.gz"))
    assert written.GetDimension() == 2
    assert written.GetSpacing() == (0.5, 0.75)


def test_the_first_axis_of_a_4d_file_is_the_channel(tmp_path: Path) -> None:
    array = scan(shape=(3, 4, 5, 6))
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    image.SetSpacing((0.5, 0.75, 3.0, 1.0))
    SimpleITK.WriteImage(image, str(tmp_path / "a_0000.nii.gz"))
    data, properties = read_images([tmp_path / "a_0000.nii.gz"])
    np.testing.assert_array_equal(data, array)
    assert properties["spacing"] == [3.0, 0.75, 0.5]
    write_segmentation(label_map(), tmp_path / "out.nii.gz", properties)
    assert read_segmentation(tmp_path / "out.nii.gz")[1]["spacing"] == [3.0, 0.75, 0.5]


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_photographs_become_channels(tmp_path: Path, ending: str) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (7, 9)).astype(np.uint8)
    colour = np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(tmp_path / f"grey{ending}"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colour, isVector=True), str(tmp_path / f"colour{ending}"))
    data, properties = read_images([tmp_path / f"grey{ending}"])
    np.testing.assert_array_equal(data, grey[None, None])
    assert tuple(properties["spacing"]) == (999, 1, 1)
    data, _ = read_images([tmp_path / f"colour{ending}"])
    np.testing.assert_array_equal(data, colour.transpose(2, 0, 1)[:, None])
    segmentation = (grey > 100).astype(int)[None]
    write_segmentation(segmentation, tmp_path / f"out{ending}", properties)
    np.testing.assert_array_equal(read_segmentation(tmp_path / f"out{ending}")[0][0], segmentation)


def test_one_bit_masks_are_zero_and_one(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    mask = np.random.default_rng(0).random((8, 9)) > 0.5
    pillow.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.png")[0][0, 0], mask)


@pytest.mark.parametrize(("highest", "kind"), [(2, np.uint8), (254, np.uint8), (255, np.uint16), (300, np.uint16)])
def test_segmentations_are_stored_small_on_the_exact_grid_of_their_scan(
    tmp_path: Path, highest: int, kind: type
) -> None:
    _, properties = read_images([save(tmp_path / "a_0000.nii.gz", scan())])
    segmentation = np.zeros((4, 5, 6), np.int16)
    segmentation[1, 2, 3] = highest
    write_segmentation(segmentation, tmp_path / "out.nii.gz", properties)
    image, original = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("out.nii.gz", "a_0000.nii.gz"))
    array = SimpleITK.GetArrayFromImage(image)
    assert array.dtype == kind
    np.testing.assert_array_equal(array, segmentation)
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, get)() == getattr(original, get)()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_0000.nii.gz", "out.nii.gz"]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path: Path, ending: str, kept: float) -> None:
    whole = save(tmp_path / f"whole{ending}", scan(shape=(8, 9, 10))).read_bytes()
    broken = tmp_path / f"a_0000{ending}"
    broken.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CaseError, match=r"case 'a': .*a_0000.*(truncated|damaged)"):
        check_case([broken], None, LABELS, "a")


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.uint8])
@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6), (1, 5, 6), (3, 4, 5, 6)])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_voxels_equal_those_of_itk(tmp_path: Path, kind: type, shape: tuple[int, ...], ending: str) -> None:
    path = tmp_path / f"a_0000{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan(shape=shape).astype(kind), isVector=False), str(path))
    image = SimpleITK.ReadImage(str(path))
    expected = SimpleITK.GetArrayFromImage(image)
    data, properties = read_images([path], "SimpleITKIO")
    np.testing.assert_array_equal(data.squeeze(), expected.squeeze().astype(np.float32))
    assert properties["sitk_stuff"]["spacing"] == image.GetSpacing()


def test_scaled_and_big_endian_floats_are_read_as_itk_reads_them(tmp_path: Path) -> None:
    plain = bytearray(save(tmp_path / "plain.nii", scan()).read_bytes())
    plain[112:120] = np.array([2.0, 10.0], "<f4").tobytes()  # slope and intercept
    (tmp_path / "scaled.nii").write_bytes(plain)
    np.testing.assert_allclose(read_images([tmp_path / "scaled.nii"])[0][0], 2 * scan() + 10, rtol=1e-6)
    swapped = tmp_path / "swapped.nii"
    header = np.frombuffer(save(tmp_path / "plain.nii", scan()).read_bytes()[:352], np.uint8).copy()
    fields = [
        ("i4", 0, 1),
        ("i2", 40, 8),
        ("i2", 68, 4),
        ("f4", 76, 8),
        ("f4", 108, 3),
        ("i2", 252, 2),
        ("f4", 256, 18),
    ]
    for kind, start, number in fields:
        part = header[start : start + number * int(kind[1])]
        part[:] = part.view("<" + kind).astype(">" + kind).view(np.uint8)
    swapped.write_bytes(header.tobytes() + scan().astype(">f4").tobytes())
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(swapped))), scan())
    np.testing.assert_array_equal(read_images([swapped])[0][0], scan())


def test_gzip_files_of_several_streams_are_read(tmp_path: Path) -> None:
    array = scan()
    plain = save(tmp_path / "plain.nii", array).read_bytes()
    (tmp_path / "a_0000.nii.gz").write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:]))
    np.testing.assert_array_equal(read_images([tmp_path / "a_0000.nii.gz"])[0][0], array)


def test_a_good_case_is_returned_as_read(tmp_path: Path) -> None:
    image = save(tmp_path / "a_0000.nii.gz", scan())
    label = save(tmp_path / "a.nii.gz", label_map())
    data, segmentation, properties = check_case([image], label, LABELS, "a", num_channels=1)
    np.testing.assert_array_equal(data[0], scan())
    assert segmentation is not None
    assert segmentation.dtype == np.int8
    np.testing.assert_array_equal(segmentation[0], label_map())
    assert properties["spacing"] == [3.0, 0.75, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": label_map((4, 5, 7))}, r"shape \(4, 5, 7\) instead of \(4, 5, 6\)"),
        ({"spacing": (0.5, 0.75, 2.9)}, r"spacing \(2.9, 0.75, 0.5\) instead of \(3, 0.75, 0.5\) mm"),
    ],
)
def test_grids_of_other_size_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    image = save(tmp_path / "a_0000.nii.gz", scan())
    other = save(tmp_path / "a.nii.gz", **{"array": label_map(), **change})
    with pytest.raises(CaseError, match=f"case 'a': .*a.nii.gz does not lie on the grid of .*a_0000.*{message}"):
        check_case([image], other, LABELS, "a")
    with pytest.raises(CaseError, match="channels of a case must share one grid"):
        check_case([image, other], None, LABELS, "a")
    data, properties = read_images([image])
    with pytest.raises(FoldwiseError, match=message):
        check_same_geometry(image, data.shape[1:], properties, other)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
@pytest.mark.parametrize(
    ("change", "name"),
    [({"origin": (-10.0, 5.0, 8.5)}, "origin"), ({"direction": DIRECTION}, "direction")],
)
def test_grids_that_only_lie_elsewhere_are_warned_of(
    tmp_path: Path, reader: str, change: dict[str, Any], name: str
) -> None:
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    image = save(tmp_path / "a_0000.nii.gz", scan(shape=(4, 4, 4)), spacing=(1.0, 1.0, 1.0), direction=straight)
    changed = {"direction": straight, **change}
    other = save(tmp_path / "a.nii.gz", label_map((4, 4, 4)), spacing=(1.0, 1.0, 1.0), **changed)
    if "Reorient" in reader:
        name = "origin"  # turned to the same axes, the two begin in different corners
    message = rf"a.nii.gz lies elsewhere in space than .*a_0000.nii.gz: .*{name} \(.*\) instead of \(.*resample one"
    with pytest.warns(CaseWarning, match=message):
        assert check_case([image], other, LABELS, "a", reader=reader)[1] is not None
    with pytest.warns(CaseWarning, match="channels are used voxel by voxel"):
        assert len(read_images([image, other], reader)[0]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_images([image, image], reader)


def test_rounding_of_a_header_is_no_difference() -> None:
    geometry = {"spacing": (0.7, 0.7, 1.5), "origin": (-182.300003, 12.0, 3.0), "direction": DIRECTION}
    rounded = {**geometry, "origin": (-182.3, 12.0, 3.0)}
    one = {"spacing": [1.5, 0.7, 0.7], "sitk_stuff": geometry}
    other = {"spacing": [1.50001, 0.7, 0.7], "sitk_stuff": rounded}
    assert geometry_differences((4, 5, 6), one, (4, 5, 6), other) == []


@pytest.mark.parametrize(("value", "message"), [(np.nan, "1 NaN and 0 infinite"), (np.inf, "0 NaN and 1 infinite")])
def test_scans_with_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float, message: str) -> None:
    broken = scan(1)
    broken[1, 2, 3] = value
    paths = [save(tmp_path / f"a_000{i}.nii.gz", array) for i, array in enumerate((scan(), broken))]
    with pytest.raises(CaseError, match=f"case 'a': .*a_0001.nii.gz has {message}"):
        check_case(paths, None, LABELS, "a")


def test_label_values_that_dataset_json_does_not_name_are_listed(tmp_path: Path) -> None:
    image = save(tmp_path / "a_0000.nii.gz", scan())
    wrong = np.zeros((4, 5, 6), np.uint8)
    wrong[0, 0, :2], wrong[1, 1, 1] = 7, 3
    label = save(tmp_path / "a.nii.gz", wrong)
    message = r"case 'a': .*3 \(1 voxels\), 7 \(2 voxels\). Named there: background=0, liver=1, tumour=2"
    with pytest.raises(CaseError, match=message):
        check_case([image], label, LABELS, "a")
    label = save(tmp_path / "a.nii.gz", (label_map() > 0).astype(np.uint8) * 255)
    with pytest.raises(CaseError, match="0 and 255 must be stored as 0 and 1"):
        check_case([image], label, LABELS, "a")
    label = save(tmp_path / "a.nii.gz", -label_map().astype(np.int16))
    with pytest.raises(CaseError, match=r"-2 \(\d+ voxels\), -1 \("):
        check_case([image], label, LABELS, "a")


def test_interpolated_labels_are_refused_and_whole_numbers_in_floats_are_not(tmp_path: Path) -> None:
    image = save(tmp_path / "a_0000.nii.gz", scan())
    label = save(tmp_path / "a.nii.gz", label_map().astype(np.float32))
    assert check_case([image], label, LABELS, "a")[1] is not None
    label = save(tmp_path / "a.nii.gz", label_map() * np.float32(0.25))
    with pytest.raises(CaseError, match=r"whose label is no integer, for example 0\.[25]"):
        check_case([image], label, LABELS, "a")


def test_missing_files_and_wrong_channel_counts_are_told(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"case 'a': .*a_0000.nii.gz does not exist"):
        check_case([tmp_path / "a_0000.nii.gz"], None, LABELS, "a")
    image = save(tmp_path / "a_0000.nii.gz", scan())
    with pytest.raises(CaseError, match=r"1 channel\(s\) were read .* dataset.json names 2"):
        check_case([image], None, LABELS, "a", num_channels=2)


def _write_on_a_full_disk(path: Path, limit: int) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    noise = np.random.default_rng(0).integers(0, 200, (20, 30, 30))
    try:
        write_segmentation(noise, path, {"sitk_stuff": GEOMETRY, "spacing": [1.5, 0.7, 0.7]})
    except FoldwiseError as error:
        return str(error)
    return "written"


@pytest.mark.parametrize("limit", [10, 5000])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".gipl"])
def test_a_full_disk_leaves_no_half_segmentation(tmp_path: Path, ending: str, limit: int) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        message = pool.apply(_write_on_a_full_disk, (tmp_path / f"a{ending}", limit))
    assert f"a{ending} could not be written" in message
    assert not list(tmp_path.iterdir())


def test_readers_are_found_by_ending_and_by_name() -> None:
    assert reader_name_for(".nii.gz") == reader_name_for(".NRRD") == reader_name_for(".mhd") == "SimpleITKIO"
    assert reader_name_for(".png") == reader_name_for(".tif") == "NaturalImage2DIO"
    assert (reader_name_for(".nii"), reader_name_for(".tiff")) == ("NibabelIO", "Tiff3DIO")  # as nnU-Net chooses
    assert reader_name_for(".png", {"overwrite_image_reader_writer": "SimpleITKIO"}) == "SimpleITKIO"
    with pytest.raises(DatasetError, match=r"'.dcm' cannot be read. Known: .bmp"):
        reader_name_for(".dcm")
    with pytest.raises(DatasetError, match=r"JPEG changes their values. Convert the images to .png"):
        reader_name_for(".jpg")
    with pytest.raises(UnknownNameError, match="Did you mean 'SimpleITKIO'"):
        reader_by_name("SimpelITKIO")


@pytest.mark.shared_data
def test_real_scans_are_read_and_written_without_loss(shared_data: Path, tmp_path: Path) -> None:
    ct, label = shared_data / "ct_small" / "ct_0000.nii.gz", shared_data / "ct_small" / "ct_label.nii.gz"
    data, properties = read_images([ct])
    assert data.shape == (1, 30, 101, 122)
    segmentation, _ = read_segmentation(label)
    write_segmentation(segmentation[0], tmp_path / "copy.nii.gz", properties)
    again, same = read_segmentation(tmp_path / "copy.nii.gz")
    np.testing.assert_array_equal(again, segmentation)
    assert same["sitk_stuff"] == properties["sitk_stuff"]
