"""DICOM series as volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from framework.data.dicom import read_series
from framework.data.image_io import read_images, write_segmentation
from framework.errors import FoldwiseError
from tests.framework.dicom_builder import write_series

VALUES = np.random.default_rng(0).integers(-1000, 1000, (6, 8, 9)).astype(np.int16) // 2 * 2


def test_slices_are_sorted_by_position_and_rescaled(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", VALUES, slope=2, intercept=-1000)
    # The stored numbers are the last bytes of each file; their place comes from the position in its header.
    by_position = {}
    for file in folder.iterdir():
        stored = np.frombuffer(file.read_bytes()[-8 * 9 * 2 :], np.int16).reshape(8, 9)
        by_position[float(SimpleITK.ReadImage(str(file)).GetMetaData("0020|0032").split("\\")[2])] = stored
    expected = np.stack([by_position[position] for position in sorted(by_position)]) * 2.0 - 1000
    names = sorted(by_position, key=lambda position: position)
    assert names == [5.0, 7.5, 10.0, 12.5, 15.0, 17.5]
    array, geometry = read_series(folder)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(array, VALUES)
    assert geometry == {
        "spacing": (0.5, 0.75, 2.5),
        "origin": (-10.0, 20.0, 5.0),
        "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    }


def test_oblique_series_and_files_without_ending_are_read(tmp_path: Path) -> None:
    cos, sin = np.cos(0.3), np.sin(0.3)
    orientation = (cos, sin, 0, 0, 0, -1)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [np.array([1.0, 2.0, 3.0]) + 1.5 * index * normal for index in range(6)]
    folder = write_series(tmp_path / "a", VALUES, orientation=orientation, positions=positions, ending="")
    array, geometry = read_series(folder)
    np.testing.assert_array_equal(array, VALUES)
    np.testing.assert_allclose(geometry["spacing"], (0.5, 0.75, 1.5), rtol=1e-6)
    np.testing.assert_allclose(
        np.reshape(geometry["direction"], (3, 3)).T, [orientation[:3], orientation[3:], normal], atol=1e-8
    )


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_label_images_of_a_series_lie_on_its_grid(tmp_path: Path, reader: str) -> None:
    folder = write_series(tmp_path / "a", VALUES)
    data, properties = read_images([folder], reader)
    write_segmentation((data[0] > 0).astype(int), tmp_path / "a.nii.gz", properties, reader)
    written = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), VALUES > 0)
    assert written.GetSpacing() == (0.5, 0.75, 2.5)
    assert written.GetOrigin() == (-10.0, 20.0, 5.0)
    assert written.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_a_single_slice_is_a_volume_of_one(tmp_path: Path) -> None:
    assert read_series(write_series(tmp_path / "a", VALUES[:1]))[0].shape == (1, 8, 9)


def test_several_series_in_a_folder_are_listed(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", VALUES, description="thin axial")
    write_series(folder, VALUES[:2], series=2, description="scout")
    with pytest.raises(
        FoldwiseError, match=r"holds 2 DICOM series(.|\n)*CT thin axial: 6 file(.|\n)*CT scout: 2 file"
    ) as told:
        read_series(folder)
    assert "folder of its own" in str(told.value)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([(0, 0, z) for z in (0, 1, 2, 4, 5, 6)], r"slices are 2 mm apart .* usually 1 mm \(1 such place"),
        ([(0, 0, z) for z in (0, 0, 1, 1, 2, 2)], "lie at the same position"),
        ([(0, 0.3 * z, z) for z in range(6)], "tilted gantry"),
    ],
)
def test_stacks_that_are_no_box_are_refused(
    tmp_path: Path, positions: list[tuple[float, float, float]], message: str
) -> None:
    with pytest.raises(FoldwiseError, match=message):
        read_series(write_series(tmp_path / "a", VALUES, positions=positions))


def test_slices_of_different_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", VALUES)
    write_series(folder, VALUES[:1, :7], positions=[(-10, 20, 20)], ending=".ima")
    with pytest.raises(FoldwiseError, match=r"differs from .* in size, pixel spacing or orientation \(.*\(9, 7\)"):
        read_series(folder)


def test_damaged_files_are_named_and_not_left_out(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", VALUES)
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-50])
    with pytest.raises(FoldwiseError, match=rf"1 DICOM file\(s\) cannot be read, .*: {last.name}"):
        read_series(folder)


def test_readers_of_other_formats_say_that_they_read_no_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", VALUES[:2])
    for reader in ("NaturalImage2DIO", "Tiff3DIO"):
        with pytest.raises(FoldwiseError, match=f"{reader} reads .*no DICOM series"):
            read_images([folder], reader)
