"""Where patches are cut."""

from __future__ import annotations

import numpy as np
import pytest

from framework.data.patch_sampling import (
    annotated_key,
    as_patch_3d,
    corner_bounds,
    draw_patch,
    eligible_labels,
    is_forced_foreground,
    rank_slots,
)


@pytest.mark.parametrize(
    ("batch_size", "forced"),
    [(1, [False]), (2, [False, True]), (3, [False, False, True]), (7, [False] * 5 + [True] * 2)],
)
def test_the_last_samples_of_a_batch_must_show_foreground(batch_size: int, forced: list[bool]) -> None:
    assert [is_forced_foreground(slot, batch_size, 0.33) for slot in range(batch_size)] == forced


def test_counts_of_forced_samples_are_nnunets() -> None:
    # round(9 * 0.67) = 6 and round(12 * 0.67) = 8 samples are free.
    assert sum(is_forced_foreground(slot, 9, 0.33) for slot in range(9)) == 3
    assert sum(is_forced_foreground(slot, 12, 0.33) for slot in range(12)) == 4
    assert sum(is_forced_foreground(slot, 4, 1.0) for slot in range(4)) == 4
    assert sum(is_forced_foreground(slot, 4, 0.0) for slot in range(4)) == 0


@pytest.mark.parametrize(
    ("length", "size", "bounds"),
    [
        (10, 4, (0, 6)),
        (4, 4, (0, 0)),
        # Two voxels are missing: one on either side, so the patch begins at -1.
        (4, 6, (-1, -1)),
        # Three are missing: one or two before the image.
        (4, 7, (-2, -1)),
        (1, 8, (-4, -3)),
    ],
)
def test_random_patches_stay_inside_or_hold_a_small_image_in_their_middle(
    length: int, size: int, bounds: tuple[int, int]
) -> None:
    assert corner_bounds([length], [size]) == [bounds]


def test_random_corners_are_uniform_and_reach_both_borders() -> None:
    rng = np.random.default_rng(0)
    corners = np.array([draw_patch(rng, (10, 9, 3), (4, 9, 6), [], {}).corner for _ in range(7000)])
    counts = np.bincount(corners[:, 0], minlength=7)
    assert len(counts) == 7
    assert abs(counts - 1000).max() < 120
    assert set(corners[:, 1]) == {0}
    assert set(corners[:, 2]) == {-2, -1}


def test_a_chosen_voxel_lies_in_the_middle_of_its_patch() -> None:
    locations = {1: np.array([[0, 20, 21, 22]])}
    drawn = draw_patch(np.random.default_rng(0), (50, 50, 50), (8, 9, 10), [1], locations)
    assert (drawn.label, drawn.voxel) == (1, (20, 21, 22))
    assert drawn.corner == (20 - 4, 21 - 4, 22 - 5)


def test_a_patch_is_moved_in_at_the_near_border_and_overhangs_at_the_far_one() -> None:
    # nnU-Net clamps the lower bound only.
    locations = {1: np.array([[0, 1, 49, 1]])}
    drawn = draw_patch(np.random.default_rng(0), (50, 50, 4), (8, 8, 8), [1], locations)
    assert drawn.corner == (0, 45, -2)


def test_voxels_of_small_integer_types_do_not_wrap_around() -> None:
    locations = {1: np.array([[0, 0, 1, 2]], dtype=np.uint16)}
    drawn = draw_patch(np.random.default_rng(0), (3, 3, 3), (16, 16, 16), [1], locations)
    assert drawn.corner == (-7, -7, -6)


def test_classes_and_their_voxels_are_equally_likely() -> None:
    rng = np.random.default_rng(0)
    locations = {1: np.array([[0, 5, 5, 5]]), (1, 2): np.array([[0, 6, 6, i] for i in range(10)])}
    drawn = [draw_patch(rng, (20, 20, 20), (4, 4, 4), list(locations), locations) for _ in range(20_000)]
    assert abs(sum(d.label == 1 for d in drawn) / 20_000 - 0.5) < 0.015
    voxels = np.bincount([d.voxel[2] for d in drawn if d.label == (1, 2) and d.voxel], minlength=10)
    assert abs(voxels - 1000).max() < 120


def test_labels_to_choose_from() -> None:
    annotated = annotated_key([0, 1, 2])
    assert annotated == (-1, 0, 1, 2)
    # Forced: a label or region that occurs; annotated voxels only where nothing else does.
    assert eligible_labels([1, 2], True, None) == [1, 2]
    assert eligible_labels([1, (1, 2), annotated], True, annotated) == [1, (1, 2)]
    assert eligible_labels([annotated], True, annotated) == [annotated]
    assert eligible_labels([], True, None) == []
    # Not forced: anywhere, or on an annotated voxel where there is an ignore label.
    assert eligible_labels([1, 2], False, None) == []
    assert eligible_labels([1, annotated], False, annotated) == [annotated]
    assert eligible_labels([1], False, annotated) == []


def test_ranks_share_the_slots_of_a_batch() -> None:
    assert [list(rank_slots(7, rank, 3)) for rank in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert list(rank_slots(2, 0, 1)) == [0, 1]
    with pytest.raises(ValueError, match="batch of 2 cannot be split over 3"):
        rank_slots(2, 0, 3)
    with pytest.raises(ValueError, match="rank 3"):
        rank_slots(8, 3, 3)


def test_2d_patches_are_one_slice_thick() -> None:
    assert as_patch_3d((56, 40)) == (1, 56, 40)
    assert as_patch_3d((8, 56, 40)) == (8, 56, 40)
