"""A signal ends a run at the next step, with a checkpoint."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from framework.hook import Hook
from framework.stop_signal import StopSignal

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class Preemption(Hook):
    """SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (a scheduler's warning of the time limit) stop a run, to be resumed.

    The handler only takes a note; the loop acts on it between two steps. Another signal, some seconds later, ends
    the process at once.
    """

    priority = 1

    def __init__(self) -> None:
        self._signals: StopSignal | None = None

    def on_train_start(self, trainer: BaseTrainer) -> None:
        def stop(received: signal.Signals) -> None:
            if not trainer.progress.finished:
                trainer.request_checkpoint("latest")
            trainer.request_stop(f"received {received.name}", immediately=True)

        self._signals = StopSignal(stop).__enter__()

    def on_teardown(self, trainer: BaseTrainer) -> None:
        if self._signals is not None:
            self._signals.__exit__()
            self._signals = None
