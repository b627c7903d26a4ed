"""What ``fw_evaluate`` says when something is wrong with the files or the options."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.evaluation.summary import read_summary
from tests.framework.evaluation.builders import label_map, rows_of, run, write


def remove_predictions(reference: Path, prediction: Path) -> None:
    for path in prediction.glob("*.nii.gz"):
        path.unlink()


def remove_references(reference: Path, prediction: Path) -> None:
    for path in reference.iterdir():
        path.unlink()


def rename_predictions(reference: Path, prediction: Path) -> None:
    for path in prediction.glob("*.nii.gz"):
        path.rename(path.with_name(f"new_{path.name}"))


def remove_one_prediction(reference: Path, prediction: Path) -> None:
    (prediction / "b.nii.gz").unlink()


def remove_folder(reference: Path, prediction: Path) -> None:
    shutil.rmtree(reference)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_predictions, r"predicted holds no files that end in .nii.gz"),
        (remove_references, r"labelsTr holds no files that end in .nii.gz"),
        (rename_predictions, "have no case in common. Predicted: new_a, new_b, new_c; references: a, b, c"),
        (remove_one_prediction, "1 of 3 references in"),
        (remove_folder, "labelsTr does not exist"),
    ],
)
def test_folders_that_do_not_fit_are_one_message(
    folders: tuple[Path, Path],
    spoil: Callable[[Path, Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    spoil(*folders)
    assert run(*folders) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (folders[1] / "summary.json").exists()


def test_chill_leaves_missing_predictions_out_and_names_them(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    (prediction / "b.nii.gz").unlink()
    write(prediction / "extra.nii.gz", label_map())
    assert run(reference, prediction, "--chill") == 0
    error = capsys.readouterr().err
    assert "1 case(s) without a prediction, so not scored: b" in error
    assert "1 case(s) predicted, but without a reference, so not scored: extra" in error
    assert len(read_summary(prediction / "summary.json")["metric_per_case"]) == 2


def wrong_shape(path: Path) -> None:
    write(path, label_map(shape=(12, 14, 17)))


def wrong_spacing(path: Path) -> None:
    write(path, label_map(), spacing=(1.0, 1.0, 2.0))


def unreadable(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def unknown_label(path: Path) -> None:
    labels = label_map()
    labels[0, 0, :3] = 7
    write(path, labels)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_shape, "shape (12, 14, 17) instead of (12, 14, 16)"),
        (wrong_spacing, "spacing (1, 1, 2) instead of (1, 1, 1) mm"),
        (unreadable, "b.nii.gz"),
        (unknown_label, "has label values that are not in"),
    ],
)
def test_a_broken_case_is_listed_and_the_others_are_scored(
    folders: tuple[Path, Path], spoil: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    spoil(prediction / "b.nii.gz")
    assert run(reference, prediction) == 2
    error = capsys.readouterr().err
    assert "1 of 3 cases cannot be used (evaluation):" in error
    assert "case 'b'" in error
    assert message in error
    assert "Traceback" not in error
    assert [row["case"] for row in rows_of(prediction / "metrics.csv")] == ["a", "a", "c", "c"]


def test_unknown_label_is_named_with_its_number_of_voxels(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    unknown_label(folders[1] / "b.nii.gz")
    assert run(*folders) == 2
    assert "7 (3 voxels); known are 0, 1, 2" in capsys.readouterr().err


def test_prediction_that_lies_elsewhere_is_scored_with_a_warning(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    write(prediction / "a.nii.gz", label_map(), origin=40.0)
    assert run(reference, prediction) == 0
    error = capsys.readouterr().err
    assert error.count("lies elsewhere in space") == 1
    assert "origin (40, 0, 0) instead of (0, 0, 0)" in error


def test_all_cases_broken_is_one_list_and_nothing_is_written(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    for case in "abc":
        wrong_shape(prediction / f"{case}.nii.gz")
    assert run(reference, prediction) == 2
    assert "3 of 3 cases" in capsys.readouterr().err
    assert not (prediction / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tolerance", "wide"], "--tolerance wide: expected a length in mm"),
        (["--tolerance", "-1"], "expected"),
        (["--tolerance", "livr=2"], "Did you mean 'liver'?"),
        (["-djfile", "nowhere.json"], "nowhere.json does not exist"),
        (["-l", "1", "-il", "1"], "label 1 is both to be scored (-l) and to be ignored (-il)"),
        (["--compare", "nowhere"], "nowhere does not exist"),
    ],
)
def test_options_that_make_no_sense_are_one_message(
    folders: tuple[Path, Path], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    try:
        code = run(*folders, *arguments)
    except SystemExit as stop:  # refused by the parser
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_output_that_cannot_be_written_is_said_before_the_work(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    assert run(*folders, "-o", tmp_path / "file" / "out") == 2
    captured = capsys.readouterr()
    assert "cannot be written to" in captured.err
    assert captured.out == ""


def test_a_file_against_a_folder_is_one_message(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    assert run(folders[0] / "a.nii.gz", folders[1]) == 2
    assert "Give two folders, or two files" in capsys.readouterr().err


def test_a_second_prediction_that_cannot_be_scored_at_all_is_listed(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for case in "abc":
        wrong_shape(tmp_path / "other" / f"{case}.nii.gz")
    assert run(*folders, "--compare", tmp_path / "other") == 2
    assert "3 of 3 cases cannot be used" in capsys.readouterr().err
