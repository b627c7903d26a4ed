"""Signals that ask for an end: noted at once, obeyed at the next good moment."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SECOND_SIGNAL_AFTER_SECONDS = 2.0


@contextmanager
def end_signals_call(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While the block runs, SIGTERM, SIGINT and SIGUSR1 call `handler`; outside the main thread nothing changes."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers nowhere else
        for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
            number = getattr(signal, name, None)
            if number is not None:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


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
        self._block = end_signals_call(self._note)

    def __call__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> StopSignal:
        self._block.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._noted_at = number, time.monotonic()
            if self._on_signal is not None:
                self._on_signal(signal.Signals(number))
        elif time.monotonic() - self._noted_at > _SECOND_SIGNAL_AFTER_SECONDS:
            # Launchers often signal twice at once, the process and its group; a person waits in between.
            raise KeyboardInterrupt
