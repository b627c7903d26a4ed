"""A run that the real nnU-Net trained, validated and continued here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from framework.commands.train import main as fw_train
from tests.builders import use_roots

DATASET = "Dataset004_Hippocampus"


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_run_of_nnunet_is_validated_and_continued(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use_roots(tmp_path, monkeypatch)
    monkeypatch.setenv("FW_RAW", str(shared_data))
    reference = shared_data / "nnunet_reference"
    preprocessed = tmp_path / "preprocessed" / DATASET
    preprocessed.mkdir()
    for name in ("nnUNetPlans.json", "dataset.json", "dataset_fingerprint.json", "splits_final.json"):
        shutil.copy(reference / "preprocessed" / DATASET / name, preprocessed)
    model = "nnUNetTrainer__nnUNetPlans__3d_cpu"
    source = next((reference / "results").rglob(model))
    run = tmp_path / "results" / DATASET / model / "fold_0"
    shutil.copytree(source, run.parent, copy_function=shutil.copyfile)
    expected = json.loads((run / "validation/summary.json").read_text())

    arguments = ["4", "3d_cpu", "0", "-tr", "nnUNetTrainer", "-device", "cpu"]
    assert fw_train([*arguments, "--val"]) == 0
    found = json.loads((run / "validation/summary.json").read_text())
    assert set(found["mean"]) == set(expected["mean"])
    # nnU-Net sums its tiles in half precision, which moves up to two voxels of a scan.
    for label, scores in expected["mean"].items():
        assert found["mean"][label]["Dice"] == pytest.approx(scores["Dice"], abs=3e-4)

    short = [
        "--set=training.num_epochs=9", "--set=training.iterations_per_epoch=2",
        "--set=training.validation_iterations_per_epoch=1", "--set=training.final_validation=false",
    ]  # fmt: skip
    assert fw_train([*arguments, "--c", *short]) == 0
    assert "8 of 9 epochs completed" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(9))
    # It goes on from where it was: a network that starts anew has a loss above 0.
    assert rows[8]["train_loss"] < -0.5
