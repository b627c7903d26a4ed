"""Preprocessed values against those of nnU-Net 2.8.1, for made-up scans that take every turn.

The golden file is written by ``python -m tests.interop.compare_preprocessing --golden``, which also compares full
arrays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from framework.preprocessing import class_sampling, crop, label_resampling, normalisation, resampling
from framework.preprocessing import preprocess as preprocess_module
from tests.interop.preprocessing_cases import CASES, preprocess, sampled

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "preprocessing.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_images_labels_and_locations_equal_those_of_nnunet(name: str) -> None:
    _check(name)


@pytest.mark.parametrize("name", CASES)
def test_large_scans_that_are_done_part_by_part_do_so_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (class_sampling, crop, label_resampling, normalisation, resampling):
        monkeypatch.setattr(module, "_VOXELS_AT_ONCE", 700)
    for module in (normalisation, preprocess_module):
        monkeypatch.setattr(module, "LARGEST_EXACT_CHANNEL", 0)
    _check(name)


def _check(name: str) -> None:
    case, expected = CASES[name], GOLDEN[name]
    image, labels = case.arrays()
    found = sampled(preprocess(image, labels, case.spacing, case.plans, case.dataset_json))
    for array in ("image", "back"):
        # six digits in the file; intensities are about 1, or about 500 where they are kept
        assert found.pop(array) == pytest.approx(expected[array], rel=1e-5, abs=1e-4)
    assert found == {key: value for key, value in expected.items() if key not in ("image", "back")}


def test_golden_file_holds_every_case() -> None:
    assert list(GOLDEN) == list(CASES)
