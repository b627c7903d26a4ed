"""Signals that ask for an end: noted at once, obeyed at the next good moment."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_SECOND_SIGNAL_AFTER_SECONDS = 2.0


class StopSignal:
    """While the block runs, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 are only noted: called, it says whether one came.

    Another one, some seconds later, ends the block at once with KeyboardInterrupt.
    """

    def __init__(self, on_signal: Callable[[signal.Signals], None] | None = None) -> None:
        """
        Args:
            on_signal: called when the first one comes, between any two steps of the main thread.
        """
        self._on_signal = on_signal
        self.received: int | None = None
        self._noted_at = 0.0
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.received is not None

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
            if self._on_signal is not None:
                self._on_signal(signal.Signals(number))
        elif time.monotonic() - self._noted_at > _SECOND_SIGNAL_AFTER_SECONDS:
            # Launchers often signal twice at once, the process and its group; a person waits in between.
            raise KeyboardInterrupt
