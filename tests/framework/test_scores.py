"""All scores of a label map, and the table of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from framework.errors import FoldwiseError
from framework.evaluation import overlap
from framework.evaluation.metrics_table import write_metrics_table
from framework.evaluation.overlap import score_case
from framework.evaluation.scores import SCORE_NAMES, score_volumes
from framework.evaluation.surface_distances import surface_distances


def cube(label: int, start: int, stop: int, size: int = 20) -> np.ndarray:
    labels = np.zeros((size, size, size), np.int8)
    labels[5:15, 5:15, start:stop] = label
    return labels


def test_shares_volumes_and_distances_of_two_boxes_are_those_worked_out_by_hand():
    # 10x10x10 voxels of 2x1x0.5 mm = 1 mm3 against the same moved by two voxels of 0.5 mm
    scores = score_volumes(cube(1, 5, 15), cube(1, 7, 17), [1], (2, 1, 0.5))[1]
    assert set(scores) == set(SCORE_NAMES)
    assert scores["Dice"] == pytest.approx(0.8)
    assert scores["IoU"] == pytest.approx(800 / 1200)
    assert scores["precision"] == scores["recall"] == pytest.approx(0.8)
    assert scores["reference_ml"] == scores["predicted_ml"] == pytest.approx(1.0)
    assert scores["difference_ml"] == 0
    assert scores["HD"] == scores["HD95"] == pytest.approx(1.0)
    assert scores["NSD"] == 1
    assert (scores["TP"], scores["FP"], scores["FN"], scores["TN"]) == (800, 200, 200, 8000 - 1200)


def test_volume_difference_is_predicted_minus_reference_and_precision_is_not_recall():
    scores = score_volumes(cube(1, 5, 15), cube(1, 5, 10), [1], (1, 1, 1))[1]
    assert scores["difference_ml"] == pytest.approx(-0.5)
    assert scores["precision"] == 1
    assert scores["recall"] == pytest.approx(0.5)


def test_a_box_round_the_label_gives_the_scores_of_the_whole_volume():
    reference, prediction = cube(2, 0, 12), cube(2, 3, 20)
    prediction[0, 0, 0] = 2
    scores = score_volumes(reference[None], prediction[None], [2], (1, 2, 3))[2]
    whole = surface_distances(reference == 2, prediction == 2, (1, 2, 3))
    assert scores["HD"] == whole.hausdorff()
    assert scores["ASSD"] == pytest.approx(whole.average(), rel=1e-12)
    assert scores["NSD"] == pytest.approx(whole.surface_dice(1), rel=1e-12)


def test_a_region_is_scored_as_the_union_of_its_labels():
    reference, prediction = cube(1, 5, 10) + cube(2, 10, 15), cube(2, 5, 11) + cube(1, 11, 15)
    scores = score_volumes(reference, prediction, [(1, 2), 1], (1, 1, 1))
    assert scores[1, 2]["Dice"] == 1
    assert scores[1, 2]["HD"] == 0
    assert scores[1]["Dice"] == 0


def test_tolerances_may_differ_between_labels():
    reference, prediction = cube(1, 2, 6) + cube(2, 10, 15), cube(1, 4, 8) + cube(2, 12, 17)
    scores = score_volumes(reference, prediction, [1, 2], (1, 1, 1), tolerance_mm={1: 1.0, 2: 2.0})
    assert scores[1]["NSD"] < 1 == scores[2]["NSD"]
    assert (scores[1]["tolerance_mm"], scores[2]["tolerance_mm"]) == (1, 2)


def test_empty_label_maps_score_as_documented():
    something, nothing = cube(1, 5, 15), np.zeros((20, 20, 20), np.int8)
    missed = score_volumes(something, nothing, [1], (1, 1, 1))[1]
    invented = score_volumes(nothing, something, [1], (1, 1, 1))[1]
    for scores in (missed, invented):
        assert scores["Dice"] == scores["IoU"] == scores["NSD"] == 0
        assert scores["HD95"] == scores["HD"] == scores["ASSD"] == math.inf
    assert math.isnan(missed["precision"])
    assert missed["recall"] == 0
    assert math.isnan(invented["recall"])
    assert invented["precision"] == 0
    absent = score_volumes(nothing, nothing, [1], (1, 1, 1))[1]
    undefined = {name for name, value in absent.items() if math.isnan(value)}
    assert undefined == {"Dice", "IoU", "precision", "recall", "HD95", "HD", "ASSD", "NSD"}
    assert absent["reference_ml"] == absent["difference_ml"] == 0


def test_ignored_voxels_count_in_no_score():
    reference = cube(1, 5, 10)
    reference[5:15, 5:15, 10:] = 3
    exact, beyond = cube(1, 5, 10), cube(1, 5, 18)
    for prediction in (exact, beyond):
        scores = score_volumes(reference, prediction, [1], (1, 1, 1), ignore_label=3)[1]
        assert scores["Dice"] == scores["NSD"] == 1
        assert scores["HD"] == 0
        assert scores["predicted_ml"] == pytest.approx(0.5)
    assert score_volumes(reference, beyond, [1], (1, 1, 1))[1]["Dice"] < 1


def test_one_slice_is_scored_in_two_dimensions_whatever_its_thickness():
    reference, prediction = cube(1, 5, 15)[7:8], cube(1, 7, 17)[7:8]
    thin, thick = (score_volumes(reference, prediction, [1], (depth, 1, 1))[1] for depth in (0.1, 30))
    assert thin["HD95"] == thick["HD95"] == 2
    assert thin["ASSD"] == thick["ASSD"]
    assert thick["reference_ml"] == pytest.approx(3.0)
    # A photograph has no thickness: nnU-Net gives it a symbolic one of 999 pixels.
    assert math.isnan(score_volumes(reference, prediction, [1], (999, 1, 1))[1]["reference_ml"])


def test_surface_can_be_left_out():
    scores = score_volumes(cube(1, 5, 15), cube(1, 5, 15), [1], (1, 1, 1), surface=False)[1]
    assert "HD95" not in scores
    assert scores["Dice"] == 1


@pytest.mark.parametrize("stray", [65535, -1])
def test_counts_do_not_depend_on_stray_values_or_on_the_number_of_voxels_at_once(
    stray: int, monkeypatch: pytest.MonkeyPatch
):
    generator = np.random.default_rng(0)
    reference, prediction = generator.integers(0, 4, (2, 9, 8, 7))
    expected = score_case(prediction, reference, [1, (2, 3)])
    monkeypatch.setattr(overlap, "_VOXELS_AT_ONCE", 50)
    assert score_case(prediction, reference, [1, (2, 3)]) == expected
    # A value that nobody asked for is background of every label, like 0.
    assert score_case(np.where(prediction == 0, stray, prediction), reference, [1, (2, 3)]) == expected


def test_table_has_a_line_for_each_case_and_label_with_units(tmp_path: Path):
    scores = score_volumes(cube(1, 5, 15), cube(1, 7, 17), [1, (1, 2), 2], (1, 1, 1))
    missed = score_volumes(cube(1, 5, 15), cube(2, 5, 15), [1, (1, 2), 2], (1, 1, 1))
    names = {1: "liver, left", (1, 2): "whole", 2: ""}
    write_metrics_table(tmp_path / "metrics.csv", {"a": scores, "b": missed}, names)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"], row["name"]) for row in rows] == [
        ("a", "1", "liver, left"), ("a", "1+2", "whole"), ("a", "2", ""),
        ("b", "1", "liver, left"), ("b", "1+2", "whole"), ("b", "2", ""),
    ]  # fmt: skip
    assert float(rows[0]["Dice"]) == pytest.approx(0.8)
    assert rows[0]["HD95 (mm)"] == "2"
    assert rows[0]["reference volume (ml)"] == "1"
    assert rows[2]["Dice"] == rows[2]["HD95 (mm)"] == ""
    assert rows[3]["HD95 (mm)"] == "inf"
    assert rows[3]["TP (voxels)"] == "0"


def test_table_that_cannot_be_written_is_one_message(tmp_path: Path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(FoldwiseError, match=r"metrics\.csv could not be written"):
        write_metrics_table(tmp_path / "metrics.csv", {}, {})
