"""A skipped update changes nothing: neither the parameters nor the running statistics of batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class RunningStatistics(Hook):
    """Put back the network's buffers where an update was skipped because of NaN or Inf.

    The forward pass has changed them by then. A running mean that is NaN once stays NaN, and every validation and
    prediction with it, while the training itself, which does not use it, goes on as if nothing had happened.
    Networks without buffers, as nnU-Net's are, pay nothing.
    """

    priority = 4  # before `WeightAveraging`, which averages buffers too

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._buffers = list(trainer.network.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def on_step_start(self, trainer: BaseTrainer, batch: Any) -> None:
        # Of several batches in one update, what was there before the first.
        if self._buffers and trainer.global_step % trainer.settings.gradient_accumulation == 0:
            torch._foreach_copy_(self._kept, self._buffers)

    def on_update(self, trainer: BaseTrainer) -> None:
        if self._buffers:
            finite = torch.isfinite(trainer.update.gradient_norm)
            for buffer, kept in zip(self._buffers, self._kept):
                buffer.copy_(torch.where(finite, buffer, kept))  # without asking the host
