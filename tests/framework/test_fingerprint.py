"""The fingerprint of a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from framework.data.raw_dataset import RawDataset
from framework.errors import DatasetError
from framework.preprocessing.fingerprint import extract_fingerprint, sample_foreground
from framework.preprocessing.parallel import CasePool
from tests.framework.raw_builder import write_raw_dataset


def test_draws_are_those_of_random_choice_with_replacement() -> None:
    random = np.random.RandomState(0)
    data = random.randint(0, 9, (2, 5, 6, 7)).astype(np.float32)
    foreground = random.uniform(size=(5, 6, 7)) < 0.3
    samples = sample_foreground(data, foreground, 1000)
    drawing = np.random.RandomState(1234)
    for channel, (values, counts) in zip(data, samples):
        drawn = drawing.choice(channel[foreground], 1000, replace=True)
        assert np.array_equal(np.repeat(values, counts), np.sort(drawn))


def test_statistics_pool_all_cases_in_equal_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.preprocessing.fingerprint._NUM_SAMPLES", 20_000)
    # one case has the intensity 10 in a small foreground, the other 20 in a large one
    small, large = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    small[2:4, 2:4, 2:4], large[1:7, 1:7, 1:7] = 1, 1
    folder = write_raw_dataset(
        tmp_path / "Dataset001_Two",
        {"a": (np.full((1, 8, 8, 8), 10.0), small), "b": (np.full((1, 8, 8, 8), 20.0), large)},
        spacings={"b": (3.0, 2.0, 1.0)},
    )
    fingerprint = extract_fingerprint(RawDataset.open(folder), CasePool(1))
    assert fingerprint["spacings"] == [[1.0, 1.0, 1.0], [3.0, 2.0, 1.0]]
    assert fingerprint["shapes_after_crop"] == [[8, 8, 8], [8, 8, 8]]
    assert fingerprint["median_relative_size_after_cropping"] == 1.0
    found = fingerprint["foreground_intensity_properties_per_channel"]["0"]
    expected = {
        "max": 20,
        "mean": 15,
        "median": 15,
        "min": 10,
        "percentile_00_5": 10,
        "percentile_99_5": 20,
        "std": 5,
    }
    assert found == pytest.approx(expected)


def test_cases_that_cannot_be_used_are_listed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.preprocessing.fingerprint._NUM_SAMPLES", 20_000)
    good = (np.ones((1, 6, 6, 6)), np.eye(6)[None].repeat(6, 0))
    broken = np.ones((1, 6, 6, 6))
    broken[0, 0, 0, 0] = np.nan
    folder = write_raw_dataset(
        tmp_path / "Dataset001_Bad", {"a": good, "b": (broken, good[1]), "c": (good[0], good[1] * 7)}
    )
    with pytest.raises(DatasetError, match=r"2 of 3 cases(.|\n)*case 'b'.*NaN(.|\n)*case 'c'.*7"):
        extract_fingerprint(RawDataset.open(folder), CasePool(1))


def test_dataset_without_foreground_is_refused(tmp_path: Path) -> None:
    folder = write_raw_dataset(tmp_path / "Dataset001_Empty", {"a": (np.ones((1, 4, 4, 4)), np.zeros((4, 4, 4)))})
    with pytest.raises(DatasetError, match="no label image has any foreground"):
        extract_fingerprint(RawDataset.open(folder), CasePool(1))


@pytest.mark.slow
@pytest.mark.shared_data
def test_fingerprint_equals_that_of_nnunet(shared_data: Path) -> None:
    folder = shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus"
    expected = json.loads((folder / "dataset_fingerprint.json").read_text())
    with CasePool(2) as pool:
        found = extract_fingerprint(RawDataset.open(shared_data / "Dataset004_Hippocampus"), pool)
    statistics = "foreground_intensity_properties_per_channel"
    assert found[statistics].pop("0") == pytest.approx(expected[statistics].pop("0"), rel=1e-6)
    assert found == expected
