from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.base_trainer import BaseTrainer
from framework.errors import FoldwiseError
from framework.history import History
from framework.hook import Hook
from framework.hooks.console import Console, duration_text
from framework.hooks.early_stopping import EarlyStopping
from framework.hooks.progress_plot import draw_progress
from framework.run_folder import RunFolder
from tests.framework.toy_trainer import ToyTrainer, toy_settings


def test_weight_averaging_is_the_closed_form():
    seen: list[torch.Tensor] = []

    class Watch(Hook):
        def on_update(self, trainer: BaseTrainer) -> None:
            seen.append(trainer.network.head.bias.detach().clone())  # type: ignore[union-attr]

    settings = toy_settings(num_epochs=1, weight_averaging=0.6, validation_iterations_per_epoch=0)
    trainer = ToyTrainer(settings, device="cpu", hooks=[Watch()])
    trainer.setup()
    average = trainer.network.head.bias.detach().clone()
    trainer.run_training()
    for update, weights in enumerate(seen, start=1):
        decay = min(0.6, (1 + update) / (10 + update))  # the warm-up of the decay
        average = decay * average + (1 - decay) * weights
    # After the epoch the network holds the average, the hook the trained weights.
    assert torch.allclose(trainer.network.head.bias, average, atol=1e-7)


def test_patience_counts_epochs_without_enough_improvement():
    # Losses 1.0, 0.9, 0.9 - 5e-7, 0.95, 0.89 with a delta of 1e-6: bad counts 0, 0, 1, 2, 0.
    hook, counts = EarlyStopping(patience=9, min_delta=1e-6), []
    trainer = ToyTrainer(toy_settings(), device="cpu")
    for loss in (1.0, 0.9, 0.9 - 5e-7, 0.95, 0.89):
        trainer.history.start_epoch()
        trainer.history.add(val_loss=loss)
        trainer.history.complete_epoch(0)
        hook.on_epoch_end(trainer)
        counts.append(hook.bad_epochs)
    assert counts == [0, 0, 1, 2, 0]


def test_a_first_epoch_of_nan_does_not_freeze_the_best():
    hook = EarlyStopping(patience=2, monitor="dice", mode="max")
    trainer = ToyTrainer(toy_settings(), device="cpu")
    for value in (math.nan, 0.5, 0.6):
        trainer.history.start_epoch()
        trainer.history.add(dice=value)
        trainer.history.complete_epoch(0)
        hook.on_epoch_end(trainer)
    assert (hook.best, trainer.stop_reason) == (0.6, None)


