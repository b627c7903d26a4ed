"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans; tests that need it are skipped, saying so, where it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FOLDWISE_SHARED_DATA", default))
    if not (folder / "Dataset004_Hippocampus").is_dir():
        pytest.skip(f"real data not found at {folder}; set FOLDWISE_SHARED_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the datasets of the person who runs it."""
    for name in ("FW_RAW", "FW_PREPROCESSED", "FW_RESULTS", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)
