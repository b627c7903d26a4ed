"""Ending a command at the next good moment when a signal asks for it."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from framework.commands.common import REQUEUE

_SECOND_SIGNAL_AFTER_SECONDS = 2.0
_INTERRUPTED = 130  # what a shell gives for a program that Ctrl-C has ended


class StopSignal:
    """While the block runs, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 are only noted: called, it says whether one came.

    Another one, some seconds later, ends the block at once with KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._noted_at = 0.0
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """For a command that was stopped: 130 after Ctrl-C, else 75, so that a scheduler starts it again."""
        return _INTERRUPTED if self.received == signal.SIGINT else REQUEUE

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers nowhere else
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
                number = getattr(signal, name, None)
                if number is not None:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._noted_at = number, time.monotonic()
        elif time.monotonic() - self._noted_at > _SECOND_SIGNAL_AFTER_SECONDS:
            # Launchers often signal twice at once, the process and its group; a person waits in between.
            raise KeyboardInterrupt
