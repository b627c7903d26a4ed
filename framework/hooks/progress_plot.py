"""``progress.png``: what a person wants to see of a training at one glance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from framework.errors import WriteError
from framework.files import atomic_write
from framework.hook import Hook

if TYPE_CHECKING:
    from pathlib import Path

    from framework.base_trainer import BaseTrainer
    from framework.history import History


class ProgressPlot(Hook):
    """Draw losses, metrics, time and learning rate over the epochs.

    A drawing takes about half a second, so it is repeated only when fifty times as long has passed, and at the end.
    One that fails, for whatever reason, is told once and ends nothing: everything in it is in the history.
    """

    priority = 85

    def __init__(self) -> None:
        self._drawn_at = -1e9
        self._took = 0.0
        self._has_failed = False

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        if len(trainer.history) and (trainer.interrupted or time.monotonic() - self._drawn_at > 50 * self._took):
            self._draw(trainer)

    def on_train_end(self, trainer: BaseTrainer) -> None:
        if len(trainer.history):
            self._draw(trainer)

    def _draw(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        started = time.monotonic()
        try:
            draw_progress(trainer.history, trainer.run_folder.progress_picture, trainer.class_names)
            self._has_failed = False
        except Exception as error:
            reason = error.reason if isinstance(error, WriteError) else f"{type(error).__name__}: {error}"
            if not self._has_failed:
                path = trainer.run_folder.progress_picture
                trainer.report(f"warning: {path} could not be drawn: {reason}. The training goes on.")
            self._has_failed = True
        self._drawn_at = time.monotonic()
        self._took = self._drawn_at - started


def draw_progress(history: History, path: Path, class_names: Sequence[str] = ()) -> None:
    """Write the picture: losses with the mean Dice, Dice of each class, seconds per epoch, learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained", dpi=110)
    (losses, classes), (seconds, rate) = figure.subplots(2, 2)
    epochs = [row["epoch"] + 1 for row in history]
    marker = "o" if len(epochs) < 3 else None

    def line(axes: Any, column: str, label: str, **style: Any) -> None:
        if column in history:
            values = [float("nan") if value is None else value for value in history[column]]
            axes.plot(epochs, values, label=label, marker=marker, **style)

    line(losses, "train_loss", "training loss", color="tab:blue")
    line(losses, "val_loss", "validation loss", color="tab:red")
    losses.set(xlabel="epoch", ylabel="loss")
    lines = list(losses.lines)
    if "mean_fg_dice" in history:
        overlap = losses.twinx()
        line(overlap, "mean_fg_dice", "mean Dice", color="tab:green", linestyle=":")
        line(overlap, "ema_fg_dice", "mean Dice, moving average", color="tab:green")
        overlap.set(ylim=(0, 1), ylabel="Dice of validation patches")
        lines += overlap.lines
    # One legend for both axes, above them: curves run everywhere.
    labels = [entry.get_label() for entry in lines]
    losses.legend(lines, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)

    if "dice_per_class_or_region" in history:
        rows = history["dice_per_class_or_region"]
        count = max(len(row or []) for row in rows)
        for index in range(count):
            values = [row[index] if row and row[index] is not None else float("nan") for row in rows]
            label = class_names[index] if index < len(class_names) else str(index + 1)
            classes.plot(epochs, values, marker=marker, label=label if count <= 12 else None)
        classes.set(title="Dice of each class", xlabel="epoch", ylim=(0, 1))
        if 0 < count <= 12:
            classes.legend(loc="lower right")
    else:
        for column in history.columns:
            if column.startswith("train_loss/"):
                line(classes, column, column.removeprefix("train_loss/"))
        classes.set(title="Parts of the training loss", xlabel="epoch")
        if classes.lines:
            classes.legend()

    line(seconds, "seconds", "whole epoch", color="tab:gray")
    line(seconds, "data_wait_seconds", "waiting for data", color="tab:orange")
    seconds.set(title="Seconds per epoch", xlabel="epoch")
    seconds.set_ylim(bottom=0)
    seconds.legend()
    line(rate, "lr", "learning rate", color="tab:purple")
    rate.set(title="Learning rate", xlabel="epoch")
    for axes in (losses, classes, seconds, rate):
        axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
