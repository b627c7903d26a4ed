"""Simulated mistakes of a previous stage, against binary morphology with an explicit ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from framework.data.previous_stage_errors import (
    LARGEST_REMOVED,
    OPERATIONS,
    StageErrors,
    apply_stage_errors,
    draw_stage_errors,
)


def blobs(*shape: int, seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 0.8)


def ball(radius: float, num_axes: int) -> np.ndarray:
    reach = int(radius)
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * num_axes, indexing="ij"))
    return (grid**2).sum(0) <= radius**2


@pytest.mark.parametrize("shape", [(18, 22, 20), (30, 28)])
@pytest.mark.parametrize("radius", [1.0, 2.5, 4.0])
def test_operations_are_those_of_binary_morphology_with_a_ball(shape: tuple[int, ...], radius: float) -> None:
    mask, structure = blobs(*shape), ball(radius, len(shape))

    def dilate(array: np.ndarray) -> np.ndarray:
        return ndimage.binary_dilation(array, structure)

    def erode(array: np.ndarray) -> np.ndarray:
        return ndimage.binary_erosion(array, structure, border_value=1)

    np.testing.assert_array_equal(OPERATIONS["dilate"](mask, radius), dilate(mask))
    np.testing.assert_array_equal(OPERATIONS["erode"](mask, radius), erode(mask))
    np.testing.assert_array_equal(OPERATIONS["open"](mask, radius), dilate(erode(mask)))
    np.testing.assert_array_equal(OPERATIONS["close"](mask, radius), erode(dilate(mask)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_empty_and_full_masks_stay_as_they_are(name: str) -> None:
    for mask in (np.zeros((6, 7, 8), bool), np.ones((6, 7, 8), bool)):
        np.testing.assert_array_equal(OPERATIONS[name](mask, 3.0), mask)


def test_a_label_that_grows_takes_voxels_from_the_others() -> None:
    channels = torch.zeros(2, 9, 9, 9)
    channels[0, 2:5, 2:7, 2:7] = 1
    channels[1, 5:8, 2:7, 2:7] = 1
    apply_stage_errors(channels, StageErrors(operations=((0, "dilate", 1.0),)))
    assert channels.sum(0).max() == 1
    assert channels[0, 5, 3:6, 3:6].all()
    assert not channels[1, 5, 3:6, 3:6].any()


def test_one_small_part_is_removed_and_large_ones_are_kept() -> None:
    channels = torch.zeros(1, 10, 10, 10)
    channels[0, :5] = 1  # half of the patch
    channels[0, 7, 1, 1] = 1
    channels[0, 9, 8:, 8:] = 1
    last = channels.clone()
    last[0, 9] = 0
    assert LARGEST_REMOVED == 0.15
    apply_stage_errors(channels, StageErrors(removals=((0, 0.99),)))
    assert torch.equal(channels, last)
    empty = torch.zeros(1, 4, 4)
    apply_stage_errors(empty, StageErrors(removals=((0, 0.5),)))
    assert not empty.any()


def test_they_are_drawn_as_often_as_in_nnunet() -> None:
    drawn = [draw_stage_errors(np.random.default_rng(seed), 3) for seed in range(3000)]
    operated = np.mean([len(errors.operations) for errors in drawn])
    removed = np.mean([len(errors.removals) for errors in drawn])
    assert operated == pytest.approx(0.4 * 0.5 * 3, abs=0.06)
    assert removed == pytest.approx(0.2 * 0.5 * 3, abs=0.05)
    radii = [radius for errors in drawn for _, _, radius in errors.operations]
    assert 1 <= min(radii) < 1.2
    assert 7.8 < max(radii) <= 8
    names = [name for errors in drawn for _, name, _ in errors.operations]
    assert {name: round(names.count(name) / len(names), 1) for name in OPERATIONS} == pytest.approx(
        dict.fromkeys(OPERATIONS, 0.25), abs=0.06
    )
    assert {channel for errors in drawn for channel, _, _ in errors.operations[:1]} == {0, 1, 2}
