"""The picture of a case."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from framework.evaluation.picture import draw_case, largest_slice


def ball(shape: tuple[int, ...], centre: tuple[int, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    distance = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre))
    return (distance <= radius**2).astype(np.int16)


def test_slice_with_most_foreground_is_shown() -> None:
    labels = ball((12, 14, 16), (3, 7, 11), 3)
    assert [largest_slice(labels, axis) for axis in range(3)] == [3, 7, 11]
    assert largest_slice(np.zeros((9, 4, 4)), 0) == 4


def has_colour(picture: np.ndarray, colour: tuple[float, float, float]) -> bool:
    return bool((np.abs(picture[..., :3] - colour).max(-1) < 0.02).any())


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("shape", [(12, 14, 16), (1, 20, 24)])
def test_picture_shows_labels_without_touching_pyplot(
    tmp_path: Path, shape: tuple[int, ...], with_reference: bool
) -> None:
    from matplotlib.image import imread

    centre = tuple(size // 2 for size in shape)
    labels = ball(shape, centre, 4)
    image = np.random.default_rng(0).normal(size=shape) + labels
    path = tmp_path / "pictures" / "case.png"
    had_pyplot = "matplotlib.pyplot" in sys.modules
    draw_case(
        path,
        image,
        labels if with_reference else None,
        np.roll(labels, 1, -1),
        {1: "ball"},
        spacing=(2.0, 1.0, 1.0),
        title="case",
    )
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    picture = imread(path)
    assert min(picture.shape[:2]) > 200
    assert has_colour(picture, (0x56 / 255, 0xB4 / 255, 0xE9 / 255))
    assert [entry.name for entry in path.parent.iterdir()] == ["case.png"]


def test_image_without_any_foreground_can_be_drawn(tmp_path: Path) -> None:
    nothing = np.zeros((5, 6, 7))
    draw_case(tmp_path / "empty.png", nothing, nothing, nothing, {1: "ball"})
    assert (tmp_path / "empty.png").stat().st_size > 1000
