"""Stop when the monitored value has not improved for a while."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from framework.errors import PlansError
from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class EarlyStopping(Hook):
    """End the training after `patience` epochs in which a column of the history did not improve by `min_delta`.

    Args:
        patience: so many epochs without improvement are endured.
        min_delta: smaller improvements do not count.
        monitor: column of the history; the trainer's own monitor by default.
        mode: ``min`` or ``max``; goes with `monitor`.

    A value that is NaN counts as no improvement.
    """

    priority = 60

    def __init__(
        self, patience: int = 100, min_delta: float = 0.0, monitor: str | None = None, mode: str | None = None
    ) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.bad_epochs = 0

    @classmethod
    def from_settings(cls, block: dict[str, Any]) -> EarlyStopping:
        try:
            return cls(**block)
        except TypeError:
            raise PlansError(
                f"training.early_stopping: found {block!r}, expected {{patience, min_delta, monitor, mode}}."
            ) from None

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        monitor = self.monitor or trainer.monitor
        mode = self.mode or trainer.monitor_mode
        value = trainer.history.latest(monitor)
        if value is None:
            return  # an epoch without validation says nothing
        sign = 1.0 if mode == "max" else -1.0
        if math.isfinite(value) and (self.best is None or sign * (value - self.best) > self.min_delta):
            self.best, self.bad_epochs = value, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs >= self.patience:
            trainer.request_stop(f"{monitor} has not improved for {self.bad_epochs} epochs")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.bad_epochs = state["best"], state["bad_epochs"]
