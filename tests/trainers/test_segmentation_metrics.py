"""NaN in the pseudo-Dice or the validation loss: the moving average, the best epoch, and what is written of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.base_trainer import BaseTrainer
from framework.hook import Hook
from framework.hooks.early_stopping import EarlyStopping
from framework.hooks.progress_plot import draw_progress
from tests.framework.toy_trainer import ToyTrainer, toy_settings
from trainers.nnunet_checkpoint import history_rows, nnunet_logging
from trainers.segmentation_metrics import SegmentationMetrics

NAN = math.nan

# Voxel counts (true positive, false positive, false negative) of two classes; Dice is 2 TP / (2 TP + FP + FN).
NOTHING = [[0, 0], [0, 0], [0, 0]]  # both classes occur nowhere: NaN and NaN
HALF = [[1, 1], [1, 1], [1, 1]]  # 2 / 4 for both
ONE_CLASS = [[3, 0], [1, 0], [1, 0]]  # 6 / 8 for the first, NaN for the second
FULL = [[5, 5], [0, 0], [0, 0]]  # 1 for both


class PretendedCounts(ToyTrainer):
    """Epoch e finds the counts `epochs[e]` in every validation batch."""

    monitor = "ema_fg_dice"
    monitor_mode = "max"
    epochs: Sequence[list[list[int]]] = ()

    def default_hooks(self) -> list[Hook]:
        return [*super().default_hooks(), SegmentationMetrics()]

    def validation_step(self, batch: Any) -> dict[str, Any]:
        counts = torch.tensor(self.epochs[self.progress.epochs_completed])
        return {"loss": torch.tensor(0.5), "counts": counts}


def trained(folder: Path | None, epochs: Sequence[list[list[int]]], **options: Any) -> PretendedCounts:
    trainer = PretendedCounts(toy_settings(num_epochs=len(epochs)), run_folder=folder, device="cpu", **options)
    trainer.epochs = epochs
    trainer.report = lambda message: None
    return trainer


def same(found: Sequence[float], expected: Sequence[float]) -> bool:
    return len(found) == len(expected) and all(
        (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b) for a, b in zip(found, expected)
    )


class SavedBest(Hook):
    """Which epochs were taken for the best so far."""

    priority = 91

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self._seen = 0.0

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        trainer.checkpoint_writer.wait()
        assert trainer.run_folder is not None
        best = trainer.run_folder.best_checkpoint
        if best.exists() and best.stat().st_ino != self._seen:
            self._seen = best.stat().st_ino
            self.epochs.append(trainer.progress.epochs_completed - 1)


@pytest.mark.parametrize(
    ("epochs", "means", "averages", "best"),
    [
        # 0.9 * 0.5 + 0.1 * 1 = 0.55
        ([NOTHING, HALF, FULL], [NAN, 0.5, 1.0], [NAN, 0.5, 0.55], [1, 2]),
        ([HALF, NOTHING, FULL], [0.5, NAN, 1.0], [0.5, 0.5, 0.55], [0, 2]),
        # 0.9 * 0.5 + 0.1 * 0.75 = 0.525
        ([HALF, ONE_CLASS, NOTHING], [0.5, 0.75, NAN], [0.5, 0.525, 0.525], [0, 1]),
        ([ONE_CLASS, NOTHING, HALF], [0.75, NAN, 0.5], [0.75, 0.75, 0.725], [0]),
        ([NOTHING, NOTHING, NOTHING], [NAN, NAN, NAN], [NAN, NAN, NAN], []),
    ],
    ids=["first", "second", "one class", "worse after", "all"],
)
def test_epochs_without_a_dice_move_neither_the_average_nor_the_best(
    tmp_path: Path, epochs: list[Any], means: list[float], averages: list[float], best: list[int]
):
    saved = SavedBest()
    trainer = trained(tmp_path, epochs, hooks=[saved])
    trainer.run_training()
    assert same(trainer.history["mean_fg_dice"], means)
    assert same(trainer.history["ema_fg_dice"], averages)
    assert saved.epochs == best
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["ema_fg_dice"] is None for row in rows] == [math.isnan(value) for value in averages]
    # The same numbers in nnU-Net's form, which a run of nnU-Net goes on from.
    kept = nnunet_logging(trainer.history)
    assert same(kept["logging"]["ema_fg_dice"], averages)
    numbers = [value for value in averages if not math.isnan(value)]
    assert kept["_best_ema"] == (pytest.approx(max(numbers)) if numbers else None)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_is_resumed_after_nan_has_the_same_averages_and_best(tmp_path: Path, stop_after: int):
    class Stop(Hook):
        def on_epoch_end(self, trainer: BaseTrainer) -> None:
            if trainer.progress.epochs_completed == stop_after:
                trainer.request_checkpoint("latest")
                trainer.request_stop("test", immediately=True)

    epochs = [NOTHING, HALF, NOTHING, FULL]
    trained(tmp_path, epochs, hooks=[Stop()]).run_training()
    saved = SavedBest()
    resumed = trained(tmp_path, epochs, hooks=[saved])
    assert resumed.resume()
    resumed.run_training()
    assert same(resumed.history["ema_fg_dice"], [NAN, 0.5, 0.5, 0.55])
    assert saved.epochs[-1] == 3


def test_a_run_that_nnunet_left_with_an_average_of_nan_goes_on_from_its_last_number():
    # nnU-Net's own average stays NaN from the first epoch without a number on.
    logging: dict[str, list[Any]] = {
        "mean_fg_dice": [0.5, NAN],
        "ema_fg_dice": [0.5, NAN],
        "dice_per_class_or_region": [[0.5, 0.5], [NAN, NAN]],
        "train_losses": [0.1, 0.1],
        "val_losses": [0.1, NAN],
        "lrs": [0.1, 0.1],
        "epoch_start_timestamps": [0.0, 1.0],
        "epoch_end_timestamps": [1.0, 2.0],
    }
    trainer = trained(None, [NOTHING, NOTHING, FULL])
    trainer.history.load_state_dict({"rows": history_rows(logging), "running": None})
    trainer.progress.epochs_completed = 2
    trainer.run_training()
    assert same(trainer.history["ema_fg_dice"], [0.5, NAN, 0.55])


def test_logits_of_nan_count_as_background_and_show_in_the_loss():
    """argmax over NaN is the first class: Dice falls, and does not become NaN."""
    from framework.metrics import ConfusionCounts, confusion_counts, dice_from_counts

    logits, target = torch.full((2, 3, 4), NAN), torch.ones(2, 1, 4, dtype=torch.int16)
    counts = confusion_counts(logits, target)
    assert [part.tolist() for part in (counts.true_positive, counts.false_negative)] == [[0, 0], [8, 0]]
    assert same(dice_from_counts(ConfusionCounts(*counts.stacked())).tolist(), [0.0, NAN])


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_validation_loss_that_is_not_finite_is_never_the_best(tmp_path: Path, value: float):
    losses = [value, 0.5, value, 0.4, 0.6]

    class PretendedLoss(ToyTrainer):
        def validation_step(self, batch: Any) -> dict[str, Tensor]:
            return {"loss": torch.tensor(losses[self.progress.epochs_completed])}

    saved, patient = SavedBest(), EarlyStopping(patience=99)
    trainer = PretendedLoss(toy_settings(num_epochs=5), run_folder=tmp_path, device="cpu", hooks=[saved, patient])
    messages: list[str] = []
    trainer.report = messages.append
    trainer.run_training()
    assert saved.epochs == [1, 3]
    assert (patient.best, patient.bad_epochs) == (pytest.approx(0.4), 1)
    assert any(f"val {value:.4f}" in message for message in messages)

    def no_constants(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    rows = [json.loads(line, parse_constant=no_constants) for line in (tmp_path / "history.jsonl").open()]
    assert [row["val_loss"] is None for row in rows] == [True, False, True, False, False]


@pytest.mark.parametrize("value", [NAN, math.inf, None])
def test_a_picture_of_nothing_but_such_numbers_can_be_drawn(tmp_path: Path, value: float | None):
    trainer = trained(None, [NOTHING])
    for epoch in range(3):
        trainer.history.start_epoch()
        trainer.history.add(train_loss=value, val_loss=value, lr=0.1, seconds=1.0, data_wait_seconds=0.0)
        trainer.history.add(mean_fg_dice=value, ema_fg_dice=value, dice_per_class_or_region=[value, NAN])
        trainer.history.complete_epoch(epoch)
    draw_progress(trainer.history, tmp_path / "progress.png", ["one", "two"])
    assert (tmp_path / "progress.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
