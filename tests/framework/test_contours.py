"""Borders of labels as lines."""

from __future__ import annotations

import numpy as np

from framework.evaluation.contours import border_lines


def enclosed_area(line: np.ndarray) -> float:
    """Gauss's formula; positive for lines that run clockwise with row 0 on top."""
    x, y = line.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_a_rectangle_has_four_corners_on_the_edges_of_its_voxels() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    (line,) = border_lines(mask)
    assert line[0].tolist() == line[-1].tolist()
    assert sorted(map(tuple, line[:-1].tolist())) == [(1.5, 0.5), (1.5, 3.5), (6.5, 0.5), (6.5, 3.5)]


def test_a_hole_runs_the_other_way_round() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 1:3] = False
    assert sorted(enclosed_area(line) for line in border_lines(mask)) == [-2, 25]


def test_voxels_that_touch_at_a_corner_are_parts_of_their_own() -> None:
    assert [enclosed_area(line) for line in border_lines(np.eye(2, dtype=bool))] == [1, 1]


def test_lines_enclose_as_much_as_there_are_voxels_and_are_as_long_as_the_border() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.random()
        lines = border_lines(mask)
        assert sum(map(enclosed_area, lines)) == mask.sum()
        padded = np.pad(mask, 1)
        length = sum(np.abs(np.diff(padded.astype(int), axis=axis)).sum() for axis in (0, 1))
        assert sum(np.abs(np.diff(line, axis=0)).sum() for line in lines) == length


def test_an_empty_mask_has_no_border() -> None:
    assert border_lines(np.zeros((3, 4), bool)) == []
