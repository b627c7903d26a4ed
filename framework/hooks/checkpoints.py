"""Which checkpoints are written, and when."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class SaveCheckpoints(Hook):
    """Write ``latest`` every so many epochs or minutes, ``best`` when the monitored value improves, ``final`` last.

    The first save comes after the first epoch, so that a run can be resumed early. Epochs of more than
    ``training.checkpoint_every_minutes`` are saved inside as well. ``latest`` is never older than
    ``best``: a new best is the latest too. The ones before it stay as ``earlier_1``, ``earlier_2``, ... if
    ``training.checkpoint_keep_last`` is more than 1, and those of ``training.checkpoint_milestones`` for good, as
    ``epoch_0100``. When ``final`` is there, ``latest`` has nothing to add and is removed, as nnU-Net does.

    A checkpoint that cannot be written ends the run: what is trained without one may be lost. The error is raised
    at the next step, after the writer has tried several times; see ``docs/decisions/0013-*.md``.
    """

    priority = 90

    def __init__(self) -> None:
        self._saved_at = 0.0

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._saved_at = time.monotonic()

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        trainer.checkpoint_writer.raise_error()
        if self._minutes_have_passed(trainer):
            trainer.request_checkpoint("latest")

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        trainer.checkpoint_writer.raise_error()
        tags = set(trainer.requested_checkpoints)
        if trainer.progress.phase == "between epochs":
            if self._is_due(trainer):
                tags.add("latest")
            if self._is_best(trainer):
                tags.add("best")
            if trainer.progress.epochs_completed in trainer.settings.checkpoint_milestones:
                tags.add(f"epoch_{trainer.progress.epochs_completed:04d}")
        if tags:
            self._save(trainer, tags)
        if "latest" in tags:
            self._saved_at = time.monotonic()

    def on_train_end(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        trainer.save_checkpoint("final")
        trainer.checkpoint_writer.wait()
        for tag in ("latest", *self._earlier(trainer)):
            with suppress(OSError):  # they hold nothing that is needed, and do no harm
                trainer.run_folder.checkpoint(tag).unlink()

    def _save(self, trainer: BaseTrainer, tags: set[str]) -> None:
        """One file with as many names as there are tags: all of them hold the same moment."""
        assert trainer.run_folder is not None
        path, writer = trainer.run_folder.checkpoint, trainer.checkpoint_writer
        if tags & {"latest", "best"}:
            writer.wait()
            kept = ["latest", *self._earlier(trainer)]
            for newer, older in reversed(list(itertools.pairwise(kept))):
                if path(newer).is_file():
                    writer.copy(path(newer), path(older))
        first, *others = sorted(tags, key=lambda tag: (tag != "latest", tag))
        trainer.save_checkpoint(first)
        if "best" in tags and "latest" not in tags:
            others.append("latest")
        for tag in others:
            writer.copy(path(first), path(tag))

    def _earlier(self, trainer: BaseTrainer) -> list[str]:
        return [f"earlier_{number}" for number in range(1, trainer.settings.checkpoint_keep_last)]

    def _is_due(self, trainer: BaseTrainer) -> bool:
        settings, completed = trainer.settings, trainer.progress.epochs_completed
        early = completed == 1 and settings.checkpoint_every_minutes is not None
        return early or self._minutes_have_passed(trainer) or completed % settings.checkpoint_every_epochs == 0

    def _minutes_have_passed(self, trainer: BaseTrainer) -> bool:
        minutes = trainer.settings.checkpoint_every_minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _is_best(self, trainer: BaseTrainer) -> bool:
        if trainer.monitor not in trainer.history:
            return False
        sign = 1.0 if trainer.monitor_mode == "max" else -1.0
        values = [math.nan if value is None else sign * value for value in trainer.history[trainer.monitor]]
        earlier = [value for value in values[:-1] if math.isfinite(value)]
        return math.isfinite(values[-1]) and all(values[-1] > value for value in earlier)
