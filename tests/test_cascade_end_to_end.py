"""A whole cascade, as a user runs it: planned, both stages trained and validated, and new scans predicted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch

from framework.data.image_io import read_segmentation
from framework.data.phantom import make_phantom_dataset
from framework.evaluation.overlap import score_case
from framework.evaluation.summary import read_summary
from tests.builders import overrides_as_options, use_roots

pytestmark = pytest.mark.slow

DATASET = "Dataset009_Large"
CASES = [f"phantom_{number:03d}" for number in range(4)]
SHORT = {
    "training.num_epochs": 1,
    "training.iterations_per_epoch": 60,
    "training.validation_iterations_per_epoch": 2,
    "training.num_workers": 0,
    "training.optimizer": "AdamW",
    "training.initial_lr": 0.005,
    "training.schedule": {"name": "cosine", "unit": "iteration", "warmup": 5},
    "architecture.arch_kwargs.features_per_stage": [8, 12, 16, 16],
}


def run(command: str, *arguments: str, exit_code: int = 0) -> str:
    result = subprocess.run(
        [str(Path(sys.executable).with_name(command)), *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == exit_code, result.stdout + result.stderr
    return result.stdout + result.stderr


def train(configuration: str, fold: int, exit_code: int = 0) -> str:
    arguments = [DATASET, configuration, str(fold), "-p", "nnUNetPlans", "-device", "cpu"]
    return run("fw_train", *arguments, *overrides_as_options(SHORT), exit_code=exit_code)


def test_a_planned_cascade_is_trained_validated_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use_roots(tmp_path, monkeypatch)
    raw = make_phantom_dataset(
        tmp_path / "raw", DATASET, num_cases=4, num_labels=2, shape=(48, 88, 88), spacing=(1, 1, 1), seed=1
    )
    assert sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir()) == CASES
    splits = [{"train": CASES[:2], "val": CASES[2:]}, {"train": CASES[2:], "val": CASES[:2]}]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    # So little memory that a patch sees a small part of a scan: then nnU-Net's rules plan a cascade.
    run("fw_plan", DATASET, "-gpu_memory_target", "0.15", "--no_pbar")
    results = tmp_path / "results" / DATASET

    # Nothing is preprocessed for the second stage yet.
    for fold in (0, 1):
        train("3d_lowres", fold)
    lowres = results / "SegmentationTrainer__nnUNetPlans__3d_lowres"
    handed_over = lowres / "predicted_next_stage" / "3d_cascade_fullres"
    assert {path.stem for path in handed_over.iterdir()} == set(CASES)
    train("3d_cascade_fullres", 0)
    fullres_data = tmp_path / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres"
    handed_over_dice = []
    for case in CASES:
        labels = blosc2.open(str(handed_over / f"{case}.b2nd"))
        target = blosc2.open(str(fullres_data / f"{case}_seg.b2nd"))
        assert labels.shape == target.shape[1:]
        handed_over_dice.append(score_case(labels[...], np.maximum(target[0], 0), [1])[1]["Dice"])
    assert np.mean(handed_over_dice) > 0.6  # 60 iterations on two cases

    fold_folder = results / "SegmentationTrainer__nnUNetPlans__3d_cascade_fullres" / "fold_0"
    weights = torch.load(fold_folder / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 1 + 2  # the scan and two labels
    summary = read_summary(fold_folder / "validation" / "summary.json")
    assert [Path(entry["prediction_file"]).name for entry in summary["metric_per_case"]] == [
        f"{case}.nii.gz" for case in CASES[2:]
    ]
    assert summary["mean"][1]["Dice"] > 0.65
    assert len(list((fold_folder / "validation" / "pictures").iterdir())) == 2

    # Both stages from the scans alone, with the networks of fold 0, which have not seen this case.
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    case = CASES[3]
    shutil.copy(raw / f"imagesTr/{case}_0000.nii.gz", scans)
    chosen = ["-i", str(scans), "-d", DATASET, "-p", "nnUNetPlans", "-f", "0", "-device", "cpu"]
    run("fw_predict", *chosen, "-c", "3d_cascade_fullres", "-o", str(out))
    reference = read_segmentation(raw / f"labelsTr/{case}.nii.gz")[0]
    predicted = read_segmentation(out / f"{case}.nii.gz")[0]
    in_validation = read_segmentation(fold_folder / "validation" / f"{case}.nii.gz")[0]
    # The first stage's labels reach the second one by way of the scan's grid here, and directly in the validation.
    assert score_case(predicted, in_validation, [1])[1]["Dice"] > 0.97
    assert score_case(predicted, reference, [1])[1]["Dice"] > 0.65
    # The second stage alone, on segmentations that are there, as with nnU-Net.
    second = ["-c", "3d_cascade_fullres", "-prev_stage_predictions", str(out / "predicted_3d_lowres")]
    run("fw_predict", *chosen, *second, "-o", str(tmp_path / "second"))
    np.testing.assert_array_equal(read_segmentation(tmp_path / "second" / f"{case}.nii.gz")[0], predicted)
