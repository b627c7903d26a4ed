"""How far a command is: a bar that redraws itself on a terminal, and a line now and then in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

_SECONDS_BETWEEN_DRAWINGS = 0.1
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_WITHOUT_LINE = 60.0
_SHARE_BETWEEN_LINES = 0.1
_SECONDS_BEFORE_ESTIMATE = 2.0  # the first cases also wait for the workers to start
_BAR_WIDTH = 24


class ProgressBar:
    """Called after every case with (what is done, cases done, cases in all).

    On a terminal one line is drawn over and over. Elsewhere lines are written at least 10 seconds apart, when
    another tenth is done or a minute has passed. Both go to stderr, so that stdout has the results only.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic, shown: bool = True
    ) -> None:
        """
        Args:
            clock: seconds; another one in tests.
            shown: False for a bar that stays silent.
        """
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._shown = shown
        self._on_terminal = self._stream.isatty()
        self._stage = ""
        self._started = self._last_written = clock()
        self._last_done = 0
        self._drawn = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if what != self._stage or done < self._last_done:
            self.close()
            self._stage, self._started, self._last_written, self._last_done = what, now, now, 0
        if not self._shown or not total:
            return
        since = now - self._last_written
        if self._on_terminal:
            if not self._drawn or since >= _SECONDS_BETWEEN_DRAWINGS or done == total:
                self._last_written, self._last_done = now, done
                self._draw(self._text(done, total, now))
            if done == total:
                self.close()
        elif since >= _SECONDS_BETWEEN_LINES and (
            done - self._last_done >= _SHARE_BETWEEN_LINES * total or since >= _SECONDS_WITHOUT_LINE
        ):
            self._last_written, self._last_done = now, done
            self._stream.write(f"{what}: {self._counts(done, total, now)}\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line to stdout without tearing the bar apart.

        A full disk under the file that takes our output ends nothing: the line stays in the buffer.
        """
        drawn = self._drawn
        self._draw("")
        try:
            print(text, flush=True)
        except BrokenPipeError:
            raise  # whoever read it has gone
        except OSError:
            pass
        self._draw(drawn)

    def close(self) -> None:
        """Take the bar away; a later call draws it again."""
        self._draw("")

    def _text(self, done: int, total: int, now: float) -> str:
        filled = _BAR_WIDTH * done // total
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        text = f"{self._stage} [{bar}] {self._counts(done, total, now)}"
        return text[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be drawn over

    def _counts(self, done: int, total: int, now: float) -> str:
        elapsed = now - self._started
        foreseeable = 0 < done < total and elapsed >= _SECONDS_BEFORE_ESTIMATE
        rest = f", about {_duration(elapsed / done * (total - done))} left" if foreseeable else ""
        return f"{done}/{total}, {_duration(elapsed)}{rest}"

    def _draw(self, text: str) -> None:
        if text or self._drawn:
            blank = " " * max(0, len(self._drawn) - len(text))
            # Back to the start at last, where other output may overwrite the bar.
            self._stream.write(f"\r{text}{blank}\r")
            self._stream.flush()
        self._drawn = text


def _duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``1:02:03``"""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
