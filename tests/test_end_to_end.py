"""Whole trainings, as a user starts them; several minutes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def fw_train(folder: Path, *arguments: str) -> str:
    """Run the installed command in `folder`; its output."""
    command = Path(sys.executable).with_name("fw_train")
    result = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def mean_dice(output: str) -> float:
    found = re.search(r"mean validation Dice: ([0-9.]+)", output)
    assert found is not None, output
    return float(found[1])


def test_the_readmes_main_command_learns_the_phantom(tmp_path: Path):
    output = fw_train(tmp_path, "Dataset000_Phantom", "3d_fullres", "0", "-device", "cpu")
    assert mean_dice(output) > 0.8
    run = tmp_path / "fw_data/results/Dataset000_Phantom/SegmentationTrainer__example__3d_fullres/fold_0"
    assert (run / "progress.png").stat().st_size > 10_000
    assert len(list((run / "validation/pictures").iterdir())) == 8
    assert len((run / "history.jsonl").read_text().splitlines()) == 8


@pytest.mark.shared_data
def test_a_short_training_on_real_scans(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FW_RAW", str(shared_data))
    arguments = ["4", "3d_fullres", "0", "-p", "laptop", "-device", "cpu", "--set=training.num_epochs=4"]
    output = fw_train(tmp_path, *arguments)
    # 400 of the preset's 2600 iterations; the whole training reaches 0.88.
    assert mean_dice(output) > 0.84
    preprocessed = tmp_path / "fw_data/preprocessed/Dataset004_Hippocampus"
    reference = shared_data / "nnunet_reference/preprocessed/Dataset004_Hippocampus/splits_final.json"
    assert json.loads((preprocessed / "splits_final.json").read_text()) == json.loads(reference.read_text())
