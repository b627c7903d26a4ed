"""Small datasets and trainings that several tests use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from framework.data.labels import LabelKey
from framework.data.phantom import make_phantom_dataset
from framework.errors import CaseError
from framework.evaluation.case_pairs import pair_files
from framework.evaluation.evaluate import evaluate_pairs
from framework.evaluation.scored_labels import ScoredLabels

# A network and a training so small that an epoch takes a moment.
TINY = {
    "training.num_epochs": 2,
    "training.iterations_per_epoch": 3,
    "training.validation_iterations_per_epoch": 2,
    "training.num_workers": 0,
    "architecture.arch_kwargs.features_per_stage": [4, 8, 8],
    "architecture.arch_kwargs.n_stages": 3,
    "architecture.arch_kwargs.kernel_sizes": [[3, 3, 3]] * 3,
    "architecture.arch_kwargs.strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "architecture.arch_kwargs.n_conv_per_stage": [1, 1, 1],
    "architecture.arch_kwargs.n_conv_per_stage_decoder": [1, 1],
    "patch_size": [8, 16, 16],
    "batch_size": 2,
}


def make_tiny_dataset(root: Path, name: str = "Dataset007_Tiny", **changes: Any) -> Path:
    """Six simulated scans of about 10x24x24 voxels; returns the raw dataset's folder."""
    options: dict[str, Any] = {"num_cases": 6, "num_labels": 2, "shape": (10, 24, 24), "seed": 3}
    return make_phantom_dataset(root, name=name, **(options | changes))


def use_roots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the three variables into `folder`."""
    for variable, name in (("FW_RAW", "raw"), ("FW_PREPROCESSED", "preprocessed"), ("FW_RESULTS", "results")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(variable, str(folder / name))


def overrides_as_options(overrides: dict[str, Any]) -> list[str]:
    """For a command line."""
    return [f"--set={path}={json.dumps(value)}" for path, value in overrides.items()]


def summary_of_folders(
    references: Path, predictions: Path, keys: Sequence[LabelKey], ignore_label: int | None = None
) -> dict[str, Any]:
    """The overlap of all predictions of a folder, in nnU-Net's form.

    Raises:
        DatasetError: predictions or references are missing.
        CaseError: of the first case that cannot be scored.
    """
    labels = ScoredLabels(dict.fromkeys(keys, ""), ignore_label)
    evaluation = evaluate_pairs(pair_files(references, predictions, chill=True), labels, surface=False)
    for case, reason in evaluation.failures.items():
        raise CaseError(case, reason)
    return evaluation.summary()
