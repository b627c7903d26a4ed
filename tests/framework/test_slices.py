"""Which slices of a case are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from framework.evaluation.slices import count_slices


def test_counts_dice_and_labels_are_those_of_counting_voxel_by_voxel() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = (rng.integers(0, 4, (5, 6, 7)) * (rng.random((5, 6, 7)) < 0.3) for _ in range(2))
    reference[2], prediction[2] = 0, 0
    counts = count_slices(reference, prediction, [1, 3, (1, 2), 9])
    for axis in range(3):
        others = tuple(each for each in range(3) if each != axis)
        np.testing.assert_array_equal(counts.foreground[axis], ((reference > 0) | (prediction > 0)).sum(others))
        np.testing.assert_array_equal(counts.differing[axis], (reference != prediction).sum(others))
    for key in (1, 3, (1, 2)):
        a, b = np.isin(reference, key), np.isin(prediction, key)
        assert counts.dice[key] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert math.isnan(counts.dice[9])
    assert counts.present == {1, 2, 3}


def test_middle_and_worst_slices() -> None:
    reference, prediction = np.zeros((10, 4, 4), int), np.zeros((10, 4, 4), int)
    reference[2:7, 1:3, 1:3] = 1
    prediction[:] = reference
    counts = count_slices(reference, prediction, [1])
    assert counts.middle(0) == 4
    assert counts.worst(0, 2) == [2, 3]  # nothing differs: equally much foreground, the first ones
    prediction[6] = 0  # four voxels
    prediction[9, 0, 0] = 1  # one, and far from the rest
    counts = count_slices(reference, prediction, [1])
    assert counts.middle(0) == 4
    assert counts.worst(0, 5) == [6, 9]
    assert counts.differing[0].tolist() == [0, 0, 0, 0, 0, 0, 4, 0, 0, 1]


def test_without_a_reference_the_worst_slice_is_the_largest_one() -> None:
    prediction = np.zeros((4, 5, 6), int)
    prediction[1, 1, 1], prediction[2, 1:4, 1:4] = 1, 2
    counts = count_slices(None, prediction, [1, 2])
    assert counts.worst(0, 4) == [2, 1]
    assert counts.dice == {}


def test_voxels_to_be_ignored_count_for_nothing() -> None:
    reference, prediction = np.full((2, 3, 4), 2), np.ones((2, 3, 4), int)
    reference[1, 0, 0] = 1
    counts = count_slices(reference, prediction, [1], ignore_label=2)
    assert counts.foreground[0].tolist() == [0, 1]
    assert not counts.differing[0].any()
    assert counts.dice == {1: 1.0}


def test_nothing_labelled_has_a_middle_but_no_worst_slice() -> None:
    counts = count_slices(None, np.zeros((9, 4, 4)), [1])
    assert counts.middle(0) == 4
    assert counts.worst(0) == []