def test_early_stopping_ends_the_training(tmp_path: Path):
    settings = toy_settings(num_epochs=50, initial_lr=0.0, early_stopping={"patience": 3})
    trainer = ToyTrainer(settings, run_folder=tmp_path, device="cpu")
    trainer.run_training()
    # With a learning rate of 0 nothing improves after the first epoch.
    assert len(trainer.history) == 4
    assert "has not improved for 3 epochs" in (trainer.stop_reason or "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path: Path, number: int):
    class Kill(Hook):
        def on_loss(self, trainer: BaseTrainer, losses: dict[str, Any]) -> None:
            if trainer.global_step == 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    trainer = ToyTrainer(toy_settings(num_epochs=9), run_folder=tmp_path, device="cpu", hooks=[Kill()])
    trainer.run_training()
    assert trainer.interrupted
    assert signal.getsignal(number) == before
    resumed = ToyTrainer(toy_settings(num_epochs=9), run_folder=tmp_path, device="cpu")
    assert resumed.resume()
    assert resumed.global_step == 5


def test_history_file_has_one_line_per_epoch_and_no_nan(tmp_path: Path):
    class AddNaN(Hook):
        def on_validation_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
            trainer.history.add(mean_fg_dice=math.nan, per_class=[0.5, math.nan])

    ToyTrainer(toy_settings(), run_folder=tmp_path, device="cpu", hooks=[AddNaN()]).run_training()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[1]["mean_fg_dice"] is None
    assert rows[1]["per_class"] == [0.5, None]
    assert {"train_loss", "train_loss/value", "val_loss", "lr", "seconds"} <= set(rows[0])


def test_gradient_norm_and_skipped_updates_are_recorded():
    class OneBadBatch(ToyTrainer):
        def compute_losses(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            losses = super().compute_losses(batch)
            return {"value": losses["value"] * (math.nan if self.global_step == 1 else 1.0)}

    trainer = OneBadBatch(toy_settings(num_epochs=1, gradient_clip_norm=1e-3), device="cpu")
    messages: list[str] = []
    trainer.report = messages.append
    trainer.run_training()
    assert trainer.history["skipped_updates"] == [1]
    assert trainer.history["gradient_norm"][0] > 1e-3  # as it was before clipping
    assert "1 updates skipped (NaN or Inf)" in messages[-1]


def test_checkpoints_follow_the_settings(tmp_path: Path):
    saved: list[tuple[int, str]] = []

    class Noting(ToyTrainer):
        def save_checkpoint(self, tag: str) -> None:
            saved.append((self.progress.epochs_completed, tag))
            super().save_checkpoint(tag)

    settings = toy_settings(num_epochs=5, checkpoint_every_epochs=2, checkpoint_every_minutes=None)
    Noting(settings, run_folder=tmp_path, device="cpu").run_training()
    assert [epoch for epoch, tag in saved if tag == "latest"] == [2, 4]
    assert saved[-1] == (5, "final")
    assert not (tmp_path / "checkpoint_latest.pth").exists()


def test_an_earlier_run_is_kept_under_another_name(tmp_path: Path):
    folder = tmp_path / "fold_0"
    ToyTrainer(toy_settings(), run_folder=folder, device="cpu").run_training()
    first = (folder / "history.jsonl").read_text()
    ToyTrainer(toy_settings(num_epochs=1), run_folder=folder, device="cpu").run_training()
    assert (tmp_path / "fold_0_before_1" / "history.jsonl").read_text() == first
    assert len((folder / "history.jsonl").read_text().splitlines()) == 1


def test_one_fold_is_not_trained_twice_at_once(tmp_path: Path):
    pytest.importorskip("fcntl")
    held = RunFolder(tmp_path)
    held.lock()
    with pytest.raises(FoldwiseError, match=f"is being trained by process {os.getpid()}"):
        RunFolder(tmp_path).lock()
    held.unlock()
    RunFolder(tmp_path).lock()


def test_the_log_file_holds_what_was_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ToyTrainer(toy_settings(), run_folder=tmp_path, device="cpu").run_training()
    printed = capsys.readouterr().out
    log = next(tmp_path.glob("training_log_*.txt")).read_text()
    assert "epoch 2/2" in printed
    assert "epoch 2/2" in log


@pytest.mark.parametrize(("precision", "warned"), [("bf16", True), ("fp32", False), ("auto", False)])
def test_bf16_on_a_cpu_comes_with_a_warning(precision: str, warned: bool):
    trainer, said = ToyTrainer(toy_settings(precision=precision), device="cpu"), []
    trainer.report = said.append
    trainer.setup()
    Console().on_train_start(trainer)
    assert any("bf16 on a CPU" in line for line in said) == warned


def test_a_training_of_days_on_a_cpu_names_the_way_out():
    messages: list[str] = []

    class Slow(Hook):
        priority = 5

        def on_step_start(self, trainer: BaseTrainer, batch: Any) -> None:
            import time

            time.sleep(0.002)

    settings = toy_settings(num_epochs=10**7, iterations_per_epoch=20)
    trainer = ToyTrainer(settings, device="cpu", hooks=[Slow()])
    trainer.report = messages.append
    trainer.attach(_StopAfterOneEpoch())
    trainer.run_training()
    text = "\n".join(messages)
    assert "estimated training time" in text
    assert text.index("estimated training time") < text.index("epoch        1/")
    assert "-p laptop" in text


class _StopAfterOneEpoch(Hook):
    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        trainer.request_stop("enough")


def test_durations_read_well():
    assert [duration_text(s) for s in (45, 600, 12600, 200000)] == ["45 s", "10 min", "3.5 h", "2.3 days"]


def test_the_progress_picture_is_drawn(tmp_path: Path):
    history = History()
    for epoch in range(4):
        history.start_epoch()
        history.add(train_loss=1 / (1 + epoch), lr=0.1, seconds=2.0, data_wait_seconds=0.1)
        if epoch % 2:
            history.add(val_loss=0.5, mean_fg_dice=0.5, ema_fg_dice=0.4, dice_per_class_or_region=[0.4, math.nan])
        history.complete_epoch(epoch)
    draw_progress(history, tmp_path / "progress.png", ["one", "two"])
    assert (tmp_path / "progress.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
