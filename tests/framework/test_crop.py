"""Cropping to the region with content."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from framework.preprocessing import crop
from framework.preprocessing.crop import crop_to_nonzero, fill_holes, nonzero_box


def _ball_with_hole() -> np.ndarray:
    """(1, 12, 14, 16): a ball of ones with a hole of zeros in its middle, and zeros around it."""
    distance = np.linalg.norm(np.indices((12, 14, 16)).T - np.array([6, 7, 8]), axis=-1).T
    return ((distance < 4.5) & (distance > 1.5)).astype(np.float32)[None]


def test_box_is_tight_and_half_open() -> None:
    data = np.zeros((2, 6, 7, 8), np.float32)
    data[0, 2, 3, 4] = 1
    data[1, 4, 3, 6] = -1  # any channel counts, and any sign
    assert nonzero_box(data)[0] == [[2, 5], [3, 4], [4, 7]]


def test_mask_equals_scipys_fill_holes() -> None:
    random = np.random.RandomState(0)
    for density in (0.05, 0.5, 0.8):
        data = (random.uniform(size=(1, 9, 10, 11)) < density).astype(np.float32)
        box, mask = nonzero_box(data)
        inside = tuple(slice(*ends) for ends in box)
        expected = ndimage.binary_fill_holes(data[0] != 0)[inside]
        assert np.array_equal(np.ones_like(expected) if mask is None else mask, expected)


def test_background_outside_becomes_minus_one_but_holes_and_labels_stay() -> None:
    data = _ball_with_hole()
    segmentation = np.zeros(data.shape, np.int16)
    segmentation[0, 2, 3, 4] = 5  # a label in a corner of the box, outside of the ball
    cropped, labels, box = crop_to_nonzero(data, segmentation)
    assert box == [[2, 11], [3, 12], [4, 13]]
    assert cropped.shape == labels.shape == (1, 9, 9, 9)
    assert labels[0, 0, 0, 0] == 5
    assert labels[0, 8, 8, 8] == -1
    assert labels[0, 4, 4, 4] == 0  # the hole
    assert segmentation.min() == 0  # the argument is not changed


def test_image_without_zeros_is_left_alone() -> None:
    data = np.ones((1, 4, 5, 6), np.float32)
    cropped, labels, box = crop_to_nonzero(data)
    assert box == [[0, 4], [0, 5], [0, 6]]
    assert cropped.shape == (1, 4, 5, 6)
    assert not labels.any()


def test_image_of_zeros_keeps_its_box_and_is_outside_everywhere() -> None:
    _, labels, box = crop_to_nonzero(np.zeros((1, 3, 4, 5), np.float32), np.zeros((1, 3, 4, 5), np.int16))
    assert box == [[0, 3], [0, 4], [0, 5]]
    assert (labels == -1).all()


@pytest.mark.parametrize("voxels_at_once", [100, 300, 10_000])
def test_holes_that_reach_over_several_slabs_are_filled(monkeypatch: pytest.MonkeyPatch, voxels_at_once: int) -> None:
    monkeypatch.setattr(crop, "_VOXELS_AT_ONCE", voxels_at_once)
    random = np.random.RandomState(0)
    for density in (0.3, 0.6, 0.7, 0.8):
        content = random.uniform(size=(13, 10, 11)) < density
        expected = ndimage.binary_fill_holes(content)
        fill_holes(content)
        assert np.array_equal(content, expected)
