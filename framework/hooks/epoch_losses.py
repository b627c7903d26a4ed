"""Means of all losses over an epoch, read from the device once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class EpochLosses(Hook):
    """Add ``train_loss``, ``val_loss`` and their parts to the history, and how the epoch's time was spent.

    ``gradient_norm`` is the mean norm before clipping; ``skipped_updates`` counts those left out so far.
    """

    priority = 10

    def __init__(self) -> None:
        self._started = time.time()

    def on_epoch_start(self, trainer: BaseTrainer) -> None:
        self._started = time.time()
        trainer.history.add(epoch_start_timestamp=self._started)

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        trainer.history.add(**epoch_means(outputs, "train"))
        trainer.history.add(gradient_norm=_mean_of_finite(outputs, "gradient_norm"))
        if trainer.update.skipped_updates:
            trainer.history.add(skipped_updates=trainer.update.skipped_updates)
        trainer.history.add(
            train_seconds=round(time.time() - self._started, 3), data_wait_seconds=round(trainer.data_wait_seconds, 3)
        )

    def on_validation_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        trainer.history.add(**epoch_means(outputs, "val"))

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        now = time.time()
        trainer.history.add(epoch_end_timestamp=now, seconds=round(now - self._started, 3))


def epoch_means(outputs: list[dict[str, Any]], prefix: str) -> dict[str, float]:
    """Weighted means of all scalar outputs: ``{"train_loss": ..., "train_loss/dice": ...}``.

    A step counts as often as it had elements (``num_elements``), so that small batches do not weigh too much.
    Training steps that were skipped because of NaN or Inf do not count, unless all were. Validation steps do.
    """
    names = dict.fromkeys(
        name
        for output in outputs
        for name, value in output.items()
        if isinstance(value, torch.Tensor) and value.ndim == 0 and value.is_floating_point() and name != "gradient_norm"
    )
    means = {}
    for name in names:
        values = torch.stack([output[name] for output in outputs if name in output]).double().cpu()
        counts = torch.tensor([float(output.get("num_elements", 1)) for output in outputs if name in output])
        finite = torch.isfinite(values)
        if prefix == "train" and finite.any():
            values, counts = values[finite], counts[finite]
        mean = float((values * counts).sum() / counts.sum())
        means[f"{prefix}_loss" if name == "loss" else f"{prefix}_loss/{name}"] = mean
    return means


def _mean_of_finite(outputs: list[dict[str, Any]], name: str) -> float | None:
    """Mean over the steps, without those whose update was skipped for a value that is not finite."""
    found = [output[name] for output in outputs if name in output]
    if not found:
        return None
    values = torch.stack(found).double()
    values = values[torch.isfinite(values)]
    return float(values.mean()) if len(values) else None
