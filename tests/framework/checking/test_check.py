"""Every kind of defect, made in a clean dataset: it is found, told with its cases, and nothing else is made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from framework.checking.check import CheckResult, check_dataset
from framework.checking.findings import Finding, Severity
from framework.data.phantom import make_phantom_dataset
from tests.framework.checking.builder import (
    NUM_CASES,
    build,
    case_name,
    change_both,
    change_image,
    change_json,
    change_label,
    draw_case,
    image_path,
    label_path,
    write,
)

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
ALL = [case_name(index) for index in range(NUM_CASES)]


def found(result: CheckResult, code: str) -> Finding:
    matching = [finding for finding in result.findings if finding.code == code]
    assert matching, f"no {code}, but {[finding.code for finding in result.findings]}"
    return matching[0]


def expect(folder: Path, code: str, severity: Severity, *cases: int | str, also: tuple[str, ...] = ()) -> Finding:
    """Check; the finding must be there with exactly these cases, and no others beside those in `also`."""
    result = check_dataset(folder)
    finding = found(result, code)
    assert finding.severity is severity
    assert finding.cases == tuple(case_name(case) if isinstance(case, int) else case for case in cases)
    assert {each.code for each in result.findings} == {code, *also}
    return finding


def test_a_clean_dataset_gives_no_finding(dataset: Path) -> None:
    assert check_dataset(dataset).findings == ()


@pytest.mark.parametrize(
    "options", [{}, {"modality": "ct"}, {"dimensions": 2, "shape": (40, 40), "spacing": (1, 1), "num_channels": 2}]
)
def test_simulated_scans_give_no_finding(tmp_path: Path, options: dict) -> None:
    options = {"shape": (16, 36, 36), **options}
    folder = make_phantom_dataset(tmp_path, "Dataset002_Phantom", num_cases=10, **options)
    assert check_dataset(folder).findings == ()


def test_real_scans_give_no_error_and_no_warning(shared_data: Path) -> None:
    result = check_dataset(shared_data / "Dataset004_Hippocampus")
    # 28 of the scans really are stored at several hundred times the brightness of the others
    assert [(finding.code, finding.severity) for finding in result.findings] == [("intensity-range-unusual", NOTE)]
    assert len(result.evidence.cases) == 200


# --- files and dataset.json


def test_missing_channel(tmp_path: Path) -> None:
    folder = build(tmp_path / "Dataset001_Two", num_channels=2)
    image_path(folder, 3, 1).unlink()
    finding = expect(folder, "missing-channel", ERROR, 3)
    assert "case_03_0001.nii.gz" in finding.details["case_03"]


def test_extra_channel(dataset: Path) -> None:
    write(image_path(dataset, 2, 1), draw_case(99)[0][0])
    expect(dataset, "extra-channel", ERROR, 2)


def test_channels_in_one_file_are_counted(dataset: Path) -> None:
    write(image_path(dataset, 2), np.stack([draw_case(2)[0][0]] * 2))
    finding = expect(dataset, "channel-count", ERROR, 2, also=("identical-channels",))
    assert "2 channel(s)" in finding.details["case_02"]


def test_missing_label_and_missing_scan(dataset: Path) -> None:
    label_path(dataset, 0).unlink()
    image_path(dataset, 5).unlink()
    result = check_dataset(dataset)
    assert found(result, "missing-label").cases == ("case_00",)
    assert found(result, "missing-scan").cases == ("case_05",)
    assert len(result.evidence.cases) == NUM_CASES - 1  # the broken listing did not keep the others from being read


def test_truncated_file(dataset: Path) -> None:
    path = image_path(dataset, 4)
    path.write_bytes(path.read_bytes()[:-400])
    finding = expect(dataset, "unreadable-file", ERROR, 4)
    assert str(path) in finding.details["case_04"]


def test_label_that_is_no_image(dataset: Path) -> None:
    label_path(dataset, 4).write_text("not an image")
    expect(dataset, "unreadable-file", ERROR, 4)


def test_channel_number_with_five_digits(dataset: Path) -> None:
    path = image_path(dataset, 1)
    path.rename(path.with_name("case_01_00000.nii.gz"))
    finding = expect(dataset, "channel-number", ERROR, "case_01_00000", also=("missing-scan", "num-training"))
    assert "Rename case_01_00000.nii.gz to case_01_0000.nii.gz" in finding.advice


@pytest.mark.parametrize("suffix", [".nrrd", ".NII.GZ"])
def test_another_file_ending_in_a_folder(dataset: Path, suffix: str) -> None:
    write(dataset / "imagesTr" / "extra_0000.nrrd", draw_case(99)[0][0])
    (dataset / "imagesTr" / "extra_0000.nrrd").rename(dataset / "imagesTr" / f"extra_0000{suffix}")
    finding = expect(dataset, "mixed-file-endings", WARNING, "extra_0000")
    assert f"1 {suffix}" in finding.message


def test_a_wrong_file_ending_does_not_keep_the_cases_from_being_checked(dataset: Path) -> None:
    change_json(dataset, file_ending=".nrrd")
    change_image(dataset, 3, lambda image: image * 0)
    finding = expect(dataset, "no-images", ERROR, also=("constant-image",))
    assert "case_00_0000.nii.gz" in finding.message


def test_without_dataset_json_the_cases_are_still_checked(dataset: Path) -> None:
    (dataset / "dataset.json").unlink()
    change_image(dataset, 3, lambda image: image * 0)
    expect(dataset, "dataset-json-unreadable", ERROR, also=("constant-image",))


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_folder_that_is_missing(dataset: Path, part: str) -> None:
    shutil.rmtree(dataset / part)
    finding = found(check_dataset(dataset), "missing-folder")
    assert finding.severity is ERROR
    assert part in finding.message


def test_files_named_in_dataset_json_that_do_not_exist(dataset: Path) -> None:
    listed = {name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"} for name in ALL}
    change_json(dataset, dataset=listed)
    assert check_dataset(dataset).findings == ()
    label_path(dataset, 5).unlink()
    expect(dataset, "missing-file", ERROR, 5, also=("unreadable-file",))


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"labels": {"background": 0, "large": 1, "small": 3}}, "labels-not-consecutive"),
        ({"labels": {"background": 0, "large": 2, "ignore": 1}}, "ignore-label-not-last"),
        ({"labels": {"large": 1, "small": 2}}, "background-label"),
        ({"labels": None}, "labels"),
        ({"labels": {"background": 0, "both": [1, 2], "small": [2]}}, "regions-class-order"),
        (
            {"labels": {"background": 0, "both": [1, 2], "small": [2]}, "regions_class_order": [1, 5]},
            "regions-class-order",
        ),
        ({"channel_names": {"1": "MRI"}}, "channel-names"),
        ({"channel_names": None}, "channel-names"),
        ({"file_ending": None}, "file-ending"),
        ({"overwrite_image_reader_writer": "NoSuchReader"}, "unknown-format"),
    ],
)
def test_mistakes_in_dataset_json(dataset: Path, keys: dict, code: str) -> None:
    change_json(dataset, **keys)
    assert found(check_dataset(dataset), code).severity is ERROR


def test_number_of_training_cases(dataset: Path) -> None:
    change_json(dataset, numTraining=7)
    assert "'numTraining' is 7, but 12" in expect(dataset, "num-training", WARNING).message
    change_json(dataset, numTraining=None)
    expect(dataset, "num-training", NOTE)


def test_colliding_names(dataset: Path) -> None:
    image_path(dataset, 1).rename(dataset / "imagesTr" / "case_00_seg_0000.nii.gz")
    label_path(dataset, 1).rename(dataset / "labelsTr" / "case_00_seg.nii.gz")
    expect(dataset, "name-collision", ERROR, "case_00", "case_00_seg")


def test_name_of_the_folder(dataset: Path) -> None:
    expect(dataset.rename(dataset.parent / "balls"), "dataset-name", WARNING)


def test_test_images(dataset: Path) -> None:
    (dataset / "imagesTs").mkdir()
    write(dataset / "imagesTs" / "new_0000.nii.gz", draw_case(99)[0][0])
    write(dataset / "imagesTs" / "new_0001.nii.gz", draw_case(98)[0][0])
    write(dataset / "imagesTs" / "both_0000.nii.gz", np.stack([draw_case(97)[0][0], draw_case(96)[0][0]]))
    (dataset / "imagesTs" / "bad_0000.nii.gz").write_bytes(b"")
    shutil.copy(image_path(dataset, 6), dataset / "imagesTs" / "copy_0000.nii.gz")
    result = check_dataset(dataset)
    assert found(result, "extra-channel").cases == ("new",)
    assert found(result, "test-images-channel-count").cases == ("both",)
    assert found(result, "test-images-unreadable").cases == ("bad",)
    assert "case_06" in found(result, "test-scan-in-training").details["copy"]
    assert not result.has_errors


# --- grids


def test_shapes_of_scan_and_label(dataset: Path) -> None:
    change_label(dataset, 7, lambda labels: labels[:-1])
    finding = expect(dataset, "shape-mismatch", ERROR, 7)
    assert "shape 17x20x22 instead of 18x20x22" in finding.details["case_07"]


@pytest.mark.parametrize(
    ("geometry", "code", "severity"),
    [
        ({"spacing": (2, 1, 1)}, "spacing-mismatch", ERROR),
        ({"origin": (0, 0, 30)}, "origin-mismatch", WARNING),
        ({"direction": RAS}, "direction-mismatch", WARNING),
    ],
)
def test_geometry_of_scan_and_label(dataset: Path, geometry: dict, code: str, severity: Severity) -> None:
    change_label(dataset, 7, lambda labels: labels, **geometry)
    expect(dataset, code, severity, 7)


def test_geometry_of_channels(tmp_path: Path) -> None:
    folder = build(tmp_path / "Dataset001_Two", num_channels=2)
    write(image_path(folder, 1, 1), draw_case(99)[0][0][1:])
    finding = expect(folder, "shape-mismatch", ERROR, 1)
    assert "case_01_0001.nii.gz" in finding.details["case_01"]


def test_exchanged_labels_of_different_shape(dataset: Path) -> None:
    change_both(dataset, 3, lambda array: array[1:])
    first, second = label_path(dataset, 3), label_path(dataset, 8)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    finding = expect(dataset, "labels-swapped", ERROR, 3, 8, also=("shape-mismatch",))
    assert finding.details["case_03"].endswith("case_08")


def test_orientation_between_cases(dataset: Path) -> None:
    change_both(dataset, 5, lambda array: array, direction=RAS)
    finding = expect(dataset, "orientation-differs", WARNING, 5)
    assert finding.details == {"case_05": "RAS"}
    assert "11 LPS, 1 RAS" in finding.message


def test_spacing_in_metres(dataset: Path) -> None:
    change_both(dataset, 5, lambda array: array, spacing=(0.001, 0.001, 0.001))
    expect(dataset, "spacing-unusual", WARNING, 5)


def test_thin_and_thick_slices_side_by_side_are_no_finding(dataset: Path) -> None:
    change_both(dataset, 5, lambda array: array, spacing=(5, 0.7, 0.7))
    change_both(dataset, 6, lambda array: array, spacing=(0.5, 0.9, 0.9))
    assert check_dataset(dataset).findings == ()


def test_single_slice_among_volumes_and_the_reverse(dataset: Path, tmp_path: Path) -> None:
    change_both(dataset, 5, lambda array: array[9:10])
    expect(dataset, "mixed-2d-and-3d", WARNING, 5)
    flat = build(tmp_path / "Dataset003_Flat")
    for index in range(NUM_CASES):
        if index != 4:
            change_both(flat, index, lambda array: array[9:10])
    assert found(check_dataset(flat), "mixed-2d-and-3d").cases == ("case_04",)


def test_slice_along_the_wrong_axis(dataset: Path) -> None:
    change_both(dataset, 5, lambda array: array[:, :, 7:8])
    assert found(check_dataset(dataset), "slice-axis-not-first").cases == ("case_05",)


# --- voxels


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(dataset: Path, value: float) -> None:
    def change(image: np.ndarray) -> np.ndarray:
        image[0, 0, :3] = value
        return image

    change_image(dataset, 9, change)
    assert str(3) in expect(dataset, "nan-or-infinite", ERROR, 9).details["case_09"]


def test_constant_image(dataset: Path) -> None:
    change_image(dataset, 9, lambda image: image * 0 + 7)
    assert "every voxel is 7" in expect(dataset, "constant-image", ERROR, 9).details["case_09"]


def test_constant_and_copied_channels(tmp_path: Path) -> None:
    folder = build(tmp_path / "Dataset001_Two", num_channels=2)
    write(image_path(folder, 1, 1), draw_case(1)[0][0] * 0)
    shutil.copy(image_path(folder, 2, 0), image_path(folder, 2, 1))
    result = check_dataset(folder)
    assert found(result, "constant-channel").cases == ("case_01",)
    assert found(result, "identical-channels").cases == ("case_02",)
    assert not result.has_errors


def test_values_that_are_no_bytes(dataset: Path) -> None:
    change_json(dataset, channel_names={"0": "rgb_to_0_1"})
    expect(dataset, "not-bytes", ERROR, *ALL)


def test_ct_that_was_not_rescaled_to_hounsfield_units(dataset: Path) -> None:
    change_json(dataset, channel_names={"0": "CT"})
    for index in range(NUM_CASES):
        change_image(dataset, index, lambda image: image - 1000)
    assert check_dataset(dataset).findings == ()
    change_image(dataset, 2, lambda image: image + 1024)
    expect(dataset, "no-hounsfield-units", WARNING, 2)


def test_ct_in_other_units(dataset: Path) -> None:
    change_json(dataset, channel_names={"0": "CT"})
    for index in range(NUM_CASES):
        change_image(dataset, index, lambda image: image - 1000)
    change_image(dataset, 2, lambda image: image / 1000)
    expect(dataset, "intensity-range-unusual", WARNING, 2)


def test_rescaled_mr_is_worth_a_note_only(dataset: Path) -> None:
    change_image(dataset, 2, lambda image: image / 1000)
    expect(dataset, "intensity-range-unusual", NOTE, 2)


def test_the_same_scan_under_two_names_however_it_is_stored(dataset: Path) -> None:
    for index in 2, 7:
        change_image(dataset, index, lambda image: np.rint(image))
    image = np.rint(draw_case(2)[0][0]).astype(np.int16)
    write(image_path(dataset, 7), image)
    shutil.copy(label_path(dataset, 2), label_path(dataset, 7))
    finding = expect(dataset, "duplicate-scans", WARNING, 2, 7)
    assert finding.details["case_07"] == "same voxels as case_02"


# --- labels


def test_label_values_without_a_name(dataset: Path) -> None:
    change_label(dataset, 1, lambda labels: np.where(labels == 2, 5, labels).astype(np.uint8))
    assert "5 (" in expect(dataset, "label-value-unnamed", ERROR, 1).details["case_01"]


def test_a_mask_of_zero_and_255_is_explained(dataset: Path) -> None:
    change_label(dataset, 1, lambda labels: ((labels > 0) * 255).astype(np.uint8))
    assert "stored as 0 and 1" in expect(dataset, "label-value-unnamed", ERROR, 1).advice


def test_labels_that_are_no_integers(dataset: Path) -> None:
    change_label(dataset, 1, lambda labels: labels * np.float32(0.5))
    assert "0.5" in expect(dataset, "label-not-integer", ERROR, 1).details["case_01"]


def test_label_that_never_occurs(dataset: Path) -> None:
    change_json(dataset, labels={"background": 0, "large": 1, "small": 2, "tumour": 3})
    assert "'tumour' (3)" in expect(dataset, "label-never-occurs", WARNING).message


def test_label_of_one_case(dataset: Path) -> None:
    change_json(dataset, labels={"background": 0, "large": 1, "small": 2, "tumour": 3})

    def change(labels: np.ndarray) -> np.ndarray:
        labels[9, 10, 7] = 3
        return labels

    change_label(dataset, 1, change)
    expect(dataset, "label-in-one-case", NOTE)


def test_label_image_without_foreground(dataset: Path) -> None:
    change_label(dataset, 1, lambda labels: labels * 0)
    expect(dataset, "no-foreground", WARNING, 1)
    for index in range(5):
        change_label(dataset, index, lambda labels: labels * 0)
    expect(dataset, "no-foreground", NOTE, 0, 1, 2, 3, 4)
    for index in range(NUM_CASES):
        change_label(dataset, index, lambda labels: labels * 0)
    expect(dataset, "no-foreground", ERROR, *ALL)


def test_the_ignore_label_is_no_foreground(dataset: Path) -> None:
    change_json(dataset, labels={"background": 0, "large": 1, "small": 2, "ignore": 3})
    change_label(dataset, 1, lambda labels: np.full_like(labels, 3))
    expect(dataset, "no-foreground", WARNING, 1)


def test_copied_label_image(dataset: Path) -> None:
    shutil.copy(label_path(dataset, 2), label_path(dataset, 7))
    assert found(check_dataset(dataset), "duplicate-labels").cases == ("case_02", "case_07")


# --- suspicions


def test_exchanged_labels_of_the_same_shape(dataset: Path) -> None:
    change_both(dataset, 3, lambda array: np.roll(array, (5, -4), (0, 1)))
    change_both(dataset, 8, lambda array: np.roll(array, (-5, 4), (0, 1)))
    assert check_dataset(dataset).findings == ()
    first, second = label_path(dataset, 3), label_path(dataset, 8)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    finding = expect(dataset, "label-beside-edges", WARNING, 3, 8)
    assert "may belong to case_08" in finding.details["case_03"]


def test_mirrored_case(dataset: Path) -> None:
    change_both(dataset, 6, lambda array: array[:, :, ::-1])
    finding = expect(dataset, "flip-suspected", WARNING, 6)
    assert finding.details["case_06"].startswith("left-right: 'large'")


def test_symmetric_structures_are_never_called_mirrored(dataset: Path) -> None:
    # every other case mirrored: left and right are both there
    for index in range(0, NUM_CASES, 2):
        change_both(dataset, index, lambda array: array[:, :, ::-1])
    assert check_dataset(dataset).findings == ()


def test_label_that_was_drawn_on_a_part_of_the_scan_only(dataset: Path) -> None:
    def change(labels: np.ndarray) -> np.ndarray:
        labels[9:] = 0
        return labels

    change_label(dataset, 2, change)
    expect(dataset, "label-cut-off", WARNING, 2)


def test_slab_without_label(dataset: Path) -> None:
    def change(labels: np.ndarray) -> np.ndarray:
        labels[8:11] = 0
        return labels

    change_label(dataset, 2, change)
    assert "axis 0: 3 slices" in expect(dataset, "label-has-gaps", WARNING, 2).details["case_02"]


# --- splits


def test_mistakes_in_the_splits(dataset: Path, tmp_path: Path) -> None:
    folds = [
        {"train": [*ALL[2:], "ghost"], "val": ALL[:3]},
        {"train": ALL[:6], "val": ALL[6:11]},
    ]
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / "preprocessed" / "splits_final.json").write_text(json.dumps(folds))
    result = check_dataset(dataset, [tmp_path / "preprocessed"])
    assert found(result, "splits-unknown-case").details == {"ghost": "fold 0 train"}
    assert found(result, "splits-overlap").details == {"case_02": "fold 0"}
    assert found(result, "splits-uneven").cases == (*ALL[3:6], ALL[11])
    assert result.has_errors


def test_cases_that_the_splits_leave_out(dataset: Path) -> None:
    folds = [{"train": ALL[6:11], "val": ALL[:6]}, {"train": ALL[:6], "val": ALL[6:11]}]
    (dataset / "splits_final.json").write_text(json.dumps(folds))
    expect(dataset, "splits-unused-case", WARNING, 11)


@pytest.mark.parametrize("content", ["{", "[]", '[{"train": ["case_00"]}]'])
def test_splits_that_cannot_be_read(dataset: Path, content: str) -> None:
    (dataset / "splits_final.json").write_text(content)
    expect(dataset, "splits-unreadable", ERROR)


def test_empty_part_of_a_fold(dataset: Path) -> None:
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ALL, "val": []}]))
    assert "'val' of fold 0" in expect(dataset, "splits-empty-part", ERROR).message
