"""Everything a run reports, also in a text file with the time of day."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class TextLog(Hook):
    """Write what the trainer reports to ``training_log_<time>.txt``, a new file at every start.

    The file is opened for every line: there are few, and a disk that was full or a server that was away is taken
    up again with the next one. Lines that cannot be written are told once and end nothing: no run needs them to
    be continued.
    """

    priority = 0

    def __init__(self) -> None:
        self._path: Path | None = None
        self._report: Callable[[str], None] | None = None
        self._has_failed = False

    def on_train_start(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        self._report = trainer.report
        self._path = trainer.run_folder.new_log()
        trainer.report = self._write

    def on_exception(self, trainer: BaseTrainer, error: BaseException) -> None:
        self._append(f"{type(error).__name__}: {error}")

    def on_teardown(self, trainer: BaseTrainer) -> None:
        if self._report is not None:
            trainer.report = self._report
            self._path = None

    def _write(self, message: str) -> None:
        assert self._report is not None
        self._append(message)
        self._report(message)

    def _append(self, message: str) -> None:
        if self._path is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("".join(f"{_now()} {line}\n" for line in message.splitlines()))
            self._has_failed = False
        except OSError as error:
            if not self._has_failed and self._report is not None:
                self._has_failed = True
                self._report(
                    f"warning: {self._path} could not be written: {error.strerror or error}. The training goes on "
                    "without these lines of its log."
                )


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
