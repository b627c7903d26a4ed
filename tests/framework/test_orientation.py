"""How volumes are turned to be shown, checked against SimpleITK's reorientation."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import SimpleITK

from framework.evaluation.orientation import orientation_of, view_across

DIRECTIONS = [
    np.eye(3)[:, order] * signs for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]


def rotation(degrees: float) -> np.ndarray:
    """Round the axis from head to foot."""
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def sitk_properties(direction: np.ndarray) -> dict[str, Any]:
    return {"sitk_stuff": {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": tuple(direction.ravel())}}


@pytest.mark.parametrize("turned", [0, 20])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=range(48))
def test_planes_are_those_of_the_volume_that_simpleitk_turns_to_the_body(direction: np.ndarray, turned: float) -> None:
    volume = np.random.default_rng(0).integers(0, 1000, (3, 4, 5))
    direction = rotation(turned) @ direction
    image = SimpleITK.GetImageFromArray(volume)
    image.SetDirection(direction.ravel())
    # (Z, Y, X), the indices growing towards S, P and L
    straight = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS"))
    orientation = orientation_of(sitk_properties(direction))
    assert orientation is not None
    assert orientation.oblique_degrees == pytest.approx(turned, abs=1e-4)
    # The patient's right is on the left; front or head is on top.
    expected = {
        "axial": (list(straight), "S", ("R", "L", "A", "P")),
        "coronal": (list(straight.transpose(1, 0, 2)[:, ::-1]), "P", ("R", "L", "S", "I")),
        "sagittal": (list(straight.transpose(2, 0, 1)[:, ::-1]), "L", ("A", "P", "S", "I")),
    }
    names = set()
    for axis in range(3):
        view = view_across(axis, orientation)
        names.add(view.name)
        planes, towards, sides = expected[view.name]
        if orientation.towards[axis] != towards:
            planes = planes[::-1]
        assert view.sides == sides
        for position, plane in enumerate(planes):
            np.testing.assert_array_equal(view.plane(volume, position), plane)
    assert names == set(expected)


def test_affines_of_nibabel_count_to_the_right_and_the_front() -> None:
    affine = np.diag((2.0, 2.0, 3.0, 1.0))
    for stuff in (
        {"original_affine": affine},
        {"original_affine": np.eye(4)[[1, 0, 2, 3]], "reoriented_affine": affine},
    ):
        assert str(orientation_of({"nibabel_stuff": stuff})) == "SAR"


def test_two_axes_at_45_degrees_get_different_sides() -> None:
    orientation = orientation_of(sitk_properties(rotation(45)))
    assert orientation is not None
    assert orientation.is_oblique
    assert {"LPSRAI".index(letter) % 3 for letter in orientation.towards} == {0, 1, 2}


@pytest.mark.parametrize("properties", [None, {}, {"spacing": (1, 1, 1)}, sitk_properties(np.eye(2))])
def test_images_without_a_place_in_the_body_are_shown_as_they_lie_in_memory(properties: dict[str, Any] | None) -> None:
    assert orientation_of(properties) is None
    volume = np.arange(24).reshape(2, 3, 4)
    for axis in range(3):
        view = view_across(axis, None)
        assert view.sides is None
        np.testing.assert_array_equal(view.plane(volume, 1), np.take(volume, 1, axis))


def test_a_4d_file_is_oriented_by_its_first_three_axes() -> None:
    direction = np.eye(4)
    direction[:3, :3] = np.diag((-1, -1, 1))
    geometry = {"spacing": (1,) * 4, "origin": (0,) * 4, "direction": tuple(direction.ravel())}
    assert str(orientation_of({"sitk_stuff": geometry})) == "SAR"
