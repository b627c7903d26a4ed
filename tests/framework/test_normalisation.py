"""Intensity normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from framework.errors import FoldwiseError, PlansError, UnknownNameError
from framework.preprocessing.normalisation import normalise, scheme_for_channel

PROPERTIES = {"0": {"mean": 40.0, "std": 20.0, "percentile_00_5": 0.0, "percentile_99_5": 100.0}}
NO_LABELS = np.zeros((1, 2, 2, 2), np.int16)


def _image(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 2, 2, 2)


def test_zscore_has_mean_zero_and_deviation_one() -> None:
    data = _image(1, 2, 3, 4, 5, 6, 7, 8)
    normalise(data, NO_LABELS, ["ZScoreNormalization"], [False], {})
    # mean 4.5, variance (64 - 1) / 12 = 5.25
    assert np.allclose(data.ravel(), (np.arange(1, 9) - 4.5) / np.sqrt(5.25))


def test_zscore_with_mask_counts_and_changes_only_what_is_inside() -> None:
    data = _image(0, 0, 0, 0, 1, 2, 3, 4)
    labels = np.array([-1, -1, -1, -1, 0, 0, 1, 2], np.int16).reshape(1, 2, 2, 2)
    normalise(data, labels, ["ZScoreNormalization"], [True], {})
    assert np.allclose(data.ravel()[:4], 0)
    assert np.allclose(data.ravel()[4:], (np.arange(1, 5) - 2.5) / np.sqrt(1.25))


def test_constant_image_becomes_zero() -> None:
    data = np.full((1, 2, 2, 2), 7, np.float32)
    normalise(data, NO_LABELS, ["ZScoreNormalization"], [False], {})
    assert not data.any()


def test_ct_is_clipped_and_scaled_with_the_statistics_of_the_dataset() -> None:
    data = _image(-1000, 0, 20, 40, 60, 100, 101, 3000)
    normalise(data, NO_LABELS, ["CTNormalization"], [False], PROPERTIES)
    assert data.ravel().tolist() == [-2, -2, -1, 0, 1, 3, 3, 3]


def test_every_channel_has_a_scheme_of_its_own() -> None:
    data = np.stack([_image(0, 1, 2, 3, 4, 5, 6, 10)[0], _image(0, 51, 0, 0, 0, 0, 0, 255)[0], _image(*range(8))[0]])
    schemes = ["RescaleTo01Normalization", "RGBTo01Normalization", "NoNormalization"]
    normalise(data, NO_LABELS, schemes, [False] * 3, {})
    assert np.allclose(data[0].ravel(), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1])
    assert np.allclose(data[1].ravel()[:2], [0, 0.2])
    assert data[2].ravel().tolist() == list(range(8))


def test_channel_names_pick_the_scheme() -> None:
    assert scheme_for_channel("CT") == "CTNormalization"
    assert scheme_for_channel("noNorm") == "NoNormalization"
    assert scheme_for_channel("T1w") == "ZScoreNormalization"


def test_plans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ZScoreNormalization'"):
        normalise(_image(*range(8)), NO_LABELS, ["ZScoreNormalisation"], [False], {})
    with pytest.raises(PlansError, match=r"2 channel.*scan has 1"):
        normalise(_image(*range(8)), NO_LABELS, ["NoNormalization"] * 2, [False] * 2, {})
    with pytest.raises(PlansError, match="foreground_intensity_properties"):
        normalise(_image(*range(8)), NO_LABELS, ["CTNormalization"], [False], {})
    with pytest.raises(FoldwiseError, match="300"):
        normalise(_image(*range(7), 300), NO_LABELS, ["RGBTo01Normalization"], [False], {})
