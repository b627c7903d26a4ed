"""Folders that the tests of evaluation begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework.evaluation.builders import label_map, write, write_dataset_json

LABELS = {"background": 0, "liver": 1, "tumour": 2}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """References and predictions of three cases, a dataset.json beside the predictions."""
    reference, prediction = tmp_path / "labelsTr", tmp_path / "predicted"
    for number, case in enumerate("abc"):
        write(reference / f"{case}.nii.gz", label_map())
        write(prediction / f"{case}.nii.gz", label_map(number))
    write_dataset_json(prediction, LABELS)
    return reference, prediction
