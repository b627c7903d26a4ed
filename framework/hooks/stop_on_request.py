"""A time limit, or a file named STOP, ends a run as a signal does: at the next step, with a checkpoint."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class StopOnRequest(Hook):
    """Leave the run, to be resumed with ``--c``, when its time is over or somebody puts a file STOP into its folder.

    A thread looks every few seconds, so a training step pays nothing, and it works in the final validation too.
    The file is removed when it has been obeyed, so that the resumed run does not stop at once.

    Args:
        seconds: time limit from the start of the process; None for none. The run stops a little earlier, so that
            the step under way and the checkpoint are done in time: by `margin_seconds`, and more if checkpoints
            have taken longer.
    """

    priority = 2
    margin_seconds = 30.0
    seconds_between_looks = 2.0

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._started = time.monotonic() - _seconds_since_process_start()
        self._leave = threading.Event()
        self._watcher: threading.Thread | None = None

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._leave.clear()
        self._watcher = threading.Thread(target=self._watch, args=(trainer,), name="stop on request", daemon=True)
        self._watcher.start()

    def on_teardown(self, trainer: BaseTrainer) -> None:
        self._leave.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def _watch(self, trainer: BaseTrainer) -> None:
        while not trainer.interrupted:
            reason = self._reason(trainer)
            if reason is not None:
                if not trainer.progress.finished:
                    trainer.request_checkpoint("latest")
                trainer.request_stop(reason, immediately=True)
            elif self._leave.wait(self.seconds_between_looks):
                return

    def _reason(self, trainer: BaseTrainer) -> str | None:
        if self.seconds is not None:
            margin = max(self.margin_seconds, 3 * trainer.checkpoint_writer.longest_seconds)
            # Of a limit of seconds, as in a trial, some is used for training.
            margin = min(margin, self.seconds / 2)
            if time.monotonic() - self._started > self.seconds - margin:
                return f"the time limit of {self.seconds:g} s is nearly reached"
        if trainer.run_folder is not None and trainer.run_folder.stop_file.exists():
            with suppress(OSError):  # a folder that has become read-only; the run is to stop all the same
                trainer.run_folder.stop_file.unlink()
            return f"found {trainer.run_folder.stop_file}"
        return None


def _seconds_since_process_start() -> float:
    """Importing torch and preparing data count as well, where the system tells when the process began."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0
