"""Listing of raw datasets; files are empty, because nothing in them is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from framework.data.raw_dataset import RawDataset, cases_in_folder, list_raw_dataset
from framework.errors import DatasetError


def build(folder: Path, images: list[str], label_images: list[str], **dataset_json: Any) -> Path:
    for part, names in (("imagesTr", images), ("labelsTr", label_images)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / part / name).touch()
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1},
        "numTraining": len(label_images),
        "file_ending": ".nii.gz",
    }
    content.update(dataset_json)
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


def problems(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        RawDataset.open(folder)
    return str(caught.value)


def test_cases_are_listed_in_sorted_order_with_channels_in_order(tmp_path: Path) -> None:
    folder = build(
        tmp_path / "Dataset001_Two",
        [
            "b_0001.nii.gz",
            "b_0000.nii.gz",
            "a_1_0000.nii.gz",
            "a_1_0001.nii.gz",
            ".DS_Store",
            "._b_0000.nii.gz",
            "notes.txt",
        ],
        ["b.nii.gz", "a_1.nii.gz"],
        channel_names={"1": "PET", "0": "CT"},
    )
    dataset = RawDataset.open(folder)
    assert dataset.name == "Dataset001_Two"
    assert dataset.channel_names == ("CT", "PET")
    assert list(dataset.cases) == ["a_1", "b"]
    assert [path.name for path in dataset.cases["b"].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert dataset.cases["a_1"].label == folder / "labelsTr" / "a_1.nii.gz"
    assert dataset.warnings == ()


def test_the_older_key_modality_is_read(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a_0000.nii.gz"], ["a.nii.gz"], channel_names=None, modality={"0": "MRI"})
    assert RawDataset.open(folder).channel_names == ("MRI",)


def test_a_wrong_number_of_training_cases_is_a_warning(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a_0000.nii.gz"], ["a.nii.gz"], numTraining=7)
    (warning,) = RawDataset.open(folder).warnings
    assert "'numTraining' is 7, but 1 training cases were found" in warning


def test_scan_without_label_and_label_without_scan_are_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a_0000.nii.gz", "b_0000.nii.gz"], ["a.nii.gz", "c.nii.gz"])
    message = problems(folder)
    assert "1 scan(s) in imagesTr have no label image in labelsTr: b." in message
    assert "1 label image(s) in labelsTr have no scan in imagesTr: c." in message


def test_missing_and_surplus_channels_are_named(tmp_path: Path) -> None:
    folder = build(
        tmp_path / "d",
        [
            "a_0000.nii.gz",
            "a_0001.nii.gz",
            "b_0000.nii.gz",
            "c_0000.nii.gz",
            "c_0001.nii.gz",
            "c_0002.nii.gz",
        ],
        ["a.nii.gz", "b.nii.gz", "c.nii.gz"],
        channel_names={"0": "CT", "1": "PET"},
    )
    message = problems(folder)
    assert "case 'b' lacks b_0001.nii.gz" in message
    assert "case 'c' has c_0002.nii.gz" in message
    assert "case 'a'" not in message


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    folder = build(
        tmp_path / "d",
        ["a_0000.png", "b_0000.png"],
        ["a.png", "b.png"],
        channel_names={"0": "R", "1": "G", "2": "B"},
        file_ending=".png",
    )
    assert len(RawDataset.open(folder).cases["a"].images) == 1


def test_a_missing_channel_number_is_explained(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a.nii.gz"], ["a.nii.gz"])
    assert "Rename a.nii.gz to a_0000.nii.gz" in problems(folder)


def test_a_channel_number_with_too_many_digits_is_corrected(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a_0000.nii.gz", "b_00001.nii.gz"], ["a.nii.gz", "b.nii.gz"])
    assert "Rename b_00001.nii.gz to b_0001.nii.gz (channel 1)" in problems(folder)


def test_a_broken_dataset_is_listed_as_far_as_possible(tmp_path: Path) -> None:
    folder = build(
        tmp_path / "d",
        ["a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz"],
        ["a.nii.gz", "b.nii.gz"],
        channel_names={"0": "CT", "2": "PET"},
        labels={"liver": 1},
        numTraining=5,
    )
    listing = list_raw_dataset(folder)
    assert [(problem.code, problem.cases) for problem in listing.problems] == [
        ("background-label", ()),
        ("channel-names", ()),
        ("missing-channel", ("a",)),  # most cases have two
        ("missing-label", ("c",)),
    ]
    assert {name: len(case.images) for name, case in listing.cases.items()} == {"a": 1, "b": 2, "c": 2}
    assert listing.cases["c"].label is None
    assert [warning.code for warning in listing.warnings] == ["num-training"]
    with pytest.raises(DatasetError) as caught:
        RawDataset.open(folder)
    assert str(caught.value).splitlines() == [str(problem) for problem in listing.problems]


def test_a_wrong_file_ending_shows_what_is_there(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a_0000.nrrd"], ["a.nrrd"])
    message = problems(folder)
    assert "no file CASE_0000.nii.gz" in message
    assert "a_0000.nrrd" in message


def test_all_mistakes_of_dataset_json_are_told_together(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", [], [], channel_names={"1": "CT"}, labels={"liver": 1}, file_ending="nii.gz")
    message = problems(folder)
    assert "has the keys 1; expected 0" in message
    assert "no 'background'" in message
    assert "'file_ending' is 'nii.gz'" in message


def test_missing_folders_and_files_are_told(tmp_path: Path) -> None:
    assert "does not exist" in problems(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "dataset.json does not exist" in problems(tmp_path / "empty")
    folder = build(tmp_path / "d", [], [])
    (folder / "imagesTr").rmdir()
    assert "imagesTr does not exist" in problems(folder)
    (folder / "dataset.json").write_text("{")
    assert "not valid JSON" in problems(folder)


def test_names_whose_preprocessed_files_would_collide_are_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "d", ["a_0000.nii.gz", "a_seg_0000.nii.gz"], ["a.nii.gz", "a_seg.nii.gz"])
    assert "cases 'a' and 'a_seg' cannot live in one dataset" in problems(folder)


def test_explicit_file_lists_may_be_relative_absolute_and_hold_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("x.nii.gz", "x_label.nii.gz", "z.nii.gz"):
        (elsewhere / name).touch()
    monkeypatch.setenv("SCANS", str(elsewhere))
    folder = build(
        tmp_path / "d",
        ["y.nii.gz"],
        ["y.nii.gz"],
        dataset={
            "second": {"images": ["$SCANS/x.nii.gz"], "label": str(elsewhere / "x_label.nii.gz")},
            "first": {"images": ["imagesTr/y.nii.gz"], "label": "./labelsTr/y.nii.gz"},
            "third": {"images": ["../elsewhere/z.nii.gz"], "label": "labelsTr/y.nii.gz"},
        },
        numTraining=3,
    )
    cases = RawDataset.open(folder).cases
    assert list(cases) == ["second", "first", "third"]
    assert cases["second"].images == (elsewhere / "x.nii.gz",)
    assert cases["third"].images == (elsewhere / "z.nii.gz",)
    assert cases["first"].label == folder / "labelsTr" / "y.nii.gz"


def test_explicit_file_lists_name_missing_files_and_unset_variables(tmp_path: Path) -> None:
    folder = build(
        tmp_path / "d",
        [],
        [],
        dataset={
            "a": {"images": ["$NOT_SET_ANYWHERE/a.nii.gz"], "label": "labelsTr/a.nii.gz"},
            "b": {"images": []},
        },
    )
    message = problems(folder)
    assert "2 file(s) named under 'dataset'" in message
    assert "variable in a path is not set" in message
    assert "'dataset' entry 'b'" in message


def test_scans_of_a_folder_without_labels_can_be_listed(tmp_path: Path) -> None:
    for name in ("b_0000.nii.gz", "a_0000.nii.gz", "plans.json"):
        (tmp_path / name).touch()
    assert list(cases_in_folder(tmp_path, ".nii.gz", 1)) == ["a", "b"]
    (tmp_path / "b_0001.nii.gz").touch()
    with pytest.raises(DatasetError, match="case 'a' lacks a_0001"):
        cases_in_folder(tmp_path, ".nii.gz", 2)


def test_real_dataset_is_listed_in_full(shared_data: Path) -> None:
    dataset = RawDataset.open(shared_data / "Dataset004_Hippocampus")
    assert len(dataset.cases) == 200
    assert list(dataset.cases)[:2] == ["hippocampus_001", "hippocampus_003"]
    assert dataset.labels.foreground_names == ("Anterior", "Posterior")
    assert dataset.warnings == ()
