"""Tell before the first epoch is over how long the whole training will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from framework.hook import Hook
from framework.hooks.console import duration_text

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer

# A validation step has no backward pass, which takes two thirds of a training step.
_VALIDATION_SHARE = 1 / 3
_DAYS = 2 * 86400.0


class TimeEstimate(Hook):
    """Time a few steps after the first ones (which load, compile and tune) and report the sum for all epochs."""

    priority = 60

    def __init__(self, warm_up_steps: int = 3, timed_steps: int = 5) -> None:
        self.warm_up_steps = warm_up_steps
        self.timed_steps = timed_steps
        self._steps = 0
        self._since = 0.0

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        if self._steps > self.warm_up_steps + self.timed_steps:
            return
        self._steps += 1
        if self._steps in (self.warm_up_steps, self.warm_up_steps + self.timed_steps):
            float(outputs["loss"])  # waits until a GPU has really come this far
            if self._steps == self.warm_up_steps:
                self._since = time.monotonic()
            else:
                self._tell(trainer, (time.monotonic() - self._since) / self.timed_steps)

    def _tell(self, trainer: BaseTrainer, step_seconds: float) -> None:
        settings = trainer.settings
        epochs_left = settings.num_epochs - trainer.progress.epochs_completed
        validation = settings.validation_iterations_per_epoch / settings.validate_every_epochs
        steps = trainer.steps_per_epoch + _VALIDATION_SHARE * validation
        seconds = step_seconds * steps * epochs_left
        trainer.report(f"estimated training time: {duration_text(seconds)} ({step_seconds:.2f} s an iteration)")
        if seconds > _DAYS and trainer.device.type == "cpu":
            trainer.report(
                "That is too long for this device. Train on a GPU (-device cuda), or use plans made for two CPU cores: "
                "-p laptop. Fewer epochs also help: --set training.num_epochs=50."
            )
