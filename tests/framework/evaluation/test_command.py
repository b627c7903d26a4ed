"""``fw_evaluate``: its files, its table, and its pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.commands.evaluate import main as fw_evaluate
from framework.evaluation.summary import read_summary
from tests.framework.evaluation.builders import label_map, rows_of, run, write, write_dataset_json

NNUNET_FOREGROUND_MEAN = {
    "Dice": 0.8665026910468211,
    "FN": 253.9,
    "FP": 211.7,
    "IoU": 0.7653013563549338,
    "TN": 63401.2,
    "TP": 1508.6,
    "n_pred": 1720.3,
    "n_ref": 1762.5,
}
NNUNET_DICE_OF_1 = 0.8737653983515568


def test_folder_gets_summary_table_and_aggregates(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    reference, prediction = folders
    assert run(reference, prediction) == 0
    summary = read_summary(prediction / "summary.json")
    # 8x8x10 voxels of which 36 are tumour; shifted by 1 and 2 of 10 along the last axis
    dice = [case["metrics"][2]["Dice"] for case in summary["metric_per_case"]]
    assert dice == pytest.approx([1, 27 / 36, 18 / 36])
    assert summary["mean"][2]["Dice"] == pytest.approx(0.75)
    rows = rows_of(prediction / "metrics.csv")
    assert [(row["case"], row["name"]) for row in rows[:3]] == [("a", "liver"), ("a", "tumour"), ("b", "liver")]
    assert [float(row["HD95 (mm)"]) for row in rows[1::2]] == [0, 1, 2]
    assert [float(row["predicted volume (ml)"]) for row in rows[1::2]] == [0.036] * 3
    aggregated = {(row["name"], row["score"]): row for row in rows_of(prediction / "metrics_aggregated.csv")}
    assert float(aggregated["tumour", "Dice"]["value"]) == pytest.approx(0.75)
    assert float(aggregated["tumour", "HD95 (mm)"]["value"]) == 1
    assert aggregated["tumour", "HD95 (mm)"]["statistic"] == "median"
    assert float(aggregated["tumour", "Dice"]["95% low"]) <= 0.75 <= float(aggregated["tumour", "Dice"]["95% high"])
    printed = capsys.readouterr().out
    assert "2 tumour" in printed
    assert "0.7500" in printed
    assert "2000 resamples, seed 0" in printed


def test_summary_is_legal_json_and_has_exactly_the_keys_of_nnunet(folders: tuple[Path, Path]):
    reference, prediction = folders
    for folder in folders:
        write(folder / "d.nii.gz", np.zeros((12, 14, 16), np.uint8))
    assert run(reference, prediction) == 0

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((prediction / "summary.json").read_text(), parse_constant=refuse)
    assert list(summary) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(summary["mean"]["1"]) == ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"]
    last = summary["metric_per_case"][-1]
    assert set(last) == {"metrics", "prediction_file", "reference_file"}
    assert last["metrics"]["1"]["Dice"] is None
    assert last["prediction_file"] == str(prediction / "d.nii.gz")


def test_real_predictions_have_the_summary_that_nnunet_made_of_them(shared_data: Path, tmp_path: Path):
    predicted = shared_data / "nnunet_reference" / "predicted_with_mirroring"
    labels = shared_data / "Dataset004_Hippocampus" / "labelsTr"
    assert run(labels, predicted, "-djfile", predicted / "dataset.json", "--chill", "-o", tmp_path) == 0
    found = read_summary(tmp_path / "summary.json")
    # Printed by nnUNetv2_evaluate_folder 2.8.1 for the same five files.
    assert found["foreground_mean"] == NNUNET_FOREGROUND_MEAN
    assert found["mean"][1]["Dice"] == NNUNET_DICE_OF_1


def test_spelling_of_nnunet_is_understood(folders: tuple[Path, Path], tmp_path: Path):
    reference, prediction = folders
    dataset_json = shutil.move(prediction / "dataset.json", tmp_path / "other.json")
    by_file, by_labels = tmp_path / "by_file.json", tmp_path / "by_labels.json"
    assert run(reference, prediction, "-djfile", dataset_json, "-pfile", "plans.json", "-o", by_file) == 0
    assert run(reference, prediction, "-l", 1, 2, "-o", by_labels) == 0
    assert by_file.read_text() == by_labels.read_text()
    assert (tmp_path / "by_file_metrics.csv").is_file()
    assert not (prediction / "summary.json").exists()
    assert run(reference, prediction, "-l", 1, "-il", 2, "-o", by_labels) == 0
    # Liver with the tumour ignored: of 2 cases shifted by 1 and 2, tumour voxels of the reference count nowhere.
    assert read_summary(by_labels)["metric_per_case"][2]["metrics"][1]["n_ref"] == 640 - 36


def test_regions_and_ignore_label_of_dataset_json_are_scored(folders: tuple[Path, Path]):
    reference, prediction = folders
    regions = {"background": 0, "whole": [1, 2], "tumour": [2], "ignore": 3}
    write_dataset_json(prediction, regions, regions_class_order=[1, 2])
    unsure = label_map()
    unsure[2:10, 3:11, 12:14] = 3
    write(reference / "c.nii.gz", unsure)
    assert run(reference, prediction, "--tolerance", "whole=2", "2=0.5") == 0
    summary = read_summary(prediction / "summary.json")
    assert set(summary["mean"]) == {(1, 2), (2,)}
    whole = summary["metric_per_case"][2]["metrics"][1, 2]
    # Shifted by two into the ignored voxels: nothing is too much, two of ten layers are missing.
    assert (whole["FP"], whole["FN"], whole["TP"]) == (0, 128, 512)
    rows = rows_of(prediction / "metrics.csv")
    assert [(row["label"], row["NSD tolerance (mm)"]) for row in rows[:2]] == [("1+2", "2"), ("2", "0.5")]


def test_labels_come_from_the_references_where_nothing_names_them(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    (prediction / "dataset.json").unlink()
    assert run(reference, prediction) == 0
    assert set(read_summary(prediction / "summary.json")["mean"]) == {1, 2}
    assert "labels from the references" in capsys.readouterr().out


def test_two_files_are_compared_and_nothing_is_written_unless_asked(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    before = sorted(tmp_path.rglob("*"))
    # names need not be equal
    assert run(reference / "a.nii.gz", prediction / "b.nii.gz") == 0
    assert "1 case(s)" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert run(reference / "a.nii.gz", prediction / "b.nii.gz", "-o", tmp_path / "out") == 0
    assert (tmp_path / "out" / "metrics.csv").is_file()


def test_threads_give_the_same_files_as_one_alone(folders: tuple[Path, Path], tmp_path: Path):
    for number in (1, 3):
        arguments = [*map(str, folders), "-o", str(tmp_path / str(number)), "-np", str(number)]
        assert fw_evaluate(arguments) == 0
    for name in ("summary.json", "metrics.csv", "metrics_aggregated.csv"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "3" / name).read_text()


def test_overlap_only_leaves_distances_out(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    assert run(*folders, "--overlap-only") == 0
    assert "HD95 (mm)" not in rows_of(folders[1] / "metrics.csv")[0]
    assert "IoU" in capsys.readouterr().out


def test_worst_cases_are_drawn_with_and_without_scans(folders: tuple[Path, Path], tmp_path: Path):
    reference, prediction = folders
    assert run(reference, prediction, "--pictures", 2, "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == ["1_c.png", "2_b.png"]
    write(tmp_path / "images" / "c_0000.nii.gz", label_map() * 40)
    assert run(reference, prediction, "--pictures", 1, "--images", tmp_path / "images", "-o", tmp_path / "out") == 0


def test_a_scan_that_is_missing_is_named_and_the_labels_are_drawn(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert run(*folders, "--pictures", 1, "--images", tmp_path, "-o", out) == 0
    assert "case 'c' is drawn without its scan" in capsys.readouterr().err
    assert (out / "pictures" / "1_c.png").is_file()


def test_pictures_beside_predictions_do_not_confuse_the_file_ending(folders: tuple[Path, Path]):
    reference, prediction = folders
    (prediction / "dataset.json").unlink()
    (prediction / "a.png").write_bytes(b"a picture")
    assert run(reference, prediction) == 0


def test_the_documented_python_code_runs(folders: tuple[Path, Path], tmp_path: Path):
    page = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    *lines, last = code.strip().splitlines()
    shutil.move(folders[0], tmp_path / "labelsTs")
    shutil.move(folders[1] / "c.nii.gz", folders[1] / "case_01.nii.gz")
    shutil.move(tmp_path / "labelsTs" / "c.nii.gz", tmp_path / "labelsTs" / "case_01.nii.gz")
    shutil.move(folders[1], tmp_path / "predictions")
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)  # tests run in tmp_path
    assert eval(last, names) == 2
