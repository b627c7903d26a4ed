"""``--set`` on a continued run: new numbers are taken and recorded, what would break the run is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from framework.checkpoint import load_checkpoint
from framework.errors import PlansError
from tests.builders import TINY, make_tiny_dataset, use_roots
from trainers import SegmentationTrainer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        tiny(overrides={"training.num_epochs": 1}).run_training()
    return folder


@pytest.fixture
def run_of_one_epoch(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run of one epoch, in a copy that the test may continue."""
    use_roots(prepared, monkeypatch)
    shutil.copytree(prepared / "results", tmp_path / "results")
    monkeypatch.setenv("FW_RESULTS", str(tmp_path / "results"))


def tiny(**options: Any) -> SegmentationTrainer:
    overrides = TINY | {"training.final_validation": False} | options.pop("overrides", {})
    return SegmentationTrainer.from_dataset(
        7, "3d_fullres", plans="laptop", overrides=overrides, device="cpu", **options
    )


def test_a_continued_run_takes_new_numbers_and_records_them(run_of_one_epoch: None):
    changes = {"training.num_epochs": 2, "training.weight_decay": 0.5, "training.initial_lr": 0.001}
    messages: list[str] = []
    longer = tiny(overrides=changes, resume=True, report=messages.append)
    assert any("num_epochs 1 -> 2" in message and "weight_decay" in message for message in messages)
    assert {group["weight_decay"] for group in longer.optimizer.param_groups} == {0.5}
    longer.run_training()
    assert len(longer.history) == 2
    assert longer.run_folder is not None
    own = load_checkpoint(longer.run_folder.final_checkpoint)["foldwise"]
    assert own["changed_settings"][0]["epochs_completed"] == 1
    assert own["changed_settings"][0]["changes"]["num_epochs"] == (1, 2)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("patch_size", [32, 32, 32], "patch_size"),
        ("architecture.arch_kwargs.n_stages", 2, "architecture"),
        ("training.seed", 9, "training.seed"),
        ("batch_size", 5, "batch_size"),
        ('training["optimizer"].name', "SGD", "training.optimizer"),
    ],
)
def test_a_continued_run_refuses_what_would_break_it_by_name(
    run_of_one_epoch: None, path: str, value: object, field: str
):
    with pytest.raises(PlansError, match=f"--set {re.escape(path)}: .* cannot change '{field}'"):
        tiny(overrides={path: value}, resume=True)


def test_a_continued_run_whose_plans_are_gone_takes_them_from_its_checkpoint(run_of_one_epoch: None):
    run = tiny(resume=True).run_folder
    assert run is not None
    run.plans.unlink()
    trainer = SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", device="cpu", resume=True)
    assert trainer.settings.num_epochs == 1
    assert trainer.settings.iterations_per_epoch == TINY["training.iterations_per_epoch"]


def test_damaged_plans_of_a_continued_run_say_where_else_they_are(run_of_one_epoch: None):
    run = tiny(resume=True).run_folder
    assert run is not None
    run.plans.write_bytes(bytes(run.plans.stat().st_size))
    with pytest.raises(PlansError, match=r"plans\.json is not valid JSON.*checkpoints hold the same plans"):
        tiny(resume=True)


def test_a_changed_split_is_told(
    run_of_one_epoch: None, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(prepared / "preprocessed", tmp_path / "preprocessed")
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    splits_file = tmp_path / "preprocessed/Dataset007_Tiny/splits_final.json"
    splits = json.loads(splits_file.read_text())
    splits[0]["train"] = splits[0]["train"][:-1]
    splits_file.write_text(json.dumps(splits))
    messages: list[str] = []
    tiny(resume=True, report=messages.append)
    (warning,) = [message for message in messages if message.startswith("warning")]
    assert "the training cases" in warning
    assert "the validation cases" not in warning
