"""A sign of life: how often, and where, the work of this process has moved on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Pulse:
    """Beats whenever a piece of work is done: a step, a tile, a case. Others can see whether it still does.

    Attributes:
        beats: so far.
        doing: what was begun with the last one, in words.
        is_waiting: for other processes; then a pulse that stands still is not this process's fault.
    """

    def __init__(self) -> None:
        self.beats = 0
        self.doing = "starting"
        self.is_waiting = False

    def beat(self, doing: str | None = None) -> None:
        """Work has moved on."""
        self.beats += 1
        if doing is not None:
            self.doing = doing

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for other processes."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False
            self.beats += 1


PULSE = Pulse()
"""That of this process."""
