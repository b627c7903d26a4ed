"""Which checkpoints are written, and when."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class SaveCheckpoints(Hook):
    """Write ``latest`` every so many epochs or minutes, ``best`` when the monitored value improves, ``final`` last.

    The first save comes after the first epoch, so that a run can be resumed early. When ``final`` is
    there, ``latest`` has nothing to add and is removed, as nnU-Net does.
    """

    priority = 90

    def __init__(self) -> None:
        self._saved_at = -math.inf

    def on_train_start(self, trainer: BaseTrainer) -> None:
        if trainer.progress.epochs_completed or trainer.progress.steps_completed:
            self._saved_at = time.monotonic()

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        tags = set(trainer.requested_checkpoints)
        if trainer.progress.phase == "between epochs":
            if self._is_due(trainer):
                tags.add("latest")
            if self._is_best(trainer):
                tags.add("best")
        for tag in sorted(tags):
            trainer.save_checkpoint(tag)
        if "latest" in tags:
            self._saved_at = time.monotonic()

    def on_train_end(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        trainer.save_checkpoint("final")
        trainer.run_folder.latest_checkpoint.unlink(missing_ok=True)

    def _is_due(self, trainer: BaseTrainer) -> bool:
        settings = trainer.settings
        minutes = settings.checkpoint_every_minutes
        waited = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return waited or trainer.progress.epochs_completed % settings.checkpoint_every_epochs == 0

    def _is_best(self, trainer: BaseTrainer) -> bool:
        if trainer.monitor not in trainer.history:
            return False
        sign = 1.0 if trainer.monitor_mode == "max" else -1.0
        values = [math.nan if value is None else sign * value for value in trainer.history[trainer.monitor]]
        earlier = [value for value in values[:-1] if math.isfinite(value)]
        return math.isfinite(values[-1]) and all(values[-1] > value for value in earlier)
