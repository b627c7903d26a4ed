from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.base_trainer import BaseTrainer
from framework.errors import CheckpointError
from framework.hook import Hook
from framework.inference import Predictor
from tests.builders import TINY, make_tiny_dataset, use_roots
from trainers import TRAINERS, SegmentationTrainer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset, planned and preprocessed once for all tests of this file."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", device="cpu", report=lambda message: None)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data that tests share, results of their own."""
    use_roots(prepared, monkeypatch)
    monkeypatch.setenv("FW_RESULTS", str(tmp_path / "results"))
    return tmp_path


def tiny(trainer: type[SegmentationTrainer] = SegmentationTrainer, **options: Any) -> SegmentationTrainer:
    overrides = TINY | options.pop("overrides", {})
    return trainer.from_dataset(7, "3d_fullres", plans="laptop", overrides=overrides, device="cpu", **options)


def test_a_fold_is_trained_validated_and_documented(folder: Path, capsys: pytest.CaptureFixture[str]):
    trainer = tiny()
    trainer.run_training()
    run = trainer.run_folder
    assert run is not None
    assert run.folder == folder / "results/Dataset007_Tiny/SegmentationTrainer__laptop__3d_fullres/fold_0"
    names = {path.name for path in run.folder.iterdir()}
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "history.jsonl", "progress.png", "plans.json"} <= names
    assert {"plans.json", "dataset.json", "dataset_fingerprint.json"} <= {p.name for p in run.model_folder.iterdir()}
    summary = json.loads(run.validation_summary.read_text())
    assert len(summary["metric_per_case"]) == len(trainer.validation_cases) == 2
    assert set(summary["mean"]) == {"1", "2"}
    pictures = sorted(path.name for path in (run.validation / "pictures").iterdir())
    assert [name[:4] for name in pictures] == ["001_", "002_"]
    assert {name[4:-4] for name in pictures} == set(trainer.validation_cases)
    lines = (run.validation / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2  # a heading, and for each case two labels
    assert {"Dice", "HD95 (mm)", "ASSD (mm)", "NSD"} <= set(lines[0].split(","))
    assert json.loads(run.plans.read_text())["configurations"]["3d_fullres"]["training"]["num_epochs"] == 2
    printed = capsys.readouterr().out
    assert "mean validation Dice: " in printed
    assert {"train_loss/dice", "train_loss/cross_entropy", "ema_fg_dice"} <= set(trainer.history.columns)


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        if trainer.global_step + 1 == self.step:
            trainer.request_checkpoint("latest")
            trainer.request_stop("test", immediately=True)


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_fold_equals_an_uninterrupted_one_bitwise(folder: Path, step: int):
    changes = {"training.final_validation": False, "training.weight_averaging": 0.9}
    whole = tiny(overrides=changes)
    whole.run_training()
    stopped = tiny(overrides=changes, hooks=[StopAt(step)])
    stopped.run_training()
    assert stopped.interrupted
    # Plans and settings come from the run folder; one worker process instead of none must not matter.
    resumed = SegmentationTrainer.from_dataset(
        7, "3d_fullres", plans="laptop", device="cpu", resume=True, overrides={"training.num_workers": 1}
    )
    assert resumed.settings.num_epochs == 2
    resumed.run_training()
    weights, again = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    momentum, momentum_again = whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]
    assert str(momentum) == str(momentum_again)
    for column in ("train_loss", "val_loss", "ema_fg_dice", "dice_per_class_or_region", "lr"):
        assert np.array_equal(whole.history[column], resumed.history[column], equal_nan=True)


def test_cases_held_on_the_device_train_the_same_weights_bitwise(folder: Path):
    """On a CPU, which plays the device: patches are cut and finished there, one batch ahead."""
    changes = {"training.final_validation": False}
    usual = tiny(overrides=changes)
    usual.run_training()
    on_device = tiny(overrides=changes | {"training.store": "device"})
    on_device.execution = dataclasses.replace(on_device.execution, finish_on_device=True)
    messages: list[str] = []
    on_device.report = messages.append
    on_device.run_training()
    assert any("6 cases are held on cpu" in message for message in messages)
    ours, expected = on_device.network.state_dict(), usual.network.state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert on_device.history["ema_fg_dice"] == usual.history["ema_fg_dice"]


def test_cases_that_do_not_fit_on_the_device_are_read_as_usual(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trainers.segmentation.free_memory", lambda device: 1000)
    trainer = tiny(overrides={"training.final_validation": False, "training.store": "device"})
    messages: list[str] = []
    trainer.report = messages.append
    trainer.run_training()
    assert any(
        "cpu has 1000 bytes free, of which cases may take 50%; they are read as with 'auto'" in m for m in messages
    )
    assert len(trainer.history) == 2


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(folder: Path):
    losses = []
    for seed in (0, 0, 1):
        trainer = tiny(overrides={"training.final_validation": False, "training.num_epochs": 1, "training.seed": seed})
        trainer.run_training()
        losses.append(trainer.history["train_loss"][-1])
    assert losses[0] == losses[1] != losses[2]


def test_the_checkpoint_has_nnunets_keys_and_loads_safely(folder: Path):
    trainer = tiny(overrides={"training.final_validation": False})
    trainer.run_training()
    assert trainer.run_folder is not None
    state = torch.load(trainer.run_folder.final_checkpoint, weights_only=True)
    assert {
        "network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch",
        "init_args", "trainer_name", "inference_allowed_mirroring_axes",
    } <= set(state)  # fmt: skip
    assert state["current_epoch"] == 2
    assert state["trainer_name"] == "nnUNetTrainer"
    assert {len(values) for values in state["logging"].values()} == {2}
    assert any(".all_modules." in name for name in state["network_weights"])
    assert any(name.startswith("decoder.encoder.") for name in state["network_weights"])


def test_pretrained_weights_are_loaded_but_for_the_heads(folder: Path):
    source = tiny(overrides={"training.final_validation": False, "training.num_epochs": 1})
    source.run_training()
    assert source.run_folder is not None
    path = shutil.copy(source.run_folder.final_checkpoint, folder / "pretrained.pth")
    trainer = tiny(overrides={"training.seed": 5})
    trainer.load_pretrained_weights(path)
    ours, theirs = trainer.network.state_dict(), source.network.state_dict()
    same = {name: torch.equal(ours[name], theirs[name]) for name in ours}
    # Biases of heads start at zero in both.
    assert not any(equal for name, equal in same.items() if ".seg_layers." in name and name.endswith("weight"))
    assert all(equal for name, equal in same.items() if ".seg_layers." not in name)
    wider = tiny(overrides={"architecture.arch_kwargs.features_per_stage": [4, 8, 16]})
    with pytest.raises(CheckpointError, match="weights differ"):
        wider.load_pretrained_weights(path)


def test_validation_goes_on_where_it_was_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import trainers.fold_validation as fold_validation

    predicted: list[str] = []
    original = fold_validation._write_case

    def counting(trainer: SegmentationTrainer, case: str, *more: Any) -> None:
        predicted.append(case)
        original(trainer, case, *more)
        if len(predicted) == 1:
            trainer.request_stop("test", immediately=True)

    # Written in the thread that predicts: the signal comes when the second case has not begun.
    monkeypatch.setattr(fold_validation, "predict_cases", partial(fold_validation.predict_cases, num_writers=0))
    monkeypatch.setattr(fold_validation, "_write_case", counting)
    first = tiny()
    first.run_training()
    assert first.run_folder is not None
    assert not first.run_folder.validation_summary.exists()
    second = SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", device="cpu", resume=True)
    second.run_training()
    assert predicted == second.validation_cases
    assert first.run_folder.validation_summary.exists()


def test_prediction_equals_the_validation_of_the_training(folder: Path, prepared: Path):
    trainer = tiny()
    trainer.run_training()
    assert trainer.run_folder is not None
    images = folder / "images"
    images.mkdir()
    for case in trainer.validation_cases:
        shutil.copy(prepared / f"raw/Dataset007_Tiny/imagesTr/{case}_0000.nii.gz", images)
    # The run folder is complete in itself: the data may be gone.
    predictor = Predictor(trainer.run_folder.folder, device="cpu")
    for path in predictor.predict_files(images, folder / "out"):
        assert path.read_bytes() == (trainer.run_folder.validation / path.name).read_bytes()


def test_regions_and_two_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use_roots(tmp_path, monkeypatch)
    dataset = make_tiny_dataset(tmp_path / "raw", num_channels=2, num_labels=3)
    description = json.loads((dataset / "dataset.json").read_text())
    names = [name for name in description["labels"] if name != "background"]
    description["labels"] = {"background": 0, "all": [1, 2, 3], "core": [2, 3], names[2]: 3}
    description["regions_class_order"] = [1, 2, 3]
    (dataset / "dataset.json").write_text(json.dumps(description))
    trainer = tiny(overrides={"training.num_epochs": 1})
    trainer.run_training()
    assert trainer.num_output_channels == 3
    assert trainer.run_folder is not None
    summary = json.loads(trainer.run_folder.validation_summary.read_text())
    assert set(summary["mean"]) == {"(1, 2, 3)", "(2, 3)", "3"}
    assert len(list((trainer.run_folder.validation / "pictures").iterdir())) == 2


def test_a_2d_configuration_trains(folder: Path):
    overrides = {
        "training.num_epochs": 1, "training.iterations_per_epoch": 2, "training.validation_iterations_per_epoch": 1,
        "training.num_workers": 0, "batch_size": 2, "patch_size": [16, 16],
    }  # fmt: skip
    trainer = SegmentationTrainer.from_dataset(7, "2d", plans="laptop", overrides=overrides, device="cpu")
    trainer.run_training()
    assert trainer.run_folder is not None
    assert trainer.run_folder.validation_summary.exists()


@pytest.mark.parametrize("name", TRAINERS)
def test_every_listed_trainer_runs(folder: Path, name: str):
    from framework.extensions import find_trainer

    trainer = tiny(find_trainer(name), overrides={"training.num_epochs": 1, "training.final_validation": False})
    trainer.run_training()
    assert len(trainer.history) == 1
