"""Everything a run reports, also in a text file with the time of day."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class TextLog(Hook):
    """Write what the trainer reports to ``training_log_<time>.txt``, a new file at every start."""

    priority = 0

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._report: Callable[[str], None] | None = None

    def on_train_start(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        self._report = trainer.report
        self._file = open_log(trainer.run_folder.new_log())
        trainer.report = self._write

    def on_exception(self, trainer: BaseTrainer, error: BaseException) -> None:
        if self._file is not None:
            self._file.write(f"{_now()} {type(error).__name__}: {error}\n")

    def on_teardown(self, trainer: BaseTrainer) -> None:
        if self._file is not None and self._report is not None:
            trainer.report = self._report
            self._file.close()
            self._file = None

    def _write(self, message: str) -> None:
        assert self._report is not None
        self._report(message)
        if self._file is not None:
            self._file.write("".join(f"{_now()} {line}\n" for line in message.splitlines()))


def open_log(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", buffering=1, encoding="utf-8")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
