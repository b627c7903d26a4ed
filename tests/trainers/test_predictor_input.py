from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from framework.errors import CheckpointError, DatasetError, FoldwiseError
from framework.inference import Predictor
from framework.inference.prediction_report import FailedCases
from tests.builders import TINY, make_tiny_dataset, use_roots
from tests.framework.dicom_builder import write_series
from trainers import SegmentationTrainer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a trained tiny fold."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        overrides = TINY | {"training.num_epochs": 1, "training.final_validation": False}
        trainer = SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", overrides=overrides, device="cpu")
        trainer.run_training()
        assert trainer.run_folder is not None
        return trainer.run_folder.model_folder


def test_an_array_is_segmented_on_its_own_grid(model: Path):
    labels = Predictor(model, device="cpu").predict(np.random.default_rng(0).normal(size=(9, 30, 21)), (2.0, 1.5, 1.0))
    assert labels.shape == (9, 30, 21)
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_what_does_not_fit_the_training_is_told(model: Path, tmp_path: Path):
    predictor = Predictor(model, folds=[0], device="cpu")
    with pytest.raises(DatasetError, match=r"found an image of shape \(2, 8, 8, 8\), expected \(1, X, Y, Z\)"):
        predictor.predict(np.zeros((2, 8, 8, 8)))
    with pytest.raises(DatasetError, match="expected three positive numbers in mm"):
        predictor.predict(np.zeros((8, 8, 8)), spacing=(1.0, 0.0, 1.0))
    with pytest.raises(DatasetError, match=r"holds no file CASE_0000\.nii\.gz"):
        predictor.predict_files(tmp_path, tmp_path / "out")
    (tmp_path / "scan_0001.nii.gz").touch()
    with pytest.raises(DatasetError, match="scan"):
        predictor.predict_files(tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match="fold_3"):
        Predictor(model, folds=[3])
    with pytest.raises(FoldwiseError, match="is not a folder"):
        Predictor(tmp_path / "nowhere")


def test_dicom_series_are_segmented_as_the_same_scans_in_nifti_are(model: Path, tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 500, (9, 30, 21)).astype(np.int16)
    for number, name in enumerate(("first", "second_0000")):
        write_series(tmp_path / "dicom" / name, np.roll(values, number, axis=1))
    (tmp_path / "nifti").mkdir()
    for number, name in enumerate(("first", "second")):
        image = SimpleITK.GetImageFromArray(np.roll(values, number, axis=1))
        image.SetSpacing((0.5, 0.75, 2.5))
        image.SetOrigin((-10.0, 20.0, 5.0))
        SimpleITK.WriteImage(image, str(tmp_path / "nifti" / f"{name}_0000.nii.gz"))
    predictor = Predictor(model, device="cpu")
    written = {
        kind: predictor.predict_files(tmp_path / kind, tmp_path / f"out_{kind}", report=lambda text: None)
        for kind in ("dicom", "nifti")
    }
    assert [path.name for path in written["dicom"]] == ["first.nii.gz", "second.nii.gz"]
    for one, other in zip(written["dicom"], written["nifti"], strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_scans_that_cannot_be_segmented_are_named(model: Path, tmp_path: Path):
    predictor = Predictor(model, device="cpu")
    broken = np.zeros((9, 20, 21), np.float32)
    broken[1, 2, 3] = np.nan
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(broken), str(tmp_path / "scan_0000.nii.gz"))
    with pytest.raises(FailedCases, match=r"scan +reading +.*scan_0000.nii.gz has 1 NaN"):
        predictor.predict_files(tmp_path, tmp_path / "out")
