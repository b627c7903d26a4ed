"""The picture of a case."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.evaluation import panels
from framework.evaluation.look import grey_window, rgb, window_for
from framework.evaluation.picture import draw_case, largest_slice

LPS = {"sitk_stuff": {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}}


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


def drawn(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> list[tuple[Any, Any, Any]]:
    """(axes, panel, plane) of everything that a picture of these arguments shows."""
    shown: list[tuple[Any, Any, Any]] = []
    original = panels.draw_panel

    def noting(axes: Any, panel: Any, plane: Any, *more: Any) -> None:
        shown.append((axes, panel, plane))
        original(axes, panel, plane, *more)

    monkeypatch.setattr("framework.evaluation.picture.draw_panel", noting)
    draw_case(*arguments, **options)
    return shown


def test_the_middle_and_the_worst_slice_of_every_plane_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = np.zeros((40, 50, 60), int)
    reference[10:21, 20:31, 30:41] = 1
    prediction = reference.copy()
    prediction[18, 20:31, 30:35] = 0
    shown = drawn(monkeypatch, tmp_path / "a.png", None, reference, prediction, {1: "cube"}, properties=LPS)
    assert [panel.caption for _, panel, _ in shown] == [
        "axial, slice 16 of 40 (middle)",
        "coronal, slice 26 of 50 (middle, worst: 5 voxels differ)",
        "sagittal, slice 36 of 60 (middle)",
        "axial, slice 19 of 40 (worst: 55 voxels differ)",
        "coronal, slice 21 of 50 (worst: 5 voxels differ)",
        "sagittal, slice 31 of 60 (worst: 11 voxels differ)",
    ]
    # The worst slices are cut to the foreground; everything of it is seen.
    for _, panel, plane in shown[3:]:
        assert plane.reference.shape < tuple(np.delete(reference.shape, panel.view.axis))
        assert plane.reference.sum() == np.take(reference, panel.position, panel.view.axis).sum()


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 0.7, 0.9), (0.4, 3, 1)])
@pytest.mark.parametrize("properties", [None, LPS])
def test_slices_keep_the_proportions_of_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, ...], properties: Any
) -> None:
    labels = ball((20, 30, 40), (8, 12, 25), 5)
    shown = drawn(monkeypatch, tmp_path / "a.png", labels, labels, labels, {1: "ball"}, spacing, "", properties)
    for axes, panel, plane in shown:
        rows, columns = plane.prediction.shape
        row_mm, column_mm = spacing[panel.view.row_axis], spacing[panel.view.column_axis]
        width, height = axes.get_position().size * axes.figure.get_size_inches()
        assert width / height == pytest.approx(columns * column_mm / (rows * row_mm))
        assert axes.get_xlim() == (-0.5, columns - 0.5)
        assert axes.get_ylim() == (rows - 0.5, -0.5)


def test_sides_of_the_body_stand_at_the_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ball((20, 22, 24), (8, 12, 13), 5)
    shown = drawn(monkeypatch, tmp_path / "a.png", labels, labels, labels, {1: "ball"}, properties=LPS)
    letters = [{text.get_text() for text in axes.texts} for axes, _, _ in shown[:3]]
    assert [found - {"5 mm"} for found in letters] == [set("RLAP"), set("RLSI"), set("APSI")]
    shown = drawn(monkeypatch, tmp_path / "a.png", labels, labels, labels, {1: "ball"})
    assert {text.get_text() for text in shown[0][0].texts} == {"", "Z →", "Y ↓", "5 mm"}


def test_of_a_few_thick_slices_three_are_shown_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((5, 60, 60), int)
    labels[1:4, 20:40, 20:40] = 1
    prediction = labels.copy()
    prediction[3, 20:30], prediction[1, 20] = 0, 0
    shown = drawn(monkeypatch, tmp_path / "a.png", labels, labels, prediction, {1: "a"}, (1, 1, 1))
    assert [panel.position for _, panel, _ in shown] == [2, 3, 1]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 30), (1, 30, 1), (30, 1, 1), (2, 2, 2), (30, 30, 1), (30, 1, 30)])
def test_volumes_of_one_voxel_along_an_axis_are_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for properties in (None, LPS):
        draw_case(tmp_path / "a.png", np.zeros(shape), np.ones(shape), np.ones(shape), {1: "a"}, properties=properties)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_many_labels_regions_and_odd_names_are_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    labels = np.arange(6 * 8 * 10).reshape(6, 8, 10) % 41
    names = {label: f"$structure_{label}^" for label in range(1, 41)} | {40: "_" + 60 * "long "}
    draw_case(tmp_path / "a.png", labels, labels, labels[::-1], names, title="$x_ % \\")
    regions = {(1, 2, 3): "whole", (2, 3): "core", 3: "_rim"}
    draw_case(tmp_path / "b.png", labels, labels, labels[::-1], regions)
    assert not recwarn.list
    assert len({rgb(label) for label in range(1, 25)}) == 24


def test_the_same_case_gives_the_same_file_and_nothing_is_read_that_is_not_shown(tmp_path: Path) -> None:
    labels = ball((20, 22, 24), (8, 12, 13), 5)
    read: list[tuple[int, int]] = []

    class Image:
        shape = labels.shape

        def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
            read.extend((axis, part) for axis, part in enumerate(index) if isinstance(part, int))
            return labels[index].astype(np.float32)

    for name in "ab":
        draw_case(tmp_path / name, Image(), labels, np.roll(labels, 2, 0), {1: "ball"}, properties=LPS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(set(read)) <= 6
    assert len(read) <= 2 * 9


def test_arrays_of_different_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the reference has the shape \(2, 2, 2\), the prediction \(3, 3, 3\)"):
        draw_case(tmp_path / "a.png", None, np.zeros((2, 2, 2)), np.zeros((3, 3, 3)), {})


def test_a_ct_is_shown_in_the_window_of_what_is_labelled() -> None:
    rng = np.random.default_rng(0)
    scan = np.concatenate([np.full(5000, -1024), rng.normal(50, 30, 4000), rng.normal(-850, 50, 1000), [1500] * 200])
    assert window_for(scan, np.array([60.0])) == (-160, 240, "soft tissue")
    assert window_for(scan, np.array([-850.0])) == (-1350, 150, "lung")
    assert window_for(scan, np.array([700.0])) == (-500, 1300, "bone")
    assert window_for(scan, np.array([])) == (-160, 240, "soft tissue")
    # MR, and a CT that was normalised for the network
    for values in (np.abs(scan), (scan + 300) / 500):
        assert window_for(values, np.array([60.0])) == (*grey_window(values), "")


def test_grey_values_that_are_not_finite_do_not_matter() -> None:
    values = np.concatenate([np.linspace(0, 100, 1001), [np.nan, np.inf]])
    assert grey_window(values) == pytest.approx((0.6, 99.5), abs=0.2)
    assert grey_window(np.full(3, np.nan)) == (0, 1)
