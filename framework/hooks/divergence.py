"""End a training whose loss has left the range it was in, with the best checkpoint untouched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from framework.errors import DivergenceError
from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer

_MEMORY_EPOCHS = 10
_STATE = ("num_good", "bad_epochs", "mean", "deviation", "best")


class DivergenceDetector(Hook):
    """Raise DivergenceError when a column of the history was far too high for `patience` epochs in a row.

    Too high is a value that is NaN or infinite, or above the best running mean by more than `deviations` times the
    running mean deviation. Both are means over about the last ten good epochs, so the rule needs no knowledge of the
    loss: neither its scale, nor its sign, nor how noisy it is. For noise of a normal distribution the mean deviation
    is 0.8 standard deviations. A training that merely stops to improve is the business of `EarlyStopping`.

    A loss that is meant to rise (a weight that is ramped up, a warm restart of the learning rate) can look the same;
    raise `deviations` then, or name another column.

    Args:
        patience: so many bad epochs in a row end the training.
        deviations: how far above its best a value is taken for divergence.
        monitor: column of the history, the lower the better; ``gradient_norm`` is another candidate.
        warm_up_epochs: so many values are only learned from, since the loss falls steeply at first.

    Raises:
        DivergenceError: the training is not completed: no ``checkpoint_final.pth`` is written, and `latest` and
            `best` stay as they are.

    Reference:
        A control chart of an exponentially weighted mean (Roberts 1959, Technometrics 1), with the mean deviation as
        Jacobson estimates it for round-trip times (1988, SIGCOMM).
    """

    priority = 75  # when the epoch has been reported, before it is saved

    def __init__(
        self, patience: int = 5, deviations: float = 10.0, monitor: str = "train_loss", warm_up_epochs: int = 5
    ) -> None:
        self.patience = patience
        self.deviations = deviations
        self.monitor = monitor
        self.warm_up_epochs = warm_up_epochs
        self.num_good = 0
        self.bad_epochs = 0
        self.mean = self.deviation = 0.0
        self.best = math.inf

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        value = trainer.history.latest(self.monitor)
        if value is None:
            return  # an epoch without validation, if the column is one of validation
        if self._is_good(value):
            self._learn(value)
            self.bad_epochs = 0
            return
        self.bad_epochs += 1
        if self.bad_epochs >= self.patience:
            best = trainer.run_folder.best_checkpoint if trainer.run_folder is not None else "checkpoint_best.pth"
            raise DivergenceError(
                f"{self.monitor} has diverged: it is {value:.4g} after epoch {trainer.progress.epochs_completed}, and "
                f"in the last {self.bad_epochs} epochs it was above {self.limit:.4g} or not a number (best running "
                f"mean {self.best:.4g}, usual deviation {self.deviation:.2g}). Start again with a lower "
                "training.initial_lr or training.gradient_clip_norm, for example from the best weights: "
                f"-pretrained_weights {best}. If it is meant to rise, give DivergenceDetector more deviations."
            )

    @property
    def limit(self) -> float:
        """What a value may be; anything finite while the detector warms up."""
        if self.num_good < self.warm_up_epochs:
            return math.inf
        return self.best + self.deviations * self.deviation

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: state[name] for name in _STATE})

    def _is_good(self, value: float) -> bool:
        return math.isfinite(value) and value <= self.limit

    def _learn(self, value: float) -> None:
        # Plain means at first, which then forget: neither depends on where the training began.
        if self.num_good:
            share = 1 / min(self.num_good, _MEMORY_EPOCHS)
            self.deviation += share * (abs(value - self.mean) - self.deviation)
        self.num_good += 1
        self.mean += (value - self.mean) / min(self.num_good, _MEMORY_EPOCHS)
        self.best = min(self.best, self.mean)
