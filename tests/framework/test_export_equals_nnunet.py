"""Exported labels and probabilities against those of nnU-Net 2.8.1, for made-up logits that take every turn.

The golden file is written by ``python -m tests.interop.compare_export --golden``, which also compares large scans.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.inference import label_map, probability_files
from tests.interop.export_cases import CASES, exported, label_map_of, sampled

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "export.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_labels_and_probabilities_equal_those_of_nnunet(name: str) -> None:
    _check(name)


@pytest.mark.parametrize("name", CASES)
def test_scans_that_are_done_part_by_part_do_so_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_VOXELS_AT_ONCE", "_VALUES_COPIED_AT_ONCE"):
        monkeypatch.setattr(label_map, limit, 700)
    for limit in ("_INTERPOLATED_AT_ONCE", "_COMPARED_AT_ONCE"):
        monkeypatch.setitem(getattr(label_map, limit), "cpu", 100)
    monkeypatch.setattr(probability_files, "_VALUES_AT_ONCE", 700)
    _check(name)


def _check(name: str) -> None:
    expected = GOLDEN[name]
    labels, probabilities = exported(CASES[name])
    assert str(labels.dtype) == expected["type"]
    assert np.mean(labels != label_map_of(expected)) <= 1e-4
    found = sampled(labels, probabilities)
    assert found["shape"] == expected["shape"]
    assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_golden_file_holds_every_case() -> None:
    assert list(GOLDEN) == list(CASES)
    assert GOLDEN["many labels"]["type"] == "uint16"
