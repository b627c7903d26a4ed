"""Two predictions of the same cases against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from framework.evaluation.case_pictures import worst_cases
from framework.evaluation.comparison import compare
from framework.evaluation.evaluate import Evaluation
from framework.evaluation.scored_labels import ScoredLabels
from tests.framework.evaluation.builders import label_map, rows_of, run, write


def evaluation(dice: list[float], hd95: list[float] | None = None) -> Evaluation:
    cases = {}
    for number, value in enumerate(dice):
        cases[f"case{number}"] = {1: {"Dice": value} | ({"HD95": hd95[number]} if hd95 else {})}
    return Evaluation(ScoredLabels({1: "liver"}), cases, {})


def test_worst_cases_have_the_lowest_dice_and_those_without_one_are_left_out():
    assert worst_cases(evaluation([0.9, np.nan, 0.2, 0.5]), 2) == [("case2", 0.2), ("case3", 0.5)]


def test_comparison_leaves_undefined_pairs_out_and_counts_them():
    first = evaluation([0.5, 0.6, np.nan, 0.7, 0.8, 0.5, 0.6, 0.4, 0.3])
    second = evaluation([0.6, 0.7, 0.9, np.nan, 0.9, 0.6, 0.7, 0.5, 0.4])
    (found,) = compare(first, second)
    assert (found.num_pairs, found.num_left_out) == (7, 2)
    assert found.value == pytest.approx(0.1)
    assert found.effect == 1
    # seven of seven in one direction, two-sided and exact: 2 / 2**7
    assert found.p == pytest.approx(2 / 128, abs=1e-3)
    assert found.better == "B"


def test_comparison_takes_the_smaller_distance_for_the_better_one():
    dice = [0.5] * 8
    first = evaluation(dice, [1, 2, 3, 4, 5, 6, 7, np.inf])
    second = evaluation(dice, [3, 5, 7, 9, 11, 13, 15, np.inf])
    overlap, distance = compare(first, second)
    assert overlap.better == ""
    assert overlap.p == 1
    assert distance.better == "A"
    # B is 2, 3, ..., 8 mm and, where both missed the label, nothing farther away
    assert distance.value == pytest.approx(4.5)


def test_comparison_of_two_folders_says_which_is_better(
    tmp_path: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    reference, prediction = folders
    other = tmp_path / "other"
    for number in range(9):
        write(reference / f"{number}.nii.gz", label_map())
        write(prediction / f"{number}.nii.gz", label_map(1 + number % 3))
        write(other / f"{number}.nii.gz", label_map(number % 2))
    for case in "abc":
        (reference / f"{case}.nii.gz").unlink()
        (prediction / f"{case}.nii.gz").unlink()
    assert run(reference, prediction, "--compare", other) == 0
    printed = capsys.readouterr().out
    assert "Dice, label 1 (liver): B is better (mean difference +" in printed
    assert "Holm's correction over 2 labels" in printed
    row = rows_of(prediction / "comparison.csv")[0]
    assert (row["score"], row["pairs"], row["better"]) == ("Dice", "9", "B")
    assert not (other / "summary.json").exists()
