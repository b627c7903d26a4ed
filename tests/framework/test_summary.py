"""Scores of label images, and nnU-Net's summary.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from framework.data.image_io import write_segmentation
from framework.errors import CaseError, DatasetError
from framework.evaluation.overlap import score_case
from framework.evaluation.summary import read_summary, summarise, write_summary
from tests.builders import summary_of_folders

GEOMETRY = {
    "spacing": [1.0, 1.0, 1.0],
    "sitk_stuff": {
        "spacing": (1.0, 1.0, 1.0),
        "origin": (0.0, 0.0, 0.0),
        "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    },
}


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_counts_equal_counting_by_hand(ignore_label: int | None) -> None:
    generator = np.random.default_rng(0)
    reference = generator.integers(0, 4, (1, 6, 7, 8))
    prediction = generator.integers(0, 3, (1, 6, 7, 8))
    keys = [1, 2, (1, 2), (2, 7)]
    scores = score_case(prediction, reference, keys, ignore_label)
    valid = reference != 3 if ignore_label else np.ones(reference.shape, bool)
    for key in keys:
        members = key if isinstance(key, tuple) else (key,)
        predicted, wanted = np.isin(prediction, members), np.isin(reference, members)
        tp, fp = (predicted & wanted & valid).sum(), (predicted & ~wanted & valid).sum()
        fn, tn = (~predicted & wanted & valid).sum(), (~predicted & ~wanted & valid).sum()
        assert scores[key] == {
            "Dice": pytest.approx(2 * tp / (2 * tp + fp + fn)),
            "IoU": pytest.approx(tp / (tp + fp + fn)),
            "TP": tp,
            "FP": fp,
            "FN": fn,
            "TN": tn,
            "n_pred": tp + fp,
            "n_ref": tp + fn,
        }


def test_label_in_neither_map_has_no_score() -> None:
    empty = np.zeros((1, 2, 2, 2), int)
    score = score_case(empty, empty, [5])[5]
    assert math.isnan(score["Dice"])
    assert math.isnan(score["IoU"])
    assert score["TN"] == 8


def test_means_follow_the_rules_of_nnunet() -> None:
    def entry(dice_of_1: float, dice_of_2: float) -> dict[str, object]:
        return {"metrics": {1: {"Dice": dice_of_1}, 2: {"Dice": dice_of_2}}}

    summary = summarise([entry(0.5, math.nan), entry(0.7, 0.4)])
    assert summary["mean"][1]["Dice"] == pytest.approx(0.6)
    assert summary["mean"][2]["Dice"] == pytest.approx(0.4)
    assert summary["foreground_mean"]["Dice"] == pytest.approx(0.5)
    never = summarise([entry(0.5, math.nan)])
    assert math.isnan(never["mean"][2]["Dice"])
    assert math.isnan(never["foreground_mean"]["Dice"])


def test_means_of_the_reference_summary_are_reproduced(shared_data: Path, tmp_path: Path) -> None:
    folder = next((shared_data / "nnunet_reference" / "results").glob("*/*__3d_cpu"))
    path = folder / "fold_0" / "validation" / "summary.json"
    theirs = read_summary(path)
    ours = summarise(theirs["metric_per_case"])
    for name, value in theirs["foreground_mean"].items():
        assert ours["foreground_mean"][name] == pytest.approx(value, rel=1e-12)
    for key, metrics in theirs["mean"].items():
        assert ours["mean"][key] == pytest.approx(metrics, rel=1e-12)
    # The same content is written with the same bytes, up to the order of additions in the means.
    write_summary(theirs, tmp_path / "summary.json")
    assert (tmp_path / "summary.json").read_text() == path.read_text()


def test_reference_predictions_get_the_scores_of_nnunet(shared_data: Path) -> None:
    reference = shared_data / "nnunet_reference"
    folder = next((reference / "results").glob("*/*__3d_cpu"))
    theirs = read_summary(folder / "fold_0" / "validation" / "summary.json")
    by_name = {Path(case["prediction_file"]).name: case["metrics"] for case in theirs["metric_per_case"]}
    ours = summary_of_folders(
        shared_data / "Dataset004_Hippocampus" / "labelsTr", reference / "predicted_with_mirroring", [1, 2]
    )
    compared = 0
    for case in ours["metric_per_case"]:
        golden = by_name.get(Path(case["prediction_file"]).name)
        if golden is not None:
            compared += 1
            for label in (1, 2):
                # The validation ran with other rounding; single voxels may differ.
                assert case["metrics"][label]["Dice"] == pytest.approx(golden[label]["Dice"], abs=2e-3)
                assert case["metrics"][label]["n_ref"] == golden[label]["n_ref"]
    assert compared >= 1


def test_folder_is_scored_in_order_and_written_like_nnunet(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    for name in ("b", "a"):
        for folder in ("references", "predictions"):
            labels = generator.integers(0, 3, (3, 4, 5)).astype(np.uint8)
            write_segmentation(labels, tmp_path / folder / f"{name}.nii.gz", GEOMETRY)
    summary = summary_of_folders(tmp_path / "references", tmp_path / "predictions", [1, (1, 2), (7,)])
    write_summary(summary, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    written = json.loads(text)
    # nobody has label 7: null, where nnU-Net writes NaN
    assert written["mean"]["(7,)"]["Dice"] is None
    assert written["foreground_mean"]["Dice"] is None
    assert list(written) == ["foreground_mean", "mean", "metric_per_case"]
    assert set(written["mean"]) == {"1", "(1, 2)", "(7,)"}
    files = [Path(case["prediction_file"]).name for case in written["metric_per_case"]]
    assert files == ["a.nii.gz", "b.nii.gz"]
    assert set(read_summary(tmp_path / "summary.json")["mean"]) == {1, (1, 2), (7,)}


def test_summaries_with_null_and_with_nan_are_read_alike(tmp_path: Path) -> None:
    texts = {"ours": "null", "theirs": "NaN"}
    for name, undefined in texts.items():
        (tmp_path / name).write_text(
            '{"foreground_mean": {"Dice": UNDEFINED}, "mean": {"1": {"Dice": 0.5}, "(1, 2)": {"Dice": UNDEFINED}}, '
            '"metric_per_case": [{"metrics": {"1": {"Dice": UNDEFINED}}}]}'.replace("UNDEFINED", undefined)
        )
        summary = read_summary(tmp_path / name)
        assert math.isnan(summary["foreground_mean"]["Dice"])
        assert math.isnan(summary["mean"][1, 2]["Dice"])
        assert math.isnan(summary["metric_per_case"][0]["metrics"][1]["Dice"])
        assert summary["mean"][1]["Dice"] == 0.5


@pytest.mark.parametrize("text", ["[]", "{}", '{"foreground_mean": {}, "mean": {"liver": {}}, "metric_per_case": []}'])
def test_a_file_that_is_no_summary_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(DatasetError, match=r"summary\.json is no summary of scores"):
        read_summary(tmp_path / "summary.json")


def test_prediction_without_reference_is_named(tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    with pytest.raises(DatasetError, match=r"references holds no label images"):
        summary_of_folders(tmp_path / "references", tmp_path, [1])
    write_segmentation(np.zeros((2, 2, 2), np.uint8), tmp_path / "references" / "other.nii.gz", GEOMETRY)
    write_segmentation(np.zeros((2, 2, 2), np.uint8), tmp_path / "predictions" / "lost.nii.gz", GEOMETRY)
    with pytest.raises(DatasetError, match=r"Predicted: lost"):
        summary_of_folders(tmp_path / "references", tmp_path / "predictions", [1])


def test_prediction_on_another_grid_is_named(tmp_path: Path) -> None:
    write_segmentation(np.zeros((2, 2, 2), np.uint8), tmp_path / "references" / "case.nii.gz", GEOMETRY)
    write_segmentation(np.zeros((2, 2, 3), np.uint8), tmp_path / "predictions" / "case.nii.gz", GEOMETRY)
    with pytest.raises(CaseError, match=r"case 'case'.*shape"):
        summary_of_folders(tmp_path / "references", tmp_path / "predictions", [1])
