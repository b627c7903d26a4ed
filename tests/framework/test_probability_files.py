"""Probabilities in the geometry of the scan, and nnU-Net's file of them, written part by part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from framework.inference.axis_sampling import AxisSampling
from framework.inference.probability_files import probability_parts, save_probability_file, write_probability_file
from framework.inference.scan_grid import ScanGrid

# A scan of 13x17x12, transposed to 12x13x17 and cropped to 10x9x16; the network saw 5x6x7.
GRID = ScanGrid((12, 13, 17), ((1, 11), (4, 13), (0, 16)), (10, 9, 16), (1.0,) * 3, (2.0,) * 3, (2, 0, 1), (1, 2, 0))
NETWORK_SHAPE = (5, 6, 7)


def probabilities(heads: np.ndarray, regions: bool = False) -> np.ndarray:
    axes = [AxisSampling.between(*lengths, 1) for lengths in zip(NETWORK_SHAPE, GRID.shape)]
    result = np.full((len(heads), *GRID.scan_shape), np.nan)
    for k, rows, part in probability_parts(torch.from_numpy(heads), axes, GRID, regions):
        result[k, rows] = part
    return result


def interpolated(heads: np.ndarray) -> np.ndarray:
    factors = [new / old for new, old in zip(GRID.shape, NETWORK_SHAPE)]
    zoomed = [ndimage.zoom(head.astype(float), factors, order=1, mode="nearest", grid_mode=True) for head in heads]
    return np.stack(zoomed)


def logits(scale: float = 4.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).standard_normal((4, *NETWORK_SHAPE))).astype(np.float32)


def test_probabilities_are_the_softmax_of_interpolated_logits() -> None:
    expected = np.zeros((4, 12, 13, 17))
    expected[0] = 1  # background, outside of the box
    expected[:, 1:11, 4:13, 0:16] = special.softmax(interpolated(logits()), axis=0)
    assert probabilities(logits()) == pytest.approx(expected.transpose(0, 2, 3, 1), abs=2e-6)


def test_every_region_has_a_probability_of_its_own() -> None:
    expected = np.zeros((4, 12, 13, 17))
    expected[:, 1:11, 4:13, 0:16] = special.expit(interpolated(logits()))
    assert probabilities(logits(), regions=True) == pytest.approx(expected.transpose(0, 2, 3, 1), abs=2e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_extreme_logits_give_probabilities_still(regions: bool) -> None:
    found = probabilities(logits(scale=1e5), regions)
    assert found.min() >= 0
    assert found.max() <= 1
    if not regions:
        # rounding of logits around 1e5, of which a voxel's values are differences
        assert found.sum(0) == pytest.approx(np.ones(GRID.scan_shape), abs=0.02)


def test_file_is_one_compressed_array_that_numpy_reads(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((3, 4, 5, 6)).astype(np.float32)
    array[1] = 0
    flat = array.ravel()
    write_probability_file(tmp_path / "a.npz", array.shape, iter((flat[:100], flat[100:101], flat[101:])))
    save_probability_file(tmp_path / "b.npz", array.astype(np.float64))
    for name in ("a.npz", "b.npz"):
        with np.load(tmp_path / name) as archive:
            assert archive.files == ["probabilities"]
            assert archive["probabilities"].dtype == np.float32
            assert np.array_equal(archive["probabilities"], array)
        assert (tmp_path / name).stat().st_size < array.nbytes
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path: Path) -> None:
    def parts() -> Iterator[np.ndarray]:
        yield np.zeros((4, 5), np.float32)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_probability_file(tmp_path / "a.npz", (2, 1, 4, 5), parts())
    with pytest.raises(AssertionError, match="80 bytes for an array of 160"):
        write_probability_file(tmp_path / "b.npz", (2, 1, 4, 5), [np.zeros((4, 5), np.float32)])
    assert list(tmp_path.iterdir()) == []
