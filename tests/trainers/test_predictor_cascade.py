"""Prediction with the second stage of a cascade."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from framework.errors import DatasetError, FoldwiseError
from framework.inference import Predictor
from framework.inference.prediction_report import FailedCases
from tests.framework.tiny_model import (
    SPACING,
    PreviousStage,
    labels_by_hand,
    make_model,
    make_scan,
    read_labels,
    write_image,
)


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """A second stage that exchanges labels 1 and 2 of the first, which is beside it."""
    make_model(tmp_path / "results", configuration="3d_lowres")
    return second_stage(tmp_path)


def second_stage(folder: Path) -> Path:
    return make_model(
        folder / "results",
        configuration="3d_cascade_fullres",
        previous_stage="3d_lowres",
        network=PreviousStage,
        folds={0: (8.0,)},
    )


def exchanged(labels: np.ndarray) -> np.ndarray:
    return np.array([0, 2, 1])[labels]


def silent(text: str) -> None:
    pass


def test_the_first_stage_is_predicted_first_where_nobody_gives_its_segmentations(cascade: Path, tmp_path: Path):
    scans = {name: make_scan(tmp_path / f"in/{name}_0000.nii.gz", seed) for seed, name in enumerate("ab")}
    said: list[str] = []
    predictor = Predictor(cascade, device="cpu")
    predictor.predict_files(tmp_path / "in", tmp_path / "out", report=said.append)
    for name, values in scans.items():
        first = labels_by_hand(values)
        np.testing.assert_array_equal(read_labels(tmp_path / f"out/predicted_3d_lowres/{name}.nii.gz"), first)
        np.testing.assert_array_equal(read_labels(tmp_path / f"out/{name}.nii.gz"), exchanged(first))
    assert any("'3d_cascade_fullres' starts from the segmentations of '3d_lowres'" in text for text in said)
    assert any(str(tmp_path / "out/predicted_3d_lowres") in text for text in said)


def test_segmentations_that_are_given_are_used(cascade: Path, tmp_path: Path):
    values = make_scan(tmp_path / "in/a_0000.nii.gz")
    given = np.random.default_rng(5).integers(0, 3, values.shape).astype(np.uint8)
    write_image(tmp_path / "previous/a.nii.gz", given)
    predictor = Predictor(cascade, device="cpu")
    predictor.predict_files(tmp_path / "in", tmp_path / "out", previous_stage=tmp_path / "previous", report=silent)
    np.testing.assert_array_equal(read_labels(tmp_path / "out/a.nii.gz"), exchanged(given))
    assert not (tmp_path / "out/predicted_3d_lowres").exists()


def test_arrays_take_the_previous_stage_as_an_array(cascade: Path):
    predictor = Predictor(cascade, device="cpu")
    values = np.random.default_rng(1).uniform(1, 30, (9, 12, 10)).astype(np.float32)
    given = np.random.default_rng(2).integers(0, 3, values.shape)
    labels = predictor.predict(values, SPACING, previous_stage=given)
    np.testing.assert_array_equal(labels, exchanged(given))
    # Without it the first stage is predicted too.
    np.testing.assert_array_equal(predictor.predict(values, SPACING), exchanged(labels_by_hand(values)))
    with pytest.raises(DatasetError, match=r"previous stage of shape \(1, 2, 2, 2\)"):
        predictor.predict(values, SPACING, previous_stage=np.zeros((2, 2, 2), int))


def test_segmentations_that_do_not_fit_or_are_missing_are_failures_of_their_cases(cascade: Path, tmp_path: Path):
    for seed, name in enumerate(("fits", "forbidden", "missing", "other_grid")):
        values = make_scan(tmp_path / f"in/{name}_0000.nii.gz", seed)
        write_image(tmp_path / f"previous/{name}.nii.gz", np.ones(values.shape, np.uint8))
    (tmp_path / "previous/missing.nii.gz").unlink()
    write_image(tmp_path / "previous/other_grid.nii.gz", np.ones((3, 3, 3), np.uint8))
    write_image(tmp_path / "previous/forbidden.nii.gz", np.full(values.shape, 9, np.uint8))
    predictor = Predictor(cascade, device="cpu")
    with pytest.raises(FailedCases) as failed:
        predictor.predict_files(tmp_path / "in", tmp_path / "out", previous_stage=tmp_path / "previous", report=silent)
    reasons = {failure.case: failure.message for failure in failed.value.report.failures}
    assert set(reasons) == {"forbidden", "missing", "other_grid"}
    assert "missing.nii.gz does not exist: what '3d_lowres' predicted is needed" in reasons["missing"]
    assert "does not lie on the grid" in reasons["other_grid"]
    assert "label values that dataset.json does not name: 9" in reasons["forbidden"]
    assert (read_labels(tmp_path / "out/fits.nii.gz") == 2).all()
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        predictor.predict_files(tmp_path / "in", tmp_path / "out", previous_stage=tmp_path / "nowhere", report=silent)


def test_segmentations_of_a_previous_stage_are_refused_by_a_model_that_has_none(cascade: Path, tmp_path: Path):
    values = make_scan(tmp_path / "in/a_0000.nii.gz")
    predictor = Predictor(cascade.with_name("SegmentationTrainer__nnUNetPlans__3d_lowres"), device="cpu")
    with pytest.raises(FoldwiseError, match="'3d_lowres' is no second stage of a cascade"):
        predictor.predict_files(tmp_path / "in", tmp_path / "out", previous_stage=tmp_path, report=silent)
    with pytest.raises(FoldwiseError, match="'3d_lowres' is no second stage of a cascade"):
        predictor.predict(values, SPACING, previous_stage=np.zeros(values.shape, int))


def test_a_case_that_fails_in_the_first_stage_is_told_once(cascade: Path, tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    (tmp_path / "in/torn_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(FailedCases) as failed:
        Predictor(cascade, device="cpu").predict_files(tmp_path / "in", tmp_path / "out", report=silent)
    (failure,) = failed.value.report.failures
    assert (failure.case, failure.step) == ("torn", "3d_lowres, reading")
    assert (tmp_path / "out/a.nii.gz").is_file()


def test_of_a_single_file_nothing_else_is_left(cascade: Path, tmp_path: Path):
    values = make_scan(tmp_path / "in/a_0000.nii.gz")
    target = tmp_path / "out/labels.nii.gz"
    Predictor(cascade, device="cpu").predict_files(tmp_path / "in/a_0000.nii.gz", target, report=silent)
    np.testing.assert_array_equal(read_labels(target), exchanged(labels_by_hand(values)))
    assert [path.name for path in target.parent.iterdir()] == ["labels.nii.gz"]


def test_a_first_stage_that_was_not_trained_is_told_with_what_to_do(tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    predictor = Predictor(second_stage(tmp_path), device="cpu")
    with pytest.raises(FoldwiseError) as told:
        predictor.predict_files(tmp_path / "in", tmp_path / "out", report=silent)
    assert "SegmentationTrainer__nnUNetPlans__3d_lowres does not exist" in str(told.value)
    assert "give the folder with -prev_stage_predictions" in str(told.value)
    make_model(tmp_path / "results", configuration="3d_lowres", folds={1: (10.0, 20.0)})
    with pytest.raises(FoldwiseError, match=r"not found: .*3d_lowres/fold_0"):
        predictor.predict_files(tmp_path / "in", tmp_path / "out", report=silent)
