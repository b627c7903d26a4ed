"""One line per epoch, and on a terminal a progress bar within it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class Console(Hook):
    """Tell how the training goes: losses, metrics, learning rate, seconds, and when it will be over."""

    priority = 70
    seconds_between_redraws = 0.2

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._epochs_at_start = 0.0
        self._drawn_at = 0.0

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._started = time.monotonic()
        self._epochs_at_start = trainer.global_step / trainer.steps_per_epoch
        parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
        trainer.report(
            f"training on {trainer.device} ({trainer.execution}): {type(trainer.network).__name__} with "
            f"{parameters / 1e6:.2f} million parameters, {trainer.settings.num_epochs} epochs of "
            f"{trainer.settings.iterations_per_epoch} iterations"
        )
        if trainer.device.type == "cpu" and trainer.execution.precision == "bf16":
            trainer.report(
                "warning: training.precision is bf16 on a CPU. PyTorch's gradients can be wrong there, or crash the "
                "process, where an image is smaller than a convolution's kernel. Use fp32, unless you check them."
            )

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._drawn_at < self.seconds_between_redraws:
            return
        self._drawn_at = now
        done, total = trainer.progress.steps_completed + 1, trainer.steps_per_epoch
        filled = 24 * done // total
        sys.stderr.write(
            f"\repoch {trainer.progress.epochs_completed + 1}/{trainer.settings.num_epochs} "
            f"[{'#' * filled}{'.' * (24 - filled)}] {done}/{total}  {self._remaining(trainer)} left\033[K"
        )
        sys.stderr.flush()

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        self._erase_bar()
        trainer.report(self._line(trainer))

    def on_exception(self, trainer: BaseTrainer, error: BaseException) -> None:
        self._erase_bar()

    def on_train_end(self, trainer: BaseTrainer) -> None:
        if trainer.stop_reason:
            trainer.report(f"training ended early: {trainer.stop_reason}")

    def on_teardown(self, trainer: BaseTrainer) -> None:
        self._erase_bar()
        if trainer.interrupted:
            trainer.report(f"stopped: {trainer.stop_reason}. Continue with --c.")

    def _line(self, trainer: BaseTrainer) -> str:
        row = trainer.history.rows[-1]
        width = len(str(trainer.settings.num_epochs))
        parts = [f"epoch {trainer.progress.epochs_completed:>{width}}/{trainer.settings.num_epochs}"]
        for label, column, form in (
            ("train", "train_loss", ".4f"),
            ("val", "val_loss", ".4f"),
            ("Dice", "mean_fg_dice", ".4f"),
            ("EMA", "ema_fg_dice", ".4f"),
            ("lr", "lr", ".2e"),
        ):
            if row.get(column) is not None:
                parts.append(f"{label} {row[column]:{form}}")
        if row.get("skipped_updates"):
            parts.append(f"{row['skipped_updates']} updates skipped (NaN or Inf)")
        parts.append(f"{row.get('seconds') or 0.0:.1f} s")
        if trainer.progress.epochs_completed < trainer.settings.num_epochs and not trainer.stop_reason:
            parts.append(f"{self._remaining(trainer)} left")
        return "  ".join(parts)

    def _remaining(self, trainer: BaseTrainer) -> str:
        done = trainer.global_step / trainer.steps_per_epoch - self._epochs_at_start
        left = trainer.settings.num_epochs - self._epochs_at_start - done
        return duration_text((time.monotonic() - self._started) / max(done, 1e-9) * left)

    def _erase_bar(self) -> None:
        if self._drawn_at and sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def duration_text(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h`` or ``2.1 days``."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    if seconds < 99 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
