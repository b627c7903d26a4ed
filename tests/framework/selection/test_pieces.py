"""Largest components, found through the pieces of a label map, against labelling every mask by itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from framework.selection.pieces import find_pieces


def keep_largest_by_labelling(label_map: np.ndarray, labels: list[int]) -> np.ndarray:
    """The plain way: one mask, labelled with all 26 neighbours."""
    mask = np.isin(label_map, labels)
    component, number = ndimage.label(mask, np.ones((3, 3, 3)))
    if number == 0:
        return label_map
    sizes = np.bincount(component.ravel())[1:]
    kept = np.flatnonzero(sizes == sizes.max()) + 1
    return np.where(mask & ~np.isin(component, kept), 0, label_map)


@pytest.mark.parametrize("seed", range(5))
def test_sequences_of_steps_equal_labelling_each_mask(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(60):
        shape = random.integers(1, 9, 3)
        label_map = (random.integers(0, 5, shape) * (random.random(shape) < random.random())).astype(np.uint8)
        expected, pieces = label_map, find_pieces(label_map)
        present = pieces.all_present()
        for _ in range(3):
            labels = [int(label) for label in random.choice([1, 2, 3, 4], random.integers(1, 4), replace=False)]
            expected = keep_largest_by_labelling(expected, labels)
            present = pieces.keep_largest(labels, present)
        np.testing.assert_array_equal(pieces.without_removed(label_map, present), expected)


def test_voxels_that_share_only_a_corner_are_connected() -> None:
    label_map = np.zeros((5, 5, 5), np.uint8)
    label_map[0, 0, 0] = label_map[1, 1, 1] = label_map[2, 2, 2] = 1
    label_map[4, 3:5, 4] = 1
    pieces = find_pieces(label_map)
    assert sorted(pieces.sizes) == [2, 3]
    kept = pieces.without_removed(label_map, pieces.keep_largest([1], pieces.all_present()))
    assert kept.sum() == 3
    assert kept[1, 1, 1] == 1


def test_components_of_equal_size_all_stay() -> None:
    label_map = np.zeros((1, 4, 9), np.uint8)
    label_map[0, 0, 0:2] = label_map[0, 3, 7:9] = 2
    label_map[0, 0, 5] = 2
    pieces = find_pieces(label_map)
    kept = pieces.without_removed(label_map, pieces.keep_largest([2], pieces.all_present()))
    assert kept.sum() == 8
    assert kept[0, 0, 5] == 0


def test_rows_do_not_touch_around_the_edge() -> None:
    # The last voxel of a row and the first of the next are neighbours in memory, not in space; so are the last row of a
    # slice and the first of the next.
    label_map = np.zeros((2, 3, 6), np.uint8)
    label_map[0, 0, 5] = label_map[0, 1, 0] = 1
    label_map[0, 2, 3] = label_map[1, 0, 3] = 1
    assert sorted(find_pieces(label_map).sizes) == [1, 1, 1, 1]


def test_empty_label_map_is_left_alone() -> None:
    label_map = np.zeros((2, 3, 4), np.uint8)
    pieces = find_pieces(label_map)
    assert len(pieces.labels) == 0
    assert pieces.without_removed(label_map, pieces.keep_largest([1], pieces.all_present())) is label_map
