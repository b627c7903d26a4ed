"""A signal ends a run at the next step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class Preemption(Hook):
    """SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (a scheduler's warning of the time limit) stop a run, to be resumed.

    The handler only takes a note; the loop acts on it between two steps. Another signal, some seconds later, ends
    the process at once.
    """

    priority = 1

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._noted_at = 0.0

    def on_train_start(self, trainer: BaseTrainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers in the main thread only

        def note(number: int, frame: FrameType | None) -> None:
            if trainer.interrupted:
                # Launchers often signal twice at once, the process and its group; a person waits in between.
                if time.monotonic() - self._noted_at > _SECOND_SIGNAL_AFTER_SECONDS:
                    raise KeyboardInterrupt
                return
            self._noted_at = time.monotonic()
            if not trainer.progress.finished:
                trainer.request_checkpoint("latest")
            trainer.request_stop(f"received {signal.Signals(number).name}", immediately=True)

        for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
            number = getattr(signal, name, None)
            if number is not None:
                self._previous[number] = signal.signal(number, note)

    def on_teardown(self, trainer: BaseTrainer) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


_SECOND_SIGNAL_AFTER_SECONDS = 2.0
