"""What is kept of a case: grids, hashes, label shapes and the sharpness of label borders."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from framework.checking.case_summary import Grid, summarise_case
from framework.checking.label_fit import border_sharpness
from framework.checking.label_shape import summarise_shape
from framework.data.raw_dataset import RawCase
from tests.framework.checking.builder import draw_case, write


def a_case(folder: Path, image: np.ndarray, labels: np.ndarray) -> RawCase:
    write(folder / "a_0000.nii.gz", image, (3, 2, 1), (5, 6, 7))
    write(folder / "a.nii.gz", labels, (3, 2, 1), (5, 6, 7))
    return RawCase("a", (folder / "a_0000.nii.gz",), folder / "a.nii.gz")


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_grid_is_that_of_the_file_with_every_reader(tmp_path: Path, reader: str) -> None:
    image, labels = draw_case(0)
    summary = summarise_case(a_case(tmp_path, image[0], labels), reader, None)
    assert summary.grid is not None
    assert summary.grid.shape == (18, 20, 22)
    assert summary.grid.spacing == pytest.approx((3, 2, 1))
    assert summary.grid.origin == pytest.approx((5, 6, 7))
    assert summary.grid.direction == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert summary.label is not None
    assert summary.grid.differences(summary.label.grid) == {}


def test_orientation_is_what_simpleitk_calls_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        matrix = np.eye(3)[:, random.permutation(3)] * random.choice([-1, 1], 3)
        angle = random.uniform(-0.5, 0.5)  # oblique slices count as the nearest axis
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        direction = tuple((turn @ matrix).ravel().tolist())
        expected = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
        assert Grid((2, 2, 2), (1, 1, 1), (0, 0, 0), direction).orientation == expected


def test_statistics_and_counts(tmp_path: Path) -> None:
    image, labels = draw_case(0)
    summary = summarise_case(a_case(tmp_path, image[0], labels), "SimpleITKIO", ignore_label=2)
    (channel,) = summary.channels
    expected = np.percentile(image[0], (0.5, 50, 99.5))
    assert (channel.low, channel.median, channel.high) == pytest.approx(expected)
    assert (channel.minimum, channel.maximum) == (image[0].min(), image[0].max())
    assert summary.label is not None
    assert summary.label.counts == {value: int((labels == value).sum()) for value in range(3)}
    assert summary.label.shape is not None
    assert list(summary.label.shape.centroids) == [1]  # the ignore label is no foreground
    assert len(pickle.dumps(summary)) < 3000  # no voxels travel between processes


def test_hash_is_that_of_voxels_not_of_bytes(tmp_path: Path) -> None:
    image = np.rint(draw_case(0)[0][0])
    contents = set()
    for number, array in enumerate((image, image.astype(np.int16), image.astype(np.float64))):
        folder = tmp_path / str(number)
        folder.mkdir()
        contents.add(summarise_case(a_case(folder, array, draw_case(0)[1]), "SimpleITKIO", None).channels[0].content)
    image[0, 0, 0] += 1
    other = summarise_case(a_case(tmp_path, image, draw_case(0)[1]), "SimpleITKIO", None).channels[0].content
    assert len(contents) == 1
    assert other not in contents


def test_shape_of_labels_in_closed_form() -> None:
    labels = np.zeros((10, 8, 6), int)
    labels[2:4, :, 1] = 1  # full length of axis 1: ends at the border of the image
    labels[7:9, 2:6, 1] = 1
    shape = summarise_shape(labels, labels > 0)
    assert shape is not None
    # along axis 0 slices of 8 8 . . . 4 4 voxels, so the gap of 3 has half of the area on its far side
    assert shape.num_gaps == (3, 0, 0)
    assert shape.cut == (1.0, 0.0, 1.0)
    # 16 voxels at 2.5 and 8 at 7.5: (16 * 3 + 8 * 8) / 24 of 10, the border of the image being 0
    assert shape.centroids[1] == pytest.approx((112 / 240 - 0.5, 0.0, 1.5 / 6 - 0.5))
    assert summarise_shape(labels * 0, labels < 0) is None


def test_two_structures_side_by_side_are_no_gap() -> None:
    labels = np.zeros((10, 8, 8), int)
    labels[1:3, 0:3] = labels[6:9, 5:8] = 1
    shape = summarise_shape(labels, labels > 0)
    assert shape is not None
    assert shape.num_gaps[0] == 0


def test_border_sharpness_tells_own_from_foreign_labels() -> None:
    (image,), labels = draw_case(0)
    own = border_sharpness(image, labels)
    foreign = border_sharpness(image, np.roll(labels, (6, 6), (0, 1)))
    noise = border_sharpness(np.random.default_rng(0).normal(size=image.shape), labels)
    assert own is not None
    assert own > 3
    assert foreign is not None
    assert foreign < 1.2
    assert noise == pytest.approx(1, abs=0.1)
    assert border_sharpness(image, labels * 0) is None


def test_border_sharpness_of_a_step_in_closed_form() -> None:
    # a step of 10 under the border, a slope of 1 everywhere: 11 there, 1 at all other places along this axis
    image = np.tile(np.arange(40.0)[:, None, None], (1, 10, 10))
    image[20:] += 10
    labels = np.zeros(image.shape, int)
    labels[20:] = 1
    # moved along the step: 4 of 12 shifts see the slope alone; along the other axes 8 of 12 still see the step
    assert border_sharpness(image, labels) == pytest.approx(11 / ((4 * 1 + 8 * 11) / 12))


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    image, labels = draw_case(0)
    case = a_case(tmp_path, image[0], labels)
    (tmp_path / "a_0001.nii.gz").write_bytes(b"nothing")
    summary = summarise_case(RawCase("a", (*case.images, tmp_path / "a_0001.nii.gz"), case.label), "SimpleITKIO", None)
    assert list(summary.unreadable) == ["a_0001.nii.gz"]
    assert len(summary.channels) == 1
    assert summary.label is not None
