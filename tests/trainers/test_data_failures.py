"""What becomes of a training when its data fails: a clear end, everything learned is saved, the run goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.commands.train import main as fw_train
from framework.data.case_files import load_case, write_case
from framework.errors import DatasetError
from tests.builders import TINY, make_tiny_dataset, overrides_as_options, use_roots
from trainers import SegmentationTrainer

SHORT = TINY | {"training.final_validation": False}
OPTIONS = ["7", "3d_fullres", "0", "-p", "laptop", "-device", "cpu"]

KILL_A_WORKER = """
import os, signal, time
from framework.hook import Hook

class KillAWorker(Hook):
    def on_step_start(self, trainer, batch):
        if trainer.global_step == 4:
            worker = trainer.training_batches.batches._iterator._workers[0]
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        tiny()
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny preprocessed dataset of the test's own, to be damaged."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    use_roots(tmp_path, monkeypatch)
    return tmp_path / "preprocessed" / "Dataset007_Tiny"


def tiny(**options: Any) -> SegmentationTrainer:
    return SegmentationTrainer.from_dataset(
        7, "3d_fullres", plans="laptop", overrides=SHORT, device="cpu", report=lambda message: None, **options
    )


def test_a_killed_worker_ends_the_run_with_a_checkpoint_and_it_goes_on_bitwise(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kill.py").write_text(KILL_A_WORKER)
    changes = overrides_as_options(SHORT | {"training.num_workers": 2})
    assert fw_train([*OPTIONS, *changes, "--hook", f"{tmp_path / 'kill.py'}:KillAWorker"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: a data worker was ended by the system when batch 5 was due")
    assert "run out of memory" in captured.err
    run = tmp_path / "results/Dataset007_Tiny/SegmentationTrainer__laptop__3d_fullres/fold_0"
    assert (run / "checkpoint_latest.pth").exists()
    assert fw_train([*OPTIONS, "--c"]) == 0
    assert "resuming from checkpoint_latest.pth: 1 of 2 epochs completed, 2 of 3 steps" in capsys.readouterr().out
    resumed = torch.load(run / "checkpoint_final.pth", weights_only=True)["network_weights"]
    os.rename(run, run.with_name("fold_killed"))
    whole = tiny()
    whole.run_training()
    expected = torch.load(run / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_case_of_the_split_that_is_not_on_the_disk_is_named_before_training(folder: Path) -> None:
    trainer = tiny()
    splits = json.loads((folder / "splits_final.json").read_text()) if (folder / "splits_final.json").exists() else []
    splits = splits or [{"train": trainer.training_cases, "val": trainer.validation_cases}]
    splits[0]["train"].append("heart_099")
    (folder / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(DatasetError, match=r"fold 0: 1 train case\(s\) do not exist: heart_099"):
        tiny().setup()


def test_an_empty_fold_is_refused(folder: Path) -> None:
    cases = tiny().training_cases
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases, "val": []}]))
    with pytest.raises(DatasetError, match="fold 0: 'val' is empty"):
        tiny().setup()


@pytest.mark.parametrize("what", ["truncated", "no segmentation"])
def test_broken_cases_are_told_before_the_first_epoch(folder: Path, what: str) -> None:
    case = tiny().validation_cases[0]
    file = folder / "laptop_3d_fullres" / f"{case}{'' if what == 'truncated' else '_seg'}.b2nd"
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        file.unlink()
    # `from_dataset` would preprocess the case again; a run folder that was copied elsewhere has no raw data.
    trainer = tiny()
    if file.exists() and what == "truncated":
        file.write_bytes(file.read_bytes()[:-50])
    elif file.exists():
        file.unlink()
    wanted = "truncated or damaged" if what == "truncated" else "_seg.b2nd does not exist"
    with pytest.raises(DatasetError, match=rf"(?s)1 case\(s\) .* cannot be used.*case '{case}'.*{wanted}"):
        trainer.setup()


def test_thin_and_tiny_images_and_classes_that_occur_nowhere_train(folder: Path) -> None:
    cases = tiny().training_cases
    rng = np.random.default_rng(0)
    for case, shape in zip(cases, [(1, 30, 30), (3, 5, 4), (30, 1, 1)]):
        segmentation = np.zeros((1, *shape), np.int16)
        segmentation[0, 0, 0, 0] = 1  # label 2 occurs in none of them
        locations = {1: np.array([[0, 0, 0, 0]]), 2: []}
        data = rng.normal(size=(1, *shape)).astype(np.float32)
        write_case(folder / "laptop_3d_fullres", case, data, segmentation, {"class_locations": locations}, (8, 16, 16))
    splits = [{"train": cases[:3], "val": cases[3:]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    trainer = tiny()
    trainer.run_training()
    assert np.isfinite(trainer.history["train_loss"]).all()


def put_nan_into(folder: Path, case: str) -> None:
    """One in four voxels of a preprocessed case, so that every patch has some."""
    data, segmentation = load_case(folder / "laptop_3d_fullres", case)
    data = data.copy()
    data[:, ::2, ::2] = np.nan
    properties = tiny().store.properties(case)
    write_case(folder / "laptop_3d_fullres", case, data, segmentation, properties, (8, 16, 16))


def test_nan_voxels_of_a_training_case_are_left_out_and_the_case_is_named(folder: Path) -> None:
    case = tiny().training_cases[0]
    put_nan_into(folder, case)
    trainer = tiny()
    messages: list[str] = []
    trainer.report = messages.append
    trainer.run_training()
    assert trainer.run_folder is not None
    lines = [json.loads(line) for line in trainer.run_folder.non_finite.read_text().splitlines()]
    # Six batches of two patches from four cases: exactly those with this case are listed.
    training, _ = trainer.build_batches()
    expected = [number for number in range(6) if case in training(number).case_names]
    assert [line["global_step"] for line in lines] == expected
    assert 0 < len(expected) < 6
    assert all(line["losses"]["dice"] == line["losses"]["cross_entropy"] == "nan" for line in lines)
    warnings = [message for message in messages if message.startswith("warning: NaN or Inf in ")]
    assert len(warnings) == len({line["epoch"] for line in lines})
    assert all(f"'{case}' (" in message for message in warnings)
    assert trainer.update.skipped_updates == len(expected)
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())
    assert np.isfinite(trainer.history["val_loss"]).all()


def test_where_nan_voxels_end_a_training_the_command_names_case_and_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in tiny().training_cases:
        put_nan_into(folder, case)
    changes = overrides_as_options(SHORT | {"training.max_non_finite_updates": 2})
    assert fw_train([*OPTIONS, *changes]) == 2
    message = capsys.readouterr().err
    run = tmp_path / "results/Dataset007_Tiny/SegmentationTrainer__laptop__3d_fullres/fold_0"
    saved = torch.load(run / "non_finite_batch.pth", weights_only=True)
    first, second = saved["case_names"]
    cases = f"'{first}'" if first == second else f"'{first}', '{second}'"
    assert f"In batch 1, the last of them, data of case {cases} has NaN or Inf." in message
    assert f"That batch is saved as {run / 'non_finite_batch.pth'}." in message
    assert saved["batch"]["data"].shape == (2, 1, 8, 16, 16)
    assert saved["batch"]["target"].shape == (2, 1, 8, 16, 16)


def test_nan_voxels_of_a_validation_case_are_told_and_spoil_neither_dice_nor_average(folder: Path) -> None:
    case = tiny().validation_cases[0]
    put_nan_into(folder, case)
    trainer = tiny()
    trainer.run_training()
    assert trainer.run_folder is not None
    lines = [json.loads(line) for line in trainer.run_folder.non_finite.read_text().splitlines()]
    _, validation = trainer.build_batches()
    expected = [number for number in range(2) if case in validation(number).case_names]
    assert expected
    assert [(line["phase"], line["epoch"], line["step"]) for line in lines] == [
        ("validation", epoch, step) for epoch in range(2) for step in expected
    ]
    assert all(case in line["case_names"] for line in lines)
    assert np.isnan(trainer.history["val_loss"]).all()
    assert np.isfinite(trainer.history["ema_fg_dice"]).all()
    assert trainer.run_folder.best_checkpoint.exists()
