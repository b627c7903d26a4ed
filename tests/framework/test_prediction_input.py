"""What a folder to predict holds: image files, or DICOM series; and reading its cases."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from framework.data.case_warnings import collected_case_warnings
from framework.data.dicom import holds_dicom
from framework.data.image_io import read_images
from framework.data.labels import Labels
from framework.data.prediction_input import cases_to_predict, read_case_to_predict
from framework.errors import CaseWarning, DatasetError
from tests.framework.dicom_builder import write_series

VALUES = np.arange(144).reshape(2, 8, 9).astype(np.int16)


def test_a_folder_of_series_is_a_case_each(tmp_path: Path) -> None:
    for name in ("b_2023", "a_0000"):
        write_series(tmp_path / "in" / name, VALUES)
    (tmp_path / "in" / ".DS_Store").touch()
    cases = cases_to_predict(tmp_path / "in", ".nii.gz", 1).cases
    assert {name: case.images for name, case in cases.items()} == {
        "a": (tmp_path / "in" / "a_0000",),
        "b_2023": (tmp_path / "in" / "b_2023",),  # four digits that are no channel
    }


def test_channels_are_a_series_each(tmp_path: Path) -> None:
    for name in ("a_0001", "a_0000", "b_0000", "b_0001"):
        write_series(tmp_path / "in" / name, VALUES)
    cases = cases_to_predict(tmp_path / "in", ".nii.gz", 2).cases
    assert [path.name for path in cases["a"].images] == ["a_0000", "a_0001"]
    assert read_images(cases["b"].images)[0].shape == (2, 2, 8, 9)
    (tmp_path / "in" / "b_0001").rename(tmp_path / "in" / "b_0002")
    (tmp_path / "in" / "a_0001").rename(tmp_path / "in" / "other")
    with pytest.raises(DatasetError) as told:
        cases_to_predict(tmp_path / "in", ".nii.gz", 2)
    for message in (
        "'other' lacks the four-digit",
        "case 'a' has the channels 0000;",
        "case 'b' has the channels 0000, 0002; the network takes 0000 to 0001",
    ):
        assert message in str(told.value)


def test_a_single_series_is_a_case_named_after_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path / "patient", VALUES)
    monkeypatch.chdir(folder)
    assert cases_to_predict(".", ".nii.gz", 1).cases["patient"].images == (folder,)
    with pytest.raises(
        DatasetError, match=r"is one DICOM series, but the network takes 2 channels.*CASE_0000, CASE_0001"
    ):
        cases_to_predict(folder, ".nii.gz", 2)


def test_mixed_folders_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VALUES)
    (tmp_path / "b_0000.nii.gz").touch()
    with pytest.raises(DatasetError, match=r"holds 1 file\(s\) \*.nii.gz and 1 folder\(s\) with DICOM files"):
        cases_to_predict(tmp_path, ".nii.gz", 1)
    (tmp_path / "b_0000.nii.gz").unlink()
    (tmp_path / "notes").mkdir()
    with pytest.raises(DatasetError, match="folders without DICOM files beside those with some: notes"):
        cases_to_predict(tmp_path, ".nii.gz", 1)


def test_folders_of_image_files_are_listed_as_before(tmp_path: Path) -> None:
    (tmp_path / "b_0000.nii.gz").touch()
    (tmp_path / "notes").mkdir()
    assert not holds_dicom(tmp_path)
    assert cases_to_predict(tmp_path, ".nii.gz", 1).cases["b"].images == (tmp_path / "b_0000.nii.gz",)


def test_channels_that_lie_elsewhere_are_reported_and_used(tmp_path: Path) -> None:
    for channel in (0, 1):
        image = SimpleITK.GetImageFromArray(VALUES + channel)
        image.SetOrigin((0.0, 0.0, 5.0 * channel))
        SimpleITK.WriteImage(image, str(tmp_path / f"scan_000{channel}.nii.gz"))
    case = cases_to_predict(tmp_path, ".nii.gz", 2).cases["scan"]
    told: list[str] = []
    labels = Labels({"background": 0, "thing": 1})
    image, segmentation, properties = read_case_to_predict(case, labels, 2, "SimpleITKIO", told.append)
    assert segmentation is None
    np.testing.assert_array_equal(image, [VALUES, VALUES + 1])
    assert properties["sitk_stuff"]["origin"] == (0, 0, 0)
    assert len(told) == 1
    assert told[0].startswith("warning: case 'scan': ")
    assert "scan_0001.nii.gz lies elsewhere in space" in told[0]
    assert "origin (0, 0, 5) instead of (0, 0, 0)" in told[0]


def test_threads_hear_the_warnings_of_their_own_cases_only() -> None:
    together = threading.Barrier(4, timeout=10)
    heard: dict[int, list[str]] = {}

    def read(number: int) -> None:
        with collected_case_warnings() as messages:
            for turn in range(5):
                together.wait()
                warnings.warn(CaseWarning(f"{number} in turn {turn}"), stacklevel=1)
            heard[number] = messages

    filters = list(warnings.filters)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {number: [f"{number} in turn {turn}" for turn in range(5)] for number in range(4)}
    assert warnings.filters == filters
    with pytest.warns(CaseWarning, match="shown as before"):
        warnings.warn(CaseWarning("shown as before"), stacklevel=1)
