"""``fw_select`` on made-up cross-validations, against what the real nnU-Net found on the same ones."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framework.commands.select import main
from framework.data.image_io import read_segmentation, write_segmentation
from framework.evaluation.summary import read_summary
from framework.selection.selection import Candidate, best_candidate
from tests.framework.selection.conftest import copied
from tests.interop.compare_selection import GOLDEN, outcome_of
from tests.interop.selection_cases import CROSS_VALIDATIONS, GEOMETRY, PLAIN

FOLDS = "crossval_results_folds_0_1_2_3_4"
MODEL_2D, MODEL_3D = "nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.mark.parametrize("name", list(CROSS_VALIDATIONS))
def test_choice_is_that_of_nnunet(
    name: str, written_cross_validations: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = copied(name, written_cross_validations, tmp_path, monkeypatch)
    assert main(["321", "-np", "1"]) == 0
    theirs = json.loads(GOLDEN.read_text())[name]
    ours = outcome_of(results)
    assert ours["winner"] == theirs["winner"]
    assert ours["steps"] == theirs["steps"]
    assert ours["before"] == pytest.approx(theirs["before"], abs=1e-12)
    assert ours["after"] == pytest.approx(theirs["after"], abs=1e-12)
    assert ours["all_results"] == pytest.approx(theirs["all_results"], abs=1e-12)


def test_everything_is_written_where_nnunet_writes_it(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["321", "-np", "2"]) == 0
    ensemble = plain / "ensembles" / f"ensemble___{MODEL_2D}___{MODEL_3D}___0_1_2_3_4"
    for folder in (plain / MODEL_2D / FOLDS, plain / MODEL_3D / FOLDS, ensemble):
        assert len(list(folder.glob("*.nii.gz"))) == PLAIN.num_cases
        assert len(read_summary(folder / "summary.json")["metric_per_case"]) == PLAIN.num_cases
        assert (folder / "dataset.json").is_file()
        assert (folder / "plans.json").is_file()
    assert (ensemble / "postprocessing.pkl").is_file()
    assert len(read_summary(ensemble / "postprocessed" / "summary.json")["metric_per_case"]) == PLAIN.num_cases
    text = (plain / "inference_instructions.txt").read_text()
    assert text.strip() in capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith("fw_")]
    assert [line.split()[0] for line in lines] == ["fw_predict", "fw_predict", "fw_ensemble", "fw_postprocess"]
    assert all(line.endswith("--save_probabilities") for line in lines[:2])
    assert "* 2d + 3d_fullres" in text
    information = json.loads((plain / "inference_information.json").read_text())
    assert information["folds"] == [0, 1, 2, 3, 4]
    assert Path(information["best_model_or_ensemble"]["postprocessing_file"]).is_file()
    assert Path(information["best_model_or_ensemble"]["some_plans_file"]).is_file()


def test_cascade_is_told_with_its_previous_stage(
    written_cross_validations: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = copied("cascade", written_cross_validations, tmp_path, monkeypatch)
    assert main(["321", "--disable_ensembling", "-np", "1"]) == 0
    lines = [line for line in (results / "inference_instructions.txt").read_text().splitlines() if line[:3] == "fw_"]
    assert " -c 3d_lowres " in lines[0]
    assert "-o OUTPUT_FOLDER_3d_lowres" in lines[0]
    assert " -c 3d_cascade_fullres " in lines[1]
    assert lines[1].endswith("-prev_stage_predictions OUTPUT_FOLDER_3d_lowres")
    assert not any("--save_probabilities" in line for line in lines)


def test_configuration_without_probabilities_is_named_and_still_compared(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (plain / MODEL_2D / "fold_3").rglob("*.npz"):
        file.unlink()
    assert main(["321", "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{MODEL_2D} is in no ensemble: 2 of 10 validation cases have no probabilities" in out
    assert f"fw_train {PLAIN.name} 2d 3 -tr nnUNetTrainer -p nnUNetPlans --val --npz" in out
    information = json.loads((plain / "inference_information.json").read_text())
    assert list(information["all_results"]) == [MODEL_2D, MODEL_3D]


def test_scores_of_the_folds_are_used_and_outdated_ones_are_not(plain: Path) -> None:
    # A score that only summary.json knows proves where it came from.
    summaries = sorted((plain / MODEL_2D).glob("fold_*/validation/summary.json"))
    for path in summaries:
        content = json.loads(path.read_text())
        for entry in content["metric_per_case"]:
            for metrics in entry["metrics"].values():
                metrics["Dice"] = 0.25
        path.write_text(json.dumps(content))
        newest = max(file.stat().st_mtime for file in path.parent.iterdir()) + 1
        os.utime(path, (newest, newest))
    changed = next((plain / MODEL_2D / "fold_0" / "validation").glob("*.nii.gz"))
    os.utime(changed, (time.time() + 60, time.time() + 60))
    assert main(["321", "--disable_ensembling", "-np", "1"]) == 0
    scores = {
        Path(entry["prediction_file"]).name: entry["metrics"][1]["Dice"]
        for entry in read_summary(plain / MODEL_2D / FOLDS / "summary.json")["metric_per_case"]
    }
    assert scores.pop(changed.name) > 0.5
    assert set(scores.values()) == {0.25}


def test_second_run_takes_up_changed_predictions(plain: Path) -> None:
    assert main(["321", "--disable_ensembling", "-np", "1"]) == 0
    prediction = next((plain / MODEL_3D / "fold_0" / "validation").glob("*.nii.gz"))
    copy = plain / MODEL_3D / FOLDS / prediction.name
    write_segmentation(np.zeros(PLAIN.shape, np.uint8), prediction, GEOMETRY)
    stray = copy.with_name("of_an_earlier_run.nii.gz")
    shutil.copy(copy, stray)
    assert main(["321", "--disable_ensembling", "-np", "1"]) == 0
    assert not read_segmentation(copy)[0].any()
    assert not stray.exists()


def test_existing_ensembles_are_kept_if_asked_for(plain: Path) -> None:
    assert main(["321", "-np", "1"]) == 0
    [folder] = (plain / "ensembles").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.nii.gz")}
    first = sorted(before)[0]
    (folder / first).unlink()
    assert main(["321", "--no_overwrite", "-np", "1"]) == 0
    after = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.nii.gz")}
    assert {name for name in before if before[name] != after[name]} == {first}


def without_a_fold(results: Path) -> None:
    shutil.rmtree(results / MODEL_2D / "fold_3")


def without_a_case(results: Path) -> None:
    next((results / MODEL_2D / "fold_1" / "validation").glob("*.nii.gz")).unlink()


def with_a_case_twice(results: Path) -> None:
    case = next((results / MODEL_2D / "fold_1" / "validation").glob("*.nii.gz"))
    shutil.copy(case, results / MODEL_2D / "fold_2" / "validation")


def of_another_dataset(results: Path) -> None:
    path = results / MODEL_2D / "plans.json"
    path.write_text(path.read_text().replace(PLAIN.name, "Dataset999_Other"))


def with_other_labels(results: Path) -> None:
    path = results / MODEL_2D / "dataset.json"
    path.write_text(path.read_text().replace("middle", "centre"))


def without_splits(results: Path) -> None:
    (results.parents[1] / "preprocessed" / PLAIN.name / "splits_final.json").unlink()


def with_overlapping_folds(results: Path) -> None:
    path = results.parents[1] / "preprocessed" / PLAIN.name / "splits_final.json"
    splits = json.loads(path.read_text())
    splits[1]["val"].append(splits[0]["val"][0])
    path.write_text(json.dumps(splits))


def with_probabilities_of_another_shape(results: Path) -> None:
    file = next((results / MODEL_2D / "fold_1" / "validation").glob("*.npz"))
    np.savez_compressed(file, probabilities=np.zeros((4, 5, 6, 7), np.float32))


def with_an_unknown_label(results: Path) -> None:
    file = next((results / MODEL_3D / "fold_1" / "validation").glob("*.nii.gz"))
    label_map, properties = read_segmentation(file)
    label_map[0, 0, 0, 0] = 9
    write_segmentation(label_map[0], file, properties)


def without_references(results: Path) -> None:
    root = results.parents[1]
    for folder in (root / "raw" / PLAIN.name / "labelsTr", root / "preprocessed" / PLAIN.name / "gt_segmentations"):
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without_a_fold, f"fold 3 is missing (*). Run: fw_train {PLAIN.name} 2d 3 -tr nnUNetTrainer -p nnUNetPlans"),
        (without_a_case, "fold 1 lacks the prediction of 1 of its 2 cases: case_*--val"),
        (with_a_case_twice, "fold 2 has predictions of cases that it does not validate on: case_* (of fold 1)"),
        (of_another_dataset, "its plans.json is of Dataset999_Other"),
        (with_other_labels, "belong to different datasets: labels"),
        (without_splits, "splits_final.json does not exist"),
        (with_overlapping_folds, "validated in more than one fold: case_* (folds 0 and 1)"),
        (with_probabilities_of_another_shape, "2d/fold_1/validation/case_*npz has (5, 6, 7)"),
        (with_an_unknown_label, "has label values that dataset.json does not name: 9 (1 voxels)"),
        (without_references, "the label images of 10 case(s) are neither in"),
    ],
)
def test_what_is_wrong_is_told_in_one_message(
    harm: Callable[[Path], None], message: str, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(plain)
    assert main(["321", "-c", "2d", "3d_fullres", "-np", "1"]) == 2
    error = capsys.readouterr().err
    position = 0
    for part in message.split("*"):
        assert part in error[position:], error
        position = error.index(part, position) + len(part)
    assert error.count("error:") == 1
    assert "Traceback" not in error


def test_incomplete_configuration_that_nobody_named_is_left_out(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_a_fold(plain)
    assert main(["321", "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert f"left out: {MODEL_2D}:" in out
    assert "fold 3 is missing" in out
    assert main(["321", "-f", "0", "1", "-np", "1"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert (plain / MODEL_2D / "crossval_results_folds_0_1" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "3d_fulres"], "trained configuration '3d_fulres' is not known. Did you mean '3d_fullres'?"),
        (["-p", "laptop"], "trained plans 'laptop' is not known"),
        (["-tr", "Other"], "trained trainer 'Other' is not known"),
    ],
)
def test_unknown_names_list_the_known_ones(
    options: list[str], message: str, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["321", *options]) == 2
    assert message in capsys.readouterr().err


def test_nothing_trained_says_how_to_begin(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(plain)
    assert main(["321"]) == 2
    assert f"fw_train {PLAIN.name} 3d_fullres 0" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_one_message(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plain / MODEL_2D / FOLDS).write_text("a file where the folder should be")
    assert main(["321", "-np", "1"]) == 2
    error = capsys.readouterr().err
    assert f"{plain / MODEL_2D / FOLDS}" in error
    assert "could not be written" in error
    assert error.count("\n") == 1


def test_label_that_nobody_has_does_not_hide_the_best() -> None:
    def candidate(name: str, *dice: float) -> Candidate:
        mean = {key: {"Dice": value} for key, value in enumerate(dice, start=1)}
        foreground = sum(dice) / len(dice)
        return Candidate(name, (), Path(), {"mean": mean, "foreground_mean": {"Dice": foreground}})

    # Label 2 is in no reference: "b" never predicts it, "a" does in one case.
    a, b = candidate("a", 0.8, 0.0), candidate("b", 0.7, math.nan)
    assert best_candidate([a, b]) is a
    assert best_candidate([candidate("first", 0.8, 0.6), candidate("second", 0.6, 0.8)]).name == "first"
