"""Bundles between Foldwise and the real nnU-Net, and a real model that travels."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from benchmarks.yardstick import FOLDER as YARDSTICK
from framework.commands.export import main as fw_export
from framework.commands.import_model import main as fw_import
from framework.inference import Predictor
from tests.builders import TINY, make_tiny_dataset, use_roots
from trainers import SegmentationTrainer

DATASET, MODEL = "Dataset004_Hippocampus", "nnUNetTrainer__nnUNetPlans__3d_cpu"
CASE = "hippocampus_041"

needs_nnunet = pytest.mark.skipif(
    not (YARDSTICK / "bin/nnUNetv2_predict").exists(), reason="needs nnU-Net: python -m benchmarks setup"
)


@pytest.fixture
def reference(shared_data: Path) -> Path:
    return shared_data / "nnunet_reference/results" / DATASET / MODEL


def nnunet(program: str, folder: Path, *arguments: object) -> None:
    """Run a program of the real nnU-Net with all of its roots in `folder`."""
    roots = {f"nnUNet_{kind}": str(folder / kind) for kind in ("raw", "preprocessed", "results")}
    for root in roots.values():
        Path(root).mkdir(parents=True, exist_ok=True)
    command = [str(YARDSTICK / "bin" / program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | roots | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stdout + result.stderr


def labels_of(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def one_scan(shared_data: Path, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(shared_data / DATASET / "imagesTr" / f"{CASE}_0000.nii.gz", folder)
    return folder


@pytest.mark.shared_data
def test_a_model_of_nnunet_travels_and_predicts_the_same(reference: Path, shared_data: Path, tmp_path: Path):
    image = labels_of(shared_data / DATASET / "imagesTr" / f"{CASE}_0000.nii.gz")
    assert fw_export(["-m", str(reference), "-o", str(tmp_path / "model.zip"), "--licence", "CC-BY-SA-4.0"]) == 0
    assert fw_import([str(tmp_path / "model.zip"), "--into", str(tmp_path / "results")]) == 0
    imported = tmp_path / "results" / DATASET / MODEL
    # weights without momentum, and no histories
    sizes = [(folder / "fold_0/checkpoint_final.pth").stat().st_size for folder in (imported, reference)]
    assert sizes[0] < 0.55 * sizes[1]
    original, travelled = (Predictor(folder, device="cpu", mirror=False) for folder in (reference, imported))
    assert np.array_equal(travelled.predict(image), original.predict(image))


@pytest.mark.slow
@pytest.mark.shared_data
@needs_nnunet
def test_nnunet_installs_our_bundle_and_predicts_with_it(reference: Path, shared_data: Path, tmp_path: Path):
    assert fw_export(["-m", str(reference), "-o", str(tmp_path / "model.zip")]) == 0
    nnunet("nnUNetv2_install_pretrained_model_from_zip", tmp_path, tmp_path / "model.zip")
    scans = one_scan(shared_data, tmp_path / "scans")
    (tmp_path / "raw" / DATASET).mkdir()  # nnU-Net finds a dataset's name there
    nnunet(
        "nnUNetv2_predict", tmp_path, "-i", scans, "-o", tmp_path / "out", "-d", 4, "-c", "3d_cpu", "-f", 0,
        "--disable_tta", "-device", "cpu", "-npp", 1, "-nps", 1,
    )  # fmt: skip
    expected = labels_of(shared_data / "nnunet_reference/predicted_without_mirroring" / f"{CASE}.nii.gz")
    assert np.count_nonzero(labels_of(tmp_path / "out" / f"{CASE}.nii.gz") != expected) <= 2


@pytest.mark.slow
@needs_nnunet
def test_nnunet_predicts_with_a_model_that_was_trained_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use_roots(tmp_path / "ours", monkeypatch)
    raw = make_tiny_dataset(tmp_path / "ours/raw")
    overrides = TINY | {"training.num_epochs": 1, "training.final_validation": False}
    trainer = SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", overrides=overrides, device="cpu")
    trainer.run_training()
    assert fw_export(["7", "-o", str(tmp_path / "model.zip")]) == 0
    nnunet("nnUNetv2_install_pretrained_model_from_zip", tmp_path, tmp_path / "model.zip")
    scans = tmp_path / "scans"
    scans.mkdir()
    case = sorted((raw / "imagesTr").iterdir())[0]
    shutil.copy(case, scans)
    (tmp_path / "raw/Dataset007_Tiny").mkdir()
    nnunet(
        "nnUNetv2_predict", tmp_path, "-i", scans, "-o", tmp_path / "out", "-d", 7, "-c", "3d_fullres", "-f", 0,
        "-tr", "SegmentationTrainer", "-p", "laptop", "-device", "cpu", "-npp", 1, "-nps", 1,
    )  # fmt: skip
    assert trainer.run_folder is not None
    Predictor(trainer.run_folder.model_folder, device="cpu").predict_files(
        scans, tmp_path / "ours_out", report=lambda text: None
    )
    name = case.name.replace("_0000", "")
    ours, theirs = labels_of(tmp_path / "ours_out" / name), labels_of(tmp_path / "out" / name)
    # nnU-Net sums its tiles in half precision; after one epoch many voxels are near to a tie.
    assert np.mean(ours != theirs) < 0.01


@pytest.mark.slow
@pytest.mark.shared_data
@needs_nnunet
def test_a_zip_that_nnunet_exported_is_imported(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(reference, tmp_path / "results" / DATASET / MODEL, copy_function=shutil.copyfile)
    (tmp_path / "raw" / DATASET).mkdir(parents=True)
    nnunet("nnUNetv2_export_model_to_zip", tmp_path, "-d", 4, "-o", tmp_path / "nn.zip", "-c", "3d_cpu", "-f", 0)
    assert fw_import([str(tmp_path / "nn.zip"), "--into", str(tmp_path / "here")]) == 0
    assert "There are no checksums to compare with" in capsys.readouterr().out
    files = [
        folder / MODEL / "fold_0/checkpoint_final.pth" for folder in (tmp_path / "here" / DATASET, reference.parent)
    ]
    ours = torch.load(files[0], weights_only=True)
    theirs = torch.load(files[1], weights_only=False)
    assert ours["trainer_name"] == "nnUNetTrainer"
    for name, tensor in theirs["network_weights"].items():
        assert torch.equal(ours["network_weights"][name], tensor)
